//! What can be said only of all documents together, in this order: names that clash, references that lead nowhere, matches
//! that are never chosen, promises that cannot be kept.

mod names;
mod objectives;
mod references;
mod shadowing;

use std::collections::BTreeMap;

use crate::document::backend::BackendSpec;
use crate::document::backend_policy::BackendPolicySpec;
use crate::document::http_route::HttpRouteSpec;
use crate::document::latency_slo::LatencySloSpec;
use crate::document::{Document, Documents, Object};
use crate::finding::Finding;
use crate::names::ObjectName;

/// The annotation that silences warnings about an object: codes with commas between them.
pub(crate) const SUPPRESS: &str = "penstock.dev/analyze-suppress";

/// Checks all documents against each other.
pub(crate) fn all(documents: &Documents, findings: &mut Vec<Finding>) {
    let tables = Tables::of(documents);
    names::check(documents, &tables, findings);
    references::check(documents, &tables, findings);
    shadowing::check(&tables, findings);
    objectives::check(&tables, findings);
}

/// Documents by kind and name. Of two with one name the first counts.
struct Tables<'a> {
    routes: Table<'a, HttpRouteSpec>,
    backends: Table<'a, BackendSpec>,
    policies: Table<'a, BackendPolicySpec>,
    slos: Table<'a, LatencySloSpec>,
}

type Table<'a, S> = BTreeMap<&'a ObjectName, (&'a Document, &'a S)>;

impl<'a> Tables<'a> {
    fn of(documents: &'a Documents) -> Self {
        let mut tables = Self {
            routes: BTreeMap::new(),
            backends: BTreeMap::new(),
            policies: BTreeMap::new(),
            slos: BTreeMap::new(),
        };
        for document in &documents.read {
            let name = &document.name;
            match &document.object {
                Object::HttpRoute(spec) => _ = tables.routes.entry(name).or_insert((document, spec)),
                Object::Backend(spec) => _ = tables.backends.entry(name).or_insert((document, spec)),
                Object::BackendPolicy(spec) => _ = tables.policies.entry(name).or_insert((document, spec)),
                Object::LatencySlo(spec) => _ = tables.slos.entry(name).or_insert((document, spec)),
                Object::ProxyConfig(_) => {}
            }
        }
        tables
    }
}
