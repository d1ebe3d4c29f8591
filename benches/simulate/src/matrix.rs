//! Everything against everything: policies, numbers of sidecars, ages of reports, traces and seeds.
//!
//! Each capacity is a line in a file. What stands there already, for the same trace by its checksum and under the same conditions, is not
//! searched again, so that a matrix that takes hours can be ended and gone on with. At its end the file is shown as a table, and drawn
//! beside it with the ending `.svg`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::capacity::highest;
use crate::conditions::Conditions;
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

/// What tells one line from another; the last is what is unusual of its conditions.
type Key = (String, String, u64, u64, u64, u64, String);

/// A line of the file, as far as it is read.
#[derive(Debug, Deserialize)]
pub(crate) struct Entry {
    policy: String,
    trace: String,
    #[serde(default)]
    trace_xxh3: String,
    seed: u64,
    backends: u64,
    sidecars: u64,
    age_ms: f64,
    capacity: Option<f64>,
    load: Option<f64>,
    #[serde(flatten)]
    conditions: Conditions,
}

impl Entry {
    fn conditions(&self) -> String {
        self.conditions.clone().that_matter_to(&self.policy).label()
    }

    fn key(&self) -> Key {
        (
            self.policy.clone(),
            self.trace_xxh3.clone(),
            self.seed,
            self.backends,
            self.sidecars,
            self.age_ms as u64,
            self.conditions(),
        )
    }
}

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
    let done: BTreeSet<Key> = read(file)?.iter().map(Entry::key).collect();
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
    let policy = policy.to_string();
    let conditions = Conditions::of(setting).that_matter_to(&policy).label();
    (policy, trace.checksum.clone(), setting.seed, setting.backends as u64, sidecars, age_ms, conditions)
}

/// The capacities in a file. A line at a share of the oracle's capacity has that of the oracle, and is none of these.
fn read(file: &Path) -> Result<Vec<Entry>> {
    let lines = BufReader::new(File::open(file).with_context(|| format!("reading {}", file.display()))?);
    let parsed = lines.lines().enumerate().map(|(number, line)| {
        serde_json::from_str(&line?)
            .with_context(|| format!("{}:{}: not a line of results; take it out", file.display(), number + 1))
    });
    let mut entries = parsed.collect::<Result<Vec<Entry>>>()?;
    entries.retain(|entry| entry.load.is_none());
    Ok(entries)
}

/// Mean capacities of a matrix over its seeds. A row is named by its policy, and behind that in brackets by what is unusual of its
/// conditions.
#[derive(Debug, Default)]
pub(crate) struct Means {
    sums: BTreeMap<(String, u64, u64), Row>,
    /// By the conditions that matter to the oracle.
    oracles: BTreeMap<String, Row>,
    /// Under which of these each row was found.
    conditions: BTreeMap<String, String>,
}

/// The policy of a row.
pub(crate) fn policy_of(row: &str) -> &str {
    row.split(" (").next().unwrap_or(row)
}

impl Means {
    pub(crate) fn of(entries: &[Entry]) -> Self {
        let mut means = Self::default();
        let oracle = Policy::Oracle.to_string();
        for entry in entries {
            let Some(capacity) = entry.capacity else { continue };
            let name = match entry.conditions() {
                usual if usual.is_empty() => entry.policy.clone(),
                unusual => format!("{} ({unusual})", entry.policy),
            };
            let conditions = entry.conditions.clone().that_matter_to(&oracle).label();
            means.conditions.insert(name.clone(), conditions.clone());
            let row = means.sums.entry((name, entry.sidecars, entry.age_ms as u64)).or_default();
            let is_oracle = entry.policy == oracle;
            let others = is_oracle.then(|| means.oracles.entry(conditions).or_default());
            for row in [row].into_iter().chain(others) {
                let (sum, count) = row.entry(entry.trace.clone()).or_default();
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
        let oracle = self.oracles.get(self.conditions.get(policy)?)?;
        let (sum, count) = oracle.get(trace).filter(|(sum, _)| *sum > 0.0)?;
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
