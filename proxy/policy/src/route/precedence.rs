//! Which of several matches wins.
//!
//! In the words of the Gateway API: an exact path, then the longest prefix, then a method, then the most headers, then the most
//! query parameters; among equals the oldest route, then the first in alphabetical order of `namespace/name`, then the first rule.
//!
//! It leaves expressions to the implementation. Ours rank below an exact path and above every prefix, all expressions alike: who
//! writes one beside the catch-all prefix `/` wants it to be reached, and the length of an expression says nothing about how
//! much it matches.

use std::cmp::Reverse;

use penstock_model::snapshot::{Match, PathMatch, Route};

/// Place in the order of precedence; the least wins. The fields are compared from first to last.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    path: PathRank,
    method: MethodRank,
    headers: Reverse<usize>,
    query: Reverse<usize>,
    /// A route without a time is older than any with one: it comes from a file, where all are equally old.
    created_s: Option<i64>,
    /// `namespace/name`. One text, as the API says: a pair would order `a-b/x` and `a/x` the other way.
    name: String,
    rule_index: usize,
    match_index: usize,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum PathRank {
    Exact,
    Pattern,
    Prefix { chars: Reverse<usize> },
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum MethodRank {
    Named,
    Any,
}

impl Rank {
    pub(super) fn new(route: &Route, rule_index: usize, match_index: usize, condition: &Match) -> Self {
        Self {
            path: match &condition.path {
                PathMatch::Exact(_) => PathRank::Exact,
                PathMatch::Pattern(_) => PathRank::Pattern,
                PathMatch::Prefix(prefix) => PathRank::Prefix { chars: Reverse(prefix.chars().count()) },
            },
            method: if condition.method.is_some() { MethodRank::Named } else { MethodRank::Any },
            headers: Reverse(condition.headers.len()),
            query: Reverse(condition.query.len()),
            created_s: route.created_s,
            name: route.id.to_string(),
            rule_index,
            match_index,
        }
    }
}
