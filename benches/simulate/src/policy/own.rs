//! Policies that know nothing but this sidecar's own sends; round robin and power of two are the sidecar's production code.

use penstock_model::snapshot::LoadBalancer;
use penstock_policy::pick::{Candidate, Draws, Standing, pick};

use crate::trace::Arrival;

use super::{Router, View};

pub(super) struct Random;

impl Router for Random {
    fn choose(&mut self, _: &Arrival, view: &mut View<'_>) -> usize {
        view.draws.below(view.backends.len())
    }
}

/// Each sidecar begins its round somewhere else.
pub(super) struct RoundRobin {
    turn: u64,
}

impl From<usize> for RoundRobin {
    fn from(first: usize) -> Self {
        Self { turn: first as u64 }
    }
}

impl Router for RoundRobin {
    fn choose(&mut self, _: &Arrival, view: &mut View<'_>) -> usize {
        self.turn += 1;
        picked(LoadBalancer::RoundRobin, self.turn, view)
    }
}

pub(super) struct P2c;

impl Router for P2c {
    fn choose(&mut self, _: &Arrival, view: &mut View<'_>) -> usize {
        picked(LoadBalancer::P2c, 0, view)
    }
}

fn picked(balancer: LoadBalancer, turn: u64, view: &mut View<'_>) -> usize {
    let candidate = |in_flight: &u32| Candidate::new(Standing::Usable, *in_flight);
    let candidates: Vec<_> = view.own.in_flight.iter().map(candidate).collect();
    let draws = Draws { first: view.draws.any(), second: view.draws.any(), turn };
    pick(balancer, &candidates, u32::MAX, draws).map_or(0, |pick| pick.index)
}
