//! Matches and rules that are never chosen.
//!
//! The Gateway API lets the more specific match win, and a match that implies another is at least as specific. So a match is
//! lost for certain only to one that is the same, on the same parent, in a route or rule that wins the tie: the oldest
//! route, then the first by name, then the first rule, then the first match.

use std::collections::BTreeMap;

use super::Tables;
use crate::document::Document;
use crate::document::http_route::{HttpRouteSpec, ParentRefKind, PathType, RouteMatch, ValueType};
use crate::finding::{Code, Finding};
use crate::source::{End, FieldPath};

pub(super) fn check(tables: &Tables<'_>, findings: &mut Vec<Finding>) {
    let mut routes: Vec<_> = tables.routes.values().copied().collect();
    routes.sort_by_key(|(document, _)| (document.created_s.unwrap_or(i64::MAX), &document.name));
    let mut winners: BTreeMap<(Group, String), Vec<Winner<'_>>> = BTreeMap::new();
    for (document, spec) in routes {
        let parents = parents(document, spec);
        for (index, rule) in spec.rules.iter().enumerate() {
            let at = FieldPath::spec().field("rules").item(index);
            let everything = [RouteMatch::default()];
            let matches = if rule.matches.is_empty() { everything.as_slice() } else { &rule.matches };
            let mut lost = Vec::new();
            for (index, written) in matches.iter().enumerate() {
                let at = if rule.matches.is_empty() { at.clone() } else { at.field("matches").item(index) };
                if let Some((winner, place)) = offer(&mut winners, &parents, written, document, &at) {
                    lost.push((at, winner, place));
                }
            }
            report(document, &at, &lost, matches.len(), findings);
        }
    }
}

fn report(
    document: &Document,
    rule: &FieldPath,
    lost: &[(FieldPath, &Document, FieldPath)],
    matches: usize,
    findings: &mut Vec<Finding>,
) {
    if let ([(_, winner, place), ..], true) = (lost, lost.len() == matches) {
        let message = "requests that match this rule always go to another";
        let finding = document.origin.finding(Code::RuleShadowed, rule, message);
        findings.push(finding.beside(winner.origin.locate(place, End::Value), "which has the same match"));
        return;
    }
    for (at, winner, place) in lost {
        let finding =
            document.origin.finding(Code::SameMatch, at, "another rule has the same match and wins");
        findings.push(finding.beside(winner.origin.locate(place, End::Value), "the other match"));
    }
}

/// Routes that compete: of one parent, and in the same namespace unless it is the parent's own. A route elsewhere is for
/// callers of its namespace, and wins there.
type Group = (bool, String, String, Option<String>);

struct Winner<'a> {
    port: Option<u16>,
    document: &'a Document,
    path: FieldPath,
}

fn parents(document: &Document, spec: &HttpRouteSpec) -> Vec<(Group, Option<u16>)> {
    let own = &*document.name.namespace;
    spec.parent_refs
        .iter()
        .map(|parent| {
            let namespace = parent.namespace.as_ref().map_or(own, |n| n.0.as_str());
            let consumer = (namespace != own).then(|| own.to_owned());
            let service = parent.kind == Some(ParentRefKind::Service);
            ((service, namespace.to_owned(), parent.name.0.clone(), consumer), parent.port)
        })
        .collect()
}

/// Enters a match for each parent. Returns who has won it, if it is lost for all of them.
fn offer<'a>(
    winners: &mut BTreeMap<(Group, String), Vec<Winner<'a>>>,
    parents: &[(Group, Option<u16>)],
    written: &RouteMatch,
    document: &'a Document,
    at: &FieldPath,
) -> Option<(&'a Document, FieldPath)> {
    let key = canonical(written);
    let mut lost = None;
    let mut everywhere = true;
    for (group, port) in parents {
        let rivals = winners.entry((group.clone(), key.clone())).or_default();
        match rivals.iter().find(|rival| rival.port.is_none() || rival.port == *port) {
            Some(rival) => lost = lost.or_else(|| Some((rival.document, rival.path.clone()))),
            None => {
                everywhere = false;
                rivals.push(Winner { port: *port, document, path: at.clone() });
            }
        }
    }
    lost.filter(|_| everywhere)
}

/// A text that is the same for matches that mean the same.
fn canonical(written: &RouteMatch) -> String {
    let (path_type, path) = match &written.path {
        None => (PathType::PathPrefix, ""),
        Some(path) if path.r#type == PathType::PathPrefix => (path.r#type, path.value.trim_end_matches('/')),
        Some(path) => (path.r#type, path.value.as_str()),
    };
    let conditions = |list: Vec<(ValueType, String, &str)>| {
        let mut list: Vec<String> = list.iter().map(|condition| format!("{condition:?}")).collect();
        list.sort();
        list.join(" ")
    };
    let headers = written.headers.iter().map(|c| (c.r#type, c.name.0.to_ascii_lowercase(), c.value.as_str()));
    let query = written.query_params.iter().map(|c| (c.r#type, c.name.0.clone(), c.value.as_str()));
    format!(
        "{path_type:?} {path:?} {:?} [{}] [{}]",
        written.method,
        conditions(headers.collect()),
        conditions(query.collect())
    )
}
