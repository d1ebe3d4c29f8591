//! One measurement: fresh processes, a warm-up, figures.

use std::path::Path;

use anyhow::{Context, bail};
use serde::Serialize;
use serde_json::Value;

use penstock_benches::child::{Child, Start, listening};
use penstock_benches::clock;
use penstock_benches::processes::{CpuTimes, Memory, machine_busy_seconds};
use penstock_benches::route::{Hops, Protocol};

use crate::chain::{Chain, Place, Route};
use crate::flags::Asked;
use crate::scenario::{Contender, Scenario, Unit};

/// With more than this of other processes a measurement is repeated.
pub(crate) const FOREIGN_CORES_MAX: f64 = 0.3;
const NS_PER_SECOND: f64 = 1e9;
const THOUSAND: f64 = 1_000.0;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Cell {
    pub(crate) scenario: Scenario,
    pub(crate) hops: Hops,
    pub(crate) contender: Contender,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figures {
    /// Requests, events or open streams.
    pub(crate) units: f64,
    pub(crate) seconds: f64,
    pub(crate) per_second: f64,
    /// Seconds of CPU of all proxies, user and system.
    pub(crate) cpu_seconds: f64,
    /// Milliseconds of CPU for 1,000 units.
    pub(crate) cpu_ms_per_thousand: f64,
    pub(crate) proxy_cores: f64,
    pub(crate) foreign_cores: f64,
    /// Of the proxies before there was any load.
    pub(crate) memory_before: Memory,
    /// Of the proxies at the end, or with all streams open.
    pub(crate) memory_after: Memory,
    /// What the load generator says.
    pub(crate) load: Value,
}

/// CPU times and clock at one moment.
struct Moment {
    at_ns: u64,
    proxies: CpuTimes,
    all: CpuTimes,
    busy_seconds: f64,
}

/// Measures, and once more if others disturbed: the quieter counts, whatever it shows.
pub(crate) async fn measure(place: &Place, cell: Cell, asked: &Asked) -> anyhow::Result<Figures> {
    let first = once(place, cell, asked).await?;
    if first.foreign_cores <= FOREIGN_CORES_MAX {
        return Ok(first);
    }
    let second = once(place, cell, asked).await?;
    Ok(if second.foreign_cores < first.foreign_cores { second } else { first })
}

async fn once(place: &Place, cell: Cell, asked: &Asked) -> anyhow::Result<Figures> {
    let dir = tempfile::Builder::new().prefix("penstock-bench-").tempdir()?;
    let (backend, at) = backend(place, cell.scenario.protocol(), dir.path()).await?;
    let route = Route { hops: cell.hops, protocol: cell.scenario.protocol(), backend: at };
    let mut chain = Chain::start(place, cell.contender, route, dir.path()).await?;
    chain.answers(route.protocol).await?;
    let figures = under_load(place, cell, asked, &chain, &backend, dir.path()).await?;
    chain.end().await?;
    backend.end().await?;
    Ok(figures)
}

async fn backend(
    place: &Place,
    protocol: Protocol,
    dir: &Path,
) -> anyhow::Result<(Child, std::net::SocketAddr)> {
    let program = place.ours.programs.join("penstock-backend");
    let mut child =
        Child::start(Start { name: "backend", program: &program, core: place.ours.load_core, dir }, &[])?;
    let said = child.first_line().await?;
    let listener = match protocol {
        Protocol::Http1 => "h1",
        Protocol::Http2 => "h2",
    };
    Ok((child, listening(&said, listener)?))
}

async fn under_load(
    place: &Place,
    cell: Cell,
    asked: &Asked,
    chain: &Chain,
    backend: &Child,
    dir: &Path,
) -> anyhow::Result<Figures> {
    let program = place.ours.programs.join("penstock-load");
    let mut arguments = vec!["--target".to_owned(), chain.target.to_string()];
    arguments.extend(cell.scenario.load(cell.hops, asked.measured, asked.idle_streams));
    let proxies = chain.proxy_ids();
    let memory_before = Memory::of(&proxies);
    let start = Start { name: "load", program: &program, core: place.ours.load_core, dir };
    let (mut load, mut lines) = Child::talking(start, &arguments)?;
    let mut own = chain.companion_ids();
    own.extend(&proxies);
    own.extend([backend.id(), load.id(), std::process::id()]);
    let (mut begin, mut end, mut report) = (None, None, None);
    while let Some(line) = lines.next_line().await? {
        let said: Value = serde_json::from_str(&line).with_context(|| format!("no JSON: {line}"))?;
        match said["phase"].as_str() {
            Some("begin") => begin = Some(Moment::now(&proxies, &own)),
            Some("end") => end = Some((Moment::now(&proxies, &own), Memory::of(&proxies))),
            Some(_) => {}
            None => report = Some(said),
        }
    }
    load.ended().await?;
    let (Some(begin), Some((end, memory_after)), Some(report)) = (begin, end, report) else {
        bail!("the load generator ended early: {}", load.log());
    };
    figures(cell.scenario.unit(), &begin, &end, (memory_before, memory_after), report)
}

impl Moment {
    fn now(proxies: &[u32], all: &[u32]) -> Self {
        Self {
            at_ns: clock::now_ns(),
            proxies: CpuTimes::of(proxies),
            all: CpuTimes::of(all),
            busy_seconds: machine_busy_seconds(),
        }
    }
}

fn figures(
    unit: Unit,
    begin: &Moment,
    end: &Moment,
    (memory_before, memory_after): (Memory, Memory),
    load: Value,
) -> anyhow::Result<Figures> {
    let count = match unit {
        Unit::Requests => &load["requests"],
        Unit::Chunks | Unit::Streams => &load["chunks"],
    };
    let units = count.as_f64().filter(|units| *units > 0.0);
    let units = units.with_context(|| format!("nothing was measured: {}", load["first_error"]))?;
    let wall = end.at_ns.saturating_sub(begin.at_ns) as f64 / NS_PER_SECOND;
    let seconds = load["seconds"].as_f64().context("no seconds")?;
    let cpu_seconds = end.proxies.seconds_since(&begin.proxies);
    let own = end.all.seconds_since(&begin.all);
    Ok(Figures {
        units,
        seconds,
        per_second: units / seconds,
        cpu_seconds,
        cpu_ms_per_thousand: cpu_seconds * THOUSAND * THOUSAND / units,
        proxy_cores: cpu_seconds / wall,
        foreign_cores: ((end.busy_seconds - begin.busy_seconds - own) / wall).max(0.0),
        memory_before,
        memory_after,
        load,
    })
}
