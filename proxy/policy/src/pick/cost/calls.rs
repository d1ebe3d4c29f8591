//! What it costs to place a call: when its answer will have been computed.
//!
//! ```text
//!   cost = wait + own      wait = ahead·others      own = fixed + unit·own units
//! ```
//!
//! It is the closed form of [`CallSpeed`] with what is ahead there: what the endpoint told, less what it has worked off since, and what
//! this sidecar has sent there meanwhile. Nothing is added for what a call takes from others: those who are there came before it, and
//! those who come later see it. No promise is made of calls, so no endpoint refuses one.

use penstock_model::units::Moment;

use super::{Estimate, Placements, Terms, expected_ms};
use crate::lately::Lately;
use crate::speed::{Call, CallSpeed};

/// Milliseconds for which an endpoint is believed to be as fast as it told last. One that was slow and is asked no more tells nothing
/// new: after this it is taken to be like the others, and a few calls show whether it is.
const BELIEVED_MS: f64 = 30_000.0;

/// What an endpoint says of calls that are counted in one unit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CallReport {
    /// Units of the calls that it works on.
    pub units_ahead: f64,
    /// Work of the calls that came lately, as a share of the time in which they came.
    pub arriving: f64,
    /// How fast it is; `None` while it has not shown it.
    pub speed: Option<CallSpeed>,
}

impl CallReport {
    /// The report as it will have become after `age_ms`: calls were answered, and others have come at the rate of late.
    fn after(self, age_ms: f64, speed: &CallSpeed) -> Self {
        let ahead_ms = speed.work_ms(self.units_ahead);
        if ahead_ms <= 0.0 {
            return self;
        }
        let left = (1.0 - age_ms * (1.0 - self.arriving).max(0.0) / ahead_ms).max(0.0);
        Self { units_ahead: self.units_ahead * left, ..self }
    }
}

/// What one sidecar believes of the calls at an endpoint that are counted in one unit.
#[derive(Clone, Debug, Default)]
pub(super) struct CallBelief {
    last: Option<(Moment, CallReport)>,
    /// Units that this sidecar has sent there since.
    placements: Placements<u32>,
    /// All that it has sent there, and as of the last report: that is in what the endpoint says arrives.
    sent: Lately,
    reported: Lately,
}

impl CallBelief {
    pub(super) fn told(&mut self, report: CallReport, made: Moment, now: Moment) {
        self.last = Some((now, report));
        self.placements.reported(made);
        self.reported = self.sent;
    }

    /// What was told is of a life that is over.
    pub(super) fn forget(&mut self) {
        self.last = None;
    }

    pub(super) fn placed(&mut self, call: Call, now: Moment) {
        self.placements.add(now, call.units);
        self.sent.add(call.units.into(), now);
    }

    pub(super) fn ended(&mut self, call: Call, sent: Moment) {
        self.placements.ended(sent, call.units);
    }

    pub(super) fn report(&self) -> Option<CallReport> {
        self.last.map(|(_, report)| report)
    }

    /// The last report, with what others send as that which arrives: what is ours is counted one by one.
    fn of_others(&self, speed: &CallSpeed) -> CallReport {
        let Some((came, report)) = self.last else { return CallReport::default() };
        let own = speed.work_ms(self.reported.rate(came));
        CallReport { arriving: (report.arriving - own).max(0.0), ..report }
    }

    /// How fast it is by its own word, where that is believed at `now`, and when it told.
    pub(super) fn speed(&self, now: Moment) -> Option<(Moment, CallSpeed)> {
        let (came, report) = self.last?;
        let is_old = now.since(came).as_secs_f64() * 1e3 > BELIEVED_MS;
        report.speed.filter(|_| !is_old).map(|speed| (came, speed))
    }

    /// What placing `call` there costs. See [`Belief::call_estimate`](super::Belief::call_estimate).
    pub(super) fn estimate(&self, call: Call, presumed: &CallSpeed, now: Moment) -> Estimate {
        let speed = self.speed(now).map_or(*presumed, |(_, speed)| speed);
        let age_ms = self.last.map(|(came, _)| now.since(came).as_secs_f64() * 1e3);
        let report = self.of_others(&speed).after(age_ms.unwrap_or(0.0), &speed);
        let own_ahead: f64 = self.placements.iter().map(|(_, units)| f64::from(units)).sum();
        let wait_ms = speed.work_ms(report.units_ahead + own_ahead);
        let terms = Terms { wait_ms, own_ms: speed.call_ms(f64::from(call.units), 0.0), ..Terms::default() };
        Estimate {
            terms,
            expected_ms: expected_ms(report.arriving, age_ms.unwrap_or(0.0)),
            age_ms,
            placements: u32::try_from(self.placements.count()).unwrap_or(u32::MAX),
            cached_tokens: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::speed::Unit;

    const SPEED: CallSpeed = CallSpeed { fixed_ms: 5.0, unit_us: 100.0, ahead_us: 50.0 };
    /// Ten times as slow.
    const SLOW: CallSpeed = CallSpeed { fixed_ms: 50.0, unit_us: 1_000.0, ahead_us: 500.0 };

    fn at(ms: u64) -> Moment {
        Moment(ms * 1_000_000)
    }

    fn call(units: u32) -> Call {
        Call { unit: Unit::Tokens, units }
    }

    fn told(units_ahead: f64, arriving: f64, speed: Option<CallSpeed>) -> CallBelief {
        let mut belief = CallBelief::default();
        belief.told(CallReport { units_ahead, arriving, speed }, at(0), at(0));
        belief
    }

    /// Milliseconds before a call of 100 units, its own, and what others are expected to have sent.
    #[track_caller]
    fn check(belief: &CallBelief, presumed: CallSpeed, now: Moment, expected: [f64; 3]) {
        let Estimate { terms, expected_ms, .. } = belief.estimate(call(100), &presumed, now);
        let found = [terms.wait_ms, terms.own_ms, expected_ms];
        let is_near = found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-9);
        assert!(is_near, "{found:?}, expected {expected:?} of {belief:?}");
        assert!((terms.total_ms() - found[0] - found[1]).abs() < 1e-9, "{terms:?}");
    }

    #[test]
    fn who_has_said_nothing_is_idle_but_for_what_was_sent_and_as_fast_as_presumed() {
        let mut belief = CallBelief::default();
        check(&belief, SPEED, at(9), [0.0, 15.0, 0.0]);
        belief.placed(call(40), at(9));
        check(&belief, SPEED, at(9), [2.0, 15.0, 0.0]);
        check(&belief, SLOW, at(9), [20.0, 150.0, 0.0]);
        belief.ended(call(40), at(9));
        check(&belief, SPEED, at(9), [0.0, 15.0, 0.0]);
    }

    #[test]
    fn what_was_ahead_drains_at_the_speed_that_was_told_and_others_come() {
        // 400 units are 20 ms.
        let alone = told(400.0, 0.0, Some(SPEED));
        check(&alone, SLOW, at(0), [20.0, 15.0, 0.0]);
        check(&alone, SLOW, at(5), [15.0, 15.0, 0.0]);
        check(&alone, SLOW, at(50), [0.0, 15.0, 0.0]);
        let busy = told(400.0, 0.5, Some(SPEED));
        check(&busy, SLOW, at(10), [15.0, 15.0, 5.0]);
        check(&told(400.0, 2.0, Some(SPEED)), SLOW, at(10), [20.0, 15.0, 10.0]);
    }

    #[test]
    fn a_report_contains_what_was_sent_before_it_was_made() {
        let mut belief = told(0.0, 0.0, Some(SPEED));
        belief.placed(call(100), at(1));
        belief.placed(call(300), at(3));
        check(&belief, SLOW, at(3), [20.0, 15.0, 0.0]);
        belief.told(CallReport { units_ahead: 100.0, arriving: 0.0, speed: Some(SPEED) }, at(2), at(4));
        check(&belief, SLOW, at(4), [20.0, 15.0, 0.0]);
    }

    #[test]
    fn what_arrives_there_is_ours_or_of_others_and_only_others_are_expected_to_go_on() {
        // 100 units in each 10 ms, 5 ms of work, and a pause of a second.
        let mut alone = CallBelief::default();
        (0..6_000u64).for_each(|step| alone.placed(call(100), at(step * 10)));
        alone.told(
            CallReport { units_ahead: 400.0, arriving: 0.5, speed: Some(SPEED) },
            at(60_000),
            at(60_000),
        );
        let estimate = |ms: u64| alone.estimate(call(100), &SPEED, at(60_000 + ms));
        assert!(estimate(1_000).expected_ms < 2.0, "{:?}", estimate(1_000));
        let wait_ms = estimate(10).terms.wait_ms;
        assert!((wait_ms - 10.0).abs() < 0.1, "20 ms drain at full speed: {wait_ms}");
    }

    #[test]
    fn who_was_slow_long_ago_is_taken_to_be_like_the_others() {
        let belief = told(0.0, 0.0, Some(SLOW));
        check(&belief, SPEED, at(29_999), [0.0, 150.0, 0.0]);
        check(&belief, SPEED, at(30_001), [0.0, 15.0, 0.0]);
        assert_eq!(belief.speed(at(30_001)), None);
    }
}
