//! `ProxyConfig`: the settings of one sidecar process. Read at its start, and again when it changes.

use std::net::{Ipv4Addr, SocketAddr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::backend::BackendProtocol;
use super::formats::{HostAndPort, Label, Listen, Peer, RequestPath, TrustDomain};
use crate::settings::{DRAIN_DEADLINE_DEFAULT, Dns, Limits};
use crate::units::{ByteSize, Span, duration_text};

/// Settings of one sidecar process. The object's namespace and name are those of the workload it stands beside. They are read again when
/// they change; listeners and who the workload is need a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProxyConfigSpec {
    /// Who the workload is.
    #[serde(default)]
    pub identity: IdentitySpec,
    /// Where snapshots and certificates come from. Needed unless `documents` is given; by `inbound` also then, unless
    /// `identity.certificates` is.
    pub control_plane: Option<ControlPlaneSpec>,
    /// File or directory with documents, which the sidecar then compiles itself instead of asking the control plane for a
    /// snapshot. Relative to this file.
    #[schemars(length(min = 1))]
    pub documents: Option<String>,
    /// Directory for the last good snapshot. Relative to this file. Default: nothing is kept.
    #[schemars(length(min = 1))]
    pub state_dir: Option<String>,
    /// Listener for requests of the workload to others. Default: none.
    pub outbound: Option<OutboundSpec>,
    /// Listener for requests of others to the workload. Default: none.
    pub inbound: Option<InboundSpec>,
    /// Listener for `/metrics`, `/live` and `/ready`.
    #[serde(default)]
    pub admin: AdminSpec,
    /// Bounds.
    #[serde(default)]
    pub limits: LimitsSpec,
    /// What happens at the end.
    #[serde(default)]
    pub drain: DrainSpec,
    /// One JSON object for each request.
    #[serde(default)]
    pub access_log: AccessLogSpec,
    /// How names of Backends' endpoints are looked up.
    #[serde(default)]
    pub dns: DnsSpec,
    /// Where the workload is, such as `eu-west-1a`: what `loadBalancer.trafficDistribution` compares with the zones of endpoints.
    /// Default: unknown, and all zones are alike.
    pub zone: Option<Label>,
    /// What is logged to standard error: `error`, `warn`, `info`, `debug`, `trace`, `off`, or a filter such as `info,h2=debug`.
    /// Default: what the command line says.
    #[schemars(length(min = 1, max = 1_000))]
    pub log_level: Option<String>,
}

/// Who the workload is: `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT`, with the namespace of this object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IdentitySpec {
    /// Default: `default`.
    #[serde(default = "default_account")]
    pub service_account: Label,
    /// Default: `cluster.local`.
    #[serde(default = "cluster_local")]
    pub trust_domain: TrustDomain,
    /// Files that somebody else renews, such as cert-manager. Default: the control plane issues the certificate.
    pub certificates: Option<CertificatesSpec>,
}

/// PEM files with the workload's certificate and whom it believes. They are read again when they change; what does not fit together is
/// refused, and what was in use stays so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CertificatesSpec {
    /// The certificate with the workload's SPIFFE ID, and after it what leads to a root. Relative to this file.
    #[schemars(length(min = 1))]
    pub chain_file: String,
    /// Its private key. Relative to this file.
    #[schemars(length(min = 1))]
    pub key_file: String,
    /// Roots that the certificates of other sidecars must lead to. Relative to this file.
    #[schemars(length(min = 1))]
    pub trust_bundle_file: String,
}

impl Default for IdentitySpec {
    fn default() -> Self {
        Self { service_account: default_account(), trust_domain: cluster_local(), certificates: None }
    }
}

fn default_account() -> Label {
    Label("default".to_owned())
}

fn cluster_local() -> TrustDomain {
    TrustDomain("cluster.local".to_owned())
}

/// The control plane, and how to be let in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ControlPlaneSpec {
    /// `HOST:PORT` of its gRPC listener.
    pub address: HostAndPort,
    /// PEM file with the roots that its certificate must lead to. Relative to this file.
    #[schemars(length(min = 1))]
    pub trust_bundle_file: String,
    /// File with the join token. Relative to this file.
    #[schemars(length(min = 1))]
    pub token_file: String,
}

/// Listener for requests of the workload to others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OutboundSpec {
    /// `IP:PORT`; port 0 lets the system choose. Default: `127.0.0.1:4740`.
    #[serde(default = "outbound")]
    pub listen: Listen,
}

fn outbound() -> Listen {
    Listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 4740)))
}

/// Listener for requests of others to the workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InboundSpec {
    /// `IP:PORT`; port 0 lets the system choose. Default: `0.0.0.0:4743`.
    #[serde(default = "inbound")]
    pub listen: Listen,
    /// Applications behind it; requests for anything else are refused. 1 to 64.
    #[schemars(length(min = 1, max = 64))]
    pub applications: Vec<ApplicationSpec>,
}

fn inbound() -> Listen {
    Listen(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 4743)))
}

/// An application behind an inbound listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ApplicationSpec {
    /// How callers name it: `address` and `port` of an endpoint in a Backend, as `IP:PORT`.
    pub endpoint: Peer,
    /// Where it listens, as seen from the sidecar. Default: the same as `endpoint`.
    pub connect: Option<Peer>,
    /// What it speaks. Default: `http`.
    #[serde(default)]
    pub protocol: BackendProtocol,
    /// Where it says how loaded it is, if it is a model server.
    #[serde(default)]
    pub metrics: MetricsSpec,
}

/// A model server's metrics page, in the text format of Prometheus. The sidecar reads it to correct its own account of the server's
/// load; one that has none costs a request a minute.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MetricsSpec {
    /// Whether it is read. Default: `true`, but for `protocol: grpc` without a `port`, where there is no such page.
    pub scrape: Option<bool>,
    /// What is asked for with GET. Default: `/metrics`, and `/prometheus/metrics` (TensorRT-LLM) where that is none.
    pub path: Option<RequestPath>,
    /// Where it is asked, over HTTP/1.1, at the address of `connect`; 8002 for Triton. Default: the application's own port, in its own
    /// protocol.
    #[schemars(range(min = 1, max = 65_535))]
    pub port: Option<u16>,
}

/// Listener for `/metrics`, `/live` and `/ready`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AdminSpec {
    /// `IP:PORT`; port 0 lets the system choose. Default: `0.0.0.0:4791`.
    #[serde(default = "admin")]
    pub listen: Listen,
}

impl Default for AdminSpec {
    fn default() -> Self {
        Self { listen: admin() }
    }
}

fn admin() -> Listen {
    Listen(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 4791)))
}

/// Bounds of the process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LimitsSpec {
    /// Most open connections to one listener; a further one is closed at once. 1 to 1,000,000.
    #[schemars(range(min = 1, max = 1_000_000), extend("default" = Limits::default().connections_max))]
    pub connections_max: Option<u32>,
    /// Most requests at once on one HTTP/2 connection. 1 to 100,000.
    #[schemars(range(min = 1, max = 100_000), extend("default" = Limits::default().streams_per_connection_max))]
    pub streams_per_connection_max: Option<u32>,
    /// Most bytes of a request's header section, `1Ki` to `1Mi`.
    #[schemars(extend("default" = "64Ki", "x-at-least" = "1Ki", "x-at-most" = "1Mi"))]
    pub header_bytes_max: Option<ByteSize>,
    /// Longest time until a whole request head, or a TLS handshake, has arrived, `1ms` to `10m`.
    #[schemars(extend(
        "default" = duration_text(Limits::default().header_read_timeout),
        "x-at-least" = "1ms",
        "x-at-most" = "10m"
    ))]
    pub header_read_timeout: Option<Span>,
    /// Most bytes of request bodies held at once by all requests together, `1Mi` to `1024Gi`.
    #[schemars(extend("default" = "256Mi", "x-at-least" = "1Mi", "x-at-most" = "1024Gi"))]
    pub body_held_total_max: Option<ByteSize>,
}

/// What happens at the end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DrainSpec {
    /// Longest time from the stop signal until streams that are still open are cut, at most `24h`.
    #[schemars(extend("default" = duration_text(DRAIN_DEADLINE_DEFAULT), "x-at-most" = "24h"))]
    pub deadline: Option<Span>,
}

/// One JSON object for each request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AccessLogSpec {
    /// `/dev/stdout`, a file relative to this one, or `off`. Default: `/dev/stdout`.
    #[schemars(length(min = 1))]
    pub path: Option<String>,
}

/// How names of Backends' endpoints are looked up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DnsSpec {
    /// `IP:PORT` of each server that is asked; names are then taken as they are written. Default: servers, search domains and
    /// `ndots` of `/etc/resolv.conf`. At most 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub servers: Vec<Peer>,
    /// A name is looked up again after the answer's time to live, but not sooner than this, `10ms` to `24h`.
    #[schemars(extend("default" = duration_text(Dns::default().ttl_min), "x-at-least" = "10ms", "x-at-most" = "24h"))]
    pub ttl_min: Option<Span>,
    /// And not later than this, `10ms` to `24h`.
    #[schemars(extend("default" = duration_text(Dns::default().ttl_max), "x-at-least" = "10ms", "x-at-most" = "24h"))]
    pub ttl_max: Option<Span>,
    /// Longest time until a server has answered, `10ms` to `1m`; it is asked twice.
    #[schemars(extend("default" = duration_text(Dns::default().timeout), "x-at-least" = "10ms", "x-at-most" = "1m"))]
    pub timeout: Option<Span>,
}
