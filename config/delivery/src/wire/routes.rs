//! Route.

use std::sync::Arc;

use penstock_model::names::{BackendId, ParentId, ParentKind, RouteId};
use penstock_model::snapshot::{
    FieldMatch, Filter, HeaderChanges, Match, PathChange, PathMatch, Pattern, Redirect, Rewrite, Route,
    RouteParent, Rule, ValueMatch, WeightedBackend,
};

use super::reading::{
    Misfit, at_most, each, known, needed, nested, optional, port, read_duration, read_name, unset,
    write_duration, write_name,
};
use super::{Resource, text};
use crate::proto::penstock::v1;
use crate::proto::penstock::v1::{field_match, filter, path_change, path_match};

/// Gateway API's own limit.
const WEIGHT_MAX: u32 = 1_000_000;

pub(super) fn write_route(route: &Route) -> v1::Route {
    v1::Route {
        name: write_name(&route.id.0),
        created_s: route.created_s,
        parents: route.parents.iter().map(write_parent).collect(),
        rules: route.rules.iter().map(write_rule).collect(),
    }
}

pub(super) fn read_route(message: v1::Route) -> Result<Resource, Misfit> {
    Ok(Resource::Route(Arc::new(Route {
        id: RouteId(nested("name", message.name, read_name)?),
        created_s: message.created_s,
        parents: each("parents", message.parents, read_parent)?,
        rules: each("rules", message.rules, read_rule)?,
    })))
}

fn write_parent(parent: &RouteParent) -> v1::RouteParent {
    let kind = match parent.id.kind {
        ParentKind::Service => v1::ParentKind::Service,
        ParentKind::Backend => v1::ParentKind::Backend,
    };
    v1::RouteParent { kind: kind.into(), name: write_name(&parent.id.name), port: parent.port.map(u32::from) }
}

fn read_parent(message: v1::RouteParent) -> Result<RouteParent, Misfit> {
    let kind = match known("kind", message.kind)? {
        v1::ParentKind::Service => ParentKind::Service,
        v1::ParentKind::Backend => ParentKind::Backend,
        v1::ParentKind::Unspecified => return Err(unset("kind")),
    };
    let name = nested("name", message.name, read_name)?;
    Ok(RouteParent { id: ParentId { kind, name }, port: port("port", message.port)? })
}

fn write_rule(rule: &Rule) -> v1::Rule {
    v1::Rule {
        name: rule.name.to_string(),
        matches: rule.matches.iter().map(write_match).collect(),
        filters: rule.filters.iter().map(write_filter).collect(),
        backends: rule.backends.iter().map(write_weighted).collect(),
        timeout_request: rule.timeout_request.map(write_duration),
        timeout_backend_request: rule.timeout_backend_request.map(write_duration),
    }
}

fn read_rule(message: v1::Rule) -> Result<Rule, Misfit> {
    let rule = Rule {
        name: message.name.into(),
        matches: each("matches", message.matches, read_match)?,
        filters: each("filters", message.filters, read_filter)?,
        backends: each("backends", message.backends, read_weighted)?,
        timeout_request: optional("timeout_request", message.timeout_request, read_duration)?,
        timeout_backend_request: optional(
            "timeout_backend_request",
            message.timeout_backend_request,
            read_duration,
        )?,
    };
    if rule.matches.is_empty() {
        return Err(Misfit::new("matches", "is empty, so that the rule would match nothing"));
    }
    Ok(rule)
}

fn write_match(m: &Match) -> v1::Match {
    let path = match &m.path {
        PathMatch::Exact(text) => path_match::Kind::Exact(text.to_string()),
        PathMatch::Prefix(text) => path_match::Kind::Prefix(text.to_string()),
        PathMatch::Pattern(pattern) => path_match::Kind::Pattern(pattern.source().to_owned()),
    };
    v1::Match {
        path: Some(v1::PathMatch { kind: Some(path) }),
        headers: m.headers.iter().map(write_field).collect(),
        query: m.query.iter().map(write_field).collect(),
        method: m.method.as_deref().unwrap_or_default().to_owned(),
    }
}

fn read_match(message: v1::Match) -> Result<Match, Misfit> {
    let header = |field: v1::FieldMatch| {
        text::header_name("name", &field.name)?;
        read_field(field)
    };
    let method = match message.method.as_str() {
        "" => None,
        method => {
            text::token("method", method)?;
            let is_upper = !method.bytes().any(|b| b.is_ascii_lowercase());
            text::check("method", method, is_upper, "a method in upper case")?;
            Some(method.into())
        }
    };
    Ok(Match {
        path: nested("path", message.path, read_path)?,
        headers: each("headers", message.headers, header)?,
        query: each("query", message.query, read_field)?,
        method,
    })
}

fn read_path(message: v1::PathMatch) -> Result<PathMatch, Misfit> {
    Ok(match needed("kind", message.kind)? {
        path_match::Kind::Exact(path) => {
            text::path("exact", &path)?;
            PathMatch::Exact(path.into())
        }
        path_match::Kind::Prefix(path) => {
            text::path_prefix("prefix", &path)?;
            PathMatch::Prefix(path.into())
        }
        path_match::Kind::Pattern(source) => PathMatch::Pattern(pattern(&source)?),
    })
}

fn write_field(field: &FieldMatch) -> v1::FieldMatch {
    let value = match &field.value {
        ValueMatch::Exact(text) => field_match::Value::Exact(text.to_string()),
        ValueMatch::Pattern(pattern) => field_match::Value::Pattern(pattern.source().to_owned()),
    };
    v1::FieldMatch { name: field.name.to_string(), value: Some(value) }
}

fn read_field(message: v1::FieldMatch) -> Result<FieldMatch, Misfit> {
    let value = match needed("value", message.value)? {
        field_match::Value::Exact(text) => ValueMatch::Exact(text.into()),
        field_match::Value::Pattern(source) => ValueMatch::Pattern(pattern(&source)?),
    };
    Ok(FieldMatch { name: message.name.into(), value })
}

fn pattern(source: &str) -> Result<Pattern, Misfit> {
    Pattern::new(source).map_err(|e| Misfit::new("pattern", format!("is refused: {e}")))
}

fn write_filter(filter: &Filter) -> v1::Filter {
    let kind = match filter {
        Filter::RequestHeaders(changes) => filter::Kind::RequestHeaders(write_changes(changes)),
        Filter::ResponseHeaders(changes) => filter::Kind::ResponseHeaders(write_changes(changes)),
        Filter::Redirect(redirect) => filter::Kind::Redirect(v1::Redirect {
            scheme: redirect.scheme.as_deref().map(str::to_owned),
            hostname: redirect.hostname.as_deref().map(str::to_owned),
            path: redirect.path.as_ref().map(write_path_change),
            port: redirect.port.map(u32::from),
            status: redirect.status.into(),
        }),
        Filter::Rewrite(rewrite) => filter::Kind::Rewrite(v1::Rewrite {
            hostname: rewrite.hostname.as_deref().map(str::to_owned),
            path: rewrite.path.as_ref().map(write_path_change),
        }),
    };
    v1::Filter { kind: Some(kind) }
}

fn read_filter(message: v1::Filter) -> Result<Filter, Misfit> {
    match needed("kind", message.kind)? {
        filter::Kind::RequestHeaders(changes) => {
            nested("request_headers", Some(changes), read_changes).map(Filter::RequestHeaders)
        }
        filter::Kind::ResponseHeaders(changes) => {
            nested("response_headers", Some(changes), read_changes).map(Filter::ResponseHeaders)
        }
        filter::Kind::Redirect(redirect) => {
            nested("redirect", Some(redirect), read_redirect).map(Filter::Redirect)
        }
        filter::Kind::Rewrite(rewrite) => nested("rewrite", Some(rewrite), read_rewrite).map(Filter::Rewrite),
    }
}

fn write_changes(changes: &HeaderChanges) -> v1::HeaderChanges {
    let write = |(name, value): &(Arc<str>, Arc<str>)| v1::Header {
        name: name.to_string(),
        value: value.to_string(),
    };
    v1::HeaderChanges {
        set: changes.set.iter().map(write).collect(),
        add: changes.add.iter().map(write).collect(),
        remove: changes.remove.iter().map(ToString::to_string).collect(),
    }
}

fn read_changes(message: v1::HeaderChanges) -> Result<HeaderChanges, Misfit> {
    let header = |header: v1::Header| {
        text::header_name("name", &header.name)?;
        text::header_value("value", &header.value)?;
        Ok((header.name.into(), header.value.into()))
    };
    let name = |name: String| text::header_name("", &name).map(|()| name.into());
    Ok(HeaderChanges {
        set: each("set", message.set, header)?,
        add: each("add", message.add, header)?,
        remove: each("remove", message.remove, name)?,
    })
}

fn read_redirect(message: v1::Redirect) -> Result<Redirect, Misfit> {
    if let Some(scheme) = &message.scheme {
        text::check("scheme", scheme, matches!(scheme.as_str(), "http" | "https"), "`http` or `https`")?;
    }
    let status = match message.status {
        301 => 301,
        302 => 302,
        303 => 303,
        307 => 307,
        308 => 308,
        other => return Err(Misfit::new("status", format!("is {other}, not 301, 302, 303, 307 or 308"))),
    };
    Ok(Redirect {
        scheme: message.scheme.map(Into::into),
        hostname: hostname(message.hostname)?,
        path: optional("path", message.path, read_path_change)?,
        port: port("port", message.port)?,
        status,
    })
}

fn read_rewrite(message: v1::Rewrite) -> Result<Rewrite, Misfit> {
    Ok(Rewrite {
        hostname: hostname(message.hostname)?,
        path: optional("path", message.path, read_path_change)?,
    })
}

fn hostname(value: Option<String>) -> Result<Option<Arc<str>>, Misfit> {
    if let Some(host) = &value {
        text::host("hostname", host)?;
    }
    Ok(value.map(Into::into))
}

fn write_path_change(change: &PathChange) -> v1::PathChange {
    let kind = match change {
        PathChange::Full(path) => path_change::Kind::Full(path.to_string()),
        PathChange::Prefix(path) => path_change::Kind::Prefix(path.to_string()),
    };
    v1::PathChange { kind: Some(kind) }
}

fn read_path_change(message: v1::PathChange) -> Result<PathChange, Misfit> {
    let (field, path, make): (_, _, fn(Arc<str>) -> PathChange) = match needed("kind", message.kind)? {
        path_change::Kind::Full(path) => ("full", path, PathChange::Full),
        path_change::Kind::Prefix(path) => ("prefix", path, PathChange::Prefix),
    };
    // Unlike a match, a replacement may be empty or `/` and may end with a slash.
    if !path.is_empty() {
        text::path(field, &path)?;
    }
    Ok(make(path.into()))
}

fn write_weighted(weighted: &WeightedBackend) -> v1::WeightedBackend {
    v1::WeightedBackend {
        backend: write_name(&weighted.backend.0),
        weight: weighted.weight,
        filters: weighted.filters.iter().map(write_filter).collect(),
    }
}

fn read_weighted(message: v1::WeightedBackend) -> Result<WeightedBackend, Misfit> {
    let filters = each("filters", message.filters, |filter| match read_filter(filter)? {
        headers @ (Filter::RequestHeaders(_) | Filter::ResponseHeaders(_)) => Ok(headers),
        Filter::Redirect(_) | Filter::Rewrite(_) => {
            Err(Misfit::new("kind", "must be a change of headers on a backend"))
        }
    })?;
    Ok(WeightedBackend {
        backend: BackendId(nested("backend", message.backend, read_name)?),
        weight: at_most("weight", message.weight, WEIGHT_MAX)?,
        filters,
    })
}
