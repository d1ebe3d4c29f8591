//! Everything against everything: policies, numbers of sidecars, ages of reports, traces and seeds.
//!
//! Each capacity is a line in a file. What stands there already, for the same trace by its checksum, is not searched again, so that a
//! matrix that takes hours can be ended and gone on with. At its end the file is shown as a table.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::capacity::capacity;
use crate::policy::Policy;
use crate::report::{Question, line};
use crate::session::in_parallel;
use crate::trace::Trace;
use crate::world::Setting;

/// Numbers of sidecars.
const SIDECARS: [usize; 3] = [1, 8, 64];
/// Ages of reports in milliseconds.
const AGES_MS: [u64; 4] = [0, 50, 1_000, 5_000];

/// What tells one line from another.
type Key = (String, String, u64, u64, u64, u64);

/// Sums of capacities and how many they are of, by trace.
type Row = BTreeMap<String, (f64, f64)>;

/// Fills the file with what is missing, then writes the table.
///
/// # Errors
/// A file that cannot be read or written, a line in it that is none of ours, or a trace without a capacity.
pub fn matrix(
    traces: &[Trace],
    setting: Setting,
    policies: &[Policy],
    seeds: u64,
    (file, out): (&Path, &mut impl Write),
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
                    let found = capacity(trace, setting, policy);
                    let found = found.with_context(|| format!("{policy} on {}", trace.name))?;
                    Ok(line(trace, &setting, policy, Question::Capacity, &found))
                },
                |line| Ok(writeln!(lines, "{}", serde_json::to_string(&line)?)?),
            )?;
        }
    }
    table(&read(file)?, out)
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

/// Capacities in Markdown: the mean over the seeds, as % of the oracle's on the same trace where that is there.
fn table(lines: &[Value], out: &mut impl Write) -> Result<()> {
    let mut sums: BTreeMap<(String, u64, u64), Row> = BTreeMap::new();
    let mut oracles = Row::new();
    for line in lines {
        let (policy, _, _, _, sidecars, age_ms) = key(line);
        let trace = line["trace"].as_str().unwrap_or_default().to_owned();
        let capacity = line["capacity"].as_f64().unwrap_or_default();
        let is_oracle = policy == Policy::Oracle.to_string();
        let row = sums.entry((policy, sidecars, age_ms)).or_default();
        let others = is_oracle.then(|| oracles.entry(trace.clone()).or_default());
        for (sum, count) in [row.entry(trace).or_default()].into_iter().chain(others) {
            *sum += capacity;
            *count += 1.0;
        }
    }
    let traces: BTreeSet<&String> = sums.values().flat_map(BTreeMap::keys).collect();
    let names: Vec<&str> = traces.iter().map(|name| name.as_str()).collect();
    writeln!(out, "| policy | sidecars | age | {} |", names.join(" | "))?;
    writeln!(out, "|---|---|---|{}", "---|".repeat(names.len()))?;
    for ((policy, sidecars, age_ms), row) in &sums {
        let cells: Vec<String> =
            traces.iter().map(|trace| cell(row.get(*trace), oracles.get(*trace))).collect();
        writeln!(out, "| {policy} | {sidecars} | {age_ms} ms | {} |", cells.join(" | "))?;
    }
    Ok(())
}

fn cell(found: Option<&(f64, f64)>, oracle: Option<&(f64, f64)>) -> String {
    match (found, oracle) {
        (None, _) => String::new(),
        (Some((sum, count)), None) => format!("{:.2}/s", sum / count),
        (Some((sum, count)), Some((best, seeds))) => {
            format!("{:.1} ({:.2}/s)", 100.0 * (sum / count) / (best / seeds), sum / count)
        }
    }
}
