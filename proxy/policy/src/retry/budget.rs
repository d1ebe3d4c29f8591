//! How many retries a sidecar may add to the load of a backend that is failing.
//!
//! Over the last ten seconds retries stay below 20 % of requests plus ten for each second, as the Gateway API's retry budget and
//! Linkerd have it: the share bounds the added load when there is much traffic, the constant lets a quiet caller retry at all.
//!
//! The window is ten buckets of one second, the current one among them, so it spans nine to ten seconds.

use penstock_model::units::Moment;

/// Length of the window in seconds, and number of buckets.
const WINDOW_S: usize = 10;
/// Retries for each hundred requests.
const RETRIES_PERCENT: u64 = 20;
/// Retries for each second of the window, with no request at all.
const RETRIES_PER_S: u64 = 10;

/// One backend's budget of retries.
#[derive(Clone, Debug, Default)]
pub struct RetryBudget {
    buckets: [Bucket; WINDOW_S],
    /// The newest second seen: time that goes back counts as no time.
    newest_s: u64,
}

/// Whether a request was sent for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It was, as far as we can see.
    First,
    /// The caller says that it retries (`x-stainless-retry-count` of 1 or more).
    Repeat,
}

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    /// The second that it counts.
    at_s: u64,
    requests: u64,
    retries: u64,
}

impl RetryBudget {
    /// Counts a request of the caller. A repeat is charged as a retry, so that the caller's retries and ours have one budget.
    pub fn arrived(&mut self, arrival: Arrival, now: Moment) {
        let bucket = self.bucket(now);
        match arrival {
            Arrival::First => bucket.requests += 1,
            Arrival::Repeat => bucket.retries += 1,
        }
    }

    /// Takes one retry; false, and nothing taken, where there is none left.
    #[must_use]
    pub fn take(&mut self, now: Moment) -> bool {
        self.bucket(now);
        let since_s = (self.newest_s + 1).saturating_sub(WINDOW_S as u64);
        let (mut requests, mut retries) = (0, 0);
        for bucket in self.buckets.iter().filter(|bucket| bucket.at_s >= since_s) {
            requests += bucket.requests;
            retries += bucket.retries;
        }
        let is_left = retries * 100 < requests * RETRIES_PERCENT + RETRIES_PER_S * WINDOW_S as u64 * 100;
        if is_left {
            self.bucket(now).retries += 1;
        }
        is_left
    }

    fn bucket(&mut self, now: Moment) -> &mut Bucket {
        self.newest_s = self.newest_s.max(now.0 / 1_000_000_000);
        let at_s = self.newest_s;
        let bucket = &mut self.buckets[(at_s % WINDOW_S as u64) as usize];
        if bucket.at_s != at_s {
            *bucket = Bucket { at_s, ..Bucket::default() };
        }
        bucket
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at_s(seconds: u64) -> Moment {
        Moment(seconds * 1_000_000_000)
    }

    /// Retries that can be taken at `now`, after `first` and `repeats` have arrived at their seconds.
    fn check(first: &[(u64, u32)], repeats: &[(u64, u32)], now: u64, expected: usize) {
        let mut budget = RetryBudget::default();
        let mut arrivals: Vec<_> = first.iter().map(|&(s, n)| (s, n, Arrival::First)).collect();
        arrivals.extend(repeats.iter().map(|&(s, n)| (s, n, Arrival::Repeat)));
        arrivals.sort_by_key(|&(s, ..)| s);
        for (s, count, arrival) in arrivals {
            (0..count).for_each(|_| budget.arrived(arrival, at_s(s)));
        }
        let taken = (0..10_000).take_while(|_| budget.take(at_s(now))).count();
        assert_eq!(taken, expected, "first {first:?}, repeats {repeats:?}, at {now} s");
    }

    #[test]
    fn a_quiet_caller_may_retry_ten_times_a_second() {
        check(&[], &[], 0, 100);
    }

    #[test]
    fn a_fifth_of_the_requests_may_be_retried_beyond_that() {
        check(&[(0, 1_000)], &[], 0, 300);
        check(&[(0, 4)], &[], 0, 101);
        check(&[(0, 5)], &[], 0, 101);
    }

    #[test]
    fn requests_count_for_the_window_alone() {
        check(&[(0, 1_000)], &[], 9, 300);
        check(&[(0, 1_000)], &[], 10, 100);
    }

    #[test]
    fn the_callers_own_retries_are_charged() {
        check(&[(0, 1_000)], &[(0, 250)], 0, 50);
        check(&[(0, 100)], &[(3, 500)], 5, 0);
    }

    #[test]
    fn time_that_goes_back_frees_nothing() {
        let mut budget = RetryBudget::default();
        while budget.take(at_s(20)) {}
        assert!(!budget.take(at_s(3)));
        assert!(!budget.take(at_s(29)));
        assert!(budget.take(at_s(30)));
    }

    /// The same rule over a list of all that ever happened.
    #[derive(Default)]
    struct Twin {
        newest_s: u64,
        requests_at: Vec<u64>,
        retries_at: Vec<u64>,
    }

    impl Twin {
        fn see(&mut self, now: Moment) -> u64 {
            self.newest_s = self.newest_s.max(now.0 / 1_000_000_000);
            self.newest_s
        }

        fn take(&mut self, now: Moment) -> bool {
            let now_s = self.see(now);
            let recent = |at: &[u64]| at.iter().filter(|&&s| now_s - s < 10).count() as f64;
            let is_left = recent(&self.retries_at) < recent(&self.requests_at) / 5.0 + 100.0;
            if is_left {
                self.retries_at.push(now_s);
            }
            is_left
        }
    }

    proptest! {
        #[test]
        fn buckets_agree_with_a_list_of_everything(
            steps in prop::collection::vec((0u64..4_000, 0u8..3, 1u16..120), 1..60),
            back_ms in 0u64..3_000,
        ) {
            let (mut budget, mut twin) = (RetryBudget::default(), Twin::default());
            let mut now_ms = 0u64;
            for (step, &(pause_ms, kind, count)) in steps.iter().enumerate() {
                now_ms += pause_ms;
                // Every seventh step sees a clock that has gone back.
                let seen_ms = if step % 7 == 6 { now_ms.saturating_sub(back_ms) } else { now_ms };
                let now = Moment(seen_ms * 1_000_000);
                for _ in 0..count {
                    match kind {
                        0 => {
                            budget.arrived(Arrival::First, now);
                            let at = twin.see(now);
                            twin.requests_at.push(at);
                        }
                        1 => {
                            budget.arrived(Arrival::Repeat, now);
                            let at = twin.see(now);
                            twin.retries_at.push(at);
                        }
                        _ => prop_assert_eq!(budget.take(now), twin.take(now), "step {} at {} ms", step, now_ms),
                    }
                }
            }
        }
    }
}
