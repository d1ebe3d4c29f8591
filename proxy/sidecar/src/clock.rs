//! The door to time. Everything else in this package asks here, so that a paused runtime owns all of it.
//!
//! A simulation runs whole sidecars on one thread and owns the time of that thread, the time of day with it: [`simulate`].

use std::cell::Cell;
use std::sync::OnceLock;
use std::time::{Duration, UNIX_EPOCH};

use penstock_model::units::Moment;
use tokio::time::Instant;

static ORIGIN: OnceLock<Instant> = OnceLock::new();

thread_local! {
    static SIMULATED: Cell<Option<Simulated>> = const { Cell::new(None) };
}

#[derive(Clone, Copy)]
struct Simulated {
    origin: Instant,
    unix_time: Duration,
}

/// From here on the time of this thread is the runtime's alone: it begins now, at `unix_time` since 1970.
pub fn simulate(unix_time: Duration) {
    SIMULATED.set(Some(Simulated { origin: Instant::now(), unix_time }));
}

fn origin() -> Instant {
    match SIMULATED.get() {
        Some(simulated) => simulated.origin,
        None => *ORIGIN.get_or_init(Instant::now),
    }
}

/// Now, in nanoseconds since the process first asked.
pub fn now() -> Moment {
    let origin = origin();
    Moment(u64::try_from(origin.elapsed().as_nanos()).unwrap_or(u64::MAX))
}

/// The runtime's instant for `moment`, to sleep until.
pub fn instant(moment: Moment) -> Instant {
    origin() + Duration::from_nanos(moment.0)
}

/// Wall-clock time since 1970, for logs and certificates.
#[expect(clippy::disallowed_methods, reason = "this is the door")]
pub fn unix_time() -> Duration {
    match SIMULATED.get() {
        Some(Simulated { origin, unix_time }) => unix_time + origin.elapsed(),
        None => std::time::SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_simulation_s_time_of_day_goes_with_the_runtime_s_clock() {
        simulate(Duration::from_secs(1_000));
        tokio::time::sleep(Duration::from_secs(3_600)).await;
        assert_eq!(now(), Moment(3_600_000_000_000));
        assert_eq!(unix_time(), Duration::from_secs(4_600));
        assert_eq!(instant(now()), Instant::now());
        SIMULATED.set(None);
    }
}
