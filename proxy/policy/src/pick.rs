//! Which endpoint takes an attempt.
//!
//! The caller describes each endpoint as a [`Candidate`]; the policy of the backend says how one is chosen. An endpoint that is
//! ejected or not ready, was tried for this request already, or has as many requests as it may have, is never chosen, whatever the policy.
//!
//! Every policy reads the same candidates and draws; a new one is an arm of [`pick`]. Marginal cost needs to know what the request is
//! and what each endpoint has said of itself: where either is missing, prompt tokens outstanding decide.

mod considered;
pub mod cost;
mod p2c;
mod round_robin;
pub mod session;
pub mod subset;

use std::fmt;

use penstock_model::snapshot::LoadBalancer;

use self::cost::{Choice, Estimate, Terms, Weights};
use crate::place;
pub use considered::{Considered, ROWS_MAX, Role, Row, State};

/// One endpoint, as seen when an attempt is about to be made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Whether it may be chosen at all.
    pub standing: Standing,
    /// Requests that this sidecar has sent to it and that have not ended, to the last byte of the answer.
    pub in_flight: u32,
    /// Prompt tokens of these requests.
    pub tokens_in_flight: u64,
    /// What placing the request there costs; `None` where the endpoint has no sidecar to tell, or the request has no prompt.
    pub estimate: Option<Estimate>,
    /// Its share of the load beside the others'; at least 1.
    pub weight: u32,
    /// Milliseconds added to what the request costs there, for what no load tells: see [`AFFINITY_MS`] and the like.
    pub handicap_ms: f64,
    /// How much it is the home of the request's session (see [`session::rank`]); `None` where sessions keep nothing together, or the
    /// request has none.
    pub rank: Option<f64>,
}

/// What the endpoints that are not the home of a request's session cost more. As much as the gate lets beliefs be wrong: a home that is
/// loaded more than that above others is worse than another place, whatever it remembers.
pub const AFFINITY_MS: f64 = Weights::CHOSEN.margin_ms;

/// What endpoints in another zone cost more, where the own is preferred. The way there takes a millisecond or two; the rest is for the
/// money, and stays below the half second that first tokens are mostly promised in.
pub const ZONE_MS: f64 = 200.0;

/// What endpoints cost more that have not loaded the LoRA adapter that another one has. Engines load one of rank 16 from a local disk in
/// some hundred milliseconds, and hold up everybody meanwhile.
pub const ADAPTER_MS: f64 = 400.0;

impl Candidate {
    /// One with this standing and load, like any other in everything else.
    pub fn new(standing: Standing, in_flight: u32) -> Self {
        Self {
            standing,
            in_flight,
            tokens_in_flight: 0,
            estimate: None,
            weight: 1,
            handicap_ms: 0.0,
            rank: None,
        }
    }

    /// Requests there for each unit of weight, with the one that is to be placed.
    fn requests(&self) -> f64 {
        (f64::from(self.in_flight) + 1.0) / f64::from(self.weight)
    }

    /// Prompt tokens there for each unit of weight.
    fn tokens(&self) -> f64 {
        // A request without a prompt that is known is no nothing.
        self.tokens_in_flight as f64 / f64::from(self.weight) + self.requests()
    }

    /// What placing the request there counts for, where that is known: the cost by its weight, and what no load tells.
    fn cost_ms(&self, weight_max: u32) -> Option<f64> {
        let total_ms = self.estimate?.terms.total_ms();
        Some(total_ms * (f64::from(weight_max) / f64::from(self.weight)) + self.handicap_ms)
    }
}

/// Whether an endpoint may be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It may.
    Usable,
    /// This request was sent there before: never again to the endpoint that just failed.
    Tried,
    /// It may where no other can be used: it is not among those that this sidecar uses of a large backend.
    Spare,
    /// It was put aside for ill health.
    Ejected,
    /// It has not said that it is ready.
    Unready,
    /// It takes no new requests: it has said so, or its weight is 0.
    Draining,
    /// It does not serve the model that the request names.
    OtherModel,
}

impl Standing {
    /// Whether it can be chosen, if only where no other can.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Usable | Self::Spare)
    }
}

/// The randomness and the turn of one pick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draws {
    /// Uniform over all values.
    pub first: u64,
    /// Uniform over all values, independent of `first`.
    pub second: u64,
    /// How many picks this sidecar has made for the backend before; wraps.
    pub turn: u64,
}

/// The endpoint chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pick {
    /// Its place among the candidates.
    pub index: usize,
    /// Why this one.
    pub reason: Reason,
    /// What was believed when costs decided.
    pub believed: Option<Believed>,
    /// The other of two that were compared, where two were drawn.
    pub against: Option<usize>,
}

/// Times to the first token on which a choice by cost was made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Believed {
    /// At the endpoint chosen.
    pub terms: Terms,
    /// The least of the others'; infinite where there is no other.
    pub next_best_ms: f64,
    /// Among which costs it was drawn.
    pub choice: Choice,
}

/// Why an endpoint was chosen; the `reason` of `penstock_lb_picks_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It was the only one that could be.
    Only,
    /// It had the least load of those that were compared.
    LeastLoad,
    /// Costs decided.
    LeastCost,
    /// By lot.
    Lot,
    /// It was its turn.
    Turn,
    /// The request's session belongs there, or would if its home had room.
    Affinity,
}

impl Reason {
    /// Label value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Only => "only",
            Self::LeastLoad => "least_load",
            Self::LeastCost => "least_cost",
            Self::Lot => "lot",
            Self::Turn => "turn",
            Self::Affinity => "affinity",
        }
    }
}

/// Why no endpoint was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPick {
    /// There is none, or all are ejected or not ready: 503 `no_endpoints`.
    NoEndpoints,
    /// All that could be used have been tried: the last fault is the answer.
    AllTried,
    /// All that could be used have as many requests as they may have: 429 `overloaded`.
    AllFull,
    /// None of those that are there serves the model: 404 `no_route`.
    NoModel,
}

impl fmt::Display for NoPick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoEndpoints => "the backend has no endpoint that is ready",
            Self::AllTried => "every endpoint of the backend that is ready has been tried",
            Self::AllFull => "every endpoint of the backend has as many requests as it may have",
            Self::NoModel => "no endpoint of the backend serves the model",
        })
    }
}

impl std::error::Error for NoPick {}

/// Among which of them a choice is made: those that this sidecar uses, or the spare ones where none of those has room. What others
/// would cost need not be known.
pub fn among(candidates: &[Candidate], in_flight_max: u32) -> Standing {
    Open::of(candidates, in_flight_max).standing
}

/// Chooses an endpoint.
///
/// `in_flight_max` is the policy's `requests_per_endpoint_max`.
///
/// # Errors
/// Why none can be chosen; see [`NoPick`].
pub fn pick(
    balancer: LoadBalancer,
    candidates: &[Candidate],
    in_flight_max: u32,
    draws: Draws,
) -> Result<Pick, NoPick> {
    let open = Open::of(candidates, in_flight_max);
    let count = open.count();
    if count == 0 {
        return Err(open.why_none());
    }
    let picked = |index, reason| Pick { index, reason, believed: None, against: None };
    let at_home = |index| picked(index, Reason::Affinity);
    let of_two = |(index, against)| Pick { against, ..picked(index, Reason::LeastLoad) };
    let picked = match balancer {
        LoadBalancer::LeastCost => match least_cost(open, draws) {
            Some((index, reason, believed)) => Pick { believed: Some(believed), ..picked(index, reason) },
            None => by_session(open)
                .map_or_else(|| of_two(p2c::choose(open, count, draws, Open::tokens)), at_home),
        },
        _ if let Some(home) = by_session(open) => at_home(home),
        LoadBalancer::P2c | LoadBalancer::ConsistentHash => {
            of_two(p2c::choose(open, count, draws, Open::requests))
        }
        LoadBalancer::LeastRequest => {
            picked(p2c::least_of_all(open, draws.first, Open::requests), Reason::LeastLoad)
        }
        LoadBalancer::RoundRobin => picked(round_robin::choose(open, count, draws.turn), Reason::Turn),
        LoadBalancer::Random => picked(open.at(place(draws.first, open.weight())), Reason::Lot),
    };
    Ok(Pick { reason: if count == 1 { Reason::Only } else { picked.reason }, ..picked })
}

/// The place that costs draw, where they are known of all that are open.
fn least_cost(open: Open<'_>, draws: Draws) -> Option<(usize, Reason, Believed)> {
    let mut expected_ms = 0.0;
    let weight_max = open.weight_max();
    let mut costs_ms = vec![f64::INFINITY; open.candidates.len()];
    for (index, candidate) in open.iter() {
        let estimate = candidate.estimate?;
        expected_ms += estimate.expected_ms;
        costs_ms[index] = candidate.cost_ms(weight_max)?;
    }
    let choice = cost::choose(&costs_ms, expected_ms * Weights::CHOSEN.spread, draws.first)?;
    let index = choice.place;
    let others = open.iter().filter(|(other, _)| *other != index);
    let next_best_ms = others
        .filter_map(|(_, candidate)| candidate.estimate)
        .map(|estimate| estimate.terms.first_token_ms())
        .fold(f64::INFINITY, f64::min);
    let terms = open.candidates[index].estimate?.terms;
    let reason = if session::home(open) == Some(index) { Reason::Affinity } else { Reason::LeastCost };
    Some((index, reason, Believed { terms, next_best_ms, choice }))
}

/// The place where the request's session keeps it, if that is asked for and it has one.
fn by_session(open: Open<'_>) -> Option<usize> {
    session::choose(open)
}

/// One of `count`, by lot.
fn chosen(draw: u64, count: usize) -> usize {
    usize::try_from(place(draw, count as u64)).unwrap_or(0)
}

/// The candidates that can be chosen now. Found by counting, so that a pick allocates nothing.
#[derive(Clone, Copy)]
struct Open<'a> {
    candidates: &'a [Candidate],
    standing: Standing,
    in_flight_max: u32,
}

impl<'a> Open<'a> {
    /// Those that this sidecar uses; where none of them can be chosen, the spare ones.
    fn of(candidates: &'a [Candidate], in_flight_max: u32) -> Self {
        let own = Self { candidates, standing: Standing::Usable, in_flight_max };
        if own.count() > 0 { own } else { Self { standing: Standing::Spare, ..own } }
    }

    /// Places among all candidates, with what stands there.
    fn iter(self) -> impl Iterator<Item = (usize, &'a Candidate)> {
        self.candidates.iter().enumerate().filter(move |(_, candidate)| self.has(candidate))
    }

    fn has(self, candidate: &Candidate) -> bool {
        candidate.standing == self.standing && candidate.in_flight < self.in_flight_max
    }

    fn count(self) -> usize {
        self.iter().count()
    }

    /// Place among all candidates of the `n`th open one; `n` must be below [`count`](Self::count).
    fn nth(self, n: usize) -> usize {
        self.iter().nth(n).map_or(0, |(index, _)| index)
    }

    /// Place among all candidates of the open one in whose share of all weights `at`, below [`weight`](Self::weight), lies.
    fn at(self, at: u64) -> usize {
        let mut left = at;
        let found = self.iter().find(|(_, candidate)| {
            let weight = u64::from(candidate.weight);
            let is_here = left < weight;
            left = left.saturating_sub(weight);
            is_here
        });
        found.map_or(0, |(index, _)| index)
    }

    fn weight(self) -> u64 {
        self.iter().map(|(_, candidate)| u64::from(candidate.weight)).sum()
    }

    fn weight_max(self) -> u32 {
        self.iter().map(|(_, candidate)| candidate.weight).max().unwrap_or(1)
    }

    fn requests(self, index: usize) -> f64 {
        self.candidates[index].requests()
    }

    fn tokens(self, index: usize) -> f64 {
        self.candidates[index].tokens()
    }

    fn why_none(self) -> NoPick {
        let any = |standing| self.candidates.iter().any(|c| c.standing == standing);
        if any(Standing::Usable) || any(Standing::Spare) {
            NoPick::AllFull
        } else if any(Standing::Tried) {
            NoPick::AllTried
        } else if any(Standing::OtherModel) {
            NoPick::NoModel
        } else {
            NoPick::NoEndpoints
        }
    }
}

#[cfg(test)]
mod tests;
