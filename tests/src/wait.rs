//! Waiting on state, with a deadline that only a defect reaches.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::{Instant, sleep, timeout};

/// Far above what anything here takes, also on two cores that others use too.
const DEADLINE: Duration = Duration::from_secs(60);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(5);

/// Looks until there is something to see. `look` says what it saw instead.
///
/// # Panics
/// When the deadline passes; the message ends with what was seen last.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Result<T, String>) -> T {
    let begun = Instant::now();
    loop {
        let seen = match look().await {
            Ok(found) => return found,
            Err(seen) => seen,
        };
        assert!(begun.elapsed() < DEADLINE, "never: {what}; last seen: {seen}");
        sleep(PAUSE).await;
    }
}

/// What `work` gives.
///
/// # Panics
/// When it gives nothing before the deadline.
pub async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    match timeout(DEADLINE, work).await {
        Ok(done) => done,
        Err(_) => panic!("never: {what}"),
    }
}

/// Milliseconds since 1970, as engines and access logs count them.
#[expect(clippy::disallowed_methods, reason = "the harness's clock door")]
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    u64::try_from(since.as_millis()).expect("a clock before the year 584 million")
}
