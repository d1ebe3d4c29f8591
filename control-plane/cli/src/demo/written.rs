//! The documents that the demo writes: what a user would write by hand.

use std::fmt::Write as _;
use std::path::Path;

/// Name of the model that all engines serve.
pub(super) const MODEL: &str = "demo-8b";
/// Namespace of everything in the demo.
pub(super) const NAMESPACE: &str = "demo";

/// Says that there is nothing on purpose, so that sidecars can come up before there is anything to route to.
pub(super) const NOTHING_YET: &str = "# The demo writes its route here once its engines are up.\n";

/// How an engine is chosen for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Balance {
    P2c,
    RoundRobin,
    LeastRequest,
    LeastCost,
}

impl Balance {
    /// As a BackendPolicy has it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::P2c => "P2C",
            Self::RoundRobin => "RoundRobin",
            Self::LeastRequest => "LeastRequest",
            Self::LeastCost => "LeastCost",
        }
    }

    /// In words.
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::P2c => "the less loaded of two drawn at random",
            Self::RoundRobin => "one after the other",
            Self::LeastRequest => "the one with the fewest requests in flight",
            Self::LeastCost => "where the request costs everybody least",
        }
    }
}

/// An engine as a Backend lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// `IP:PORT` of the engine.
    pub(super) engine: String,
    /// `IP:PORT` of the sidecar in front of it.
    pub(super) sidecar: String,
}

/// One Backend, how it is used, one route by model, one promise.
pub(super) fn routes(places: &[Place], balance: Balance) -> String {
    let mut endpoints = String::new();
    for Place { engine, sidecar } in places {
        let (address, port) = engine.rsplit_once(':').unwrap_or((engine, ""));
        // Writing to a String cannot fail.
        let _written =
            writeln!(endpoints, "    - {{address: {address}, port: {port}, sidecar: \"{sidecar}\"}}");
    }
    let (policy, words) = (balance.name(), balance.words());
    format!(
        r#"# Where the model is served. Each endpoint has a sidecar in front of it, which is reached with mutual TLS.
apiVersion: penstock.dev/v1alpha1
kind: Backend
metadata: {{name: chat, namespace: {NAMESPACE}}}
spec:
  default: true
  endpoints:
{endpoints}---
# How it is used: {words}.
apiVersion: penstock.dev/v1alpha1
kind: BackendPolicy
metadata: {{name: chat, namespace: {NAMESPACE}}}
spec:
  targetRefs: [{{group: penstock.dev, kind: Backend, name: chat}}]
  loadBalancer: {{policy: {policy}}}
---
# Which requests go there: those that ask for the model, wherever in the body they say so.
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: by-model, namespace: {NAMESPACE}}}
spec:
  parentRefs: [{{group: penstock.dev, kind: Backend, name: chat}}]
  rules:
    - name: {MODEL}
      matches:
        - headers: [{{name: x-gateway-model-name, value: {MODEL}}}]
      backendRefs: [{{group: penstock.dev, kind: Backend, name: chat}}]
---
# What was promised: counted by every sidecar, request by request.
apiVersion: penstock.dev/v1alpha1
kind: LatencySLO
metadata: {{name: interactive, namespace: {NAMESPACE}}}
spec:
  targetRefs: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, name: by-model}}]
  objectives:
    - {{name: first-token, indicator: TTFT, threshold: 500ms, target: "95"}}
    - {{name: token-pace, indicator: TPOT, threshold: 25ms, target: "99"}}
"#
    )
}

/// How a sidecar reaches the control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PlaneAccess<'a> {
    /// `IP:PORT` for push and certificates.
    pub(super) address: &'a str,
    pub(super) trust_bundle: &'a Path,
    pub(super) token: &'a Path,
}

/// What a sidecar stands beside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beside<'a> {
    Caller,
    /// The engine that listens at this `IP:PORT`.
    Engine(&'a str),
}

/// The settings of one sidecar; every port is the system's choice.
pub(super) fn proxy_config(name: &str, beside: Beside<'_>, plane: &PlaneAccess<'_>) -> String {
    let listener = match beside {
        Beside::Caller => "outbound: {listen: 127.0.0.1:0}".to_owned(),
        Beside::Engine(engine) => {
            format!("inbound: {{listen: 127.0.0.1:0, applications: [{{endpoint: \"{engine}\"}}]}}")
        }
    };
    let quoted = |path: &Path| format!("{:?}", path.display().to_string());
    format!(
        r#"apiVersion: penstock.dev/v1alpha1
kind: ProxyConfig
metadata: {{name: {name}, namespace: {NAMESPACE}}}
spec:
  identity: {{serviceAccount: {name}}}
  controlPlane:
    address: "{}"
    trustBundleFile: {}
    tokenFile: {}
  stateDir: {name}.state
  {listener}
  admin: {{listen: 127.0.0.1:0}}
  accessLog: {{path: {name}.access.jsonl}}
  drain: {{deadline: 1s}}
"#,
        plane.address,
        quoted(plane.trust_bundle),
        quoted(plane.token),
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use penstock_model::{Source, compile, compile_proxy};

    use super::*;

    fn source(text: String) -> [Source; 1] {
        [Source { file: "demo.yaml".to_owned(), text }]
    }

    #[test]
    fn the_documents_compile_without_a_remark() {
        let place = |number: u32| Place {
            engine: format!("127.0.0.1:{}", 9_000 + number),
            sidecar: format!("127.0.0.1:{}", 9_100 + number),
        };
        let mut versions = BTreeSet::new();
        for balance in [Balance::P2c, Balance::RoundRobin, Balance::LeastRequest, Balance::LeastCost] {
            let text = routes(&[place(1), place(2)], balance);
            let compiled = compile(&source(text)).unwrap_or_else(|findings| panic!("{findings:#?}"));
            assert_eq!(compiled.warnings, [], "{balance:?}");
            let parts = compiled.snapshot.parts();
            let counts = (
                parts.backends.len(),
                parts.endpoints.len(),
                parts.routes.len(),
                parts.policies.len(),
                parts.slos.len(),
            );
            assert_eq!(counts, (1, 2, 1, 1, 1), "{balance:?}");
            assert!(parts.endpoints.values().all(|endpoint| endpoint.sidecar.is_some()), "{balance:?}");
            versions.insert(compiled.snapshot.version().to_string());
        }
        assert_eq!(versions.len(), 4, "each is another version, so that sidecars are seen to follow");
    }

    #[test]
    fn nothing_yet_compiles_to_nothing() {
        let compiled = compile(&source(NOTHING_YET.to_owned())).unwrap();
        assert_eq!(compiled.snapshot.parts().backends.len(), 0);
    }

    #[test]
    fn the_settings_of_both_kinds_of_sidecar_compile() {
        let plane = PlaneAccess {
            address: "127.0.0.1:8746",
            trust_bundle: Path::new("/a b/\"root\".pem"),
            token: Path::new("/a b/token"),
        };
        let settings = |name: &str, beside| {
            let text = proxy_config(name, beside, &plane);
            let compiled = compile_proxy(&source(text), Path::new("/base"));
            let (settings, warnings) = compiled.unwrap_or_else(|findings| panic!("{findings:#?}"));
            assert_eq!(warnings, []);
            settings
        };
        let caller = settings("caller-1", Beside::Caller);
        assert_eq!(caller.identity.to_string(), "spiffe://cluster.local/ns/demo/sa/caller-1");
        assert!(caller.outbound.is_some() && caller.inbound.is_none());
        assert_eq!(caller.control_plane.unwrap().trust_bundle, plane.trust_bundle);
        let engine = settings("engine-1", Beside::Engine("127.0.0.1:9001"));
        assert_eq!(engine.inbound.unwrap().applications[0].connect, "127.0.0.1:9001".parse().unwrap());
    }
}
