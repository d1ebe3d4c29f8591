//! What one client wants of one type, what it holds, and what is still to be sent.
//!
//! Every name is in one of these states; [`Subscription::refresh`] alone moves it between the first four, by comparing what is
//! published with what the client has acknowledged:
//!
//! ```text
//!           ┌──► to make ────┐                 ┌─ACK──► even
//!   even ───┤                ├──► in flight ───┤
//!           └──► to remove ──┘                 └─NACK─► refused, until the published content changes
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use prost::Message;

use super::published::{Entry, Table};
use crate::proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, Resource};
use crate::proto::google::rpc::Status;
use crate::proto::penstock::v1::Rejection;
use crate::wire::ResourceType;

/// The name that means every resource of the type.
pub(super) const WILDCARD: &str = "*";

/// Content that the client has refused, alone or together with others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Nonce of the response.
    pub nonce: String,
    /// In the client's words.
    pub message: String,
    /// Names that were refused together: none is sent again until one of them changes.
    pub names: Vec<Arc<str>>,
}

/// The response that the client has not answered yet.
#[derive(Debug)]
struct InFlight {
    nonce: String,
    /// Version by name; absent for a removal.
    items: BTreeMap<Arc<str>, Option<Arc<str>>>,
    /// Those of them that must be sent even if the client holds them.
    owed: BTreeSet<Arc<str>>,
}

/// What a response holds, without its envelope.
pub(super) struct Contents {
    pub(super) resources: Vec<Resource>,
    pub(super) removed: Vec<String>,
}

/// How the client has answered.
pub(super) enum Reply {
    Ack,
    Nack(Vec<Arc<Refusal>>),
}

#[derive(Debug)]
pub(super) struct Subscription {
    resource_type: ResourceType,
    started: bool,
    wildcard: bool,
    names: BTreeSet<Arc<str>>,
    held: BTreeMap<Arc<str>, Arc<str>>,
    /// To be sent, or listed as removed, whatever the client holds.
    owed: BTreeSet<Arc<str>>,
    /// A subscription must be answered even if nothing is to be sent.
    owes_answer: bool,
    to_make: BTreeSet<Arc<str>>,
    to_remove: BTreeSet<Arc<str>>,
    in_flight: Option<InFlight>,
    /// In the version that is published now.
    refused: BTreeMap<Arc<str>, Arc<Refusal>>,
}

impl Subscription {
    pub(super) fn new(resource_type: ResourceType) -> Self {
        Self {
            resource_type,
            started: false,
            wildcard: false,
            names: BTreeSet::new(),
            held: BTreeMap::new(),
            owed: BTreeSet::new(),
            owes_answer: false,
            to_make: BTreeSet::new(),
            to_remove: BTreeSet::new(),
            in_flight: None,
            refused: BTreeMap::new(),
        }
    }

    pub(super) fn resource_type(&self) -> ResourceType {
        self.resource_type
    }

    /// Whether the client has asked for the type.
    pub(super) fn is_started(&self) -> bool {
        self.started
    }

    /// Whether no response awaits its answer.
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.is_none()
    }

    pub(super) fn has_to_make(&self) -> bool {
        self.owes_answer || !self.to_make.is_empty()
    }

    pub(super) fn has_to_remove(&self) -> bool {
        !self.to_remove.is_empty()
    }

    pub(super) fn in_flight_nonce(&self) -> Option<&str> {
        self.in_flight.as_ref().map(|f| f.nonce.as_str())
    }

    /// Number of resources that the client has acknowledged.
    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    /// Number of changes that wait to be sent.
    pub(super) fn pending(&self) -> usize {
        self.to_make.len() + self.to_remove.len()
    }

    /// Everything that was refused and has not changed since.
    pub(super) fn refusals(&self) -> Vec<Arc<Refusal>> {
        let first = |(name, refusal): (&Arc<str>, &Arc<Refusal>)| {
            (refusal.names.first() == Some(name)).then(|| Arc::clone(refusal))
        };
        self.refused.iter().filter_map(first).collect()
    }

    /// How many names would be remembered for the client's sake after `request`.
    pub(super) fn names_after(&self, request: &DeltaDiscoveryRequest) -> usize {
        let given = request.resource_names_subscribe.len()
            + request.resource_names_unsubscribe.len()
            + request.initial_resource_versions.len();
        self.names.len() + self.owed.len() + given
    }

    /// Takes the subscription part of a request.
    pub(super) fn subscribe(&mut self, request: &DeltaDiscoveryRequest, table: &Table) {
        let added = &request.resource_names_subscribe;
        let taken = &request.resource_names_unsubscribe;
        let is_first = !self.started;
        if is_first {
            self.start(request, table);
        }
        let mut touched: BTreeSet<Arc<str>> = BTreeSet::new();
        for name in added {
            if name == WILDCARD {
                self.wildcard = true;
                self.owes_answer = true;
                if !is_first {
                    self.owed.extend(table.keys().cloned());
                    touched.extend(table.keys().cloned());
                }
                continue;
            }
            let name = shared(table, name);
            if !(is_first && self.held.contains_key(&name)) {
                self.owed.insert(Arc::clone(&name));
            }
            self.names.insert(Arc::clone(&name));
            touched.insert(name);
        }
        for name in taken {
            if name == WILDCARD {
                self.wildcard = false;
                continue;
            }
            let name = shared(table, name);
            self.names.remove(&name);
            self.owed.insert(Arc::clone(&name)); // stays so under a wildcard alone
            touched.insert(name);
        }
        for name in &touched {
            self.forgive(name, table);
        }
        if is_first || taken.iter().any(|name| name == WILDCARD) {
            self.refresh_all(table);
        } else {
            touched.iter().for_each(|name| self.refresh(name, table));
        }
    }

    fn start(&mut self, request: &DeltaDiscoveryRequest, table: &Table) {
        self.started = true;
        self.owes_answer = true;
        self.wildcard =
            request.resource_names_subscribe.is_empty() && request.resource_names_unsubscribe.is_empty();
        let version = |name: &str, version: &str| match table.get(name) {
            Some(entry) if *entry.version == *version => Arc::clone(&entry.version),
            _ => version.into(),
        };
        self.held = request
            .initial_resource_versions
            .iter()
            .map(|(name, v)| (shared(table, name), version(name, v)))
            .collect();
    }

    /// Takes the reply part of a request; nothing when it does not answer what is in flight.
    pub(super) fn reply(&mut self, nonce: &str, error: Option<&Status>, table: &Table) -> Option<Reply> {
        let in_flight = self.in_flight.take_if(|f| f.nonce == nonce)?;
        let reply = match error {
            None => {
                self.acknowledge(&in_flight);
                Reply::Ack
            }
            Some(status) => Reply::Nack(self.refuse(&in_flight, status)),
        };
        for (name, version) in &in_flight.items {
            if self.desired(name, table).map(|e| &e.version) != version.as_ref() {
                self.forgive(name, table);
            }
            self.refresh(name, table);
        }
        Some(reply)
    }

    fn acknowledge(&mut self, in_flight: &InFlight) {
        for (name, version) in &in_flight.items {
            match version {
                Some(version) if self.wants(name) => {
                    self.held.insert(Arc::clone(name), Arc::clone(version));
                }
                _ => {
                    self.held.remove(name);
                }
            }
        }
    }

    /// Blames what the client has named, or everything where it has named nothing that was in the response.
    fn refuse(&mut self, in_flight: &InFlight, status: &Status) -> Vec<Arc<Refusal>> {
        let nonce = &in_flight.nonce;
        let mut refusals: Vec<Refusal> = Vec::new();
        for rejected in rejection(status).resources {
            let Some((name, _)) = in_flight.items.get_key_value(rejected.name.as_str()) else { continue };
            let separator = if rejected.field.is_empty() { "" } else { " " };
            let message = format!("{}{separator}{}", rejected.field, rejected.problem);
            refusals.push(Refusal { nonce: nonce.clone(), message, names: vec![Arc::clone(name)] });
        }
        if refusals.is_empty() {
            let names = in_flight.items.keys().cloned().collect();
            refusals.push(Refusal { nonce: nonce.clone(), message: status.message.clone(), names });
        }
        let refusals: Vec<_> = refusals.into_iter().map(Arc::new).collect();
        for refusal in &refusals {
            for name in &refusal.names {
                self.refused.insert(Arc::clone(name), Arc::clone(refusal));
            }
        }
        let not_blamed = in_flight.owed.iter().filter(|name| !self.refused.contains_key(*name));
        self.owed.extend(not_blamed.cloned());
        refusals
    }

    /// What is published differs at `name`.
    pub(super) fn published(&mut self, name: &Arc<str>, table: &Table) {
        self.forgive(name, table);
        self.refresh(name, table);
    }

    /// Lets `name`, and what was refused together with it, be sent again.
    fn forgive(&mut self, name: &Arc<str>, table: &Table) {
        let Some(refusal) = self.refused.remove(name) else { return };
        for other in &refusal.names {
            if self.refused.get(other).is_some_and(|r| Arc::ptr_eq(r, &refusal)) {
                self.refused.remove(other);
            }
            self.refresh(other, table);
        }
    }

    /// Compares every name afresh.
    pub(super) fn refresh_all(&mut self, table: &Table) {
        let mut names: BTreeSet<Arc<str>> = table.keys().cloned().collect();
        names.extend(self.held.keys().cloned());
        names.extend(self.refused.keys().cloned());
        for more in [&self.owed, &self.to_make, &self.to_remove] {
            names.extend(more.iter().cloned());
        }
        names.iter().for_each(|name| self.refresh(name, table));
    }

    /// Decides afresh what is to be done about one name. What is in flight is decided again when the reply is there.
    fn refresh(&mut self, name: &Arc<str>, table: &Table) {
        self.to_make.remove(name);
        self.to_remove.remove(name);
        if !self.wants(name) {
            // The client drops by itself what it unsubscribes from.
            self.owed.remove(name);
            self.held.remove(name);
            self.refused.remove(name);
            return;
        }
        if self.refused.contains_key(name) {
            return;
        }
        let held = self.held.get(name);
        let due = match table.get(name) {
            // A removal waits for its turn even if the client has asked about the name: something may still refer to it.
            None if held.is_some() => &mut self.to_remove,
            None if self.owed.contains(name) => &mut self.to_make,
            Some(entry) if held != Some(&entry.version) || self.owed.contains(name) => &mut self.to_make,
            Some(_) | None => return,
        };
        due.insert(Arc::clone(name));
    }

    /// Fills a response with what is to be made, up to about `bytes_max`, one item at least if there is one.
    pub(super) fn make(&mut self, nonce: &str, table: &Table, bytes_max: usize) -> Contents {
        self.owes_answer = false;
        let names = std::mem::take(&mut self.to_make);
        let (contents, rest) = self.fill(nonce, names, table, bytes_max);
        self.to_make = rest;
        contents
    }

    /// Fills a response with what is to be removed, up to about `bytes_max`.
    pub(super) fn remove(&mut self, nonce: &str, table: &Table, bytes_max: usize) -> Contents {
        let names = std::mem::take(&mut self.to_remove);
        let (contents, rest) = self.fill(nonce, names, table, bytes_max);
        self.to_remove = rest;
        contents
    }

    fn fill(
        &mut self,
        nonce: &str,
        names: BTreeSet<Arc<str>>,
        table: &Table,
        bytes_max: usize,
    ) -> (Contents, BTreeSet<Arc<str>>) {
        let mut contents = Contents { resources: Vec::new(), removed: Vec::new() };
        let mut in_flight =
            InFlight { nonce: nonce.to_owned(), items: BTreeMap::new(), owed: BTreeSet::new() };
        let mut bytes = 0;
        let mut names = names.into_iter();
        let mut rest = BTreeSet::new();
        for name in names.by_ref() {
            let entry = table.get(&name);
            bytes += name.len() + ITEM_OVERHEAD_BYTES + entry.map_or(0, |e| e.bytes.len());
            if bytes > bytes_max && !in_flight.items.is_empty() {
                rest.insert(name);
                break;
            }
            match entry {
                Some(entry) => contents.resources.push(envelope(self.resource_type, &name, entry)),
                None => contents.removed.push(name.to_string()),
            }
            if self.owed.remove(&name) {
                in_flight.owed.insert(Arc::clone(&name));
            }
            in_flight.items.insert(name, entry.map(|e| Arc::clone(&e.version)));
        }
        rest.extend(names);
        self.in_flight = Some(in_flight);
        (contents, rest)
    }

    fn wants(&self, name: &Arc<str>) -> bool {
        self.wildcard || self.names.contains(name)
    }

    fn desired<'t>(&self, name: &Arc<str>, table: &'t Table) -> Option<&'t Entry> {
        table.get(name).filter(|_| self.wants(name))
    }
}

/// More than the tags, lengths, version and type URL around a resource.
const ITEM_OVERHEAD_BYTES: usize = 128;

fn envelope(resource_type: ResourceType, name: &str, entry: &Entry) -> Resource {
    Resource {
        version: entry.version.to_string(),
        resource: Some(prost_types::Any {
            type_url: resource_type.type_url().to_owned(),
            value: entry.bytes.to_vec(),
        }),
        name: name.to_owned(),
        aliases: Vec::new(),
        ttl: None,
    }
}

/// The published name where there is one, so that a thousand sessions share its bytes.
fn shared(table: &Table, name: &str) -> Arc<str> {
    table.get_key_value(name).map_or_else(|| name.into(), |(name, _)| Arc::clone(name))
}

fn rejection(status: &Status) -> Rejection {
    let ours = status.details.iter().find(|any| any.type_url == crate::REJECTION_TYPE_URL);
    ours.and_then(|any| Rejection::decode(any.value.as_slice()).ok()).unwrap_or_default()
}
