//! Names that clash.

use std::collections::BTreeMap;

use super::Tables;
use crate::document::http_route::ParentRefKind;
use crate::document::{Document, Documents, Kind};
use crate::finding::{Code, Finding};
use crate::names::ObjectName;
use crate::source::{End, FieldPath};

pub(super) fn check(documents: &Documents, tables: &Tables<'_>, findings: &mut Vec<Finding>) {
    objects(documents, findings);
    hostnames(tables, findings);
    defaults(tables, findings);
    services(tables, findings);
}

fn name_path() -> FieldPath {
    FieldPath::default().field("metadata").field("name")
}

fn objects(documents: &Documents, findings: &mut Vec<Finding>) {
    let mut seen: BTreeMap<(Kind, &ObjectName), &Document> = BTreeMap::new();
    for document in &documents.read {
        let first = *seen.entry((document.object.kind(), &document.name)).or_insert(document);
        if !std::ptr::eq(first, document) {
            let message = format!("a second {}", document.origin.title);
            let finding = document.origin.finding(Code::NameTaken, &name_path(), message);
            findings.push(finding.beside(first.origin.locate(&name_path(), End::Value), "the first is here"));
        }
    }
}

fn hostnames(tables: &Tables<'_>, findings: &mut Vec<Finding>) {
    let mut seen: BTreeMap<&str, (&Document, FieldPath)> = BTreeMap::new();
    for (document, spec) in tables.backends.values() {
        for (index, hostname) in spec.hostnames.iter().enumerate() {
            let path = FieldPath::spec().field("hostnames").item(index);
            let hostname = hostname.0.as_str();
            if let Some((other, other_path)) = seen.get(hostname) {
                let message = format!("the host name `{hostname}` is taken");
                let finding = document.origin.finding(Code::HostnameTaken, &path, message);
                findings.push(finding.beside(other.origin.locate(other_path, End::Value), "by this one"));
                continue;
            }
            if let Some(hidden) = named_by(hostname, document, tables) {
                let message = format!("the host name `{hostname}` hides {}", hidden.origin.title);
                let finding = document.origin.finding(Code::NameShadowed, &path, message);
                findings.push(finding.beside(hidden.origin.locate(&name_path(), End::Value), "which is here"));
            }
            seen.insert(hostname, (document, path));
        }
    }
}

/// Another Backend that callers in some namespace would mean by this host name.
fn named_by<'a>(hostname: &str, owner: &Document, tables: &Tables<'a>) -> Option<&'a Document> {
    let mut labels = hostname.split('.');
    let (name, namespace, rest) = (labels.next()?, labels.next(), labels.next());
    if rest.is_some_and(|label| label != "svc") {
        return None;
    }
    tables.backends.values().map(|(document, _)| *document).find(|document| {
        let named = *document.name.name == *name && namespace.is_none_or(|n| *document.name.namespace == *n);
        named && document.name != owner.name
    })
}

fn defaults(tables: &Tables<'_>, findings: &mut Vec<Finding>) {
    let path = FieldPath::spec().field("default");
    let mut defaults = tables.backends.values().filter(|(_, spec)| spec.default).map(|(document, _)| document);
    let Some(first) = defaults.next() else { return };
    for document in defaults {
        let finding = document.origin.finding(Code::TwoDefaults, &path, "a second default Backend");
        findings.push(finding.beside(first.origin.locate(&path, End::Value), "the first is here"));
    }
}

/// Backends that callers cannot name, since a route is attached to a Service of that name.
fn services(tables: &Tables<'_>, findings: &mut Vec<Finding>) {
    let mut hidden: BTreeMap<ObjectName, (&Document, FieldPath)> = BTreeMap::new();
    for (document, spec) in tables.routes.values() {
        for (index, parent) in spec.parent_refs.iter().enumerate() {
            let namespace = parent.namespace.as_ref().map_or(&*document.name.namespace, |n| n.0.as_str());
            let name = ObjectName::new(namespace, parent.name.0.as_str());
            if parent.kind == Some(ParentRefKind::Service) && tables.backends.contains_key(&name) {
                let path = FieldPath::spec().field("parentRefs").item(index).field("name");
                hidden.entry(name).or_insert((document, path));
            }
        }
    }
    for (name, (route, path)) in hidden {
        if let Some((backend, _)) = tables.backends.get(&name) {
            let message = format!("callers reach the Service {name} by this name, not the Backend");
            let finding = backend.origin.finding(Code::NameShadowed, &name_path(), message);
            findings.push(finding.beside(route.origin.locate(&path, End::Value), "a route is attached to the Service"));
        }
    }
}
