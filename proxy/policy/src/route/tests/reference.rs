//! `RouteTable` against a second reading of the Gateway API's text, which looks at everything each time.
//!
//! The reference strikes out losers one criterion after the other, "continuing on ties", where the table sorts once by a key.
//! It decides which matches hold by its own means too. Texts are drawn from few letters, so that matches and ties are common.

use std::sync::Arc;

use penstock_model::names::{ObjectName, ParentId, ParentKind, RouteId};
use penstock_model::snapshot::{
    FieldMatch, Match, Parts, PathMatch, Pattern, Route, RouteParent, Rule, Snapshot, ValueMatch,
};
use proptest::prelude::*;

use crate::route::{Asked, Choice, MODEL_HEADER, NoRoute, RouteTable};

const PARENT_NAMESPACE: &str = "mesh";

/// A request that owns its texts.
#[derive(Clone, Debug)]
struct Request {
    namespace: &'static str,
    port: Option<u16>,
    method: &'static str,
    path: String,
    query: Vec<(&'static str, &'static str)>,
    model: Option<&'static str>,
    headers: Vec<(&'static str, &'static str)>,
}

impl Request {
    fn query_text(&self) -> String {
        let pairs: Vec<_> = self.query.iter().map(|(name, value)| format!("{name}={value}")).collect();
        pairs.join("&")
    }
}

fn parent() -> ParentId {
    ParentId { kind: ParentKind::Service, name: ObjectName::new(PARENT_NAMESPACE, "chat") }
}

/// Id and rule index of what applies; `Err(true)` if routes count and none matches, `Err(false)` if none counts.
fn reference(routes: &[Route], request: &Request) -> Result<(RouteId, usize), bool> {
    let counts = |route: &&Route| {
        route.parents.iter().any(|p| p.id == parent() && (p.port.is_none() || p.port == request.port))
    };
    let of = |namespace: &str| -> Vec<&Route> {
        routes.iter().filter(|r| &*r.id.0.namespace == namespace).filter(counts).collect()
    };
    let mut group = of(request.namespace);
    if group.is_empty() {
        group = of(PARENT_NAMESPACE);
    }
    let attached = !group.is_empty();
    let mut left: Vec<(&Route, usize, &Match)> = Vec::new();
    for route in group {
        for (index, rule) in route.rules.iter().enumerate() {
            left.extend(rule.matches.iter().filter(|m| holds(m, request)).map(|m| (route, index, m)));
        }
    }
    keep_greatest(&mut left, |(_, _, m)| match m.path {
        PathMatch::Exact(_) => 2,
        PathMatch::Pattern(_) => 1,
        PathMatch::Prefix(_) => 0,
    });
    keep_greatest(&mut left, |(_, _, m)| match &m.path {
        PathMatch::Prefix(prefix) => prefix.len(),
        PathMatch::Exact(_) | PathMatch::Pattern(_) => 0,
    });
    keep_greatest(&mut left, |(_, _, m)| usize::from(m.method.is_some()));
    keep_greatest(&mut left, |(_, _, m)| m.headers.len());
    keep_greatest(&mut left, |(_, _, m)| m.query.len());
    keep_greatest(&mut left, |(route, _, _)| std::cmp::Reverse(route.created_s.unwrap_or(i64::MIN)));
    keep_greatest(&mut left, |(route, _, _)| std::cmp::Reverse(route.id.to_string()));
    keep_greatest(&mut left, |(_, index, _)| std::cmp::Reverse(*index));
    left.first().map(|(route, index, _)| (route.id.clone(), *index)).ok_or(attached)
}

fn keep_greatest<T: Copy, K: Ord>(left: &mut Vec<T>, key: impl Fn(&T) -> K) {
    let greatest = left.iter().map(&key).max();
    left.retain(|one| Some(key(one)) == greatest);
}

fn holds(condition: &Match, request: &Request) -> bool {
    let path = match &condition.path {
        PathMatch::Exact(path) => **path == request.path,
        PathMatch::Pattern(pattern) => pattern.is_match(&request.path),
        PathMatch::Prefix(prefix) => {
            let segments = |text: &str| text.split('/').map(str::to_owned).collect::<Vec<_>>();
            segments(&request.path).starts_with(&segments(prefix))
        }
    };
    let header = |field: &FieldMatch| {
        let sent: Vec<_> =
            request.headers.iter().filter(|(n, _)| *n == &*field.name).map(|(_, v)| *v).collect();
        match request.model.filter(|_| &*field.name == MODEL_HEADER) {
            Some(model) => equals(field, model),
            None => !sent.is_empty() && equals(field, &sent.join(",")),
        }
    };
    let query = |field: &FieldMatch| {
        request.query.iter().find(|(name, _)| *name == &*field.name).is_some_and(|(_, v)| equals(field, v))
    };
    path && condition.method.as_deref().is_none_or(|m| m == request.method)
        && condition.headers.iter().all(header)
        && condition.query.iter().all(query)
}

fn equals(field: &FieldMatch, value: &str) -> bool {
    match &field.value {
        ValueMatch::Exact(text) => **text == *value,
        ValueMatch::Pattern(pattern) => pattern.is_match(value),
    }
}

fn found(routes: &[Route], request: &Request) -> Result<(RouteId, usize), bool> {
    let table = table(routes);
    let query = request.query_text();
    match table.find(&parent(), &asked(request, &query)) {
        Ok(Choice::Rule(matched)) => Ok((matched.route().id.clone(), matched.rule_index())),
        Ok(Choice::Implicit(backend)) => panic!("{backend} is not in the snapshot"),
        Err(NoRoute::Unmatched { .. }) => Err(true),
        Err(NoRoute::Unattached { .. }) => Err(false),
        Err(other) => panic!("{other}"),
    }
}

fn table(routes: &[Route]) -> RouteTable {
    let routes = routes.iter().map(|route| (route.id.clone(), Arc::new(route.clone()))).collect();
    RouteTable::new(&Snapshot::assemble(Parts { routes, ..Parts::default() }))
}

fn asked<'a>(request: &'a Request, query: &'a str) -> Asked<'a> {
    Asked {
        namespace: request.namespace,
        host: "chat",
        port: request.port,
        method: request.method,
        path: &request.path,
        query: Some(query),
        model: request.model,
        headers: &request.headers,
    }
}

fn a_path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "ab"]), 0..4)
        .prop_map(|segments| segments.iter().map(|segment| format!("/{segment}")).collect())
}

fn a_path_match() -> impl Strategy<Value = PathMatch> {
    let pattern = prop::sample::select(vec!["/a.*", "/[ab]+", "/a|/b", ".*/b"]);
    prop_oneof![
        4 => a_path().prop_map(|path| PathMatch::Prefix(path.into())),
        2 => a_path().prop_map(|path| PathMatch::Exact(if path.is_empty() { "/".into() } else { path.into() })),
        1 => pattern.prop_map(|source| PathMatch::Pattern(Pattern::new(source).unwrap())),
    ]
}

fn some_fields(names: &'static [&'static str]) -> impl Strategy<Value = Vec<FieldMatch>> {
    let value = prop_oneof![
        3 => prop::sample::select(vec!["1", "2"]).prop_map(|text| ValueMatch::Exact(text.into())),
        1 => Just(ValueMatch::Pattern(Pattern::new("[12]").unwrap())),
    ];
    let field = |(name, value): (&str, ValueMatch)| FieldMatch { name: name.into(), value };
    (prop::sample::subsequence(names, 0..=2), prop::collection::vec(value, 2))
        .prop_map(move |(names, values)| names.into_iter().zip(values).map(field).collect())
}

fn a_rule() -> impl Strategy<Value = Rule> {
    let method = prop::option::weighted(0.3, prop::sample::select(vec!["GET", "POST"]));
    let condition =
        (a_path_match(), some_fields(&["x-a", "x-b", MODEL_HEADER]), some_fields(&["q", "r"]), method)
            .prop_map(|(path, headers, query, method)| Match {
                path,
                headers,
                query,
                method: method.map(Into::into),
            });
    prop::collection::vec(condition, 1..4).prop_map(|matches| Rule {
        name: "0".into(),
        matches,
        filters: vec![],
        backends: vec![],
        timeout_request: None,
        timeout_backend_request: None,
    })
}

fn some_routes() -> impl Strategy<Value = Vec<Route>> {
    let port = prop_oneof![3 => Just(None), 1 => Just(Some(80)), 1 => Just(Some(81))];
    let binding = port.prop_map(|port| RouteParent { id: parent(), port });
    let route = (
        prop::collection::vec(binding, 1..3),
        prop::option::of(0i64..3),
        prop::collection::vec(a_rule(), 1..4),
    );
    // Names are given by place, so that no two routes have the same.
    prop::collection::vec((route, prop::sample::select(vec!["mesh", "mesh", "team", "other"])), 0..6)
        .prop_map(|routes| {
            let routes = routes.into_iter().enumerate();
            let route = |(nth, ((parents, created_s, rules), namespace)): (usize, _)| Route {
                id: RouteId::new(namespace, format!("r{nth}")),
                created_s,
                parents,
                rules,
            };
            routes.map(route).collect()
        })
}

fn a_request() -> impl Strategy<Value = Request> {
    let values = || prop::sample::select(vec!["1", "2"]);
    let fields =
        |names: &'static [&'static str]| prop::collection::vec((prop::sample::select(names), values()), 0..4);
    (
        prop::sample::select(vec!["mesh", "team", "third"]),
        prop::sample::select(vec![None, Some(80), Some(81)]),
        prop::sample::select(vec!["GET", "POST"]),
        (a_path(), prop::sample::select(vec!["", "/"])),
        fields(&["q", "r"]),
        prop::option::of(values()),
        fields(&["x-a", "x-b", MODEL_HEADER]),
    )
        .prop_map(|(namespace, port, method, (path, end), query, model, headers)| {
            let path = if path.is_empty() { "/".into() } else { path + end };
            Request { namespace, port, method, path, query, model, headers }
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn the_table_finds_what_the_reference_finds(routes in some_routes(), request in a_request()) {
        prop_assert_eq!(found(&routes, &request), reference(&routes, &request));
    }

    #[test]
    fn the_order_of_routes_and_of_their_parents_does_not_matter(
        routes in some_routes(),
        request in a_request(),
    ) {
        let mut reversed: Vec<_> = routes.iter().rev().cloned().collect();
        reversed.iter_mut().for_each(|route| route.parents.reverse());
        prop_assert_eq!(found(&routes, &request), found(&reversed, &request));
    }

    #[test]
    fn a_body_that_need_not_be_held_does_not_change_the_choice(
        routes in some_routes(),
        request in a_request(),
        model in prop::sample::select(vec!["1", "2", "3"]),
    ) {
        let unknown = Request { model: None, ..request };
        let query = unknown.query_text();
        if !table(&routes).needs_model(&parent(), &asked(&unknown, &query)) {
            let known = Request { model: Some(model), ..unknown.clone() };
            prop_assert_eq!(found(&routes, &unknown), found(&routes, &known));
        }
    }
}

#[test]
fn random_requests_reach_every_kind_of_answer() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    let mut runner = TestRunner::deterministic();
    let (mut matched, mut unmatched, mut unattached) = (0, 0, 0);
    for _ in 0..500 {
        let routes = some_routes().new_tree(&mut runner).unwrap().current();
        let request = a_request().new_tree(&mut runner).unwrap().current();
        match reference(&routes, &request) {
            Ok(_) => matched += 1,
            Err(true) => unmatched += 1,
            Err(false) => unattached += 1,
        }
    }
    assert!(matched > 50 && unmatched > 50 && unattached > 50, "{matched} {unmatched} {unattached}");
}
