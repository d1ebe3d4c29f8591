//! When a metrics page is asked for again. Pure: what was seen and whether there is traffic come in.

use std::time::Duration;

/// While there is traffic: as often as engines write their gauges under load, and no more often than costs them little.
pub(super) const BUSY_PAUSE: Duration = Duration::from_millis(200);
/// Without: whoever asks for nothing has little to be corrected.
pub(super) const IDLE_PAUSE: Duration = Duration::from_secs(5);
/// So long after the last request there counts as traffic: requests come in bursts.
pub(super) const LINGER: Duration = Duration::from_secs(5);
/// After a page, at least so many times as long as it took: it is made by the process that serves requests.
const PAUSES_PER_PAGE: u32 = 9;
/// After the first failure; doubled by each further one of its kind.
const FAILED_PAUSE: Duration = Duration::from_secs(1);
/// At most, where nobody answers, or an engine answers late: one that starts or is overloaded is met soon.
const SILENT_PAUSE_MAX: Duration = Duration::from_secs(5);
/// At most, where there is no page that can be read: most such applications never have one, and asking may cost them much.
const UNFIT_PAUSE_MAX: Duration = Duration::from_secs(60);

/// What an asking met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// A page.
    Page {
        /// How long it took.
        took: Duration,
    },
    /// Nobody there, or an answer that says to come later.
    Silence,
    /// No answer in time.
    Late,
    /// An answer that is no page of a known engine.
    Unfit,
}

/// Whether the application has requests, or had some just now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Traffic {
    /// It has.
    Some,
    /// It has not.
    None,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Pace {
    last: Option<Seen>,
    /// There was a page once.
    is_engine: bool,
    /// Failures of this kind in a row.
    failures: u32,
}

impl Pace {
    /// The page was asked for.
    pub(super) fn saw(&mut self, seen: Seen) {
        let is_same = self.last == Some(seen);
        self.failures = if is_same { self.failures.saturating_add(1) } else { 1 };
        self.is_engine |= matches!(seen, Seen::Page { .. });
        self.last = Some(seen);
    }

    /// How long to wait from then on.
    pub(super) fn pause(&self, traffic: Traffic) -> Duration {
        match (self.last, traffic) {
            (None, _) => Duration::ZERO,
            (Some(Seen::Page { took }), Traffic::Some) => BUSY_PAUSE.max(took * PAUSES_PER_PAGE),
            (Some(Seen::Page { took }), Traffic::None) => IDLE_PAUSE.max(took * PAUSES_PER_PAGE),
            (Some(Seen::Silence), _) => self.doubled().min(SILENT_PAUSE_MAX),
            (Some(Seen::Late), _) if self.is_engine => self.doubled().min(SILENT_PAUSE_MAX),
            (Some(Seen::Late | Seen::Unfit), _) => self.doubled().min(UNFIT_PAUSE_MAX),
        }
    }

    fn doubled(&self) -> Duration {
        FAILED_PAUSE * (1 << (self.failures.clamp(1, 10) - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Seen = Seen::Page { took: Duration::from_millis(3) };

    fn check(seen: &[Seen], traffic: Traffic, expected_ms: &[u64]) {
        let mut pace = Pace::default();
        let pauses = seen.iter().map(|seen| {
            pace.saw(*seen);
            u64::try_from(pace.pause(traffic).as_millis()).unwrap()
        });
        assert_eq!(pauses.collect::<Vec<_>>(), expected_ms, "{seen:?} {traffic:?}");
    }

    #[test]
    fn a_page_is_asked_for_often_under_traffic_and_seldom_without() {
        check(&[QUICK; 3], Traffic::Some, &[200; 3]);
        check(&[QUICK; 3], Traffic::None, &[5_000; 3]);
    }

    #[test]
    fn a_page_that_takes_long_is_asked_for_in_a_tenth_of_the_time() {
        let slow = Seen::Page { took: Duration::from_millis(100) };
        check(&[slow, QUICK], Traffic::Some, &[900, 200]);
    }

    #[test]
    fn what_fails_is_asked_ever_more_seldom_whatever_the_traffic() {
        for traffic in [Traffic::Some, Traffic::None] {
            check(&[Seen::Silence; 5], traffic, &[1_000, 2_000, 4_000, 5_000, 5_000]);
            let unfit = [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000];
            check(&[Seen::Unfit; 8], traffic, &unfit);
            check(&[Seen::Late; 8], traffic, &unfit);
        }
        check(
            &[Seen::Unfit; 100],
            Traffic::Some,
            &[&[1_000, 2_000, 4_000, 8_000, 16_000, 32_000][..], &[60_000; 94]].concat(),
        );
    }

    #[test]
    fn an_engine_that_answers_late_is_asked_again_soon() {
        let seen = [QUICK, Seen::Late, Seen::Late, Seen::Late, Seen::Late];
        check(&seen, Traffic::Some, &[200, 1_000, 2_000, 4_000, 5_000]);
    }

    #[test]
    fn another_answer_begins_anew() {
        let seen = [Seen::Unfit, Seen::Unfit, Seen::Silence, Seen::Unfit, QUICK, Seen::Silence];
        check(&seen, Traffic::Some, &[1_000, 2_000, 1_000, 1_000, 200, 1_000]);
    }
}
