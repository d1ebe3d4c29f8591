//! A control plane as a process.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::client;
use crate::exposition::Exposition;
use crate::programs::{Program, built};
use crate::wait::eventually;

/// A running control plane.
#[derive(Debug)]
pub struct Plane {
    /// The process.
    pub program: Program,
    dir: PathBuf,
    flags: Vec<String>,
}

impl Plane {
    /// Starts one without documents, with its own flags after these.
    pub async fn start(dir: &Path, flags: &[&str]) -> Self {
        std::fs::create_dir(dir.join("documents")).expect("a directory for documents");
        std::fs::write(dir.join("documents/mesh.yaml"), "# nothing yet\n").expect("a file of documents");
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let program = Self::spawn(dir, &flags, any, any).await;
        Self { program, dir: dir.to_owned(), flags }
    }

    async fn spawn(dir: &Path, flags: &Vec<String>, grpc: SocketAddr, admin: SocketAddr) -> Program {
        let mut command = built("penstock-control-plane");
        command.arg("--config").arg(dir.join("documents")).arg("--state-dir").arg(dir.join("state"));
        command.args(["--listen", &grpc.to_string(), "--admin", &admin.to_string()]).args(flags);
        Program::start(dir, "control-plane", command).await
    }

    /// Ends it without a word, as a lost machine would.
    pub fn kill(&mut self) {
        self.program.kill();
    }

    /// Starts it anew, where sidecars will look for it.
    pub async fn restart(&mut self) {
        self.program = Self::spawn(&self.dir, &self.flags, self.grpc(), self.admin()).await;
    }

    /// Push and certificates.
    pub fn grpc(&self) -> SocketAddr {
        self.program.listening("grpc")
    }

    /// Status, metrics and probes.
    pub fn admin(&self) -> SocketAddr {
        self.program.listening("admin")
    }

    /// File with the root certificate.
    ///
    /// # Panics
    /// When it did not say.
    pub fn trust_bundle(&self) -> PathBuf {
        self.program.first_line()["trust_bundle"].as_str().expect("a path").into()
    }

    /// File with the join token.
    ///
    /// # Panics
    /// When it did not say.
    pub fn join_token(&self) -> PathBuf {
        self.program.first_line()["join_token"].as_str().expect("a path").into()
    }

    /// Directory with the authority's key.
    pub fn state_dir(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// Directory with the documents.
    pub fn documents_dir(&self) -> PathBuf {
        self.dir.join("documents")
    }

    /// Replaces a file of documents as a whole.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, file: &str, text: &str) {
        let beside = self.dir.join("beside");
        std::fs::write(&beside, text).expect("documents");
        std::fs::rename(beside, self.documents_dir().join(file)).expect("documents in place");
    }

    /// What is in force, and how far each sidecar is.
    pub async fn status(&self) -> Value {
        client::json(self.admin(), "/api/v1/status").await
    }

    /// Waits until the status is as wished.
    pub async fn status_when(&self, what: &str, wish: impl Fn(&Value) -> bool) -> Value {
        eventually(what, async || {
            let status = self.status().await;
            if wish(&status) { Ok(status) } else { Err(format!("{status:#}")) }
        })
        .await
    }

    /// The version that these documents would make.
    ///
    /// # Panics
    /// When they are refused.
    pub async fn version_of(&self, text: &str) -> String {
        let sources = json!({"sources": [{"file": "mesh.yaml", "text": text}]});
        let diff = client::post(self.admin(), "/api/v1/diff", &sources).await.json();
        diff["to"].as_str().unwrap_or_else(|| panic!("the documents are refused: {diff:#}")).to_owned()
    }

    /// What it counts.
    pub async fn metrics(&self) -> Exposition {
        Exposition::of(self.admin()).await
    }
}
