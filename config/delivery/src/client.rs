//! The sidecar's end of the stream.
//!
//! A response is taken in two steps, so that the owner can look at what it would change before it is answered:
//!
//! ```text
//!   response ──► sound? ──yes──► Candidate ──accept──► ACK, and the new snapshot
//!                  │                 └──────reject──┐
//!                  └──no────────────────────────────┴► NACK: nothing of the response is used, what was held stays
//! ```
//!
//! Each response is answered once: a copy of one that was answered is passed over, since by then newer content may be held.
//!
//! What is held outlives the stream: the next one begins with its names and versions, and only differences are sent. References
//! between resources are not checked here; a route may name a backend that has not arrived.

mod answers;
mod candidate;
mod refusal;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use penstock_model::snapshot::Parts;
use penstock_model::units::Moment;

use answers::Answers;
pub use candidate::Candidate;
use candidate::Made;

use crate::proto::envoy::config::core::v3::Node;
use crate::proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use crate::proto::google::rpc::Status;
use crate::wire::{self, Flaw, Resource, ResourceType};

/// How long a subscription may stay without answer before that is reported (xDS: the time after which a resource that was asked
/// for is taken not to exist).
pub const ANSWER_WAIT_MAX: Duration = Duration::from_secs(15);

/// What the owner of the stream has to do, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum ClientAction {
    /// Send this.
    Send(Box<DeltaDiscoveryRequest>),
    /// What is held has changed, or is known to be whole for the first time: make a snapshot of it.
    Publish(Parts),
    /// Log and count it: a subscription was not answered within [`ANSWER_WAIT_MAX`]. What is held stays in use.
    Overdue(ResourceType),
}

/// What became of a response.
#[derive(Clone, Debug, PartialEq)]
#[must_use = "every response is answered"]
pub enum Received {
    /// It can be used: call [`ClientState::accept`] or [`ClientState::reject`].
    Candidate(Candidate),
    /// It was refused; the NACK is among the actions, or among those of a later [`ClientState::timer`].
    Refused(Vec<ClientAction>),
    /// It is a copy of one that has arrived before on this stream.
    Copy,
}

/// Everything that a sidecar knows from its control plane, and how far it is with each type.
#[derive(Clone, Debug)]
pub struct ClientState {
    node: Node,
    parts: Parts,
    types: [TypeState; ResourceType::ALL.len()],
    /// To responses of types that we do not know.
    foreign: Answers,
    /// Number of the stream; a candidate of an earlier one has nobody to answer to.
    stream: u64,
}

/// One resource that is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// As the control plane has given it, or as it would have for what came from the disk.
    pub version: Arc<str>,
    /// Absent for what came from the disk.
    pub received_at: Option<Moment>,
}

/// How far the sidecar is with one type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeStatus {
    /// Which type.
    pub resource_type: ResourceType,
    /// Whether the control plane has ever answered for it.
    pub answered: bool,
    /// Whether it has stayed without answer for too long on this stream.
    pub overdue: bool,
    /// Nonce of the last response.
    pub nonce: Option<String>,
    /// Version of the snapshot that the last response was a part of, in the control plane's words.
    pub system_version: Option<String>,
    /// When the last response was accepted.
    pub accepted_at: Option<Moment>,
    /// What is wrong with resources that were refused and not replaced since.
    pub flaws: Vec<Flaw>,
    /// Why the last response was refused as a whole, where no resource was at fault.
    pub last_error: Option<String>,
}

#[derive(Clone, Debug, Default)]
struct TypeState {
    held: BTreeMap<String, Held>,
    /// Only of resources with a time to live.
    expires_at: BTreeMap<String, Moment>,
    flaws: BTreeMap<String, Flaw>,
    last_error: Option<String>,
    answered: bool,
    overdue: bool,
    /// On this stream, as long as there was no answer.
    asked_at: Option<Moment>,
    nonce: Option<String>,
    system_version: Option<String>,
    accepted_at: Option<Moment>,
    answers: Answers,
}

impl ClientState {
    /// A sidecar that holds `parts`, which it has from its disk, or nothing yet.
    pub fn new(node: Node, parts: Parts) -> Self {
        let mut types: [TypeState; ResourceType::ALL.len()] = Default::default();
        for resource in Resource::all(&parts) {
            let encoded = resource.encode();
            let held = Held { version: encoded.version, received_at: None };
            types[resource.resource_type().index()].held.insert(encoded.name.to_string(), held);
        }
        Self { node, parts, types, foreign: Answers::default(), stream: 0 }
    }

    /// A stream has opened: subscribes to everything of every type.
    pub fn connected(&mut self, now: Moment) -> Vec<ClientAction> {
        self.disconnected();
        let mut node = Some(self.node.clone());
        let subscribe = |(resource_type, state): (ResourceType, &mut TypeState)| {
            state.asked_at = Some(now);
            let versions = state.held.iter().map(|(name, held)| (name.clone(), held.version.to_string()));
            ClientAction::Send(Box::new(DeltaDiscoveryRequest {
                node: node.take(),
                type_url: resource_type.type_url().to_owned(),
                resource_names_subscribe: vec!["*".to_owned()],
                initial_resource_versions: versions.collect(),
                ..DeltaDiscoveryRequest::default()
            }))
        };
        ResourceType::ALL.into_iter().zip(&mut self.types).map(subscribe).collect()
    }

    /// The stream has ended. What is held stays in use.
    pub fn disconnected(&mut self) {
        self.stream += 1;
        self.foreign = Answers::default();
        for state in &mut self.types {
            state.asked_at = None;
            state.overdue = false;
            state.answers = Answers::default();
        }
    }

    /// The control plane has sent `response`.
    pub fn response(&mut self, response: DeltaDiscoveryResponse, now: Moment) -> Received {
        let type_url = response.type_url.clone();
        let nonce = response.nonce.clone();
        let Some(resource_type) = ResourceType::from_type_url(&type_url) else {
            let why = format!("`{}` was not subscribed to", type_url.escape_debug());
            let nack = nack(type_url, nonce, refusal::of_response(&why));
            return Received::Refused(sent(self.foreign.refuse(nack, now).into_iter().flatten()));
        };
        let state = &mut self.types[resource_type.index()];
        if !nonce.is_empty() {
            if state.answers.has(&nonce) {
                return Received::Copy;
            }
            state.answers.note(&nonce);
        }
        state.asked_at = None;
        state.overdue = false;
        state.nonce = Some(nonce.clone());
        if nonce.is_empty() {
            let why = "the response has no nonce, so that it cannot be acknowledged";
            state.last_error = Some(why.to_owned());
            let nack = nack(type_url, nonce, refusal::of_response(why));
            return Received::Refused(sent(state.answers.refuse(nack, now).into_iter().flatten()));
        }
        match Candidate::read(self.stream, resource_type, response, &state.held) {
            Ok(candidate) => Received::Candidate(candidate),
            Err(flaws) => Received::Refused(self.refuse(resource_type, nonce, flaws, now)),
        }
    }

    /// Uses what the candidate holds. Nothing happens when its stream has ended meanwhile: the next one brings it again.
    pub fn accept(&mut self, candidate: Candidate, now: Moment) -> Vec<ClientAction> {
        if candidate.stream != self.stream {
            return Vec::new();
        }
        let was_settled = self.is_settled();
        let is_change = !candidate.made.is_empty() || !candidate.removed.is_empty();
        let resource_type = candidate.resource_type;
        let state = &mut self.types[resource_type.index()];
        state.answered = true;
        state.last_error = None;
        state.system_version = Some(candidate.system_version);
        state.accepted_at = Some(now);
        for made in candidate.made {
            state.make(made, now).insert_into(&mut self.parts);
        }
        for (name, ttl) in candidate.heartbeats {
            state.prolong(&name, ttl, now);
        }
        for name in candidate.removed {
            state.forget(&name);
            state.flaws.remove(&name);
            wire::remove_from(&mut self.parts, resource_type, &name);
        }
        state.flaws.extend(candidate.unserved.into_iter().map(|flaw| (flaw.name.clone(), flaw)));
        let ack = Box::new(DeltaDiscoveryRequest {
            type_url: resource_type.type_url().to_owned(),
            response_nonce: candidate.nonce,
            ..DeltaDiscoveryRequest::default()
        });
        let mut actions = sent(state.answers.accept().into_iter().chain([ack]));
        self.publish_if(is_change || was_settled != self.is_settled(), &mut actions);
        actions
    }

    /// Uses nothing of the candidate, because of `flaws` that the owner has found in it. Nothing happens when its stream has ended
    /// meanwhile.
    pub fn reject(&mut self, candidate: Candidate, flaws: Vec<Flaw>, now: Moment) -> Vec<ClientAction> {
        if candidate.stream != self.stream {
            return Vec::new();
        }
        self.refuse(candidate.resource_type, candidate.nonce, flaws, now)
    }

    /// Time has passed: call it at [`Self::next_timer`].
    pub fn timer(&mut self, now: Moment) -> Vec<ClientAction> {
        let mut actions = sent(self.foreign.due(now));
        let mut has_expired = false;
        for (resource_type, state) in ResourceType::ALL.into_iter().zip(&mut self.types) {
            actions.extend(sent(state.answers.due(now)));
            if state.asked_at.is_some_and(|at| at + ANSWER_WAIT_MAX <= now) {
                state.asked_at = None;
                state.overdue = true;
                actions.push(ClientAction::Overdue(resource_type));
            }
            let expired = state.expires_at.iter().filter(|(_, at)| **at <= now).map(|(name, _)| name.clone());
            for name in expired.collect::<Vec<_>>() {
                state.forget(&name);
                wire::remove_from(&mut self.parts, resource_type, &name);
                has_expired = true;
            }
        }
        self.publish_if(has_expired, &mut actions);
        actions
    }

    /// When [`Self::timer`] has something to do.
    pub fn next_timer(&self) -> Option<Moment> {
        let answers = self.types.iter().filter_map(|state| state.asked_at.map(|at| at + ANSWER_WAIT_MAX));
        let expiries = self.types.iter().flat_map(|state| state.expires_at.values().copied());
        let held_back = self.types.iter().filter_map(|state| state.answers.next());
        answers.chain(expiries).chain(held_back).chain(self.foreign.next()).min()
    }

    /// Everything that is held.
    pub fn parts(&self) -> &Parts {
        &self.parts
    }

    /// Names and versions of what is held of one type.
    pub fn held(&self, resource_type: ResourceType) -> &BTreeMap<String, Held> {
        &self.types[resource_type.index()].held
    }

    /// Whether the control plane has answered for every type at least once, on any stream. As it sends a type only when those
    /// before it are complete, what is held is then a whole snapshot, but for what was refused: one bad resource does not keep
    /// every new sidecar from its work.
    pub fn is_settled(&self) -> bool {
        self.types.iter().all(|state| state.answered)
    }

    /// How far the sidecar is with each type, in their order.
    pub fn status(&self) -> Vec<TypeStatus> {
        let of = |(resource_type, state): (ResourceType, &TypeState)| TypeStatus {
            resource_type,
            answered: state.answered,
            overdue: state.overdue,
            nonce: state.nonce.clone(),
            system_version: state.system_version.clone(),
            accepted_at: state.accepted_at,
            flaws: state.flaws.values().cloned().collect(),
            last_error: state.last_error.clone(),
        };
        ResourceType::ALL.into_iter().zip(&self.types).map(of).collect()
    }

    fn refuse(
        &mut self,
        resource_type: ResourceType,
        nonce: String,
        flaws: Vec<Flaw>,
        now: Moment,
    ) -> Vec<ClientAction> {
        let status = refusal::of_resources(&flaws);
        let was_settled = self.is_settled();
        let state = &mut self.types[resource_type.index()];
        state.answered = true;
        state.last_error = Some(status.message.clone());
        state.flaws.extend(flaws.into_iter().map(|flaw| (flaw.name.clone(), flaw)));
        let nack = nack(resource_type.type_url().to_owned(), nonce, status);
        let mut actions = sent(state.answers.refuse(nack, now).into_iter().flatten());
        self.publish_if(was_settled != self.is_settled(), &mut actions);
        actions
    }

    fn publish_if(&self, is_news: bool, actions: &mut Vec<ClientAction>) {
        if is_news {
            actions.push(ClientAction::Publish(self.parts.clone()));
        }
    }
}

impl TypeState {
    fn make(&mut self, made: Made, now: Moment) -> Resource {
        self.flaws.remove(&made.name);
        self.prolong(&made.name, made.ttl, now);
        self.held.insert(made.name, Held { version: made.version.into(), received_at: Some(now) });
        made.resource
    }

    fn prolong(&mut self, name: &str, ttl: Option<Duration>, now: Moment) {
        match ttl {
            Some(ttl) => drop(self.expires_at.insert(name.to_owned(), now + ttl)),
            None => drop(self.expires_at.remove(name)),
        }
    }

    fn forget(&mut self, name: &str) {
        self.held.remove(name);
        self.expires_at.remove(name);
    }
}

fn nack(type_url: String, response_nonce: String, error_detail: Status) -> Box<DeltaDiscoveryRequest> {
    Box::new(DeltaDiscoveryRequest {
        type_url,
        response_nonce,
        error_detail: Some(error_detail),
        ..DeltaDiscoveryRequest::default()
    })
}

fn sent(requests: impl IntoIterator<Item = Box<DeltaDiscoveryRequest>>) -> Vec<ClientAction> {
    requests.into_iter().map(ClientAction::Send).collect()
}
