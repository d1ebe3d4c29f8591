//! Decided: the settings of one sidecar process, compiled from its ProxyConfig.

mod adopt;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::names::ObjectName;
use crate::snapshot::Protocol;
use crate::spiffe::SpiffeId;

pub use self::adopt::Kept;

/// How long open streams may go on after the stop signal, unless the ProxyConfig says otherwise: long answers of large
/// models take minutes.
pub const DRAIN_DEADLINE_DEFAULT: Duration = Duration::from_secs(300);

/// Settings of one sidecar process. Listeners and who the workload is are fixed at start; all else may change while it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxySettings {
    /// Name of the workload that the sidecar stands beside.
    pub workload: ObjectName,
    /// The workload's identity.
    pub identity: SpiffeId,
    /// Certificates that somebody else renews, instead of the control plane's.
    pub certificates: Option<CertificateFiles>,
    /// Where snapshots and certificates come from.
    pub control_plane: Option<ControlPlane>,
    /// Directory or file with documents; the sidecar compiles them itself instead of asking the control plane for a snapshot.
    pub documents: Option<PathBuf>,
    /// Directory for the last good snapshot. Nothing is kept where absent.
    pub state_dir: Option<PathBuf>,
    /// For requests of the workload to others.
    pub outbound: Option<Outbound>,
    /// For requests of others to the workload.
    pub inbound: Option<Inbound>,
    /// `/metrics`, `/live` and `/ready`.
    pub admin: SocketAddr,
    /// Bounds.
    pub limits: Limits,
    /// Longest time from the stop signal until streams that are still open are cut.
    pub drain_deadline: Duration,
    /// Where the access log goes.
    pub access_log: AccessLog,
    /// How names of endpoints are looked up.
    pub dns: Dns,
    /// Where the workload is.
    pub zone: Option<Arc<str>>,
    /// What is logged, instead of what the command line says.
    pub log_level: Option<String>,
}

impl ProxySettings {
    /// Whether there is somebody to give it a certificate.
    pub fn needs_certificate(&self) -> bool {
        self.control_plane.is_some() || self.certificates.is_some()
    }
}

/// PEM files with the workload's certificate and whom it believes. They are read again when they change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// Leaf first.
    pub chain: PathBuf,
    /// Private key of the leaf.
    pub key: PathBuf,
    /// Roots.
    pub trust_bundle: PathBuf,
}

/// The control plane's gRPC address and how to be let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlPlane {
    /// `HOST:PORT`.
    pub address: String,
    /// PEM file with the roots that the control plane's certificate must lead to.
    pub trust_bundle: PathBuf,
    /// File with the join token.
    pub token: PathBuf,
}

/// The listener for the workload's own requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outbound {
    /// Port 0 lets the system choose.
    pub listen: SocketAddr,
}

/// The listener for requests from other sidecars.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inbound {
    /// Port 0 lets the system choose.
    pub listen: SocketAddr,
    /// Applications behind it. A request for any other target is refused.
    pub applications: Vec<Application>,
}

/// An application that an inbound listener serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Application {
    /// How callers name it: an endpoint's address in a Backend.
    pub endpoint: SocketAddr,
    /// Where it listens, as seen from the sidecar.
    pub connect: SocketAddr,
    /// What it speaks.
    pub protocol: Protocol,
    /// Where it says how loaded it is; not to be read where absent.
    pub metrics: Option<MetricsPage>,
}

/// A model server's metrics page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricsPage {
    /// Where it is asked for.
    pub address: SocketAddr,
    /// In which protocol.
    pub protocol: Protocol,
    /// Path and query, if they are not to be found out.
    pub path: Option<String>,
}

/// Bounds of one sidecar process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most open connections to one listener; a further one is closed at once and counted.
    pub connections_max: usize,
    /// Most requests at once on one HTTP/2 connection.
    pub streams_per_connection_max: u32,
    /// Most bytes of a request's header section.
    pub header_bytes_max: u32,
    /// Longest time until the first bytes, the TLS handshake or a whole request head have arrived.
    pub header_read_timeout: Duration,
    /// Most bytes of request bodies held at once by all requests together.
    pub body_held_bytes_total_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            streams_per_connection_max: 256, // toward applications; Envoy's guidance for edge listeners is 100
            header_bytes_max: 64 << 10,      // the h2 crate's own limit, and near nginx's and Envoy's 60 KiB
            header_read_timeout: Duration::from_secs(10),
            body_held_bytes_total_max: 256 << 20,
        }
    }
}

/// Where the access log goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AccessLog {
    /// Nowhere.
    Off,
    /// Standard output, one JSON object a line.
    #[default]
    Stdout,
    /// Appended to a file.
    File(PathBuf),
}

/// How names of endpoints are looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// Servers that are asked; those of the system where empty.
    pub servers: Vec<SocketAddr>,
    /// A name is not looked up again sooner than this, whatever its time to live; at most `ttl_max`.
    pub ttl_min: Duration,
    /// A name is looked up again at the latest after this.
    pub ttl_max: Duration,
    /// Longest time until a server has answered.
    pub timeout: Duration,
}

impl Default for Dns {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            ttl_min: Duration::from_secs(1), // names of pods have 5 s in Kubernetes; 0 must not become a loop
            ttl_max: Duration::from_secs(300), // a day is common outside, and too long to follow a move
            timeout: Duration::from_secs(5), // resolv.conf's own default
        }
    }
}
