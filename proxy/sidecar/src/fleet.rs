//! What is alive: the history of each endpoint, which outlives any number of snapshots.

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
use penstock_model::snapshot::{
    Backend, Endpoint, HealthCheck, HealthScope, Host, LoadBalancer, Policy, Snapshot,
};
use penstock_model::units::Moment;
use penstock_policy::health::Belief;
use penstock_policy::pick::cost::{Belief as LoadBelief, Prompt, Speed, Told};
use penstock_policy::pick::{
    self, ADAPTER_MS, Believed, Candidate, Considered, Draws, NoPick, Reason, Standing, ZONE_MS, session,
};
use penstock_policy::prefix::{Asked, Digest, Gap, Index};
use penstock_policy::retry::RetryBudget;
use penstock_policy::route::RouteTable;
use penstock_policy::speed::{Call, CallSpeed, Size, Unit};

use self::health::Probed;
use self::names::Known;
use crate::load::wire::{self, Demand};
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
}

impl Default for BackendHistory {
    fn default() -> Self {
        Self { key: seed::draw(), turn: AtomicU64::default(), retries: Mutex::default() }
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

/// One request's place at an endpoint; given back on drop.
#[derive(Debug)]
pub struct Ticket {
    state: Arc<EndpointState>,
    tokens: u64,
    /// What was added to its load until a report contains it, and when.
    placement: Option<(Prompt, Moment)>,
    call_placement: Option<(Call, Moment)>,
    /// What the request demands here: what is believed cached there is in it.
    pub demand: Option<Demand>,
    /// The call that it is, where costs are asked.
    pub call: Option<Call>,
    /// Why this endpoint.
    pub reason: Reason,
    /// What was believed of it, where costs decided.
    pub believed: Option<Believed>,
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
        self.state.tokens_in_flight.fetch_sub(self.tokens, Ordering::Relaxed);
        // Who was refused or failed is in no report; nobody else may be kept from there for it.
        if let Some((prompt, sent)) = self.placement {
            self.state.load.lock().ended(prompt, sent);
        }
        if let Some((call, sent)) = self.call_placement {
            self.state.load.lock().call_ended(call, sent);
        }
    }
}

/// What a request needs, for the choice of an endpoint.
#[derive(Clone, Debug, Default)]
pub struct Needs {
    /// What it demands of a model server; known of requests for generated text.
    pub demand: Option<Demand>,
    /// The call that it is; known where costs are asked.
    pub call: Option<Call>,
    /// Its prompt, as it is looked up among what endpoints have cached.
    pub prefix: Option<Asked>,
    /// The model that it names.
    pub model: Option<Box<str>>,
    /// Its session, where sessions are kept together.
    pub session: Option<Box<str>>,
    /// The sidecar's zone, where that comes first.
    pub zone: Option<Arc<str>>,
}

fn prompt_of(demand: Demand) -> Prompt {
    Prompt { tokens: demand.size.tokens, cached_tokens: demand.size.cached_tokens }
}

/// Whether it is in another zone than the own, which comes first. One whose zone is not known is near.
fn is_far(state: &EndpointState, needs: &Needs) -> bool {
    match (&needs.zone, &state.endpoint.attributes.zone) {
        (Some(own), Some(zone)) => own != zone,
        _ => false,
    }
}

impl BackendState {
    /// Picks an endpoint that is not among `tried` and takes a place there. `tell` is told what the pick was made on, whatever came of it.
    ///
    /// # Errors
    /// Why there is none.
    pub fn pick(
        &self,
        tried: &[Arc<EndpointState>],
        needs: &Needs,
        tell: impl FnOnce(Considered),
    ) -> Result<Ticket, NoPick> {
        let now = clock::now();
        let demand = needs.demand.filter(|_| self.policy.load_balancer == LoadBalancer::LeastCost);
        let presumed = demand.map(|_| self.presumed_speed());
        let call = needs.call.map(|call| (call, self.presumed_call_speed(call.unit, now)));
        let demand_at = |state: &EndpointState| {
            let prefix = needs.prefix.as_ref();
            let cached_tokens = prefix.map_or(0, |prefix| state.cached.lock().cached_tokens(prefix));
            demand.map(|demand| Demand { size: Size { cached_tokens, ..demand.size }, ..demand })
        };
        let in_flight_max = self.policy.requests_per_endpoint_max;
        let mut candidates: Vec<Candidate> = self
            .endpoints
            .iter()
            .zip(&self.members)
            .map(|(state, is_member)| {
                let standing = self.standing(state, *is_member, tried, needs);
                let Endpoint { id, attributes, .. } = &*state.endpoint;
                let session = needs.session.as_deref().filter(|_| standing.is_open());
                Candidate {
                    tokens_in_flight: state.tokens_in_flight.load(Ordering::Relaxed),
                    weight: attributes.weight,
                    rank: session.map(|session| session::rank(session, &id.address, attributes.weight)),
                    ..Candidate::new(standing, state.in_flight())
                }
            })
            .collect();
        let open = pick::among(&candidates, in_flight_max);
        for (candidate, state) in candidates.iter_mut().zip(&self.endpoints) {
            // What others would cost, nobody asks; of those that were tried it is told.
            let is_asked = [open, Standing::Tried].contains(&candidate.standing);
            if state.endpoint.sidecar.is_none() || !is_asked {
                continue;
            }
            let prompt = demand_at(state).map(prompt_of).zip(presumed);
            let load = || state.load.lock();
            let prompt_cost = || prompt.map(|(prompt, presumed)| load().estimate(prompt, &presumed, now));
            let call_cost = || call.map(|(call, presumed)| load().call_estimate(call, &presumed, now));
            candidate.estimate = prompt_cost().or_else(call_cost);
        }
        self.handicap(&mut candidates, needs);
        let draws = Draws {
            first: seed::draw(),
            second: seed::draw(),
            turn: self.history.turn.fetch_add(1, Ordering::Relaxed),
        };
        let balancer = self.policy.load_balancer;
        let picked = pick::pick(balancer, &candidates, in_flight_max, draws);
        let address = |index: usize| self.endpoints[index].endpoint.id.address;
        tell(Considered::of(balancer, &candidates, in_flight_max, &picked, address));
        let picked = picked?;
        let state = &self.endpoints[picked.index];
        let demand = demand_at(state);
        let call_tokens = needs.call.filter(|call| call.unit == Unit::Tokens).map(|call| call.units);
        let tokens = u64::from(demand.map(|demand| demand.size.tokens).or(call_tokens).unwrap_or(0));
        state.in_flight.fetch_add(1, Ordering::Relaxed);
        state.tokens_in_flight.fetch_add(tokens, Ordering::Relaxed);
        state.requests.fetch_add(1, Ordering::Relaxed);
        let placement = demand.map(|demand| (prompt_of(demand), now));
        if let Some((prompt, now)) = placement {
            state.load.lock().placed(prompt, now);
        }
        let call_placement = needs.call.map(|call| (call, now));
        if let Some((call, now)) = call_placement {
            state.load.lock().call_placed(call, now);
        }
        Ok(Ticket {
            state: Arc::clone(state),
            tokens,
            placement,
            call_placement,
            demand,
            call: needs.call,
            reason: picked.reason,
            believed: picked.believed,
        })
    }

    /// Those whose costs are asked with each request, where their sidecars can tell how they stand.
    pub fn priced(&self) -> impl Iterator<Item = &Arc<EndpointState>> {
        let used = self.endpoints.iter().zip(&self.members);
        used.filter(|(state, is_member)| **is_member && state.endpoint.sidecar.is_some())
            .map(|(state, _)| state)
    }

    fn standing(
        &self,
        state: &EndpointState,
        is_member: bool,
        tried: &[Arc<EndpointState>],
        needs: &Needs,
    ) -> Standing {
        let attributes = &state.endpoint.attributes;
        if tried.iter().any(|other| std::ptr::eq(&**other, state)) {
            Standing::Tried
        } else if self.readiness(state) != Belief::Ready {
            Standing::Unready
        } else if attributes.weight == 0 || state.load.lock().is_draining() {
            Standing::Draining
        } else if needs.model.as_deref().is_some_and(|model| !attributes.serves(model)) {
            Standing::OtherModel
        } else if (is_member || needs.session.is_some()) && !self.is_put_off(state, needs) {
            Standing::Usable
        } else {
            Standing::Spare
        }
    }

    /// Whether it is in another zone, and those of the own come first whatever their load is: without costs nobody can tell.
    fn is_put_off(&self, state: &EndpointState, needs: &Needs) -> bool {
        self.policy.load_balancer != LoadBalancer::LeastCost && is_far(state, needs)
    }

    /// Adds to costs what no load tells.
    fn handicap(&self, candidates: &mut [Candidate], needs: &Needs) {
        if let Some(model) = needs.model.as_deref().filter(|_| needs.demand.is_some()) {
            let hash = wire::adapter(model);
            let has_loaded = |state: &Arc<EndpointState>| state.has_loaded(model, hash);
            // What nobody has loaded is no adapter, or costs the same everywhere.
            if self.endpoints.iter().any(has_loaded) {
                for (candidate, state) in candidates.iter_mut().zip(&self.endpoints) {
                    candidate.handicap_ms += if has_loaded(state) { 0.0 } else { ADAPTER_MS };
                }
            }
        }
        session::prefer_home(candidates);
        if needs.zone.is_some() {
            for (candidate, state) in candidates.iter_mut().zip(&self.endpoints) {
                candidate.handicap_ms += if is_far(state, needs) { ZONE_MS } else { 0.0 };
            }
        }
    }

    /// Whether some of its endpoints serve some models alone.
    pub fn needs_model(&self) -> bool {
        self.endpoints.iter().any(|state| {
            let attributes = &state.endpoint.attributes;
            !attributes.models.is_empty() || !attributes.lora.is_empty()
        })
    }

    /// How fast an endpoint is taken to be that has not said so: as fast as another one of the backend.
    fn presumed_speed(&self) -> Speed {
        let told =
            self.endpoints.iter().find_map(|state| state.load.lock().last().and_then(|(_, told)| told.speed));
        told.unwrap_or_else(|| penstock_policy::speed::Speed::default().into())
    }

    /// The same of answering calls: as fast as the one that said so last.
    fn presumed_call_speed(&self, unit: Unit, now: Moment) -> CallSpeed {
        let told = self.endpoints.iter().filter_map(|state| state.load.lock().call_speed(unit, now));
        told.max_by_key(|(came, _)| *came).map_or_else(|| unit.presumed_speed(), |(_, speed)| speed)
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
}
