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
    /// It has said that it takes no new requests.
    Draining,
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
}

impl fmt::Display for NoPick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoEndpoints => "the backend has no endpoint that is ready",
            Self::AllTried => "every endpoint of the backend that is ready has been tried",
            Self::AllFull => "every endpoint of the backend has as many requests as it may have",
        })
    }
}

impl std::error::Error for NoPick {}

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
    let of_two = |(index, against)| Pick { against, ..picked(index, Reason::LeastLoad) };
    let picked = match balancer {
        LoadBalancer::LeastCost => match least_cost(open, draws) {
            Some((index, believed)) => Pick { believed: Some(believed), ..picked(index, Reason::LeastCost) },
            None => of_two(p2c::choose(open, count, draws, Open::tokens_in_flight)),
        },
        LoadBalancer::P2c => of_two(p2c::choose(open, count, draws, Open::in_flight)),
        LoadBalancer::LeastRequest => {
            picked(p2c::least_of_all(open, draws.first, Open::in_flight), Reason::LeastLoad)
        }
        LoadBalancer::RoundRobin => picked(round_robin::choose(open, count, draws.turn), Reason::Turn),
        LoadBalancer::Random => picked(open.nth(chosen(draws.first, count)), Reason::Lot),
    };
    Ok(Pick { reason: if count == 1 { Reason::Only } else { picked.reason }, ..picked })
}

/// The place that costs draw, where they are known of all that are open.
fn least_cost(open: Open<'_>, draws: Draws) -> Option<(usize, Believed)> {
    let mut expected_ms = 0.0;
    let mut costs_ms = vec![f64::INFINITY; open.candidates.len()];
    for (index, candidate) in open.iter() {
        let estimate = candidate.estimate?;
        expected_ms += estimate.expected_ms;
        costs_ms[index] = estimate.terms.total_ms();
    }
    let choice = cost::choose(&costs_ms, expected_ms * Weights::CHOSEN.spread, draws.first)?;
    let index = choice.place;
    let others = open.iter().filter(|(other, _)| *other != index);
    let next_best_ms = others
        .filter_map(|(_, candidate)| candidate.estimate)
        .map(|estimate| estimate.terms.first_token_ms())
        .fold(f64::INFINITY, f64::min);
    let terms = open.candidates[index].estimate?.terms;
    Some((index, Believed { terms, next_best_ms, choice }))
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

    fn in_flight(self, index: usize) -> u64 {
        u64::from(self.candidates[index].in_flight)
    }

    fn tokens_in_flight(self, index: usize) -> u64 {
        // A request without a prompt that is known is no nothing.
        self.candidates[index].tokens_in_flight + self.in_flight(index)
    }

    fn why_none(self) -> NoPick {
        let any = |standing| self.candidates.iter().any(|c| c.standing == standing);
        if any(Standing::Usable) || any(Standing::Spare) {
            NoPick::AllFull
        } else if any(Standing::Tried) {
            NoPick::AllTried
        } else {
            NoPick::NoEndpoints
        }
    }
}

#[cfg(test)]
mod tests;
