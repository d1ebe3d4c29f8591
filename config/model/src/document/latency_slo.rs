//! `LatencySLO`: what latency was promised.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::formats::{Label, Name, SectionName};
use super::refusals;
use crate::finding::Code;
use crate::units::{Percent, Span, Window};

/// Promises about the requests of a route or a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LatencySloSpec {
    /// What it is about, in its own namespace. Exactly one.
    #[schemars(length(min = 1, max = 1))]
    pub target_refs: Vec<SloTargetRef>,
    /// Rolling window over which targets are kept, `1h` to `90d`. Default: `30d`.
    #[schemars(extend("default" = "30d", "x-at-least" = "1h", "x-at-most" = "90d"))]
    pub window: Option<Window>,
    /// The promises. 1 to 16.
    #[schemars(length(min = 1, max = 16))]
    pub objectives: Vec<ObjectiveSpec>,
    /// What sidecars do to keep the promises. Default: nothing, they are counted.
    pub enforcement: Option<EnforcementSpec>,
}

/// What sidecars do to keep the promises.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-refused" = refusals(&[
    ("priority", Code::NotInThisVersion, "leave it out: all requests are of one priority"),
])))]
pub struct EnforcementSpec {
    /// Whether the thresholds of TTFT and TPOT are promises to each request, as if its caller had asked for them with `x-llm-d-slo-ttft-ms`
    /// and `x-llm-d-slo-tpot-ms`: a request that no endpoint can serve in time, or only by making others late, is answered 429 at once.
    /// Only where `loadBalancer.policy` is `LeastCost`. Default: false.
    #[serde(default)]
    pub shed: bool,
}

/// What an SLO is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SloTargetRef {
    /// `gateway.networking.k8s.io` for an HTTPRoute, `penstock.dev` for a Backend.
    pub group: SloTargetGroup,
    /// `HTTPRoute` or `Backend`.
    pub kind: SloTargetKind,
    /// Name of the target.
    pub name: Name,
    /// Name of one rule of the HTTPRoute. Default: all rules.
    pub section_name: Option<SectionName>,
}

/// API group of an SLO's target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SloTargetGroup {
    /// The Gateway API's.
    #[serde(rename = "gateway.networking.k8s.io")]
    Gateway,
    /// Penstock's own.
    #[serde(rename = "penstock.dev")]
    Penstock,
}

/// Kind of an SLO's target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-refused" = refusals(&[
    ("GRPCRoute", Code::NotInThisVersion, "name an HTTPRoute or a Backend"),
    ("Service", Code::NotInThisVersion, "name an HTTPRoute or a Backend"),
    ("InferencePool", Code::NotInThisVersion, "name an HTTPRoute or a Backend"),
])))]
pub enum SloTargetKind {
    /// A route, or one rule of it.
    #[serde(rename = "HTTPRoute")]
    HttpRoute,
    /// A backend.
    Backend,
}

/// One promise: `target` percent of the requests are good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ObjectiveSpec {
    /// Its name, unique in the SLO.
    pub name: Label,
    /// What is measured.
    pub indicator: IndicatorName,
    /// A request is good up to and including this, `1ms` to `1h`. Best a bucket boundary of the indicator's histogram. Not
    /// with `Availability`.
    #[schemars(extend("x-at-least" = "1ms", "x-at-most" = "1h"))]
    pub threshold: Option<Span>,
    /// Share of good requests in percent, as text: above `"0"` and below `"100"`.
    pub target: Percent,
    /// Which requests count. Default: all.
    pub r#match: Option<ObjectiveMatch>,
}

/// What an objective measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum IndicatorName {
    /// Time to first token.
    #[serde(rename = "TTFT")]
    Ttft,
    /// Time per output token, after the first.
    #[serde(rename = "TPOT")]
    Tpot,
    /// Longest gap between two tokens.
    #[serde(rename = "ITL")]
    Itl,
    /// Whole duration.
    #[serde(rename = "E2E")]
    E2e,
    /// Not failed.
    Availability,
}

/// Which requests count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ObjectiveMatch {
    /// Only requests for this model, 1 to 256 characters.
    #[schemars(length(min = 1, max = 256))]
    pub model: Option<String>,
    /// Only streaming requests (true), or only others (false).
    pub streaming: Option<bool>,
}
