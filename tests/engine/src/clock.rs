//! The one place that reads time. Everything else is told what time it is.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use crate::scheduler::Moment;

/// Moments count from the start of the server, on the runtime's clock, which tests may pause.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
    unix_ms_at_origin: u64,
}

impl Clock {
    pub(crate) fn start() -> Self {
        #[expect(clippy::disallowed_methods, reason = "this is the clock door")]
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::start_at(unix)
    }

    /// Begins now, which is `unix_time` since 1970 whatever the system says: for simulations.
    pub fn start_at(unix_time: Duration) -> Self {
        Self { origin: Instant::now(), unix_ms_at_origin: unix_time.as_millis() as u64 }
    }

    pub(crate) fn now(&self) -> Moment {
        Moment::from_nanos(self.origin.elapsed().as_nanos() as u64)
    }

    /// Milliseconds since 1970 at `moment`.
    pub(crate) fn unix_ms(&self, moment: Moment) -> u64 {
        self.unix_ms_at_origin + moment.nanos() / 1_000_000
    }

    /// Waits until `moment`; for ever if there is none.
    pub(crate) async fn reach(&self, moment: Option<Moment>) {
        match moment {
            Some(moment) => {
                tokio::time::sleep_until(self.origin + Duration::from_nanos(moment.nanos())).await;
            }
            None => std::future::pending().await,
        }
    }
}
