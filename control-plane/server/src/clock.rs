//! The door to time: nothing else in this package reads a clock.

use std::time::{Duration, SystemTime};

use penstock_model::units::Moment;
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

/// The time of day, for certificates and for people.
#[expect(clippy::disallowed_methods, reason = "this is the package's clock door")]
pub(crate) fn time_of_day() -> OffsetDateTime {
    SystemTime::now().into()
}
