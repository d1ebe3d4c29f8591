//! Consistent hashing with bounded loads: the same prefix goes to the same endpoint, unless that has more than 1.25 times its share
//! of this sidecar's requests in flight; then to the next in the key's own order.
//!
//! The key is the session, else the prompt's second block (many prompts of a service share the first), else drawn. The order is by highest random weight, which moves as few
//! keys as a ring does when endpoints come and go.

use crate::trace::Arrival;

use super::{Router, View};

const BOUND: f64 = 1.25;

pub(super) struct BoundedLoads;

impl Router for BoundedLoads {
    fn choose(&mut self, arrival: &Arrival, view: &mut View<'_>) -> usize {
        let count = view.count();
        let key = match (arrival.session, arrival.blocks.get(1).or(arrival.blocks.first())) {
            (Some(session), _) => u64::from(session) + 1,
            (None, Some(block)) => *block,
            (None, None) => view.draws.any(),
        };
        let in_flight: u32 = view.own.in_flight.iter().sum();
        let bound = (BOUND * f64::from(in_flight + 1) / count as f64).ceil();
        let open = |place: &usize| f64::from(view.own.in_flight[*place]) < bound;
        (0..count).filter(open).max_by_key(|place| weight(key, *place)).unwrap_or(0)
    }
}

fn weight(key: u64, place: usize) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(&key.to_le_bytes(), place as u64)
}
