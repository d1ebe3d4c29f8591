//! A whole mesh: a control plane, model servers behind inbound sidecars, callers behind outbound ones.
//!
//! The control plane begins without documents, since they name ports that are not known before the sidecars run:
//! start the mesh, start what it consists of, then [`publish`](Mesh::publish).

use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::documents::{self, Document, Endpoint};
use crate::engine::Engine;
use crate::plane::Plane;
use crate::sidecar::Sidecar;
use crate::wait::eventually;

/// A mesh. Dropping it ends the control plane and removes every file; drop the sidecars first.
#[derive(Debug)]
pub struct Mesh {
    /// The control plane.
    pub plane: Plane,
    dir: TempDir,
}

/// A model server and the sidecar in front of it.
#[derive(Debug)]
pub struct Served {
    /// The model server.
    pub engine: Engine,
    /// Its sidecar.
    pub sidecar: Sidecar,
}

impl Served {
    /// How Backends name it.
    pub fn endpoint(&self) -> Endpoint {
        Endpoint { address: self.engine.address, sidecar: Some(self.sidecar.inbound()) }
    }
}

impl Mesh {
    /// Starts a control plane.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts a control plane with these flags beside those that every one has.
    ///
    /// # Panics
    /// When there is no room for files.
    pub async fn start_with(flags: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("penstock-it-").tempdir().expect("a temporary directory");
        let plane = Plane::start(dir.path(), flags).await;
        Self { plane, dir }
    }

    /// Where files of the test go.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Starts a model server with these words on its command line, and a sidecar in front of it.
    pub async fn serve(&self, name: &str, words: &str) -> Served {
        let engine = Engine::start(self.dir(), &format!("{name}-engine"), words).await;
        let sidecar = self.inbound_with(name, json!([{"endpoint": engine.address}]), json!({})).await;
        Served { engine, sidecar }
    }

    /// Starts a sidecar in front of an application of the test's own, which speaks HTTP/1.1 and is asked nothing but what the test asks.
    pub async fn inbound(&self, name: &str, application: SocketAddr) -> Sidecar {
        let alone = json!([{"endpoint": application, "metrics": {"scrape": false}}]);
        self.inbound_with(name, alone, json!({})).await
    }

    /// Starts a sidecar in front of these applications, with more settings.
    pub async fn inbound_with(&self, name: &str, applications: Value, mut more: Value) -> Sidecar {
        more["inbound"] = json!({"listen": "127.0.0.1:0", "applications": applications});
        self.sidecar(name, more).await
    }

    /// Starts a sidecar beside a caller.
    pub async fn caller(&self, name: &str) -> Sidecar {
        self.caller_with(name, json!({})).await
    }

    /// Starts a sidecar beside a caller, with more settings.
    pub async fn caller_with(&self, name: &str, mut more: Value) -> Sidecar {
        more["outbound"] = json!({"listen": "127.0.0.1:0"});
        self.sidecar(name, more).await
    }

    async fn sidecar(&self, name: &str, spec: Value) -> Sidecar {
        Sidecar::start(self.dir(), name, self.spec(name, spec)).await
    }

    /// The `spec` of a ProxyConfig for a sidecar of this mesh, with more settings.
    pub fn spec(&self, name: &str, mut spec: Value) -> Value {
        spec["identity"] = json!({"serviceAccount": name});
        spec["controlPlane"] = json!({
            "address": self.plane.grpc(),
            "trustBundleFile": self.plane.trust_bundle(),
            "tokenFile": self.plane.join_token(),
        });
        spec["stateDir"] = json!(format!("{name}.state"));
        spec
    }

    /// Gives these documents to the control plane and waits until these sidecars use them and are ready.
    pub async fn publish(&self, documents: &[Document], sidecars: &[&Sidecar]) {
        let text = documents::file(documents);
        let version = self.plane.version_of(&text).await;
        self.plane.write("mesh.yaml", &text);
        self.in_use(&version, sidecars).await;
        for sidecar in sidecars {
            // An acknowledgement may be a moment ahead of the change itself.
            sidecar.uses(&version).await;
            sidecar.ready().await;
        }
    }

    /// Waits until the control plane knows that these sidecars use this version.
    pub async fn in_use(&self, version: &str, sidecars: &[&Sidecar]) {
        eventually(&format!("every sidecar uses {version}"), async || {
            let status = self.plane.status().await;
            let known = status["sidecars"].as_array().cloned().unwrap_or_default();
            let uses = |sidecar: &&Sidecar| {
                let node = format!("{}.default", sidecar.name);
                known
                    .iter()
                    .any(|row| row["node"] == *node && row["connected"] == true && row["version"] == *version)
            };
            if sidecars.iter().all(uses) { Ok(()) } else { Err(format!("{status:#}")) }
        })
        .await;
    }
}
