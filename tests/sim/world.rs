//! A whole mesh in this process: control plane, sidecars and model servers as they are, on one thread, over a network in memory
//! under a paused clock. The same over sockets, in real time, tells whether the memory tells the truth.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use penstock_control_plane::{self as plane, Flags, LogFormat};
use penstock_engine::clock::Clock;
use penstock_engine::server::{Options, Server};
use penstock_proxy::app::{self, App};
use penstock_proxy::lifecycle::Drained;
use penstock_proxy::network::Network;
use penstock_proxy::vitals::{InUse, Vitals};
use penstock_proxy::{clock, seed};
use penstock_tests::client::{Connection, Version};
use penstock_tests::documents::{self, Document, Endpoint};
use penstock_tests::memory::{Cut, Listener, Memory, Plan as Trouble, Way};
use penstock_tests::sockets::Sockets;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

/// When every simulation begins, since 1970: certificates are dated from here.
const BEGINNING: Duration = Duration::from_secs(1_800_000_000);
const DAY_SECONDS: u64 = 86_400;
/// Far more than anything here takes that is no defect.
const PATIENCE: Duration = Duration::from_secs(600);

/// What carries the bytes, and with it what time is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// Pipes, under a paused clock.
    Memory,
    /// Sockets, in real time.
    Sockets,
}

/// A mesh.
pub(crate) struct World {
    /// The network, where it is one in memory.
    pub(crate) memory: Memory,
    /// Model servers, with the names of their workloads.
    pub(crate) engines: Vec<(String, Server)>,
    /// Sidecars.
    pub(crate) sidecars: Vec<Sidecar>,
    network: Arc<dyn Network>,
    sockets: Sockets,
    plane: Running<()>,
    dir: TempDir,
}

/// A sidecar that runs.
pub(crate) struct Sidecar {
    /// Name of its workload.
    pub(crate) name: String,
    /// For requests of its workload.
    pub(crate) outbound: Option<SocketAddr>,
    /// For requests to its workload.
    pub(crate) inbound: Option<SocketAddr>,
    /// What of it is in use.
    pub(crate) vitals: Vitals,
    running: Running<Drained>,
}

struct Running<T> {
    stop: oneshot::Sender<()>,
    ended: JoinHandle<T>,
}

/// What is to be built before it runs.
pub(crate) struct Plan {
    seed: u64,
    beginning: Duration,
    transport: Transport,
    served: Vec<(String, String)>,
    applications: Vec<(String, SocketAddr, &'static str)>,
    callers: Vec<String>,
    logs: Logs,
    scrapes: Scrapes,
    documents: Box<Writer>,
    memory: Memory,
}

/// Documents by what serves them: names of workloads and where they are.
type Writer = dyn Fn(&[(String, Endpoint)]) -> Vec<Document>;

/// Whether sidecars write access logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Logs {
    /// They do.
    Kept,
    /// They do not.
    Off,
}

/// Whether sidecars read the metrics of model servers. A scrape is one more connection, and where connections are broken by their number
/// that would be the wrong one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scrapes {
    /// They do.
    On,
    /// They do not.
    Off,
}

#[derive(Parser)]
#[command(no_binary_name = true)]
struct Words {
    #[command(flatten)]
    options: Options,
}

/// Runs `scenario` on one thread, in time that only passes when nothing else can happen; then nothing of it may be left.
pub(crate) fn simulate<T>(transport: Transport, scenario: impl AsyncFnOnce() -> T) -> T {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .start_paused(transport == Transport::Memory)
        .build()
        .expect("a runtime");
    runtime.block_on(scenario())
}

impl Plan {
    /// One control plane, and nothing yet beside it. Call it inside [`simulate`].
    pub(crate) fn new(transport: Transport, seed: u64) -> Self {
        seed::simulate(seed);
        plane::simulate_draws(seed);
        let plan = Self {
            seed,
            beginning: BEGINNING,
            transport,
            served: Vec::new(),
            applications: Vec::new(),
            callers: Vec::new(),
            logs: Logs::Off,
            scrapes: Scrapes::Off,
            documents: Box::new(one_backend_each),
            memory: Memory::default(),
        };
        plan.begin_at(BEGINNING)
    }

    /// It begins so long before a midnight, at which keys of prefix digests change.
    #[must_use]
    pub(crate) fn before_midnight(self, span: Duration) -> Self {
        let midnight = Duration::from_secs(BEGINNING.as_secs().next_multiple_of(DAY_SECONDS));
        self.begin_at(midnight - span)
    }

    fn begin_at(self, beginning: Duration) -> Self {
        clock::simulate(beginning);
        plane::simulate_time(beginning);
        Self { beginning, ..self }
    }

    /// The network, to open listeners of the test's own on.
    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// A model server with these words on its command line, and a sidecar in front of it.
    #[must_use]
    pub(crate) fn serve(mut self, name: &str, words: &str) -> Self {
        self.served.push((name.to_owned(), words.to_owned()));
        self
    }

    /// A sidecar in front of an application of the test's own, which speaks `http` or `h2c`.
    #[must_use]
    pub(crate) fn before(mut self, name: &str, address: SocketAddr, protocol: &'static str) -> Self {
        self.applications.push((name.to_owned(), address, protocol));
        self
    }

    /// A sidecar beside a caller.
    #[must_use]
    pub(crate) fn caller(mut self, name: &str) -> Self {
        self.callers.push(name.to_owned());
        self
    }

    /// Sidecars write access logs.
    #[must_use]
    pub(crate) fn logs(mut self) -> Self {
        self.logs = Logs::Kept;
        self
    }

    /// Sidecars read the metrics of model servers.
    #[must_use]
    pub(crate) fn scrapes(mut self) -> Self {
        self.scrapes = Scrapes::On;
        self
    }

    /// Documents by what serves; otherwise each workload is a Backend of its name, the first one the default.
    #[must_use]
    pub(crate) fn documents(
        mut self,
        made: impl Fn(&[(String, Endpoint)]) -> Vec<Document> + 'static,
    ) -> Self {
        self.documents = Box::new(made);
        self
    }

    /// Builds it, runs it, and waits until every sidecar is ready.
    pub(crate) async fn start(self) -> World {
        let (world, documents) = self.build().await;
        drop(documents);
        let waiting = timeout(PATIENCE, async {
            while !world.sidecars.iter().all(|sidecar| sidecar.vitals.is_ready()) {
                sleep(Duration::from_millis(1)).await;
            }
        });
        waiting.await.expect("every sidecar becomes ready");
        world
    }

    async fn build(self) -> (World, Vec<Document>) {
        let dir = tempfile::Builder::new().prefix("penstock-sim-").tempdir().expect("a directory");
        let sockets = Sockets::default();
        let network: Arc<dyn Network> = match self.transport {
            Transport::Memory => Arc::new(self.memory.clone()),
            Transport::Sockets => Arc::new(sockets.clone()),
        };
        let plane_doors = Doors::open(&self).await;
        let plane_address = plane_doors.address();
        self.memory.name(plane_address, "control plane");

        let (mut engines, mut apps, mut endpoints) = (Vec::new(), Vec::new(), Vec::new());
        for (name, words) in &self.served {
            let engine = self.engine(words).await;
            self.memory.name(engine.address(), &format!("engine of {name}"));
            let metrics = json!({"scrape": self.scrapes == Scrapes::On});
            let inbound = json!([{"endpoint": engine.address(), "metrics": metrics}]);
            let app = self.inbound(&dir, plane_address, name, inbound, &network).await;
            endpoints.push((name.clone(), endpoint(engine.address(), &app)));
            engines.push((name.clone(), engine));
            apps.push((name.clone(), app));
        }
        for (name, address, protocol) in &self.applications {
            let metrics = json!({"scrape": false});
            let inbound = json!([{"endpoint": address, "protocol": protocol, "metrics": metrics}]);
            let app = self.inbound(&dir, plane_address, name, inbound, &network).await;
            endpoints.push((name.clone(), endpoint(*address, &app)));
            apps.push((name.clone(), app));
        }
        for name in &self.callers {
            let spec = json!({"outbound": {"listen": "127.0.0.1:0"}});
            let app = self.sidecar(&dir, plane_address, name, spec, &network).await;
            apps.push((name.clone(), app));
        }
        let documents = (self.documents)(&endpoints);
        std::fs::create_dir(dir.path().join("documents")).expect("a directory");
        let text = documents::file(&documents);
        std::fs::write(dir.path().join("documents/mesh.yaml"), text).expect("documents");
        let plane = plane_doors.serve(&dir).await;
        let sidecars = apps.into_iter().map(|(name, app)| self.run(name, app)).collect();
        let world = World { memory: self.memory.clone(), engines, sidecars, network, sockets, plane, dir };
        (world, documents)
    }

    async fn engine(&self, words: &str) -> Server {
        let words = Words::try_parse_from(words.split_whitespace()).expect("options of an engine");
        let options = Options { seed: self.seed, ..words.options };
        let clock = Clock::start_at(self.beginning);
        match self.transport {
            Transport::Memory => {
                Server::start_on(options, self.memory.listen_on(any()).expect("a port"), clock)
            }
            Transport::Sockets => {
                Server::start_on(options, TcpListener::bind(any()).await.expect("a port"), clock)
            }
        }
        .expect("an engine")
    }

    async fn inbound(
        &self,
        dir: &TempDir,
        plane: SocketAddr,
        name: &str,
        applications: Value,
        network: &Arc<dyn Network>,
    ) -> App {
        let spec = json!({"inbound": {"listen": "127.0.0.1:0", "applications": applications}});
        self.sidecar(dir, plane, name, spec, network).await
    }

    async fn sidecar(
        &self,
        dir: &TempDir,
        plane: SocketAddr,
        name: &str,
        mut spec: Value,
        network: &Arc<dyn Network>,
    ) -> App {
        let log = if self.logs == Logs::Kept { format!("{name}.access.log") } else { "off".to_owned() };
        spec["admin"] = json!({"listen": "127.0.0.1:0"});
        spec["accessLog"] = json!({"path": log});
        spec["identity"] = json!({"serviceAccount": name});
        spec["controlPlane"] = json!({
            "address": plane,
            "trustBundleFile": dir.path().join("state/root.pem"),
            "tokenFile": dir.path().join("state/join-token"),
        });
        let document = json!({
            "apiVersion": "penstock.dev/v1alpha1", "kind": "ProxyConfig", "metadata": {"name": name}, "spec": spec,
        });
        let path = dir.path().join(format!("{name}.yaml"));
        std::fs::write(&path, format!("{document:#}")).expect("a ProxyConfig");
        let settings = app::settings(&path).expect("settings");
        App::build_with(settings, Arc::clone(network)).await.expect("a sidecar")
    }

    fn run(&self, name: String, app: App) -> Sidecar {
        let (outbound, inbound, vitals) = (app.outbound(), app.inbound(), app.vitals());
        for address in outbound.iter().chain(&inbound) {
            self.memory.name(*address, &format!("sidecar of {name}"));
        }
        let running = run(|stopped| async move {
            app.run(async { drop(stopped.await) }).await.expect("a sidecar that runs")
        });
        Sidecar { name, outbound, inbound, vitals, running }
    }
}

impl World {
    /// The sidecar of this workload.
    pub(crate) fn sidecar(&self, name: &str) -> &Sidecar {
        self.sidecars.iter().find(|sidecar| sidecar.name == name).expect("a sidecar of that name")
    }

    /// Stops the sidecar of this workload, and gives how its drain ended.
    pub(crate) async fn stop(&mut self, name: &str) -> Drained {
        let place = self.sidecars.iter().position(|sidecar| sidecar.name == name).expect("a sidecar");
        let Sidecar { running, .. } = self.sidecars.remove(place);
        running.end().await
    }

    /// The model server of this name.
    pub(crate) fn engine(&self, name: &str) -> &Server {
        &self.engines.iter().find(|(known, _)| known == name).expect("an engine of that name").1
    }

    /// Where the workload `name` sends its requests.
    pub(crate) fn outbound(&self, name: &str) -> SocketAddr {
        self.sidecar(name).outbound.expect("a sidecar of a caller")
    }

    /// Where the control plane keeps its authority.
    pub(crate) fn authority(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// Opens a connection of the caller `name` to its own sidecar.
    pub(crate) async fn connect(&self, name: &str, version: Version) -> Connection {
        self.try_connect(name, version).await.expect("a connection")
    }

    /// The same where it may break at once.
    pub(crate) async fn try_connect(&self, name: &str, version: Version) -> anyhow::Result<Connection> {
        let address = self.outbound(name);
        let stream = self.network.dial(address).await?;
        Ok(Connection::try_over(version, stream, address.to_string()).await?)
    }

    /// The next connection to any of `addresses` is reset after so many bytes in that way.
    pub(crate) fn cut(&self, addresses: &[SocketAddr], way: Way, bytes: u64) {
        self.memory.plan(addresses, Trouble::cut(way, bytes, Cut::Reset));
        self.sockets.cut(addresses, way, bytes);
    }

    /// What requests hold in any sidecar.
    pub(crate) fn in_use(&self) -> Vec<(String, InUse)> {
        self.sidecars.iter().map(|sidecar| (sidecar.name.clone(), sidecar.vitals.in_use())).collect()
    }

    /// Whether no request holds anything anywhere.
    pub(crate) fn is_quiet(&self) -> bool {
        let sidecars = self.sidecars.iter().all(|sidecar| sidecar.vitals.in_use() == InUse::default());
        let engines = self.engines.iter().map(|(_, engine)| engine.load());
        sidecars && engines.into_iter().all(|load| load.running == 0 && load.waiting == 0)
    }

    /// Requests that engines have accepted so far, all together.
    pub(crate) fn accepted(&self) -> u64 {
        self.engines.iter().map(|(_, engine)| engine.load().accepted).sum()
    }

    /// Waits until no request holds anything; gives how long that took.
    ///
    /// # Panics
    /// When something is still held after `limit`.
    pub(crate) async fn quiet_within(&self, limit: Duration, what: &str) -> Duration {
        let begun = Instant::now();
        while !self.is_quiet() {
            assert!(begun.elapsed() < limit, "{what}: held after {limit:?}: {}", self.report());
            sleep(Duration::from_millis(1)).await;
        }
        begun.elapsed()
    }

    fn report(&self) -> String {
        let engines: Vec<_> = self.engines.iter().map(|(name, engine)| (name, engine.load())).collect();
        format!("{:?}, engines {engines:?}", self.in_use())
    }

    /// Stops everything, sidecars of callers first, and checks that nothing is left. Gives the access logs, by workload.
    pub(crate) async fn end(self) -> Vec<(String, String)> {
        self.quiet_within(PATIENCE, "at the end").await;
        let Self { memory, engines, sidecars, plane, dir, .. } = self;
        let mut names = Vec::new();
        for sidecar in sidecars.into_iter().rev() {
            let Sidecar { name, running, vitals, .. } = sidecar;
            drop(vitals);
            assert_eq!(running.end().await, Drained::All, "{name}");
            names.push(name);
        }
        plane.end().await;
        drop(engines);
        let gone = timeout(PATIENCE, async {
            while Handle::current().metrics().num_alive_tasks() > 0 || memory.open() > 0 {
                sleep(Duration::from_millis(1)).await;
            }
        });
        if gone.await.is_err() {
            let tasks = Handle::current().metrics().num_alive_tasks();
            panic!("left over: {tasks} tasks, {} links", memory.open());
        }
        names.reverse();
        let log = |name: &String| {
            let path: PathBuf = dir.path().join(format!("{name}.access.log"));
            std::fs::read_to_string(path).unwrap_or_default()
        };
        names.iter().map(|name| (name.clone(), log(name))).collect()
    }
}

impl<T> Running<T> {
    async fn end(self) -> T {
        // One that has ended by itself is joined all the same.
        let _told = self.stop.send(());
        let ended = timeout(PATIENCE, self.ended).await.expect("it ends when it is told to");
        ended.expect("it ends without a panic")
    }
}

#[expect(clippy::disallowed_methods, reason = "the world joins what it runs")]
fn run<T: Send + 'static, W: Future<Output = T> + Send + 'static>(
    work: impl FnOnce(oneshot::Receiver<()>) -> W,
) -> Running<T> {
    let (stop, stopped) = oneshot::channel();
    Running { stop, ended: tokio::spawn(work(stopped)) }
}

/// The listeners of a control plane.
enum Doors {
    Memory(Listener, Listener),
    Sockets(TcpListener, TcpListener),
}

impl Doors {
    async fn open(plan: &Plan) -> Self {
        match plan.transport {
            Transport::Memory => {
                let open = || plan.memory.listen_on(any()).expect("a port");
                Self::Memory(open(), open())
            }
            Transport::Sockets => {
                let open = || async { TcpListener::bind(any()).await.expect("a port") };
                Self::Sockets(open().await, open().await)
            }
        }
    }

    fn address(&self) -> SocketAddr {
        match self {
            Self::Memory(grpc, _) => grpc.address(),
            Self::Sockets(grpc, _) => grpc.local_addr().expect("an address"),
        }
    }

    async fn serve(self, dir: &TempDir) -> Running<()> {
        let flags = Flags {
            config: dir.path().join("documents"),
            state_dir: dir.path().join("state"),
            listen: any(),
            admin: any(),
            trust_domain: "cluster.local".to_owned(),
            leaf_ttl: Duration::from_secs(86_400),
            join_token_file: None,
            log_format: LogFormat::Text,
            log_level: "error".to_owned(),
        };
        match self {
            Self::Memory(grpc, admin) => serve(plane::App::start_on(&flags, grpc, admin).await),
            Self::Sockets(grpc, admin) => serve(plane::App::start_on(&flags, grpc, admin).await),
        }
    }
}

fn serve<L: axum::serve::Listener<Addr = SocketAddr>>(
    started: Result<plane::App<L>, impl std::fmt::Debug>,
) -> Running<()> {
    let app = started.expect("a control plane");
    run(|stopped| async move {
        app.run(async { drop(stopped.await) }).await.expect("a control plane that runs");
    })
}

fn any() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn endpoint(address: SocketAddr, app: &App) -> Endpoint {
    Endpoint { address, sidecar: app.inbound() }
}

fn one_backend_each(served: &[(String, Endpoint)]) -> Vec<Document> {
    let backend = |(number, (name, endpoint)): (usize, &(String, Endpoint))| {
        documents::backend(name, &[*endpoint]).with("default", number == 0)
    };
    served.iter().enumerate().map(backend).collect()
}
