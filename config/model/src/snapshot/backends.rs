//! Decided: where requests go and how they are carried there.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::names::{BackendId, EndpointId, PolicyId};

/// A set of endpoints that serve the same thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Backend {
    /// Which backend.
    pub id: BackendId,
    /// Names, beside its own, by which callers address it. Lower case.
    pub hostnames: Vec<Arc<str>>,
    /// Takes requests whose authority is the sidecar's own address. At most one in a snapshot.
    pub is_default: bool,
    /// What its applications speak.
    pub protocol: Protocol,
    /// SPIFFE ID that the sidecars of its endpoints must present; any identity of the trust domain where absent.
    pub identity: Option<Arc<str>>,
}

/// What an application speaks on its port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http,
    /// HTTP/2 without TLS, by prior knowledge; gRPC needs it.
    H2c,
}

/// One place that serves a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Endpoint {
    /// Which endpoint; holds the application's address.
    pub id: EndpointId,
    /// Inbound sidecar in front of the application, reached with mutual TLS. Plaintext straight to the application where absent.
    pub sidecar: Option<SocketAddr>,
}

/// How a backend is used. Every backend has one: the defaults where no BackendPolicy targets it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Policy {
    /// The document; absent for the defaults.
    pub id: Option<PolicyId>,
    /// How an endpoint is chosen.
    pub load_balancer: LoadBalancer,
    /// Longest time for TCP and TLS together.
    pub connect_timeout: Duration,
    /// Most HTTP/2 requests at once on one connection to an endpoint's sidecar; a further connection is opened past it.
    pub streams_per_connection_max: u32,
    /// Most requests at once to one endpoint, waiting ones included.
    pub requests_per_endpoint_max: u32,
    /// Most bytes of a request body held until its model is known.
    pub body_held_bytes_max: u64,
    /// What happens to a request whose model is not known by then.
    pub body_overflow: BodyOverflow,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            id: None,
            load_balancer: LoadBalancer::P2c,
            connect_timeout: Duration::from_secs(1), // what Linkerd and Envoy's guides use inside a cluster
            streams_per_connection_max: 100,         // the usual limit that HTTP/2 servers announce
            requests_per_endpoint_max: 1_024,        // Envoy's circuit breaker default
            body_held_bytes_max: 16 << 20,           // longest agent turns seen are 9 to 12 MiB
            body_overflow: BodyOverflow::Route,
        }
    }
}

/// How an endpoint is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub enum LoadBalancer {
    /// The less loaded of two drawn at random, by requests in flight.
    #[default]
    P2c,
    /// One after the other.
    RoundRobin,
}

/// What happens to a request whose body limit is reached before the model is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub enum BodyOverflow {
    /// It is routed by path and headers alone.
    #[default]
    Route,
    /// It is answered with 413.
    Reject,
}
