//! What is alive: the history of each endpoint, which outlives any number of snapshots.

mod choice;
mod health;
pub mod names;
pub mod probe;
mod reconcile;
pub mod resolver;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use penstock_model::names::BackendId;
use penstock_model::snapshot::{Backend, Endpoint, HealthCheck, HealthScope, Host, Policy, Snapshot};
use penstock_model::units::Moment;
use penstock_policy::gate::Margin;
use penstock_policy::health::Belief;
use penstock_policy::pick::cost::{Belief as LoadBelief, Told};
use penstock_policy::prefix::{Digest, Gap, Index};
use penstock_policy::retry::RetryBudget;
use penstock_policy::route::RouteTable;

pub use self::choice::{Needs, Ticket};
use self::health::Probed;
use self::names::Known;
use crate::upstream::origin::Origin;
use crate::{clock, seed};

/// Endpoints or names that a message tells of; there may be thousands.
const SHOWN_MAX: usize = 3;
/// Names of models that a message tells of.
const NAMES_MAX: usize = 10;

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
    /// Which of them this sidecar uses while it can.
    members: Vec<bool>,
    /// What is known of its names; nothing of one that was not looked up yet.
    pub hosts: Vec<(Host, Option<Arc<Known>>)>,
    origin: Option<Arc<Origin>>,
    history: Arc<BackendHistory>,
}

/// What a backend keeps across snapshots.
#[derive(Debug)]
struct BackendHistory {
    /// Draws the endpoints that are used, where there are many: each sidecar has its own.
    key: u64,
    turn: AtomicU64,
    retries: Mutex<RetryBudget>,
    margin: Mutex<Margin>,
}

impl Default for BackendHistory {
    fn default() -> Self {
        Self {
            key: seed::draw(),
            turn: AtomicU64::default(),
            retries: Mutex::default(),
            margin: Mutex::default(),
        }
    }
}

/// An endpoint that lives.
#[derive(Debug)]
pub struct EndpointState {
    /// As decided.
    pub endpoint: Arc<Endpoint>,
    in_flight: AtomicU32,
    /// Prompt tokens of these.
    tokens_in_flight: AtomicU64,
    requests: AtomicU64,
    /// When costs last decided for it, and whether its sidecar is listened to.
    wanted_ns: AtomicU64,
    is_followed: AtomicBool,
    /// How loaded it is, where its sidecar tells.
    load: Mutex<LoadBelief>,
    /// Which prompts it has cached, where its sidecar tells: as of the end of the last stream, if none is open.
    cached: Mutex<Index>,
    /// LoRA adapters that it has loaded, as [`wire::adapter`](crate::load::wire::adapter) writes them, where its sidecar tells.
    adapters: Mutex<Arc<[u32]>>,
    /// What probes have found, where it is probed.
    pub probed: Probed,
}

impl EndpointState {
    fn new(endpoint: Arc<Endpoint>) -> Arc<Self> {
        Arc::new(Self {
            endpoint,
            in_flight: AtomicU32::new(0),
            tokens_in_flight: AtomicU64::new(0),
            wanted_ns: AtomicU64::new(0),
            is_followed: AtomicBool::new(false),
            load: Mutex::default(),
            cached: Mutex::default(),
            adapters: Mutex::default(),
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

    /// What a request would cost there was asked; true if from here on the caller must listen to its sidecar, since nobody does.
    pub fn is_wanted(&self, now: Moment) -> bool {
        self.wanted_ns.store(now.0, Ordering::Relaxed);
        // Mostly somebody does, and looking costs less than trying.
        !self.is_followed.load(Ordering::Relaxed) && !self.is_followed.swap(true, Ordering::AcqRel)
    }

    /// When that was asked last.
    pub fn wanted(&self) -> Moment {
        Moment(self.wanted_ns.load(Ordering::Relaxed))
    }

    /// Whether its sidecar has said that it takes nothing new.
    pub fn is_draining(&self) -> bool {
        self.load.lock().is_draining()
    }

    /// Nobody listens to its sidecar any more.
    pub fn is_left(&self) {
        self.is_followed.store(false, Ordering::Release);
    }

    /// Its sidecar has told how loaded it is.
    pub fn told(&self, told: Told) {
        let mut load = self.load.lock();
        let before = load.last().map(|(_, last)| last.instance);
        load.told(told, clock::now());
        drop(load);
        // Whoever begins anew knows of nothing that is cached, and mostly nothing is.
        if before.is_some_and(|before| before != told.instance) {
            *self.cached.lock() = Index::default();
        }
    }

    /// Its sidecar has told what it has cached.
    ///
    /// # Errors
    /// When a part of it is missing: nothing is known any more.
    pub fn told_cached(&self, digest: &Digest) -> Result<(), Gap> {
        let mut cached = self.cached.lock();
        let applied = cached.apply(digest);
        if applied.is_err() {
            *cached = Index::default();
        }
        applied
    }

    /// Its sidecar has told which LoRA adapters it has loaded.
    pub fn told_adapters(&self, adapters: Vec<u32>) {
        let mut known = self.adapters.lock();
        if **known != *adapters {
            *known = adapters.into();
        }
    }

    /// Whether the LoRA adapter of this name, and hash, is loaded there, as far as that is known.
    fn has_loaded(&self, name: &str, hash: u32) -> bool {
        let written = &self.endpoint.attributes.lora;
        written.iter().any(|lora| **lora == *name) || self.adapters.lock().contains(&hash)
    }

    /// What its sidecar told last, and how long ago that was.
    pub fn last_told(&self) -> Option<(Told, Duration)> {
        let load = self.load.lock();
        load.last().map(|(came, told)| (*told, clock::now().since(*came)))
    }
}

impl BackendState {
    /// Whether some of its endpoints serve some models alone.
    pub fn needs_model(&self) -> bool {
        self.endpoints.iter().any(|state| {
            let attributes = &state.endpoint.attributes;
            !attributes.models.is_empty() || !attributes.lora.is_empty()
        })
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
            .map(|state| format!("{} {}", state.endpoint.id.address, self.absence_of(state)))
            .collect();
        format!("no endpoint is ready, of {count}: {}", notes.join("; "))
    }

    fn absence_of(&self, state: &EndpointState) -> String {
        if self.readiness(state) != Belief::Ready {
            state.probed.note()
        } else if state.endpoint.attributes.weight == 0 {
            "has the weight 0".to_owned()
        } else {
            "takes nothing new, since its sidecar shuts down".to_owned()
        }
    }

    /// Why a request for this model goes nowhere, for the message of a 404.
    pub fn not_served(&self, model: Option<&str>) -> String {
        let served: BTreeSet<&str> = self
            .endpoints
            .iter()
            .flat_map(|state| state.endpoint.attributes.models.iter().chain(&state.endpoint.attributes.lora))
            .map(|name| &**name)
            .collect();
        let (shown, more) =
            (served.iter().take(NAMES_MAX).copied().collect::<Vec<_>>().join(", "), served.len());
        let model = model.unwrap_or_default().escape_debug();
        format!("no endpoint serves the model `{model}`; their `models` and `lora` list {more}: {shown}")
    }

    /// The budget of retries.
    pub fn retries(&self) -> &Mutex<RetryBudget> {
        &self.history.retries
    }

    /// How much longer than was believed a request waits at one of its endpoints while it can go elsewhere.
    pub fn margin(&self) -> &Mutex<Margin> {
        &self.history.margin
    }
}
