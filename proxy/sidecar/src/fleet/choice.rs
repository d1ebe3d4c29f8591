//! Which endpoint a request goes to, and its place there.
//!
//! ```text
//!   standing of each ─► cost of those who are open ─► pick ─► a ticket, given back when the request has ended
//! ```

use std::sync::Arc;
use std::sync::atomic::Ordering;

use penstock_model::snapshot::{Endpoint, LoadBalancer};
use penstock_model::units::Moment;
use penstock_policy::health::Belief;
use penstock_policy::pick::cost::{self, Prompt, Speed};
use penstock_policy::pick::{
    self, ADAPTER_MS, Believed, Candidate, Considered, Draws, NoPick, Pick, Reason, Standing, ZONE_MS,
    session,
};
use penstock_policy::prefix::Asked;
use penstock_policy::speed::{Call, CallSpeed, Size, Unit};

use super::{BackendState, EndpointState};
use crate::load::wire::{self, Demand};
use crate::{clock, seed};

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

/// A request's demand as it finds an endpoint.
fn demand_at(state: &EndpointState, demand: Demand, needs: &Needs) -> Demand {
    let prefix = needs.prefix.as_ref();
    let cached_tokens = prefix.map_or(0, |prefix| state.cached.lock().cached_tokens(prefix));
    Demand { size: Size { cached_tokens, ..demand.size }, ..demand }
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
        let candidates = self.candidates(tried, needs, now);
        let draws = Draws {
            first: seed::draw(),
            second: seed::draw(),
            turn: self.history.turn.fetch_add(1, Ordering::Relaxed),
        };
        let (balancer, in_flight_max) = (self.policy.load_balancer, self.policy.requests_per_endpoint_max);
        let picked = pick::pick(balancer, &candidates, in_flight_max, draws);
        let address = |index: usize| self.endpoints[index].endpoint.id.address;
        tell(Considered::of(balancer, &candidates, in_flight_max, &picked, address));
        picked.map(|picked| self.take(&picked, needs, now))
    }

    /// Those to ask how they stand before a request that was refused is placed once more, since what is known of them is old.
    pub fn whom_to_ask(&self, tried: &[Arc<EndpointState>], needs: &Needs) -> Vec<&Arc<EndpointState>> {
        let candidates = self.candidates(tried, needs, clock::now());
        let open = pick::among(&candidates, self.policy.requests_per_endpoint_max);
        let known = candidates.iter().enumerate().filter(|(_, candidate)| candidate.standing == open);
        let known = known.filter_map(|(place, candidate)| Some((place, candidate.estimate?)));
        cost::whom_to_ask(known).into_iter().map(|place| &self.endpoints[place]).collect()
    }

    /// All endpoints, with what is known of those that may be chosen.
    fn candidates(&self, tried: &[Arc<EndpointState>], needs: &Needs, now: Moment) -> Vec<Candidate> {
        let demand = self.priced_demand(needs);
        let presumed = demand.map(|_| self.presumed_speed());
        let call = needs.call.map(|call| (call, self.presumed_call_speed(call.unit, now)));
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
        let open = pick::among(&candidates, self.policy.requests_per_endpoint_max);
        for (candidate, state) in candidates.iter_mut().zip(&self.endpoints) {
            // What others would cost, nobody asks; of those that were tried it is told.
            let is_asked = [open, Standing::Tried].contains(&candidate.standing);
            if state.endpoint.sidecar.is_none() || !is_asked {
                continue;
            }
            let prompt = demand.map(|demand| prompt_of(demand_at(state, demand, needs))).zip(presumed);
            let load = || state.load.lock();
            let prompt_cost = || prompt.map(|(prompt, presumed)| load().estimate(prompt, &presumed, now));
            let call_cost = || call.map(|(call, presumed)| load().call_estimate(call, &presumed, now));
            candidate.estimate = prompt_cost().or_else(call_cost);
        }
        self.handicap(&mut candidates, needs);
        candidates
    }

    /// What a request demands, where costs are asked.
    fn priced_demand(&self, needs: &Needs) -> Option<Demand> {
        needs.demand.filter(|_| self.policy.load_balancer == LoadBalancer::LeastCost)
    }

    /// Takes a place at the endpoint that was picked.
    fn take(&self, picked: &Pick, needs: &Needs, now: Moment) -> Ticket {
        let state = &self.endpoints[picked.index];
        let demand = self.priced_demand(needs).map(|demand| demand_at(state, demand, needs));
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
        Ticket {
            state: Arc::clone(state),
            tokens,
            placement,
            call_placement,
            demand,
            call: needs.call,
            reason: picked.reason,
            believed: picked.believed,
        }
    }

    /// Those whose costs are asked with each request, where their sidecars can tell how they stand.
    pub fn priced(&self) -> impl Iterator<Item = &Arc<EndpointState>> {
        let used = self.endpoints.iter().zip(&self.members);
        used.filter(|(state, is_member)| **is_member && state.endpoint.sidecar.is_some())
            .map(|(state, _)| state)
            .filter(|state| self.readiness(state) == Belief::Ready)
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
        } else if attributes.weight == 0 || state.is_draining() {
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
}
