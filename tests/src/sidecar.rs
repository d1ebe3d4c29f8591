//! A sidecar as a process.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use penstock_delivery::cache;
use penstock_model::snapshot::Snapshot;
use serde_json::{Value, json};

use crate::client::{self, Connection, Version};
use crate::exposition::Exposition;
use crate::programs::{Program, built};
use crate::wait::eventually;

/// A running sidecar.
#[derive(Debug)]
pub struct Sidecar {
    /// The process.
    pub program: Program,
    /// The workload's name.
    pub name: String,
    dir: PathBuf,
}

impl Sidecar {
    /// Starts one beside the workload `name` with this `spec` of a ProxyConfig, to which listeners for the admin pages and an
    /// access log of its own are added.
    pub async fn start(dir: &Path, name: &str, spec: Value) -> Self {
        Self::write(dir, name, spec);
        let program = Self::spawn(dir, name).await;
        Self { program, name: name.to_owned(), dir: dir.to_owned() }
    }

    /// Puts this `spec` in the place of the one that it was started with, with the same additions where it has no other.
    pub fn configure(&self, spec: Value) {
        Self::write(&self.dir, &self.name, spec);
    }

    fn write(dir: &Path, name: &str, mut spec: Value) {
        let defaults = [
            ("admin", json!({"listen": "127.0.0.1:0"})),
            ("accessLog", json!({"path": format!("{name}.access.log")})),
        ];
        for (field, default) in defaults {
            if spec[field].is_null() {
                spec[field] = default;
            }
        }
        let document = json!({
            "apiVersion": "penstock.dev/v1alpha1", "kind": "ProxyConfig",
            "metadata": {"name": name}, "spec": spec,
        });
        let beside = dir.join(format!("{name}.beside"));
        std::fs::write(&beside, format!("{document:#}")).expect("a ProxyConfig");
        std::fs::rename(beside, dir.join(format!("{name}.yaml"))).expect("a ProxyConfig in its place");
    }

    async fn spawn(dir: &Path, name: &str) -> Program {
        let mut command = built("penstock-proxy");
        command.arg("--config").arg(dir.join(format!("{name}.yaml")));
        Program::start(dir, name, command).await
    }

    /// Kills it as the kernel would, and starts it anew with the same settings and state. Its ports are new.
    pub async fn restart(&mut self) {
        self.program.kill();
        self.program = Self::spawn(&self.dir, &self.name).await;
    }

    /// Where the workload sends its own requests.
    pub fn outbound(&self) -> SocketAddr {
        self.program.listening("outbound")
    }

    /// Where others send requests to the workload.
    pub fn inbound(&self) -> SocketAddr {
        self.program.listening("inbound")
    }

    /// Where the admin pages are.
    pub fn admin(&self) -> SocketAddr {
        self.program.listening("admin")
    }

    /// A connection of the workload.
    pub async fn connect(&self, version: Version) -> Connection {
        Connection::open(version, self.outbound()).await
    }

    /// Whether it says that it is ready.
    pub async fn is_ready(&self) -> bool {
        client::get(self.admin(), "/ready").await.status == 200
    }

    /// Waits until it says so.
    pub async fn ready(&self) {
        eventually(&format!("{} is ready", self.name), async || {
            let page = client::get(self.admin(), "/ready").await;
            if page.status == 200 { Ok(()) } else { Err(page.text) }
        })
        .await;
    }

    /// Waits until it serves by this version of the configuration.
    pub async fn uses(&self, version: &str) {
        eventually(&format!("{} uses {version}", self.name), async || {
            let page = self.page("/config/sync").await;
            if page["version"] == *version { Ok(()) } else { Err(format!("{page:#}")) }
        })
        .await;
    }

    /// Waits until the snapshot that it keeps for its next start is of this version, which is some time after it uses it; gives the file.
    pub async fn kept(&self, version: &str) -> PathBuf {
        let path = self.dir.join(format!("{}.state/snapshot.bin", self.name));
        eventually(&format!("{version} is in {}", path.display()), async || {
            let bytes = std::fs::read(&path).map_err(|error| error.to_string())?;
            let parts = cache::decode(&bytes).map_err(|error| error.to_string())?;
            let found = Snapshot::assemble(parts).version().to_string();
            if found == version { Ok(()) } else { Err(format!("it holds {found}")) }
        })
        .await;
        path
    }

    /// A page of JSON.
    pub async fn page(&self, path: &str) -> Value {
        client::json(self.admin(), path).await
    }

    /// What it counts.
    pub async fn metrics(&self) -> Exposition {
        Exposition::of(self.admin()).await
    }

    /// Waits until the samples of `name` with these labels have this sum.
    pub async fn metric_is(&self, name: &str, labels: &[(&str, &str)], value: f64) {
        let what = format!("{name}{labels:?} is {value} at {}", self.name);
        eventually(&what, async || {
            let metrics = self.metrics().await;
            let found = metrics.sum(name, labels);
            if (found - value).abs() < 1e-9 { Ok(()) } else { Err(format!("{found}")) }
        })
        .await;
    }

    /// Waits until no request is open here.
    pub async fn idle(&self) {
        self.metric_is("penstock_inflight_requests", &[], 0.0).await;
    }

    /// Every request that has ended, oldest first. Lines are written beside the requests: this waits for those that are counted.
    pub async fn access_log(&self) -> Vec<Value> {
        let ended = self.metrics().await.sum("penstock_requests_total", &[]);
        eventually(&format!("{} logs its {ended} requests", self.name), async || {
            let log = self.logged_so_far();
            if log.len() as f64 >= ended { Ok(log) } else { Err(format!("{} lines", log.len())) }
        })
        .await
    }

    /// The lines that are there.
    ///
    /// # Panics
    /// When one is not JSON.
    pub fn logged_so_far(&self) -> Vec<Value> {
        let path = self.dir.join(format!("{}.access.log", self.name));
        let text = std::fs::read_to_string(path).expect("an access log");
        // The last line may be under way.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
    }

    /// Waits for the request that carried this id.
    pub async fn logged(&self, request_id: &str) -> Value {
        eventually(&format!("{} logs the request {request_id}", self.name), async || {
            let log = self.logged_so_far();
            let found = log.iter().find(|line| line["request_id"] == request_id).cloned();
            found.ok_or_else(|| format!("{log:?}"))
        })
        .await
    }
}
