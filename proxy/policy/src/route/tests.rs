mod reference;

use penstock_model::names::{ObjectName, RouteId};
use penstock_model::snapshot::{
    Backend, FieldMatch, Outside, Parts, Pattern, Protocol, RouteParent, ValueMatch, WeightedBackend,
};

use super::*;

/// One rule in one line: `PATH [METHOD] [header NAME=VALUE]... [query NAME=VALUE]...`, alternatives separated by `|`.
/// `=/x` is an exact path, `/x` a prefix, `~x` an expression; `~` before a value makes it an expression too.
fn rule(text: &str) -> Rule {
    Rule {
        name: text.into(),
        matches: text.split('|').map(|one| condition(one.trim())).collect(),
        filters: vec![],
        backends: vec![WeightedBackend {
            backend: BackendId::new("default", "b"),
            weight: 1,
            filters: vec![],
        }],
        timeout_request: None,
        timeout_backend_request: None,
    }
}

fn condition(text: &str) -> Match {
    let mut words = text.split(' ');
    let path = match words.next().unwrap() {
        path if path.starts_with('=') => PathMatch::Exact(path[1..].into()),
        path if path.starts_with('~') => PathMatch::Pattern(Pattern::new(&path[1..]).unwrap()),
        path => PathMatch::Prefix(path.trim_end_matches('/').into()),
    };
    let mut condition = Match { path, headers: vec![], query: vec![], method: None };
    while let Some(word) = words.next() {
        match word {
            "header" => condition.headers.push(field(words.next().unwrap())),
            "query" => condition.query.push(field(words.next().unwrap())),
            method => condition.method = Some(method.into()),
        }
    }
    condition
}

fn field(text: &str) -> FieldMatch {
    let (name, value) = text.split_once('=').unwrap();
    let value = match value.strip_prefix('~') {
        Some(pattern) => ValueMatch::Pattern(Pattern::new(pattern).unwrap()),
        None => ValueMatch::Exact(value.replace('_', " ").into()),
    };
    FieldMatch { name: name.into(), value }
}

fn chat(kind: ParentKind) -> ParentId {
    ParentId { kind, name: ObjectName::new("default", "chat") }
}

/// A route `NAMESPACE/NAME` attached to `chat`, for all ports.
fn route(name: &str, kind: ParentKind, rules: &[&str]) -> Route {
    let (namespace, name) = name.split_once('/').unwrap();
    Route {
        id: RouteId::new(namespace, name),
        created_s: None,
        parents: vec![RouteParent { id: chat(kind), port: None }],
        rules: rules.iter().map(|text| rule(text)).collect(),
    }
}

fn backend(name: &str) -> Backend {
    Backend {
        id: BackendId::new("default", name),
        hostnames: vec![],
        is_default: false,
        protocol: Protocol::Http,
        identity: None,
        outside: Outside::default(),
    }
}

fn snapshot(routes: Vec<Route>, backends: Vec<Backend>) -> Snapshot {
    let routes = routes.into_iter().map(|route| (route.id.clone(), Arc::new(route))).collect();
    let backends = backends.into_iter().map(|backend| (backend.id.clone(), Arc::new(backend))).collect();
    Snapshot::assemble(Parts { routes, backends, ..Parts::default() })
}

type Fields = Vec<(&'static str, &'static str)>;

static NONE: Fields = Vec::new();

/// `GET /` from namespace `default` to port 80 of `chat`.
fn asked(headers: &Fields) -> Asked<'_> {
    Asked {
        namespace: "default",
        host: "chat",
        port: Some(80),
        method: "GET",
        path: "/",
        query: None,
        model: None,
        headers,
    }
}

/// What is found, in words: `ROUTE: RULE`, `backend NAME` or `unmatched`.
fn found(snapshot: &Snapshot, kind: ParentKind, asked: &Asked<'_>) -> String {
    match RouteTable::new(snapshot).find(&chat(kind), asked) {
        Ok(Choice::Rule(matched)) => format!("{}: {}", matched.route().id, matched.rule().name),
        Ok(Choice::Implicit(backend)) => format!("backend {backend}"),
        Err(NoRoute::Unmatched { .. }) => "unmatched".into(),
        Err(NoRoute::Unattached { .. }) => "unattached".into(),
        Err(other) => panic!("{other}"),
    }
}

/// The rule, of one route of a Backend, that a request is given to.
fn check(rules: &[&str], asked: &Asked<'_>, expected: &str) {
    let snapshot = snapshot(vec![route("default/r", ParentKind::Backend, rules)], vec![backend("chat")]);
    let expected = if expected == "unmatched" { expected.into() } else { format!("default/r: {expected}") };
    let query = asked.query.unwrap_or_default();
    assert_eq!(
        found(&snapshot, ParentKind::Backend, asked),
        expected,
        "{rules:?}, {} {} ?{query}",
        asked.method,
        asked.path
    );
}

#[test]
fn a_prefix_holds_for_whole_segments() {
    for (prefix, path, holds) in [
        ("/v1", "/v1", true),
        ("/v1", "/v1/", true),
        ("/v1", "/v1/x", true),
        ("/v1", "/v1x", false),
        ("/v1", "/v", false),
        ("/v1/", "/v1", true),
        ("/", "/", true),
        ("/", "/anything", true),
        ("/", "//x", true),
        ("/v1", "//v1", false),
        ("/v1", "/V1", false),
        ("/a", "/%61", false),
        ("/", "*", false),
    ] {
        let asked = Asked { path, ..asked(&NONE) };
        check(&[prefix], &asked, if holds { prefix } else { "unmatched" });
    }
}

#[test]
fn exact_paths_and_expressions_hold_for_the_whole_path() {
    for (rule, path, holds) in [
        ("=/v1", "/v1", true),
        ("=/v1", "/v1/", false),
        ("=/v1", "/v1/x", false),
        ("~/v[0-9]+", "/v12", true),
        ("~/v[0-9]+", "/v12/x", false),
        ("~/v[0-9]+", "/x/v12", false),
    ] {
        let asked = Asked { path, ..asked(&NONE) };
        check(&[rule], &asked, if holds { rule } else { "unmatched" });
    }
}

#[test]
fn the_more_specific_match_wins_wherever_it_is_written() {
    let headers = Fields::from([("x-a", "1"), ("x-b", "2")]);
    for (winner, loser) in [
        ("=/v1/chat", "/v1/chat POST header x-a=1 query q=1"),
        ("=/v1/chat", "~/v1/.* POST"),
        ("~/v1/.*", "/v1/chat POST header x-a=1"),
        ("/v1/chat", "/v1 POST header x-a=1 header x-b=2 query q=1"),
        ("/v1 POST", "/v1 header x-a=1 header x-b=2 query q=1"),
        ("/v1 header x-a=1 header x-b=2", "/v1 header x-a=1 query q=1 query r=2"),
        ("/v1 query q=1 query r=2", "/v1 query q=1"),
        ("/v1 | /v1/chat", "/v1 POST"),
    ] {
        let asked = Asked { path: "/v1/chat", method: "POST", query: Some("q=1&r=2"), ..asked(&headers) };
        check(&[winner, loser], &asked, winner);
        check(&[loser, winner], &asked, winner);
    }
}

#[test]
fn equals_are_told_apart_by_age_then_name_then_place() {
    let named = |name: &str, created_s| Route {
        created_s,
        ..route(name, ParentKind::Backend, &["/v1", "/v1/", "/"])
    };
    for (routes, expected) in [
        (vec![("default/b", Some(1)), ("default/a", Some(2))], "default/b"),
        (vec![("default/b", Some(1)), ("default/a", Some(1))], "default/a"),
        (vec![("default/b", None), ("default/a", None)], "default/a"),
        (vec![("default/b", None), ("default/a", Some(0))], "default/b"),
    ] {
        let snapshot = snapshot(routes.iter().map(|(name, age)| named(name, *age)).collect(), vec![]);
        let asked = Asked { path: "/v1/x", ..asked(&NONE) };
        assert_eq!(found(&snapshot, ParentKind::Backend, &asked), format!("{expected}: /v1"), "{routes:?}");
    }
}

#[test]
fn namespace_and_name_are_ordered_as_one_text() {
    let mut routes = [route("a/x", ParentKind::Backend, &[]), route("a-b/x", ParentKind::Backend, &[])];
    routes.sort_by_key(|route| Rank::new(route, 0, 0, &condition("/")));
    assert_eq!(&*routes[0].id.0.namespace, "a-b");
}

#[test]
fn a_header_sent_twice_is_one_value() {
    for (rule, headers, holds) in [
        ("/ header x-a=1", vec![("x-a", "1")], true),
        ("/ header x-a=1", vec![("X-A", "1")], true),
        ("/ header x-a=1", vec![], false),
        ("/ header x-a=1", vec![("x-a", "1"), ("x-a", "2")], false),
        ("/ header x-a=1", vec![("x-a", "2"), ("x-a", "1")], false),
        ("/ header x-a=1,2", vec![("x-a", "1"), ("x-a", "2")], true),
        ("/ header x-a=~[0-9]", vec![("x-a", "1"), ("x-a", "evil")], false),
        ("/ header x-a=~.*", vec![("x-a", "")], true),
        ("/ header x-a=1", vec![("x-a", "1 ")], false),
    ] {
        check(&[rule], &asked(&headers), if holds { rule } else { "unmatched" });
    }
}

#[test]
fn bytes_that_are_no_text_match_nothing() {
    let headers = vec![("x-a", [0xffu8])];
    let asked = Asked { headers: &headers, ..asked(&NONE) };
    check(&["/ header x-a=~.*", "/"], &asked, "/");
}

#[test]
fn the_host_header_is_the_authority() {
    for (rule, holds) in [
        ("/ header host=chat", true),
        ("/ header host=Chat", true),
        ("/ header host=chat:80", true),
        ("/ header host=chat:81", false),
        ("/ header host=~c.*", true),
        ("/ header host=other", false),
    ] {
        check(&[rule], &asked(&vec![("host", "other")]), if holds { rule } else { "unmatched" });
    }
}

#[test]
fn the_first_query_parameter_of_a_name_counts_decoded() {
    for (rule, query, holds) in [
        ("/ query q=1", "q=1", true),
        ("/ query q=1", "a=2&q=1&b", true),
        ("/ query q=1", "q=2&q=1", false),
        ("/ query q=1", "Q=1", false),
        ("/ query q=1", "", false),
        ("/ query q=", "&&q", true),
        ("/ query q=", "q=", true),
        ("/ query q=1", "%71=%31", true),
        ("/ query q=1", "%71=2&q=1", false),
        ("/ query q=a_b", "q=a+b", true),
        ("/ query q=a_b", "q=a%20b", true),
        ("/ query q=%zz%2", "q=%zz%2", true),
        ("/ query q=~.*", "q=%ff", false),
        ("/ query q=1=2", "q=1=2", true),
    ] {
        let asked = Asked { query: Some(query), ..asked(&NONE) };
        check(&[rule], &asked, if holds { rule } else { "unmatched" });
    }
}

#[test]
fn the_body_names_the_model_and_a_header_only_where_it_does_not() {
    let big = "/ header x-gateway-model-name=big";
    for (body, header, expected) in [
        (Some("big"), None, big),
        (Some("big"), Some("small"), big),
        (Some("small"), Some("big"), "/"),
        (None, Some("big"), big),
        (None, Some("small"), "/"),
        (None, None, "/"),
    ] {
        let headers: Fields = header.map(|model| (MODEL_HEADER, model)).into_iter().collect();
        let asked = Asked { model: body, ..asked(&headers) };
        check(&["/", big], &asked, expected);
    }
}

#[test]
fn a_body_is_held_only_where_the_model_can_change_the_choice() {
    let model = "/v1 header x-gateway-model-name=big";
    for (rules, path, method, expected) in [
        (vec!["/", model], "/v1/chat", "POST", true),
        (vec!["/", model], "/v2", "POST", false),
        (vec!["/v1", "/v2"], "/v1", "POST", false),
        (vec![model, "/v1 POST"], "/v1", "POST", false),
        (vec![model, "/v1 POST"], "/v1", "GET", true),
        (vec![model, "=/v1"], "/v1", "GET", false),
        (vec!["/v1 header x-gateway-model-name=big header x-a=1", "/"], "/v1", "GET", false),
    ] {
        let routes = vec![route("default/r", ParentKind::Backend, &rules)];
        let table = RouteTable::new(&snapshot(routes, vec![]));
        let asked = Asked { path, method, ..asked(&NONE) };
        let parent = chat(ParentKind::Backend);
        assert_eq!(table.needs_model(&parent, &asked), expected, "{rules:?} {method} {path}");
        let known = Asked { model: Some("big"), ..asked };
        assert!(!table.needs_model(&parent, &known), "{rules:?}: it is known already");
    }
}

#[test]
fn consumer_routes_replace_producer_routes_for_their_own_namespace() {
    for kind in [ParentKind::Service, ParentKind::Backend] {
        let snapshot = snapshot(
            vec![route("default/producer", kind, &["/v1", "/v2"]), route("team/consumer", kind, &["/v1"])],
            vec![],
        );
        for (namespace, path, expected) in [
            ("default", "/v1", "default/producer: /v1"),
            ("third", "/v1", "default/producer: /v1"),
            ("team", "/v1", "team/consumer: /v1"),
            ("team", "/v2", "unmatched"),
        ] {
            let asked = Asked { namespace, path, ..asked(&NONE) };
            assert_eq!(found(&snapshot, kind, &asked), expected, "{kind:?} from {namespace}");
        }
    }
}

#[test]
fn a_route_counts_for_the_ports_that_it_is_bound_to() {
    let mut bound = route("default/bound", ParentKind::Backend, &["/v1"]);
    let on = |port| RouteParent { id: chat(ParentKind::Backend), port: Some(port) };
    bound.parents = vec![on(81), on(82)];
    let alone = snapshot(vec![bound.clone()], vec![]);
    let beside = snapshot(vec![bound, route("default/all", ParentKind::Backend, &["/"])], vec![]);
    for (snapshot, port, expected) in [
        (&alone, Some(81), "default/bound: /v1"),
        (&alone, Some(82), "default/bound: /v1"),
        (&alone, Some(80), "backend default/chat"),
        (&alone, None, "backend default/chat"),
        (&beside, Some(81), "default/bound: /v1"),
        (&beside, Some(80), "default/all: /"),
        (&beside, None, "default/all: /"),
    ] {
        let asked = Asked { port, path: "/v1", ..asked(&NONE) };
        assert_eq!(found(snapshot, ParentKind::Backend, &asked), expected, "port {port:?}");
    }
}

#[test]
fn without_a_route_that_counts_the_backend_itself_is_meant() {
    use ParentKind::{Backend, Service};
    let none = snapshot(vec![], vec![backend("chat")]);
    let foreign = |kind| route("team/consumer", kind, &["/"]);
    for (snapshot, kind, expected) in [
        (none.clone(), Backend, "backend default/chat"),
        (none, Service, "unattached"),
        (snapshot(vec![foreign(Backend)], vec![]), Backend, "backend default/chat"),
        (snapshot(vec![foreign(Service)], vec![backend("chat")]), Service, "backend default/chat"),
        (snapshot(vec![foreign(Service)], vec![]), Service, "unattached"),
        (snapshot(vec![route("default/r", Backend, &[])], vec![backend("chat")]), Backend, "unmatched"),
    ] {
        assert_eq!(found(&snapshot, kind, &asked(&NONE)), expected, "{kind:?}");
    }
}

#[test]
fn the_length_of_the_prefix_is_told() {
    let table = RouteTable::new(&snapshot(
        vec![route("default/r", ParentKind::Backend, &["/v1/", "=/exact", "/"])],
        vec![],
    ));
    for (path, expected) in [("/v1/chat", 3), ("/exact", 0), ("/other", 0)] {
        let asked = Asked { path, ..asked(&NONE) };
        let Ok(Choice::Rule(matched)) = table.find(&chat(ParentKind::Backend), &asked) else {
            panic!("{path} matches no rule");
        };
        assert_eq!(matched.prefix_len(), expected, "{path}");
    }
}

#[test]
fn the_authority_names_the_parent() {
    use ParentKind::{Backend, Service};
    let mut external = backend("external");
    external.hostnames = vec!["api.example.com".into()];
    let mut fallback = backend("fallback");
    fallback.is_default = true;
    let snapshot =
        snapshot(vec![route("default/r", Service, &["/"])], vec![backend("chat"), external, fallback]);
    for (host, authority, expected) in [
        ("chat", Authority::Other, Some((Service, "chat"))),
        ("Chat.default.svc.cluster.local", Authority::Other, Some((Service, "chat"))),
        ("API.example.com", Authority::Other, Some((Backend, "external"))),
        ("external.default", Authority::Other, Some((Backend, "external"))),
        ("127.0.0.1", Authority::Sidecar, Some((Backend, "fallback"))),
        ("", Authority::Sidecar, Some((Backend, "fallback"))),
        ("chat", Authority::Sidecar, Some((Service, "chat"))),
        ("127.0.0.1", Authority::Other, None),
        ("", Authority::Other, None),
        ("chat.elsewhere", Authority::Other, None),
    ] {
        let named = parent(&snapshot, host, authority, "default").ok();
        let named = named.as_ref().map(|parent| (parent.kind, &*parent.name.name));
        assert_eq!(named, expected, "{host} {authority:?}");
    }
}

#[test]
fn a_name_that_is_not_known_is_answered_with_those_that_are() {
    let message = |snapshot: &Snapshot, host, authority| {
        parent(snapshot, host, authority, "default").unwrap_err().to_string()
    };
    let few = snapshot(vec![], vec![backend("chat"), backend("embed")]);
    assert_eq!(
        message(&few, "chta\n", Authority::Other),
        "`chta\\n` names no Service with a route and no Backend; known names: chat.default, embed.default"
    );
    assert_eq!(
        message(&few, "localhost", Authority::Sidecar),
        "the authority is the sidecar's own address and no Backend has `default: true`; \
         known names: chat.default, embed.default"
    );
    let empty = snapshot(vec![], vec![]);
    assert!(message(&empty, "chat", Authority::Other).ends_with("; no names are known yet"));
    let many = snapshot(vec![], (10..35).map(|n| backend(&format!("b{n}"))).collect());
    assert!(message(&many, "chat", Authority::Other).ends_with("b29.default and 5 more"));
}
