//! `BackendPolicy`: how a backend is used.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::formats::Name;
use super::refusals;
use crate::finding::Code;
use crate::snapshot::Policy;
use crate::units::{ByteSize, Span, duration_text};

/// How a backend is used. What is left out has its default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-refused" = refusals(&[
    ("protocol", Code::NotInThisVersion, "write `protocol` in the Backend"),
    ("engine", Code::NotInThisVersion, "leave it out: no engine needs to be told"),
    ("loadSignals", Code::NotInThisVersion, "leave it out: load is counted by the sidecar itself"),
    ("outlierDetection", Code::NotInThisVersion, "leave it out"),
    ("retryConstraint", Code::NotInThisVersion, "leave it out: nothing is retried"),
    ("sessionPersistence", Code::NotInThisVersion, "leave it out"),
])))]
pub struct BackendPolicySpec {
    /// The Backend that it is about, in its own namespace. Exactly one.
    #[schemars(length(min = 1, max = 1))]
    pub target_refs: Vec<PolicyTarget>,
    /// How an endpoint is chosen.
    pub load_balancer: Option<LoadBalancerSpec>,
    /// Bounds on connections and requests.
    pub connection_pool: Option<ConnectionPool>,
    /// How much of a request's body is read before it is routed.
    pub request_body: Option<RequestBody>,
    /// How long requests may wait for a model server.
    pub queue: Option<Queue>,
}

/// How long requests may wait for a model server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-refused" = refusals(&[
    ("maxRequests", Code::NotInThisVersion, "bound the load with connectionPool.http.http2MaxRequests"),
    ("maxTokens", Code::NotInThisVersion, "bound the time instead, with queue.maxWait"),
])))]
pub struct Queue {
    /// Longest time that a request may be expected to wait before its prompt is computed, `1ms` to `1h`. Where it would be longer at every
    /// endpoint the caller gets 429 at once. A caller asks for less with `x-llm-d-slo-ttft-ms`.
    #[schemars(extend(
        "default" = duration_text(Policy::default().queue_wait_max),
        "x-at-least" = "1ms",
        "x-at-most" = "1h"
    ))]
    pub max_wait: Option<Span>,
}

/// What a policy is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-refused" = refusals(&[
    ("sectionName", Code::NotInThisVersion, "leave it out: the policy is about every port"),
])))]
pub struct PolicyTarget {
    /// `penstock.dev`.
    pub group: PolicyTargetGroup,
    /// `Backend`.
    pub kind: PolicyTargetKind,
    /// Name of the Backend.
    pub name: Name,
}

/// API group of a policy's target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PolicyTargetGroup {
    /// Penstock's own.
    #[serde(rename = "penstock.dev")]
    Penstock,
}

/// Kind of a policy's target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-refused" = refusals(&[
    ("Service", Code::NotInThisVersion, "name a Backend"),
    ("InferencePool", Code::NotInThisVersion, "name a Backend"),
])))]
pub enum PolicyTargetKind {
    /// A Penstock Backend.
    Backend,
}

/// How an endpoint is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-refused" = refusals(&[
    ("slowStart", Code::NotInThisVersion, "leave it out"),
])))]
pub struct LoadBalancerSpec {
    /// Default: `LeastCost`.
    pub policy: Option<LoadBalancerPolicy>,
    /// What keeps requests together at one endpoint while it can take them. Default: `None`, and prompts go where they are cached.
    pub affinity: Option<AffinityName>,
    /// Whether endpoints in the sidecar's own zone come first. Default: all zones are alike.
    pub traffic_distribution: Option<TrafficDistribution>,
}

/// What keeps requests together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AffinityName {
    /// Nothing.
    None,
    /// Their session: the first of the headers `x-session-token`, `x-session-affinity`, `x-claude-code-session-id`, `session-id` and
    /// `session_id` that is there. Every sidecar finds the same endpoint; where that has a quarter more than its share of the requests, or
    /// where a request would cost much more there, it goes elsewhere.
    Session,
}

/// Which zones come first, in the words of a Kubernetes Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TrafficDistribution {
    /// The sidecar's own (`zone` of its ProxyConfig): others are used where none of its own can be, and with `LeastCost` also where they are
    /// much less loaded.
    PreferSameZone,
}

/// A way to choose an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LoadBalancerPolicy {
    /// Where the request costs everybody least, by what endpoints' sidecars say of their load and speed: generated text by its prompt,
    /// embeddings, reranking and the like by their tokens, tensors and other posts by their bytes. Where they say nothing, and for other
    /// requests, the less loaded of two drawn at random, by tokens outstanding.
    LeastCost,
    /// The less loaded of two drawn at random, by requests in flight.
    #[serde(rename = "P2C")]
    P2c,
    /// The least loaded of all, by requests in flight.
    LeastRequest,
    /// One after the other.
    RoundRobin,
    /// By lot.
    Random,
    /// By the request's session, as with `affinity: Session`, and within a quarter more than an endpoint's share of the requests (consistent
    /// hashing with bounded loads). Where a request has no session: the less loaded of two drawn at random.
    ConsistentHash,
}

/// Bounds on connections and requests, in the words of Istio's DestinationRule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConnectionPool {
    /// About connections.
    pub tcp: Option<TcpPool>,
    /// About requests.
    pub http: Option<HttpPool>,
}

/// Bounds on connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-refused" = refusals(&[
    ("maxConnections", Code::NotInThisVersion, "bound requests with connectionPool.http.http2MaxRequests"),
    ("tcpKeepalive", Code::NotInThisVersion, "leave it out"),
    ("maxConnectionDuration", Code::NotInThisVersion, "leave it out"),
    ("idleTimeout", Code::NotInThisVersion, "leave it out"),
])))]
pub struct TcpPool {
    /// Longest time for TCP and TLS together, `1ms` to `5m`.
    #[schemars(extend(
        "default" = duration_text(Policy::default().connect_timeout),
        "x-at-least" = "1ms",
        "x-at-most" = "5m"
    ))]
    pub connect_timeout: Option<Span>,
}

/// Bounds on requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-refused" = refusals(&[
    ("http1MaxPendingRequests", Code::NotInThisVersion, "bound requests with http2MaxRequests"),
    ("maxRequestsPerConnection", Code::NotInThisVersion, "leave it out"),
    ("maxRetries", Code::NotInThisVersion, "leave it out: nothing is retried"),
    ("idleTimeout", Code::NotInThisVersion, "leave it out"),
])))]
pub struct HttpPool {
    /// Most HTTP/2 requests at once on one connection; a further connection is opened past it. 1 to 100,000.
    #[schemars(range(min = 1, max = 100_000), extend("default" = Policy::default().streams_per_connection_max))]
    pub max_concurrent_streams: Option<u32>,
    /// Most requests at once to one endpoint, over whatever version of HTTP, waiting ones included. 1 to 1,000,000.
    #[schemars(range(min = 1, max = 1_000_000), extend("default" = Policy::default().requests_per_endpoint_max))]
    #[serde(rename = "http2MaxRequests")]
    pub http2_max_requests: Option<u32>,
}

/// How much of a request's body is read before it is routed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RequestBody {
    /// Most bytes held until the model is known, `1Ki` to `16Mi`.
    #[schemars(extend("default" = "16Mi", "x-at-least" = "1Ki", "x-at-most" = "16Mi"))]
    pub hold_max: Option<ByteSize>,
    /// What happens to a request whose model is not known by then. Default: `Route`.
    pub on_overflow: Option<OnOverflow>,
}

/// What happens to a request whose model is not known in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnOverflow {
    /// It is routed by path and headers alone.
    Route,
    /// It is answered with 413.
    Reject,
}
