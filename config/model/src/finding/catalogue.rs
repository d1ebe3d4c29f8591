//! Every kind of finding: its code, level, title, reason, and how it is mended in general.
//!
//! 00 files and YAML · 01 shape of documents · 02 names and references · 03 HTTPRoute · 04 Backend · 06 LatencySLO ·
//! 07 ProxyConfig. A code that is retired is never used again.

use super::Level;

/// What is known of one kind of finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// `penstock` and four digits.
    pub code: &'static str,
    /// How bad it is.
    pub level: Level,
    /// What it is, in a few words.
    pub title: &'static str,
    /// Why it is reported.
    pub why: &'static str,
    /// How it is mended.
    pub fix: &'static str,
}

macro_rules! catalogue {
    ($($code:literal $level:ident $name:ident: $title:literal, $why:literal, $fix:literal;)*) => {
        /// Which kind of finding.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $(#[doc = $title] $name,)*
        }

        impl Code {
            /// All of them, by number.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// What is known of it.
            pub fn entry(self) -> &'static Entry {
                match self {
                    $(Self::$name => &Entry {
                        code: concat!("penstock", $code),
                        level: Level::$level,
                        title: $title,
                        why: $why,
                        fix: $fix,
                    },)*
                }
            }

            /// The one that is written like this.
            pub fn named(code: &str) -> Option<Self> {
                match code {
                    $(concat!("penstock", $code) => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

catalogue! {
    "0001" Error FileTooLarge: "file too large",
        "Files are read into memory as a whole.",
        "split the file";
    "0002" Error YamlSyntax: "not YAML",
        "What cannot be read cannot be applied.",
        "check indentation, quotes and colons near this place";
    "0003" Error DuplicateKey: "key written twice",
        "Readers of YAML differ in which of the two they take.",
        "remove one of them";
    "0004" Error MergeKey: "merge key",
        "`<<` is not part of YAML 1.2, and Kubernetes does not read it.",
        "write the fields out";
    "0005" Error KeyNotText: "key is not text",
        "Fields have names; a number, a truth value, a list or a map is none.",
        "put the key in quotes";
    "0006" Error AliasUnusable: "alias without end",
        "An alias inside of what it repeats stands for an endless document.",
        "write the value out";
    "0007" Error TooDeep: "too many levels",
        "No document of ours nests nearly as deep.",
        "check the indentation";
    "0008" Error TooManyValues: "too many values",
        "A small file can stand for an enormous one by repeating aliases.",
        "split the file, or write fewer aliases";
    "0009" Error NumberUnusable: "unusable number",
        "Readers differ in what becomes of numbers that do not fit 64 bits, or that are none.",
        "put it in quotes if text is meant, else write a smaller number";
    "0010" Error TagRefused: "tag",
        "Tags make values of types that documents have no use for.",
        "remove the tag; put the value in quotes if text is meant";
    "0011" Error ReadTwoWays: "readable in two ways",
        "Two YAML parsers take this differently, so it may not mean what its author thinks.",
        "put the text in quotes, on one line";

    "0101" Error NotADocument: "not a document",
        "Every document says what it is with `apiVersion` and `kind`.",
        "start the document with `apiVersion:`, `kind:`, `metadata:` and `spec:`";
    "0102" Error KindUnknown: "unknown kind",
        "A document that nobody reads would be silently without effect.",
        "check the spelling, or keep the document elsewhere";
    "0103" Error VersionUnknown: "unknown version",
        "Another version of a kind may mean something else by the same fields.",
        "write the version that is read";
    "0104" Error KindList: "List of objects",
        "The items of a List have no documents of their own that findings could name.",
        "write the items as documents of their own, with `---` between them";
    "0106" Error UnknownField: "unknown field",
        "A misspelt field would be silently without effect.",
        "check the spelling";
    "0107" Error WrongType: "wrong type",
        "The field holds something else.",
        "write a value of the right type";
    "0108" Error MissingField: "missing field",
        "There is no sensible default.",
        "add the field";
    "0109" Error UnknownValue: "unknown value",
        "The field takes one of a few words.",
        "write one of the allowed values";
    "0110" Error BadFormat: "badly formed text",
        "The text does not follow the grammar of its field.",
        "write it in the form that is shown";
    "0111" Error OutOfRange: "out of range",
        "The number or quantity is beyond a bound of its field.",
        "write a value within the bounds";
    "0112" Error BadLength: "too long or too short",
        "The text or list is beyond a bound of its field.",
        "write fewer or more";
    "0113" Error EmptyValue: "empty value",
        "An empty field may be a slip; it is not taken for the default.",
        "fill it in, or remove the field";
    "0120" Error NotInThisVersion: "not supported in this version",
        "The field is planned; until then it would be silently without effect.",
        "leave it out";
    "0121" Warning SilencedUnknown: "unknown code silenced",
        "The annotation names a code that no warning has.",
        "write codes of warnings, with commas between them";

    "0201" Error NameTaken: "name taken",
        "Kind, namespace and name identify an object; two of them cannot both be applied.",
        "rename or remove one of them";
    "0202" Error ParentNotFound: "parent not found",
        "The route is attached to a Backend that does not exist, so nothing would be matched.",
        "name a Backend that exists";
    "0203" Error BackendNotFound: "backend not found",
        "Requests would be sent to a Backend that does not exist.",
        "name a Backend that exists";
    "0204" Error TargetNotFound: "target not found",
        "The policy or SLO is about an object that does not exist.",
        "name an object that exists in the same namespace";
    "0205" Error RuleNotFound: "rule not found",
        "The SLO is about a rule that its route does not have.",
        "name a rule of the route, or give the rule this name";
    "0206" Error Conflicted: "two policies for one target",
        "One target has one policy of a kind; the oldest wins, then the first by name.",
        "put all settings in one object";
    "0207" Error HostnameTaken: "host name taken",
        "A host name leads to one Backend.",
        "remove it from one of them";
    "0208" Error TwoDefaults: "two default Backends",
        "Requests for the sidecar's own address go to one Backend.",
        "write `default: true` in one Backend only";
    "0209" Warning NameShadowed: "name hidden by another",
        "A host name wins over the name of a Backend, and a Service with routes over a Backend of its name.",
        "rename one of them";

    "0301" Error RouteHostnames: "hostnames on a mesh route",
        "The Gateway API gives them no meaning on mesh routes; they are not supported in this version.",
        "remove `hostnames`, and match on the header `Host` in `rules[].matches[].headers`";
    "0302" Error ParentSection: "section of a parent",
        "Named ports of a parent are not supported in this version.",
        "remove `sectionName`, and write the number in `port`";
    "0303" Error ParentGateway: "Gateway as parent",
        "This is a mesh: routes are attached to what callers address. Gateways are not supported in this version.",
        "write `group: penstock.dev` and `kind: Backend`, or `group: \"\"` and `kind: Service`";
    "0304" Error WrongGroup: "group and kind do not fit",
        "The kind does not exist in this API group.",
        "write the kind's own group";
    "0305" Error BackendKind: "unsupported kind of backend",
        "Files have no source of endpoints for it; it is not supported in this version.",
        "describe the endpoints in a Backend, and write `group: penstock.dev` and `kind: Backend`";
    "0306" Error BackendPort: "port of a Backend",
        "A Backend's ports are those of its endpoints; `port` is not supported in this version.",
        "remove `port`";
    "0307" Error RuleRetry: "retry",
        "Retries are not supported in this version.",
        "remove `retry`";
    "0308" Error RuleSessionPersistence: "sessionPersistence",
        "Session persistence is not supported in this version.",
        "remove `sessionPersistence`";
    "0309" Error FilterMirror: "RequestMirror",
        "Mirroring is not supported in this version.",
        "remove the filter";
    "0310" Error FilterCors: "CORS",
        "CORS is not supported in this version; callers in a mesh are no browsers.",
        "remove the filter, and answer CORS at the edge";
    "0311" Error FilterExternalAuth: "ExternalAuth",
        "External authorisation is not supported in this version.",
        "remove the filter";
    "0312" Error FilterExtension: "ExtensionRef",
        "There are no extensions in this version.",
        "remove the filter";
    "0313" Error ParentTwice: "parent written twice",
        "A route is attached to a parent once.",
        "remove one of them";
    "0314" Error RuleNameTwice: "two rules of one name",
        "SLOs and metrics tell rules by their names.",
        "rename one of them";
    "0315" Error TooManyMatches: "too many matches",
        "The Gateway API allows 128 matches in a route.",
        "split the route in two";
    "0316" Error PathInvalid: "unusable path",
        "No request has such a path once it is normalised.",
        "write a path that starts with `/`, without `//`, `/./`, `/../`, `%2F`, `#` and `?`";
    "0317" Error ConditionTwice: "two conditions on one name",
        "All conditions must hold; the Gateway API ignores all but the first of a name.",
        "remove one of them, or write one regular expression for both";
    "0318" Error PatternInvalid: "unusable regular expression",
        "The expression cannot be compiled, or is too large.",
        "write it in the syntax of Rust's `regex` crate: no look-around, no back-references";
    "0319" Error FilterField: "filter type and field do not fit",
        "The details of a filter stand in the field that belongs to its type.",
        "write exactly the field that belongs to the type";
    "0320" Error FilterTwice: "filter written twice",
        "A list of filters has each type at most once.",
        "put all changes in one filter";
    "0321" Error FiltersIncompatible: "redirect and rewrite together",
        "A redirect answers at once: nothing is sent on that could be rewritten.",
        "remove one of the two";
    "0322" Error RedirectWithBackends: "redirect with backends",
        "A redirect answers at once: no request reaches a backend.",
        "remove `backendRefs` or the redirect";
    "0323" Error PrefixUnmatched: "no prefix to replace",
        "ReplacePrefixMatch replaces what a PathPrefix match has matched.",
        "give the rule exactly one match, with `path.type: PathPrefix`, or use ReplaceFullPath";
    "0324" Error BackendFilter: "filter not usable for one backend",
        "Redirects and rewrites for one backend of a rule are not supported in this version.",
        "move the filter to the rule's own `filters`";
    "0325" Error HeaderTwice: "header written twice",
        "A list of header changes has each header at most once, in whatever case.",
        "remove one of them";
    "0326" Error HeaderFixed: "header cannot be changed",
        "The header belongs to the connection, to the framing of the body or to the mesh itself.",
        "remove the change";
    "0327" Error NoBackend: "rule leads nowhere",
        "Matching requests could only be answered with 500.",
        "add `backendRefs`, or a RequestRedirect filter";
    "0328" Warning NoWeight: "all weights are 0",
        "Nobody gets the rule's requests: they are answered with 500.",
        "give one of the backends a weight above 0";
    "0329" Error TimeoutOrder: "attempt longer than the request",
        "One attempt cannot take longer than the whole request may.",
        "make `backendRequest` at most `request`";
    "0330" Warning FilterIdle: "filter changes nothing",
        "A filter without changes is probably unfinished.",
        "fill it in, or remove it";
    "0331" Warning SameMatch: "match never chosen",
        "Another match is the same and wins: it is older, or first by name, or first in the list.",
        "remove one of the two, or make one more specific";
    "0332" Warning RuleShadowed: "rule never chosen",
        "Each of its matches is lost to a match that is the same and wins.",
        "remove the rule, or make its matches more specific";

    "0401" Error EndpointTwice: "endpoint written twice",
        "A Backend has an endpoint once.",
        "remove one of them";
    "0402" Error SidecarIsApplication: "sidecar is the application",
        "Sidecar and application are two listeners; one address cannot be both.",
        "write the inbound listener of the sidecar, such as port 4743";
    "0403" Error IdentityUnchecked: "identity without sidecar",
        "Only a sidecar can prove an identity; this endpoint is reached in plaintext.",
        "add `sidecar`, or remove `identity`";
    "0404" Warning PlaintextMixed: "some endpoints in plaintext",
        "Some endpoints have a sidecar; requests to this one are neither encrypted nor authenticated.",
        "add `sidecar` to this endpoint";
    "0405" Error EndpointPlace: "not exactly one place",
        "An endpoint is known by its address or by a DNS name.",
        "write either `address` or `dns`";
    "0406" Error SidecarOfName: "sidecar of a DNS name",
        "A name may have many addresses, and each of them a sidecar of its own.",
        "write the endpoints by `address`, or remove `sidecar`";
    "0407" Error TlsBesideSidecar: "TLS to a sidecar",
        "Sidecars prove themselves by their identity; `tls` is for endpoints outside the mesh.",
        "remove `tls`, or keep endpoints with a sidecar in a Backend of their own";
    "0408" Error TlsRoots: "not exactly one source of roots",
        "Without roots no certificate can be believed, and of two sources nobody knows which is meant.",
        "write one of `wellKnownCACertificates: System`, `caCertificates` and `caFile`";
    "0409" Error PemUnusable: "unusable certificates",
        "Roots are certificates in PEM, and nothing else.",
        "paste the blocks from `-----BEGIN CERTIFICATE-----` to `-----END CERTIFICATE-----`, and no key";
    "0410" Error SubjectAltNameField: "name type and field do not fit",
        "The name stands in the field that belongs to its type.",
        "write exactly the field that belongs to the type: `hostname` for Hostname, `uri` for URI";
    "0411" Error ProbeUnclear: "not exactly one question",
        "An endpoint is asked what its engine understands, or what `path` says.",
        "write either `engine` or `path`";
    "0412" Error ProbeModel: "model where none is asked for",
        "Only Triton and servers of KServe's protocol tell of each model whether it is loaded.",
        "remove `model`";
    "0413" Warning ProbeIdle: "nobody is asked",
        "Every endpoint has a sidecar, and `scope: OutsideMesh` asks only those without.",
        "remove `healthCheck`, or write `scope: All`";

    "0601" Error ThresholdMissing: "no threshold",
        "Without a threshold nothing tells a good request from a bad one.",
        "add `threshold`, such as `500ms`";
    "0602" Error ThresholdNeedless: "threshold of Availability",
        "Availability counts failures, not time.",
        "remove `threshold`, or choose an indicator of latency";
    "0603" Error TargetUnreachable: "target out of reach",
        "At `100` one bad request breaks the promise for ever; at `0` nothing is promised.",
        "write a target above \"0\" and below \"100\", such as \"99.5\"";
    "0604" Warning ThresholdOffBucket: "threshold between two buckets",
        "Histograms cannot show the share of good requests at this threshold; the SLO counters are exact all the same.",
        "choose a bucket boundary";
    "0605" Error NeverMeasured: "never measured",
        "Answers that do not stream have no time between tokens.",
        "remove `match.streaming`, or choose TTFT or E2E";
    "0606" Warning TimeoutBeforeThreshold: "cut before the threshold",
        "The route's time limit ends requests before they can be slow by this promise.",
        "raise `timeouts.request` or lower the threshold";
    "0607" Error ObjectiveTwice: "two objectives of one name",
        "Metrics and alerts tell objectives by their names.",
        "rename one of them";
    "0608" Error SectionOfBackend: "section of a Backend",
        "Only an HTTPRoute has named rules.",
        "remove `sectionName`";

    "0701" Error NoSource: "nothing to route by",
        "A sidecar takes its snapshot from a control plane or from documents.",
        "add `controlPlane` or `documents`";
    "0702" Error InboundWithoutIdentity: "inbound listener without identity",
        "Callers are let in by mutual TLS, and certificates come from the control plane or from files.",
        "add `controlPlane` or `identity.certificates`, or remove `inbound`";
    "0703" Error NoListener: "nothing to do",
        "Without a listener the sidecar serves nobody.",
        "add `outbound: {}` or `inbound`";
    "0704" Error ListenerTwice: "two listeners on one port",
        "Only one of them could be opened.",
        "give each listener its own port";
    "0705" Error ApplicationTwice: "application written twice",
        "Callers name an application by its endpoint.",
        "remove one of them";
    "0706" Error ApplicationLoop: "sidecar would call itself",
        "The application's address is the sidecar's own listener.",
        "write in `connect` where the application listens";
    "0707" Warning OutboundExposed: "outbound listener open to others",
        "Whoever reaches the outbound listener acts with this workload's identity.",
        "listen on 127.0.0.1";
    "0708" Error NotOneProxyConfig: "not exactly one ProxyConfig",
        "A sidecar takes its settings from one object.",
        "keep one ProxyConfig in the file";
    "0709" Error DnsBounds: "lower bound above the upper one",
        "No time to live lies between them.",
        "make `ttlMin` at most `ttlMax`";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_in_order() {
        let codes: Vec<&str> = Code::ALL.iter().map(|code| code.entry().code).collect();
        for pair in codes.windows(2) {
            assert!(pair[0] < pair[1], "{} stands before {}", pair[0], pair[1]);
        }
        for code in Code::ALL {
            assert_eq!(Code::named(code.entry().code), Some(*code));
        }
    }

    #[test]
    fn every_entry_explains_itself() {
        for code in Code::ALL {
            let Entry { code, title, why, fix, .. } = code.entry();
            assert!(
                !title.is_empty() && why.ends_with('.') && !fix.is_empty() && !fix.ends_with('.'),
                "{code}"
            );
        }
    }
}
