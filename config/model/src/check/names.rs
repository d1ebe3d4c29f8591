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
    let mut of_name: BTreeMap<&str, Vec<&Document>> = BTreeMap::new();
    for (name, (document, _)) in &tables.backends {
        of_name.entry(&name.name).or_default().push(document);
    }
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
            if let Some(hidden) = named_by(hostname, document, &of_name) {
                let message = format!("the host name `{hostname}` hides {}", hidden.origin.title);
                let finding = document.origin.finding(Code::NameShadowed, &path, message);
                findings
                    .push(finding.beside(hidden.origin.locate(&name_path(), End::Value), "which is here"));
            }
            seen.insert(hostname, (document, path));
        }
    }
}

/// Another Backend that callers in some namespace would mean by this host name.
fn named_by<'a>(
    hostname: &str,
    owner: &Document,
    of_name: &BTreeMap<&str, Vec<&'a Document>>,
) -> Option<&'a Document> {
    let mut labels = hostname.split('.');
    let (name, namespace, rest) = (labels.next()?, labels.next(), labels.next());
    if rest.is_some_and(|label| label != "svc") {
        return None;
    }
    of_name.get(name)?.iter().copied().find(|document| {
        namespace.is_none_or(|namespace| *document.name.namespace == *namespace)
            && document.name != owner.name
    })
}

fn defaults(tables: &Tables<'_>, findings: &mut Vec<Finding>) {
    let path = FieldPath::spec().field("default");
    let mut defaults =
        tables.backends.values().filter(|(_, spec)| spec.default).map(|(document, _)| document);
    let Some(first) = defaults.next() else { return };
    for document in defaults {
        let finding = document.origin.finding(Code::TwoDefaults, &path, "a second default Backend");
        findings.push(finding.beside(first.origin.locate(&path, End::Value), "the first is here"));
    }
}

/// Routes of a Backend that callers cannot name, since others are attached to a Service of that name.
fn services(tables: &Tables<'_>, findings: &mut Vec<Finding>) {
    let mut services: BTreeMap<ObjectName, (&Document, FieldPath)> = BTreeMap::new();
    let mut backends: BTreeMap<ObjectName, (&Document, FieldPath)> = BTreeMap::new();
    for (document, spec) in tables.routes.values() {
        for (index, parent) in spec.parent_refs.iter().enumerate() {
            let namespace = parent.namespace.as_ref().map_or(&*document.name.namespace, |n| n.0.as_str());
            let name = ObjectName::new(namespace, parent.name.0.as_str());
            let place = (*document, FieldPath::spec().field("parentRefs").item(index).field("name"));
            match parent.kind {
                Some(ParentRefKind::Service) => _ = services.entry(name).or_insert(place),
                Some(ParentRefKind::Backend) => _ = backends.entry(name).or_insert(place),
                None => {}
            }
        }
    }
    for (name, (route, path)) in backends {
        if let Some((other, other_path)) = services.get(&name) {
            let message = format!("callers that say {name} mean the Service, not the Backend");
            let finding = route.origin.finding(Code::NameShadowed, &path, message);
            findings
                .push(finding.beside(other.origin.locate(other_path, End::Value), "a route of the Service"));
        }
    }
}
