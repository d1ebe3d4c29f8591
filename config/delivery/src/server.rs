//! The control plane's end of one stream.
//!
//! Per type one response at most awaits its answer; what changes meanwhile is sent together afterwards. What refers to others
//! is sent after them and taken away before them:
//!
//! ```text
//!   make:    backends ─► endpoints ─► policies ─► routes ─► slos      a type waits until those before it are acknowledged
//!   remove:  backends ◄─ endpoints ◄─ policies ◄─ routes ◄─ slos      only when nothing is left to make
//! ```
//!
//! so that a route never names a backend that the sidecar does not have. A NACK counts as an answer: what was refused stays
//! refused until its content changes, and holds up nobody. A type that the client has not subscribed to is left out.

mod published;
mod subscription;

use std::sync::Arc;

use penstock_model::names::Version;

pub use published::{Entry, Published};
pub use subscription::Refusal;
use subscription::{Contents, Reply, Subscription};

use crate::nonce::Nonces;
use crate::proto::envoy::config::core::v3::Node;
use crate::proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use crate::wire::ResourceType;

/// About how large a response may be; the rest follows in further ones. gRPC libraries refuse messages over 4 MiB unless told
/// otherwise. One resource that is larger is still sent.
pub const RESPONSE_BYTES_MAX: usize = 3 << 20;

/// Most names of one type that a client can make us remember: ten times the largest fleet we test with.
pub const NAMES_MAX: usize = 100_000;

/// What the owner of the stream has to do, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum ServerAction {
    /// Send this.
    Send(DeltaDiscoveryResponse),
    /// Count and log it: the client holds what this response said.
    Acked {
        /// Type of the response.
        resource_type: ResourceType,
        /// Nonce of the response.
        nonce: String,
    },
    /// Count and log it: the client has refused this response.
    Nacked {
        /// Type of the response.
        resource_type: ResourceType,
        /// Nonce of the response.
        nonce: String,
        /// The client's reason.
        message: String,
        /// What will not be sent again until it changes.
        refusals: Vec<Arc<Refusal>>,
    },
    /// End the stream with RESOURCE_EXHAUSTED and this message.
    End(String),
}

/// State of one stream.
#[derive(Debug)]
pub struct Session {
    nonces: Nonces,
    response_bytes_max: usize,
    node: Option<Node>,
    published: Option<Arc<Published>>,
    subscriptions: [Subscription; ResourceType::ALL.len()],
}

/// How far a client is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionStatus {
    /// Version of the snapshot that the client holds whole, if nothing is under way or refused.
    pub synced: Option<Version>,
    /// The types that the client has subscribed to.
    pub types: Vec<TypeStatus>,
}

/// How far a client is with one type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeStatus {
    /// Which type.
    pub resource_type: ResourceType,
    /// Number of resources that the client has acknowledged.
    pub held: usize,
    /// Number of changes that wait to be sent.
    pub pending: usize,
    /// Nonce of the response that awaits its answer.
    pub in_flight: Option<String>,
    /// What the client has refused and was not changed since.
    pub refusals: Vec<Arc<Refusal>>,
}

impl Session {
    /// A stream that has just opened. `stream` is a number that no other stream of this control plane has.
    pub fn new(stream: u64) -> Self {
        Self::with_response_bytes_max(stream, RESPONSE_BYTES_MAX)
    }

    /// Like [`Self::new`], with another bound than [`RESPONSE_BYTES_MAX`].
    pub fn with_response_bytes_max(stream: u64, response_bytes_max: usize) -> Self {
        Self {
            nonces: Nonces::new(stream),
            response_bytes_max,
            node: None,
            published: None,
            subscriptions: ResourceType::ALL.map(Subscription::new),
        }
    }

    /// Who the client says it is, from the first request that said so. A claim: its certificate or token is the proof.
    pub fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    /// The client has sent `request`.
    pub fn request(&mut self, mut request: DeltaDiscoveryRequest) -> Vec<ServerAction> {
        if self.node.is_none() {
            self.node = request.node.take();
        }
        let Some(resource_type) = ResourceType::from_type_url(&request.type_url) else {
            return self.answer_unknown(request);
        };
        let published = self.published.clone();
        let table = table_of(published.as_deref(), resource_type);
        let subscription = &mut self.subscriptions[resource_type.index()];
        let mut actions = Vec::new();
        // A nonce that is not the last one of this stream is stale: the reply means nothing, the subscription still counts.
        if let Some(reply) = subscription.reply(&request.response_nonce, request.error_detail.as_ref(), table)
        {
            actions.push(report(resource_type, &request, reply));
        }
        let changes_names =
            !request.resource_names_subscribe.is_empty() || !request.resource_names_unsubscribe.is_empty();
        if changes_names || !subscription.is_started() {
            let names = subscription.names_after(&request);
            if names > NAMES_MAX {
                let why = format!(
                    "{names} names of {resource_type} are more than {NAMES_MAX}, the most for one stream"
                );
                actions.push(ServerAction::End(why));
                return actions;
            }
            subscription.subscribe(&request, table);
        }
        self.advance(&mut actions);
        actions
    }

    /// There is a new snapshot.
    pub fn publish(&mut self, published: &Arc<Published>) -> Vec<ServerAction> {
        let before = self.published.replace(Arc::clone(published));
        for subscription in &mut self.subscriptions {
            let after = published.table(subscription.resource_type());
            match &before {
                None => subscription.refresh_all(after),
                Some(before) => {
                    let before = before.table(subscription.resource_type());
                    for name in published::changed(before, after) {
                        subscription.published(name, after);
                    }
                }
            }
        }
        let mut actions = Vec::new();
        self.advance(&mut actions);
        actions
    }

    /// How far the client is.
    pub fn status(&self) -> SessionStatus {
        let started = self.subscriptions.iter().filter(|s| s.is_started());
        let types: Vec<_> = started
            .map(|s| TypeStatus {
                resource_type: s.resource_type(),
                held: s.held(),
                pending: s.pending(),
                in_flight: s.in_flight_nonce().map(str::to_owned),
                refusals: s.refusals(),
            })
            .collect();
        let is_even = |t: &TypeStatus| t.pending == 0 && t.in_flight.is_none() && t.refusals.is_empty();
        let synced = !types.is_empty() && types.iter().all(is_even);
        let version = self.published.as_ref().map(|p| p.version().clone());
        SessionStatus { synced: version.filter(|_| synced), types }
    }

    /// Sends whatever its turn has come for.
    fn advance(&mut self, actions: &mut Vec<ServerAction>) {
        let Some(published) = self.published.clone() else { return };
        let mut is_clear = true;
        for at in 0..self.subscriptions.len() {
            let subscription = &mut self.subscriptions[at];
            if is_clear && subscription.is_idle() && subscription.has_to_make() {
                let nonce = self.nonces.make();
                let table = published.table(subscription.resource_type());
                let contents = subscription.make(&nonce, table, self.response_bytes_max);
                actions.push(send(&published, subscription.resource_type(), nonce, contents));
            }
            is_clear &= subscription.is_idle() && !subscription.has_to_make();
        }
        if !is_clear {
            return;
        }
        // Every type that was asked for has been answered, and the answer acknowledged. A client asks for all its types before it
        // acknowledges anything, so by now it is known what may still refer to what is taken away here.
        if let Some(subscription) = self.subscriptions.iter_mut().rev().find(|s| s.has_to_remove()) {
            let nonce = self.nonces.make();
            let table = published.table(subscription.resource_type());
            let contents = subscription.remove(&nonce, table, self.response_bytes_max);
            actions.push(send(&published, subscription.resource_type(), nonce, contents));
        }
    }

    /// A type of another version of Penstock, or of somebody else: nothing of it exists here, and the client is told so once per
    /// request rather than left to wait.
    fn answer_unknown(&mut self, request: DeltaDiscoveryRequest) -> Vec<ServerAction> {
        if !request.response_nonce.is_empty() {
            return Vec::new();
        }
        let names = request.resource_names_subscribe.into_iter();
        vec![ServerAction::Send(DeltaDiscoveryResponse {
            type_url: request.type_url,
            nonce: self.nonces.make(),
            removed_resources: names.filter(|name| name != subscription::WILDCARD).collect(),
            ..DeltaDiscoveryResponse::default()
        })]
    }
}

fn table_of(published: Option<&Published>, resource_type: ResourceType) -> &published::Table {
    static EMPTY: published::Table = published::Table::new();
    published.map_or(&EMPTY, |p| p.table(resource_type))
}

fn send(
    published: &Published,
    resource_type: ResourceType,
    nonce: String,
    contents: Contents,
) -> ServerAction {
    ServerAction::Send(DeltaDiscoveryResponse {
        system_version_info: published.version().to_string(),
        resources: contents.resources,
        type_url: resource_type.type_url().to_owned(),
        nonce,
        removed_resources: contents.removed,
        ..DeltaDiscoveryResponse::default()
    })
}

fn report(resource_type: ResourceType, request: &DeltaDiscoveryRequest, reply: Reply) -> ServerAction {
    let nonce = request.response_nonce.clone();
    match reply {
        Reply::Ack => ServerAction::Acked { resource_type, nonce },
        Reply::Nack(refusals) => {
            let message = request.error_detail.as_ref().map(|s| s.message.clone()).unwrap_or_default();
            ServerAction::Nacked { resource_type, nonce, message, refusals }
        }
    }
}
