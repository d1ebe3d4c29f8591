//! What a pick was made on, kept to be told later.
//!
//! Nothing is computed for it: it holds what the pick had before it. The one chosen, the one that it was compared with and those that
//! were nearest to being chosen are told one by one, the others are counted; so it has a bound however many endpoints a backend has.

use std::net::SocketAddr;

use penstock_model::snapshot::LoadBalancer;

use super::cost::{Choice, Estimate};
use super::{Candidate, NoPick, Open, Pick, Reason, Standing};

/// Endpoints of one pick that are told one by one.
pub const ROWS_MAX: usize = 8;

/// See the module.
#[derive(Clone, Debug, PartialEq)]
pub struct Considered {
    /// How the backend's policy has endpoints chosen.
    pub balancer: LoadBalancer,
    /// Why the one chosen was, or why none was.
    pub result: Result<Reason, NoPick>,
    /// Among which costs it was drawn, where costs decided.
    pub choice: Option<Choice>,
    /// Endpoints by what kept them from being chosen, in the order of [`State::ALL`].
    pub counts: [u32; State::ALL.len()],
    /// The one chosen first, then the others in the order in which they would have been, then those that could not.
    pub rows: Box<[Row]>,
}

/// One endpoint of a pick.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row {
    /// The endpoint.
    pub address: SocketAddr,
    /// What it was in the pick.
    pub role: Role,
    /// Whether it could be chosen.
    pub state: State,
    /// Requests of this sidecar that were under way there.
    pub in_flight: u32,
    /// Prompt tokens of these.
    pub tokens_in_flight: u64,
    /// What placing the request there costs, where that is known.
    pub estimate: Option<Estimate>,
    /// What its weight, and what no load tells, added to that, in milliseconds.
    pub more_ms: f32,
}

impl Row {
    /// The cost by which it was compared, where costs are known.
    pub fn cost_ms(&self) -> Option<f64> {
        Some(self.estimate?.terms.total_ms() + f64::from(self.more_ms))
    }
}

/// What an endpoint was in a pick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It was chosen.
    Chosen,
    /// It was the other of two that were drawn to be compared.
    Compared,
    /// Neither.
    Beside,
}

/// Whether an endpoint could be chosen, and what kept it from that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It could.
    Open,
    /// It has as many requests of this sidecar as it may have.
    Full,
    /// It is not among those that this sidecar uses of a large backend.
    Spare,
    /// This request was sent there before.
    Tried,
    /// It was put aside for ill health.
    Ejected,
    /// It has not said that it is ready.
    Unready,
    /// It has said that it takes no new requests.
    Draining,
    /// It does not serve the model that the request names.
    OtherModel,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 8] = [
        Self::Open,
        Self::Full,
        Self::Spare,
        Self::Tried,
        Self::Ejected,
        Self::Unready,
        Self::Draining,
        Self::OtherModel,
    ];

    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Full => "full",
            Self::Spare => "spare",
            Self::Tried => "tried",
            Self::Ejected => "ejected",
            Self::Unready => "unready",
            Self::Draining => "draining",
            Self::OtherModel => "other_model",
        }
    }

    fn of(candidate: &Candidate, open: Open<'_>) -> Self {
        match candidate.standing {
            _ if open.has(candidate) => Self::Open,
            Standing::Usable | Standing::Spare if candidate.in_flight >= open.in_flight_max => Self::Full,
            // Usable ones are open or full: where spare ones are chosen from, no usable one is left.
            Standing::Usable | Standing::Spare => Self::Spare,
            Standing::Tried => Self::Tried,
            Standing::Ejected => Self::Ejected,
            Standing::Unready => Self::Unready,
            Standing::Draining => Self::Draining,
            Standing::OtherModel => Self::OtherModel,
        }
    }
}

impl Considered {
    /// What `picked` was made on: the arguments of [`pick`](super::pick()), and where each candidate is.
    pub fn of(
        balancer: LoadBalancer,
        candidates: &[Candidate],
        in_flight_max: u32,
        picked: &Result<Pick, NoPick>,
        address: impl Fn(usize) -> SocketAddr,
    ) -> Self {
        let open = Open::of(candidates, in_flight_max);
        let pick = picked.as_ref().ok();
        let believed = pick.and_then(|pick| pick.believed);
        let measure = Measure::of(balancer, believed.is_some());
        let weight_max = open.weight_max();
        let mut counts = [0; State::ALL.len()];
        let mut nearest = Nearest::default();
        for (index, candidate) in candidates.iter().enumerate() {
            let state = State::of(candidate, open);
            counts[state as usize] += 1;
            let role = match pick {
                Some(pick) if pick.index == index => Role::Chosen,
                Some(pick) if pick.against == Some(index) => Role::Compared,
                _ => Role::Beside,
            };
            let distance = measure.distance(candidate, candidate.cost_ms(weight_max));
            nearest.offer(Place { role, state, distance, index });
        }
        let row = |place: &Place| {
            let Candidate { in_flight, tokens_in_flight, estimate, .. } = candidates[place.index];
            let Place { role, state, index, .. } = *place;
            let more = candidates[place.index].cost_ms(weight_max).zip(estimate);
            let more_ms =
                more.map_or(0.0, |(cost_ms, estimate)| (cost_ms - estimate.terms.total_ms()) as f32);
            Row { address: address(index), role, state, in_flight, tokens_in_flight, estimate, more_ms }
        };
        Self {
            balancer,
            result: picked.map(|pick| pick.reason),
            choice: believed.map(|believed| believed.choice),
            counts,
            rows: nearest.places().map(row).collect(),
        }
    }

    /// How many endpoints were in this state.
    pub fn count(&self, state: State) -> u32 {
        self.counts[state as usize]
    }
}

/// By what endpoints were compared.
#[derive(Clone, Copy)]
enum Measure {
    Cost,
    Tokens,
    Requests,
    Nothing,
}

impl Measure {
    fn of(balancer: LoadBalancer, by_cost: bool) -> Self {
        match balancer {
            LoadBalancer::LeastCost if by_cost => Self::Cost,
            LoadBalancer::LeastCost => Self::Tokens,
            LoadBalancer::P2c | LoadBalancer::LeastRequest | LoadBalancer::ConsistentHash => Self::Requests,
            LoadBalancer::RoundRobin | LoadBalancer::Random => Self::Nothing,
        }
    }

    fn distance(self, candidate: &Candidate, cost_ms: Option<f64>) -> f64 {
        match self {
            Self::Cost => cost_ms.unwrap_or(f64::INFINITY),
            Self::Tokens => candidate.tokens(),
            Self::Requests => candidate.requests(),
            Self::Nothing => 0.0,
        }
    }
}

/// A candidate and how near it was to being chosen.
#[derive(Clone, Copy)]
struct Place {
    role: Role,
    state: State,
    distance: f64,
    index: usize,
}

impl Place {
    /// Whether it is told before `other`. Of equal ones the first is.
    fn is_before(&self, other: &Self) -> bool {
        let rank = |place: &Self| (place.role as u8, place.state as u8);
        let ranks = rank(self).cmp(&rank(other)).then(self.distance.total_cmp(&other.distance));
        ranks.then(self.index.cmp(&other.index)).is_lt()
    }
}

/// The first of many, in order, without room for more.
#[derive(Default)]
struct Nearest {
    places: [Option<Place>; ROWS_MAX],
}

impl Nearest {
    fn offer(&mut self, mut place: Place) {
        // Most of many are turned away here.
        if self.places[ROWS_MAX - 1].is_some_and(|last| !place.is_before(&last)) {
            return;
        }
        for held in &mut self.places {
            match held {
                Some(other) if !place.is_before(other) => {}
                Some(other) => std::mem::swap(other, &mut place),
                None => {
                    *held = Some(place);
                    return;
                }
            }
        }
    }

    fn places(&self) -> impl Iterator<Item = &Place> {
        self.places.iter().flatten()
    }
}

#[cfg(test)]
mod tests;
