//! All processes of the demo: control plane, engines, a sidecar beside each engine and each caller.
//!
//! ```text
//!   caller-1 ──► its sidecar ═╗                 ╔═► sidecar ──► engine-1
//!                             ╠═ mutual TLS ════╬═► sidecar ──► engine-2
//!   caller-2 ──► its sidecar ═╝                 ╚═► …
//!                  ▲  control plane: route, endpoints, SLO, identities  ▲
//! ```

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use hyper::StatusCode;
use serde::Deserialize;

use super::child::Child;
use super::programs::Programs;
use super::scratch::Scratch;
use super::written::{self, Balance, Beside, MODEL, NAMESPACE, NOTHING_YET, Place, PlaneAccess};
use crate::clock;
use crate::fetch::{HttpClient, Site};
use crate::status::Status;

/// One slower machine among the four, so that balancing has something to do.
const PROFILES: [&str; 4] = ["8b-h100", "8b-h100", "8b-h100", "8b-a100"];
const CALLERS: usize = 2;
/// Certificates, snapshot and ACKs take well under a second; an unoptimised build on a busy machine takes longer.
const SYNC_DEADLINE: Duration = Duration::from_secs(30);
const SYNC_POLL: Duration = Duration::from_millis(50);
/// From the request to end until children are made to: longer than the drain deadline in their settings.
const END_DEADLINE: Duration = Duration::from_secs(5);

/// Everything that runs.
#[derive(Debug)]
pub(super) struct Mesh {
    programs: Programs,
    // Children end before their directory goes.
    children: Vec<Child>,
    scratch: Scratch,
}

/// Where everything is.
#[derive(Clone, Debug)]
pub(super) struct Places {
    /// The control plane's admin listener.
    pub(super) plane: Site,
    pub(super) engines: Vec<Engine>,
    pub(super) callers: Vec<Caller>,
    /// Admin listeners of all sidecars, callers' and engines'.
    sidecars: Vec<(String, Site)>,
    /// The engines as documents list them.
    listed: Vec<Place>,
}

/// One engine.
#[derive(Clone, Debug)]
pub(super) struct Engine {
    pub(super) name: String,
    pub(super) profile: &'static str,
    /// `IP:PORT`.
    pub(super) address: String,
    pub(super) site: Site,
}

/// One caller's sidecar.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    /// Where the caller sends its requests.
    pub(super) outbound: Site,
    pub(super) admin: Site,
}

#[derive(Debug, Deserialize)]
struct PlaneListens {
    listening: PlaneAddresses,
    trust_bundle: PathBuf,
    join_token: PathBuf,
}

#[derive(Debug, Deserialize)]
struct PlaneAddresses {
    grpc: SocketAddr,
    admin: SocketAddr,
}

#[derive(Debug, Deserialize)]
struct EngineListens {
    listening: EngineAddresses,
}

#[derive(Debug, Deserialize)]
struct EngineAddresses {
    http: SocketAddr,
}

#[derive(Debug, Deserialize)]
struct ProxyListens {
    listening: ProxyAddresses,
}

#[derive(Debug, Deserialize)]
struct ProxyAddresses {
    outbound: Option<SocketAddr>,
    inbound: Option<SocketAddr>,
    admin: SocketAddr,
}

impl Mesh {
    /// Nothing runs yet.
    ///
    /// # Errors
    /// When a program is missing, or nothing can be written.
    pub(super) fn new() -> anyhow::Result<Self> {
        Ok(Self { programs: Programs::find()?, children: Vec::new(), scratch: Scratch::make()? })
    }

    /// Starts everything, writes the documents, and waits until every sidecar has accepted them. Says where everything is, and
    /// which version is in force.
    ///
    /// # Errors
    /// When a child does not come up, or a sidecar does not get there in time.
    pub(super) async fn start(
        &mut self,
        client: &HttpClient,
        balance: Balance,
        told: impl Fn(&str),
    ) -> anyhow::Result<(Places, String)> {
        let documents = self.scratch.dir("documents")?;
        self.scratch.write("documents/routes.yaml", NOTHING_YET)?;
        let plane = self.start_plane(&documents).await?;
        let site = Site::at(plane.listening.admin);
        told("control plane up: certificate authority made, no documents yet");
        let engines = self.start_engines().await?;
        told("four engines up: three like an H100, one like an A100");
        let (callers, inbound, sidecars) = self.start_sidecars(&plane, &engines).await?;
        self.synced(client, &site, &sidecars, None).await?;
        told("six sidecars up, each with a certificate of its own");
        let place = |(engine, sidecar): (&Engine, &SocketAddr)| Place {
            engine: engine.address.clone(),
            sidecar: sidecar.to_string(),
        };
        let listed = engines.iter().zip(&inbound).map(place).collect();
        let places = Places { plane: site, engines, callers, sidecars, listed };
        let version = self.publish(client, &places, balance).await?;
        told(&format!("documents written: compiled to version {version}, pushed, accepted by all"));
        Ok((places, version))
    }

    /// Writes documents that differ from those in force, and waits until every sidecar has accepted them. Says their version.
    ///
    /// # Errors
    /// When a sidecar does not get there in time.
    pub(super) async fn publish(
        &mut self,
        client: &HttpClient,
        places: &Places,
        balance: Balance,
    ) -> anyhow::Result<String> {
        let before: Status = places.plane.get(client, "/api/v1/status").await?;
        self.scratch.write("documents/routes.yaml", &written::routes(&places.listed, balance))?;
        self.synced(client, &places.plane, &places.sidecars, before.config.version.as_deref()).await
    }

    async fn start_plane(&mut self, documents: &std::path::Path) -> anyhow::Result<PlaneListens> {
        let state = self.scratch.dir("control-plane.state")?;
        let program = self.programs.plane.clone();
        let path = |path: &std::path::Path| path.display().to_string();
        let arguments = [
            "--config".to_owned(),
            path(documents),
            "--state-dir".to_owned(),
            path(&state),
            "--listen=127.0.0.1:0".to_owned(),
            "--admin=127.0.0.1:0".to_owned(),
        ];
        self.start_child("control-plane", &program, &arguments)?.announcement().await
    }

    async fn start_engines(&mut self) -> anyhow::Result<Vec<Engine>> {
        let program = self.programs.engine.clone();
        let first = self.children.len();
        for (index, profile) in PROFILES.iter().enumerate() {
            let arguments = [
                "--listen=127.0.0.1:0".to_owned(),
                format!("--profile={profile}"),
                format!("--model={MODEL}"),
                format!("--seed={index}"),
            ];
            self.start_child(&format!("engine-{}", index + 1), &program, &arguments)?;
        }
        let mut engines = Vec::new();
        for (child, profile) in self.children[first..].iter_mut().zip(PROFILES) {
            let EngineListens { listening } = child.announcement().await?;
            let (address, site) = (listening.http.to_string(), Site::at(listening.http));
            engines.push(Engine { name: child.name().to_owned(), profile, address, site });
        }
        Ok(engines)
    }

    /// Callers, inbound addresses in the order of the engines, and the admin listeners of all.
    async fn start_sidecars(
        &mut self,
        plane: &PlaneListens,
        engines: &[Engine],
    ) -> anyhow::Result<(Vec<Caller>, Vec<SocketAddr>, Vec<(String, Site)>)> {
        let grpc = plane.listening.grpc.to_string();
        let access =
            PlaneAccess { address: &grpc, trust_bundle: &plane.trust_bundle, token: &plane.join_token };
        let program = self.programs.proxy.clone();
        let first = self.children.len();
        let beside_engines =
            engines.iter().map(|engine| (engine.name.clone(), Beside::Engine(&engine.address)));
        let beside_callers = (1..=CALLERS).map(|number| (format!("caller-{number}"), Beside::Caller));
        for (name, beside) in beside_engines.chain(beside_callers) {
            let config = written::proxy_config(&name, beside, &access);
            let config = self.scratch.write(&format!("{name}.yaml"), &config)?;
            let arguments = ["--config".to_owned(), config.display().to_string()];
            self.start_child(&format!("sidecar-of-{name}"), &program, &arguments)?;
        }
        let (mut callers, mut inbound, mut sidecars) = (Vec::new(), Vec::new(), Vec::new());
        for child in &mut self.children[first..] {
            let ProxyListens { listening } = child.announcement().await?;
            let admin = Site::at(listening.admin);
            sidecars.push((child.name().to_owned(), admin.clone()));
            inbound.extend(listening.inbound);
            callers.extend(listening.outbound.map(|outbound| Caller { outbound: Site::at(outbound), admin }));
        }
        if (callers.len(), inbound.len()) != (CALLERS, engines.len()) {
            bail!("a sidecar does not say where it listens; were all programs built from one checkout?");
        }
        Ok((callers, inbound, sidecars))
    }

    fn start_child(
        &mut self,
        name: &str,
        program: &PathBuf,
        arguments: &[String],
    ) -> anyhow::Result<&mut Child> {
        let child = Child::start(&self.scratch, name, &self.programs.own, program, arguments)?;
        self.children.push(child);
        self.children.last_mut().context("no child")
    }

    /// Waits until every sidecar is ready and has accepted the version in force, which is not `before`; says which it is.
    async fn synced(
        &mut self,
        client: &HttpClient,
        plane: &Site,
        sidecars: &[(String, Site)],
        before: Option<&str>,
    ) -> anyhow::Result<String> {
        let deadline = clock::now() + SYNC_DEADLINE;
        loop {
            self.check()?;
            let status: Status = plane.get(client, "/api/v1/status").await?;
            let missing = match &status.config.version {
                _ if !status.config.valid => "its documents are not in force".to_owned(),
                None => "it has nothing in force".to_owned(),
                Some(version) if before == Some(version) => "it has not noticed the new documents".to_owned(),
                Some(version) => match in_sync(&status) {
                    number if number < sidecars.len() => {
                        format!("{number} of {} sidecars have accepted version {version}", sidecars.len())
                    }
                    _ => match not_ready(client, sidecars).await? {
                        None => return Ok(version.clone()),
                        Some(why) => why,
                    },
                },
            };
            if clock::now() >= deadline {
                bail!("not in sync after {} s: {missing}\n{}", SYNC_DEADLINE.as_secs(), status.summary());
            }
            tokio::time::sleep(SYNC_POLL).await;
        }
    }

    /// # Errors
    /// When a child has ended.
    pub(super) fn check(&mut self) -> anyhow::Result<()> {
        self.children.iter_mut().try_for_each(Child::check)
    }

    /// Ends all children, those that do not want to as well, and removes everything that was written.
    pub(super) async fn end(mut self) {
        for child in &self.children {
            child.terminate();
        }
        let deadline = clock::now() + END_DEADLINE;
        for child in &mut self.children {
            child.end(deadline).await;
        }
    }
}

impl Places {
    /// How many sidecars there are.
    pub(super) fn sidecars(&self) -> usize {
        self.sidecars.len()
    }
}

/// How many sidecars hold the newest version.
pub(super) fn in_sync(status: &Status) -> usize {
    let ours = |node: &str| node.ends_with(&format!(".{NAMESPACE}"));
    status.sidecars.iter().filter(|sidecar| sidecar.in_sync && ours(&sidecar.node)).count()
}

/// The first sidecar that is not ready, and why.
async fn not_ready(client: &HttpClient, sidecars: &[(String, Site)]) -> anyhow::Result<Option<String>> {
    for (name, site) in sidecars {
        let (status, page) = site.page(client, "/ready").await?;
        if status != StatusCode::OK {
            return Ok(Some(format!("{name} is not ready: {}", String::from_utf8_lossy(&page).trim())));
        }
    }
    Ok(None)
}

#[cfg(test)]
impl Places {
    /// Engines of these names alone.
    pub(super) fn of_engines(names: &[&str]) -> Self {
        let engine = |name: &&str| Engine {
            name: (*name).to_owned(),
            profile: "8b-h100",
            address: String::new(),
            site: Site::at("127.0.0.1:1"),
        };
        let (callers, sidecars) = (Vec::new(), Vec::new());
        Self {
            plane: Site::at("127.0.0.1:1"),
            engines: names.iter().map(engine).collect(),
            callers,
            sidecars,
            listed: Vec::new(),
        }
    }
}
