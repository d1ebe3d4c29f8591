//! What a rule's filters make of a request: another path, a redirect, other headers.

use penstock_model::snapshot::{Filter, HeaderChanges, PathChange, Redirect, Rewrite, Rule, WeightedBackend};

/// The path after `change`. `prefix_len` is that of the match ([`Matched::prefix_len`](crate::route::Matched::prefix_len)).
///
/// A replaced prefix ends where a segment ends, and no slash is doubled or lost at the seam: with `/foo` replaced, `/foo/bar`
/// gives `/xyz/bar` whether `/xyz` or `/xyz/` is written. The result always begins with a slash.
pub fn changed_path(change: &PathChange, path: &str, prefix_len: usize) -> String {
    let (start, rest) = match change {
        PathChange::Full(whole) => (&**whole, ""),
        PathChange::Prefix(prefix) => (&**prefix, path.get(prefix_len..).unwrap_or_default()),
    };
    let start = if rest.is_empty() { start } else { start.trim_end_matches('/') };
    let slash = if start.starts_with('/') || (start.is_empty() && rest.starts_with('/')) { "" } else { "/" };
    format!("{slash}{start}{rest}")
}

/// [`changed_path`], followed by the query as it was.
pub fn path_and_query(change: &PathChange, path: &str, query: Option<&str>, prefix_len: usize) -> String {
    with_query(changed_path(change, path, prefix_len), query)
}

/// Where a request was headed, for the parts of a redirect that are not given.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// `http` or `https`.
    pub scheme: &'a str,
    /// Host of the authority, IPv6 in brackets.
    pub host: &'a str,
    /// Port of the authority; absent where it names none.
    pub port: Option<u16>,
    /// Path without query.
    pub path: &'a str,
    /// What stands after the `?`.
    pub query: Option<&'a str>,
}

/// The value of `location`: always a whole URL, so that a path with two leading slashes cannot be read as another host.
///
/// Without a port, the redirect's own scheme means its well-known port; without either, the request's port stays. A well-known
/// port is not written. The query stays.
pub fn location(redirect: &Redirect, from: &Target<'_>, prefix_len: usize) -> String {
    let scheme = redirect.scheme.as_deref().unwrap_or(from.scheme);
    let host = redirect.hostname.as_deref().unwrap_or(from.host);
    let port = match redirect.scheme {
        Some(_) => redirect.port,
        None => redirect.port.or(from.port),
    };
    let port = match (scheme, port) {
        (_, None) | ("http", Some(80)) | ("https", Some(443)) => String::new(),
        (_, Some(port)) => format!(":{port}"),
    };
    let path = match &redirect.path {
        Some(change) => changed_path(change, from.path, prefix_len),
        None => from.path.to_owned(),
    };
    with_query(format!("{scheme}://{host}{port}{path}"), from.query)
}

/// The rule's redirect: its answer, in place of any backend's.
pub fn redirect(rule: &Rule) -> Option<&Redirect> {
    rule.filters.iter().find_map(|filter| match filter {
        Filter::Redirect(redirect) => Some(redirect),
        Filter::Rewrite(_) | Filter::RequestHeaders(_) | Filter::ResponseHeaders(_) => None,
    })
}

/// The rule's change of authority or path.
pub fn rewrite(rule: &Rule) -> Option<&Rewrite> {
    rule.filters.iter().find_map(|filter| match filter {
        Filter::Rewrite(rewrite) => Some(rewrite),
        Filter::Redirect(_) | Filter::RequestHeaders(_) | Filter::ResponseHeaders(_) => None,
    })
}

/// One step of changing headers. Names are lower case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderEdit<'r> {
    /// Replaces all values of the name by one.
    Set(&'r str, &'r str),
    /// Adds a value after those that are there.
    Add(&'r str, &'r str),
    /// Removes all values of the name.
    Remove(&'r str),
}

/// What is done to the request's headers, in order: the rule's filters, then those of the chosen backend, which so has the last
/// word; within a filter set, add, remove.
pub fn request_edits<'r>(
    rule: &'r Rule,
    chosen: Option<&'r WeightedBackend>,
) -> impl Iterator<Item = HeaderEdit<'r>> {
    filters(rule, chosen)
        .filter_map(|filter| match filter {
            Filter::RequestHeaders(changes) => Some(changes),
            Filter::ResponseHeaders(_) | Filter::Redirect(_) | Filter::Rewrite(_) => None,
        })
        .flat_map(edits)
}

/// What is done to the answer's headers, in the same order as [`request_edits`].
pub fn response_edits<'r>(
    rule: &'r Rule,
    chosen: Option<&'r WeightedBackend>,
) -> impl Iterator<Item = HeaderEdit<'r>> {
    filters(rule, chosen)
        .filter_map(|filter| match filter {
            Filter::ResponseHeaders(changes) => Some(changes),
            Filter::RequestHeaders(_) | Filter::Redirect(_) | Filter::Rewrite(_) => None,
        })
        .flat_map(edits)
}

fn filters<'r>(rule: &'r Rule, chosen: Option<&'r WeightedBackend>) -> impl Iterator<Item = &'r Filter> {
    rule.filters.iter().chain(chosen.into_iter().flat_map(|backend| &backend.filters))
}

fn edits(changes: &HeaderChanges) -> impl Iterator<Item = HeaderEdit<'_>> {
    let set = changes.set.iter().map(|(name, value)| HeaderEdit::Set(name, value));
    let add = changes.add.iter().map(|(name, value)| HeaderEdit::Add(name, value));
    let remove = changes.remove.iter().map(|name| HeaderEdit::Remove(name));
    set.chain(add).chain(remove)
}

fn with_query(mut text: String, query: Option<&str>) -> String {
    if let Some(query) = query {
        text.push('?');
        text.push_str(query);
    }
    text
}

#[cfg(test)]
mod tests {
    use penstock_model::names::BackendId;

    use super::*;

    #[test]
    fn a_prefix_is_replaced_as_in_the_table_of_the_gateway_api() {
        for (asked, prefix, replacement, expected) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/bar", "", "/xyz", "/xyz/bar"),
            ("/", "", "/xyz", "/xyz/"),
            ("/foo", "/foo", "xyz", "/xyz"),
            ("/foo/bar", "/foo", "xyz", "/xyz/bar"),
        ] {
            let change = PathChange::Prefix(replacement.into());
            assert_eq!(
                changed_path(&change, asked, prefix.len()),
                expected,
                "{asked}: {prefix} → {replacement}"
            );
        }
    }

    #[test]
    fn a_full_replacement_leaves_nothing_of_the_path_and_all_of_the_query() {
        let change = PathChange::Full("/v1/chat/completions".into());
        let rewritten = path_and_query(&change, "/x/y", Some("a=1&b"), 2);
        assert_eq!(rewritten, "/v1/chat/completions?a=1&b");
        assert_eq!(path_and_query(&PathChange::Full("".into()), "/x", None, 0), "/");
    }

    #[test]
    fn a_prefix_longer_than_the_path_does_not_panic() {
        assert_eq!(changed_path(&PathChange::Prefix("/a".into()), "/é", 2), "/a");
        assert_eq!(changed_path(&PathChange::Prefix("/a".into()), "/", 9), "/a");
    }

    fn check(redirect: (Option<&str>, Option<&str>, Option<u16>), port: Option<u16>, expected: &str) {
        let (scheme, hostname, to_port) = redirect;
        let redirect = Redirect {
            scheme: scheme.map(Into::into),
            hostname: hostname.map(Into::into),
            path: None,
            port: to_port,
            status: 302,
        };
        let from = Target { scheme: "http", host: "chat.ai", port, path: "/v1/x", query: Some("q=1") };
        assert_eq!(location(&redirect, &from, 0), expected, "{redirect:?} from port {port:?}");
    }

    #[test]
    fn a_redirect_takes_what_it_does_not_say_from_the_request() {
        check((None, None, None), None, "http://chat.ai/v1/x?q=1");
        check((None, None, None), Some(8000), "http://chat.ai:8000/v1/x?q=1");
        check((None, Some("other.ai"), None), Some(8000), "http://other.ai:8000/v1/x?q=1");
        check((None, None, Some(9000)), Some(8000), "http://chat.ai:9000/v1/x?q=1");
    }

    #[test]
    fn the_scheme_of_a_redirect_brings_its_port() {
        check((Some("https"), None, None), Some(8000), "https://chat.ai/v1/x?q=1");
        check((Some("http"), None, None), Some(8000), "http://chat.ai/v1/x?q=1");
        check((Some("https"), None, Some(8443)), Some(8000), "https://chat.ai:8443/v1/x?q=1");
    }

    #[test]
    fn a_well_known_port_is_not_written() {
        check((Some("https"), None, Some(443)), None, "https://chat.ai/v1/x?q=1");
        check((Some("http"), None, Some(80)), None, "http://chat.ai/v1/x?q=1");
        check((None, None, None), Some(80), "http://chat.ai/v1/x?q=1");
        check((Some("https"), None, Some(80)), None, "https://chat.ai:80/v1/x?q=1");
    }

    #[test]
    fn the_path_of_a_redirect_follows_the_rules_of_a_rewrite() {
        let redirect = Redirect {
            scheme: None,
            hostname: None,
            path: Some(PathChange::Prefix("/new".into())),
            port: None,
            status: 301,
        };
        let from = Target { scheme: "http", host: "[::1]", port: Some(81), path: "/old/a", query: None };
        assert_eq!(location(&redirect, &from, 4), "http://[::1]:81/new/a");
    }

    fn changes(value: &str) -> HeaderChanges {
        HeaderChanges {
            set: vec![("x-set".into(), value.into())],
            add: vec![("x-add".into(), value.into())],
            remove: vec!["x-gone".into()],
        }
    }

    #[test]
    fn the_chosen_backend_has_the_last_word_on_headers() {
        let chosen = WeightedBackend {
            backend: BackendId::new("default", "b"),
            weight: 1,
            filters: vec![
                Filter::RequestHeaders(changes("backend")),
                Filter::ResponseHeaders(HeaderChanges {
                    remove: vec!["server".into()],
                    ..Default::default()
                }),
            ],
        };
        let rule = Rule {
            name: "0".into(),
            matches: vec![],
            filters: vec![
                Filter::ResponseHeaders(changes("answer")),
                Filter::RequestHeaders(changes("rule")),
            ],
            backends: vec![chosen.clone()],
            timeout_request: None,
            timeout_backend_request: None,
        };
        let of = |value: &'static str| {
            [HeaderEdit::Set("x-set", value), HeaderEdit::Add("x-add", value), HeaderEdit::Remove("x-gone")]
        };
        let to_backend: Vec<_> = request_edits(&rule, Some(&chosen)).collect();
        assert_eq!(to_backend, [of("rule"), of("backend")].concat());
        let without: Vec<_> = request_edits(&rule, None).collect();
        assert_eq!(without, of("rule"));
        let back: Vec<_> = response_edits(&rule, Some(&chosen)).collect();
        assert_eq!(back, [&of("answer")[..], &[HeaderEdit::Remove("server")]].concat());
    }

    #[test]
    fn redirect_and_rewrite_are_found_among_other_filters() {
        let rewriting = Rewrite { hostname: Some("h".into()), path: None };
        let redirecting = Redirect { scheme: None, hostname: None, path: None, port: None, status: 308 };
        let mut rule = Rule {
            name: "0".into(),
            matches: vec![],
            filters: vec![Filter::RequestHeaders(changes("x"))],
            backends: vec![],
            timeout_request: None,
            timeout_backend_request: None,
        };
        assert_eq!((redirect(&rule), rewrite(&rule)), (None, None));
        rule.filters.push(Filter::Rewrite(rewriting.clone()));
        rule.filters.push(Filter::Redirect(redirecting.clone()));
        assert_eq!((redirect(&rule), rewrite(&rule)), (Some(&redirecting), Some(&rewriting)));
    }
}
