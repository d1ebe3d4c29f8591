//! What is written is what is read, and what should not be read is refused with its field: on the wire and on disk.
#![allow(clippy::panic, clippy::unwrap_used, reason = "this is how a test fails, also in what tests share")]

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use penstock_delivery::cache::{self, CacheError};
use penstock_delivery::proto::penstock::push::v1::SnapshotCache;
use penstock_delivery::proto::penstock::v1;
use penstock_delivery::wire::{self, Resource, ResourceType};
use penstock_model::Source;
use penstock_model::names::{
    BackendId, EndpointId, ObjectName, ParentId, ParentKind, PolicyId, RouteId, SloId,
};
use penstock_model::snapshot::{
    Affinity, Attributes, Backend, BodyOverflow, Endpoint, FieldMatch, Filter, HeaderChanges, HealthCheck,
    HealthScope, Host, Indicator, LoadBalancer, Match, Objective, Outside, Parts, PathChange, PathMatch,
    Pattern, PeerName, Policy, Protocol, Redirect, Rewrite, Roots, Route, RouteParent, Rule, Slo, SloTarget,
    Snapshot, Tls, ValueMatch, WeightedBackend, Zones,
};
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::select;
use prost::Message;

fn text(pattern: &'static str) -> impl Strategy<Value = Arc<str>> {
    pattern.prop_map(Into::into)
}

fn object() -> impl Strategy<Value = ObjectName> {
    ("[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", "[a-z0-9]([a-z0-9.-]{0,20}[a-z0-9])?")
        .prop_map(|(namespace, name)| ObjectName::new(namespace, name))
}

fn span() -> impl Strategy<Value = Duration> {
    (0..=360_000_000_u64, 0..1_000_000_000_u32).prop_map(|(s, ns)| Duration::new(s, ns))
}

fn address() -> impl Strategy<Value = SocketAddr> {
    (any::<IpAddr>(), any::<u16>()).prop_map(SocketAddr::from)
}

fn backend() -> impl Strategy<Value = Resource> {
    let identity = of(text("spiffe://[a-z.]{1,9}/ns/[a-z]{1,5}/sa/[a-z]{1,5}"));
    let protocol = select(&[Protocol::Http, Protocol::H2c][..]);
    (object(), vec(text("[a-z0-9.-]{1,20}"), 0..3), any::<bool>(), protocol, identity, outside()).prop_map(
        |(name, hostnames, is_default, protocol, identity, outside)| {
            let id = BackendId(name);
            Resource::Backend(Arc::new(Backend { id, hostnames, is_default, protocol, identity, outside }))
        },
    )
}

fn outside() -> impl Strategy<Value = Outside> {
    let host = (text("[a-z][a-z0-9.]{0,20}[a-z]"), 1..=u16::MAX, attributes())
        .prop_map(|(name, port, attributes)| Host { name, port, attributes });
    (vec(host, 0..3), of(tls()), of(health_check())).prop_map(|(hosts, tls, health_check)| Outside {
        hosts,
        tls: tls.map(Arc::new),
        health_check: health_check.map(Arc::new),
    })
}

fn tls() -> impl Strategy<Value = Tls> {
    let roots = prop_oneof![
        Just(Roots::System),
        text("(.|\n){1,80}").prop_map(Roots::Pem),
        text("/[^\0]{0,20}").prop_map(Roots::File)
    ];
    let name = prop_oneof![
        text("[a-z][a-z0-9.]{0,9}[a-z]").prop_map(PeerName::Hostname),
        text("[a-z]{1,6}:[!-~]{1,20}").prop_map(PeerName::Uri)
    ];
    (text("[a-z][a-z0-9.]{0,9}[a-z]"), roots, vec(name, 0..3)).prop_map(|(hostname, roots, names)| Tls {
        hostname,
        roots,
        names,
    })
}

fn health_check() -> impl Strategy<Value = HealthCheck> {
    let scope = select(&[HealthScope::OutsideMesh, HealthScope::All][..]);
    (text("/[a-z/?=]{0,12}"), of(1..=u16::MAX), (span(), span()), (1..=u32::MAX, 1..=u32::MAX), scope)
        .prop_map(|(path, port, (interval, timeout), (healthy_threshold, unhealthy_threshold), scope)| {
            HealthCheck { path, port, interval, timeout, healthy_threshold, unhealthy_threshold, scope }
        })
}

fn attributes() -> impl Strategy<Value = Attributes> {
    let names = || vec(text("[a-z]{1,8}"), 0..3);
    (0..=Attributes::WEIGHT_MAX, of(text("[a-z]{1,8}")), names(), names())
        .prop_map(|(weight, zone, models, lora)| Attributes { weight, zone, models, lora })
}

fn endpoint() -> impl Strategy<Value = Resource> {
    (object(), address(), of(address()), attributes()).prop_map(|(name, address, sidecar, attributes)| {
        let id = EndpointId { backend: BackendId(name), address };
        Resource::Endpoint(Arc::new(Endpoint { id, sidecar, attributes }))
    })
}

fn policy() -> impl Strategy<Value = Resource> {
    let how = (
        select(
            &[
                LoadBalancer::LeastCost,
                LoadBalancer::P2c,
                LoadBalancer::LeastRequest,
                LoadBalancer::RoundRobin,
                LoadBalancer::Random,
                LoadBalancer::ConsistentHash,
            ][..],
        ),
        span(),
        select(&[BodyOverflow::Route, BodyOverflow::Reject][..]),
        select(&[Affinity::None, Affinity::Session][..]),
        select(&[Zones::Alike, Zones::OwnFirst][..]),
    );
    (object(), of(object()), how, span(), any::<(u32, u32, u64)>()).prop_map(
        |(
            backend,
            id,
            (load_balancer, queue_wait_max, body_overflow, affinity, zones),
            connect_timeout,
            (streams, requests, bytes),
        )| {
            let policy = Policy {
                id: id.map(PolicyId),
                load_balancer,
                affinity,
                zones,
                queue_wait_max,
                connect_timeout,
                streams_per_connection_max: streams,
                requests_per_endpoint_max: requests,
                body_held_bytes_max: bytes,
                body_overflow,
            };
            Resource::Policy(BackendId(backend), Arc::new(policy))
        },
    )
}

fn pattern() -> impl Strategy<Value = Pattern> {
    select(&["", "a|b", "/v[12]/.*", "(?i)x+", "é"][..]).prop_map(|source| Pattern::new(source).unwrap())
}

fn value_match() -> impl Strategy<Value = ValueMatch> {
    prop_oneof![
        any::<String>().prop_map(|s| ValueMatch::Exact(s.into())),
        pattern().prop_map(ValueMatch::Pattern)
    ]
}

fn field_match(name: &'static str) -> impl Strategy<Value = FieldMatch> {
    (text(name), value_match()).prop_map(|(name, value)| FieldMatch { name, value })
}

fn path_match() -> impl Strategy<Value = PathMatch> {
    prop_oneof![
        text("/[!-~é]{0,12}").prop_map(PathMatch::Exact),
        text("(/[a-z0-9.]{1,5}){0,3}").prop_map(PathMatch::Prefix),
        pattern().prop_map(PathMatch::Pattern),
    ]
}

fn a_match() -> impl Strategy<Value = Match> {
    let headers = vec(field_match("[a-z-]{1,8}"), 0..3);
    (path_match(), headers, vec(field_match(".{0,8}"), 0..3), of(text("[A-Z]{1,8}")))
        .prop_map(|(path, headers, query, method)| Match { path, headers, query, method })
}

fn header_changes() -> impl Strategy<Value = HeaderChanges> {
    let header = || (text("[a-z-]{1,8}"), text("[ -~\té]{0,12}"));
    (vec(header(), 0..3), vec(header(), 0..3), vec(text("[a-z-]{1,8}"), 0..3))
        .prop_map(|(set, add, remove)| HeaderChanges { set, add, remove })
}

fn header_filter() -> impl Strategy<Value = Filter> {
    prop_oneof![
        header_changes().prop_map(Filter::RequestHeaders),
        header_changes().prop_map(Filter::ResponseHeaders)
    ]
}

fn path_change() -> impl Strategy<Value = PathChange> {
    prop_oneof![
        text("(/[!-~]{0,12})?").prop_map(PathChange::Full),
        text("(/[!-~]{0,12})?").prop_map(PathChange::Prefix)
    ]
}

fn filter() -> impl Strategy<Value = Filter> {
    let host = || of(text("[a-z0-9.-]{1,20}"));
    let redirect = (
        of(select(&["http", "https"][..]).prop_map(Into::into)),
        host(),
        of(path_change()),
        of(1..=u16::MAX),
        select(&[301_u16, 302, 303, 307, 308][..]),
    );
    prop_oneof![
        header_filter(),
        redirect.prop_map(|(scheme, hostname, path, port, status)| {
            Filter::Redirect(Redirect { scheme, hostname, path, port, status })
        }),
        (host(), of(path_change())).prop_map(|(hostname, path)| Filter::Rewrite(Rewrite { hostname, path })),
    ]
}

fn weighted() -> impl Strategy<Value = WeightedBackend> {
    (object(), 0..=1_000_000_u32, vec(header_filter(), 0..2))
        .prop_map(|(name, weight, filters)| WeightedBackend { backend: BackendId(name), weight, filters })
}

fn rule() -> impl Strategy<Value = Rule> {
    let timeouts = (of(span()), of(span()));
    (text(".{0,8}"), vec(a_match(), 1..3), vec(filter(), 0..3), vec(weighted(), 0..3), timeouts).prop_map(
        |(name, matches, filters, backends, (timeout_request, timeout_backend_request))| Rule {
            name,
            matches,
            filters,
            backends,
            timeout_request,
            timeout_backend_request,
        },
    )
}

fn route() -> impl Strategy<Value = Resource> {
    let kind = select(&[ParentKind::Service, ParentKind::Backend][..]);
    let parent = (kind, object(), of(1..=u16::MAX))
        .prop_map(|(kind, name, port)| RouteParent { id: ParentId { kind, name }, port });
    (object(), of(any::<i64>()), vec(parent, 0..3), vec(rule(), 0..3)).prop_map(
        |(name, created_s, parents, rules)| {
            Resource::Route(Arc::new(Route { id: RouteId(name), created_s, parents, rules }))
        },
    )
}

fn objective() -> impl Strategy<Value = Objective> {
    let indicator = prop_oneof![
        Just((Indicator::Availability, None)),
        (
            select(&[Indicator::Ttft, Indicator::Tpot, Indicator::Itl, Indicator::E2e][..]),
            span().prop_map(Some)
        ),
    ];
    (".{0,8}", indicator, 0..=1_000_000_u32, of(".{0,8}"), of(any::<bool>())).prop_map(
        |(name, (indicator, threshold), target_millionths, model, streaming)| Objective {
            name: name.into(),
            indicator,
            threshold,
            target_millionths,
            model: model.map(Into::into),
            streaming,
        },
    )
}

fn slo() -> impl Strategy<Value = Resource> {
    let target = prop_oneof![
        (object(), of(text(".{0,8}")))
            .prop_map(|(name, rule)| SloTarget::Route { route: RouteId(name), rule }),
        object().prop_map(|name| SloTarget::Backend(BackendId(name))),
    ];
    (object(), target, span(), vec(objective(), 0..4), any::<bool>()).prop_map(
        |(name, target, window, mut objectives, sheds)| {
            objectives.sort_by(|a, b| a.name.cmp(&b.name));
            objectives.dedup_by(|a, b| a.name == b.name);
            Resource::Slo(Arc::new(Slo { id: SloId(name), target, window, objectives, sheds }))
        },
    )
}

fn resource() -> impl Strategy<Value = Resource> {
    prop_oneof![backend(), endpoint(), policy(), route(), slo()]
}

fn parts() -> impl Strategy<Value = Parts> {
    vec(resource(), 0..12).prop_map(|resources| {
        let mut parts = Parts::default();
        resources.into_iter().for_each(|r| r.insert_into(&mut parts));
        parts
    })
}

proptest! {
    #[test]
    fn a_resource_is_read_as_it_was_written(resource in resource()) {
        let encoded = resource.encode();
        let read = Resource::decode(resource.resource_type(), &encoded.name, &encoded.bytes);
        prop_assert_eq!(read, Ok(resource));
    }

    #[test]
    fn a_snapshot_travels_whole_and_is_taken_apart_by_name(parts in parts()) {
        let mut arrived = Parts::default();
        for resource in Resource::all(&parts) {
            let encoded = resource.encode();
            let read = Resource::decode(resource.resource_type(), &encoded.name, &encoded.bytes);
            read.unwrap().insert_into(&mut arrived);
        }
        prop_assert_eq!(Snapshot::assemble(arrived.clone()), Snapshot::assemble(parts.clone()));
        for resource in Resource::all(&parts) {
            wire::remove_from(&mut arrived, resource.resource_type(), &resource.name());
        }
        prop_assert_eq!(arrived, Parts::default());
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes: Vec<u8>, at in 0..5_usize) {
        let read = Resource::decode(ResourceType::ALL[at], "penstock/ns/a", &bytes);
        prop_assert!(read.is_err() || !bytes.is_empty());
    }

    #[test]
    fn the_cache_is_read_as_it_was_written(parts in parts()) {
        prop_assert_eq!(cache::decode(&cache::encode(&parts)), Ok(parts));
    }

    #[test]
    fn a_cache_with_one_byte_changed_is_refused(parts in parts(), at: prop::sample::Index, change in 1..=u8::MAX) {
        let mut bytes = cache::encode(&parts);
        let at = at.index(bytes.len());
        bytes[at] ^= change;
        prop_assert!(cache::decode(&bytes).is_err(), "byte {}", at);
    }

    #[test]
    fn a_cache_that_is_cut_or_goes_on_is_refused(parts in parts(), at: prop::sample::Index, more in vec(any::<u8>(), 1..9)) {
        let bytes = cache::encode(&parts);
        let cut = &bytes[..at.index(bytes.len())];
        let is_cut = matches!(cache::decode(cut), Err(CacheError::Truncated { .. }));
        prop_assert!(is_cut);
        let long = [&bytes[..], &more].concat();
        let is_long = matches!(cache::decode(&long), Err(CacheError::Overlong { .. }));
        prop_assert!(is_long);
    }
}

#[test]
fn what_the_compiler_makes_of_the_examples_travels_whole() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples");
    let mut examples = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let source = Source { file: path.display().to_string(), text };
        let snapshot = penstock_model::compile(&[source]).unwrap().snapshot;
        assert_eq!(
            cache::decode(&cache::encode(snapshot.parts())).as_ref(),
            Ok(snapshot.parts()),
            "{path:?}"
        );
        examples += 1;
    }
    assert!(examples >= 5, "{examples} examples in {dir}");
}

#[test]
fn a_cache_of_another_schema_or_of_something_else_is_refused_with_the_reason() {
    let bytes = cache::encode(&Parts::default());
    let with = |at: usize, byte: u8| {
        let mut bytes = bytes.clone();
        bytes[at] = byte;
        cache::decode(&bytes).unwrap_err().to_string()
    };
    for (at, byte, reason) in [
        (0, b'x', "does not begin as a snapshot does"),
        (8, 2, "has schema 2, newer than 1, the newest that this version reads"),
        (8, 0, "has schema 0, older than 1, the oldest that this version reads"),
        (12, 9, "ends after 36 bytes of 45"),
        (20, bytes[20] ^ 1, "is corrupt: the checksum does not fit the content"),
    ] {
        assert_eq!(with(at, byte), reason);
    }
    assert_eq!(cache::decode(&[]).unwrap_err().to_string(), "ends after 0 bytes of 36");
}

/// A cache file around any message, with a checksum that fits.
fn sealed(message: &impl Message) -> Vec<u8> {
    let payload = message.encode_to_vec();
    let mut bytes = b"PENSTOCK\x01\0\0\0".to_vec();
    bytes.extend_from_slice(&(payload.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&xxhash_rust::xxh3::xxh3_128(&payload).to_le_bytes());
    bytes.extend_from_slice(&payload);
    bytes
}

#[test]
fn a_sound_file_with_a_resource_that_is_refused_says_which() {
    let good = valid_backend();
    let bad = v1::Backend { protocol: 9, ..valid_backend() };
    for (backends, reason) in [
        (
            vec![good.clone(), bad],
            "holds a resource that is refused: backends [1]: protocol has the value 9, which is not known",
        ),
        (
            vec![good.clone(), good],
            "holds a resource that is refused: backends [1]: is a second `penstock/ns/a`",
        ),
    ] {
        let cache = SnapshotCache { backends, ..SnapshotCache::default() };
        assert_eq!(cache::decode(&sealed(&cache)).unwrap_err().to_string(), reason);
    }
    let other = prost_types::Any { type_url: "\u{1}".to_owned(), value: vec![] };
    assert!(matches!(cache::decode(&sealed(&other)), Err(CacheError::Undecodable(_))));
}

fn name(name: &str) -> Option<v1::ObjectName> {
    Some(v1::ObjectName { namespace: "ns".to_owned(), name: name.to_owned() })
}

fn span_message() -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds: 1, nanos: 0 })
}

fn valid_backend() -> v1::Backend {
    v1::Backend { name: name("a"), protocol: v1::Protocol::Http.into(), ..v1::Backend::default() }
}

fn heavy() -> Option<v1::Attributes> {
    Some(v1::Attributes { weight: Some(1_001), ..v1::Attributes::default() })
}

fn valid_endpoint() -> v1::Endpoint {
    v1::Endpoint {
        backend: name("a"),
        address: "10.0.0.1:80".to_owned(),
        sidecar: String::new(),
        attributes: None,
    }
}

fn valid_policy() -> v1::Policy {
    v1::Policy {
        backend: name("a"),
        load_balancer: v1::LoadBalancer::P2c.into(),
        connect_timeout: span_message(),
        body_overflow: v1::BodyOverflow::Route.into(),
        ..v1::Policy::default()
    }
}

fn valid_slo() -> v1::Slo {
    let objective = |name: &str| v1::Objective {
        name: name.to_owned(),
        indicator: v1::Indicator::Ttft.into(),
        threshold: span_message(),
        ..v1::Objective::default()
    };
    v1::Slo {
        name: name("a"),
        target: Some(v1::SloTarget { kind: name("b").map(v1::slo_target::Kind::Backend) }),
        window: span_message(),
        objectives: vec![objective("x"), objective("y")],
        sheds: false,
    }
}

fn valid_route() -> v1::Route {
    let header = |name: &str| v1::Header { name: name.to_owned(), value: "v".to_owned() };
    let changes =
        v1::HeaderChanges { set: vec![header("a")], add: vec![header("b")], remove: vec!["c".to_owned()] };
    let redirect = v1::Redirect { status: 302, ..v1::Redirect::default() };
    let filters = [
        v1::filter::Kind::RequestHeaders(changes.clone()),
        v1::filter::Kind::Redirect(redirect),
        v1::filter::Kind::Rewrite(v1::Rewrite::default()),
    ];
    let field =
        v1::FieldMatch { name: "x".to_owned(), value: Some(v1::field_match::Value::Exact("v".to_owned())) };
    let a_match = v1::Match {
        path: Some(v1::PathMatch { kind: Some(v1::path_match::Kind::Prefix("/v1".to_owned())) }),
        headers: vec![field.clone()],
        query: vec![field],
        method: String::new(),
    };
    let weighted = v1::WeightedBackend {
        backend: name("b"),
        weight: 1,
        filters: vec![v1::Filter { kind: Some(v1::filter::Kind::ResponseHeaders(changes)) }],
    };
    let rule = v1::Rule {
        matches: vec![a_match],
        filters: filters.into_iter().map(|kind| v1::Filter { kind: Some(kind) }).collect(),
        backends: vec![weighted],
        ..v1::Rule::default()
    };
    let parent = v1::RouteParent { kind: v1::ParentKind::Service.into(), name: name("s"), port: Some(80) };
    v1::Route { name: name("a"), created_s: None, parents: vec![parent], rules: vec![rule] }
}

/// A field, and a change that makes a valid message one that is refused because of it.
type Case<M> = (&'static str, fn(&mut M));

fn check<M: Message>(t: ResourceType, full_name: &str, valid: fn() -> M, cases: &[Case<M>]) {
    let read = Resource::decode(t, full_name, &valid().encode_to_vec());
    assert!(read.is_ok(), "{read:?}");
    for (i, (field, change)) in cases.iter().enumerate() {
        let mut message = valid();
        change(&mut message);
        match Resource::decode(t, full_name, &message.encode_to_vec()) {
            Ok(resource) => panic!("case {i}, {field}: {resource:?}"),
            Err(flaw) => assert_eq!((&*flaw.field, &*flaw.name), (*field, full_name), "case {i}: {flaw}"),
        }
    }
}

#[test]
fn backends_are_read_strictly() {
    check(
        ResourceType::Backend,
        "penstock/ns/a",
        valid_backend,
        &[
            ("", |b| b.name = name("b")),
            ("name", |b| b.name = None),
            ("name.name", |b| b.name = name("")),
            ("name.name", |b| b.name = name("A")),
            ("name.name", |b| b.name = name("a/b")),
            ("name.name", |b| b.name = name("-a")),
            ("name.name", |b| b.name = name(&"a".repeat(254))),
            ("name.namespace", |b| b.name.as_mut().unwrap().namespace = String::new()),
            ("hostnames[1]", |b| b.hostnames = vec!["a".to_owned(), "A".to_owned()]),
            ("hostnames[0]", |b| b.hostnames = vec![String::new()]),
            ("hostnames[0]", |b| b.hostnames = vec!["a b".to_owned()]),
            ("protocol", |b| b.protocol = 0),
            ("protocol", |b| b.protocol = 5),
            ("protocol", |b| b.protocol = -1),
            ("identity", |b| b.identity = "https://a/b".to_owned()),
        ],
    );
}

#[test]
fn backends_outside_the_mesh_are_read_strictly() {
    use v1::peer_name::Name;
    use v1::tls::Roots;
    fn valid() -> v1::Backend {
        let tls = v1::Tls {
            hostname: "a.example".to_owned(),
            roots: Some(Roots::System(true)),
            names: vec![v1::PeerName { name: Some(Name::Hostname("b.example".to_owned())) }],
        };
        let health_check = v1::HealthCheck {
            path: "/health".to_owned(),
            interval: span_message(),
            timeout: span_message(),
            healthy_threshold: 1,
            unhealthy_threshold: 1,
            scope: v1::HealthScope::OutsideMesh.into(),
            ..v1::HealthCheck::default()
        };
        v1::Backend {
            protocol: v1::Protocol::HttpOverTls.into(),
            hosts: vec![v1::Host { name: "a.example".to_owned(), port: 443, attributes: None }],
            tls: Some(tls),
            health_check: Some(health_check),
            ..valid_backend()
        }
    }
    fn tls(backend: &mut v1::Backend) -> &mut v1::Tls {
        backend.tls.as_mut().unwrap()
    }
    fn health(backend: &mut v1::Backend) -> &mut v1::HealthCheck {
        backend.health_check.as_mut().unwrap()
    }
    fn named(name: Name) -> Vec<v1::PeerName> {
        vec![v1::PeerName { name: Some(name) }]
    }
    check(
        ResourceType::Backend,
        "penstock/ns/a",
        valid,
        &[
            // A reader that took one for the other would send in plaintext what is meant for TLS.
            ("tls", |b| b.tls = None),
            ("tls", |b| b.protocol = v1::Protocol::H2c.into()),
            ("hosts[0].name", |b| b.hosts[0].name = "10.0.0.1:80".to_owned()),
            ("hosts[0].port", |b| b.hosts[0].port = 0),
            ("hosts[0].port", |b| b.hosts[0].port = 65_536),
            ("hosts[0].attributes.weight", |b| b.hosts[0].attributes = heavy()),
            ("tls.hostname", |b| tls(b).hostname = "*.example".to_owned()),
            ("tls.roots", |b| tls(b).roots = None),
            ("tls.system", |b| tls(b).roots = Some(Roots::System(false))),
            ("tls.pem", |b| tls(b).roots = Some(Roots::Pem(String::new()))),
            ("tls.file", |b| tls(b).roots = Some(Roots::File("ca.pem".to_owned()))),
            ("tls.names[0].name", |b| tls(b).names[0].name = None),
            ("tls.names[0].hostname", |b| tls(b).names = named(Name::Hostname("A".to_owned()))),
            ("tls.names[0].uri", |b| tls(b).names = named(Name::Uri("a b".to_owned()))),
            ("health_check.path", |b| health(b).path = "health".to_owned()),
            ("health_check.port", |b| health(b).port = Some(0)),
            ("health_check.interval", |b| health(b).interval = None),
            ("health_check.timeout", |b| health(b).timeout = None),
            ("health_check.healthy_threshold", |b| health(b).healthy_threshold = 0),
            ("health_check.unhealthy_threshold", |b| health(b).unhealthy_threshold = 0),
            ("health_check.scope", |b| health(b).scope = 0),
            ("health_check.scope", |b| health(b).scope = 3),
        ],
    );
}

#[test]
fn endpoints_are_read_strictly() {
    check(
        ResourceType::Endpoint,
        "penstock/ns/a/10.0.0.1:80",
        valid_endpoint,
        &[
            ("attributes.weight", |e| e.attributes = heavy()),
            ("", |e| e.address = "10.0.0.1:81".to_owned()),
            ("", |e| e.backend = name("b")),
            ("backend", |e| e.backend = None),
            ("address", |e| e.address = String::new()),
            ("address", |e| e.address = "10.0.0.1".to_owned()),
            ("address", |e| e.address = "host:80".to_owned()),
            ("address", |e| e.address = "10.0.0.1:65536".to_owned()),
            ("sidecar", |e| e.sidecar = "nowhere".to_owned()),
        ],
    );
}

#[test]
fn policies_are_read_strictly() {
    let span = |seconds, nanos| Some(prost_types::Duration { seconds, nanos });
    check(
        ResourceType::Policy,
        "penstock/ns/a",
        valid_policy,
        &[
            ("", |p| p.backend = name("b")),
            ("document.name", |p| p.document = name("B")),
            ("load_balancer", |p| p.load_balancer = 0),
            ("load_balancer", |p| p.load_balancer = 7),
            ("connect_timeout", |p| p.connect_timeout = None),
            ("body_overflow", |p| p.body_overflow = 0),
            ("body_overflow", |p| p.body_overflow = 3),
            ("affinity", |p| p.affinity = 2),
            ("zones", |p| p.zones = 2),
        ],
    );
    for bad in [span(-1, 0), span(0, -1), span(1, 1_000_000_000), span(i64::MAX, 0)] {
        let policy = v1::Policy { connect_timeout: bad, ..valid_policy() };
        let read = Resource::decode(ResourceType::Policy, "penstock/ns/a", &policy.encode_to_vec());
        assert_eq!(read.unwrap_err().field, "connect_timeout");
    }
}

#[test]
fn routes_are_read_strictly() {
    use v1::{filter, path_change, path_match};
    fn path(route: &mut v1::Route, kind: path_match::Kind) {
        route.rules[0].matches[0].path = Some(v1::PathMatch { kind: Some(kind) });
    }
    fn set(route: &mut v1::Route) -> &mut v1::Header {
        let Some(filter::Kind::RequestHeaders(changes)) = &mut route.rules[0].filters[0].kind else {
            panic!()
        };
        &mut changes.set[0]
    }
    fn redirect(route: &mut v1::Route) -> &mut v1::Redirect {
        let Some(filter::Kind::Redirect(redirect)) = &mut route.rules[0].filters[1].kind else { panic!() };
        redirect
    }
    fn rewrite(route: &mut v1::Route) -> &mut v1::Rewrite {
        let Some(filter::Kind::Rewrite(rewrite)) = &mut route.rules[0].filters[2].kind else { panic!() };
        rewrite
    }
    check(
        ResourceType::Route,
        "penstock/ns/a",
        valid_route,
        &[
            ("parents[0].kind", |r| r.parents[0].kind = 0),
            ("parents[0].kind", |r| r.parents[0].kind = 3),
            ("parents[0].name", |r| r.parents[0].name = None),
            ("parents[0].port", |r| r.parents[0].port = Some(0)),
            ("parents[0].port", |r| r.parents[0].port = Some(65_536)),
            ("rules[0].matches", |r| r.rules[0].matches.clear()),
            ("rules[0].matches[0].path", |r| r.rules[0].matches[0].path = None),
            ("rules[0].matches[0].path.kind", |r| {
                r.rules[0].matches[0].path = Some(v1::PathMatch { kind: None });
            }),
            ("rules[0].matches[0].path.exact", |r| path(r, path_match::Kind::Exact("v1".to_owned()))),
            ("rules[0].matches[0].path.prefix", |r| path(r, path_match::Kind::Prefix("/v1/".to_owned()))),
            ("rules[0].matches[0].path.pattern", |r| path(r, path_match::Kind::Pattern("(".to_owned()))),
            ("rules[0].matches[0].path.pattern", |r| {
                path(r, path_match::Kind::Pattern("(a{999}){999}".to_owned()));
            }),
            ("rules[0].matches[0].headers[0].name", |r| {
                r.rules[0].matches[0].headers[0].name = "X".to_owned();
            }),
            ("rules[0].matches[0].headers[0].name", |r| r.rules[0].matches[0].headers[0].name.clear()),
            ("rules[0].matches[0].headers[0].value", |r| r.rules[0].matches[0].headers[0].value = None),
            ("rules[0].matches[0].query[0].value", |r| r.rules[0].matches[0].query[0].value = None),
            ("rules[0].matches[0].method", |r| r.rules[0].matches[0].method = "get".to_owned()),
            ("rules[0].matches[0].method", |r| r.rules[0].matches[0].method = "G T".to_owned()),
            ("rules[0].filters[0].kind", |r| r.rules[0].filters[0].kind = None),
            ("rules[0].filters[0].request_headers.set[0].name", |r| set(r).name = "a:".to_owned()),
            ("rules[0].filters[0].request_headers.set[0].value", |r| set(r).value = "v\r\nx: y".to_owned()),
            ("rules[0].filters[1].redirect.status", |r| redirect(r).status = 200),
            ("rules[0].filters[1].redirect.scheme", |r| redirect(r).scheme = Some("ftp".to_owned())),
            ("rules[0].filters[1].redirect.port", |r| redirect(r).port = Some(0)),
            ("rules[0].filters[1].redirect.path.kind", |r| {
                redirect(r).path = Some(v1::PathChange { kind: None });
            }),
            ("rules[0].filters[1].redirect.hostname", |r| redirect(r).hostname = Some("a/b".to_owned())),
            ("rules[0].filters[2].rewrite.hostname", |r| rewrite(r).hostname = Some(String::new())),
            ("rules[0].filters[2].rewrite.path.full", |r| {
                rewrite(r).path =
                    Some(v1::PathChange { kind: Some(path_change::Kind::Full("/a b".to_owned())) });
            }),
            ("rules[0].backends[0].weight", |r| r.rules[0].backends[0].weight = 1_000_001),
            ("rules[0].backends[0].backend", |r| r.rules[0].backends[0].backend = None),
            ("rules[0].backends[0].filters[0].kind", |r| {
                let kind = filter::Kind::Rewrite(v1::Rewrite::default());
                r.rules[0].backends[0].filters[0].kind = Some(kind);
            }),
            ("rules[0].backends[0].filters[0].kind", |r| r.rules[0].backends[0].filters[0].kind = None),
            ("rules[0].backends[0].filters[0].response_headers.remove[0]", |r| {
                let Some(filter::Kind::ResponseHeaders(changes)) =
                    &mut r.rules[0].backends[0].filters[0].kind
                else {
                    panic!()
                };
                changes.remove[0] = "a b".to_owned();
            }),
        ],
    );
}

#[test]
fn slos_are_read_strictly() {
    check(
        ResourceType::Slo,
        "penstock/ns/a",
        valid_slo,
        &[
            ("target", |s| s.target = None),
            ("target.kind", |s| s.target = Some(v1::SloTarget { kind: None })),
            ("target.backend.name", |s| {
                s.target = Some(v1::SloTarget { kind: name("B").map(v1::slo_target::Kind::Backend) });
            }),
            ("target.route.route", |s| {
                let target = v1::RouteTarget { route: None, rule: None };
                s.target = Some(v1::SloTarget { kind: Some(v1::slo_target::Kind::Route(target)) });
            }),
            ("window", |s| s.window = None),
            ("objectives", |s| s.objectives[1].name = "x".to_owned()),
            ("objectives[1].indicator", |s| s.objectives[1].indicator = 0),
            ("objectives[1].indicator", |s| s.objectives[1].indicator = 6),
            ("objectives[0].threshold", |s| s.objectives[0].threshold = None),
            ("objectives[0].threshold", |s| s.objectives[0].indicator = v1::Indicator::Availability.into()),
            ("objectives[0].target_millionths", |s| s.objectives[0].target_millionths = 1_000_001),
        ],
    );
}

#[test]
fn fields_of_a_newer_version_are_ignored_but_its_filters_are_refused() {
    let unknown = [0x9a, 0x06, 0x01, b'x']; // field 99, one byte
    let newer = [valid_backend().encode_to_vec(), unknown.to_vec()].concat();
    assert!(Resource::decode(ResourceType::Backend, "penstock/ns/a", &newer).is_ok());

    let mut filter = v1::Filter { kind: None }.encode_to_vec();
    filter.extend_from_slice(&unknown);
    let mut route = valid_route();
    route.rules[0].filters = vec![v1::Filter::decode(&filter[..]).unwrap()];
    let flaw = Resource::decode(ResourceType::Route, "penstock/ns/a", &route.encode_to_vec()).unwrap_err();
    assert_eq!(
        flaw.to_string(),
        "routes penstock/ns/a: rules[0].filters[0].kind is missing, or of a kind that this version does not know"
    );
}

#[test]
fn names_are_those_that_the_proto_file_lays_down() {
    let backend = BackendId::new("chat", "llama");
    let endpoint = |address: &str| {
        let id = EndpointId { backend: backend.clone(), address: address.parse().unwrap() };
        Resource::Endpoint(Arc::new(Endpoint { id, sidecar: None, attributes: Attributes::default() }))
    };
    for (resource, name) in [
        (endpoint("10.0.0.1:8000"), "penstock/chat/llama/10.0.0.1:8000"),
        (endpoint("[fd00::1]:8000"), "penstock/chat/llama/[fd00::1]:8000"),
        (Resource::Policy(backend.clone(), Arc::new(Policy::default())), "penstock/chat/llama"),
    ] {
        assert_eq!(resource.name(), name);
    }
    assert_eq!(ResourceType::Slo.type_url(), "type.googleapis.com/penstock.v1.Slo");
}

#[test]
fn equal_content_has_an_equal_version_and_other_content_another() {
    let version = |word: &str| {
        let policy = Policy { id: Some(PolicyId::new("ns", word)), ..Policy::default() };
        Resource::Policy(BackendId::new("ns", "a"), Arc::new(policy)).encode().version
    };
    assert_eq!(version("x"), version("x"));
    assert_ne!(version("x"), version("y"));
    assert_eq!(version("x").len(), 16);
}

#[test]
fn a_name_of_another_shape_removes_nothing() {
    let mut parts = Parts::default();
    let id = EndpointId { backend: BackendId::new("ns", "a"), address: ([10, 0, 0, 1], 80).into() };
    Resource::Endpoint(Arc::new(Endpoint { id, sidecar: None, attributes: Attributes::default() }))
        .insert_into(&mut parts);
    let before = parts.clone();
    for name in
        ["", "*", "penstock/ns/a", "other/ns/a/10.0.0.1:80", "penstock/ns/a/10.0.0.1:80/x", "penstock/ns/a/x"]
    {
        for t in ResourceType::ALL {
            wire::remove_from(&mut parts, t, name);
        }
        assert_eq!(parts, before, "{name}");
    }
}
