//! Whom a request asks how they stand before it is placed for the last time: what was believed of those who refused it was wrong, and
//! what is believed of the others may be as old.
//!
//! ```text
//!   refused, and again ─► who is cheap, by reports that are old? ─► ask those ─► choose once more, by what they say
//! ```
//!
//! A question is a round trip without a body to a few endpoints at once. Where reports are young, nobody is asked, and what they cost is
//! paid where many sidecars share an endpoint, whose reports come seldom. Nor is anybody asked for memory: that is given back by answers
//! that take many seconds, so reports are not too old for it, and who lacks it lacks it everywhere. Under 1.5 times the load of a pool
//! that is short of it, all would ask, and go where there was some a moment ago.

use super::Estimate;
use crate::gate::{REFUSALS_MAX, Refusal};

/// Endpoints that one request asks at most. Of more, the dearest by what is known are not asked.
const ASKED_MAX: usize = 8;

/// Milliseconds for which a report is as good as an answer: with reports that are at most 50 ms old, capacity is what it is where all
/// is known at once (`benches/simulate/README.md`).
pub const YOUNG_MS: f64 = 100.0;

/// Whether a request asks, now that it was refused so often, and whether for want of memory once.
pub fn is_worth_asking(refusals: u8, lacks_memory: bool) -> bool {
    refusals == REFUSALS_MAX && !lacks_memory
}

/// Whether a refusal was for want of memory. A reason that is not known is none.
pub fn lacks_memory(reason: Option<Refusal>) -> bool {
    reason == Some(Refusal::Memory)
}

/// Those to ask, of the places where the request may still go, with what is believed of each.
pub fn whom_to_ask(known: impl IntoIterator<Item = (usize, Estimate)>) -> Vec<usize> {
    let is_old = |(_, estimate): &(usize, Estimate)| estimate.age_ms.is_none_or(|age_ms| age_ms > YOUNG_MS);
    let mut old: Vec<(usize, Estimate)> = known.into_iter().filter(is_old).collect();
    old.sort_by(|(_, one), (_, other)| one.terms.total_ms().total_cmp(&other.terms.total_ms()));
    old.into_iter().take(ASKED_MAX).map(|(place, _)| place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pick::cost::Terms;

    #[track_caller]
    fn check(known: &[(f64, Option<f64>)], expected: &[usize]) {
        let known = known.iter().map(|(wait_ms, age_ms)| Estimate {
            terms: Terms { wait_ms: *wait_ms, ..Terms::default() },
            expected_ms: 0.0,
            age_ms: *age_ms,
            placements: 0,
            cached_tokens: 0,
        });
        assert_eq!(whom_to_ask(known.enumerate()), expected);
    }

    #[test]
    fn those_whose_reports_are_old_are_asked_the_cheapest_first() {
        check(&[(30.0, Some(101.0)), (20.0, Some(100.0)), (10.0, Some(5_000.0)), (40.0, None)], &[2, 0, 3]);
        check(&[(30.0, Some(2.0)), (20.0, Some(50.0))], &[]);
    }

    #[test]
    fn only_who_has_one_choice_left_asks_and_nobody_for_memory() {
        let asks = |refusals| is_worth_asking(refusals, false);
        assert_eq!([0, 1, 2, 3].map(asks), [false, false, true, false]);
        assert!(!is_worth_asking(2, true));
        let lacking: Vec<_> = Refusal::ALL.into_iter().filter(|reason| lacks_memory(Some(*reason))).collect();
        assert_eq!((lacking, lacks_memory(None)), (vec![Refusal::Memory], false));
    }

    #[test]
    fn of_many_only_the_cheapest_are_asked() {
        let many: Vec<_> = (0..64).map(|place| (f64::from(64 - place), Some(1_000.0))).collect();
        check(&many, &[63, 62, 61, 60, 59, 58, 57, 56]);
    }
}
