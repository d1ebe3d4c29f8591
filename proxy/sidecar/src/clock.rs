//! The door to time. Everything else in this package asks here, so that a paused runtime owns all of it.

use std::sync::OnceLock;
use std::time::{Duration, UNIX_EPOCH};

use penstock_model::units::Moment;
use tokio::time::Instant;

static ORIGIN: OnceLock<Instant> = OnceLock::new();

/// Now, in nanoseconds since the process first asked.
pub fn now() -> Moment {
    let origin = *ORIGIN.get_or_init(Instant::now);
    Moment(u64::try_from(origin.elapsed().as_nanos()).unwrap_or(u64::MAX))
}

/// The runtime's instant for `moment`, to sleep until.
pub fn instant(moment: Moment) -> Instant {
    *ORIGIN.get_or_init(Instant::now) + Duration::from_nanos(moment.0)
}

/// Wall-clock time since 1970, for logs and certificates.
#[expect(clippy::disallowed_methods, reason = "this is the door")]
pub fn unix_time() -> Duration {
    std::time::SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
