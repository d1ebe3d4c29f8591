//! Which endpoint takes an attempt.
//!
//! The caller describes each endpoint as a [`Candidate`]; the policy of the backend says how one is chosen. An endpoint that is
//! ejected or not ready, was tried for this request already, or has as many requests as it may have, is never chosen, whatever the policy.
//!
//! Every policy reads the same candidates and draws. One that weighs more than requests in flight (uncached prompt tokens, load
//! reports) adds fields to [`Candidate`] and an arm to [`pick`]; nothing else changes.

pub mod cost;
mod p2c;
mod round_robin;

use std::fmt;

use penstock_model::snapshot::LoadBalancer;

/// One endpoint, as seen when an attempt is about to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Whether it may be chosen at all.
    pub standing: Standing,
    /// Requests that this sidecar has sent to it and that have not ended, to the last byte of the answer.
    pub in_flight: u32,
}

/// Whether an endpoint may be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It may.
    Usable,
    /// This request was sent there before: never again to the endpoint that just failed.
    Tried,
    /// It was put aside for ill health.
    Ejected,
    /// It has not said that it is ready.
    Unready,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pick {
    /// Its place among the candidates.
    pub index: usize,
    /// Why this one.
    pub reason: Reason,
}

/// Why an endpoint was chosen; the `reason` of `penstock_lb_picks_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It was the only one that could be.
    Only,
    /// It had the least load of those that were compared.
    LeastLoad,
    /// It was its turn.
    Turn,
}

impl Reason {
    /// Label value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Only => "only",
            Self::LeastLoad => "least_load",
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
    let open = Open { candidates, in_flight_max };
    match open.count() {
        0 => Err(open.why_none()),
        1 => Ok(Pick { index: open.nth(0), reason: Reason::Only }),
        count => Ok(match balancer {
            LoadBalancer::P2c => Pick { index: p2c::choose(open, count, draws), reason: Reason::LeastLoad },
            LoadBalancer::RoundRobin => {
                Pick { index: round_robin::choose(open, count, draws.turn), reason: Reason::Turn }
            }
        }),
    }
}

/// The candidates that can be chosen now. Found by counting, so that a pick allocates nothing.
#[derive(Clone, Copy)]
struct Open<'a> {
    candidates: &'a [Candidate],
    in_flight_max: u32,
}

impl<'a> Open<'a> {
    /// Places among all candidates, with what stands there.
    fn iter(self) -> impl Iterator<Item = (usize, &'a Candidate)> {
        let in_flight_max = self.in_flight_max;
        self.candidates
            .iter()
            .enumerate()
            .filter(move |(_, c)| c.standing == Standing::Usable && c.in_flight < in_flight_max)
    }

    fn count(self) -> usize {
        self.iter().count()
    }

    /// Place among all candidates of the `n`th open one; `n` must be below [`count`](Self::count).
    fn nth(self, n: usize) -> usize {
        self.iter().nth(n).map_or(0, |(index, _)| index)
    }

    fn in_flight(self, index: usize) -> u32 {
        self.candidates[index].in_flight
    }

    fn why_none(self) -> NoPick {
        let any = |standing| self.candidates.iter().any(|c| c.standing == standing);
        if any(Standing::Usable) {
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
