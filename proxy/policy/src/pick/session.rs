//! Which endpoint a session belongs to: the same one for every sidecar, without a word between them.
//!
//! Each endpoint has a rank for each session (rendezvous hashing, weighted: Schindelhauer and Schomaker, 2005); the highest is the
//! session's home. When an endpoint comes or goes, only the sessions move whose home it becomes or was. A home that has more than
//! [`BOUND`] times its share of this sidecar's requests takes no further ones, and they go to the next in rank, so that a session that
//! all the world uses fills nobody (consistent hashing with bounded loads: Mirrokni, Thorup, Zadimoghaddam, 2018).

use std::hash::{Hash, Hasher};

use siphasher::sip::SipHasher13;

use super::{AFFINITY_MS, Candidate, Open};

/// Share of the mean load up to which an endpoint takes what is its own: what HAProxy and KubeAI recommend.
const BOUND: f64 = 1.25;

/// Requests at one endpoint that are no load, whatever the mean is.
const SPARE_MIN: f64 = 4.0;

/// How much an endpoint of this weight, at least 1, is the home of a session: the endpoint with the highest rank is. Positive.
pub fn rank<T: Hash>(session: &str, endpoint: &T, weight: u32) -> f64 {
    let mut hasher = SipHasher13::new();
    session.hash(&mut hasher);
    endpoint.hash(&mut hasher);
    // In the open interval from 0 to 1: 53 bits are what a float holds.
    let draw = ((hasher.finish() >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    f64::from(weight) / -draw.ln()
}

/// Makes a request dearer everywhere but at its session's home.
pub fn prefer_home(candidates: &mut [Candidate]) {
    let ranked = candidates.iter().filter(|candidate| candidate.standing.is_open());
    let Some(highest) = ranked.filter_map(|candidate| candidate.rank).max_by(f64::total_cmp) else { return };
    for candidate in
        candidates.iter_mut().filter(|candidate| candidate.rank.is_some_and(|rank| rank < highest))
    {
        candidate.handicap_ms += AFFINITY_MS;
    }
}

/// Where the session belongs, if endpoints have ranks.
pub(super) fn home(open: Open<'_>) -> Option<usize> {
    highest(open, |_| true)
}

/// The first in rank that has room within the bounds.
pub(super) fn choose(open: Open<'_>) -> Option<usize> {
    let (mut in_flight, mut weight) = (1.0, 0.0);
    for (_, candidate) in open.iter() {
        in_flight += f64::from(candidate.in_flight);
        weight += f64::from(candidate.weight);
    }
    let has_room = |candidate: &Candidate| {
        let share = in_flight * f64::from(candidate.weight) / weight;
        f64::from(candidate.in_flight) + 1.0 <= (share * BOUND).ceil().max(SPARE_MIN)
    };
    highest(open, has_room)
}

/// The highest in rank of those that `takes` is true for.
fn highest(open: Open<'_>, takes: impl Fn(&Candidate) -> bool) -> Option<usize> {
    let taking = open.iter().filter(|(_, candidate)| takes(candidate));
    let ranked = taking.filter_map(|(index, candidate)| Some((index, candidate.rank?)));
    ranked.max_by(|(_, one), (_, other)| one.total_cmp(other)).map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home_of(session: &str, endpoints: &[(u32, u32)]) -> u32 {
        let ranked = endpoints.iter().map(|(endpoint, weight)| (rank(session, endpoint, *weight), *endpoint));
        ranked.max_by(|one, other| one.0.total_cmp(&other.0)).unwrap().1
    }

    #[test]
    fn only_the_sessions_of_an_endpoint_that_goes_move() {
        let all: Vec<_> = (0..10).map(|endpoint| (endpoint, 1)).collect();
        for session in (0..500).map(|n| format!("session-{n}")) {
            let home = home_of(&session, &all);
            for gone in 0..10 {
                let rest: Vec<_> = all.iter().copied().filter(|(endpoint, _)| *endpoint != gone).collect();
                assert!(home == gone || home_of(&session, &rest) == home, "{session} {gone}");
            }
        }
    }

    #[test]
    fn sessions_are_shared_by_weight() {
        let endpoints = [(1, 1), (2, 1), (3, 2)];
        let mut counts = [0u32; 4];
        for session in (0..4_000).map(|n| format!("s{n}")) {
            counts[home_of(&session, &endpoints) as usize] += 1;
        }
        // 1000, 1000 and 2000 are expected; 28 and 32 are one standard deviation.
        let far = [1_000, 1_000, 2_000].iter().zip(&counts[1..]).map(|(mean, count)| count.abs_diff(*mean));
        assert!(far.max().unwrap() < 130, "{counts:?}");
    }
}
