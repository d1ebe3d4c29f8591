//! What is said of a run: one JSON object, and a table in words.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use penstock_simulate::outcome::Outcome;
use penstock_simulate::report::{Figures, rounded};
use serde::Serialize;

use crate::lag::Lateness;
use crate::plan::Plan;

/// The aims: attainment by at most so many points, the first token's p99 by at most this share away from the simulator's.
const POINTS_MAX: f64 = 2.0;
const RATIO_MAX: f64 = 0.15;

/// Everything.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Result {
    pub(crate) trace: String,
    pub(crate) trace_xxh3: String,
    pub(crate) profile: String,
    pub(crate) backends: usize,
    pub(crate) sidecars: usize,
    pub(crate) seed: u64,
    /// Of the simulator's reports.
    pub(crate) age_ms: f64,
    pub(crate) seconds: f64,
    /// Share of the simulated capacity, and that capacity, where it was asked so.
    pub(crate) load: Option<f64>,
    pub(crate) capacity: Option<f64>,
    /// Requests, or session starts, a second.
    pub(crate) rate: f64,
    /// The mesh first.
    pub(crate) routers: Vec<Router>,
}

/// One router before the same engines.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Router {
    pub(crate) router: String,
    /// None if every try was discarded.
    pub(crate) live: Option<Live>,
    pub(crate) simulated: Option<Simulated>,
    /// The same where the sidecars beside the servers know of them only what they have seen.
    pub(crate) simulated_by_ledger: Option<Simulated>,
    /// Tries that were discarded because timers were late, and how late.
    pub(crate) discarded: Vec<Lateness>,
    /// Live less simulated, in points.
    pub(crate) attainment_points: Option<f64>,
    /// Live by simulated.
    pub(crate) ttft_p99_ratio: Option<f64>,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Live {
    pub(crate) requests: u64,
    /// Neither answered nor refused with 429; among `rejected` as well.
    pub(crate) failed: u64,
    pub(crate) first_error: Option<String>,
    #[serde(flatten)]
    pub(crate) figures: Figures,
    pub(crate) timer_lag_ms: Lateness,
    /// Cores used by each kind of process, this program among them.
    pub(crate) cores: BTreeMap<&'static str, f64>,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Simulated {
    pub(crate) requests: u64,
    #[serde(flatten)]
    pub(crate) figures: Figures,
}

impl Simulated {
    pub(crate) fn of(outcome: &Outcome) -> Self {
        Self { requests: outcome.counted, figures: Figures::of(outcome) }
    }
}

impl Router {
    pub(crate) fn of(
        name: &str,
        live: Option<Live>,
        simulated: Option<Simulated>,
        simulated_by_ledger: Option<Simulated>,
        discarded: Vec<Lateness>,
    ) -> Self {
        let both = live.as_ref().zip(simulated.as_ref());
        let points = |(live, simulated): (&Live, &Simulated)| {
            rounded((live.figures.attainment - simulated.figures.attainment) * 100.0)
        };
        let ratio = |(live, simulated): (&Live, &Simulated)| {
            rounded(live.figures.ttft_ms.p99 / simulated.figures.ttft_ms.p99)
        };
        Self {
            attainment_points: both.map(points),
            ttft_p99_ratio: both.map(ratio),
            router: name.to_owned(),
            live,
            simulated,
            simulated_by_ledger,
            discarded,
        }
    }
}

impl Result {
    pub(crate) fn of(plan: &Plan, profile: &str, load: Option<f64>, routers: Vec<Router>) -> Self {
        Self {
            trace: plan.trace.name.clone(),
            trace_xxh3: plan.trace.checksum.clone(),
            profile: profile.to_owned(),
            backends: plan.setting.backends,
            sidecars: plan.setting.sidecars,
            seed: plan.setting.seed,
            age_ms: plan.setting.age_ns as f64 / 1e6,
            seconds: plan.schedule.until_ns as f64 / 1e9,
            load,
            capacity: plan.capacity.map(rounded),
            rate: rounded(plan.schedule.rate),
            routers,
        }
    }

    /// The table.
    pub(crate) fn table(&self) -> String {
        let mut text = format!(
            "{} at {}/s for {} s, {} sidecars of callers, {} servers, seed {}\n{:26} {:>8} {:>9} {:>8} {:>8} {:>8} {:>9} {:>7} {:>8} {:>5}\n",
            self.trace,
            self.rate,
            self.seconds,
            self.sidecars,
            self.backends,
            self.seed,
            "",
            "requests",
            "attained",
            "rejected",
            "ttft p50",
            "ttft p99",
            "tpot p99",
            "refused",
            "failed",
            "hit"
        );
        // Writing to a String cannot fail.
        for router in &self.routers {
            let simulated =
                [("simulated", &router.simulated), ("by the ledger", &router.simulated_by_ledger)];
            for (how, simulated) in simulated {
                let Some(simulated) = simulated else { continue };
                let name = format!("{} ({how})", router.router);
                let _written = writeln!(text, "{}", row(&name, simulated.requests, &simulated.figures, 0));
            }
            for lag in &router.discarded {
                let _written =
                    writeln!(text, "{}: a run is discarded, timer lag p99 {:.1} ms", router.router, lag.p99);
            }
            let Some(live) = &router.live else { continue };
            let _written =
                writeln!(text, "{}", row(&router.router, live.requests, &live.figures, live.failed));
            let cores: Vec<String> =
                live.cores.iter().map(|(name, cores)| format!("{name} {cores:.2}")).collect();
            let lag = &live.timer_lag_ms;
            let _written = writeln!(
                text,
                "  timer lag p99 {:.2} ms, at most {:.1} ms; cores: {}",
                lag.p99,
                lag.max,
                cores.join(", ")
            );
            if let Some(error) = &live.first_error {
                let _written = writeln!(text, "  first error: {error}");
            }
            if let (Some(points), Some(ratio)) = (router.attainment_points, router.ttft_p99_ratio) {
                let _written = writeln!(
                    text,
                    "  live by simulated: attainment {points:+.2} points ({}), ttft p99 {ratio:.2} ({})",
                    aim(points.abs() <= POINTS_MAX),
                    aim((ratio - 1.0).abs() <= RATIO_MAX)
                );
            }
        }
        text
    }
}

fn aim(is_met: bool) -> &'static str {
    if is_met { "within the aim" } else { "outside the aim" }
}

fn row(name: &str, requests: u64, figures: &Figures, failed: u64) -> String {
    format!(
        "{name:26} {requests:>8} {:>8.2}% {:>7.2}% {:>8.0} {:>8.0} {:>9.1} {:>7.3} {failed:>8} {:>5.2}",
        figures.attainment * 100.0,
        figures.rejected * 100.0,
        figures.ttft_ms.p50,
        figures.ttft_ms.p99,
        figures.tpot_ms.p99,
        figures.refusals_per_request,
        figures.prefix_hit
    )
}
