//! Snapshot resources as bytes, and back.
//!
//! A resource travels as `(name, version, google.protobuf.Any)`. The version is a hash of the encoded bytes, so every replica
//! of the control plane gives equal content an equal version. Reading is strict, because what is read here goes straight to
//! the data path: an enum value or `oneof` arm that is not known, an address that does not parse, a header with a line feed in
//! it or a name that differs from the content is a [`Flaw`] that says where. Fields that are not known are ignored, as
//! protobuf does; `resources.proto` says what follows from that for whoever adds one.

mod backends;
mod names;
mod objectives;
mod outside;
mod reading;
mod routes;
mod text;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use penstock_model::names::{BackendId, RouteId, SloId};
use penstock_model::snapshot::{Backend, Endpoint, Parts, Policy, Route, Slo};
use prost::Message;
use xxhash_rust::xxh3::xxh3_64;

use crate::proto::penstock::push::v1::SnapshotCache;
use crate::proto::penstock::v1;
use reading::Misfit;

/// The types that travel, in the order in which they are made: each may refer to those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceType {
    /// A set of endpoints.
    Backend,
    /// One place that serves a backend.
    Endpoint,
    /// How a backend is used.
    Policy,
    /// One HTTPRoute.
    Route,
    /// One LatencySLO.
    Slo,
}

impl ResourceType {
    /// Every type, in order.
    pub const ALL: [Self; 5] = [Self::Backend, Self::Endpoint, Self::Policy, Self::Route, Self::Slo];

    /// What `type_url` holds.
    pub const fn type_url(self) -> &'static str {
        match self {
            Self::Backend => "type.googleapis.com/penstock.v1.Backend",
            Self::Endpoint => "type.googleapis.com/penstock.v1.Endpoint",
            Self::Policy => "type.googleapis.com/penstock.v1.Policy",
            Self::Route => "type.googleapis.com/penstock.v1.Route",
            Self::Slo => "type.googleapis.com/penstock.v1.Slo",
        }
    }

    /// The type with this `type_url`, if it is one of ours.
    pub fn from_type_url(type_url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.type_url() == type_url)
    }

    /// Plural in lower case, for metrics, logs and dumps: `backends`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Backend => "backends",
            Self::Endpoint => "endpoints",
            Self::Policy => "policies",
            Self::Route => "routes",
            Self::Slo => "slos",
        }
    }

    /// Position in [`Self::ALL`].
    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for ResourceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// One thing that travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resource {
    /// A backend.
    Backend(Arc<Backend>),
    /// An endpoint.
    Endpoint(Arc<Endpoint>),
    /// The policy of a backend.
    Policy(BackendId, Arc<Policy>),
    /// A route.
    Route(Arc<Route>),
    /// An SLO.
    Slo(Arc<Slo>),
}

/// A resource as it travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// Its name, such as `penstock/chat/llama`.
    pub name: Arc<str>,
    /// 16 hexadecimal digits, a hash of `bytes`.
    pub version: Arc<str>,
    /// The protobuf message.
    pub bytes: Arc<[u8]>,
}

/// What is wrong with a resource that was received.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{resource_type} {}: {}{problem}", name.escape_debug(), prefix(field))]
pub struct Flaw {
    /// Type of the response that it came in.
    pub resource_type: ResourceType,
    /// Name that the sender gave it.
    pub name: String,
    /// Path of the field, such as `rules[0].filters[1].kind`; empty for the resource as a whole.
    pub field: String,
    /// What is wrong, and with which value.
    pub problem: String,
}

fn prefix(field: &str) -> String {
    if field.is_empty() { String::new() } else { format!("{field} ") }
}

impl Resource {
    /// Everything in `parts`, by type in order, by id within.
    pub fn all(parts: &Parts) -> impl Iterator<Item = Self> + '_ {
        let backends = parts.backends.values().map(|b| Self::Backend(Arc::clone(b)));
        let endpoints = parts.endpoints.values().map(|e| Self::Endpoint(Arc::clone(e)));
        let policies = parts.policies.iter().map(|(id, p)| Self::Policy(id.clone(), Arc::clone(p)));
        let routes = parts.routes.values().map(|r| Self::Route(Arc::clone(r)));
        let slos = parts.slos.values().map(|s| Self::Slo(Arc::clone(s)));
        backends.chain(endpoints).chain(policies).chain(routes).chain(slos)
    }

    /// Its type.
    pub fn resource_type(&self) -> ResourceType {
        match self {
            Self::Backend(_) => ResourceType::Backend,
            Self::Endpoint(_) => ResourceType::Endpoint,
            Self::Policy(..) => ResourceType::Policy,
            Self::Route(_) => ResourceType::Route,
            Self::Slo(_) => ResourceType::Slo,
        }
    }

    /// Its name on the wire.
    pub fn name(&self) -> String {
        match self {
            Self::Backend(backend) => names::of_object(&backend.id.0),
            Self::Endpoint(endpoint) => names::of_endpoint(&endpoint.id),
            Self::Policy(backend, _) => names::of_object(&backend.0),
            Self::Route(route) => names::of_object(&route.id.0),
            Self::Slo(slo) => names::of_object(&slo.id.0),
        }
    }

    /// As it travels.
    pub fn encode(&self) -> Encoded {
        let bytes = match self {
            Self::Backend(backend) => backends::write_backend(backend).encode_to_vec(),
            Self::Endpoint(endpoint) => backends::write_endpoint(endpoint).encode_to_vec(),
            Self::Policy(backend, policy) => backends::write_policy(backend, policy).encode_to_vec(),
            Self::Route(route) => routes::write_route(route).encode_to_vec(),
            Self::Slo(slo) => objectives::write_slo(slo).encode_to_vec(),
        };
        let version = format!("{:016x}", xxh3_64(&bytes));
        Encoded { name: self.name().into(), version: version.into(), bytes: bytes.into() }
    }

    /// Reads the resource that the sender calls `name`.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn decode(resource_type: ResourceType, name: &str, bytes: &[u8]) -> Result<Self, Flaw> {
        let flaw =
            |m: Misfit| Flaw { resource_type, name: name.to_owned(), field: m.field, problem: m.problem };
        let resource = read(resource_type, bytes).map_err(flaw)?;
        let own_name = resource.name();
        if own_name != name {
            return Err(flaw(Misfit::whole(format!("holds what must be called `{own_name}`"))));
        }
        Ok(resource)
    }

    /// Puts it in its table, in place of what has the same id there.
    pub fn insert_into(self, parts: &mut Parts) {
        match self {
            Self::Backend(backend) => drop(parts.backends.insert(backend.id.clone(), backend)),
            Self::Endpoint(endpoint) => drop(parts.endpoints.insert(endpoint.id.clone(), endpoint)),
            Self::Policy(backend, policy) => drop(parts.policies.insert(backend, policy)),
            Self::Route(route) => drop(parts.routes.insert(route.id.clone(), route)),
            Self::Slo(slo) => drop(parts.slos.insert(slo.id.clone(), slo)),
        }
    }
}

/// Takes the resource with this name from its table; nothing happens where there is none.
pub fn remove_from(parts: &mut Parts, resource_type: ResourceType, name: &str) {
    if resource_type == ResourceType::Endpoint {
        if let Some(id) = names::to_endpoint(name) {
            parts.endpoints.remove(&id);
        }
        return;
    }
    let Some(object) = names::to_object(name) else { return };
    match resource_type {
        ResourceType::Backend => drop(parts.backends.remove(&BackendId(object))),
        ResourceType::Policy => drop(parts.policies.remove(&BackendId(object))),
        ResourceType::Route => drop(parts.routes.remove(&RouteId(object))),
        ResourceType::Slo => drop(parts.slos.remove(&SloId(object))),
        ResourceType::Endpoint => {}
    }
}

/// The message of the disk cache.
pub(crate) fn write_all(parts: &Parts) -> SnapshotCache {
    SnapshotCache {
        backends: parts.backends.values().map(|b| backends::write_backend(b)).collect(),
        endpoints: parts.endpoints.values().map(|e| backends::write_endpoint(e)).collect(),
        policies: parts.policies.iter().map(|(id, p)| backends::write_policy(id, p)).collect(),
        routes: parts.routes.values().map(|r| routes::write_route(r)).collect(),
        slos: parts.slos.values().map(|s| objectives::write_slo(s)).collect(),
    }
}

/// Reads the message of the disk cache.
///
/// # Errors
/// The first resource that is refused, by its place in the list.
pub(crate) fn read_all(messages: SnapshotCache) -> Result<Parts, Flaw> {
    let mut parts = Parts::default();
    read_list(&mut parts, ResourceType::Backend, messages.backends, backends::read_backend)?;
    read_list(&mut parts, ResourceType::Endpoint, messages.endpoints, backends::read_endpoint)?;
    read_list(&mut parts, ResourceType::Policy, messages.policies, backends::read_policy)?;
    read_list(&mut parts, ResourceType::Route, messages.routes, routes::read_route)?;
    read_list(&mut parts, ResourceType::Slo, messages.slos, objectives::read_slo)?;
    Ok(parts)
}

fn read_list<M>(
    parts: &mut Parts,
    resource_type: ResourceType,
    messages: Vec<M>,
    read: impl Fn(M) -> Result<Resource, Misfit>,
) -> Result<(), Flaw> {
    let mut names = BTreeSet::new();
    for (at, message) in messages.into_iter().enumerate() {
        let flaw =
            |m: Misfit| Flaw { resource_type, name: format!("[{at}]"), field: m.field, problem: m.problem };
        let resource = read(message).map_err(flaw)?;
        let name = resource.name();
        if names.contains(&name) {
            return Err(flaw(Misfit::whole(format!("is a second `{name}`"))));
        }
        names.insert(name);
        resource.insert_into(parts);
    }
    Ok(())
}

fn read(resource_type: ResourceType, bytes: &[u8]) -> Result<Resource, Misfit> {
    match resource_type {
        ResourceType::Backend => backends::read_backend(message::<v1::Backend>(bytes)?),
        ResourceType::Endpoint => backends::read_endpoint(message::<v1::Endpoint>(bytes)?),
        ResourceType::Policy => backends::read_policy(message::<v1::Policy>(bytes)?),
        ResourceType::Route => routes::read_route(message::<v1::Route>(bytes)?),
        ResourceType::Slo => objectives::read_slo(message::<v1::Slo>(bytes)?),
    }
}

fn message<M: Message + Default>(bytes: &[u8]) -> Result<M, Misfit> {
    M::decode(bytes).map_err(|e| Misfit::whole(format!("is no valid protobuf message: {e}")))
}
