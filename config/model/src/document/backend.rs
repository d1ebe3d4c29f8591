//! `Backend`: endpoints by address, for files and for anything outside of a cluster.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::formats::{AbsolutePath, Address, Hostname, Label, Peer, RequestPath, Spiffe, Uri};
use super::refusals;
use crate::finding::Code;
use crate::snapshot::HealthCheck;
use crate::units::{Span, duration_text};

/// A set of endpoints that serve the same thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackendSpec {
    /// Where it is served. 1 to 10,000.
    #[schemars(length(min = 1, max = 10_000))]
    pub endpoints: Vec<BackendEndpoint>,
    /// What the applications speak. Default: `http`.
    #[serde(default)]
    pub protocol: BackendProtocol,
    /// Names, beside its own, by which callers address it. At most 16, each in one Backend only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub hostnames: Vec<Hostname>,
    /// Takes requests that are addressed to the sidecar itself, as those of an SDK whose base URL it is. One Backend at most.
    /// Default: false.
    #[serde(default)]
    pub default: bool,
    /// SPIFFE ID that the sidecars of all endpoints must present. Default: any identity of the trust domain.
    pub identity: Option<Spiffe>,
    /// TLS to endpoints outside the mesh. Default: none, and they are reached in plaintext.
    pub tls: Option<TlsSpec>,
    /// How endpoints are asked whether they are ready; one that has not said so gets no request. Default: none are asked, and all
    /// count as ready.
    pub health_check: Option<HealthCheckSpec>,
}

/// One place that serves the backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-refused" = refusals(&[
    ("capacity", Code::NotInThisVersion, "leave it out: the capacity is learned"),
])))]
pub struct BackendEndpoint {
    /// IP address of the application. Exactly one of `address` and `dns` is written.
    pub address: Option<Address>,
    /// DNS name of the application: each of its IPv4 and IPv6 addresses is an endpoint, for as long as the name has it. Looked up
    /// by the sidecar, again when the answer's time to live is over. Where look-ups fail, the last addresses stay.
    pub dns: Option<Hostname>,
    /// Port of the application, 1 to 65535.
    #[schemars(range(min = 1, max = 65_535))]
    pub port: u16,
    /// `IP:PORT` of the sidecar in front of the application, reached with mutual TLS. Default: none, and the application is
    /// reached in plaintext, or with `tls`.
    pub sidecar: Option<Peer>,
    /// Its share beside the other endpoints', 0 to 1000: with 2 it has twice the load of one with 1 before it counts as loaded alike. 0
    /// takes no new requests. `LeastCost` learns by itself how fast an endpoint is; a weight comes on top of that.
    #[serde(default = "one")]
    #[schemars(range(max = 1_000))]
    pub weight: u32,
    /// Where it is, such as `eu-west-1a`; used with `loadBalancer.trafficDistribution`. Default: unknown.
    pub zone: Option<Label>,
    /// The models that it serves, and no others: at most 64, each 1 to 256 characters. Default: whatever it is asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 256)))]
    pub models: Vec<String>,
    /// LoRA adapters that it has loaded at all times, by the names by which requests ask for them: at most 64, each 1 to 256 characters.
    /// Default: what its model server says in its metrics, if it says so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 256)))]
    pub lora: Vec<String>,
}

fn one() -> u32 {
    1
}

/// TLS to endpoints outside the mesh, in the words of the Gateway API's BackendTLSPolicy. Between sidecars there is mutual TLS
/// without it. Exactly one of `caCertificates`, `caFile` and `wellKnownCACertificates` is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-refused" = refusals(&[
    ("caCertificateRefs", Code::NotInThisVersion, "write the certificates in `caCertificates`, or mount them and name the file in `caFile`"),
    ("options", Code::NotInThisVersion, "leave it out"),
    ("clientCertificateRef", Code::NotInThisVersion, "leave it out: a sidecar presents its certificate to sidecars alone"),
])))]
pub struct TlsSpec {
    /// Name that is asked for (SNI), and that the certificate must be for unless `subjectAltNames` says otherwise. It does not
    /// change the `Host` that applications see: URLRewrite does.
    pub hostname: Hostname,
    /// Root certificates as PEM, at most 256 KiB. What the endpoint's certificate must lead to.
    #[schemars(length(min = 1, max = 262_144))]
    pub ca_certificates: Option<String>,
    /// The same in a file beside each sidecar, read again when it changes.
    pub ca_file: Option<AbsolutePath>,
    /// The same, known elsewhere.
    #[serde(rename = "wellKnownCACertificates")]
    pub well_known_ca_certificates: Option<WellKnownRoots>,
    /// Names, one of which the certificate must have. It need not have `hostname` then, unless that is listed too. At most 5.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 5))]
    pub subject_alt_names: Vec<SubjectAltName>,
}

/// Root certificates that are known elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum WellKnownRoots {
    /// Those of the machine or image that the sidecar runs on; `SSL_CERT_FILE` and `SSL_CERT_DIR` are heeded.
    System,
}

/// A name of a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SubjectAltName {
    /// Which of the two fields is written.
    #[serde(rename = "type")]
    pub kind: SubjectAltNameKind,
    /// A DNS name. A wildcard of the certificate may stand for its first label.
    pub hostname: Option<Hostname>,
    /// A URI, compared to the letter, such as `spiffe://partner.example/ns/chat/sa/engine`.
    pub uri: Option<Uri>,
}

/// Kind of a certificate's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SubjectAltNameKind {
    /// A DNS name.
    Hostname,
    /// A URI.
    #[serde(rename = "URI")]
    Uri,
}

/// How endpoints are asked whether they are ready. Exactly one of `engine` and `path` is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HealthCheckSpec {
    /// The model server, which says what it is asked.
    pub engine: Option<ProbedEngine>,
    /// What it is asked with GET, such as `/health`; any 2xx means ready.
    pub path: Option<RequestPath>,
    /// The model that must be loaded, for `triton` and `kserve`. Default: the server as a whole.
    #[schemars(length(min = 1, max = 253))]
    pub model: Option<String>,
    /// Where it is asked, over HTTP/1.1. Default: the endpoint's own port, in its own protocol.
    #[schemars(range(min = 1, max = 65_535))]
    pub port: Option<u16>,
    /// From the end of one probe to the next, a tenth more or less, `100ms` to `1h`.
    #[schemars(extend(
        "default" = duration_text(HealthCheck::of("").interval),
        "x-at-least" = "100ms",
        "x-at-most" = "1h"
    ))]
    pub interval: Option<Span>,
    /// Longest time of one probe, connecting included, `10ms` to `1m`.
    #[schemars(extend(
        "default" = duration_text(HealthCheck::of("").timeout),
        "x-at-least" = "10ms",
        "x-at-most" = "1m"
    ))]
    pub timeout: Option<Span>,
    /// So many probes in a row must succeed before an endpoint that was not ready is ready again; for a new one, one is enough.
    /// 1 to 100.
    #[schemars(range(min = 1, max = 100), extend("default" = HealthCheck::of("").healthy_threshold))]
    pub healthy_threshold: Option<u32>,
    /// So many probes in a row must go without an answer before an endpoint is not ready. An answer that says so is enough at
    /// once. 1 to 100.
    #[schemars(range(min = 1, max = 100), extend("default" = HealthCheck::of("").unhealthy_threshold))]
    pub unhealthy_threshold: Option<u32>,
    /// Which endpoints are asked. Default: `OutsideMesh`.
    pub scope: Option<ProbedEndpoints>,
}

/// Which endpoints are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ProbedEndpoints {
    /// Those without a sidecar.
    OutsideMesh,
    /// All of them, those with a sidecar through it.
    All,
}

/// A model server, by what it answers when asked whether it is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProbedEngine {
    /// vLLM.
    Vllm,
    /// SGLang.
    Sglang,
    /// TensorRT-LLM's `trtllm-serve`.
    Trtllm,
    /// NVIDIA Triton Inference Server.
    Triton,
    /// `llama-server` of llama.cpp.
    Llamacpp,
    /// Hugging Face Text Generation Inference.
    Tgi,
    /// Ollama.
    Ollama,
    /// Anything else that speaks KServe's Open Inference Protocol, version 2, over HTTP.
    Kserve,
}

/// What an application speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BackendProtocol {
    /// HTTP/1.1; with `tls` also HTTP/2, whichever the endpoint chooses.
    #[default]
    Http,
    /// HTTP/2, without TLS unless there is `tls`.
    H2c,
    /// gRPC, which is HTTP/2.
    Grpc,
}
