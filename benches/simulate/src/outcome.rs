//! What a run came to.

use crate::slo::{Fare, Slo};

/// Figures of one run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Requests that count: those after the warm-up.
    pub counted: u64,
    /// Those of them that got what was promised.
    pub kept: u64,
    /// Those of them that were refused for good.
    pub rejected: u64,
    /// Those of them whose first token came late.
    pub late_first: u64,
    /// Refusals of the requests that count.
    pub refusals: u64,
    /// Servers that those requests asked how they are.
    pub questions: u64,
    /// Milliseconds to the first token, sorted.
    pub to_first_ms: Vec<f64>,
    /// Mean milliseconds between tokens, one for each request with two or more, sorted.
    pub per_token_ms: Vec<f64>,
    /// Prompt tokens, and those of them that were cached.
    pub prompt_tokens: u64,
    /// See above.
    pub cached_tokens: u64,
    /// Sequences sent back for want of memory.
    pub preemptions: u64,
    /// Whether the run was ended early because it could not reach what was asked.
    pub given_up: bool,
    /// Requests, or starts of sessions, a second.
    pub rate: f64,
}

impl Outcome {
    /// Counts a request that was answered to its end.
    pub fn answered(&mut self, fare: &Fare, prompt_tokens: u32, cached_tokens: u32, slo: &Slo) {
        self.kept += u64::from(!fare.late);
        self.late_first += u64::from(fare.to_first_ns() > slo.first_token_ns(prompt_tokens));
        self.to_first_ms.push(fare.to_first_ns() as f64 / 1e6);
        self.per_token_ms.extend(fare.per_token_ns().map(|ns| ns as f64 / 1e6));
        self.prompt_tokens += u64::from(prompt_tokens);
        self.cached_tokens += u64::from(cached_tokens);
    }

    /// Puts the times in order, from which quantiles are read.
    pub fn sort(&mut self) {
        self.to_first_ms.sort_by(f64::total_cmp);
        self.per_token_ms.sort_by(f64::total_cmp);
    }

    /// Share of the requests that got what was promised; 0 for a run that was given up.
    pub fn attainment(&self) -> f64 {
        if self.given_up { 0.0 } else { self.kept as f64 / self.counted.max(1) as f64 }
    }

    /// Refusals for each request.
    pub fn refusals_per_request(&self) -> f64 {
        self.refusals as f64 / self.counted.max(1) as f64
    }

    /// Servers asked how they are, for each request.
    pub fn questions_per_request(&self) -> f64 {
        self.questions as f64 / self.counted.max(1) as f64
    }

    /// Those that were in time with the first token and not with a later one.
    pub fn late_later(&self) -> u64 {
        self.counted - self.kept - self.late_first - self.rejected
    }

    /// Share of the prompt tokens that caches spared.
    pub fn prefix_hit(&self) -> f64 {
        self.cached_tokens as f64 / self.prompt_tokens.max(1) as f64
    }
}

/// The value below which a share of the sorted values lies; 0 for none.
pub fn quantile(sorted: &[f64], share: f64) -> f64 {
    let at = ((sorted.len().saturating_sub(1)) as f64 * share).round() as usize;
    sorted.get(at).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_occurred() {
        let values: Vec<f64> = (0..101).map(f64::from).collect();
        assert_eq!([0.0, 0.5, 0.99, 1.0].map(|share| quantile(&values, share)), [0.0, 50.0, 99.0, 100.0]);
        assert_eq!(quantile(&[], 0.5), 0.0);
    }
}
