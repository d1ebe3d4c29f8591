//! The run: all cells, round by round.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use clap::ValueEnum;

use penstock_benches::machine::Machine;
use penstock_benches::route::Hops;
use penstock_benches::{limits, place};

use crate::certs::Pair;
use crate::chain::Place;
use crate::flags::Asked;
use crate::measure::{Cell, measure};
use crate::results::Results;
use crate::scenario::{Contender, Scenario};
use crate::tables;

/// Our own programs, which stand beside this one.
const PROGRAMS: [&str; 4] = ["penstock-proxy", "penstock-control-plane", "penstock-backend", "penstock-load"];
/// Descriptors of a process beside those of its streams.
const DESCRIPTORS_SPARE: u64 = 1_000;

/// Measures what was asked for; prints tables and writes the file.
///
/// # Errors
/// When a program of ours is missing or nothing can be measured.
pub(crate) async fn run(asked: &Asked) -> anyhow::Result<()> {
    let descriptors = limits::raise_descriptors()?;
    let mut asked = asked.clone();
    let mut results =
        Results { machine: Machine::here(descriptors), rounds: BTreeMap::new(), missing: Vec::new() };
    let dir = tempfile::Builder::new().prefix("penstock-bench-").tempdir()?;
    let place = place(&asked, dir.path())?;
    // A proxy has two for each stream.
    let streams = asked.idle_streams.min(descriptors.saturating_sub(DESCRIPTORS_SPARE) / 2);
    if streams < asked.idle_streams {
        results.missing.push(format!(
            "{streams} idle streams instead of {}: {descriptors} descriptors",
            asked.idle_streams
        ));
        asked.idle_streams = streams;
    }
    let contenders = contenders(&asked, &place, &mut results.missing);
    for scenario in chosen(&asked.scenarios) {
        rounds(&place, &asked, scenario, &contenders, &mut results).await;
    }
    say(&tables::all(&results));
    if let Some(file) = &asked.json {
        let text = format!("{:#}\n", results.json()?);
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

async fn rounds(
    place: &Place,
    asked: &Asked,
    scenario: Scenario,
    contenders: &[Contender],
    results: &mut Results,
) {
    let hops: Vec<Hops> = chosen(&asked.hops).into_iter().filter(|hops| scenario.takes(*hops)).collect();
    let wanted = |hops| asked.rounds.unwrap_or_else(|| scenario.rounds(hops));
    for round in 1..=hops.iter().map(|hops| wanted(*hops)).max().unwrap_or(0) {
        for hops in hops.iter().copied().filter(|hops| round <= wanted(*hops)) {
            let on_path = if hops == Hops::Direct { &[Contender::Direct] } else { contenders };
            for contender in on_path.iter().copied() {
                let cell = Cell { scenario, hops, contender };
                match measure(place, cell, asked).await {
                    Ok(figures) => {
                        note(&tables::progress(&cell, round, &figures));
                        results.rounds.entry(cell).or_default().push(figures);
                    }
                    Err(error) => {
                        let what = format!(
                            "{} / {hops:?} / {} round {round}: {error:#}",
                            scenario.name(),
                            contender.name()
                        );
                        note(&what);
                        results.missing.push(what);
                    }
                }
            }
        }
    }
}

/// All, unless some were named.
fn chosen<T: ValueEnum + Clone>(named: &[T]) -> Vec<T> {
    if named.is_empty() { T::value_variants().to_vec() } else { named.to_vec() }
}

/// Ours, and the peers that are there.
fn contenders(asked: &Asked, place: &Place, missing: &mut Vec<String>) -> Vec<Contender> {
    let mut there = vec![Contender::Ours];
    let wanted = |peer: &Contender| asked.contenders.is_empty() || asked.contenders.contains(peer);
    for peer in Contender::PEERS.into_iter().filter(wanted) {
        let program = place.peers.join(peer.name());
        if program.exists() {
            there.push(peer);
        } else {
            missing.push(format!(
                "{}: there is no {} (`make peers` installs what it can)",
                peer.name(),
                program.display()
            ));
        }
    }
    there
}

fn place(asked: &Asked, dir: &Path) -> anyhow::Result<Place> {
    let ours = place::Place::here(&PROGRAMS)?;
    let peers = std::path::absolute(&asked.peers_dir)?;
    Ok(Place { ours, peers, certs: Pair::make(dir)? })
}

#[expect(clippy::print_stdout, reason = "what this program is for")]
fn say(text: &str) {
    println!("{text}");
}

#[expect(clippy::print_stderr, reason = "a run takes minutes")]
fn note(text: &str) {
    eprintln!("{text}");
}
