//! Backend to backend and endpoints; BackendPolicy to policy.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::document::Document;
use crate::document::backend::{BackendProtocol, BackendSpec};
use crate::document::backend_policy::{BackendPolicySpec, LoadBalancerPolicy, OnOverflow};
use crate::finding::Code;
use crate::names::{BackendId, EndpointId, ObjectName, PolicyId};
use crate::snapshot::{Backend, BodyOverflow, Endpoint, LoadBalancer, Policy, Protocol};
use crate::source::FieldPath;
use crate::units::{ByteSize, Span};

use super::Review;

pub(super) fn lower(
    document: &Document,
    spec: &BackendSpec,
    review: &mut Review<'_>,
) -> (Backend, Vec<Endpoint>) {
    let id = BackendId(document.name.clone());
    let path = FieldPath::spec();
    let endpoints_at = path.field("endpoints");
    let mut seen: BTreeMap<SocketAddr, FieldPath> = BTreeMap::new();
    let mut endpoints = Vec::new();
    let with_sidecar = spec.endpoints.iter().position(|endpoint| endpoint.sidecar.is_some());
    for (index, written) in spec.endpoints.iter().enumerate() {
        let at = endpoints_at.item(index);
        let address = SocketAddr::new(written.address.0, written.port);
        let sidecar = written.sidecar.as_ref().map(|sidecar| sidecar.0);
        if let Some(first) = seen.get(&address) {
            let message = format!("a second endpoint {address}");
            review.note_two(Code::EndpointTwice, &at.field("address"), message, first, "the first is here");
            continue;
        }
        seen.insert(address, at.field("address"));
        match (sidecar, with_sidecar) {
            (Some(sidecar), _) if sidecar == address => {
                let message = format!("{sidecar} is the application's own address");
                review.note(Code::SidecarIsApplication, &at.field("sidecar"), message);
            }
            (None, _) if spec.identity.is_some() => {
                let message = format!("{address} has no sidecar that could prove the Backend's identity");
                let identity = path.field("identity");
                review.note_two(
                    Code::IdentityUnchecked,
                    &at.field("address"),
                    message,
                    &identity,
                    "the identity",
                );
            }
            (None, Some(other)) => {
                let message = format!("{address} has no sidecar, and others of the Backend have one");
                let other = endpoints_at.item(other).field("sidecar");
                review.note_two(Code::PlaintextMixed, &at.field("address"), message, &other, "such as this");
            }
            _ => {}
        }
        endpoints.push(Endpoint { id: EndpointId { backend: id.clone(), address }, sidecar });
    }
    let backend = Backend {
        id,
        hostnames: spec.hostnames.iter().map(|name| name.0.as_str().into()).collect(),
        is_default: spec.default,
        protocol: protocol(spec.protocol),
        identity: spec.identity.as_ref().map(|id| id.0.as_str().into()),
    };
    (backend, endpoints)
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
    let policy = Policy {
        id: Some(PolicyId(document.name.clone())),
        load_balancer: match spec.load_balancer.as_ref().and_then(|balancer| balancer.policy) {
            Some(LoadBalancerPolicy::P2c) => LoadBalancer::P2c,
            Some(LoadBalancerPolicy::RoundRobin) => LoadBalancer::RoundRobin,
            None => defaults.load_balancer,
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
    };
    Some((BackendId(backend), policy))
}
