//! Which addresses a name has, and when it is asked for again.
//!
//! The two families are asked for apart, and each keeps its own last answer:
//!
//! | outcome | addresses | asked again after |
//! |---|---|---|
//! | found | the new ones | their time to live, within bounds |
//! | nothing there (no such name, or none of this family) | none: whoever runs the name says so | its time to live, within bounds |
//! | failed (no answer, or one that says nothing) | the last ones stay, stale | 1 s, doubling up to the upper bound |
//!
//! A wait is drawn from its last tenth, so that sidecars that started together do not ask together.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

/// What a look-up of one family of addresses brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Addresses; none where the name has none of this family, or does not exist.
    Found {
        /// In any order.
        addresses: BTreeSet<IpAddr>,
        /// How long that holds.
        ttl: Duration,
    },
    /// It could not be found out.
    Failed,
}

/// Bounds on the time between two look-ups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Not sooner.
    pub ttl_min: Duration,
    /// Not later. At least `ttl_min`.
    pub ttl_max: Duration,
}

/// First wait after a failure.
const RETRY_MIN: Duration = Duration::from_secs(1);

/// What is known of a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolution {
    v4: Family,
    v6: Family,
    failures: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Family {
    addresses: BTreeSet<IpAddr>,
    is_stale: bool,
}

impl Resolution {
    /// Takes in a look-up of both families and says how long to wait for the next. `share` is a draw from 0 to 1.
    pub fn learn(&mut self, v4: Outcome, v6: Outcome, bounds: Bounds, share: f64) -> Duration {
        let ttls = [self.v4.learn(v4), self.v6.learn(v6)];
        let wait = if self.is_stale() {
            let doubled = RETRY_MIN.saturating_mul(1 << self.failures.min(16));
            self.failures = self.failures.saturating_add(1);
            doubled.min(bounds.ttl_max)
        } else {
            self.failures = 0;
            ttls.into_iter().flatten().min().unwrap_or(bounds.ttl_max).clamp(bounds.ttl_min, bounds.ttl_max)
        };
        wait.mul_f64(0.9 + 0.1 * share.clamp(0.0, 1.0))
    }

    /// Its addresses, in order.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.v4.addresses.iter().chain(&self.v6.addresses).copied()
    }

    /// Whether the last look-up failed, at least for one family.
    pub fn is_stale(&self) -> bool {
        self.v4.is_stale || self.v6.is_stale
    }
}

impl Family {
    fn learn(&mut self, outcome: Outcome) -> Option<Duration> {
        match outcome {
            Outcome::Found { addresses, ttl } => {
                *self = Self { addresses, is_stale: false };
                Some(ttl)
            }
            Outcome::Failed => {
                self.is_stale = true;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { ttl_min: Duration::from_secs(2), ttl_max: Duration::from_secs(60) };

    fn found(addresses: &[&str], ttl_s: u64) -> Outcome {
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        Outcome::Found { addresses, ttl: Duration::from_secs(ttl_s) }
    }

    /// After each look-up: addresses, staleness, wait in seconds (the draw being 1).
    fn check(steps: &[(Outcome, Outcome, &[&str], bool, u64)]) {
        let mut resolution = Resolution::default();
        for (step, (v4, v6, addresses, is_stale, wait_s)) in steps.iter().enumerate() {
            let wait = resolution.learn(v4.clone(), v6.clone(), BOUNDS, 1.0);
            let known: Vec<String> = resolution.addresses().map(|address| address.to_string()).collect();
            assert_eq!(known, *addresses, "step {step}");
            assert_eq!(resolution.is_stale(), *is_stale, "step {step}");
            assert_eq!(wait, Duration::from_secs(*wait_s), "step {step}");
        }
    }

    #[test]
    fn both_families_count_and_the_shorter_time_to_live_within_bounds() {
        check(&[
            (
                found(&["10.0.0.2", "10.0.0.1"], 30),
                found(&["fd00::1"], 20),
                &["10.0.0.1", "10.0.0.2", "fd00::1"],
                false,
                20,
            ),
            (found(&["10.0.0.1"], 0), found(&[], 20), &["10.0.0.1"], false, 2),
            (found(&["10.0.0.1"], 86_400), found(&[], 86_400), &["10.0.0.1"], false, 60),
        ]);
    }

    #[test]
    fn a_failure_keeps_the_last_answer_of_its_family_alone() {
        check(&[
            (found(&["10.0.0.1"], 30), found(&["fd00::1"], 30), &["10.0.0.1", "fd00::1"], false, 30),
            (found(&["10.0.0.2"], 30), Outcome::Failed, &["10.0.0.2", "fd00::1"], true, 1),
            (Outcome::Failed, Outcome::Failed, &["10.0.0.2", "fd00::1"], true, 2),
            (Outcome::Failed, Outcome::Failed, &["10.0.0.2", "fd00::1"], true, 4),
            (found(&["10.0.0.3"], 30), found(&[], 30), &["10.0.0.3"], false, 30),
            (Outcome::Failed, found(&[], 30), &["10.0.0.3"], true, 1),
        ]);
    }

    #[test]
    fn nothing_there_is_an_answer() {
        check(&[
            (found(&["10.0.0.1"], 5), found(&[], 5), &["10.0.0.1"], false, 5),
            (found(&[], 10), found(&[], 10), &[], false, 10),
        ]);
    }

    #[test]
    fn failures_wait_no_longer_than_the_upper_bound_and_draws_take_a_tenth() {
        let mut resolution = Resolution::default();
        let mut waits = Vec::new();
        for _ in 0..20 {
            waits.push(resolution.learn(Outcome::Failed, Outcome::Failed, BOUNDS, 1.0));
        }
        assert!(waits.is_sorted());
        assert_eq!(waits.last(), Some(&BOUNDS.ttl_max));
        let wait = resolution.learn(found(&[], 10), found(&[], 10), BOUNDS, 0.0);
        assert_eq!(wait, Duration::from_secs(9));
    }
}
