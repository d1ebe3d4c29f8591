//! The door to time: nothing else in this package reads a clock.

pub(crate) use tokio::time::Instant;

/// Now, on the runtime's clock.
pub(crate) fn now() -> Instant {
    Instant::now()
}
