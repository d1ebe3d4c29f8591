//! `Backend`: endpoints by address, for files and for anything outside of a cluster.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::formats::{Address, Hostname, Peer, Spiffe};
use super::refusals;
use crate::finding::Code;

/// A set of endpoints that serve the same thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-refused" = refusals(&[
    ("tls", Code::NotInThisVersion, "leave it out: endpoints are reached through their sidecars, or in plaintext"),
    ("healthCheck", Code::NotInThisVersion, "leave it out: requests themselves show which endpoints are well"),
])))]
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
}

/// One place that serves the backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-refused" = refusals(&[
    ("dns", Code::NotInThisVersion, "write the IP in `address`"),
    ("zone", Code::NotInThisVersion, "leave it out: all endpoints are equally near"),
    ("weight", Code::NotInThisVersion, "leave it out: shares follow the load; to split by weight use two Backends in an HTTPRoute"),
    ("capacity", Code::NotInThisVersion, "leave it out: the capacity is learned"),
    ("models", Code::NotInThisVersion, "make one Backend for each set of models, and route on the header x-gateway-model-name"),
    ("lora", Code::NotInThisVersion, "make one Backend for each set of models, and route on the header x-gateway-model-name"),
])))]
pub struct BackendEndpoint {
    /// IP address of the application.
    pub address: Address,
    /// Port of the application, 1 to 65535.
    #[schemars(range(min = 1, max = 65_535))]
    pub port: u16,
    /// `IP:PORT` of the sidecar in front of the application, reached with mutual TLS. Default: none, and the application is
    /// reached in plaintext.
    pub sidecar: Option<Peer>,
}

/// What an application speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BackendProtocol {
    /// HTTP/1.1.
    #[default]
    Http,
    /// HTTP/2 without TLS.
    H2c,
    /// gRPC, which is HTTP/2 without TLS.
    Grpc,
}
