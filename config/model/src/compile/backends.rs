//! Backend to backend and endpoints; BackendPolicy to policy.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::document::Document;
use crate::document::backend::{BackendEndpoint, BackendProtocol, BackendSpec};
use crate::document::backend_policy::{
    AffinityName, BackendPolicySpec, LoadBalancerPolicy, OnOverflow, TrafficDistribution,
};
use crate::finding::Code;
use crate::names::{BackendId, EndpointId, ObjectName, PolicyId};
use crate::snapshot::{
    Affinity, Attributes, Backend, BodyOverflow, Endpoint, Host, LoadBalancer, Outside, Policy, Protocol,
    Zones,
};
use crate::source::FieldPath;
use crate::units::{ByteSize, Span};

use super::{Review, outside};

pub(super) fn lower(
    document: &Document,
    spec: &BackendSpec,
    review: &mut Review<'_>,
) -> (Backend, Vec<Endpoint>) {
    let id = BackendId(document.name.clone());
    let path = FieldPath::spec();
    let (hosts, addresses) = places(spec, &path.field("endpoints"), review);
    let endpoints = addresses
        .into_iter()
        .map(|(address, sidecar, attributes)| Endpoint {
            id: EndpointId { backend: id.clone(), address },
            sidecar,
            attributes,
        })
        .collect();
    let backend = Backend {
        id,
        hostnames: spec.hostnames.iter().map(|name| name.0.as_str().into()).collect(),
        is_default: spec.default,
        protocol: protocol(spec.protocol),
        identity: spec.identity.as_ref().map(|id| id.0.as_str().into()),
        outside: Outside {
            hosts,
            tls: outside::tls(spec, &path, review),
            health_check: outside::health_check(spec, &path, review),
        },
    };
    (backend, endpoints)
}

type Addresses = Vec<(SocketAddr, Option<SocketAddr>, Attributes)>;

/// Where the endpoints are: those that are known by name, and the others, with their sidecars.
fn places(spec: &BackendSpec, path: &FieldPath, review: &mut Review<'_>) -> (Vec<Host>, Addresses) {
    let (mut names, mut addresses) = (BTreeMap::new(), BTreeMap::new());
    let (mut hosts, mut found) = (Vec::new(), Addresses::new());
    let with_sidecar = spec.endpoints.iter().position(|endpoint| endpoint.sidecar.is_some());
    for (index, written) in spec.endpoints.iter().enumerate() {
        let at = path.item(index);
        let sidecar = written.sidecar.as_ref().map(|sidecar| sidecar.0);
        let (name, field, first) = match (&written.address, &written.dns) {
            (Some(address), None) => {
                let address = SocketAddr::new(address.0, written.port);
                let first = addresses.insert(address, at.field("address"));
                if first.is_none() {
                    found.push((address, sidecar, attributes(written)));
                }
                (address.to_string(), "address", first)
            }
            (None, Some(name)) => {
                let host = Host {
                    name: name.0.as_str().into(),
                    port: written.port,
                    attributes: attributes(written),
                };
                let name = host.to_string();
                let first = names.insert(name.clone(), at.field("dns"));
                if first.is_none() {
                    hosts.push(host);
                }
                (name, "dns", first)
            }
            (Some(_), Some(_)) => {
                let message = "`dns` beside `address`";
                let address = at.field("address");
                review.note_two(
                    Code::EndpointPlace,
                    &at.field("dns"),
                    message,
                    &address,
                    "the address is here",
                );
                continue;
            }
            (None, None) => {
                review.note(Code::EndpointPlace, &at, "neither `address` nor `dns`");
                continue;
            }
        };
        let field = at.field(field);
        if let Some(first) = first {
            let message = format!("a second endpoint {name}");
            review.note_two(Code::EndpointTwice, &field, message, &first, "the first is here");
            continue;
        }
        let other = with_sidecar.map(|other| path.item(other).field("sidecar"));
        trust(written, &name, spec, (&at, &field, other), review);
    }
    hosts.sort_unstable();
    (hosts, found)
}

fn attributes(written: &BackendEndpoint) -> Attributes {
    let texts = |texts: &[String]| texts.iter().map(|text| text.as_str().into()).collect();
    Attributes {
        weight: written.weight,
        zone: written.zone.as_ref().map(|zone| zone.0.as_str().into()),
        models: texts(&written.models),
        lora: texts(&written.lora),
    }
}

/// What is wrong with the way in which one endpoint proves itself, or does not.
fn trust(
    written: &BackendEndpoint,
    name: &str,
    spec: &BackendSpec,
    (at, field, other): (&FieldPath, &FieldPath, Option<FieldPath>),
    review: &mut Review<'_>,
) {
    match (&written.sidecar, other) {
        (Some(_), _) if written.dns.is_some() => {
            let message = format!("{name} is a DNS name");
            review.note(Code::SidecarOfName, &at.field("sidecar"), message);
        }
        (Some(sidecar), _) if sidecar.0.to_string() == name => {
            let message = format!("{name} is the application's own address");
            review.note(Code::SidecarIsApplication, &at.field("sidecar"), message);
        }
        (None, _) if spec.identity.is_some() => {
            let message = format!("{name} has no sidecar that could prove the Backend's identity");
            let identity = FieldPath::spec().field("identity");
            review.note_two(Code::IdentityUnchecked, field, message, &identity, "the identity");
        }
        (None, Some(other)) => {
            let message = format!("{name} has no sidecar, and others of the Backend have one");
            review.note_two(Code::PlaintextMixed, field, message, &other, "such as this");
        }
        _ => {}
    }
}

pub(super) fn protocol(written: BackendProtocol) -> Protocol {
    match written {
        BackendProtocol::Http => Protocol::Http,
        BackendProtocol::H2c | BackendProtocol::Grpc => Protocol::H2c,
    }
}

/// The policy and what it is about; nothing where no target is written, which the structure check has reported.
pub(super) fn lower_policy(document: &Document, spec: &BackendPolicySpec) -> Option<(BackendId, Policy)> {
    let target = spec.target_refs.first()?;
    let backend = ObjectName::new(Arc::clone(&document.name.namespace), target.name.0.as_str());
    let defaults = Policy::default();
    let tcp = spec.connection_pool.as_ref().and_then(|pool| pool.tcp.as_ref());
    let http = spec.connection_pool.as_ref().and_then(|pool| pool.http.as_ref());
    let body = spec.request_body.as_ref();
    let balancer = spec.load_balancer.as_ref();
    let policy = Policy {
        id: Some(PolicyId(document.name.clone())),
        load_balancer: match balancer.and_then(|balancer| balancer.policy) {
            Some(LoadBalancerPolicy::LeastCost) => LoadBalancer::LeastCost,
            Some(LoadBalancerPolicy::P2c) => LoadBalancer::P2c,
            Some(LoadBalancerPolicy::LeastRequest) => LoadBalancer::LeastRequest,
            Some(LoadBalancerPolicy::RoundRobin) => LoadBalancer::RoundRobin,
            Some(LoadBalancerPolicy::Random) => LoadBalancer::Random,
            Some(LoadBalancerPolicy::ConsistentHash) => LoadBalancer::ConsistentHash,
            None => defaults.load_balancer,
        },
        affinity: match balancer.and_then(|balancer| balancer.affinity) {
            Some(AffinityName::Session) => Affinity::Session,
            Some(AffinityName::None) => Affinity::None,
            None => defaults.affinity,
        },
        zones: match balancer.and_then(|balancer| balancer.traffic_distribution) {
            Some(TrafficDistribution::PreferSameZone) => Zones::OwnFirst,
            None => defaults.zones,
        },
        connect_timeout: tcp
            .and_then(|tcp| tcp.connect_timeout.as_ref())
            .map_or(defaults.connect_timeout, Span::duration),
        streams_per_connection_max: http
            .and_then(|http| http.max_concurrent_streams)
            .unwrap_or(defaults.streams_per_connection_max),
        requests_per_endpoint_max: http
            .and_then(|http| http.http2_max_requests)
            .unwrap_or(defaults.requests_per_endpoint_max),
        body_held_bytes_max: body
            .and_then(|body| body.hold_max.as_ref())
            .map_or(defaults.body_held_bytes_max, ByteSize::bytes),
        body_overflow: match body.and_then(|body| body.on_overflow) {
            Some(OnOverflow::Route) => BodyOverflow::Route,
            Some(OnOverflow::Reject) => BodyOverflow::Reject,
            None => defaults.body_overflow,
        },
        queue_wait_max: spec
            .queue
            .as_ref()
            .and_then(|queue| queue.max_wait.as_ref())
            .map_or(defaults.queue_wait_max, Span::duration),
    };
    Some((BackendId(backend), policy))
}
