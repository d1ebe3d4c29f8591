//! The account of the calls that one server works on: embeddings, reranking, tensors, anything that is no generated text.
//!
//! A call is at work from the moment at which it is sent on until its answer begins; a stream of events is computed while it comes, so
//! there it is until the end. Its caller may leave before. Nothing in here ends by a timer.
//!
//! What is counted in tokens, in items and in bytes is kept apart, and so is generated text on the same server. What they take from each
//! other is not reckoned: it is in the speeds that are learned, and makes them less certain.

use penstock_model::units::Moment;

use crate::lately::Lately;
use crate::pick::cost::CallReport;
use crate::speed::{Call, CallLearner, CallTrack, Unit};

/// Everything that is known of calls, by what they are counted in. Nothing of a unit that no call had yet.
#[derive(Clone, Debug, Default)]
pub struct Calls {
    accounts: [Option<Account>; Unit::ALL.len()],
}

#[derive(Clone, Debug)]
struct Account {
    learner: CallLearner,
    /// Milliseconds of work.
    arriving: Lately,
}

/// A call's place in the account.
#[derive(Debug)]
#[must_use = "a call that has entered must leave"]
pub struct CallEntry {
    unit: Unit,
    track: CallTrack,
}

impl CallEntry {
    /// What it is counted in.
    pub fn unit(&self) -> Unit {
        self.unit
    }
}

impl Calls {
    /// A call is sent to the server.
    pub fn enter(&mut self, call: Call, now: Moment) -> CallEntry {
        let Call { unit, units } = call;
        let account = self.accounts[unit as usize].get_or_insert_with(|| Account {
            learner: CallLearner::starting(unit.presumed_speed()),
            arriving: Lately::default(),
        });
        let work_ms = account.learner.speed().work_ms(f64::from(units));
        account.arriving.add(work_ms, now);
        CallEntry { unit, track: account.learner.sent(units.into(), now) }
    }

    /// Its answer has been computed.
    #[expect(clippy::needless_pass_by_value, reason = "who has left must not be heard of again")]
    pub fn answered(&mut self, entry: CallEntry, now: Moment) {
        if let Some(account) = &mut self.accounts[entry.unit as usize] {
            account.learner.answered(&entry.track, now);
        }
    }

    /// Its caller has left, or it failed: nothing is learned from it.
    #[expect(clippy::needless_pass_by_value, reason = "who has left must not be heard of again")]
    pub fn left(&mut self, entry: CallEntry) {
        if let Some(account) = &mut self.accounts[entry.unit as usize] {
            account.learner.left(&entry.track);
        }
    }

    /// How they stand at `now`, by unit.
    pub fn report(&self, now: Moment) -> [Option<CallReport>; Unit::ALL.len()] {
        self.accounts.each_ref().map(|account| {
            let account = account.as_ref()?;
            let learner = &account.learner;
            Some(CallReport {
                units_ahead: learner.units_open(),
                arriving: account.arriving.rate(now),
                speed: learner.is_shown().then(|| learner.speed()),
            })
        })
    }

    /// Relative errors of what is known of their speeds, by unit; 0 to 1.
    pub fn errors(&self) -> impl Iterator<Item = (Unit, f64)> {
        let errors = self.accounts.iter().map(|account| account.as_ref().map(|known| known.learner.error()));
        Unit::ALL.into_iter().zip(errors).filter_map(|(unit, error)| Some((unit, error?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Moment {
        Moment(ms * 1_000_000)
    }

    fn call(unit: Unit, units: u32) -> Call {
        Call { unit, units }
    }

    fn ahead(calls: &Calls, unit: Unit) -> Option<f64> {
        calls.report(at(0))[unit as usize].map(|report| report.units_ahead)
    }

    #[test]
    fn a_call_is_there_until_it_is_answered_or_left_and_units_are_never_added_up() {
        let mut calls = Calls::default();
        assert_eq!(calls.report(at(0)), [None; 3]);
        let tokens =
            [calls.enter(call(Unit::Tokens, 500), at(0)), calls.enter(call(Unit::Tokens, 70), at(0))];
        let bytes = calls.enter(call(Unit::Bytes, 9_000), at(0));
        assert_eq!(Unit::ALL.map(|unit| ahead(&calls, unit)), [Some(570.0), None, Some(9_000.0)]);
        let [one, other] = tokens;
        calls.answered(one, at(5));
        assert_eq!(ahead(&calls, Unit::Tokens), Some(70.0));
        calls.left(other);
        calls.left(bytes);
        assert_eq!(Unit::ALL.map(|unit| ahead(&calls, unit)), [Some(0.0), None, Some(0.0)]);
    }

    #[test]
    fn its_speed_is_told_when_calls_have_shown_it_and_what_arrives_fades() {
        let mut calls = Calls::default();
        // One after the other, 20 ms each, half of the time idle.
        for number in 0..500 {
            let entry = calls.enter(call(Unit::Items, 1), at(number * 40));
            assert_eq!(entry.unit(), Unit::Items);
            if number == 3 {
                assert_eq!(calls.report(at(120))[Unit::Items as usize].and_then(|report| report.speed), None);
            }
            calls.answered(entry, at(number * 40 + 20));
        }
        let report = calls.report(at(20_000))[Unit::Items as usize].expect("a report");
        let alone_ms = report.speed.map(|speed| speed.call_ms(1.0, 0.0)).expect("a speed");
        assert!((alone_ms - 20.0).abs() < 0.5, "{alone_ms}");
        assert_eq!(
            calls.errors().map(|(unit, error)| (unit, error < 0.05)).collect::<Vec<_>>(),
            [(Unit::Items, true)]
        );
        let later = calls.report(at(40_000))[Unit::Items as usize].expect("a report");
        assert!((later.arriving / report.arriving - (-2.0f64).exp()).abs() < 1e-6, "{report:?} {later:?}");
    }
}
