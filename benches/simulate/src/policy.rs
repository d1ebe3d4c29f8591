//! The policies by name: ours, those of others, and references.
//!
//! A [`Router`] is one sidecar's share of a policy: it sees what that sidecar can see (a [`View`]) and keeps what that sidecar can
//! keep. Where a rival's rule leaves something open, its file says what was taken.

mod cost;
mod ewma;
mod gie;
mod hashing;
mod llm_d;
mod lmetric;
mod own;
mod prequal;
mod reported;
mod sglang;

pub use cost::{report_of, speed_of, verdict};

use std::fmt;
use std::str::FromStr;

use penstock_policy::gate::Patience;
use penstock_policy::pick::cost::{Prompt, Speed, Weights};

use crate::backend::{Backend, Truth};
use crate::draw::Draws;
use crate::sidecar::Sidecar;
use crate::trace::Arrival;

/// A policy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Policy {
    /// Any endpoint.
    Random,
    /// One after the other.
    RoundRobin,
    /// The less loaded of two, by requests of this sidecar.
    P2c,
    /// The cheaper of two, by a peak-sensitive average of past latency times requests of this sidecar.
    PeakEwma,
    /// Least KV memory held.
    LeastKv,
    /// vLLM's data-parallel coordinator: 4 × waiting + running.
    VllmDp,
    /// The Gateway API inference extension's 3/2/2 blend of prefix, queue and KV.
    Gie,
    /// llm-d's token-aware default.
    LlmD,
    /// Prompt tokens to compute times batch.
    Lmetric,
    /// Hot and cold by requests in flight, then latency.
    Prequal,
    /// Consistent hashing with bounded loads.
    Chwbl,
    /// SGLang's cache-aware router.
    Sglang,
    /// `Gie` as one router with 50 ms old reports.
    CentralGie,
    /// `LlmD` as one router with 50 ms old reports.
    CentralLlmD,
    /// `Lmetric` as one router with 50 ms old reports.
    CentralLmetric,
    /// Marginal cost by many sidecars, with refusal.
    LeastCost,
    /// The same where every request is let in.
    LeastCostNoRefusal,
    /// The best of `Reference`s.
    Oracle,
    /// One of the rules that the oracle is the best of.
    Reference(Reference),
}

/// A rule for one scheduler that knows everything at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reference {
    /// Least predicted time to the first token, by letting a copy of each engine run until it comes.
    GreedyFirstToken,
    /// Marginal cost in its plain form, with this α.
    MarginalCost(f64),
    /// The same where who cannot be served in time is refused at once, as ours does.
    MarginalCostShedding(f64),
    /// Marginal cost as production computes it, with this α.
    OwnCost(f64),
    /// The same where who cannot be served in time is refused at once.
    OwnCostShedding(f64),
    /// The same where who cannot be served in time at once, but after waiting at the door, waits.
    OwnCostWaiting(f64),
    /// Production's whole rule with its refusals, as one sidecar that sees the present.
    Present,
    /// The same where nobody waits at a door.
    PresentShut,
    /// Prompt tokens to compute times batch, with exact caches.
    Lmetric,
}

/// What the oracle is the best of.
pub const REFERENCES: [Reference; 18] = [
    Reference::Present,
    Reference::OwnCostWaiting(0.0),
    Reference::OwnCostWaiting(1.0),
    Reference::OwnCostWaiting(2.0),
    Reference::OwnCostWaiting(4.0),
    Reference::PresentShut,
    Reference::OwnCostShedding(2.0),
    Reference::OwnCostShedding(1.0),
    Reference::OwnCostShedding(4.0),
    Reference::OwnCostShedding(0.0),
    Reference::MarginalCost(2.0),
    Reference::OwnCost(2.0),
    Reference::Lmetric,
    Reference::MarginalCostShedding(2.0),
    Reference::MarginalCost(1.0),
    Reference::MarginalCost(4.0),
    Reference::MarginalCost(0.0),
    Reference::GreedyFirstToken,
];

const NAMES: [(&str, Policy); 18] = [
    ("random", Policy::Random),
    ("round-robin", Policy::RoundRobin),
    ("p2c", Policy::P2c),
    ("peak-ewma", Policy::PeakEwma),
    ("least-kv", Policy::LeastKv),
    ("vllm-dp", Policy::VllmDp),
    ("gie", Policy::Gie),
    ("llm-d", Policy::LlmD),
    ("lmetric", Policy::Lmetric),
    ("prequal", Policy::Prequal),
    ("chwbl", Policy::Chwbl),
    ("sglang", Policy::Sglang),
    ("central-gie", Policy::CentralGie),
    ("central-llm-d", Policy::CentralLlmD),
    ("central-lmetric", Policy::CentralLmetric),
    ("least-cost", Policy::LeastCost),
    ("least-cost-no-refusal", Policy::LeastCostNoRefusal),
    ("oracle", Policy::Oracle),
];

impl Policy {
    /// Every policy that can be asked for.
    pub fn all() -> impl Iterator<Item = Policy> {
        NAMES.iter().map(|(_, policy)| *policy)
    }

    /// Whether it is one router whatever the number of sidecars, and how old its reports are then.
    pub fn central_age_ns(self) -> Option<u64> {
        match self {
            Self::CentralGie | Self::CentralLlmD | Self::CentralLmetric => Some(50_000_000),
            Self::Reference(_) | Self::Oracle => Some(0),
            _ => None,
        }
    }

    /// Whether it is ours: it knows caches by digests and speeds as they are learned, where the setting asks for that.
    pub fn is_ours(self) -> bool {
        matches!(self, Self::LeastCost | Self::LeastCostNoRefusal)
    }

    /// One sidecar's share of it.
    pub fn router(self, endpoints: usize, draws: &mut Draws) -> Box<dyn Router> {
        match self {
            Self::Random => Box::new(own::Random),
            Self::RoundRobin => Box::new(own::RoundRobin::from(draws.below(endpoints))),
            Self::P2c => Box::new(own::P2c),
            Self::PeakEwma => Box::new(ewma::PeakEwma::over(endpoints)),
            Self::LeastKv => Box::new(reported::LeastKv),
            Self::VllmDp => Box::new(reported::VllmDp),
            Self::Gie | Self::CentralGie => Box::new(gie::Gie),
            Self::LlmD | Self::CentralLlmD => Box::new(llm_d::TokenAware),
            Self::Lmetric | Self::CentralLmetric => Box::new(lmetric::Lmetric { index: lmetric::Index::Own }),
            Self::Prequal => Box::new(prequal::Prequal::default()),
            Self::Chwbl => Box::new(hashing::BoundedLoads),
            Self::Sglang => Box::new(sglang::CacheAware::over(endpoints)),
            Self::LeastCost => Box::new(cost::LeastCost::over(endpoints, cost::Door::Gated)),
            Self::LeastCostNoRefusal => Box::new(cost::LeastCost::over(endpoints, cost::Door::Open)),
            // The oracle itself never runs: each of its references does.
            Self::Oracle => Box::new(lmetric::Lmetric { index: lmetric::Index::Exact }),
            Self::Reference(reference) => match reference {
                Reference::GreedyFirstToken => Box::new(cost::GreedyFirstToken),
                Reference::MarginalCost(alpha) => Box::new(cost::Central::admitting(cost::Sum::Plain, alpha)),
                Reference::MarginalCostShedding(alpha) => {
                    Box::new(cost::Central::shedding(cost::Sum::Plain, alpha))
                }
                Reference::Present => Box::new(cost::LeastCost::over(endpoints, cost::Door::Gated)),
                Reference::PresentShut => Box::new(cost::LeastCost::over(endpoints, cost::Door::Shut)),
                Reference::OwnCostWaiting(alpha) => Box::new(cost::Central::waiting(alpha)),
                Reference::OwnCost(alpha) => Box::new(cost::Central::admitting(cost::Sum::Ours, alpha)),
                Reference::OwnCostShedding(alpha) => {
                    Box::new(cost::Central::shedding(cost::Sum::Ours, alpha))
                }
                Reference::Lmetric => Box::new(lmetric::Lmetric { index: lmetric::Index::Exact }),
            },
        }
    }
}

impl FromStr for Policy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        NAMES.iter().find(|(name, _)| *name == text).map(|(_, policy)| *policy).ok_or_else(|| {
            let names: Vec<_> = NAMES.iter().map(|(name, _)| *name).collect();
            format!("there is no policy `{text}`; there are {}", names.join(", "))
        })
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reference(reference) => reference.fmt(f),
            named => {
                f.write_str(NAMES.iter().find(|(_, policy)| policy == named).map_or("", |(name, _)| name))
            }
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::GreedyFirstToken => f.write_str("greedy first token"),
            Self::MarginalCost(alpha) => write!(f, "marginal cost, alpha {alpha}"),
            Self::MarginalCostShedding(alpha) => write!(f, "marginal cost, alpha {alpha}, shedding"),
            Self::Present => f.write_str("least cost, at once"),
            Self::PresentShut => f.write_str("least cost, at once, nobody waits"),
            Self::OwnCostWaiting(alpha) => write!(f, "our cost, alpha {alpha}, waiting"),
            Self::OwnCost(alpha) => write!(f, "our cost, alpha {alpha}"),
            Self::OwnCostShedding(alpha) => write!(f, "our cost, alpha {alpha}, shedding"),
            Self::Lmetric => f.write_str("lmetric"),
        }
    }
}

/// What one sidecar can see when it chooses.
pub struct View<'a> {
    /// The present.
    pub now_ns: u64,
    /// When its reports are from.
    pub reported_ns: u64,
    /// The servers; what a sidecar may know of them is behind the functions below.
    pub backends: &'a [Backend],
    /// Tokens of this prompt that each has cached, as far as the sidecar knows.
    pub cached_tokens: &'a [u32],
    /// How often this request was refused.
    pub refusals: u8,
    /// Milliseconds of what was promised for the first token that are left.
    pub promised_ms: f64,
    /// How fast each is, as known to policies that learn it.
    pub speeds: &'a [Speed],
    /// The constants of our cost and gate.
    pub weights: &'a Weights,
    /// What this sidecar sent where.
    pub own: &'a Sidecar,
    /// Its randomness.
    pub draws: &'a mut Draws,
}

impl View<'_> {
    /// The last report of a server.
    pub fn report(&self, place: usize) -> Truth {
        if self.reported_ns >= self.now_ns {
            self.backends[place].truth(self.now_ns)
        } else {
            self.backends[place].truth_at(self.reported_ns)
        }
    }

    /// A prompt as it would find a server, as far as the sidecar knows.
    pub fn prompt(&self, arrival: &Arrival, place: usize) -> Prompt {
        Prompt { tokens: arrival.prompt_tokens, cached_tokens: self.cached_tokens[place] }
    }

    /// Servers.
    pub fn count(&self) -> usize {
        self.backends.len()
    }

    /// The place with the least cost; one of those that tie, drawn.
    pub fn least(&mut self, mut cost: impl FnMut(&Self, usize) -> f64) -> usize {
        let costs: Vec<f64> = (0..self.count()).map(|place| cost(self, place)).collect();
        let least = costs.iter().copied().fold(f64::INFINITY, f64::min);
        let tied: Vec<usize> = (0..costs.len()).filter(|place| costs[*place] <= least).collect();
        tied.get(self.draws.below(tied.len())).copied().unwrap_or(0)
    }
}

/// One sidecar's share of a policy.
pub trait Router {
    /// Where a request goes.
    fn choose(&mut self, arrival: &Arrival, view: &mut View<'_>) -> usize;

    /// How long the server that was chosen last may let it wait; `None` where no server may refuse.
    fn patience(&self) -> Option<Patience> {
        None
    }

    /// Whether it may wait there for somewhat longer than now.
    fn can_wait(&self) -> bool {
        false
    }

    /// Whom a request that was refused asks how they are, before it chooses again.
    fn whom_to_ask(&mut self, _arrival: &Arrival, _view: &View<'_>) -> Vec<usize> {
        Vec::new()
    }

    /// A server has taken a request that was sent to it, with so many prompt tokens that are not believed cached.
    fn sent(&mut self, _place: usize, _uncached_tokens: u64) {}

    /// A server has said how it is: it refused, or was asked.
    fn told(&mut self, _place: usize, _now_ns: u64, _truth: &Truth) {}

    /// The first token came, so long after the request had arrived.
    fn first_token(&mut self, _place: usize, _now_ns: u64, _to_first_ns: u64) {}
}
