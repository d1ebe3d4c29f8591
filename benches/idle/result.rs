//! What is said of a run: a table, and all figures as JSON.

use std::fmt::Write as _;

use penstock_benches::machine::Machine;
use serde::Serialize;

/// The aims, in cores.
const CALLER_CORES_MAX: f64 = 0.02;
const SERVER_CORES_MAX: f64 = 0.05;

/// Everything.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Result {
    pub(crate) machine: Machine,
    pub(crate) caller: Option<Caller>,
    pub(crate) server: Option<Server>,
}

/// What one process used.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Used {
    pub(crate) seconds: f64,
    /// User and system time by the time that passed.
    pub(crate) cores: f64,
    /// At the end.
    pub(crate) tasks: u64,
    /// At the end.
    pub(crate) resident_bytes: u64,
}

/// The caller's sidecar in its three states.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Caller {
    pub(crate) backends: u8,
    /// Before any request.
    pub(crate) configured: Used,
    /// The reports of all are heard, and nothing happens.
    pub(crate) followed: Used,
    /// They are not heard any more; connections stay. None if that was not waited for.
    pub(crate) left: Option<Used>,
}

/// The server's sidecar.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Server {
    pub(crate) subscribers: u32,
    /// Requests a second.
    pub(crate) rate: u32,
    /// Cores that `many` takes more than `alone`, the median of the rounds.
    pub(crate) telling_cores: f64,
    /// Microseconds of CPU for a report, by the same.
    pub(crate) report_us: f64,
    pub(crate) rounds: Vec<Round>,
}

/// One after the other.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Round {
    /// Told to the caller's sidecar alone.
    pub(crate) alone: Told,
    pub(crate) few: Told,
    pub(crate) many: Told,
}

/// The server's sidecar with so many subscribers beside the caller's sidecar.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Told {
    pub(crate) subscribers: u32,
    /// Answered meanwhile.
    pub(crate) requests: u64,
    /// To all of these subscribers.
    pub(crate) reports_per_second: f64,
    pub(crate) bytes_per_second: f64,
    #[serde(flatten)]
    pub(crate) used: Used,
}

impl Server {
    pub(crate) fn of(subscribers: u32, rate: u32, rounds: Vec<Round>) -> Self {
        let telling = |round: &Round| round.many.used.cores - round.alone.used.cores;
        let report_us = |round: &Round| telling(round) * 1e6 / round.many.reports_per_second;
        Self {
            subscribers,
            rate,
            telling_cores: median(rounds.iter().map(telling)),
            report_us: median(rounds.iter().map(report_us)),
            rounds,
        }
    }
}

impl Result {
    /// The table.
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        if let Some(caller) = &self.caller {
            let _written = writeln!(
                text,
                "caller's sidecar, {} backends behind as many sidecars, no requests; aim below {CALLER_CORES_MAX} cores",
                caller.backends
            );
            for (name, used) in [
                ("before any request", Some(&caller.configured)),
                ("reports of all are heard", Some(&caller.followed)),
                ("not any more", caller.left.as_ref()),
            ] {
                let Some(used) = used else { continue };
                let _written =
                    writeln!(text, "  {name:26} {} ({})", row(used), aim(used.cores, CALLER_CORES_MAX));
            }
        }
        if let Some(server) = &self.server {
            let _written = writeln!(text, "server's sidecar, {} requests a second", server.rate);
            for told in server.rounds.iter().flat_map(|round| [&round.alone, &round.few, &round.many]) {
                let _written = writeln!(
                    text,
                    "  {:>5} more subscribers      {}, {:.0} reports/s, {:.1} KiB/s, {} requests",
                    told.subscribers,
                    row(&told.used),
                    told.reports_per_second,
                    told.bytes_per_second / 1_024.0,
                    told.requests
                );
            }
            let _written = writeln!(
                text,
                "  telling {} takes {:.4} cores, {:.1} us a report; aim below {SERVER_CORES_MAX} cores ({})",
                server.subscribers,
                server.telling_cores,
                server.report_us,
                aim(server.telling_cores, SERVER_CORES_MAX)
            );
        }
        text
    }
}

fn row(used: &Used) -> String {
    let mib = used.resident_bytes as f64 / f64::from(1 << 20);
    format!("{:.4} cores, {} tasks, {mib:.0} MiB", used.cores, used.tasks)
}

fn aim(cores: f64, cores_max: f64) -> &'static str {
    if cores < cores_max { "within the aim" } else { "outside the aim" }
}

fn median(figures: impl Iterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(cores: f64, reports_per_second: f64) -> Told {
        let used = Used { seconds: 1.0, cores, tasks: 1, resident_bytes: 1 << 20 };
        Told { subscribers: 1, requests: 1, reports_per_second, bytes_per_second: 1.0, used }
    }

    #[test]
    fn telling_is_what_many_take_more_than_none() {
        let round =
            |alone, many| Round { alone: told(alone, 0.0), few: told(9.0, 1.0), many: told(many, 1_000.0) };
        let server = Server::of(1_000, 10, vec![round(0.01, 0.05), round(0.01, 0.03), round(0.02, 0.90)]);
        assert!((server.telling_cores - 0.04).abs() < 1e-9, "{server:?}");
        assert!((server.report_us - 40.0).abs() < 1e-6, "{server:?}");
    }
}
