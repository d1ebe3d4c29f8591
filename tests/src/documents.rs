//! Documents as tests write them: JSON, which is YAML.

use std::net::SocketAddr;

use serde_json::{Value, json};

/// One document.
#[derive(Clone, Debug)]
pub struct Document(Value);

impl Document {
    /// The same with a field of its `spec` set.
    #[must_use]
    pub fn with(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.0["spec"][field] = value.into();
        self
    }
}

/// A place that serves a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The application.
    pub address: SocketAddr,
    /// The sidecar in front of it.
    pub sidecar: Option<SocketAddr>,
}

/// A Backend with these endpoints.
pub fn backend(name: &str, endpoints: &[Endpoint]) -> Document {
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|endpoint| {
            let mut written = json!({"address": endpoint.address.ip(), "port": endpoint.address.port()});
            if let Some(sidecar) = endpoint.sidecar {
                written["sidecar"] = json!(sidecar);
            }
            written
        })
        .collect();
    Document(json!({
        "apiVersion": "penstock.dev/v1alpha1", "kind": "Backend",
        "metadata": {"name": name}, "spec": {"endpoints": endpoints},
    }))
}

/// An HTTPRoute on a Backend of the same name.
pub fn route(parent: &str, rules: &Value) -> Document {
    Document(json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": parent},
        "spec": {"parentRefs": [reference(parent)], "rules": rules},
    }))
}

/// A rule for one model.
pub fn model_rule(model: &str, backend: &str) -> Value {
    json!({
        "matches": [{"headers": [{"name": "x-gateway-model-name", "value": model}]}],
        "backendRefs": [reference(backend)],
    })
}

/// How routes name a Backend.
pub fn reference(backend: &str) -> Value {
    json!({"group": "penstock.dev", "kind": "Backend", "name": backend})
}

/// A BackendPolicy on the Backend of this name.
pub fn policy(backend: &str) -> Document {
    Document(json!({
        "apiVersion": "penstock.dev/v1alpha1", "kind": "BackendPolicy",
        "metadata": {"name": backend}, "spec": {"targetRefs": [reference(backend)]},
    }))
}

/// A LatencySLO on the Backend of this name.
pub fn slo(backend: &str, objectives: &Value) -> Document {
    Document(json!({
        "apiVersion": "penstock.dev/v1alpha1", "kind": "LatencySLO",
        "metadata": {"name": backend},
        "spec": {"targetRefs": [reference(backend)], "window": "30d", "objectives": objectives},
    }))
}

/// Documents as one file.
pub fn file(documents: &[Document]) -> String {
    documents.iter().map(|document| format!("---\n{:#}\n", document.0)).collect()
}
