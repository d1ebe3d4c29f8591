//! How long one decision takes: what a sidecar computes between a request's head and its choice, over so many endpoints.
//!
//! Reports are drawn anew for every decision; each is aged, gets the sidecar's own placements, and is priced; then one is drawn. Looking
//! up which beginnings of prompts an endpoint has is not in it.

use std::io::Write;
use std::time::Instant;

use anyhow::Result;
use penstock_engine::scheduler::Profile;
use penstock_model::units::Moment;
use penstock_policy::pick::cost::{Placements, Prompt, Report, Speed, Weights, choose, terms};
use serde::Serialize;

use crate::draw::{Draws, Purpose};
use crate::outcome::quantile;
use crate::policy::speed_of;

/// Endpoints among which is chosen.
const ENDPOINTS: [usize; 2] = [64, 1_024];
/// Decisions that count; a tenth of them more before.
const DECISIONS: usize = 20_000;
/// Own placements that no report contains yet, for each endpoint at most.
const PLACEMENTS_MAX: usize = 4;

/// One number of endpoints, as it is written.
#[derive(Debug, Serialize)]
struct Timing {
    endpoints: usize,
    decisions: usize,
    p50_us: f64,
    p99_us: f64,
}

/// Measures, and writes a JSON object for each number of endpoints.
///
/// # Errors
/// Nowhere to write.
pub fn measure(profile: &Profile, weights: &Weights, seed: u64, out: &mut impl Write) -> Result<()> {
    let mut draws = Draws::new(seed, Purpose::Choices);
    let speed = speed_of(profile, 1.0);
    for endpoints in ENDPOINTS {
        let mut taken_us = Vec::with_capacity(DECISIONS);
        let mut reports = vec![Report::default(); endpoints];
        let placements: Vec<_> = (0..endpoints).map(|_| placed(&mut draws)).collect();
        for turn in 0..DECISIONS + DECISIONS / 10 {
            reports.iter_mut().for_each(|report| *report = drawn(&mut draws));
            let draw = draws.any();
            let from = now();
            let choice = decision(&reports, &placements, &speed, weights, draw);
            let span_us = from.elapsed().as_secs_f64() * 1e6;
            std::hint::black_box(choice);
            if turn >= DECISIONS / 10 {
                taken_us.push(span_us);
            }
        }
        taken_us.sort_by(f64::total_cmp);
        let [p50_us, p99_us] = [0.5, 0.99].map(|share| quantile(&taken_us, share));
        let timing = Timing { endpoints, decisions: DECISIONS, p50_us, p99_us };
        writeln!(out, "{}", serde_json::to_string(&timing)?)?;
    }
    Ok(())
}

fn decision(
    reports: &[Report],
    placements: &[Placements],
    speed: &Speed,
    weights: &Weights,
    draw: u64,
) -> Option<usize> {
    const AGE_MS: f64 = 500.0;
    let prompt = Prompt { tokens: 2_000, cached_tokens: 512 };
    let mut expected_ms = 0.0;
    let costs: Vec<f64> = reports
        .iter()
        .zip(placements)
        .map(|(report, placements)| {
            expected_ms += AGE_MS * report.arriving.min(1.0);
            terms(&placements.onto(report.after(AGE_MS, speed)), speed, prompt, weights).total_ms()
        })
        .collect();
    choose(&costs, expected_ms * weights.spread, draw)
}

fn drawn(draws: &mut Draws) -> Report {
    Report {
        prompt_tokens_pending: draws.unit() * 20_000.0,
        sequences_running: draws.below(200) as u32,
        sequences_waiting: draws.below(8) as u32,
        output_tokens_mean: 200.0,
        kv_tokens_used: draws.below(400_000) as u64,
        kv_tokens_total: 410_000,
        arriving: draws.unit(),
        bearable_ms: Some(draws.unit() * 400.0),
        ..Report::default()
    }
}

fn placed(draws: &mut Draws) -> Placements {
    let mut placements = Placements::default();
    for at in 0..draws.below(PLACEMENTS_MAX + 1) as u64 {
        placements.add(Moment(at), Prompt { tokens: 1_000, cached_tokens: 0 });
    }
    placements
}

#[expect(clippy::disallowed_methods, reason = "what is measured here is real time")]
fn now() -> Instant {
    Instant::now()
}
