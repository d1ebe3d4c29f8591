//! Peak EWMA: the cheaper of two by past latency × (own requests + 1), as Finagle and Linkerd do it.
//!
//! Latency is that to the first token, which is when a proxy sees an answer begin. A slower one counts at once; a faster one moves
//! the average with a decay of 10 s. An endpoint without history costs 30 ms (Linkerd's constants).

use crate::trace::Arrival;

use super::{Router, View};

const DECAY_NS: f64 = 10e9;
const DEFAULT_NS: f64 = 30e6;

#[derive(Clone, Copy)]
struct Average {
    latency_ns: f64,
    at_ns: u64,
}

pub(super) struct PeakEwma {
    averages: Vec<Average>,
}

impl PeakEwma {
    pub(super) fn over(endpoints: usize) -> Self {
        Self { averages: vec![Average { latency_ns: DEFAULT_NS, at_ns: 0 }; endpoints] }
    }

    fn cost(&self, place: usize, view: &View<'_>) -> f64 {
        let average = self.averages[place];
        let kept = (-(view.now_ns.saturating_sub(average.at_ns) as f64) / DECAY_NS).exp();
        average.latency_ns * kept * f64::from(view.own.in_flight[place] + 1)
    }
}

impl Router for PeakEwma {
    fn choose(&mut self, _: &Arrival, view: &mut View<'_>) -> usize {
        let count = view.count();
        let one = view.draws.below(count);
        let other = (one + 1 + view.draws.below(count.saturating_sub(1))) % count;
        if self.cost(other, view) < self.cost(one, view) { other } else { one }
    }

    fn first_token(&mut self, place: usize, now_ns: u64, to_first_ns: u64) {
        let average = &mut self.averages[place];
        let kept = (-(now_ns.saturating_sub(average.at_ns) as f64) / DECAY_NS).exp();
        let latency_ns = to_first_ns as f64;
        average.latency_ns = if latency_ns > average.latency_ns {
            latency_ns
        } else {
            average.latency_ns * kept + latency_ns * (1.0 - kept)
        };
        average.at_ns = now_ns;
    }
}
