//! What runs: an engine, sidecars in front of it that each serve one Backend, and one caller's sidecar that knows them all.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use penstock_benches::child::{Child, Start, listening};
use penstock_benches::clock;
use penstock_benches::h1::{self, Connection};
use penstock_benches::ours::{self, NAMESPACE, Sidecar};
use penstock_benches::page::Page;
use penstock_benches::place::Place;
use penstock_benches::processes::{CpuTimes, Memory};

use crate::flags::Side;
use crate::result::Used;

const MODEL: &str = "idle";
const PATH: &str = "/v1/chat/completions";
/// A hundred programs on two cores are up within this.
const START_MAX: Duration = Duration::from_secs(120);
/// What changes by itself has changed within this.
const CHANGE_MAX: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(50);
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// See the module.
pub(crate) struct Stand {
    pub(crate) caller: Sidecar,
    pub(crate) servers: Vec<Sidecar>,
    /// Where each server's sidecar listens, and the application that it serves.
    pub(crate) served: Vec<Served>,
    /// Where requests go.
    door: SocketAddr,
    engine: Child,
    plane: Child,
    /// Where the control plane keeps its authority.
    pub(crate) authority: PathBuf,
}

/// A sidecar of a model server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Served {
    pub(crate) inbound: SocketAddr,
    /// As its Backend names it.
    pub(crate) endpoint: SocketAddr,
}

impl Stand {
    /// Starts everything, with the sidecar of this side on a core of its own, and waits until every Backend answers.
    ///
    /// # Errors
    /// When something does not come up.
    pub(crate) async fn start(
        place: &Place,
        backends: u8,
        measured: Side,
        dir: &Path,
    ) -> anyhow::Result<Self> {
        let core = |side: Side| if side == measured { place.proxy_core } else { place.load_core };
        let (engine, at) = engine(place, dir).await?;
        let served = (1..=backends).map(of_number).collect::<anyhow::Result<Vec<_>>>()?;
        let mut plane = ours::start_plane(place, &documents(&served), dir)?;
        let told = plane.first_line().await?;
        let mut servers = Vec::new();
        for (number, served) in served.iter().enumerate() {
            let application = json!({"endpoint": served.endpoint, "connect": at});
            let listener = json!({"inbound": {"listen": served.inbound, "applications": [application]}});
            let spot = (place, core(Side::Server));
            let name = format!("server-{number}");
            servers.push(ours::start_sidecar(spot, &name, &told, listener, dir).await?.0);
        }
        let listener = json!({"outbound": {"listen": "127.0.0.1:0"}});
        let spot = (place, core(Side::Caller));
        let (caller, said) = ours::start_sidecar(spot, "caller", &told, listener, dir).await?;
        let door = listening(&said, "outbound")?;
        let authority = dir.join("plane.state");
        let mut stand = Self { caller, servers, served, door, engine, plane, authority };
        stand.is_ready().await?;
        Ok(stand)
    }

    async fn is_ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_MAX;
        for sidecar in self.servers.iter_mut().chain([&mut self.caller]) {
            let ready = h1::get(sidecar.admin, "/ready");
            while let Err(error) = exchange(sidecar.admin, &ready).await {
                sidecar.process.check()?;
                if Instant::now() >= deadline {
                    bail!("not ready after {START_MAX:?}: {error:#}; {}", sidecar.process.log());
                }
                sleep(POLL).await;
            }
        }
        Ok(())
    }

    /// A chat request to a Backend, with a prompt that nobody had before; returns when its answer has ended.
    ///
    /// # Errors
    /// When it is not answered with 200.
    pub(crate) async fn chat(&self, backend: usize, number: u64, ask: Ask) -> anyhow::Result<()> {
        let words = format!("request {number} of nobody: ")
            + &"water falls through the gate ".repeat(ask.repetitions);
        let body = json!({
            "model": MODEL, "stream": true, "stream_options": {"include_usage": true}, "ignore_eos": true,
            "max_tokens": ask.answer_tokens, "messages": [{"role": "user", "content": words}],
        });
        let body = body.to_string();
        let request = format!(
            "POST {PATH} HTTP/1.1\r\nhost: {}.{NAMESPACE}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            name(backend),
            body.len()
        );
        exchange(self.door, request.as_bytes()).await
    }

    /// What the process of a sidecar uses while this takes.
    ///
    /// # Errors
    /// When it has ended, or does not say what it has to do.
    pub(crate) async fn used(sidecar: &Sidecar, meanwhile: impl Future<Output = ()>) -> anyhow::Result<Used> {
        let id = [sidecar.process.id()];
        let (before, begun_ns) = (CpuTimes::of(&id), clock::now_ns());
        meanwhile.await;
        let (after, ended_ns) = (CpuTimes::of(&id), clock::now_ns());
        let seconds = (ended_ns - begun_ns) as f64 / 1e9;
        ensure!(after != CpuTimes::default(), "a sidecar has ended");
        Ok(Used {
            seconds,
            cores: after.seconds_since(&before) / seconds,
            tasks: tasks(sidecar).await?,
            resident_bytes: Memory::of(&id).resident,
        })
    }

    /// Waits until a sidecar has so much or so little to do.
    ///
    /// # Errors
    /// When that does not come.
    pub(crate) async fn until(
        sidecar: &Sidecar,
        what: &str,
        is_so: impl Fn(u64) -> bool,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + CHANGE_MAX;
        loop {
            let tasks = tasks(sidecar).await?;
            if is_so(tasks) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{what}: still {tasks} tasks after {CHANGE_MAX:?}");
            sleep(POLL).await;
        }
    }

    /// Ends everything.
    ///
    /// # Errors
    /// When something had ended before, or cannot be ended.
    pub(crate) async fn end(self) -> anyhow::Result<()> {
        let sidecars = self.servers.into_iter().chain([self.caller]).map(|sidecar| sidecar.process);
        let mut all: Vec<Child> = sidecars.chain([self.plane, self.engine]).collect();
        all.iter_mut().try_for_each(Child::check)?;
        for child in all {
            child.end().await?;
        }
        Ok(())
    }
}

/// How long a prompt and its answer are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    /// Times some 28 bytes.
    pub(crate) repetitions: usize,
    pub(crate) answer_tokens: u32,
}

/// Connections, requests and what else a sidecar has under way.
async fn tasks(sidecar: &Sidecar) -> anyhow::Result<u64> {
    let page = Page::of(sidecar.admin).await?;
    let tasks = page.gauges.get("penstock_tasks").context("a sidecar that does not count its tasks")?;
    Ok(*tasks as u64)
}

async fn exchange(to: SocketAddr, request: &[u8]) -> anyhow::Result<()> {
    let answered = async { Connection::open(to).await?.exchange(request, |_| ()).await };
    timeout(ANSWER_MAX, answered).await.with_context(|| format!("no answer within {ANSWER_MAX:?}"))?
}

fn name(backend: usize) -> String {
    format!("backend-{backend}")
}

/// Endpoints have addresses that nobody listens on: their sidecars know where the engine is. Each sidecar listens at an address of its
/// own, since a hundred ports that were free a moment ago would not all stay so: connections are made from them.
fn of_number(number: u8) -> anyhow::Result<Served> {
    let own = Ipv4Addr::new(127, 1, 0, number);
    let inbound = std::net::TcpListener::bind((own, 0))?.local_addr()?;
    Ok(Served { inbound, endpoint: SocketAddr::from((own, 8_000)) })
}

async fn engine(place: &Place, dir: &Path) -> anyhow::Result<(Child, SocketAddr)> {
    let program = place.programs.join("penstock-engine");
    let arguments = ["--listen", "127.0.0.1:0", "--profile", "8b-h100", "--model", MODEL].map(str::to_owned);
    let start = Start { name: "engine", program: &program, core: place.load_core, dir };
    let mut engine = Child::start(start, &arguments)?;
    let at = listening(&engine.first_line().await?, "http")?;
    Ok((engine, at))
}

/// A Backend for each; everything else is as who writes nothing has it.
fn documents(served: &[Served]) -> String {
    let document = |(number, served): (usize, &Served)| -> Value {
        let (endpoint, sidecar) = (served.endpoint, served.inbound);
        let endpoint = json!({"address": endpoint.ip(), "port": endpoint.port(), "sidecar": sidecar});
        json!({
            "apiVersion": "penstock.dev/v1alpha1", "kind": "Backend",
            "metadata": {"name": name(number), "namespace": NAMESPACE}, "spec": {"endpoints": [endpoint]},
        })
    };
    served.iter().enumerate().map(document).map(|document| format!("---\n{document:#}\n")).collect()
}
