//! The door to time: nothing else in this package reads a clock.
//!
//! A simulation runs the whole program on one thread and owns the time of that thread, the time of day with it: [`simulate`].

use std::cell::Cell;
use std::time::{Duration, SystemTime};

use penstock_model::units::Moment;
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;
use time::OffsetDateTime;
use tokio::time::Instant;

/// Time since the process built its parts, on the runtime's clock, so that a test may pause it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    origin: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { origin: Instant::now() }
    }

    pub(crate) fn now(self) -> Moment {
        Moment::default() + self.origin.elapsed()
    }

    pub(crate) async fn sleep_until(self, moment: Moment) {
        tokio::time::sleep_until(self.origin + moment.since(Moment::default())).await;
    }

    /// Waits for ever when there is no such moment.
    pub(crate) async fn sleep_until_some(self, moment: Option<Moment>) {
        match moment {
            Some(moment) => self.sleep_until(moment).await,
            None => std::future::pending().await,
        }
    }

    pub(crate) async fn sleep(self, span: Duration) {
        tokio::time::sleep(span).await;
    }
}

thread_local! {
    static SIMULATED: Cell<Option<(Instant, Duration)>> = const { Cell::new(None) };
}

/// From here on the time of day of this thread is the runtime's alone: it is `unix_time` since 1970 now.
pub fn simulate(unix_time: Duration) {
    SIMULATED.set(Some((Instant::now(), unix_time)));
}

/// The time of day, for certificates and for people.
#[expect(clippy::disallowed_methods, reason = "this is the package's clock door")]
pub(crate) fn time_of_day() -> OffsetDateTime {
    match SIMULATED.get() {
        Some((origin, unix_time)) => OffsetDateTime::UNIX_EPOCH + unix_time + origin.elapsed(),
        None => SystemTime::now().into(),
    }
}

/// The time of day for TLS, which would otherwise ask the system.
#[derive(Debug)]
pub(crate) struct TimeOfDay;

impl TimeProvider for TimeOfDay {
    fn current_time(&self) -> Option<UnixTime> {
        let since = Duration::try_from(time_of_day() - OffsetDateTime::UNIX_EPOCH).ok()?;
        Some(UnixTime::since_unix_epoch(since))
    }
}
