//! Prequal in its synchronous mode: three endpoints are asked when a request comes, so their answers are as new as a round trip.
//!
//! An endpoint is hot when it has more requests in flight than the 0.84 quantile of the last answers. Among cold ones the least
//! latency wins, among hot ones the fewest requests. The asynchronous mode reuses probes of earlier requests; a sidecar that sends one
//! request in ten seconds has none that is still true.

use std::collections::VecDeque;

use crate::trace::Arrival;

use super::{Router, View};

const PROBES: usize = 3;
const POOL: usize = 16;
const HOT_QUANTILE: f64 = 0.84;

#[derive(Default)]
pub(super) struct Prequal {
    in_flight: VecDeque<u32>,
}

impl Prequal {
    fn hot_from(&self) -> u32 {
        let mut sorted: Vec<u32> = self.in_flight.iter().copied().collect();
        sorted.sort_unstable();
        let at = (sorted.len().saturating_sub(1) as f64 * HOT_QUANTILE).floor() as usize;
        sorted.get(at).copied().unwrap_or(0)
    }
}

impl Router for Prequal {
    fn choose(&mut self, _: &Arrival, view: &mut View<'_>) -> usize {
        let mut places: Vec<usize> = (0..view.count()).collect();
        let probes = PROBES.min(places.len());
        for at in 0..probes {
            let other = at + view.draws.below(places.len() - at);
            places.swap(at, other);
        }
        places.truncate(probes);
        for place in &places {
            let truth = view.backends[*place].truth(view.now_ns);
            self.in_flight.push_back(truth.running + truth.waiting);
        }
        while self.in_flight.len() > POOL {
            self.in_flight.pop_front();
        }
        let hot_from = self.hot_from();
        let rank = |place: &usize| {
            let truth = view.backends[*place].truth(view.now_ns);
            let in_flight = truth.running + truth.waiting;
            let hot = in_flight > hot_from;
            let second = if hot { f64::from(in_flight) } else { view.backends[*place].to_first_ns() };
            (hot, second)
        };
        let better =
            |one: &(bool, f64), other: &(bool, f64)| one.0.cmp(&other.0).then(one.1.total_cmp(&other.1));
        let ranked = places.into_iter().map(|place| (rank(&place), place));
        ranked.min_by(|one, other| better(&one.0, &other.0)).map_or(0, |(_, place)| place)
    }
}
