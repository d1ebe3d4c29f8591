//! The figures as tables of Markdown.

use std::fmt::Write as _;

use crate::measure::{Cell, FOREIGN_CORES_MAX, Figures};
use crate::ratios;
use crate::results::{Results, Spread};
use crate::scenario::{Scenario, Unit};

const MIB: f64 = 1_048_576.0;
const KIB: f64 = 1_024.0;

/// One table for each scenario and path, then the ratios.
pub(crate) fn all(results: &Results) -> String {
    let mut text = String::new();
    let mut shown = None;
    for (cell, rounds) in &results.rounds {
        if shown != Some((cell.scenario, cell.hops)) {
            shown = Some((cell.scenario, cell.hops));
            text.push_str(&head(cell));
        }
        text.push_str(&row(cell, rounds));
    }
    text.push_str(&ratios(results));
    for missing in &results.missing {
        // Writing to a String cannot fail.
        let _written = writeln!(text, "\nleft out: {missing}");
    }
    text
}

fn head(cell: &Cell) -> String {
    let columns = match cell.scenario.unit() {
        Unit::Requests => {
            "rps | min-max | CPU ms/1k | min-max | cores | p50 us | p99 us | p99.9 us | peak MiB"
        }
        Unit::Chunks => "chunks/s | CPU ms/1k | min-max | cores | lag p50 us | p99 us | p99.9 us | peak MiB",
        Unit::Streams => "streams | RSS before MiB | RSS open MiB | KiB/stream",
    };
    let columns = format!("| proxy | {columns} | errors | quiet rounds |");
    let rule = "| --- ".repeat(columns.matches('|').count() - 1);
    format!("\n### {} / {}\n\n{columns}\n{rule}|\n", cell.scenario.name(), cell.hops.name())
}

fn row(cell: &Cell, rounds: &[Figures]) -> String {
    let spread = |figure: &dyn Fn(&Figures) -> f64| {
        Spread::of(rounds.iter().map(figure)).unwrap_or(Spread { median: 0.0, min: 0.0, max: 0.0 })
    };
    let median = |figure: &dyn Fn(&Figures) -> f64| spread(figure).median;
    let said = |path: &'static str| {
        median(&move |round: &Figures| {
            round.load.pointer(path).and_then(serde_json::Value::as_f64).unwrap_or(0.0)
        })
    };
    let (rate, cpu) = (spread(&|round| round.per_second), spread(&|round| round.cpu_ms_per_thousand));
    let cores = median(&|round| round.proxy_cores);
    let peak = median(&|round| round.memory_after.peak as f64) / MIB;
    let figures = match cell.scenario.unit() {
        Unit::Requests => format!(
            "{:.0} | {:.0}-{:.0} | {:.1} | {:.1}-{:.1} | {cores:.2} | {:.0} | {:.0} | {:.0} | {peak:.1}",
            rate.median,
            rate.min,
            rate.max,
            cpu.median,
            cpu.min,
            cpu.max,
            said("/latency_us/p50"),
            said("/latency_us/p99"),
            said("/latency_us/p999"),
        ),
        Unit::Chunks => format!(
            "{:.0} | {:.2} | {:.2}-{:.2} | {cores:.2} | {:.0} | {:.0} | {:.0} | {peak:.1}",
            rate.median,
            cpu.median,
            cpu.min,
            cpu.max,
            said("/lag_us/p50"),
            said("/lag_us/p99"),
            said("/lag_us/p999"),
        ),
        Unit::Streams => format!(
            "{:.0} | {:.1} | {:.1} | {:.2}",
            median(&|round| round.units),
            median(&|round| round.memory_before.resident as f64) / MIB,
            median(&|round| round.memory_after.resident as f64) / MIB,
            median(&ratios::stream_bytes) / KIB,
        ),
    };
    let errors: f64 = rounds.iter().filter_map(|round| round.load["errors"].as_f64()).sum();
    let quiet = rounds.iter().filter(|round| round.foreign_cores <= FOREIGN_CORES_MAX).count();
    format!("| {} | {figures} | {errors} | {quiet}/{} |\n", cell.contender.name(), rounds.len())
}

/// Ours divided by the peer's.
fn ratios(results: &Results) -> String {
    let all = ratios::all(results);
    let mut text = "\n### ours divided by the peer's\n\n| ratio | envoy | haproxy | nginx |\n| --- | --- | --- | --- |\n".to_owned();
    let names = all["envoy"].as_object().into_iter().flat_map(|ratios| ratios.keys());
    for name in names {
        let shown = |peer: &str| {
            all[peer][name].as_f64().map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.3}"))
        };
        // Writing to a String cannot fail.
        let _written =
            writeln!(text, "| {name} | {} | {} | {} |", shown("envoy"), shown("haproxy"), shown("nginx"));
    }
    text
}

/// What is being measured, and what came out.
pub(crate) fn progress(cell: &Cell, round: u32, figures: &Figures) -> String {
    let scenario: Scenario = cell.scenario;
    let what = match scenario.unit() {
        Unit::Requests | Unit::Chunks => {
            format!("{:.0}/s, {:.2} ms CPU/1k", figures.per_second, figures.cpu_ms_per_thousand)
        }
        Unit::Streams => format!("{:.2} KiB/stream", ratios::stream_bytes(figures) / KIB),
    };
    let errors = match figures.load["first_error"].as_str() {
        Some(error) => format!(", {} errors: {error}", figures.load["errors"]),
        None => String::new(),
    };
    format!(
        "{} / {:?} / {} round {round}: {what}, {:.2} foreign cores{errors}",
        scenario.name(),
        cell.hops,
        cell.contender.name(),
        figures.foreign_cores
    )
}
