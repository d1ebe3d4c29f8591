//! How long a request is willing to wait for its first token where it was placed, before it would rather be refused and go elsewhere.
//!
//! ```text
//!   believed of the one chosen ─┐
//!   believed of the next best ──┴ the longer one ── + margin ──► patience
//!                                                     ▲
//!               refused: longer ── not refused: shorter
//! ```
//!
//! Where reports are old, what is believed is often too little. A long margin keeps those waiting who were sent to a queue that nobody knew
//! of, though another endpoint may be free; a short one sends many from door to door where all have queues. How wrong beliefs are depends
//! on the age of reports, the load and the prompts, so a sidecar learns it: its margin becomes as long as it must be for about
//! [`refused_share`](Weights::refused_share) refusals a request, and those are then the ones who would have waited longest.

use crate::pick::cost::Weights;

/// How fast the margin follows: a refusal lengthens it by so much, in the natural logarithm.
const STEP: f64 = 0.1;

/// How long an answer's first token may take, in the eyes of the one who sent the request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Patience {
    /// Milliseconds until the first token beyond which the sender tries elsewhere.
    pub first_token_ms: f64,
    /// Milliseconds that were promised to the caller and are left; at most this long anything waits.
    pub promised_ms: f64,
}

/// Refusals after which a request is sent once more; a further one is its caller's answer, 429.
pub const REFUSALS_MAX: u8 = 2;

impl Patience {
    /// For a request that can still go elsewhere: by a [`Margin`] longer than was believed of the endpoint chosen, or of the next best one.
    pub fn while_others(believed_ms: f64, next_best_ms: f64, margin_ms: f64, promised_ms: f64) -> Self {
        Self { first_token_ms: believed_ms.max(next_best_ms) + margin_ms, promised_ms }
    }

    /// For a request that has nowhere else to go.
    pub fn at_last(promised_ms: f64) -> Self {
        Self { first_token_ms: promised_ms, promised_ms }
    }

    /// What is left of it after so much of it has gone by.
    #[must_use]
    pub fn after(self, waited_ms: f64) -> Self {
        Self { first_token_ms: self.first_token_ms - waited_ms, promised_ms: self.promised_ms - waited_ms }
    }
}

/// What is added to beliefs, as one sidecar has learned it for one backend.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Margin {
    /// Of the longest one.
    share: f64,
}

impl Default for Margin {
    /// The longest one: nothing was refused yet.
    fn default() -> Self {
        Self { share: 1.0 }
    }
}

impl Margin {
    /// A request is placed for the first time.
    pub fn placed(&mut self, weights: &Weights) {
        self.turn(-weights.refused_share, weights);
    }

    /// It was refused, and goes elsewhere.
    pub fn refused(&mut self, weights: &Weights) {
        self.turn(1.0, weights);
    }

    fn turn(&mut self, by: f64, weights: &Weights) {
        self.share = (self.share * (STEP * by).exp()).clamp(weights.margin_least, 1.0);
    }

    /// As a share of the longest one: above 0, at most 1.
    pub fn share(&self) -> f64 {
        self.share
    }

    /// Milliseconds, for a request of which its caller has said that the first token may take `asked_ms` from now on.
    pub fn ms(&self, asked_ms: Option<f64>, weights: &Weights) -> f64 {
        self.share * (weights.margin_ms + weights.margin_share * asked_ms.unwrap_or(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEIGHTS: Weights = Weights::CHOSEN;

    #[test]
    fn patience_ends_a_margin_beyond_the_better_belief_until_there_is_nobody_else() {
        let first_token_ms = |next_best| Patience::while_others(100.0, next_best, 40.0, 500.0).first_token_ms;
        assert_eq!([first_token_ms(80.0), first_token_ms(130.0)], [140.0, 170.0]);
        assert_eq!(Patience::at_last(500.0).first_token_ms, 500.0);
    }

    #[test]
    fn who_was_given_more_time_waits_longer() {
        let margin = Margin::default();
        assert_eq!(margin.ms(None, &WEIGHTS), WEIGHTS.margin_ms);
        let more_ms = margin.ms(Some(500.0), &WEIGHTS) - WEIGHTS.margin_ms;
        assert!((more_ms - 500.0 * WEIGHTS.margin_share).abs() < 1e-6, "{more_ms}");
    }

    /// The margin after a thousand requests that are surprised by up to so much, all as likely, and those who wait too long refused.
    fn learned_ms(surprise_max_ms: f64) -> (f64, f64) {
        let mut margin = Margin::default();
        let mut refused = 0;
        for number in 0..1_000u32 {
            margin.placed(&WEIGHTS);
            let surprise_ms = f64::from(number * 619 % 1_000) / 1_000.0 * surprise_max_ms;
            if surprise_ms > margin.ms(None, &WEIGHTS) {
                margin.refused(&WEIGHTS);
                refused += u32::from(number >= 500);
            }
        }
        (margin.ms(None, &WEIGHTS), f64::from(refused) / 500.0)
    }

    #[test]
    fn the_margin_becomes_so_long_that_a_share_is_refused() {
        let (margin_ms, refused) = learned_ms(200.0);
        let expected_ms = 200.0 * (1.0 - WEIGHTS.refused_share);
        assert!((margin_ms / expected_ms - 1.0).abs() < 0.15, "{margin_ms} {expected_ms}");
        assert!((refused - WEIGHTS.refused_share).abs() < 0.03, "{refused}");
    }

    #[test]
    fn it_has_bounds() {
        let (longest_ms, refused) = learned_ms(1_000.0);
        assert!(
            longest_ms > 0.9 * WEIGHTS.margin_ms && refused > WEIGHTS.refused_share,
            "{longest_ms} {refused}"
        );
        let (shortest_ms, refused) = learned_ms(20.0);
        assert_eq!((shortest_ms, refused), (WEIGHTS.margin_least * WEIGHTS.margin_ms, 0.0));
    }
}
