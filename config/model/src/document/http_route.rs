//! `HTTPRoute` of the Gateway API, version `v1`, as a mesh route.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::formats::{HeaderName, HeaderValue, Hostname, Label, Name, SectionName};
use super::refusals;
use crate::finding::Code;
use crate::units::Span;

/// Sends requests to backends by path, headers, query, method and model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-refused" = refusals(&[("hostnames", Code::RouteHostnames, ""), ("useDefaultGateways", Code::ParentGateway, "")])))]
pub struct HttpRouteSpec {
    /// What the route is attached to: requests that address one of these parents are matched. 1 to 32.
    #[schemars(length(min = 1, max = 32))]
    pub parent_refs: Vec<ParentRef>,
    /// The rules, at most 16 with 128 matches together. The most specific match wins, wherever it stands.
    #[schemars(length(min = 1, max = 16))]
    pub rules: Vec<RouteRule>,
}

/// A parent: the front end that callers address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-refused" = refusals(&[("sectionName", Code::ParentSection, "")])))]
pub struct ParentRef {
    /// `""` for a Service, `penstock.dev` for a Backend. Default: `gateway.networking.k8s.io`, which a mesh route has no use for.
    pub group: Option<String>,
    /// `Service` or `Backend`. Default: `Gateway`, which a mesh route has no use for.
    pub kind: Option<ParentRefKind>,
    /// Default: the route's namespace.
    pub namespace: Option<Label>,
    /// Name of the parent.
    pub name: Name,
    /// Applies to requests for this port alone. Default: every port.
    #[schemars(range(min = 1, max = 65_535))]
    pub port: Option<u16>,
}

/// A kind that a route can be attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-refused" = refusals(&[
    ("Gateway", Code::ParentGateway, ""),
    ("ListenerSet", Code::ParentGateway, ""),
])))]
pub enum ParentRefKind {
    /// A Kubernetes Service.
    Service,
    /// A Penstock Backend.
    Backend,
}

/// A kind that a route can send to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-refused" = refusals(&[
    ("Service", Code::BackendKind, ""),
    ("InferencePool", Code::BackendKind, ""),
])))]
pub enum BackendRefKind {
    /// A Penstock Backend.
    Backend,
}

/// One rule: when any of its matches holds, its filters are applied and a backend is chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-refused" = refusals(&[
    ("retry", Code::RuleRetry, ""),
    ("sessionPersistence", Code::RuleSessionPersistence, ""),
])))]
pub struct RouteRule {
    /// Name of the rule, unique in its route; an SLO can refer to it. Default: the rule's number, from 0.
    pub name: Option<SectionName>,
    /// Any one of them must hold. At most 64. Default: everything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub matches: Vec<RouteMatch>,
    /// What is changed on the way. At most 16, each type at most once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub filters: Vec<RouteFilter>,
    /// Where matching requests go, in shares by weight. At most 16; none with a redirect.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub backend_refs: Vec<BackendRef>,
    /// Time limits. Default: none, since a stream may rightly last long.
    pub timeouts: Option<Timeouts>,
}

/// Conditions that must all hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteMatch {
    /// On the path. Default: `PathPrefix` of `/`.
    pub path: Option<PathCondition>,
    /// On headers; all must hold. At most 16. The header `x-gateway-model-name` holds the model that the body asks for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub headers: Vec<HeaderCondition>,
    /// On query parameters; all must hold, and the first of a name counts. At most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub query_params: Vec<QueryCondition>,
    /// The method. Default: any.
    pub method: Option<Method>,
}

/// A condition on the path, which is compared without its query.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PathCondition {
    /// How the path is compared. Default: `PathPrefix`.
    #[serde(default)]
    pub r#type: PathType,
    /// What it is compared with, at most 1024 characters. Default: `/`.
    #[serde(default = "root")]
    #[schemars(length(max = 1024))]
    pub value: String,
}

fn root() -> String {
    "/".to_owned()
}

/// How a path is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PathType {
    /// The whole path, byte for byte.
    Exact,
    /// Whole segments from the start: `/v1` covers `/v1` and `/v1/x`, not `/v1x`.
    #[default]
    PathPrefix,
    /// A regular expression that must cover the whole path.
    RegularExpression,
}

/// A condition on one header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HeaderCondition {
    /// How the value is compared. Default: `Exact`.
    #[serde(default)]
    pub r#type: ValueType,
    /// Name of the header, in any case.
    pub name: HeaderName,
    /// What its value is compared with, 1 to 4096 characters.
    #[schemars(length(min = 1, max = 4096))]
    pub value: String,
}

/// A condition on one query parameter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct QueryCondition {
    /// How the value is compared. Default: `Exact`.
    #[serde(default)]
    pub r#type: ValueType,
    /// Name of the parameter, byte for byte.
    pub name: HeaderName,
    /// What its value is compared with, 1 to 1024 characters.
    #[schemars(length(min = 1, max = 1024))]
    pub value: String,
}

/// How a value is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ValueType {
    /// Byte for byte.
    #[default]
    Exact,
    /// A regular expression that must cover the whole value.
    RegularExpression,
}

/// An HTTP method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
#[expect(missing_docs, reason = "the names say all")]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Connect,
    Options,
    Trace,
    Patch,
}

/// A change to a request or its answer; the field that belongs to its `type` holds the details.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-refused" = refusals(&[
    ("requestMirror", Code::FilterMirror, ""),
    ("cors", Code::FilterCors, ""),
    ("externalAuth", Code::FilterExternalAuth, ""),
    ("extensionRef", Code::FilterExtension, ""),
])))]
pub struct RouteFilter {
    /// What is changed.
    pub r#type: FilterType,
    /// Changes of request headers, with type `RequestHeaderModifier`.
    pub request_header_modifier: Option<HeaderModifier>,
    /// Changes of response headers, with type `ResponseHeaderModifier`.
    pub response_header_modifier: Option<HeaderModifier>,
    /// The answer that is sent at once, with type `RequestRedirect`.
    pub request_redirect: Option<RequestRedirect>,
    /// Changes of the request's host and path, with type `URLRewrite`.
    pub url_rewrite: Option<UrlRewrite>,
}

/// What a filter changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-refused" = refusals(&[
    ("RequestMirror", Code::FilterMirror, ""),
    ("CORS", Code::FilterCors, ""),
    ("ExternalAuth", Code::FilterExternalAuth, ""),
    ("ExtensionRef", Code::FilterExtension, ""),
])))]
pub enum FilterType {
    /// Headers of the request.
    RequestHeaderModifier,
    /// Headers of the answer.
    ResponseHeaderModifier,
    /// Answers with a redirect.
    RequestRedirect,
    /// Host or path of what is sent on.
    #[serde(rename = "URLRewrite")]
    UrlRewrite,
}

/// Header changes, applied as set, add, remove.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HeaderModifier {
    /// Headers whose value is replaced. At most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub set: Vec<Header>,
    /// Headers to which a value is added. At most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub add: Vec<Header>,
    /// Names of headers that are removed. At most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub remove: Vec<HeaderName>,
}

/// A header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Header {
    /// Its name, in any case.
    pub name: HeaderName,
    /// Its value.
    pub value: HeaderValue,
}

/// A redirect; what is absent is taken from the request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RequestRedirect {
    /// Scheme of the `location` header. Default: the request's.
    pub scheme: Option<Scheme>,
    /// Host name in the `location` header. Default: the request's.
    pub hostname: Option<Hostname>,
    /// Path in the `location` header. Default: the request's.
    pub path: Option<PathModifier>,
    /// Port in the `location` header. Default: the scheme's own port if `scheme` is given, else the request's.
    #[schemars(range(min = 1, max = 65_535))]
    pub port: Option<u16>,
    /// Status of the answer: 301, 302, 303, 307 or 308. Default: 302.
    #[serde(default = "found")]
    #[schemars(extend("enum" = [301, 302, 303, 307, 308]))]
    pub status_code: u16,
}

fn found() -> u16 {
    302
}

/// A URL scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say all")]
pub enum Scheme {
    Http,
    Https,
}

/// Changes of what is sent on; the query stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UrlRewrite {
    /// Host name that the backend sees. Default: the request's.
    pub hostname: Option<Hostname>,
    /// Path that the backend sees. Default: the request's.
    pub path: Option<PathModifier>,
}

/// A change of the path; the field that belongs to its `type` holds the new text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PathModifier {
    /// What is replaced.
    pub r#type: PathModifierType,
    /// The new path, with type `ReplaceFullPath`. At most 1024 characters.
    #[schemars(length(max = 1024))]
    pub replace_full_path: Option<String>,
    /// What stands in place of the matched prefix, with type `ReplacePrefixMatch`. At most 1024 characters.
    #[schemars(length(max = 1024))]
    pub replace_prefix_match: Option<String>,
}

/// What part of a path is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PathModifierType {
    /// All of it.
    ReplaceFullPath,
    /// The prefix that the rule's one `PathPrefix` match has matched.
    ReplacePrefixMatch,
}

/// A backend and its share of a rule's requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-refused" = refusals(&[("port", Code::BackendPort, "")])))]
pub struct BackendRef {
    /// `penstock.dev` for a Backend. Default: `""`, the group of Services.
    pub group: Option<String>,
    /// `Backend`. Default: `Service`, which has no endpoints in files.
    pub kind: Option<BackendRefKind>,
    /// Name of the Backend.
    pub name: Name,
    /// Default: the route's namespace.
    pub namespace: Option<Label>,
    /// Its share is its weight by the sum of all weights; 0 gets nothing. 0 to 1,000,000. Default: 1.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub weight: u32,
    /// Header changes for requests that go to this backend, after those of the rule. At most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub filters: Vec<RouteFilter>,
}

fn one() -> u32 {
    1
}

/// Time limits; `0s` means none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Timeouts {
    /// Longest time from the request's headers to the end of the answer. Default: none.
    pub request: Option<Span>,
    /// Longest time of one attempt at a backend; not above `request`. Default: none.
    pub backend_request: Option<Span>,
}
