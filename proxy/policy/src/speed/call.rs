//! The same for work that is no token stream: embeddings, reranking, tensors, opaque calls.
//!
//! ```text
//!   call = fixed_ms + unit·own + ahead·others      units: tokens, items or bytes, see [`Unit`]
//! ```
//!
//! `others` are the units that were being worked on when the call came. A server that works on one call after the other shows
//! `ahead = unit`; one that batches or has many workers shows less.
//!
//! Sizes differ by orders of magnitude from service to service, so the first calls also tell how large a usual one is, and what is
//! assumed counts as one observation of a usual call. Where calls of equal size take times that differ wildly no constants can be
//! learned that say which endpoint is faster: then nothing is claimed ([`CallLearner::is_shown`]), and units under way alone decide.

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

/// Units of a usual call until calls have told.
const USUAL_UNITS: f64 = 1_000.0;
/// Mean error up to which constants say something. Times drawn from an exponential distribution give 0.65 with the best constants that
/// there can be, lognormal ones of sigma 0.3 give 0.25; one that begins at 1 comes here after some twenty calls.
const SHOWN_ERROR_MAX: f64 = 0.4;

/// What the work of calls is counted in. Counts in different units are never added, and speeds are learned for each apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Unit {
    /// Tokens of the text that was sent, as estimated from its bytes.
    Tokens,
    /// Calls, where nothing tells how large one is.
    Items,
    /// Bytes of the body that was sent.
    Bytes,
}

impl Unit {
    /// Every unit.
    pub const ALL: [Self; 3] = [Self::Tokens, Self::Items, Self::Bytes];

    /// As it is written in a header and in a metric's label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tokens => "tokens",
            Self::Items => "items",
            Self::Bytes => "bytes",
        }
    }

    /// How fast a server is taken to be while nobody has shown it: an embedding model of some hundred million parameters, a call of
    /// ten milliseconds, and ten megabytes in a second. Endpoints are compared by it with each other, so what counts is that it is the
    /// same for all, and that work ahead takes as long as the own.
    pub fn presumed_speed(self) -> CallSpeed {
        let unit_us = match self {
            Self::Tokens => 20.0,
            Self::Items => 10_000.0,
            Self::Bytes => 0.1,
        };
        CallSpeed { fixed_ms: 5.0, unit_us, ahead_us: unit_us }
    }
}

/// What one call demands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// What it is counted in.
    pub unit: Unit,
    /// How many; at least 1.
    pub units: u32,
}

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
        self.fixed_ms + self.unit_us * units * 1e-3 + self.work_ms(ahead)
    }

    /// Milliseconds for which `units` delay those who come after them.
    pub fn work_ms(&self, units: f64) -> f64 {
        self.ahead_us * units * 1e-3
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
    /// Milliseconds, milliseconds for each usual call's units, and the same for those ahead.
    fit: Fit<3>,
    /// Units of a usual call: of the first ones.
    usual: f64,
    first_units: f64,
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
        Self {
            fit: fit(prior, USUAL_UNITS),
            usual: USUAL_UNITS,
            first_units: 0.0,
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
        let [fixed_ms, own_ms, others_ms] = *self.fit.solution();
        let each_us = 1e3 / self.usual;
        CallSpeed { fixed_ms, unit_us: own_ms * each_us, ahead_us: others_ms * each_us }
    }

    /// Units that are being worked on.
    pub fn units_open(&self) -> f64 {
        self.units_open
    }

    /// Mean of |observed − expected| / observed of late; 1 before there was any.
    pub fn error(&self) -> f64 {
        self.error
    }

    /// Whether the constants say something: there were enough calls, and they are alike enough. Before, they are an assumption.
    pub fn is_shown(&self) -> bool {
        self.error <= SHOWN_ERROR_MAX
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
        let x = [1.0, track.units / self.usual, track.ahead / self.usual];
        let expected_ms = self.fit.expected(&x).max(1e-3);
        if self.seen < FIRST_CALLS {
            self.seen += 1;
            self.first_ratios += (took_ms.max(1e-3) / expected_ms).ln() / f64::from(FIRST_CALLS);
            self.first_units += track.units / f64::from(FIRST_CALLS);
            if self.seen == FIRST_CALLS {
                let prior = self.speed();
                self.usual = self.first_units.max(1.0);
                self.fit = fit(prior, self.usual);
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

/// A fit that knows nothing but `prior`, for calls of so many units.
fn fit(prior: CallSpeed, usual: f64) -> Fit<3> {
    let coefficients = [prior.fixed_ms, prior.unit_us * usual * 1e-3, prior.ahead_us * usual * 1e-3];
    let usual_ms = prior.call_ms(usual, 0.0).max(1e-3);
    Fit::starting(coefficients, [1.0; 3], 1.0 / (usual_ms * usual_ms), KEEP)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRIOR: CallSpeed = CallSpeed { fixed_ms: 5.0, unit_us: 20.0, ahead_us: 10.0 };

    /// Calls of mixed sizes, up to four at the same time, on a server of speed `truth`; the mean error of the last hundred.
    fn run(learner: &mut CallLearner, truth: CallSpeed, calls: u64) -> f64 {
        run_sized(learner, truth, calls, |at| 50 + at * 7_919 % 2_000)
    }

    /// The same with calls of these sizes.
    fn run_sized(learner: &mut CallLearner, truth: CallSpeed, calls: u64, units: fn(u64) -> u64) -> f64 {
        let (mut now, mut errors, mut open) = (Moment(0), Vec::new(), Vec::new());
        for at in 0..calls {
            let units = units(at);
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
    fn what_calls_are_counted_in_does_not_matter_and_how_large_they_are_is_learned() {
        let check = |unit: Unit, truth, units| {
            let mut learner = CallLearner::starting(unit.presumed_speed());
            let error = run_sized(&mut learner, truth, 200, units);
            assert!(error < 0.05 && learner.is_shown(), "{error} for {unit:?}: {:?}", learner.speed());
        };
        // Of equal size, in turn: what is paid for oneself cannot be told from what is fixed, and need not be.
        check(Unit::Items, CallSpeed { fixed_ms: 1.0, unit_us: 30_000.0, ahead_us: 30_000.0 }, |_| 1);
        // Small bodies, and a server to which they are all alike.
        let queue = CallSpeed { fixed_ms: 20.0, unit_us: 0.0, ahead_us: 80.0 };
        check(Unit::Bytes, queue, |at| 200 + at * 31 % 100);
        let tensors = CallSpeed { fixed_ms: 3.0, unit_us: 0.01, ahead_us: 0.005 };
        check(Unit::Bytes, tensors, |at| 600_000 + at * 999_983 % 9_000_000);
    }

    #[test]
    fn where_equal_calls_take_unequal_times_nothing_is_claimed() {
        let mut learner = CallLearner::starting(PRIOR);
        assert!(!learner.is_shown(), "of nothing nothing is known");
        let mut now = Moment(0);
        // Quantiles of an exponential distribution in a scrambled order.
        for at in 0..400u64 {
            let quantile = ((at * 7_919 % 997) as f64 + 0.5) / 997.0;
            let track = learner.sent(1_000, now);
            now = now + Duration::from_secs_f64(-0.020 * (1.0 - quantile).ln());
            learner.answered(&track, now);
            assert!(!learner.is_shown(), "after {at}: {}", learner.error());
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
