//! Results as lines: JSON for programs, a table for people.

use serde::Serialize;

use crate::capacity::Found;
use crate::conditions::Conditions;
use crate::outcome::{Outcome, quantile};
use crate::policy::Policy;
use crate::trace::Trace;
use crate::world::Setting;

/// One policy on one trace.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// The policy.
    pub policy: String,
    /// The trace's name.
    pub trace: String,
    /// XXH3 of the trace's bytes.
    pub trace_xxh3: String,
    /// Seed of everything drawn.
    pub seed: u64,
    /// Servers.
    pub backends: usize,
    /// Sidecars of callers; 1 for a central policy.
    pub sidecars: usize,
    /// Age of the reports.
    pub age_ms: f64,
    /// What else was asked for.
    #[serde(flatten)]
    pub conditions: Conditions,
    /// Requests, or starts of sessions, a second at 95 % attainment, 0 where no load has that: of the policy, or of the oracle where
    /// `load` is a share of it. None unless it was searched for.
    pub capacity: Option<f64>,
    /// Requests, or starts of sessions, a second in this run.
    pub rate: f64,
    /// Share of the oracle's capacity at which it ran, if it was asked so.
    pub load: Option<f64>,
    /// What came of it.
    #[serde(flatten)]
    pub figures: Figures,
    /// Which of its references the oracle was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
}

/// What a run came to, in figures. Those of requests are of all that count.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// Share of the requests that kept the promise.
    pub attainment: f64,
    /// Time to the first token.
    pub ttft_ms: FirstToken,
    /// Mean time between tokens of a request.
    pub tpot_ms: PerToken,
    /// Refusals for each request.
    pub refusals_per_request: f64,
    /// Servers asked how they are before a request that was refused was sent again, for each request.
    pub questions_per_request: f64,
    /// Share of the requests that were answered 429 in the end.
    pub rejected: f64,
    /// Share of the requests that came too late with the first token, or with a later one.
    pub late: Late,
    /// Sequences that engines sent back for want of memory, for each request.
    pub preemptions_per_request: f64,
    /// Share of the prompt tokens that caches spared.
    pub prefix_hit: f64,
}

/// Quantiles in milliseconds.
#[derive(Clone, Debug, Serialize)]
pub struct FirstToken {
    /// Median.
    pub p50: f64,
    /// 90 of 100 are below.
    pub p90: f64,
    /// 99 of 100 are below.
    pub p99: f64,
}

/// Shares of the requests.
#[derive(Clone, Debug, Serialize)]
pub struct Late {
    /// The first token came too late.
    pub first_token: f64,
    /// The first one did not, but a later one.
    pub later_token: f64,
}

/// Quantiles in milliseconds.
#[derive(Clone, Debug, Serialize)]
pub struct PerToken {
    /// Median.
    pub p50: f64,
    /// 99 of 100 are below.
    pub p99: f64,
}

/// Which question a run answered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Question {
    /// The highest load.
    Capacity,
    /// A share of the oracle's capacity.
    Load {
        /// The share.
        share: f64,
        /// That capacity, in requests or starts of sessions a second.
        of: f64,
    },
    /// A compression of the trace's time.
    Scale,
}

/// The line of a result.
pub fn line(trace: &Trace, setting: &Setting, policy: Policy, question: Question, found: &Found) -> Line {
    let outcome = &found.outcome;
    let (capacity, load) = match question {
        Question::Capacity => (Some(found.capacity()), None),
        Question::Load { share, of } => (Some(of), Some(share)),
        Question::Scale => (None, None),
    };
    Line {
        policy: policy.to_string(),
        trace: trace.name.clone(),
        trace_xxh3: trace.checksum.clone(),
        seed: setting.seed,
        backends: setting.backends,
        sidecars: if policy.central_age_ns().is_some() { 1 } else { setting.sidecars },
        age_ms: policy.central_age_ns().unwrap_or(setting.age_ns) as f64 / 1e6,
        conditions: Conditions::of(setting),
        capacity: capacity.map(rounded),
        rate: rounded(outcome.rate),
        load,
        figures: Figures::of(outcome),
        reference: found.reference.map(|reference| reference.to_string()),
    }
}

impl Figures {
    /// The figures of a run.
    pub fn of(outcome: &Outcome) -> Self {
        let first = |share| rounded(quantile(&outcome.to_first_ms, share));
        let next = |share| rounded(quantile(&outcome.per_token_ms, share));
        let share = |count: u64| count as f64 / outcome.counted.max(1) as f64;
        Self {
            attainment: rounded(outcome.attainment()),
            ttft_ms: FirstToken { p50: first(0.5), p90: first(0.9), p99: first(0.99) },
            tpot_ms: PerToken { p50: next(0.5), p99: next(0.99) },
            refusals_per_request: rounded(outcome.refusals_per_request()),
            questions_per_request: rounded(outcome.questions_per_request()),
            rejected: rounded(share(outcome.rejected)),
            late: Late {
                first_token: rounded(share(outcome.late_first)),
                later_token: rounded(share(outcome.late_later())),
            },
            preemptions_per_request: rounded(share(outcome.preemptions)),
            prefix_hit: rounded(outcome.prefix_hit()),
        }
    }
}

impl Line {
    /// The names of the columns of [`row`](Self::row).
    pub const HEAD: &str = "policy              trace                                  rate/s  attained  ttft p50      p99  tpot p99  refused   hit";

    /// One row of the table.
    pub fn row(&self) -> String {
        let oracle = self.reference.as_ref().map_or_else(String::new, |name| format!("  ({name})"));
        let nothing =
            if self.capacity == Some(0.0) { "  (no load is carried; this is the lowest)" } else { "" };
        format!(
            "{:18}  {:36} {:8.3} {:8.2}% {:9.0} {:8.0} {:9.1} {:8.3} {:5.2}{oracle}{nothing}",
            self.policy,
            self.trace,
            self.rate,
            self.figures.attainment * 100.0,
            self.figures.ttft_ms.p50,
            self.figures.ttft_ms.p99,
            self.figures.tpot_ms.p99,
            self.figures.refusals_per_request,
            self.figures.prefix_hit
        )
    }
}

/// To five digits: enough for every comparison, and the same on every machine.
pub fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return 0.0;
    }
    let digits = 10f64.powi(4 - value.abs().log10().floor() as i32);
    (value * digits).round() / digits
}

#[cfg(test)]
mod tests {
    use super::rounded;

    #[test]
    fn figures_have_five_digits() {
        for (value, expected) in
            [(0.0, 0.0), (123_456.0, 123_460.0), (0.001_234_567, 0.001_234_6), (f64::NAN, 0.0)]
        {
            assert_eq!(rounded(value), expected);
        }
    }
}
