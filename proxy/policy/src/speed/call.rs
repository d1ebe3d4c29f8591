//! The same for work that is no token stream: embeddings, reranking, tensors, opaque calls.
//!
//! ```text
//!   call = fixed_ms + unit·own + ahead·others      units: tokens, items or bytes, whatever the dialect counts
//! ```
//!
//! `others` are the units that were being worked on when the call came. A server that works on one call after the other shows
//! `ahead = unit`; one that batches or has many workers shows less.

use std::time::Duration;

use penstock_model::units::Moment;

use super::change::Change;
use super::fit::Fit;

/// Calls' share of weight that one keeps with each call that follows: the last 100 or so count.
const KEEP: f64 = 0.99;
/// Calls by which the prior is corrected as a whole.
const FIRST_CALLS: u32 = 3;
const ERROR_GAIN: f64 = 0.05;
const TRUST_AFTER_CHANGE: f64 = 0.2;

/// Constants of the closed form of calls.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CallSpeed {
    /// Milliseconds of a call without any work; at least 0.
    pub fixed_ms: f64,
    /// Microseconds for each unit of the call; at least 0.
    pub unit_us: f64,
    /// Microseconds for each unit that was there before it; at least 0.
    pub ahead_us: f64,
}

impl CallSpeed {
    /// Milliseconds of a call of `units`, when `ahead` units are there.
    pub fn call_ms(&self, units: f64, ahead: f64) -> f64 {
        self.fixed_ms + (self.unit_us * units + self.ahead_us * ahead) * 1e-3
    }
}

/// What the learner remembers of one call; whoever carries the call keeps it.
#[derive(Clone, Copy, Debug)]
pub struct CallTrack {
    units: f64,
    ahead: f64,
    sent: Moment,
}

/// Learns how fast one endpoint answers calls.
#[derive(Clone, Debug)]
pub struct CallLearner {
    /// Milliseconds, milliseconds for each thousand units, and the same for those ahead.
    fit: Fit<3>,
    change: Change,
    units_open: f64,
    calls_open: u32,
    seen: u32,
    first_ratios: f64,
    error: f64,
}

impl CallLearner {
    /// Starts from what is known of its like.
    pub fn starting(prior: CallSpeed) -> Self {
        let coefficients = [prior.fixed_ms, prior.unit_us, prior.ahead_us];
        let typical_ms = prior.call_ms(1_000.0, 0.0).max(1e-3);
        Self {
            fit: Fit::starting(coefficients, [1.0; 3], 1.0 / (typical_ms * typical_ms), KEEP),
            change: Change::default(),
            units_open: 0.0,
            calls_open: 0,
            seen: 0,
            first_ratios: 0.0,
            error: 1.0,
        }
    }

    /// The constants as they are known now.
    pub fn speed(&self) -> CallSpeed {
        let [fixed_ms, unit_us, ahead_us] = *self.fit.solution();
        CallSpeed { fixed_ms, unit_us, ahead_us }
    }

    /// Units that are being worked on.
    pub fn units_open(&self) -> f64 {
        self.units_open
    }

    /// Mean of |observed − expected| / observed of late; 1 before there was any.
    pub fn error(&self) -> f64 {
        self.error
    }

    /// A call of `units` was sent on.
    pub fn sent(&mut self, units: u64, now: Moment) -> CallTrack {
        let track = CallTrack { units: units as f64, ahead: self.units_open, sent: now };
        self.units_open += track.units;
        self.calls_open += 1;
        track
    }

    /// Its caller left, or it failed: nothing is learned from it.
    pub fn left(&mut self, track: &CallTrack) {
        self.calls_open = self.calls_open.saturating_sub(1);
        self.units_open = if self.calls_open == 0 { 0.0 } else { (self.units_open - track.units).max(0.0) };
    }

    /// Its answer has come.
    pub fn answered(&mut self, track: &CallTrack, now: Moment) {
        self.left(track);
        let took_ms = Duration::as_secs_f64(&now.since(track.sent)) * 1e3;
        let x = [1.0, track.units * 1e-3, track.ahead * 1e-3];
        let expected_ms = self.fit.expected(&x).max(1e-3);
        if self.seen < FIRST_CALLS {
            self.seen += 1;
            self.first_ratios += (took_ms.max(1e-3) / expected_ms).ln() / f64::from(FIRST_CALLS);
            if self.seen == FIRST_CALLS {
                self.fit.rescale(self.first_ratios.exp(), 1.0);
            }
            return;
        }
        let error = ((took_ms - expected_ms).abs() / took_ms.max(1e-3)).min(1.0);
        self.error += ERROR_GAIN * (error - self.error);
        if let Some(factor) = self.change.see(took_ms, expected_ms) {
            self.fit.rescale(factor, TRUST_AFTER_CHANGE);
            return;
        }
        self.fit.observe(&x, took_ms, 1.0 / (expected_ms * expected_ms));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRIOR: CallSpeed = CallSpeed { fixed_ms: 5.0, unit_us: 20.0, ahead_us: 10.0 };

    /// Calls of mixed sizes, up to four at the same time, on a server of speed `truth`; the mean error of the last hundred.
    fn run(learner: &mut CallLearner, truth: CallSpeed, calls: u64) -> f64 {
        let (mut now, mut errors, mut open) = (Moment(0), Vec::new(), Vec::new());
        for at in 0..calls {
            let units = 50 + at * 7_919 % 2_000;
            let ahead = learner.units_open();
            let wobble = 1.0 + 0.08 * ((at * 31 % 17) as f64 / 16.0 - 0.5);
            let took_ms = truth.call_ms(units as f64, ahead) * wobble;
            errors.push((learner.speed().call_ms(units as f64, ahead) / took_ms - 1.0).abs());
            let track = learner.sent(units, now);
            let end = now + Duration::from_secs_f64(took_ms * 1e-3);
            open.push((end, track));
            if at % 4 == 3 {
                for (end, track) in open.drain(..) {
                    learner.answered(&track, end);
                    now = now.max(end);
                }
            }
        }
        let last = &errors[errors.len() - 100..];
        last.iter().sum::<f64>() / last.len() as f64
    }

    #[test]
    fn two_hundred_calls_suffice_whatever_the_server() {
        for truth in [
            CallSpeed { fixed_ms: 2.0, unit_us: 4.0, ahead_us: 0.0 },
            CallSpeed { fixed_ms: 40.0, unit_us: 90.0, ahead_us: 90.0 },
            CallSpeed { fixed_ms: 0.0, unit_us: 500.0, ahead_us: 100.0 },
        ] {
            let mut learner = CallLearner::starting(PRIOR);
            let error = run(&mut learner, truth, 200);
            assert!(error < 0.05, "{error} for {truth:?}: {:?}", learner.speed());
            assert!(learner.error() < 0.06, "{}", learner.error());
        }
    }

    #[test]
    fn a_slowdown_is_followed_within_a_few_calls() {
        let truth = CallSpeed { fixed_ms: 2.0, unit_us: 40.0, ahead_us: 20.0 };
        let mut learner = CallLearner::starting(PRIOR);
        run(&mut learner, truth, 200);
        let slow = CallSpeed { fixed_ms: 6.0, unit_us: 120.0, ahead_us: 60.0 };
        let error = run(&mut learner, slow, 108);
        assert!(error < 0.06, "{error}: {:?}", learner.speed());
    }

    #[test]
    fn a_call_that_failed_leaves_no_trace() {
        let mut learner = CallLearner::starting(PRIOR);
        let track = learner.sent(1_000, Moment(0));
        assert_eq!(learner.units_open(), 1_000.0);
        learner.left(&track);
        assert_eq!((learner.units_open(), learner.speed(), learner.error()), (0.0, PRIOR, 1.0));
    }
}
