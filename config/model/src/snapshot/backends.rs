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
    /// How endpoints without a sidecar are found, reached and watched.
    pub outside: Outside,
}

/// How endpoints outside the mesh are found, reached and watched. By default: by address, in plaintext, not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Outside {
    /// Endpoints that are known by name; their addresses are looked up by the sidecar.
    pub hosts: Vec<Host>,
    /// TLS to endpoints, which prove themselves by name; plaintext where absent.
    pub tls: Option<Arc<Tls>>,
    /// Probes for readiness; every endpoint counts as ready where absent.
    pub health_check: Option<Arc<HealthCheck>>,
}

/// Endpoints behind a DNS name: one for each address that it has.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Host {
    /// Lower case.
    pub name: Arc<str>,
    /// Port of every address.
    pub port: u16,
    /// What is written of every address.
    pub attributes: Attributes,
}

impl std::fmt::Display for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.name, self.port)
    }
}

/// TLS to an endpoint that is no sidecar, in the words of the Gateway API's BackendTLSPolicy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tls {
    /// Sent as SNI. The certificate must be for this name, unless `names` says otherwise. Lower case.
    pub hostname: Arc<str>,
    /// What its certificate must lead to.
    pub roots: Roots,
    /// Where not empty, the certificate must have one of these names, and need not have `hostname`.
    pub names: Vec<PeerName>,
}

/// Certificates that are trusted without further proof.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Roots {
    /// Those of the machine or image that the sidecar runs on.
    System,
    /// These, as PEM.
    Pem(Arc<str>),
    /// Those in a PEM file beside the sidecar; its absolute path.
    File(Arc<str>),
}

/// A name that a certificate may carry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum PeerName {
    /// A DNS name; a wildcard of the certificate may stand for its first label.
    Hostname(Arc<str>),
    /// A URI, to the letter.
    Uri(Arc<str>),
}

/// How an endpoint is asked whether it is ready. One that has not said so gets no request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HealthCheck {
    /// Path and query of a GET that is answered with 2xx by an endpoint that is ready.
    pub path: Arc<str>,
    /// Where it is asked, over HTTP/1.1, if not on the endpoint's own port.
    pub port: Option<u16>,
    /// From the end of one probe to the next, on average.
    pub interval: Duration,
    /// Longest time of one probe, connecting included.
    pub timeout: Duration,
    /// So many probes in a row must succeed before an endpoint that was not ready is ready again; for a new one, one is enough.
    pub healthy_threshold: u32,
    /// So many probes in a row must get no answer before an endpoint is not ready; an answer that says so is enough.
    pub unhealthy_threshold: u32,
    /// Which endpoints are asked.
    pub scope: HealthScope,
}

impl HealthCheck {
    /// A GET of `path` on the endpoint's own port, every 5 s. Envoy's and Kuma's examples lie between 5 s and 10 s; 3 s leave an
    /// engine time whose event loop is busy with a batch.
    pub fn of(path: impl Into<Arc<str>>) -> Self {
        Self {
            path: path.into(),
            port: None,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(3),
            healthy_threshold: 2,
            unhealthy_threshold: 3,
            scope: HealthScope::OutsideMesh,
        }
    }
}

/// Which endpoints are asked whether they are ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub enum HealthScope {
    /// Those without a sidecar.
    #[default]
    OutsideMesh,
    /// All, those with a sidecar through it.
    All,
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
    /// What else is written of it.
    pub attributes: Attributes,
}

/// What is written of an endpoint beside where it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Attributes {
    /// Its share beside the other endpoints', 0 to [`WEIGHT_MAX`](Self::WEIGHT_MAX); 0 takes no new requests.
    pub weight: u32,
    /// Where it is, if that is known.
    pub zone: Option<Arc<str>>,
    /// Models that it serves beside its adapters; any where empty.
    pub models: Vec<Arc<str>>,
    /// LoRA adapters that it has loaded at all times.
    pub lora: Vec<Arc<str>>,
}

impl Attributes {
    /// Largest weight.
    pub const WEIGHT_MAX: u32 = 1_000;

    /// Whether requests for `model` may go there.
    pub fn serves(&self, model: &str) -> bool {
        self.models.is_empty() || self.models.iter().chain(&self.lora).any(|served| **served == *model)
    }
}

impl Default for Attributes {
    fn default() -> Self {
        Self { weight: 1, zone: None, models: Vec::new(), lora: Vec::new() }
    }
}

/// How a backend is used. Every backend has one: the defaults where no BackendPolicy targets it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Policy {
    /// The document; absent for the defaults.
    pub id: Option<PolicyId>,
    /// How an endpoint is chosen.
    pub load_balancer: LoadBalancer,
    /// What keeps requests together at one endpoint.
    pub affinity: Affinity,
    /// Which zones come first.
    pub zones: Zones,
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
    /// Longest time that a request may be expected to wait at an endpoint before its prompt is computed.
    pub queue_wait_max: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            id: None,
            load_balancer: LoadBalancer::LeastCost,
            affinity: Affinity::None,
            zones: Zones::Alike,
            connect_timeout: Duration::from_secs(1), // what Linkerd and Envoy's guides use inside a cluster
            streams_per_connection_max: 100,         // the usual limit that HTTP/2 servers announce
            requests_per_endpoint_max: 1_024,        // Envoy's circuit breaker default
            body_held_bytes_max: 16 << 20,           // longest agent turns seen are 9 to 12 MiB
            body_overflow: BodyOverflow::Route,
            queue_wait_max: Duration::from_secs(60), // a tenth of what the official SDKs wait for an answer
        }
    }
}

/// How an endpoint is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub enum LoadBalancer {
    /// Where the request costs everybody least, by what endpoints' sidecars say of their load and speed. Without that, the less loaded of
    /// two drawn at random, by tokens outstanding.
    #[default]
    LeastCost,
    /// The less loaded of two drawn at random, by requests in flight.
    P2c,
    /// The least loaded of all, by requests in flight.
    LeastRequest,
    /// One after the other.
    RoundRobin,
    /// By lot.
    Random,
    /// By the request's session, within bounds of load; the less loaded of two drawn at random where it has none.
    ConsistentHash,
}

/// What keeps requests together at one endpoint while it can take them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub enum Affinity {
    /// Nothing.
    #[default]
    None,
    /// Their session.
    Session,
}

/// Which zones come first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub enum Zones {
    /// None.
    #[default]
    Alike,
    /// The sidecar's own.
    OwnFirst,
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
