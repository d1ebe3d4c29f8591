//! What was seen in the measured time.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use penstock_benches::clock;
use penstock_benches::latency::{Latencies, Percentiles};

/// The result.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Report {
    /// Seconds in which it was seen.
    pub(crate) seconds: f64,
    /// Requests that ended well.
    pub(crate) requests: u64,
    /// Requests that did not, of all the time.
    pub(crate) errors: u64,
    /// What went wrong first.
    pub(crate) first_error: Option<String>,
    /// Events of streams.
    pub(crate) chunks: u64,
    /// From when a request was due to its end; of streams, to the first event.
    pub(crate) latency_us: Percentiles,
    /// From when the backend was due to send an event to its arrival.
    pub(crate) lag_us: Percentiles,
}

/// Counts; shared by all tasks of the one thread.
#[derive(Clone, Debug)]
pub(crate) struct Tally(Rc<RefCell<Counts>>);

#[derive(Debug)]
struct Counts {
    window: Window,
    requests: u64,
    errors: u64,
    first_error: Option<String>,
    chunks: u64,
    latency: Latencies,
    lag: Latencies,
}

/// From when to when things count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) begin_ns: u64,
    pub(crate) end_ns: u64,
}

impl Window {
    /// A window of this length that begins after `warm_up`.
    pub(crate) fn after(now_ns: u64, warm_up: Duration, measured: Duration) -> Self {
        let begin_ns = now_ns + clock::nanos(warm_up);
        Self { begin_ns, end_ns: begin_ns + clock::nanos(measured) }
    }

    fn holds(self, at_ns: u64) -> bool {
        (self.begin_ns..self.end_ns).contains(&at_ns)
    }
}

impl Tally {
    pub(crate) fn new(window: Window) -> anyhow::Result<Self> {
        Ok(Self(Rc::new(RefCell::new(Counts {
            window,
            requests: 0,
            errors: 0,
            first_error: None,
            chunks: 0,
            latency: Latencies::new()?,
            lag: Latencies::new()?,
        }))))
    }

    /// A request that ended well.
    pub(crate) fn request(&self, due_ns: u64, ended_ns: u64) {
        let mut counts = self.0.borrow_mut();
        if counts.window.holds(ended_ns) {
            counts.requests += 1;
            counts.latency.record(due_ns, ended_ns);
        }
    }

    /// The first event of a stream.
    pub(crate) fn first_event(&self, sent_ns: u64, arrived_ns: u64) {
        self.0.borrow_mut().latency.record(sent_ns, arrived_ns);
    }

    /// An event.
    pub(crate) fn event(&self, due_ns: u64, arrived_ns: u64) {
        let mut counts = self.0.borrow_mut();
        if counts.window.holds(arrived_ns) {
            counts.chunks += 1;
            counts.lag.record(due_ns, arrived_ns);
        }
    }

    /// A stream that ended well.
    pub(crate) fn stream(&self) {
        self.0.borrow_mut().requests += 1;
    }

    /// Something that went wrong.
    pub(crate) fn error(&self, error: &anyhow::Error) {
        let mut counts = self.0.borrow_mut();
        counts.errors += 1;
        counts.first_error.get_or_insert_with(|| format!("{error:#}"));
    }

    pub(crate) fn report(&self, seconds: f64) -> Report {
        let counts = self.0.borrow();
        Report {
            seconds,
            requests: counts.requests,
            errors: counts.errors,
            first_error: counts.first_error.clone(),
            chunks: counts.chunks,
            latency_us: counts.latency.percentiles(),
            lag_us: counts.lag.percentiles(),
        }
    }
}

/// One line of JSON.
#[expect(clippy::print_stdout, reason = "what this program is for")]
pub(crate) fn say(line: &Value) {
    println!("{line}");
}

/// The measured time begins.
pub(crate) fn begin() {
    say(&json!({"phase": "begin"}));
}

/// All streams are open.
pub(crate) fn open() {
    say(&json!({"phase": "open"}));
}

/// The measured time is over.
pub(crate) fn end() {
    say(&json!({"phase": "end"}));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_ends_in_the_measured_time_counts() {
        let window = Window::after(1_000, Duration::from_nanos(500), Duration::from_nanos(100));
        assert_eq!(window, Window { begin_ns: 1_500, end_ns: 1_600 });
        let tally = Tally::new(window).unwrap();
        for ended_ns in [1_499, 1_500, 1_599, 1_600] {
            tally.request(1_400, ended_ns);
            tally.event(1_400, ended_ns);
        }
        tally.error(&anyhow::anyhow!("first"));
        tally.error(&anyhow::anyhow!("second"));
        let report = tally.report(3.0);
        assert_eq!((report.requests, report.chunks, report.errors), (2, 2, 2));
        assert_eq!(report.first_error.as_deref(), Some("first"));
    }
}
