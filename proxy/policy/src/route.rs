//! Where a request belongs: authority → parent → rule.
//!
//! [`parent`] finds the Service or Backend that the authority names. [`RouteTable::find`] finds the rule of the routes attached
//! to it. The table is built once for a snapshot and holds, for each parent, every match of every rule in order of precedence, so
//! that the first one that holds is the answer.
//!
//! **Which routes count.** Those in the parent's own namespace (producer routes) are for all callers. Those in another namespace
//! (consumer routes) are for callers in the route's namespace alone, and there they replace producer routes as a whole; the two
//! groups are never merged. A route in a third namespace does not apply, so nobody can take over another tenant's traffic. The
//! same holds for Services (as GAMMA says) and Backends. A route bound to a port of the parent counts for that port alone.
//!
//! **What no route means.** Where no route counts, the request goes to the backend itself. Where one does and none of its
//! matches holds, the request is refused.

mod condition;
mod precedence;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use penstock_model::names::{BackendId, ParentId, ParentKind};
use penstock_model::snapshot::{Match, PathMatch, Route, RouteParent, Rule, Snapshot};

use precedence::Rank;

/// The virtual request header that carries the model's name in `matches.headers`.
///
/// Its value is the model read from the body. Only where the body names none is a header of this name believed, so a caller
/// cannot send one model in the header and another in the body.
pub const MODEL_HEADER: &str = "x-gateway-model-name";

/// What routing looks at in one request.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    /// Namespace of the caller.
    pub namespace: &'a str,
    /// Host of the authority without port, IPv6 in brackets; empty if there is none.
    pub host: &'a str,
    /// Port of the parent that the caller addressed: the authority's, or its scheme's where it has none. Absent where it is not
    /// known, as when the authority is the sidecar's own; then only routes for all ports count.
    pub port: Option<u16>,
    /// Method, upper case.
    pub method: &'a str,
    /// Path without query, as received: neither percent-decoded nor normalised. Ambiguous paths are refused before routing.
    pub path: &'a str,
    /// What stands after the `?`.
    pub query: Option<&'a str>,
    /// Model read from the body; absent while it is not known, and where there is none.
    pub model: Option<&'a str>,
    /// The request's headers.
    pub headers: &'a dyn Headers,
}

/// Read access to the headers of a request.
pub trait Headers {
    /// Calls `see` with every value of the header `name` (lower case), in the order received.
    fn each_value<'h>(&'h self, name: &str, see: &mut dyn FnMut(&'h [u8]));
}

/// Headers as a list, for tools and tests.
impl<N: AsRef<str>, V: AsRef<[u8]>> Headers for Vec<(N, V)> {
    fn each_value<'h>(&'h self, name: &str, see: &mut dyn FnMut(&'h [u8])) {
        for (_, value) in self.iter().filter(|(n, _)| n.as_ref().eq_ignore_ascii_case(name)) {
            see(value.as_ref());
        }
    }
}

/// Whose address an authority is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authority {
    /// The one on which this sidecar listens: the caller's base URL is the sidecar.
    Sidecar,
    /// Any other.
    Other,
}

/// The Service or Backend that a request is addressed to.
///
/// A name that is known wins; otherwise the sidecar's own address means the Backend with `default: true`. `namespace` is the
/// caller's, for bare names.
///
/// # Errors
/// [`NoRoute::UnknownHost`] and [`NoRoute::NoDefault`], both with the names that would have worked.
pub fn parent(
    snapshot: &Snapshot,
    host: &str,
    authority: Authority,
    namespace: &str,
) -> Result<ParentId, NoRoute> {
    if let Some(parent) = snapshot.parent_named(host, namespace) {
        return Ok(parent);
    }
    match authority {
        Authority::Other => {
            Err(NoRoute::UnknownHost { host: host.to_owned(), known: snapshot.known_names() })
        }
        Authority::Sidecar => snapshot
            .default_backend()
            .map(|backend| ParentId { kind: ParentKind::Backend, name: backend.0.clone() })
            .ok_or_else(|| NoRoute::NoDefault { known: snapshot.known_names() }),
    }
}

/// Every match of every rule, by parent, in order of precedence.
#[derive(Debug, Default)]
pub struct RouteTable {
    parents: BTreeMap<ParentId, Attached>,
}

impl RouteTable {
    /// Builds the table of a snapshot; n log n in the number of matches.
    pub fn new(snapshot: &Snapshot) -> Self {
        let mut parents: BTreeMap<ParentId, Attached> = BTreeMap::new();
        for route in snapshot.parts().routes.values() {
            for RouteParent { id, .. } in &route.parents {
                if !parents.contains_key(id) {
                    parents.insert(id.clone(), Attached::new(id, snapshot));
                }
            }
        }
        Self { parents }
    }

    /// The rule that applies, or the backend itself where no route counts.
    ///
    /// # Errors
    /// [`NoRoute::Unmatched`] where routes count and none of their matches holds, [`NoRoute::Unattached`] for a Service without
    /// a route that counts and without a Backend of its name.
    pub fn find(&self, parent: &ParentId, asked: &Asked<'_>) -> Result<Choice, NoRoute> {
        let attached = self.parents.get(parent);
        let Some(group) = attached.and_then(|attached| attached.group(asked)) else {
            let backend = match (parent.kind, attached) {
                (ParentKind::Backend, _) => Some(BackendId(parent.name.clone())),
                (ParentKind::Service, Some(attached)) => attached.implicit.clone(),
                (ParentKind::Service, None) => None,
            };
            return backend
                .map(Choice::Implicit)
                .ok_or_else(|| NoRoute::Unattached { parent: parent.clone() });
        };
        group
            .candidates(asked)
            .find(|candidate| condition::holds(candidate.condition(), asked))
            .map(|candidate| Choice::Rule(candidate.matched()))
            .ok_or_else(|| NoRoute::Unmatched { parent: parent.clone() })
    }

    /// Whether [`find`](Self::find) may answer otherwise once the model is known, so that the body must be held until then.
    ///
    /// False when `asked.model` is given, and when a rule that does not look at the model comes before all that do.
    pub fn needs_model(&self, parent: &ParentId, asked: &Asked<'_>) -> bool {
        let group = self.parents.get(parent).and_then(|attached| attached.group(asked));
        asked.model.is_none()
            && group.is_some_and(|group| {
                group
                    .candidates(asked)
                    .find(|candidate| condition::holds_but_for_model(candidate.condition(), asked))
                    .is_some_and(|candidate| condition::looks_at_model(candidate.condition()))
            })
    }
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// As a rule says.
    Rule(Matched),
    /// To the backend itself: no route counts.
    Implicit(BackendId),
}

/// The rule that applies to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matched {
    route: Arc<Route>,
    rule_index: usize,
    prefix_len: usize,
}

impl Matched {
    /// The route that the rule is part of.
    pub fn route(&self) -> &Arc<Route> {
        &self.route
    }

    /// The rule.
    pub fn rule(&self) -> &Rule {
        &self.route.rules[self.rule_index]
    }

    /// Place of the rule in its route, from 0.
    pub fn rule_index(&self) -> usize {
        self.rule_index
    }

    /// Bytes of the path that a prefix match has covered, without trailing slash; 0 for other matches.
    pub fn prefix_len(&self) -> usize {
        self.prefix_len
    }
}

/// Why a request has no route: 404 `no_route`. `Display` gives the message for the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoRoute {
    /// The authority names nothing.
    UnknownHost {
        /// The authority's host.
        host: String,
        /// Names that would have worked, in order.
        known: Vec<String>,
    },
    /// The authority is the sidecar's own and no backend is the default.
    NoDefault {
        /// Names that would have worked, in order.
        known: Vec<String>,
    },
    /// Routes are attached and none of their matches holds.
    Unmatched {
        /// What was addressed.
        parent: ParentId,
    },
    /// A Service that has neither a route for this caller and port nor a Backend of its name.
    Unattached {
        /// What was addressed.
        parent: ParentId,
    },
}

impl NoRoute {
    /// Most names that a message lists: one that fits an error body and a terminal.
    const LISTED_MAX: usize = 20;
}

impl fmt::Display for NoRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = match self {
            Self::UnknownHost { host, known } => {
                // Escaped: the host is the caller's text, and this message is also logged.
                write!(f, "`{}` names no Service with a route and no Backend", host.escape_debug())?;
                known
            }
            Self::NoDefault { known } => {
                f.write_str("the authority is the sidecar's own address and no Backend has `default: true`")?;
                known
            }
            Self::Unmatched { parent } => {
                return write!(f, "no rule of the routes attached to {parent} matches this request");
            }
            Self::Unattached { parent } => {
                return write!(
                    f,
                    "{parent} has no route for this caller and port, and there is no Backend of its name"
                );
            }
        };
        match known.len() {
            0 => f.write_str("; no names are known yet"),
            count if count > Self::LISTED_MAX => {
                let listed = known[..Self::LISTED_MAX].join(", ");
                write!(f, "; known names: {listed} and {} more", count - Self::LISTED_MAX)
            }
            _ => write!(f, "; known names: {}", known.join(", ")),
        }
    }
}

impl std::error::Error for NoRoute {}

/// All routes attached to one parent.
#[derive(Debug)]
struct Attached {
    producers: Group,
    /// By the namespace whose callers they are for.
    consumers: BTreeMap<Arc<str>, Group>,
    /// The backend of the parent's own name, if it is known.
    implicit: Option<BackendId>,
}

impl Attached {
    fn new(parent: &ParentId, snapshot: &Snapshot) -> Self {
        let backend = BackendId(parent.name.clone());
        let implicit = snapshot.backend(&backend).map(|backend| backend.id.clone());
        let mut attached = Self { producers: Group::default(), consumers: BTreeMap::new(), implicit };
        for route in snapshot.routes_of(parent) {
            let namespace = &route.id.0.namespace;
            if *namespace == parent.name.namespace {
                attached.producers.add(route, parent);
            } else {
                attached.consumers.entry(Arc::clone(namespace)).or_default().add(route, parent);
            }
        }
        for group in attached.consumers.values_mut().chain([&mut attached.producers]) {
            group.candidates.sort_by(|a, b| a.rank.cmp(&b.rank));
        }
        attached
    }

    /// The one group that counts for this caller and port.
    fn group(&self, asked: &Asked<'_>) -> Option<&Group> {
        let counts = |group: &&Group| group.ports.iter().any(|ports| ports.include(asked.port));
        self.consumers.get(asked.namespace).filter(counts).or_else(|| Some(&self.producers).filter(counts))
    }
}

/// Routes that are merged with each other.
#[derive(Debug, Default)]
struct Group {
    /// One for each route, also for a route that has no candidate.
    ports: Vec<Ports>,
    /// In order of precedence.
    candidates: Vec<Candidate>,
}

impl Group {
    fn add(&mut self, route: &Arc<Route>, parent: &ParentId) {
        let ports = Ports::of(route, parent);
        for (rule_index, rule) in route.rules.iter().enumerate() {
            for (match_index, condition) in rule.matches.iter().enumerate() {
                self.candidates.push(Candidate {
                    rank: Rank::new(route, rule_index, match_index, condition),
                    ports: ports.clone(),
                    route: Arc::clone(route),
                    rule_index,
                    match_index,
                });
            }
        }
        self.ports.push(ports);
    }

    fn candidates<'t>(&'t self, asked: &Asked<'_>) -> impl Iterator<Item = &'t Candidate> {
        let port = asked.port;
        self.candidates.iter().filter(move |candidate| candidate.ports.include(port))
    }
}

/// One match of one rule.
#[derive(Debug)]
struct Candidate {
    rank: Rank,
    ports: Ports,
    route: Arc<Route>,
    rule_index: usize,
    match_index: usize,
}

impl Candidate {
    fn condition(&self) -> &Match {
        &self.route.rules[self.rule_index].matches[self.match_index]
    }

    fn matched(&self) -> Matched {
        let prefix_len = match &self.condition().path {
            PathMatch::Prefix(prefix) => prefix.len(),
            PathMatch::Exact(_) | PathMatch::Pattern(_) => 0,
        };
        Matched { route: Arc::clone(&self.route), rule_index: self.rule_index, prefix_len }
    }
}

/// Ports of the parent for which a route counts.
#[derive(Clone, Debug)]
enum Ports {
    All,
    Only(Arc<[u16]>),
}

impl Ports {
    fn of(route: &Route, parent: &ParentId) -> Self {
        let bindings = route.parents.iter().filter(|binding| binding.id == *parent);
        bindings.map(|binding| binding.port).collect::<Option<Arc<[u16]>>>().map_or(Self::All, Self::Only)
    }

    fn include(&self, port: Option<u16>) -> bool {
        match self {
            Self::All => true,
            Self::Only(ports) => port.is_some_and(|port| ports.contains(&port)),
        }
    }
}

#[cfg(test)]
mod tests;
