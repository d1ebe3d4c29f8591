//! What one sidecar believes of an endpoint: its last report, grown old, with what this sidecar has sent since.
//!
//! ```text
//!   report ── grown old, with own placements since ──► cost of the next one
//! ```

use std::time::Duration;

use penstock_model::units::Moment;

use super::calls::CallBelief;
use super::{CallReport, Own, Prompt, Report, Speed, Terms, Weights, terms};
use crate::speed::{Call, CallSpeed, Unit};

/// How long ago a report was made when it comes, and a request that was sent in that time is not in it. A round trip within a data
/// centre; where it takes longer, a placement is forgotten that much too early.
const ON_ITS_WAY: Duration = Duration::from_millis(2);

/// A report as it travels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Told {
    /// Tells one life of the endpoint's sidecar from the next.
    pub instance: u32,
    /// Grows with each report of one life.
    pub sequence: u64,
    /// Whether the endpoint takes no new requests.
    pub draining: bool,
    /// How it stands.
    pub report: Report,
    /// How fast it is; `None` while it has not shown it.
    pub speed: Option<Speed>,
    /// The same of calls, by [`Unit`]. Of one that is not told nothing has changed that anybody knows of.
    pub calls: [Option<CallReport>; Unit::ALL.len()],
}

/// What a placement would cost, and how much of that may have changed since.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The terms of its cost.
    pub terms: Terms,
    /// Milliseconds of work that others are expected to have placed since the report.
    pub expected_ms: f64,
    /// Age of the report in milliseconds; `None` where there was none.
    pub age_ms: Option<f64>,
    /// Requests of this sidecar that were added to the report.
    pub placements: u32,
    /// Tokens of the prompt that were taken to be cached there.
    pub cached_tokens: u32,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Belief {
    last: Option<(Moment, Told)>,
    own: Own,
    calls: [CallBelief; Unit::ALL.len()],
}

impl Belief {
    /// A report came. One that is older than the last is left out; false then.
    pub fn told(&mut self, told: Told, now: Moment) -> bool {
        let is_same_life = self.last.is_some_and(|(_, last)| last.instance == told.instance);
        if is_same_life && self.last.is_some_and(|(_, last)| told.sequence <= last.sequence) {
            return false;
        }
        if !is_same_life {
            self.calls.iter_mut().for_each(CallBelief::forget);
        }
        let made = Moment(now.0.saturating_sub(ON_ITS_WAY.as_nanos() as u64));
        self.own.reported(made);
        for (belief, report) in self.calls.iter_mut().zip(told.calls) {
            report.into_iter().for_each(|report| belief.told(report, made, now));
        }
        self.last = Some((now, Told { calls: self.calls.each_ref().map(CallBelief::report), ..told }));
        true
    }

    /// A request was sent there.
    pub fn placed(&mut self, prompt: Prompt, now: Moment) {
        self.own.add(now, prompt);
    }

    /// A request that was sent there at `sent` has ended, whatever came of it.
    pub fn ended(&mut self, prompt: Prompt, sent: Moment) {
        self.own.ended(sent, prompt);
    }

    /// A call was sent there.
    pub fn call_placed(&mut self, call: Call, now: Moment) {
        self.calls[call.unit as usize].placed(call, now);
    }

    /// A call that was sent there at `sent` has ended, whatever came of it.
    pub fn call_ended(&mut self, call: Call, sent: Moment) {
        self.calls[call.unit as usize].ended(call, sent);
    }

    /// How fast it is in answering calls by its own word, as far as that is believed at `now`, and when it said so.
    pub fn call_speed(&self, unit: Unit, now: Moment) -> Option<(Moment, CallSpeed)> {
        self.calls[unit as usize].speed(now)
    }

    /// The last report and when it came; of calls that it did not tell, the last word before.
    pub fn last(&self) -> Option<&(Moment, Told)> {
        self.last.as_ref()
    }

    /// Whether it has said that it takes no new requests.
    pub fn is_draining(&self) -> bool {
        self.last.is_some_and(|(_, told)| told.draining)
    }

    /// What placing `prompt` there costs, as far as is known at `now`. An endpoint that has said nothing yet is taken to be idle but for
    /// what was sent there; one that has not shown how fast it is, to be as fast as `presumed`.
    pub fn estimate(&self, prompt: Prompt, presumed: &Speed, now: Moment) -> Estimate {
        let (made, told) = self.last.unzip();
        let speed = told.and_then(|told| told.speed).unwrap_or(*presumed);
        let told = told.map(|told| told.report).unwrap_or_default();
        let report = self.own.onto(told, made.unwrap_or_default(), now, &speed, &Weights::CHOSEN);
        let age_ms = made.map(|made| now.since(made).as_secs_f64() * 1e3);
        let expected_ms = report.expected_ms(age_ms.unwrap_or(0.0));
        let terms = terms(&report, &speed, prompt, &Weights::CHOSEN);
        let placements = u32::try_from(self.own.count()).unwrap_or(u32::MAX);
        Estimate { terms, expected_ms, age_ms, placements, cached_tokens: prompt.cached_tokens }
    }

    /// What placing `call` there costs, as [`estimate`](Self::estimate) says of prompts. Where its last word on speed is old, it is taken
    /// to be as fast as `presumed` again.
    pub fn call_estimate(&self, call: Call, presumed: &CallSpeed, now: Moment) -> Estimate {
        self.calls[call.unit as usize].estimate(call, presumed, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::speed;

    const PROMPT: Prompt = Prompt { tokens: 1_000, cached_tokens: 0 };
    const SECOND: u64 = 1_000_000_000;

    fn told(instance: u32, sequence: u64, prompt_tokens_pending: f64) -> Told {
        let report = Report { prompt_tokens_pending, ..Report::default() };
        Told { instance, sequence, draining: false, report, speed: None, calls: [None; 3] }
    }

    fn presumed() -> Speed {
        speed::Speed::default().into()
    }

    fn wait_ms(belief: &Belief, now: Moment) -> f64 {
        belief.estimate(PROMPT, &presumed(), now).terms.wait_ms
    }

    #[test]
    fn an_endpoint_that_has_said_nothing_is_idle_but_for_what_was_sent() {
        let mut belief = Belief::default();
        let idle_ms = wait_ms(&belief, Moment(0));
        belief.placed(PROMPT, Moment(0));
        assert!(wait_ms(&belief, Moment(0)) > idle_ms);
        let estimate = belief.estimate(PROMPT, &presumed(), Moment(0));
        assert_eq!((estimate.age_ms, estimate.placements), (None, 1));
    }

    #[test]
    fn an_older_report_changes_nothing_and_a_new_life_begins_anew() {
        let mut belief = Belief::default();
        assert!(belief.told(told(1, 5, 500.0), Moment(SECOND)));
        assert!(!belief.told(told(1, 4, 900.0), Moment(SECOND + 1)));
        assert!(!belief.told(told(1, 5, 900.0), Moment(SECOND + 1)));
        assert_eq!(belief.last().map(|(_, told)| told.report.prompt_tokens_pending), Some(500.0));
        assert!(belief.told(told(2, 1, 0.0), Moment(SECOND + 2)));
        assert_eq!(belief.last().map(|(_, told)| told.report.prompt_tokens_pending), Some(0.0));
    }

    #[test]
    fn a_report_contains_what_was_sent_well_before_it_came() {
        let mut belief = Belief::default();
        belief.placed(PROMPT, Moment(SECOND));
        belief.placed(PROMPT, Moment(SECOND + ON_ITS_WAY.as_nanos() as u64));
        belief.told(told(1, 1, 0.0), Moment(SECOND + ON_ITS_WAY.as_nanos() as u64 + 1));
        let one = {
            let mut belief = Belief::default();
            belief.placed(PROMPT, Moment(0));
            wait_ms(&belief, Moment(0))
        };
        let now = Moment(SECOND + ON_ITS_WAY.as_nanos() as u64 + 1);
        assert!((wait_ms(&belief, now) - one).abs() < 1e-9, "{} {one}", wait_ms(&belief, now));
    }

    #[test]
    fn a_report_without_calls_says_nothing_of_them_and_a_new_life_knows_of_none() {
        let call = Call { unit: Unit::Bytes, units: 100 };
        let with = |instance, sequence, units_ahead| {
            let report = CallReport { units_ahead, ..CallReport::default() };
            Told { calls: [None, None, Some(report)], ..told(instance, sequence, 0.0) }
        };
        let presumed = CallSpeed { fixed_ms: 0.0, unit_us: 1_000.0, ahead_us: 1_000.0 };
        let wait_ms = |belief: &Belief, call| belief.call_estimate(call, &presumed, Moment(9)).terms.wait_ms;
        let mut belief = Belief::default();
        belief.told(with(1, 1, 40.0), Moment(9));
        belief.told(told(1, 2, 900.0), Moment(9));
        assert_eq!(
            belief.last().and_then(|(_, told)| told.calls[2]).map(|calls| calls.units_ahead),
            Some(40.0)
        );
        belief.call_placed(Call { units: 2, ..call }, Moment(9));
        assert_eq!(wait_ms(&belief, call), 42.0);
        assert_eq!(wait_ms(&belief, Call { unit: Unit::Tokens, ..call }), 0.0);
        belief.told(told(2, 1, 0.0), Moment(9));
        assert_eq!(wait_ms(&belief, call), 2.0);
    }

    #[test]
    fn an_old_report_says_less_and_leaves_room_for_what_others_have_sent() {
        let mut belief = Belief::default();
        let mut busy = told(1, 1, 20_000.0);
        busy.report.arriving = 0.5;
        belief.told(busy, Moment(0));
        let [early, late] = [0, SECOND / 5].map(|now| belief.estimate(PROMPT, &presumed(), Moment(now)));
        assert!(late.terms.wait_ms < early.terms.wait_ms);
        assert_eq!((early.expected_ms, late.expected_ms), (0.0, 100.0));
        assert_eq!(late.age_ms, Some(200.0));
    }

    #[test]
    fn who_takes_nothing_new_does_so_until_its_next_life() {
        let mut belief = Belief::default();
        assert!(!belief.is_draining());
        belief.told(Told { draining: true, ..told(1, 2, 0.0) }, Moment(SECOND));
        belief.told(told(1, 1, 0.0), Moment(2 * SECOND));
        assert!(belief.is_draining(), "that was said before");
        belief.told(told(2, 1, 0.0), Moment(14 * SECOND));
        assert!(!belief.is_draining());
    }
}
