//! What the server has seen, counted once: the metrics page and the admin page both read it.

use std::collections::VecDeque;

use crate::scheduler::{Aborted, Moment, Step};

/// How an answer ends if its caller stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The text was over, or the tool call was.
    Stop,
    /// The output cap came first.
    Length,
    /// No text was asked for.
    Prefill,
}

/// A caller that left before the end.
#[derive(Clone, Debug)]
pub(crate) struct Left {
    pub(crate) request_id: String,
    pub(crate) noticed: Moment,
    pub(crate) aborted: Aborted,
}

/// Aborts that the admin page remembers.
const LEFT_MAX: usize = 64;

#[derive(Clone, Debug)]
pub(crate) struct Account {
    pub(crate) prompt_tokens: u64,
    pub(crate) prompt_tokens_cached: u64,
    pub(crate) generation_tokens: u64,
    pub(crate) ended_stop: u64,
    pub(crate) ended_length: u64,
    pub(crate) ended_abort: u64,
    pub(crate) rejected_unavailable: u64,
    /// Answers that a fault broke off.
    pub(crate) torn: u64,
    pub(crate) first_token: Histogram,
    pub(crate) gap: Histogram,
    pub(crate) per_token: Histogram,
    pub(crate) queue: Histogram,
    pub(crate) prefill: Histogram,
    pub(crate) decode: Histogram,
    pub(crate) end_to_end: Histogram,
    pub(crate) step_tokens: Histogram,
    /// From the moment a caller was seen to have left to the moment its place was free.
    pub(crate) slot_free: Histogram,
    pub(crate) recently_left: VecDeque<Left>,
    /// When a place became free last, by whatever end.
    pub(crate) last_slot_freed: Option<Moment>,
}

impl Default for Account {
    fn default() -> Self {
        Self {
            prompt_tokens: 0,
            prompt_tokens_cached: 0,
            generation_tokens: 0,
            ended_stop: 0,
            ended_length: 0,
            ended_abort: 0,
            rejected_unavailable: 0,
            torn: 0,
            first_token: Histogram::over(FIRST_TOKEN_S),
            gap: Histogram::over(TOKEN_S),
            per_token: Histogram::over(TOKEN_S),
            queue: Histogram::over(REQUEST_S),
            prefill: Histogram::over(REQUEST_S),
            decode: Histogram::over(REQUEST_S),
            end_to_end: Histogram::over(REQUEST_S),
            step_tokens: Histogram::over(STEP_TOKENS),
            slot_free: Histogram::over(FIRST_TOKEN_S),
            recently_left: VecDeque::new(),
            last_slot_freed: None,
        }
    }
}

impl Account {
    pub(crate) fn step(&mut self, step: &Step) {
        if !step.is_empty() {
            self.step_tokens.observe(f64::from(step.batch.tokens));
        }
        if step.finished().next().is_some() {
            self.last_slot_freed = self.last_slot_freed.max(Some(step.until));
        }
    }

    pub(crate) fn admitted(&mut self, prompt_tokens: u32, cached_tokens: u32) {
        self.prompt_tokens += u64::from(prompt_tokens);
        self.prompt_tokens_cached += u64::from(cached_tokens);
    }

    pub(crate) fn generated(&mut self, ending: Ending) {
        self.generation_tokens += u64::from(ending != Ending::Prefill);
    }

    pub(crate) fn first_token(&mut self, arrived: Moment, admitted: Moment, first: Moment) {
        self.first_token.observe_ns(first.since(arrived));
        self.queue.observe_ns(admitted.since(arrived));
        self.prefill.observe_ns(first.since(admitted));
    }

    pub(crate) fn gap(&mut self, nanos: u64) {
        self.gap.observe_ns(nanos);
    }

    /// `gaps`: output tokens after the first.
    pub(crate) fn finished(
        &mut self,
        ending: Ending,
        arrived: Moment,
        first: Moment,
        last: Moment,
        gaps: u32,
    ) {
        match ending {
            Ending::Stop | Ending::Prefill => self.ended_stop += 1,
            Ending::Length => self.ended_length += 1,
        }
        self.end_to_end.observe_ns(last.since(arrived));
        self.decode.observe_ns(last.since(first));
        if gaps > 0 {
            self.per_token.observe(last.since(first) as f64 / 1e9 / f64::from(gaps));
        }
    }

    pub(crate) fn left(&mut self, left: Left) {
        self.ended_abort += 1;
        self.slot_free.observe_ns(left.aborted.free_at.since(left.noticed));
        self.last_slot_freed = self.last_slot_freed.max(Some(left.aborted.free_at));
        if self.recently_left.len() == LEFT_MAX {
            self.recently_left.pop_front();
        }
        self.recently_left.push_back(left);
    }
}

/// Counts of values up to each bound.
#[derive(Clone, Debug)]
pub(crate) struct Histogram {
    bounds: &'static [f64],
    counts: Vec<u64>,
    sum: f64,
}

impl Histogram {
    fn over(bounds: &'static [f64]) -> Self {
        Self { bounds, counts: vec![0; bounds.len() + 1], sum: 0.0 }
    }

    fn observe_ns(&mut self, nanos: u64) {
        self.observe(nanos as f64 / 1e9);
    }

    fn observe(&mut self, value: f64) {
        let at = self.bounds.partition_point(|bound| *bound < value);
        self.counts[at] += 1;
        self.sum += value;
    }

    /// Bound and how many values are not above it, in rising order; the last bound is infinite.
    pub(crate) fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        bounds.zip(&self.counts).scan(0, |sum, (bound, count)| {
            *sum += count;
            Some((bound, *sum))
        })
    }

    pub(crate) fn sum(&self) -> f64 {
        self.sum
    }

    pub(crate) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// Bounds in seconds, finer at the low end than for whole requests.
const FIRST_TOKEN_S: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
    80.0, 160.0, 640.0, 2_560.0,
];
const TOKEN_S: &[f64] = &[
    0.001, 0.0025, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5,
    5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
];
const REQUEST_S: &[f64] = &[
    0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0,
    240.0, 480.0, 960.0, 1_920.0, 7_680.0,
];
const STEP_TOKENS: &[f64] =
    &[1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1_024.0, 2_048.0, 4_096.0, 8_192.0, 16_384.0];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_on_a_bound_counts_to_it() {
        let mut histogram = Histogram::over(&[1.0, 2.0]);
        for value in [0.5, 1.0, 1.5, 9.0] {
            histogram.observe(value);
        }
        let counts: Vec<_> = histogram.cumulative().collect();
        assert_eq!(counts, [(1.0, 2), (2.0, 3), (f64::INFINITY, 4)]);
        assert_eq!((histogram.count(), histogram.sum()), (4, 12.0));
    }
}
