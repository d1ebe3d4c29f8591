//! The proxies of one measurement: started, reachable, ended.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::time::{Instant, sleep, timeout};

use penstock_benches::child::{Child, Start, free_address};
use penstock_benches::h1::{self, Connection};
use penstock_benches::ours::{self, Application};
use penstock_benches::place;
use penstock_benches::route::{Hops, Protocol};
use penstock_benches::unary;

use crate::certs::{Files, Pair};
use crate::scenario::Contender;
use crate::{envoy, haproxy, nginx};

/// A proxy on a busy machine answers within this.
const DEADLINE: Duration = Duration::from_secs(30);
const ANSWER_DEADLINE: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(10);

/// Where programs, files and cores are.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) ours: place::Place,
    pub(crate) peers: PathBuf,
    pub(crate) certs: Pair,
}

/// What is measured through which proxies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route {
    pub(crate) hops: Hops,
    pub(crate) protocol: Protocol,
    pub(crate) backend: SocketAddr,
}

/// What runs.
#[derive(Debug)]
pub(crate) struct Chain {
    /// Where requests go.
    pub(crate) target: SocketAddr,
    /// What is measured.
    pub(crate) proxies: Vec<Child>,
    /// What they need.
    pub(crate) companions: Vec<Child>,
}

/// One proxy of a peer: from where to where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leg<'a> {
    pub(crate) listen: SocketAddr,
    pub(crate) from: Side<'a>,
    pub(crate) next: SocketAddr,
    pub(crate) to: Side<'a>,
}

/// What is spoken on one side of a proxy.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Side<'a> {
    Plain(Protocol),
    /// Mutual TLS with HTTP/2: own files, and who the other must be.
    Mutual(&'a Files, &'a str),
}

impl Chain {
    /// Starts what is asked for, with its files in `dir`.
    pub(crate) async fn start(
        place: &Place,
        contender: Contender,
        path: Route,
        dir: &Path,
    ) -> anyhow::Result<Self> {
        match contender {
            Contender::Direct => {
                Ok(Self { target: path.backend, proxies: Vec::new(), companions: Vec::new() })
            }
            Contender::Ours => our_own(place, path, dir).await,
            Contender::Envoy | Contender::Haproxy | Contender::Nginx => peer(place, contender, path, dir),
        }
    }

    /// Waits until a request gets an answer.
    pub(crate) async fn answers(&mut self, protocol: Protocol) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            for child in self.proxies.iter_mut().chain(&mut self.companions) {
                child.check()?;
            }
            let Err(error) = ask(self.target, protocol).await else { return Ok(()) };
            if begun.elapsed() > DEADLINE {
                let logs: Vec<String> = self.proxies.iter().map(Child::log).collect();
                bail!("no answer: {error:#}\n{}", logs.join("\n"));
            }
            sleep(POLL).await;
        }
    }

    pub(crate) fn proxy_ids(&self) -> Vec<u32> {
        self.proxies.iter().map(Child::id).collect()
    }

    pub(crate) fn companion_ids(&self) -> Vec<u32> {
        self.companions.iter().map(Child::id).collect()
    }

    pub(crate) async fn end(self) -> anyhow::Result<()> {
        for child in self.proxies.into_iter().chain(self.companions) {
            child.end().await?;
        }
        Ok(())
    }
}

async fn ask(target: SocketAddr, protocol: Protocol) -> anyhow::Result<()> {
    let asked = async {
        match protocol {
            Protocol::Http1 => {
                Connection::open(target).await?.exchange(&h1::get(target, "/small"), |_| ()).await
            }
            Protocol::Http2 => {
                let (mut sender, connection) = unary::connect(target).await?;
                tokio::select! {
                    called = unary::call(target, &mut sender) => called,
                    ended = connection => bail!("the connection has ended: {ended:?}"),
                }
            }
        }
    };
    timeout(ANSWER_DEADLINE, asked).await.context("no answer in time")?
}

async fn our_own(place: &Place, path: Route, dir: &Path) -> anyhow::Result<Chain> {
    let application = Application { name: "bench", protocol: path.protocol, at: path.backend };
    let ours = ours::start(&place.ours, path.hops, &[application], dir).await?;
    let proxies = ours.sidecars.into_iter().map(|sidecar| sidecar.process).collect();
    Ok(Chain { target: ours.target, proxies, companions: vec![ours.plane] })
}

fn peer(place: &Place, contender: Contender, path: Route, dir: &Path) -> anyhow::Result<Chain> {
    let target = free_address()?;
    let plain = Side::Plain(path.protocol);
    let legs = match path.hops {
        Hops::Two => {
            let between = free_address()?;
            let (caller, server) = (&place.certs.caller, &place.certs.server);
            vec![
                Leg {
                    listen: target,
                    from: plain,
                    next: between,
                    to: Side::Mutual(caller, crate::certs::SERVER),
                },
                Leg {
                    listen: between,
                    from: Side::Mutual(server, crate::certs::CALLER),
                    next: path.backend,
                    to: plain,
                },
            ]
        }
        Hops::One | Hops::Direct => vec![Leg { listen: target, from: plain, next: path.backend, to: plain }],
    };
    let mut proxies = Vec::new();
    for (number, leg) in legs.iter().enumerate() {
        let name = format!("{}-{number}", contender.name());
        let config = dir.join(format!("{name}.conf"));
        let (text, arguments) = match contender {
            Contender::Envoy => (envoy::config(leg), envoy::arguments(&config)),
            Contender::Haproxy => (haproxy::config(leg), haproxy::arguments(&config)),
            _ => (nginx::config(leg, dir, &name), nginx::arguments(&config, dir)),
        };
        std::fs::write(&config, text)?;
        let program = place.peers.join(contender.name());
        let start = Start { name: &name, program: &program, core: place.ours.proxy_core, dir };
        proxies.push(Child::start(start, &arguments)?);
    }
    Ok(Chain { target, proxies, companions: Vec::new() })
}
