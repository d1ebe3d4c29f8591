//! Lists of filters: which may stand together, and what each one means.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::document::http_route::{
    FilterType, Header, HeaderModifier, PathModifier, PathModifierType, RequestRedirect, RouteFilter, Scheme,
    UrlRewrite,
};
use crate::finding::Code;
use crate::snapshot::{Filter, HeaderChanges, PathChange, Redirect, Rewrite};
use crate::source::FieldPath;

use super::{Review, paths};

/// Headers that belong to the connection or to the framing of the body. Changing them would let one message be taken for
/// two.
const FIXED_HEADERS: [&str; 9] = [
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// Headers between sidecars start like this.
const OWN_HEADER_PREFIX: &str = "x-penstock-";

/// Where a list of filters stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// In a rule; `one_prefix` where its only match is a `PathPrefix`.
    Rule { one_prefix: bool },
    /// In a backend of a rule.
    Backend,
}

/// The filters at `path`, as far as they are usable.
pub(super) fn lower(
    filters: &[RouteFilter],
    scope: Scope,
    path: &FieldPath,
    review: &mut Review<'_>,
) -> Vec<Filter> {
    let mut seen: BTreeMap<FilterType, FieldPath> = BTreeMap::new();
    let mut lowered = Vec::new();
    for (index, filter) in filters.iter().enumerate() {
        let at = path.item(index);
        let type_at = at.field("type");
        if let Some(first) = seen.get(&filter.r#type) {
            let message = format!("a second {} in one list", field_of(filter.r#type).0);
            review.note_two(Code::FilterTwice, &type_at, message, first, "the first is here");
            continue;
        }
        seen.insert(filter.r#type, type_at.clone());
        if scope == Scope::Backend
            && matches!(filter.r#type, FilterType::RequestRedirect | FilterType::UrlRewrite)
        {
            let message = format!("{} for one backend", field_of(filter.r#type).0);
            review.note(Code::BackendFilter, &type_at, message);
            continue;
        }
        lowered.extend(lower_one(filter, scope, &at, review));
    }
    if let (Some(redirect), Some(rewrite)) =
        (seen.get(&FilterType::RequestRedirect), seen.get(&FilterType::UrlRewrite))
    {
        let message = "a redirect and a rewrite in one rule";
        review.note_two(Code::FiltersIncompatible, rewrite, message, redirect, "the redirect is here");
    }
    lowered
}

fn lower_one(filter: &RouteFilter, scope: Scope, at: &FieldPath, review: &mut Review<'_>) -> Option<Filter> {
    let (type_name, field) = field_of(filter.r#type);
    let written = [
        ("requestHeaderModifier", filter.request_header_modifier.is_some()),
        ("responseHeaderModifier", filter.response_header_modifier.is_some()),
        ("requestRedirect", filter.request_redirect.is_some()),
        ("urlRewrite", filter.url_rewrite.is_some()),
    ];
    for (other, _) in written.into_iter().filter(|(name, written)| *written && *name != field) {
        let message = format!("`{other}` in a filter of type {type_name}");
        review.note_with_help(
            Code::FilterField,
            &at.field(other),
            message,
            format!("write `{field}`, or change the type"),
        );
    }
    let details = at.field(field);
    let lowered = match filter.r#type {
        FilterType::RequestHeaderModifier => filter
            .request_header_modifier
            .as_ref()
            .map(|m| Filter::RequestHeaders(headers(m, &details, review))),
        FilterType::ResponseHeaderModifier => filter
            .response_header_modifier
            .as_ref()
            .map(|m| Filter::ResponseHeaders(headers(m, &details, review))),
        FilterType::RequestRedirect => {
            filter.request_redirect.as_ref().map(|r| Filter::Redirect(redirect(r, scope, &details, review)))
        }
        FilterType::UrlRewrite => {
            filter.url_rewrite.as_ref().map(|r| Filter::Rewrite(rewrite(r, scope, &details, review)))
        }
    };
    if lowered.is_none() {
        let message = format!("a filter of type {type_name} without `{field}`");
        review.note_with_help(Code::FilterField, &at.field("type"), message, format!("add `{field}`"));
    }
    lowered
}

/// A filter's type as it is written, and the field that holds its details.
fn field_of(filter: FilterType) -> (&'static str, &'static str) {
    match filter {
        FilterType::RequestHeaderModifier => ("RequestHeaderModifier", "requestHeaderModifier"),
        FilterType::ResponseHeaderModifier => ("ResponseHeaderModifier", "responseHeaderModifier"),
        FilterType::RequestRedirect => ("RequestRedirect", "requestRedirect"),
        FilterType::UrlRewrite => ("URLRewrite", "urlRewrite"),
    }
}

fn headers(modifier: &HeaderModifier, path: &FieldPath, review: &mut Review<'_>) -> HeaderChanges {
    if modifier.set.is_empty() && modifier.add.is_empty() && modifier.remove.is_empty() {
        review.note(Code::FilterIdle, path, "no header is changed");
    }
    let mut pairs = |list: &[Header], field: &'static str| {
        let names = list
            .iter()
            .enumerate()
            .map(|(i, h)| (h.name.0.as_str(), path.field(field).item(i).field("name")));
        let names = distinct(names, review);
        names.into_iter().zip(list).map(|(name, header)| (name, Arc::from(header.value.0.as_str()))).collect()
    };
    let (set, add) = (pairs(&modifier.set, "set"), pairs(&modifier.add, "add"));
    let removed =
        modifier.remove.iter().enumerate().map(|(i, name)| (name.0.as_str(), path.field("remove").item(i)));
    HeaderChanges { set, add, remove: distinct(removed, review) }
}

/// The names in lower case; notes those that are fixed or written twice.
fn distinct<'a>(names: impl Iterator<Item = (&'a str, FieldPath)>, review: &mut Review<'_>) -> Vec<Arc<str>> {
    let mut seen: BTreeMap<String, FieldPath> = BTreeMap::new();
    let mut lowered = Vec::new();
    for (name, at) in names {
        let lower = name.to_ascii_lowercase();
        if FIXED_HEADERS.contains(&lower.as_str()) || lower.starts_with(OWN_HEADER_PREFIX) {
            let message = format!("the header `{name}` cannot be changed");
            match lower.as_str() {
                "host" => {
                    review.note_with_help(
                        Code::HeaderFixed,
                        &at,
                        message,
                        "write `hostname` in a URLRewrite filter",
                    );
                }
                _ => review.note(Code::HeaderFixed, &at, message),
            }
        }
        if let Some(first) = seen.get(&lower) {
            review.note_two(
                Code::HeaderTwice,
                &at,
                format!("`{name}` is written twice"),
                first,
                "first written here",
            );
        } else {
            seen.insert(lower.clone(), at);
        }
        lowered.push(lower.into());
    }
    lowered
}

fn redirect(written: &RequestRedirect, scope: Scope, path: &FieldPath, review: &mut Review<'_>) -> Redirect {
    let RequestRedirect { scheme, hostname, path: modifier, port, status_code } = written;
    if scheme.is_none() && hostname.is_none() && modifier.is_none() && port.is_none() {
        review.note(Code::FilterIdle, path, "the redirect leads to where the request came");
    }
    Redirect {
        scheme: scheme.map(|scheme| match scheme {
            Scheme::Http => "http".into(),
            Scheme::Https => "https".into(),
        }),
        hostname: hostname.as_ref().map(|name| name.0.as_str().into()),
        path: modifier.as_ref().and_then(|m| path_change(m, scope, &path.field("path"), review)),
        port: *port,
        status: *status_code,
    }
}

fn rewrite(written: &UrlRewrite, scope: Scope, path: &FieldPath, review: &mut Review<'_>) -> Rewrite {
    let UrlRewrite { hostname, path: modifier } = written;
    if hostname.is_none() && modifier.is_none() {
        review.note(Code::FilterIdle, path, "neither host nor path is rewritten");
    }
    Rewrite {
        hostname: hostname.as_ref().map(|name| name.0.as_str().into()),
        path: modifier.as_ref().and_then(|m| path_change(m, scope, &path.field("path"), review)),
    }
}

fn path_change(
    modifier: &PathModifier,
    scope: Scope,
    path: &FieldPath,
    review: &mut Review<'_>,
) -> Option<PathChange> {
    let PathModifier { r#type, replace_full_path, replace_prefix_match } = modifier;
    let (type_name, field, text, other_field, other) = match r#type {
        PathModifierType::ReplaceFullPath => (
            "ReplaceFullPath",
            "replaceFullPath",
            replace_full_path,
            "replacePrefixMatch",
            replace_prefix_match,
        ),
        PathModifierType::ReplacePrefixMatch => (
            "ReplacePrefixMatch",
            "replacePrefixMatch",
            replace_prefix_match,
            "replaceFullPath",
            replace_full_path,
        ),
    };
    if other.is_some() {
        let message = format!("`{other_field}` in a path of type {type_name}");
        review.note_with_help(
            Code::FilterField,
            &path.field(other_field),
            message,
            format!("write `{field}` alone"),
        );
    }
    let Some(text) = text else {
        let message = format!("a path of type {type_name} without `{field}`");
        review.note_with_help(Code::FilterField, &path.field("type"), message, format!("add `{field}`"));
        return None;
    };
    let prefix = *r#type == PathModifierType::ReplacePrefixMatch;
    if prefix && scope == (Scope::Rule { one_prefix: false }) {
        review.note(Code::PrefixUnmatched, &path.field("type"), "the rule has no single PathPrefix match");
    }
    match paths::problem(text) {
        // A matched prefix may be replaced by nothing.
        Some(_) if prefix && text.is_empty() => {}
        Some(why) => {
            review.note(Code::PathInvalid, &path.field(field), format!("`{text}` is not usable: {why}"));
        }
        None => {}
    }
    Some(if prefix {
        PathChange::Prefix(paths::prefix(text).into())
    } else {
        PathChange::Full(text.as_str().into())
    })
}
