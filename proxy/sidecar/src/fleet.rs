//! What is alive: the history of each endpoint, which outlives any number of snapshots.

mod health;
pub mod names;
pub mod probe;
mod reconcile;
pub mod resolver;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;
use penstock_model::names::BackendId;
use penstock_model::snapshot::{Backend, Endpoint, HealthCheck, HealthScope, Host, Policy, Snapshot};
use penstock_policy::health::Belief;
use penstock_policy::pick::{self, Candidate, Draws, NoPick, Reason, Standing};
use penstock_policy::retry::RetryBudget;
use penstock_policy::route::RouteTable;

use self::health::Probed;
use self::names::Known;
use crate::seed;
use crate::upstream::origin::Origin;

/// Endpoints or names that a message tells of; there may be thousands.
const SHOWN_MAX: usize = 3;

/// A snapshot with everything that is derived from it or lives beside it. A request holds one from start to end.
#[derive(Debug, Default)]
pub struct Fleet {
    /// The snapshot.
    pub snapshot: Arc<Snapshot>,
    /// Its rules in order of precedence.
    pub routes: Arc<RouteTable>,
    backends: BTreeMap<BackendId, Arc<BackendState>>,
}

impl Fleet {
    /// The state of a backend.
    pub fn backend(&self, id: &BackendId) -> Option<&Arc<BackendState>> {
        self.backends.get(id)
    }

    /// All backends in order.
    pub fn backends(&self) -> impl Iterator<Item = &Arc<BackendState>> {
        self.backends.values()
    }
}

/// A backend that lives.
#[derive(Debug)]
pub struct BackendState {
    /// As decided.
    pub backend: Arc<Backend>,
    /// As decided.
    pub policy: Arc<Policy>,
    /// In the order of their addresses: those that are written, and those of its names.
    pub endpoints: Vec<Arc<EndpointState>>,
    /// What is known of its names; nothing of one that was not looked up yet.
    pub hosts: Vec<(Host, Option<Arc<Known>>)>,
    origin: Option<Arc<Origin>>,
    history: Arc<BackendHistory>,
}

/// What a backend keeps across snapshots.
#[derive(Debug, Default)]
struct BackendHistory {
    turn: AtomicU64,
    retries: Mutex<RetryBudget>,
}

/// An endpoint that lives.
#[derive(Debug)]
pub struct EndpointState {
    /// As decided.
    pub endpoint: Arc<Endpoint>,
    in_flight: AtomicU32,
    requests: AtomicU64,
    /// What probes have found, where it is probed.
    pub probed: Probed,
}

impl EndpointState {
    fn new(endpoint: Arc<Endpoint>) -> Arc<Self> {
        Arc::new(Self {
            endpoint,
            in_flight: AtomicU32::new(0),
            requests: AtomicU64::new(0),
            probed: Probed::default(),
        })
    }

    /// Requests sent and not ended.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Requests sent so far.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

/// One request's place at an endpoint; given back on drop.
#[derive(Debug)]
pub struct Ticket {
    state: Arc<EndpointState>,
    /// Why this endpoint.
    pub reason: Reason,
}

impl Ticket {
    /// Where it is.
    pub fn endpoint(&self) -> &Arc<EndpointState> {
        &self.state
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.state.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl BackendState {
    /// Picks an endpoint that is not among `tried` and takes a place there.
    ///
    /// # Errors
    /// Why there is none.
    pub fn pick(&self, tried: &[Arc<EndpointState>]) -> Result<Ticket, NoPick> {
        let candidates: Vec<Candidate> = self
            .endpoints
            .iter()
            .map(|state| Candidate {
                standing: if tried.iter().any(|other| Arc::ptr_eq(other, state)) {
                    Standing::Tried
                } else if self.readiness(state) == Belief::Ready {
                    Standing::Usable
                } else {
                    Standing::Unready
                },
                in_flight: state.in_flight(),
            })
            .collect();
        let draws = Draws {
            first: seed::draw(),
            second: seed::draw(),
            turn: self.history.turn.fetch_add(1, Ordering::Relaxed),
        };
        let in_flight_max = self.policy.requests_per_endpoint_max;
        let picked = pick::pick(self.policy.load_balancer, &candidates, in_flight_max, draws)?;
        let state = &self.endpoints[picked.index];
        state.in_flight.fetch_add(1, Ordering::Relaxed);
        state.requests.fetch_add(1, Ordering::Relaxed);
        Ok(Ticket { state: Arc::clone(state), reason: picked.reason })
    }

    /// How the endpoint is probed, if it is.
    pub fn health_check_of(&self, endpoint: &Endpoint) -> Option<&Arc<HealthCheck>> {
        let check = self.backend.outside.health_check.as_ref();
        check.filter(|check| check.scope == HealthScope::All || endpoint.sidecar.is_none())
    }

    /// What is believed of an endpoint; one that is not probed is ready.
    pub fn readiness(&self, state: &EndpointState) -> Belief {
        match self.health_check_of(&state.endpoint) {
            Some(_) => state.probed.belief(),
            None => Belief::Ready,
        }
    }

    /// TLS to its endpoints outside the mesh.
    pub fn origin(&self) -> Option<&Arc<Origin>> {
        self.origin.as_ref()
    }

    /// Why nobody is there to pick, for the message of a 503.
    pub fn absence(&self) -> String {
        let unknown = |(host, known): &(Host, Option<Arc<Known>>)| match known {
            None => format!("{host} is being looked up"),
            Some(known) => match &known.error {
                Some(error) => format!("{host} cannot be looked up: {error}"),
                None => format!("{host} has no address"),
            },
        };
        if self.endpoints.is_empty() {
            let hosts: Vec<String> = self.hosts.iter().take(SHOWN_MAX).map(unknown).collect();
            let why = if hosts.is_empty() { String::new() } else { format!(": {}", hosts.join("; ")) };
            return format!("it has no endpoint{why}");
        }
        let count = self.endpoints.len();
        let notes: Vec<String> = self
            .endpoints
            .iter()
            .take(SHOWN_MAX)
            .map(|state| format!("{} {}", state.endpoint.id.address, state.probed.note()))
            .collect();
        format!("no endpoint is ready, of {count}: {}", notes.join("; "))
    }

    /// The budget of retries.
    pub fn retries(&self) -> &Mutex<RetryBudget> {
        &self.history.retries
    }
}
