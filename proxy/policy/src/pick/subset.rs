//! Which endpoints of a large backend one sidecar uses.
//!
//! A sidecar that sends everywhere holds a connection, and hears reports, from every endpoint, and every endpoint's sidecar from every
//! caller's: the product of both. With more than [`ENDPOINTS_MAX`] each sidecar uses that many, those that score highest with its own key
//! (rendezvous hashing). So each endpoint is used by about as many sidecars as any other, and when one comes or goes, at most one of a
//! sidecar's own changes. The others are there for when none of its own can be used.

use std::hash::{Hash, Hasher};

use siphasher::sip::SipHasher13;

/// Endpoints that a sidecar uses at once. Water filling over so many is as good as over all; the load that one sidecar makes is spread
/// over more of them than it has requests in a second.
pub const ENDPOINTS_MAX: usize = 64;

/// For each of `endpoints`, whether the sidecar with `key` uses it. Keys that are drawn apart give subsets that are.
pub fn members<T: Hash>(key: u64, endpoints: &[T]) -> Vec<bool> {
    if endpoints.len() <= ENDPOINTS_MAX {
        return vec![true; endpoints.len()];
    }
    let mut scored: Vec<(u64, usize)> =
        endpoints.iter().enumerate().map(|(place, endpoint)| (score(key, endpoint), place)).collect();
    scored.sort_unstable_by(|one, other| other.cmp(one));
    let mut members = vec![false; endpoints.len()];
    for (_, place) in &scored[..ENDPOINTS_MAX] {
        members[*place] = true;
    }
    members
}

fn score<T: Hash>(key: u64, endpoint: &T) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(key, 0);
    endpoint.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(key: u64, endpoints: &[u32]) -> Vec<u32> {
        let members = members(key, endpoints);
        endpoints.iter().zip(members).filter_map(|(endpoint, is_one)| is_one.then_some(*endpoint)).collect()
    }

    #[test]
    fn a_small_backend_is_used_whole_and_a_large_one_in_part() {
        for (count, expected) in [(0, 0), (1, 1), (64, 64), (65, 64), (1_000, 64)] {
            let endpoints: Vec<u32> = (0..count).collect();
            assert_eq!(chosen(1, &endpoints).len(), expected, "{count}");
        }
    }

    #[test]
    fn one_that_goes_is_replaced_by_one_and_nobody_else_changes() {
        let endpoints: Vec<u32> = (0..500).collect();
        let before = chosen(7, &endpoints);
        for gone in &before {
            let rest: Vec<u32> = endpoints.iter().copied().filter(|endpoint| endpoint != gone).collect();
            let after = chosen(7, &rest);
            assert_eq!(before.iter().filter(|endpoint| after.contains(endpoint)).count(), 63, "{gone}");
        }
        let other = endpoints.iter().find(|endpoint| !before.contains(endpoint)).unwrap();
        let rest: Vec<u32> = endpoints.iter().copied().filter(|endpoint| endpoint != other).collect();
        assert_eq!(chosen(7, &rest), before);
    }

    #[test]
    fn every_endpoint_is_used_by_about_as_many_sidecars() {
        let endpoints: Vec<u32> = (0..256).collect();
        let mut used = vec![0u32; 256];
        for key in 0..1_000u64 {
            for endpoint in chosen(key.wrapping_mul(0x9e37_79b9_7f4a_7c15), &endpoints) {
                used[endpoint as usize] += 1;
            }
        }
        // 250 on average, and 14 is one standard deviation.
        assert!(used.iter().all(|count| count.abs_diff(250) < 70), "{used:?}");
    }
}
