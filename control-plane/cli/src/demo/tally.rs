//! What the callers have seen so far.

use std::time::Duration;

use anyhow::Context;
use hdrhistogram::Histogram;
use serde::Serialize;

use super::request::{Ending, Outcome};

/// 1 µs to 1 h with three significant digits.
const HIGHEST_US: u64 = 3_600_000_000;
const DIGITS: u8 = 3;
/// Reasons of failures that are kept for people to read.
const REASONS_MAX: usize = 5;

/// Counts and latencies of all requests that have ended.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    pub(super) answered: u64,
    pub(super) left: u64,
    pub(super) shed: u64,
    pub(super) errors: u64,
    /// First tokens that came within what was promised.
    pub(super) in_time: u64,
    /// The first few different reasons of errors.
    pub(super) reasons: Vec<String>,
    first_token: Histogram<u64>,
    per_token: Histogram<u64>,
}

/// Quantiles in milliseconds; absent while there are no samples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Quantiles {
    pub(super) p50: Option<f64>,
    pub(super) p90: Option<f64>,
    pub(super) p99: Option<f64>,
}

impl Tally {
    /// # Errors
    /// A build defect: bounds that the histogram does not take.
    pub(super) fn new() -> anyhow::Result<Self> {
        let histogram = || Histogram::new_with_bounds(1, HIGHEST_US, DIGITS).context("a histogram's bounds");
        Ok(Self {
            answered: 0,
            left: 0,
            shed: 0,
            errors: 0,
            in_time: 0,
            reasons: Vec::new(),
            first_token: histogram()?,
            per_token: histogram()?,
        })
    }

    /// A request whose first token was `promised` after so long.
    pub(super) fn record(&mut self, outcome: Outcome, promised: Duration) {
        let is_served = matches!(outcome.ending, Ending::Answered | Ending::Left);
        self.in_time += u64::from(is_served && outcome.first_token.is_some_and(|first| first <= promised));
        match outcome.ending {
            Ending::Answered => self.answered += 1,
            Ending::Left => self.left += 1,
            Ending::Shed => self.shed += 1,
            Ending::Failed(why) => self.failed(why),
        }
        for (histogram, span) in
            [(&mut self.first_token, outcome.first_token), (&mut self.per_token, outcome.per_token)]
        {
            if let Some(span) = span {
                histogram.saturating_record(u64::try_from(span.as_micros()).unwrap_or(HIGHEST_US));
            }
        }
    }

    /// A request that its caller sees as failed.
    pub(super) fn failed(&mut self, why: String) {
        self.errors += 1;
        if self.reasons.len() < REASONS_MAX && !self.reasons.contains(&why) {
            self.reasons.push(why);
        }
    }

    /// Requests that have ended, however.
    pub(super) fn ended(&self) -> u64 {
        self.answered + self.left + self.shed + self.errors
    }

    pub(super) fn first_token_ms(&self) -> Quantiles {
        quantiles(&self.first_token)
    }

    pub(super) fn per_token_ms(&self) -> Quantiles {
        quantiles(&self.per_token)
    }
}

fn quantiles(histogram: &Histogram<u64>) -> Quantiles {
    let at = |quantile| {
        let us = (!histogram.is_empty()).then(|| histogram.value_at_quantile(quantile))?;
        Some(Duration::from_micros(us).as_secs_f64() * 1_000.0).map(|ms| (ms * 100.0).round() / 100.0)
    };
    Quantiles { p50: at(0.5), p90: at(0.9), p99: at(0.99) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(ending: Ending, first_ms: Option<u64>) -> Outcome {
        let first_token = first_ms.map(Duration::from_millis);
        Outcome { ending, tokens: 1, first_token, per_token: None }
    }

    #[test]
    fn each_ending_is_counted_once() {
        let mut tally = Tally::new().unwrap();
        for ending in
            [Ending::Answered, Ending::Answered, Ending::Left, Ending::Shed, Ending::Failed("x".to_owned())]
        {
            tally.record(outcome(ending, Some(7)), Duration::from_millis(7));
        }
        assert_eq!((tally.answered, tally.left, tally.shed, tally.errors), (2, 1, 1, 1));
        assert_eq!(tally.in_time, 3, "what was refused or failed kept no promise");
        tally.record(outcome(Ending::Answered, Some(8)), Duration::from_millis(7));
        tally.record(outcome(Ending::Answered, None), Duration::from_millis(7));
        assert_eq!((tally.answered, tally.in_time), (4, 3));
        assert_eq!(tally.ended(), 7);
    }

    #[test]
    fn quantiles_are_those_of_the_samples_and_absent_without_any() {
        let mut tally = Tally::new().unwrap();
        assert_eq!(tally.first_token_ms(), Quantiles { p50: None, p90: None, p99: None });
        for ms in 1..=100 {
            tally.record(outcome(Ending::Answered, Some(ms)), Duration::ZERO);
        }
        let quantiles = tally.first_token_ms();
        for (found, expected) in [(quantiles.p50, 50.0), (quantiles.p90, 90.0), (quantiles.p99, 99.0)] {
            let found = found.unwrap();
            assert!((found - expected).abs() <= expected / 1_000.0, "{found} {expected}");
        }
        assert_eq!(tally.per_token_ms().p50, None);
    }

    #[test]
    fn reasons_are_kept_once_and_not_without_end() {
        let mut tally = Tally::new().unwrap();
        for number in 0..20 {
            tally.failed(format!("reason {}", number / 2));
        }
        assert_eq!((tally.errors, tally.reasons.len()), (20, REASONS_MAX));
        assert_eq!(tally.reasons[1], "reason 1");
    }
}
