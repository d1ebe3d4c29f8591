//! When a burst of changes is over: after a quiet time, or after a longest time, whichever comes first.

use std::time::Duration;

use penstock_model::units::Moment;

/// Istio's and Consul's order of magnitude: an editor's save or a `kubectl apply` of many objects is one change.
const QUIET: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(1);

/// A burst of changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Debounce {
    burst: Option<Burst>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Burst {
    first: Moment,
    last: Moment,
}

impl Debounce {
    /// Something changed at `now`.
    pub(crate) fn changed(&mut self, now: Moment) {
        let first = self.burst.map_or(now, |burst| burst.first);
        self.burst = Some(Burst { first, last: now });
    }

    /// When the burst will be over if nothing more changes.
    pub(crate) fn due(&self) -> Option<Moment> {
        self.burst.map(|burst| (burst.last + QUIET).min(burst.first + LONGEST))
    }

    /// Whether a burst is over at `now`; then it is forgotten.
    pub(crate) fn over(&mut self, now: Moment) -> bool {
        let over = self.due().is_some_and(|due| due <= now);
        if over {
            self.burst = None;
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Changes at these milliseconds; looked at after each and every 10 ms; the burst is over at those.
    fn check(changes_ms: &[u64], over_ms: &[u64]) {
        let mut debounce = Debounce::default();
        let mut over = Vec::new();
        for ms in (0..5_000).step_by(10) {
            let now = Moment::default() + Duration::from_millis(ms);
            if changes_ms.contains(&ms) {
                debounce.changed(now);
            }
            if debounce.over(now) {
                over.push(ms);
            }
        }
        assert_eq!(over, over_ms, "{changes_ms:?}");
        assert_eq!(debounce.due(), None);
    }

    #[test]
    fn a_burst_is_over_after_a_quiet_time_or_the_longest_time() {
        check(&[], &[]);
        check(&[0], &[100]);
        check(&[0, 90], &[190]);
        check(&[0, 100], &[200]);
        check(&[0, 110], &[100, 210]);
        check(&[0, 50, 500], &[150, 600]);
        let steady: Vec<u64> = (0..=2_000).step_by(50).collect();
        check(&steady, &[1_000, 2_050]);
    }
}
