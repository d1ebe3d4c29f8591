//! Decided: which request goes to which backend, and what is changed on the way.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::names::{BackendId, ParentId, RouteId};

/// One HTTPRoute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Route {
    /// Which route.
    pub id: RouteId,
    /// Seconds since 1970 when the object was made, for precedence; absent in files, where all are equally old.
    pub created_s: Option<i64>,
    /// What it is attached to.
    pub parents: Vec<RouteParent>,
    /// In the order written.
    pub rules: Vec<Rule>,
}

/// One parent of a route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RouteParent {
    /// Service or Backend.
    pub id: ParentId,
    /// Applies to this port of the parent alone; to all where absent.
    pub port: Option<u16>,
}

/// One rule of a route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rule {
    /// Its name, or its index as text.
    pub name: Arc<str>,
    /// Any one of them must match. Never empty.
    pub matches: Vec<Match>,
    /// In the order written.
    pub filters: Vec<Filter>,
    /// Where to; empty for a redirect.
    pub backends: Vec<WeightedBackend>,
    /// Longest time from the request's headers to the end of the answer; none where absent.
    pub timeout_request: Option<Duration>,
    /// Longest time of one attempt at a backend; none where absent.
    pub timeout_backend_request: Option<Duration>,
}

/// All conditions must hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Match {
    /// On the path, without the query.
    pub path: PathMatch,
    /// On headers; the virtual `x-gateway-model-name` among them.
    pub headers: Vec<FieldMatch>,
    /// On query parameters; the first of a name counts.
    pub query: Vec<FieldMatch>,
    /// On the method, upper case.
    pub method: Option<Arc<str>>,
}

/// A condition on the path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum PathMatch {
    /// The whole path, byte for byte.
    Exact(Arc<str>),
    /// By whole segments: `/v1` matches `/v1` and `/v1/x`, not `/v1x`. Stored without trailing slash, `/` as the empty text.
    Prefix(Arc<str>),
    /// The expression must match the whole path.
    Pattern(Pattern),
}

/// A condition on one header or query parameter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldMatch {
    /// Lower case for a header, as written for a query parameter.
    pub name: Arc<str>,
    /// What its value must be.
    pub value: ValueMatch,
}

/// A condition on a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum ValueMatch {
    /// Equal.
    Exact(Arc<str>),
    /// The expression must match the whole value.
    Pattern(Pattern),
}

/// A regular expression, compiled, anchored at both ends.
#[derive(Clone, Debug)]
pub struct Pattern {
    source: Arc<str>,
    compiled: regex::Regex,
}

impl Pattern {
    /// Memory bound of one compiled expression.
    const COMPILED_BYTES_MAX: usize = 1 << 20;

    /// Compiles `source`.
    ///
    /// # Errors
    /// What is wrong with the expression, or that it is too large, in the words of the `regex` library.
    pub fn new(source: &str) -> Result<Self, String> {
        let compile = |expression: &str| {
            regex::RegexBuilder::new(expression)
                .size_limit(Self::COMPILED_BYTES_MAX)
                .build()
                .map_err(|e| e.to_string())
        };
        // First alone, or `a)|(?:b` would break out of the group that anchors it.
        compile(source)?;
        compile(&format!("^(?:{source})$")).map(|compiled| Self { source: source.into(), compiled })
    }

    /// The expression as it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether the whole of `text` matches.
    pub fn is_match(&self, text: &str) -> bool {
        self.compiled.is_match(text)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Pattern {}

impl Serialize for Pattern {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.source)
    }
}

/// What is done to a request or its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Filter {
    /// Changes request headers.
    RequestHeaders(HeaderChanges),
    /// Changes response headers.
    ResponseHeaders(HeaderChanges),
    /// Answers with a redirect.
    Redirect(Redirect),
    /// Changes authority or path of what is sent on.
    Rewrite(Rewrite),
}

/// Header changes; names lower case. Applied as set, add, remove.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HeaderChanges {
    /// Replace.
    pub set: Vec<(Arc<str>, Arc<str>)>,
    /// Append.
    pub add: Vec<(Arc<str>, Arc<str>)>,
    /// Remove.
    pub remove: Vec<Arc<str>>,
}

/// Where a redirect points; what is absent is taken from the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<Arc<str>>,
    /// Host name.
    pub hostname: Option<Arc<str>>,
    /// Path.
    pub path: Option<PathChange>,
    /// Port.
    pub port: Option<u16>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

/// What a rewrite changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rewrite {
    /// New authority.
    pub hostname: Option<Arc<str>>,
    /// New path.
    pub path: Option<PathChange>,
}

/// How a path is changed; the query stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum PathChange {
    /// The whole path.
    Full(Arc<str>),
    /// The prefix that the rule's `PathPrefix` match has matched. Stored without trailing slash, `/` as the empty text, as
    /// the matched prefix is; where nothing of the path is left, it is `/`.
    Prefix(Arc<str>),
}

/// A backend and its share of a rule's requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WeightedBackend {
    /// Which backend.
    pub backend: BackendId,
    /// Share is weight by sum of weights; 0 gets nothing. At most 1,000,000.
    pub weight: u32,
    /// Applied to requests that go there, after the rule's own. Header changes alone.
    pub filters: Vec<Filter>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_the_whole_text_whatever_it_says() {
        let pattern = Pattern::new("a|b+").unwrap();
        for (text, matches) in [("a", true), ("bb", true), ("ab", false), ("a\n", false), ("", false)] {
            assert_eq!(pattern.is_match(text), matches, "{text:?}");
        }
        for source in ["a)|(?:b", "(", "a{9999999}", "(?x)a # b"] {
            assert!(Pattern::new(source).is_err(), "{source}");
        }
    }
}
