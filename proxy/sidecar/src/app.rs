//! Wiring: the only place where the parts meet.

use std::collections::HashSet;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use penstock_model::Source as Document;
use penstock_model::settings::{Outbound, ProxySettings};
use penstock_policy::resolution::Bounds;
use pingora_timeout::fast_timeout::set_fast_timeout_to_tokio_threshold;
use serde_json::{Map, json};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

use crate::admin::Admin;
use crate::fleet::probe::{self, Prober};
use crate::fleet::{names, resolver};
use crate::http::Shared;
use crate::identity::{self, Identity};
use crate::lifecycle::{self, Drained, Readiness};
use crate::listen::conn::Direction;
use crate::listen::{self, Listener};
use crate::live::Live;
use crate::load::engines::Engines;
use crate::load::follow::Follower;
use crate::log::Log;
use crate::network::{Accept, Network};
use crate::scrape::{Scraper, Scrapes};
use crate::settings::{Reload, Settings};
use crate::sync::Sync;
use crate::tasks::Tasks;
use crate::telemetry::Telemetry;
use crate::upstream::dial::{Dial, Tcp};
use crate::upstream::place::Place;
use crate::upstream::pool::Pool;
use crate::upstream::session::Means;
use crate::upstream::upload::BodyBudget;
use crate::vitals::Vitals;

/// Reads the ProxyConfig in `path`.
///
/// # Errors
/// Everything that is wrong with it, with file, line and column.
pub fn settings(path: &Path) -> anyhow::Result<ProxySettings> {
    let text = std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let document = Document { file: path.display().to_string(), text };
    let dir = path.parent().unwrap_or(Path::new("."));
    match penstock_model::compile_proxy(&[document], dir) {
        Ok((settings, warnings)) => {
            for warning in warnings {
                tracing::warn!("{warning}");
            }
            Ok(settings)
        }
        Err(findings) => {
            let all: Vec<String> = findings.iter().map(ToString::to_string).collect();
            bail!("{}", all.join("\n"))
        }
    }
}

/// A sidecar with its sockets open and nothing served yet.
pub struct App {
    settings: Arc<Settings>,
    network: Arc<dyn Network>,
    shared: Arc<Shared>,
    identity: Arc<Identity>,
    sync: Sync,
    pool: Arc<Pool>,
    stopping: watch::Sender<bool>,
    over: watch::Sender<bool>,
    sockets: Sockets,
    connections: Tasks,
    background: Tasks,
}

/// Idle connections are looked through this often.
const IDLE_LOOK_INTERVAL: Duration = Duration::from_secs(30);

struct Sockets {
    outbound: Option<Box<dyn Accept>>,
    inbound: Option<Box<dyn Accept>>,
    admin: Box<dyn Accept>,
}

impl App {
    /// Opens everything.
    ///
    /// # Errors
    /// When an address cannot be bound or the access log cannot be opened.
    pub async fn build(settings: ProxySettings) -> anyhow::Result<Self> {
        Self::build_with(settings, Arc::new(Tcp)).await
    }

    /// Opens everything, with a network of the caller's choice.
    ///
    /// # Errors
    /// As for [`build`](Self::build).
    pub async fn build_with(settings: ProxySettings, network: Arc<dyn Network>) -> anyhow::Result<Self> {
        // pingora's own timers run on a thread with 10 ms ticks and keep cancelled timers until they are due.
        set_fast_timeout_to_tokio_threshold(Some(Duration::ZERO));
        let telemetry = Telemetry::new(&settings.access_log)?;
        let sockets = Sockets::open(&settings, &*network).await?;
        let (connections, background) = (Tasks::default(), Tasks::default());
        let live = Arc::new(Live::default());
        let identity = Identity::new();
        let (workload, limits) = (settings.workload.clone(), settings.limits.clone());
        let scrapes = Arc::new(Scrapes::default());
        scrapes.adopt(&settings);
        let settings = Settings::new(settings);
        let sync = Sync::new(&settings, &live, &telemetry);
        let dial: Arc<dyn Dial> = Arc::clone(&network) as _;
        let pool = Arc::new(Pool::new(dial, &identity, background.clone(), Arc::clone(&telemetry))?);
        let (over, ends) = watch::channel(false);
        let (stopping, draining) = watch::channel(false);
        let follower = Follower::new(Arc::clone(&pool), background.clone());
        let means =
            Means { pool: Arc::clone(&pool), follower, telemetry: Arc::clone(&telemetry), over: ends };
        let shared = Arc::new(Shared {
            body_budget: BodyBudget::new(limits.body_held_bytes_total_max),
            workload,
            settings: Arc::clone(&settings),
            live,
            telemetry,
            identity: Arc::clone(&identity),
            engines: Engines::new(Arc::clone(&scrapes), draining.clone()),
            scrapes,
            draining,
            means: Arc::new(means),
        });
        Ok(Self {
            settings,
            network,
            shared,
            identity,
            sync,
            pool,
            stopping,
            over,
            sockets,
            connections,
            background,
        })
    }

    /// Where the workload's requests are taken, if they are.
    pub fn outbound(&self) -> Option<SocketAddr> {
        self.sockets.outbound.as_ref().and_then(|socket| socket.local().ok())
    }

    /// Where requests for the workload are taken, if they are.
    pub fn inbound(&self) -> Option<SocketAddr> {
        self.sockets.inbound.as_ref().and_then(|socket| socket.local().ok())
    }

    /// Where the admin pages are.
    pub fn admin(&self) -> Option<SocketAddr> {
        self.sockets.admin.local().ok()
    }

    /// To look into it while it runs.
    pub fn vitals(&self) -> Vitals {
        Vitals {
            shared: Arc::clone(&self.shared),
            identity: Arc::clone(&self.identity),
            pool: Arc::clone(&self.pool),
            connections: self.connections.clone(),
            background: self.background.clone(),
        }
    }

    /// Says on standard output where it listens, as one line of JSON.
    ///
    /// # Errors
    /// When standard output is closed.
    pub fn announce(&self) -> anyhow::Result<()> {
        let mut listening = Map::new();
        let all = [
            ("outbound", self.sockets.outbound.as_ref()),
            ("inbound", self.sockets.inbound.as_ref()),
            ("admin", Some(&self.sockets.admin)),
        ];
        for (name, socket) in all {
            if let Some(socket) = socket {
                listening.insert(name.to_owned(), json!(socket.local()?));
            }
        }
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}", json!({ "listening": listening }))?;
        out.flush()?;
        Ok(())
    }

    /// Counts panics of the whole process beside printing them: each costs one request.
    pub fn count_panics(&self) {
        let print = std::panic::take_hook();
        let telemetry = Arc::clone(&self.shared.telemetry);
        std::panic::set_hook(Box::new(move |panic| {
            telemetry.metrics.panics.inc();
            print(panic);
        }));
    }

    /// Serves until `stop` is over, then drains.
    ///
    /// # Errors
    /// When TLS cannot be set up, a build defect.
    pub async fn run(self, stop: impl Future<Output = ()>) -> anyhow::Result<Drained> {
        let stopped = self.stopping.subscribe();
        let (ending, ended) = watch::channel(false);
        let tls = listen::mutual_tls(&self.identity)?;
        self.background.spawn("identity", self.identified());
        let readiness = Readiness::new(
            self.sync.clone(),
            Arc::clone(&self.identity),
            Arc::clone(&self.settings),
            Arc::clone(&self.shared.live),
            stopped.clone(),
        );
        self.watch_endpoints();
        self.watch_applications();
        let (shared, sync) = (Arc::clone(&self.shared), self.sync.clone());
        let admin = Admin { shared, readiness, sync, identity: Arc::clone(&self.identity) };
        self.background.spawn("admin", admin.run(self.sockets.admin, self.background.clone(), ended));
        self.background.spawn("pool", tidy(Arc::clone(&self.pool), Arc::clone(&self.shared)));
        self.sync.start(self.network, Arc::clone(&self.identity), &self.background);
        let serve = |direction, tls: Option<TlsAcceptor>| Listener {
            direction,
            tls,
            shared: Arc::clone(&self.shared),
            tasks: self.connections.clone(),
        };
        if let Some(socket) = self.sockets.outbound {
            let listener = serve(Direction::Outbound, None);
            self.background.spawn("outbound", listener.run(socket, stopped.clone()));
        }
        if let Some(socket) = self.sockets.inbound {
            let listener = serve(Direction::Inbound, Some(tls));
            self.background.spawn("inbound", listener.run(socket, stopped));
        }

        stop.await;
        let deadline = self.settings.load().drain_deadline;
        tracing::info!(?deadline, "draining: no new work, streams finish");
        self.stopping.send_replace(true);
        let drained = lifecycle::drain(&self.connections, deadline, &self.over).await;
        ending.send_replace(true);
        self.background.cut();
        self.shared.telemetry.close();
        Ok(drained)
    }
}

impl App {
    /// Reads the ProxyConfig in `file` again whenever it changes.
    pub fn follow(&self, file: PathBuf, log: Log) {
        let reload = Reload {
            file,
            settings: Arc::clone(&self.settings),
            telemetry: Arc::clone(&self.shared.telemetry),
            body_budget: Arc::clone(&self.shared.body_budget),
            log,
        };
        self.background.spawn("settings", reload.run());
    }

    /// Keeps the certificate and the roots fresh.
    fn identified(&self) -> impl Future<Output = ()> + Send + 'static {
        let (settings, network) = (Arc::clone(&self.settings), Arc::clone(&self.network));
        let (identity, telemetry) = (Arc::clone(&self.identity), Arc::clone(&self.shared.telemetry));
        let source = |settings: &ProxySettings| {
            (settings.certificates.clone(), settings.control_plane.clone(), settings.documents.is_some())
        };
        async move {
            let follow = |settings| {
                identity::follow(
                    settings,
                    Arc::clone(&network),
                    Arc::clone(&identity),
                    Arc::clone(&telemetry),
                )
            };
            settings.each(source, follow).await;
        }
    }

    /// Looks names of endpoints up, and asks endpoints whether they are ready. Only those who send to Backends need either.
    fn watch_endpoints(&self) {
        if self.sockets.outbound.is_none() {
            return;
        }
        let live = || Arc::clone(&self.shared.live);
        let telemetry = || Arc::clone(&self.shared.telemetry);
        let (settings, named, told) = (Arc::clone(&self.settings), live(), telemetry());
        self.background.spawn("names", async move {
            let follow = |settings: Arc<ProxySettings>| {
                let dns = &settings.dns;
                let follower = names::Follower {
                    live: Arc::clone(&named),
                    resolver: resolver::of(dns),
                    bounds: Bounds { ttl_min: dns.ttl_min, ttl_max: dns.ttl_max },
                    telemetry: Arc::clone(&told),
                };
                follower.run()
            };
            settings.each(|settings| settings.dns.clone(), follow).await;
        });
        let tasks = self.background.clone();
        let prober = Prober::new(live(), Arc::clone(&self.pool), telemetry(), tasks);
        self.background.spawn("health checks", prober.run());
    }

    /// Reads what applications say of their load.
    fn watch_applications(&self) {
        if self.sockets.inbound.is_some() {
            let scraper = Scraper {
                settings: Arc::clone(&self.settings),
                scrapes: Arc::clone(&self.shared.scrapes),
                pool: Arc::clone(&self.pool),
                telemetry: Arc::clone(&self.shared.telemetry),
            };
            self.background.spawn("scrapes", scraper.run());
        }
    }
}

impl Sockets {
    async fn open(settings: &ProxySettings, network: &dyn Network) -> anyhow::Result<Self> {
        let outbound = match &settings.outbound {
            Some(Outbound { listen }) => Some(listen::bind(network, "outbound", *listen).await?),
            None => None,
        };
        let inbound = match &settings.inbound {
            Some(inbound) => Some(listen::bind(network, "inbound", inbound.listen).await?),
            None => None,
        };
        Ok(Self { outbound, inbound, admin: listen::bind(network, "admin", settings.admin).await? })
    }
}

/// Lets go of connections to places that are no longer in the fleet, to applications that are no longer served, and of idle ones. Until
/// it is cut.
#[expect(
    clippy::mutable_key_type,
    reason = "an origin is told by its place in memory, not by what it has read"
)]
async fn tidy(pool: Arc<Pool>, shared: Arc<Shared>) {
    let (mut published, mut settings) = (shared.live.watch(), shared.settings.watch());
    loop {
        tokio::select! {
            Ok(()) = published.changed() => {}
            Ok(()) = settings.changed() => {}
            () = sleep(IDLE_LOOK_INTERVAL) => {}
        }
        let settings = shared.settings.load();
        let fleet = shared.live.load();
        let mut wanted = HashSet::new();
        for application in settings.inbound.iter().flat_map(|inbound| &inbound.applications) {
            wanted.insert(Place::of_application(application));
            wanted.extend(application.metrics.as_ref().map(Place::of_metrics));
        }
        for backend in fleet.backends() {
            for state in &backend.endpoints {
                wanted.insert(Place::of_endpoint(backend, &state.endpoint));
                wanted.extend(
                    backend.health_check_of(&state.endpoint).map(|check| probe::place(backend, state, check)),
                );
            }
        }
        pool.retain(|place| wanted.contains(place));
        let served = |address| {
            let mut applications = settings.inbound.iter().flat_map(|inbound| &inbound.applications);
            applications.any(|application| application.endpoint == address)
        };
        shared.engines.retain(served);
    }
}
