//! Backend, Endpoint and Policy.

use std::sync::Arc;

use penstock_model::names::{BackendId, EndpointId, PolicyId};
use penstock_model::snapshot::{
    Affinity, Attributes, Backend, BodyOverflow, Endpoint, LoadBalancer, Outside, Policy, Protocol, Zones,
};
use penstock_model::spiffe::SpiffeId;

use super::reading::{
    Misfit, address, each, known, nested, optional, read_duration, read_name, unset, write_duration,
    write_name,
};
use super::{Resource, outside, text};
use crate::proto::penstock::v1;

pub(super) fn write_backend(backend: &Backend) -> v1::Backend {
    let outside = &backend.outside;
    let protocol = match (backend.protocol, &outside.tls) {
        (Protocol::Http, None) => v1::Protocol::Http,
        (Protocol::H2c, None) => v1::Protocol::H2c,
        (Protocol::Http, Some(_)) => v1::Protocol::HttpOverTls,
        (Protocol::H2c, Some(_)) => v1::Protocol::H2OverTls,
    };
    v1::Backend {
        name: write_name(&backend.id.0),
        hostnames: backend.hostnames.iter().map(ToString::to_string).collect(),
        is_default: backend.is_default,
        protocol: protocol.into(),
        identity: backend.identity.as_deref().unwrap_or_default().to_owned(),
        hosts: outside.hosts.iter().map(outside::write_host).collect(),
        tls: outside.tls.as_deref().map(outside::write_tls),
        health_check: outside.health_check.as_deref().map(outside::write_health_check),
    }
}

pub(super) fn read_backend(message: v1::Backend) -> Result<Resource, Misfit> {
    let hostname = |name: String| {
        text::host("", &name)?;
        let is_lower = !name.bytes().any(|b| b.is_ascii_uppercase());
        text::check("", &name, is_lower, "a host name in lower case")?;
        Ok(name.into())
    };
    let (protocol, is_over_tls) = match known("protocol", message.protocol)? {
        v1::Protocol::Http => (Protocol::Http, false),
        v1::Protocol::H2c => (Protocol::H2c, false),
        v1::Protocol::HttpOverTls => (Protocol::Http, true),
        v1::Protocol::H2OverTls => (Protocol::H2c, true),
        v1::Protocol::Unspecified => return Err(unset("protocol")),
    };
    if message.tls.is_some() != is_over_tls {
        return Err(Misfit::new("tls", "does not agree with the protocol"));
    }
    Ok(Resource::Backend(Arc::new(Backend {
        id: BackendId(nested("name", message.name, read_name)?),
        hostnames: each("hostnames", message.hostnames, hostname)?,
        is_default: message.is_default,
        protocol,
        identity: if message.identity.is_empty() { None } else { Some(identity(&message.identity)?) },
        outside: Outside {
            hosts: each("hosts", message.hosts, outside::read_host)?,
            tls: optional("tls", message.tls, outside::read_tls)?.map(Arc::new),
            health_check: optional("health_check", message.health_check, outside::read_health_check)?
                .map(Arc::new),
        },
    })))
}

fn identity(uri: &str) -> Result<Arc<str>, Misfit> {
    let parsed: Result<SpiffeId, _> = uri.parse();
    parsed.map(|id| id.as_str().into()).map_err(|e| Misfit::new("identity", format!("is refused: {e}")))
}

pub(super) fn write_endpoint(endpoint: &Endpoint) -> v1::Endpoint {
    v1::Endpoint {
        backend: write_name(&endpoint.id.backend.0),
        address: endpoint.id.address.to_string(),
        sidecar: endpoint.sidecar.map(|a| a.to_string()).unwrap_or_default(),
        attributes: write_attributes(&endpoint.attributes),
    }
}

/// Nothing for what most endpoints have: none.
pub(super) fn write_attributes(attributes: &Attributes) -> Option<v1::Attributes> {
    let texts = |texts: &[Arc<str>]| texts.iter().map(ToString::to_string).collect();
    (*attributes != Attributes::default()).then(|| v1::Attributes {
        weight: Some(attributes.weight),
        zone: attributes.zone.as_deref().unwrap_or_default().to_owned(),
        models: texts(&attributes.models),
        lora: texts(&attributes.lora),
    })
}

pub(super) fn read_attributes(message: Option<v1::Attributes>) -> Result<Attributes, Misfit> {
    let message = message.unwrap_or_default();
    let weight = message.weight.unwrap_or(1);
    if weight > Attributes::WEIGHT_MAX {
        return Err(Misfit::new(
            "attributes.weight",
            format!("is {weight}, above {}", Attributes::WEIGHT_MAX),
        ));
    }
    let texts = |texts: Vec<String>| texts.into_iter().map(Into::into).collect();
    Ok(Attributes {
        weight,
        zone: (!message.zone.is_empty()).then(|| message.zone.into()),
        models: texts(message.models),
        lora: texts(message.lora),
    })
}

pub(super) fn read_endpoint(message: v1::Endpoint) -> Result<Resource, Misfit> {
    let backend = BackendId(nested("backend", message.backend, read_name)?);
    let sidecar = if message.sidecar.is_empty() { None } else { Some(address("sidecar", &message.sidecar)?) };
    Ok(Resource::Endpoint(Arc::new(Endpoint {
        id: EndpointId { backend, address: address("address", &message.address)? },
        sidecar,
        attributes: read_attributes(message.attributes)?,
    })))
}

pub(super) fn write_policy(backend: &BackendId, policy: &Policy) -> v1::Policy {
    let load_balancer = match policy.load_balancer {
        LoadBalancer::LeastCost => v1::LoadBalancer::LeastCost,
        LoadBalancer::P2c => v1::LoadBalancer::P2c,
        LoadBalancer::LeastRequest => v1::LoadBalancer::LeastRequest,
        LoadBalancer::RoundRobin => v1::LoadBalancer::RoundRobin,
        LoadBalancer::Random => v1::LoadBalancer::Random,
        LoadBalancer::ConsistentHash => v1::LoadBalancer::ConsistentHash,
    };
    let body_overflow = match policy.body_overflow {
        BodyOverflow::Route => v1::BodyOverflow::Route,
        BodyOverflow::Reject => v1::BodyOverflow::Reject,
    };
    v1::Policy {
        backend: write_name(&backend.0),
        document: policy.id.as_ref().and_then(|id| write_name(&id.0)),
        load_balancer: load_balancer.into(),
        connect_timeout: Some(write_duration(policy.connect_timeout)),
        streams_per_connection_max: policy.streams_per_connection_max,
        requests_per_endpoint_max: policy.requests_per_endpoint_max,
        body_held_bytes_max: policy.body_held_bytes_max,
        body_overflow: body_overflow.into(),
        queue_wait_max: Some(write_duration(policy.queue_wait_max)),
        affinity: match policy.affinity {
            Affinity::None => v1::Affinity::Unspecified,
            Affinity::Session => v1::Affinity::Session,
        }
        .into(),
        zones: match policy.zones {
            Zones::Alike => v1::Zones::Unspecified,
            Zones::OwnFirst => v1::Zones::OwnFirst,
        }
        .into(),
    }
}

pub(super) fn read_policy(message: v1::Policy) -> Result<Resource, Misfit> {
    let backend = BackendId(nested("backend", message.backend, read_name)?);
    let policy = Policy {
        id: optional("document", message.document, read_name)?.map(PolicyId),
        load_balancer: match known("load_balancer", message.load_balancer)? {
            v1::LoadBalancer::LeastCost => LoadBalancer::LeastCost,
            v1::LoadBalancer::P2c => LoadBalancer::P2c,
            v1::LoadBalancer::LeastRequest => LoadBalancer::LeastRequest,
            v1::LoadBalancer::RoundRobin => LoadBalancer::RoundRobin,
            v1::LoadBalancer::Random => LoadBalancer::Random,
            v1::LoadBalancer::ConsistentHash => LoadBalancer::ConsistentHash,
            v1::LoadBalancer::Unspecified => return Err(unset("load_balancer")),
        },
        connect_timeout: nested("connect_timeout", message.connect_timeout, read_duration)?,
        streams_per_connection_max: message.streams_per_connection_max,
        requests_per_endpoint_max: message.requests_per_endpoint_max,
        body_held_bytes_max: message.body_held_bytes_max,
        body_overflow: match known("body_overflow", message.body_overflow)? {
            v1::BodyOverflow::Route => BodyOverflow::Route,
            v1::BodyOverflow::Reject => BodyOverflow::Reject,
            v1::BodyOverflow::Unspecified => return Err(unset("body_overflow")),
        },
        queue_wait_max: optional("queue_wait_max", message.queue_wait_max, read_duration)?
            .unwrap_or(Policy::default().queue_wait_max),
        affinity: match known("affinity", message.affinity)? {
            v1::Affinity::Unspecified => Affinity::None,
            v1::Affinity::Session => Affinity::Session,
        },
        zones: match known("zones", message.zones)? {
            v1::Zones::Unspecified => Zones::Alike,
            v1::Zones::OwnFirst => Zones::OwnFirst,
        },
    };
    Ok(Resource::Policy(backend, Arc::new(policy)))
}
