//! Whether one exchange keeps a promise.
//!
//! An exchange is **good** once it is proven good and **bad** once it is proven bad; what remains open when it ends depends on
//! how it ended:
//!
//! | ended by | open questions count as | why |
//! |---|---|---|
//! | success | not counted | there was nothing to measure: no tokens, or one token and so no gap |
//! | failure, shed | bad | the caller was promised an answer and got none; else refusing everybody would keep every SLO |
//! | cancelled | not counted | the caller left before the threshold, so nobody knows |
//!
//! A first token within the threshold proves a TTFT good, whatever follows. A gap, or a wait for the first token, or a duration,
//! beyond the threshold proves bad at that moment, so a caller that gives up on a slow server is counted. A mean (TPOT) proves
//! nothing before the end.

use std::time::Duration;

use penstock_model::names::{BackendId, RouteId};
use penstock_model::snapshot::{Indicator, Objective, Slo, SloTarget};

use crate::judge::Class;

/// What is measured of one exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished<'a> {
    /// How it ended.
    pub class: Class,
    /// From the request's headers to the last byte, or to the end otherwise.
    pub duration: Duration,
    /// From the request's headers to the first content token; absent where none came or none was looked for.
    pub ttft: Option<Duration>,
    /// Mean time from token to token; absent below two tokens.
    pub tpot: Option<Duration>,
    /// Longest time from token to token, and from the last token to the end where the answer is not whole; absent without a
    /// token.
    pub gap_longest: Option<Duration>,
    /// Model that the request named.
    pub model: Option<&'a str>,
    /// Whether the request asked for a stream.
    pub is_streaming: bool,
}

/// What an exchange adds to an objective's counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// One that kept the promise.
    Good,
    /// One that broke it.
    Bad,
    /// Nothing: it is not what the objective is about, or nothing is known.
    NotCounted,
}

/// What an enforced SLO promises to one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Promised {
    /// Time to its first token.
    pub first_token: Option<Duration>,
    /// Mean time between its further tokens.
    pub token: Option<Duration>,
}

/// The strictest of what SLOs that are enforced promise to a request for `model`; those that are not promise nothing.
pub fn promised<'a>(
    slos: impl Iterator<Item = &'a Slo>,
    model: Option<&str>,
    is_streaming: bool,
) -> Promised {
    let mut promised = Promised::default();
    let objectives = slos.filter(|slo| slo.sheds).flat_map(|slo| &slo.objectives);
    for objective in objectives.filter(|objective| concerns(objective, model, is_streaming)) {
        let (held, threshold) = match (objective.indicator, objective.threshold) {
            (Indicator::Ttft, Some(threshold)) => (&mut promised.first_token, threshold),
            (Indicator::Tpot, Some(threshold)) => (&mut promised.token, threshold),
            _ => continue,
        };
        *held = Some(held.map_or(threshold, |held| held.min(threshold)));
    }
    promised
}

/// Whether an SLO is about requests that a rule of `route` has matched, or that go to `backend`.
pub fn is_about(target: &SloTarget, backend: Option<&BackendId>, rule: Option<(&RouteId, &str)>) -> bool {
    match target {
        SloTarget::Backend(named) => backend == Some(named),
        SloTarget::Route { route, rule: wanted } => rule
            .is_some_and(|(id, name)| id == route && wanted.as_deref().is_none_or(|wanted| wanted == name)),
    }
}

fn concerns(objective: &Objective, model: Option<&str>, is_streaming: bool) -> bool {
    let is_other_model = objective.model.is_some() && objective.model.as_deref() != model;
    let is_other_mode = objective.streaming.is_some_and(|streaming| streaming != is_streaming);
    !is_other_model && !is_other_mode
}

/// Counts one exchange for one objective.
pub fn count(objective: &Objective, finished: &Finished<'_>) -> Count {
    if !concerns(objective, finished.model, finished.is_streaming) {
        return Count::NotCounted;
    }
    let proof = match (objective.indicator, objective.threshold) {
        (Indicator::Availability, _) => (finished.class == Class::Success).then_some(Count::Good),
        // The compiler refuses such an objective: there is nothing to compare with.
        (_, None) => return Count::NotCounted,
        (Indicator::Ttft, Some(most)) => ttft(finished, most),
        (Indicator::Tpot, Some(most)) => tpot(finished, most),
        (Indicator::Itl, Some(most)) => longest_gap(finished, most),
        (Indicator::E2e, Some(most)) => duration(finished, most),
    };
    proof.unwrap_or(match finished.class {
        Class::Success | Class::Cancelled => Count::NotCounted,
        Class::Failure | Class::Shed => Count::Bad,
    })
}

fn ttft(finished: &Finished<'_>, most: Duration) -> Option<Count> {
    match (finished.ttft, finished.class) {
        (Some(measured), _) => Some(compare(measured, most)),
        // Until the caller left it waited in vain; an answer without tokens is no such wait.
        (None, Class::Cancelled) if finished.duration > most => Some(Count::Bad),
        (None, _) => None,
    }
}

fn tpot(finished: &Finished<'_>, most: Duration) -> Option<Count> {
    let measured = finished.tpot.filter(|_| finished.class == Class::Success)?;
    Some(compare(measured, most))
}

fn longest_gap(finished: &Finished<'_>, most: Duration) -> Option<Count> {
    let compared = compare(finished.gap_longest?, most);
    (finished.class == Class::Success || compared == Count::Bad).then_some(compared)
}

fn duration(finished: &Finished<'_>, most: Duration) -> Option<Count> {
    let compared = compare(finished.duration, most);
    (finished.class == Class::Success || compared == Count::Bad).then_some(compared)
}

fn compare(measured: Duration, most: Duration) -> Count {
    if measured <= most { Count::Good } else { Count::Bad }
}

#[cfg(test)]
mod tests {
    use Class::{Cancelled, Failure, Shed, Success};
    use Count::{Bad, Good, NotCounted};
    use Indicator::{Availability, E2e, Itl, Tpot, Ttft};

    use super::*;

    const THRESHOLD_MS: u64 = 100;

    fn objective(indicator: Indicator) -> Objective {
        Objective {
            name: "o".into(),
            indicator,
            threshold: (indicator != Availability).then_some(Duration::from_millis(THRESHOLD_MS)),
            target_millionths: 990_000,
            model: None,
            streaming: None,
        }
    }

    #[test]
    fn of_what_is_enforced_the_strictest_is_promised() {
        let slo = |sheds, objectives: Vec<Objective>| Slo {
            id: penstock_model::names::SloId::new("default", "o"),
            target: SloTarget::Backend(BackendId::new("default", "chat")),
            window: Duration::from_secs(3_600),
            objectives,
            sheds,
        };
        let within =
            |ms, indicator| Objective { threshold: Some(Duration::from_millis(ms)), ..objective(indicator) };
        let slos = [
            slo(false, vec![within(1, Ttft)]),
            slo(true, vec![within(300, Ttft), within(40, Tpot), objective(Availability), within(5, E2e)]),
            slo(true, vec![Objective { model: Some("large".into()), ..within(200, Ttft) }]),
            slo(true, vec![Objective { streaming: Some(true), ..within(30, Tpot) }]),
        ];
        let check = |model, is_streaming, expected_ms: [Option<u64>; 2]| {
            let Promised { first_token, token } = promised(slos.iter(), model, is_streaming);
            assert_eq!(
                [first_token, token],
                expected_ms.map(|ms| ms.map(Duration::from_millis)),
                "{model:?}"
            );
        };
        check(None, false, [Some(300), Some(40)]);
        check(Some("large"), false, [Some(200), Some(40)]);
        check(Some("small"), true, [Some(300), Some(30)]);
        assert_eq!(promised(slos[..1].iter(), None, true), Promised::default());
    }

    /// An exchange that lasted a second, with no token.
    fn finished(class: Class) -> Finished<'static> {
        Finished {
            class,
            duration: Duration::from_secs(1),
            ttft: None,
            tpot: None,
            gap_longest: None,
            model: Some("m"),
            is_streaming: true,
        }
    }

    /// `measured_ms` is the value of the indicator, everything else being far from the threshold.
    fn check(indicator: Indicator, class: Class, measured_ms: Option<u64>, expected: Count) {
        let measured = measured_ms.map(Duration::from_millis);
        let mut finished = finished(class);
        match indicator {
            Ttft => finished.ttft = measured,
            Tpot => finished.tpot = measured,
            Itl => finished.gap_longest = measured,
            E2e => finished.duration = measured.unwrap(),
            Availability => {}
        }
        assert_eq!(
            count(&objective(indicator), &finished),
            expected,
            "{indicator:?} {class:?} {measured_ms:?}"
        );
    }

    #[test]
    fn a_threshold_is_kept_up_to_and_including_it() {
        for indicator in [Ttft, Tpot, Itl, E2e] {
            check(indicator, Success, Some(THRESHOLD_MS), Good);
            check(indicator, Success, Some(THRESHOLD_MS + 1), Bad);
        }
    }

    #[test]
    fn an_answer_without_tokens_keeps_and_breaks_no_promise_about_tokens() {
        for indicator in [Ttft, Tpot, Itl] {
            check(indicator, Success, None, NotCounted);
        }
    }

    #[test]
    fn what_was_not_answered_breaks_every_promise_still_open() {
        for class in [Failure, Shed] {
            for indicator in [Ttft, Tpot, Itl, Availability] {
                check(indicator, class, None, Bad);
            }
            check(E2e, class, Some(1), Bad);
        }
        check(Tpot, Failure, Some(1), Bad);
        check(Itl, Failure, Some(1), Bad);
    }

    #[test]
    fn a_first_token_in_time_is_good_whatever_follows() {
        for class in [Success, Failure, Cancelled] {
            check(Ttft, class, Some(1), Good);
            check(Ttft, class, Some(THRESHOLD_MS + 1), Bad);
        }
    }

    #[test]
    fn a_caller_that_leaves_early_is_not_counted() {
        check(Tpot, Cancelled, Some(1), NotCounted);
        check(Tpot, Cancelled, Some(500), NotCounted);
        check(Itl, Cancelled, Some(1), NotCounted);
        check(Itl, Cancelled, None, NotCounted);
        check(E2e, Cancelled, Some(THRESHOLD_MS), NotCounted);
        check(Availability, Cancelled, None, NotCounted);
        let early = Finished { duration: Duration::from_millis(THRESHOLD_MS), ..finished(Cancelled) };
        assert_eq!(count(&objective(Ttft), &early), NotCounted);
    }

    #[test]
    fn a_caller_that_gives_up_on_a_slow_server_is_counted() {
        check(Ttft, Cancelled, None, Bad); // a second without a token
        check(Itl, Cancelled, Some(500), Bad);
        check(E2e, Cancelled, Some(500), Bad);
    }

    #[test]
    fn an_answer_is_available() {
        check(Availability, Success, None, Good);
    }

    #[test]
    fn only_requests_that_the_objective_is_about_are_counted() {
        for (model, streaming, expected) in [
            (None, None, Good),
            (Some("m"), None, Good),
            (Some("other"), None, NotCounted),
            (None, Some(true), Good),
            (None, Some(false), NotCounted),
            (Some("m"), Some(true), Good),
            (Some("m"), Some(false), NotCounted),
        ] {
            let objective = Objective { model: model.map(Into::into), streaming, ..objective(Availability) };
            assert_eq!(count(&objective, &finished(Success)), expected, "{model:?} {streaming:?}");
        }
        let nameless = Finished { model: None, ..finished(Success) };
        let about = Objective { model: Some("m".into()), ..objective(Availability) };
        assert_eq!(count(&about, &nameless), NotCounted);
    }
}
