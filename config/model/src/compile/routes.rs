//! HTTPRoute to route.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::document::Document;
use crate::document::http_route::{
    BackendRef, HttpRouteSpec, Method, ParentRef, ParentRefKind, PathCondition, PathType, RouteMatch,
    RouteRule, Timeouts, ValueType,
};
use crate::finding::Code;
use crate::names::{BackendId, ObjectName, ParentId, ParentKind, RouteId};
use crate::snapshot::{
    FieldMatch, Filter, Match, PathMatch, Route, RouteParent, Rule, ValueMatch, WeightedBackend,
};
use crate::source::FieldPath;
use crate::units::Span;

use super::filters::{self, Scope};
use super::{Review, paths};

/// API group of our own kinds.
pub(super) const PENSTOCK_GROUP: &str = "penstock.dev";
/// Most matches in all rules of a route together (Gateway API).
const MATCHES_MAX: usize = 128;

pub(super) fn lower(document: &Document, spec: &HttpRouteSpec, review: &mut Review<'_>) -> Route {
    let path = FieldPath::spec();
    let rules_at = path.field("rules");
    let matches: usize = spec.rules.iter().map(|rule| rule.matches.len()).sum();
    if matches > MATCHES_MAX {
        let message = format!("{matches} matches in one route, and {MATCHES_MAX} is the most");
        review.note(Code::TooManyMatches, &rules_at, message);
    }
    let mut names: BTreeMap<Arc<str>, FieldPath> = BTreeMap::new();
    let rules = spec.rules.iter().enumerate().map(|(index, rule)| {
        let at = rules_at.item(index);
        let name: Arc<str> =
            rule.name.as_ref().map_or_else(|| index.to_string().into(), |name| name.0.as_str().into());
        let name_at = if rule.name.is_some() { at.field("name") } else { at.clone() };
        if let Some(first) = names.get(&name) {
            let message = format!("a second rule of the name `{name}`");
            review.note_two(Code::RuleNameTwice, &name_at, message, first, "the first is here");
        } else {
            names.insert(Arc::clone(&name), name_at);
        }
        lower_rule(rule, name, &document.name.namespace, &at, review)
    });
    let rules = rules.collect();
    Route {
        id: RouteId(document.name.clone()),
        created_s: document.created_s,
        parents: parents(&spec.parent_refs, document, &path.field("parentRefs"), review),
        rules,
    }
}

fn parents(
    refs: &[ParentRef],
    document: &Document,
    path: &FieldPath,
    review: &mut Review<'_>,
) -> Vec<RouteParent> {
    let mut parents: Vec<RouteParent> = Vec::new();
    let mut places: Vec<FieldPath> = Vec::new();
    for (index, parent) in refs.iter().enumerate() {
        let at = path.item(index);
        let Some(kind) = parent_kind(parent, &at, review) else { continue };
        let namespace = namespace_or(parent.namespace.as_ref().map(|n| n.0.as_str()), document);
        let id = ParentId { kind, name: ObjectName::new(namespace, parent.name.0.as_str()) };
        let parent = RouteParent { id, port: parent.port };
        if let Some(first) = parents.iter().position(|known| *known == parent) {
            let message = format!("a second reference to {}", parent.id);
            review.note_two(
                Code::ParentTwice,
                &at.field("name"),
                message,
                &places[first].field("name"),
                "the first is here",
            );
            continue;
        }
        parents.push(parent);
        places.push(at);
    }
    parents
}

fn parent_kind(parent: &ParentRef, at: &FieldPath, review: &mut Review<'_>) -> Option<ParentKind> {
    let Some(written) = parent.kind else {
        let message = "a parent without `kind` is a Gateway, which is not supported in this version";
        review.note(Code::ParentGateway, &at.field("name"), message);
        return None;
    };
    let (kind, group, name) = match written {
        ParentRefKind::Service => (ParentKind::Service, "", "Service"),
        ParentRefKind::Backend => (ParentKind::Backend, PENSTOCK_GROUP, "Backend"),
    };
    match &parent.group {
        Some(written) if written == group => Some(kind),
        Some(written) => {
            let message = format!("there is no kind {name} in the group {written:?}");
            review.note_with_help(
                Code::WrongGroup,
                &at.field("group"),
                message,
                format!("write `group: {group:?}`"),
            );
            None
        }
        None => {
            let message =
                format!("without `group` this is `gateway.networking.k8s.io`, which has no kind {name}");
            review.note_with_help(
                Code::WrongGroup,
                &at.field("kind"),
                message,
                format!("add `group: {group:?}`"),
            );
            None
        }
    }
}

fn namespace_or<'a>(written: Option<&'a str>, document: &'a Document) -> &'a str {
    written.unwrap_or(&document.name.namespace)
}

fn lower_rule(
    rule: &RouteRule,
    name: Arc<str>,
    namespace: &str,
    at: &FieldPath,
    review: &mut Review<'_>,
) -> Rule {
    let one_prefix = match rule.matches.as_slice() {
        [] => true,
        [only] => only.path.as_ref().is_none_or(|path| path.r#type == PathType::PathPrefix),
        _ => false,
    };
    let filters = filters::lower(&rule.filters, Scope::Rule { one_prefix }, &at.field("filters"), review);
    let backends = backends(&rule.backend_refs, namespace, &at.field("backendRefs"), review);
    let redirects = filters.iter().any(|filter| matches!(filter, Filter::Redirect(_)));
    let refs_at = at.field("backendRefs");
    match (redirects, rule.backend_refs.as_slice()) {
        (true, [_, ..]) => review.note(Code::RedirectWithBackends, &refs_at, "backends beside a redirect"),
        (false, []) => review.note(Code::NoBackend, &refs_at, "the rule has neither backends nor a redirect"),
        (false, refs) if refs.iter().all(|r| r.weight == 0) => {
            review.note(Code::NoWeight, &refs_at, "every backend of the rule has weight 0");
        }
        _ => {}
    }
    let (timeout_request, timeout_backend_request) =
        rule.timeouts.as_ref().map_or((None, None), |t| timeouts(t, &at.field("timeouts"), review));
    let matches = match rule.matches.as_slice() {
        [] => vec![lower_match(&RouteMatch::default(), at, review)],
        written => {
            let at = at.field("matches");
            written.iter().enumerate().map(|(index, m)| lower_match(m, &at.item(index), review)).collect()
        }
    };
    Rule { name, matches, filters, backends, timeout_request, timeout_backend_request }
}

fn backends(
    refs: &[BackendRef],
    namespace: &str,
    path: &FieldPath,
    review: &mut Review<'_>,
) -> Vec<WeightedBackend> {
    let mut lowered = Vec::new();
    for (index, backend) in refs.iter().enumerate() {
        let at = path.item(index);
        if backend.kind.is_none() {
            let message = "a backend without `kind` is a Service, which is not supported in this version";
            review.note(Code::BackendKind, &at.field("name"), message);
            continue;
        }
        match backend.group.as_deref() {
            Some(PENSTOCK_GROUP) => {}
            Some(group) => {
                let message = format!("there is no kind Backend in the group {group:?}");
                let help = format!("write `group: {PENSTOCK_GROUP}`");
                review.note_with_help(Code::WrongGroup, &at.field("group"), message, help);
            }
            None => {
                let message = "without `group` this is the group of Services, which has no kind Backend";
                let help = format!("add `group: {PENSTOCK_GROUP}`");
                review.note_with_help(Code::WrongGroup, &at.field("kind"), message, help);
            }
        }
        let namespace = backend.namespace.as_ref().map_or(namespace, |n| n.0.as_str());
        lowered.push(WeightedBackend {
            backend: BackendId::new(namespace, backend.name.0.as_str()),
            weight: backend.weight,
            filters: filters::lower(&backend.filters, Scope::Backend, &at.field("filters"), review),
        });
    }
    lowered
}

/// Both time limits; `0s` is none.
fn timeouts(
    written: &Timeouts,
    path: &FieldPath,
    review: &mut Review<'_>,
) -> (Option<Duration>, Option<Duration>) {
    let limit = |span: &Option<Span>| span.as_ref().map(Span::duration).filter(|limit| !limit.is_zero());
    let (request, attempt) = (limit(&written.request), limit(&written.backend_request));
    if let (Some(whole), Some(part)) = (request, attempt)
        && part > whole
    {
        let message = "one attempt may take longer than the whole request";
        review.note_two(
            Code::TimeoutOrder,
            &path.field("backendRequest"),
            message,
            &path.field("request"),
            "the whole request may take",
        );
    }
    (request, attempt)
}

fn lower_match(written: &RouteMatch, at: &FieldPath, review: &mut Review<'_>) -> Match {
    let headers = written.headers.iter().map(|c| (c.r#type, c.name.0.to_ascii_lowercase(), c.value.as_str()));
    let query = written.query_params.iter().map(|c| (c.r#type, c.name.0.clone(), c.value.as_str()));
    Match {
        path: written
            .path
            .as_ref()
            .map_or_else(|| PathMatch::Prefix("".into()), |c| lower_path(c, &at.field("path"), review)),
        headers: conditions(headers, &at.field("headers"), review),
        query: conditions(query, &at.field("queryParams"), review),
        method: written.method.map(method),
    }
}

fn lower_path(written: &PathCondition, at: &FieldPath, review: &mut Review<'_>) -> PathMatch {
    let (text, at) = (written.value.as_str(), at.field("value"));
    if written.r#type == PathType::RegularExpression {
        let pattern = paths::pattern(text, &at, review);
        return pattern.map_or_else(|| PathMatch::Prefix("".into()), PathMatch::Pattern);
    }
    if let Some(why) = paths::problem(text) {
        review.note(Code::PathInvalid, &at, format!("`{text}` is not usable: {why}"));
    }
    match written.r#type {
        PathType::Exact => PathMatch::Exact(text.into()),
        _ => PathMatch::Prefix(paths::prefix(text).into()),
    }
}

fn conditions<'a>(
    written: impl Iterator<Item = (ValueType, String, &'a str)>,
    path: &FieldPath,
    review: &mut Review<'_>,
) -> Vec<FieldMatch> {
    let mut seen: BTreeMap<String, FieldPath> = BTreeMap::new();
    let mut lowered = Vec::new();
    for (index, (compared, name, value)) in written.enumerate() {
        let at = path.item(index);
        let name_at = at.field("name");
        if let Some(first) = seen.get(&name) {
            let message = format!("a second condition on `{name}`");
            review.note_two(Code::ConditionTwice, &name_at, message, first, "the first is here");
            continue;
        }
        seen.insert(name.clone(), name_at);
        let value = match compared {
            ValueType::Exact => Some(ValueMatch::Exact(value.into())),
            ValueType::RegularExpression => {
                paths::pattern(value, &at.field("value"), review).map(ValueMatch::Pattern)
            }
        };
        lowered.extend(value.map(|value| FieldMatch { name: name.into(), value }));
    }
    lowered
}

fn method(written: Method) -> Arc<str> {
    match written {
        Method::Get => "GET",
        Method::Head => "HEAD",
        Method::Post => "POST",
        Method::Put => "PUT",
        Method::Delete => "DELETE",
        Method::Connect => "CONNECT",
        Method::Options => "OPTIONS",
        Method::Trace => "TRACE",
        Method::Patch => "PATCH",
    }
    .into()
}
