//! What is alive: the history of each endpoint, which outlives any number of snapshots.

mod reconcile;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;
use penstock_model::names::BackendId;
use penstock_model::snapshot::{Backend, Endpoint, Policy, Snapshot};
use penstock_policy::pick::{self, Candidate, Draws, NoPick, Reason, Standing};
use penstock_policy::retry::RetryBudget;
use penstock_policy::route::RouteTable;

use crate::seed;

/// A snapshot with everything that is derived from it or lives beside it. A request holds one from start to end.
#[derive(Debug, Default)]
pub struct Fleet {
    /// The snapshot.
    pub snapshot: Arc<Snapshot>,
    /// Its rules in order of precedence.
    pub routes: RouteTable,
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
    /// In the order of their addresses.
    pub endpoints: Vec<Arc<EndpointState>>,
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
}

impl EndpointState {
    fn new(endpoint: Arc<Endpoint>) -> Arc<Self> {
        Arc::new(Self { endpoint, in_flight: AtomicU32::new(0), requests: AtomicU64::new(0) })
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
                } else {
                    Standing::Usable
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

    /// The budget of retries.
    pub fn retries(&self) -> &Mutex<RetryBudget> {
        &self.history.retries
    }
}
