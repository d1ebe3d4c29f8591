//! Everything against everything: policies, numbers of sidecars, ages of reports, traces and seeds.
//!
//! Each capacity is a line in a file. What stands there already, for the same trace by its checksum, is not searched again, so that a
//! matrix that takes hours can be ended and gone on with. At its end the file is shown as a table, and drawn beside it with the ending `.svg`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::capacity::highest;
use crate::failures::Failures;
use crate::plot::plot;
use crate::policy::Policy;
use crate::report::{Question, line};
use crate::session::in_parallel;
use crate::trace::Trace;
use crate::world::Setting;

/// Numbers of sidecars.
pub(crate) const SIDECARS: [usize; 3] = [1, 8, 64];
/// Ages of reports in milliseconds.
pub(crate) const AGES_MS: [u64; 4] = [0, 50, 1_000, 5_000];

/// What tells one line from another.
type Key = (String, String, u64, u64, u64, u64);

/// Sums of capacities and how many they are of, by trace.
type Row = BTreeMap<String, (f64, f64)>;

/// Fills the file with what is missing, then writes the table and draws the plots.
///
/// # Errors
/// A file that cannot be read or written, or a line in it that is none of ours.
pub fn matrix(
    traces: &[Trace],
    setting: Setting,
    policies: &[Policy],
    seeds: u64,
    (file, out): (&Path, &mut impl Write),
    failures: &mut Failures<'_>,
) -> Result<()> {
    let mut lines = OpenOptions::new()
        .create(true)
        .append(true)
        .open(file)
        .with_context(|| format!("opening {}", file.display()))?;
    let done: BTreeSet<Key> = read(file)?.iter().map(key).collect();
    for seed in 1..=seeds {
        for trace in traces {
            let mut jobs = jobs(Setting { seed, ..setting }, policies);
            jobs.retain(|(setting, policy)| !done.contains(&key_of(trace, setting, *policy)));
            in_parallel(
                jobs,
                |(setting, policy)| {
                    let found = highest(trace, setting, policy);
                    let found = found.with_context(|| format!("{policy} on {}", trace.name));
                    Ok(found.map(|found| line(trace, &setting, policy, Question::Capacity, &found)))
                },
                |line| match line {
                    Ok(line) => Ok(writeln!(lines, "{}", serde_json::to_string(&line)?)?),
                    Err(error) => failures.name(&error),
                },
            )?;
        }
    }
    let means = Means::of(&read(file)?);
    let drawn = file.with_extension("svg");
    std::fs::write(&drawn, plot(&means)).with_context(|| format!("writing {}", drawn.display()))?;
    table(&means, out)
}

/// A central policy has one router and one age, whatever is asked.
fn jobs(setting: Setting, policies: &[Policy]) -> Vec<(Setting, Policy)> {
    let each = |policy: &Policy| {
        let policy = *policy;
        let all = SIDECARS.into_iter().flat_map(|sidecars| AGES_MS.map(|age_ms| (sidecars, age_ms)));
        let count = if policy.central_age_ns().is_some() { 1 } else { usize::MAX };
        all.take(count).map(move |(sidecars, age_ms)| {
            (Setting { sidecars, age_ns: age_ms * 1_000_000, ..setting }, policy)
        })
    };
    policies.iter().flat_map(each).collect()
}

fn key_of(trace: &Trace, setting: &Setting, policy: Policy) -> Key {
    let central_ns = policy.central_age_ns();
    let sidecars = if central_ns.is_some() { 1 } else { setting.sidecars as u64 };
    let age_ms = central_ns.unwrap_or(setting.age_ns) / 1_000_000;
    (policy.to_string(), trace.checksum.clone(), setting.seed, setting.backends as u64, sidecars, age_ms)
}

fn key(line: &Value) -> Key {
    let text = |field: &str| line[field].as_str().unwrap_or_default().to_owned();
    let number = |field: &str| line[field].as_f64().unwrap_or_default() as u64;
    (
        text("policy"),
        text("trace_xxh3"),
        number("seed"),
        number("backends"),
        number("sidecars"),
        number("age_ms"),
    )
}

fn read(file: &Path) -> Result<Vec<Value>> {
    let lines = BufReader::new(File::open(file).with_context(|| format!("reading {}", file.display()))?);
    let parsed = lines.lines().enumerate().map(|(number, line)| {
        serde_json::from_str(&line?)
            .with_context(|| format!("{}:{}: not a line of results; take it out", file.display(), number + 1))
    });
    parsed.collect()
}

/// Mean capacities of a matrix over its seeds.
#[derive(Debug, Default)]
pub(crate) struct Means {
    sums: BTreeMap<(String, u64, u64), Row>,
    oracles: Row,
}

impl Means {
    pub(crate) fn of(lines: &[Value]) -> Self {
        let mut means = Self::default();
        for line in lines {
            let (policy, _, _, _, sidecars, age_ms) = key(line);
            let trace = line["trace"].as_str().unwrap_or_default().to_owned();
            let capacity = line["capacity"].as_f64().unwrap_or_default();
            let is_oracle = policy == Policy::Oracle.to_string();
            let row = means.sums.entry((policy, sidecars, age_ms)).or_default();
            let others = is_oracle.then(|| means.oracles.entry(trace.clone()).or_default());
            for (sum, count) in [row.entry(trace).or_default()].into_iter().chain(others) {
                *sum += capacity;
                *count += 1.0;
            }
        }
        means
    }

    pub(crate) fn traces(&self) -> BTreeSet<&str> {
        self.sums.values().flat_map(BTreeMap::keys).map(String::as_str).collect()
    }

    pub(crate) fn policies(&self) -> BTreeSet<&str> {
        self.sums.keys().map(|(policy, ..)| policy.as_str()).collect()
    }

    /// Requests a second.
    fn capacity(&self, policy: &str, sidecars: u64, age_ms: u64, trace: &str) -> Option<f64> {
        let (sum, count) = self.sums.get(&(policy.to_owned(), sidecars, age_ms))?.get(trace)?;
        Some(sum / count)
    }

    /// As a share of the oracle's.
    pub(crate) fn share(&self, policy: &str, sidecars: u64, age_ms: u64, trace: &str) -> Option<f64> {
        let (sum, count) = self.oracles.get(trace).filter(|(sum, _)| *sum > 0.0)?;
        Some(self.capacity(policy, sidecars, age_ms, trace)? / (sum / count))
    }
}

/// Capacities in Markdown: the mean over the seeds, as % of the oracle's on the same trace where that is there.
fn table(means: &Means, out: &mut impl Write) -> Result<()> {
    let traces = means.traces();
    let names: Vec<&str> = traces.iter().copied().collect();
    writeln!(out, "| policy | sidecars | age | {} |", names.join(" | "))?;
    writeln!(out, "|---|---|---|{}", "---|".repeat(names.len()))?;
    for (policy, sidecars, age_ms) in means.sums.keys() {
        let cell = |trace: &&str| {
            let found = means.capacity(policy, *sidecars, *age_ms, trace);
            match (found, means.share(policy, *sidecars, *age_ms, trace)) {
                (None, _) => String::new(),
                (Some(capacity), None) => format!("{capacity:.2}/s"),
                (Some(capacity), Some(share)) => format!("{:.1} ({capacity:.2}/s)", share * 100.0),
            }
        };
        let cells: Vec<String> = traces.iter().map(cell).collect();
        writeln!(out, "| {policy} | {sidecars} | {age_ms} ms | {} |", cells.join(" | "))?;
    }
    Ok(())
}
