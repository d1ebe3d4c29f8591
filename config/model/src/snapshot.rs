//! What was decided: immutable, compared, shipped.
//!
//! A snapshot is made by [`compile`](crate::compile) from documents, or by the delivery package from the wire; both end in
//! [`Snapshot::assemble`], which builds the look-up tables once, so that a request never searches.
//! References need not resolve: while a push is under way a route may name a backend that has not arrived.

mod backends;
mod objectives;
mod routes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;

pub use backends::{
    Affinity, Attributes, Backend, BodyOverflow, Endpoint, HealthCheck, HealthScope, Host, LoadBalancer,
    Outside, PeerName, Policy, Protocol, Roots, Tls, Zones,
};
pub use objectives::{Indicator, Objective, Slo, SloTarget};
pub use routes::{
    FieldMatch, Filter, HeaderChanges, Match, PathChange, PathMatch, Pattern, Redirect, Rewrite, Route,
    RouteParent, Rule, ValueMatch, WeightedBackend,
};

use crate::names::{BackendId, EndpointId, ObjectName, ParentId, ParentKind, RouteId, SloId, Version};

/// Everything in a snapshot, as plain tables.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Parts {
    /// Backends by id.
    #[serde(serialize_with = "values")]
    pub backends: BTreeMap<BackendId, Arc<Backend>>,
    /// Endpoints by id.
    #[serde(serialize_with = "values")]
    pub endpoints: BTreeMap<EndpointId, Arc<Endpoint>>,
    /// Routes by id.
    #[serde(serialize_with = "values")]
    pub routes: BTreeMap<RouteId, Arc<Route>>,
    /// Policies by the backend they are about.
    #[serde(serialize_with = "pairs")]
    pub policies: BTreeMap<BackendId, Arc<Policy>>,
    /// SLOs by id.
    #[serde(serialize_with = "values")]
    pub slos: BTreeMap<SloId, Arc<Slo>>,
}

/// One decided configuration. A request holds one from start to end.
#[derive(Clone, Debug)]
pub struct Snapshot {
    version: Version,
    parts: Parts,
    endpoints_of: BTreeMap<BackendId, Vec<Arc<Endpoint>>>,
    routes_of: BTreeMap<ParentId, Vec<Arc<Route>>>,
    parent_of_host: BTreeMap<Arc<str>, ParentId>,
    default_backend: Option<BackendId>,
    defaults: Arc<Policy>,
}

impl Default for Snapshot {
    fn default() -> Self {
        Self::assemble(Parts::default())
    }
}

impl PartialEq for Snapshot {
    fn eq(&self, other: &Self) -> bool {
        self.version == other.version && self.parts == other.parts
    }
}

impl Snapshot {
    /// Builds the look-up tables.
    pub fn assemble(parts: Parts) -> Self {
        let mut endpoints_of: BTreeMap<BackendId, Vec<Arc<Endpoint>>> = BTreeMap::new();
        for endpoint in parts.endpoints.values() {
            endpoints_of.entry(endpoint.id.backend.clone()).or_default().push(Arc::clone(endpoint));
        }
        let mut routes_of: BTreeMap<ParentId, Vec<Arc<Route>>> = BTreeMap::new();
        for route in parts.routes.values() {
            let distinct: BTreeSet<_> = route.parents.iter().map(|p| &p.id).collect();
            for parent in distinct {
                routes_of.entry(parent.clone()).or_default().push(Arc::clone(route));
            }
        }
        let mut parent_of_host = BTreeMap::new();
        for backend in parts.backends.values() {
            for hostname in &backend.hostnames {
                parent_of_host.insert(
                    Arc::clone(hostname),
                    ParentId { kind: ParentKind::Backend, name: backend.id.0.clone() },
                );
            }
        }
        let default_backend = parts.backends.values().find(|b| b.is_default).map(|b| b.id.clone());
        let version = version_of(&parts);
        Self {
            version,
            parts,
            endpoints_of,
            routes_of,
            parent_of_host,
            default_backend,
            defaults: Arc::new(Policy::default()),
        }
    }

    /// A hash of the content.
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// Everything in it.
    pub fn parts(&self) -> &Parts {
        &self.parts
    }

    /// The backend, if it is known.
    pub fn backend(&self, id: &BackendId) -> Option<&Arc<Backend>> {
        self.parts.backends.get(id)
    }

    /// Endpoints of a backend in the order of their addresses.
    pub fn endpoints_of(&self, id: &BackendId) -> &[Arc<Endpoint>] {
        self.endpoints_of.get(id).map_or(&[], Vec::as_slice)
    }

    /// The policy of a backend, or the defaults.
    pub fn policy_of(&self, id: &BackendId) -> &Arc<Policy> {
        self.parts.policies.get(id).unwrap_or(&self.defaults)
    }

    /// Routes attached to a parent, in the order of their names.
    pub fn routes_of(&self, parent: &ParentId) -> &[Arc<Route>] {
        self.routes_of.get(parent).map_or(&[], Vec::as_slice)
    }

    /// The backend with `default: true`.
    pub fn default_backend(&self) -> Option<&BackendId> {
        self.default_backend.as_ref()
    }

    /// The parent that `host` (no port, any case) names.
    ///
    /// `NAME` and `NAME.NAMESPACE` and `NAME.NAMESPACE.svc[.DOMAIN]` name a Service that a route is attached to, or else a
    /// Backend; a bare `NAME` is looked up in `namespace`. A Backend's own `hostnames` win over all of these.
    pub fn parent_named(&self, host: &str, namespace: &str) -> Option<ParentId> {
        let host = host.to_ascii_lowercase();
        if let Some(parent) = self.parent_of_host.get(host.as_str()) {
            return Some(parent.clone());
        }
        let mut labels = host.split('.');
        let name = labels.next().filter(|name| !name.is_empty())?;
        let namespace = labels.next().unwrap_or(namespace);
        if labels.next().is_some_and(|label| label != "svc") {
            return None;
        }
        let name = ObjectName::new(namespace, name);
        let service = ParentId { kind: ParentKind::Service, name: name.clone() };
        if self.routes_of.contains_key(&service) {
            return Some(service);
        }
        let backend = BackendId(name);
        self.parts
            .backends
            .contains_key(&backend)
            .then_some(ParentId { kind: ParentKind::Backend, name: backend.0 })
    }

    /// Names that a caller can use, for the message of a 404: `hostnames`, Backends and Services with routes, in order.
    pub fn known_names(&self) -> Vec<String> {
        let mut names: BTreeSet<String> = self.parent_of_host.keys().map(ToString::to_string).collect();
        let qualified = |name: &ObjectName| format!("{}.{}", name.name, name.namespace);
        names.extend(self.parts.backends.keys().map(|id| qualified(&id.0)));
        names.extend(
            self.routes_of
                .keys()
                .filter(|parent| parent.kind == ParentKind::Service)
                .map(|parent| qualified(&parent.name)),
        );
        names.into_iter().collect()
    }
}

fn version_of(parts: &Parts) -> Version {
    // Serialising plain tables of strings and numbers into memory has no way to fail.
    let bytes = serde_json::to_vec(parts).unwrap_or_default();
    Version(format!("{:016x}", xxhash_rust::xxh3::xxh3_64(&bytes)).into())
}

fn values<S: serde::Serializer, K, V: Serialize>(
    table: &BTreeMap<K, V>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(table.values())
}

fn pairs<S: serde::Serializer, K: Serialize, V: Serialize>(
    table: &BTreeMap<K, V>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(table.iter())
}
