//! What runs: engines, and in front of them a mesh or another router. All of it is begun anew for each run, so that caches are cold
//! and nothing is learned.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use penstock_benches::child::{Child, Start, free_address, listening};
use penstock_benches::h1::{self, Connection};
use penstock_benches::ours::{self, NAMESPACE, Sidecar};
use penstock_benches::page::Page;
use penstock_benches::place::Place;
use penstock_simulate::trace::BLOCK_TOKENS;

use crate::ask::MODEL;
use crate::flags::Asked;
use crate::plan::NOISE;
use crate::rival::{self, Rival};

/// Above all that is open in any run.
const REQUESTS_MAX: u32 = 100_000;
/// Some dozens of programs on two cores are up within this.
const START_MAX: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// See the module.
pub(crate) struct Stand {
    /// Where callers send their requests: to their own sidecars, or to the one router.
    pub(crate) doors: Vec<SocketAddr>,
    engines: Vec<Child>,
    addresses: Vec<SocketAddr>,
    front: Front,
}

enum Front {
    Mesh { plane: Child, servers: Vec<Sidecar>, callers: Vec<Sidecar> },
    Router(Child),
}

/// What processes of one kind together do.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub(crate) name: &'static str,
    pub(crate) ids: Vec<u32>,
}

impl Stand {
    /// Starts engines and a mesh, and waits until every sidecar is ready.
    ///
    /// # Errors
    /// When something does not come up.
    pub(crate) async fn mesh(place: &Place, asked: &Asked, dir: &Path) -> anyhow::Result<Self> {
        let (engines, addresses) = engines(place, asked, dir).await?;
        let inbound = addresses.iter().map(|_| free_address()).collect::<Result<Vec<_>, _>>()?;
        let mut plane = ours::start_plane(place, &documents(&addresses, &inbound), dir)?;
        let told = plane.first_line().await?;
        let (mut servers, mut callers, mut doors) = (Vec::new(), Vec::new(), Vec::new());
        for (number, (engine, listen)) in addresses.iter().zip(&inbound).enumerate() {
            let listener = json!({"inbound": {"listen": listen, "applications": [{"endpoint": engine}]}});
            let spot = (place, core(place, number));
            servers
                .push(ours::start_sidecar(spot, &format!("server-{number}"), &told, listener, dir).await?.0);
        }
        for number in 0..usize::from(asked.sidecars) {
            let listener = json!({"outbound": {"listen": "127.0.0.1:0"}});
            let spot = (place, core(place, number));
            let (sidecar, said) =
                ours::start_sidecar(spot, &format!("caller-{number}"), &told, listener, dir).await?;
            doors.push(listening(&said, "outbound")?);
            callers.push(sidecar);
        }
        let mut stand = Self { doors, engines, addresses, front: Front::Mesh { plane, servers, callers } };
        stand.is_ready().await?;
        Ok(stand)
    }

    /// Starts engines and another router, and waits until it answers for them.
    ///
    /// # Errors
    /// When something does not come up.
    pub(crate) async fn rival(
        place: &Place,
        asked: &Asked,
        rival: Rival,
        dir: &Path,
    ) -> anyhow::Result<Self> {
        let (engines, addresses) = engines(place, asked, dir).await?;
        let (mut router, at) = rival.start(place, &asked.peers_dir, &addresses, dir)?;
        for request in [h1::get(at, rival.page()), rival::probe(at)] {
            until_answered(&mut router, at, &request).await?;
        }
        Ok(Self { doors: vec![at], engines, addresses, front: Front::Router(router) })
    }

    async fn is_ready(&mut self) -> anyhow::Result<()> {
        let Front::Mesh { servers, callers, .. } = &mut self.front else { return Ok(()) };
        for sidecar in servers.iter_mut().chain(callers) {
            let ready = h1::get(sidecar.admin, "/ready");
            until_answered(&mut sidecar.process, sidecar.admin, &ready).await?;
        }
        Ok(())
    }

    /// Processes by kind.
    pub(crate) fn groups(&self) -> Vec<Group> {
        let of = |sidecars: &[Sidecar]| sidecars.iter().map(|sidecar| sidecar.process.id()).collect();
        let engines = Group { name: "engines", ids: self.engines.iter().map(Child::id).collect() };
        let mut groups = vec![engines];
        match &self.front {
            Front::Mesh { plane, servers, callers } => groups.extend([
                Group { name: "callers_sidecars", ids: of(callers) },
                Group { name: "engines_sidecars", ids: of(servers) },
                Group { name: "control_plane", ids: vec![plane.id()] },
            ]),
            Front::Router(router) => groups.push(Group { name: "router", ids: vec![router.id()] }),
        }
        groups
    }

    /// What programs have counted so far.
    ///
    /// # Errors
    /// When one does not say.
    pub(crate) async fn counts(&self) -> anyhow::Result<Counts> {
        let (servers, callers) = match &self.front {
            Front::Mesh { servers, callers, .. } => (admins(servers), admins(callers)),
            Front::Router(_) => Default::default(),
        };
        Ok(Counts {
            refusals: sum(&servers, "penstock_refusals_total", &["direction=\"inbound\""]).await?,
            questions: sum(&callers, "penstock_load_questions_total", &[]).await?,
            preemptions: sum(&self.addresses, "vllm:num_preemptions_total", &[]).await?,
        })
    }

    /// Ends everything.
    ///
    /// # Errors
    /// When something had ended before, or cannot be ended.
    pub(crate) async fn end(mut self) -> anyhow::Result<()> {
        let mut all: Vec<Child> = match self.front {
            Front::Mesh { plane, servers, callers } => {
                let sidecars = callers.into_iter().chain(servers).map(|sidecar| sidecar.process);
                sidecars.chain([plane]).collect()
            }
            Front::Router(router) => vec![router],
        };
        all.append(&mut self.engines);
        all.iter_mut().try_for_each(Child::check)?;
        for child in all {
            child.end().await?;
        }
        Ok(())
    }
}

/// What is counted where it happens, and not seen by whoever sends requests.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// By the engines' sidecars.
    pub(crate) refusals: u64,
    /// Endpoints that callers' sidecars asked how they stand.
    pub(crate) questions: u64,
    /// Requests that engines sent back to their queues.
    pub(crate) preemptions: u64,
}

fn admins(sidecars: &[Sidecar]) -> Vec<SocketAddr> {
    sidecars.iter().map(|sidecar| sidecar.admin).collect()
}

async fn sum(pages: &[SocketAddr], name: &str, labels: &[&str]) -> anyhow::Result<u64> {
    let mut sum = 0.0;
    for page in pages {
        sum += Page::of(*page).await?.count(name, labels);
    }
    Ok(sum as u64)
}

/// Programs take turns on the two cores; this one has its own beside them.
fn core(place: &Place, number: usize) -> usize {
    if number.is_multiple_of(2) { place.proxy_core } else { place.load_core }
}

async fn engines(place: &Place, asked: &Asked, dir: &Path) -> anyhow::Result<(Vec<Child>, Vec<SocketAddr>)> {
    let program = place.programs.join("penstock-engine");
    let (mut engines, mut addresses) = (Vec::new(), Vec::new());
    for number in 0..usize::from(asked.backends) {
        let name = format!("engine-{number}");
        let seed = asked.seed.wrapping_mul(1_000).wrapping_add(number as u64);
        let arguments = [
            ("--listen", "127.0.0.1:0".to_owned()),
            ("--profile", asked.profile.clone()),
            ("--model", MODEL.to_owned()),
            ("--noise", NOISE.to_string()),
            ("--seed", seed.to_string()),
            ("--block-size", BLOCK_TOKENS.to_string()),
        ];
        let arguments: Vec<String> =
            arguments.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect();
        let start = Start { name: &name, program: &program, core: core(place, number), dir };
        engines.push(Child::start(start, &arguments)?);
    }
    for engine in &mut engines {
        addresses.push(listening(&engine.first_line().await?, "http")?);
    }
    Ok((engines, addresses))
}

/// One Backend with all engines; everything else is as who writes nothing has it.
fn documents(engines: &[SocketAddr], inbound: &[SocketAddr]) -> String {
    let endpoints: Vec<Value> = engines
        .iter()
        .zip(inbound)
        .map(|(engine, sidecar)| json!({"address": engine.ip(), "port": engine.port(), "sidecar": sidecar}))
        .collect();
    let document = |kind: &str, spec: Value| {
        let metadata = json!({"name": MODEL, "namespace": NAMESPACE});
        json!({"apiVersion": "penstock.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec})
    };
    let backend = json!({"group": "penstock.dev", "kind": "Backend", "name": MODEL});
    let policy =
        json!({"targetRefs": [backend], "connectionPool": {"http": {"http2MaxRequests": REQUESTS_MAX}}});
    [document("Backend", json!({"default": true, "endpoints": endpoints})), document("BackendPolicy", policy)]
        .map(|document| format!("---\n{document:#}\n"))
        .concat()
}

/// Asks until the answer is 200.
async fn until_answered(child: &mut Child, at: SocketAddr, request: &[u8]) -> anyhow::Result<()> {
    let deadline = Instant::now() + START_MAX;
    loop {
        child.check()?;
        let answer = async { Connection::open(at).await?.exchange(request, |_| ()).await };
        match timeout(ANSWER_MAX, answer).await.context("nothing is answered").and_then(|answer| answer) {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() >= deadline => {
                bail!("not ready after {START_MAX:?}: {error:#}; {}", child.log());
            }
            Err(_) => sleep(POLL).await,
        }
    }
}
