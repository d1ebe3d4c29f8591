//! How long one decision takes: what a sidecar computes between a request's head and its choice, over so many endpoints; and how long
//! with what it notes of that for `penstock why`.
//!
//! Reports are drawn anew for every decision; each is aged, gets the sidecar's own placements, and is priced; then one is picked. Looking
//! up which beginnings of prompts an endpoint has is not in it.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Instant;

use anyhow::Result;
use penstock_engine::scheduler::Profile;
use penstock_model::names::{BackendId, ObjectName};
use penstock_model::snapshot::LoadBalancer;
use penstock_model::units::Moment;
use penstock_policy::pick::cost::{Estimate, Placements, Prompt, Report, Speed, Weights, terms};
use penstock_policy::pick::{Candidate, Considered, Draws as Lots, Standing, pick};
use penstock_policy::why::{Asked, Ended, Stories, Story};
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
/// The prompt to be placed.
const PROMPT: Prompt = Prompt { tokens: 2_000, cached_tokens: 512 };
/// The id that is noted.
const REQUEST_ID: &str = "7f3c2b1a-9d4e-4f6a-8b1c-2d3e4f5a6b7c";

/// One number of endpoints, as it is written.
#[derive(Debug, Serialize)]
struct Timing {
    endpoints: usize,
    notes: Notes,
    decisions: usize,
    p50_us: f64,
    p99_us: f64,
}

/// Whether what was decided is noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Notes {
    Off,
    On,
}

/// Measures, and writes a JSON object for each number of endpoints, without notes and with them.
///
/// # Errors
/// Nowhere to write.
pub fn measure(profile: &Profile, weights: &Weights, seed: u64, out: &mut impl Write) -> Result<()> {
    for (endpoints, notes) in
        ENDPOINTS.into_iter().flat_map(|count| [(count, Notes::Off), (count, Notes::On)])
    {
        let mut draws = Draws::new(seed, Purpose::Choices);
        let speed = speed_of(profile, 1.0);
        let mut stories = Stories::default();
        let backend = BackendId(ObjectName::new("default", "chat"));
        let mut taken_us = Vec::with_capacity(DECISIONS);
        let mut reports = vec![Report::default(); endpoints];
        let placements: Vec<_> = (0..endpoints).map(|_| placed(&mut draws)).collect();
        for turn in 0..DECISIONS + DECISIONS / 10 {
            reports.iter_mut().for_each(|report| *report = drawn(&mut draws));
            let lots = Lots { first: draws.any(), second: draws.any(), turn: turn as u64 };
            let from = now();
            let candidates = candidates(&reports, &placements, &speed, weights);
            let picked = pick(LoadBalancer::LeastCost, &candidates, u32::MAX, lots);
            if notes == Notes::On {
                let considered =
                    Considered::of(LoadBalancer::LeastCost, &candidates, u32::MAX, &picked, address);
                note(considered, &backend, &mut stories);
            }
            let span_us = from.elapsed().as_secs_f64() * 1e6;
            std::hint::black_box(picked.is_ok());
            if turn >= DECISIONS / 10 {
                taken_us.push(span_us);
            }
        }
        taken_us.sort_by(f64::total_cmp);
        let [p50_us, p99_us] = [0.5, 0.99].map(|share| quantile(&taken_us, share));
        let timing = Timing { endpoints, notes, decisions: DECISIONS, p50_us, p99_us };
        writeln!(out, "{}", serde_json::to_string(&timing)?)?;
    }
    Ok(())
}

fn candidates(
    reports: &[Report],
    placements: &[Placements],
    speed: &Speed,
    weights: &Weights,
) -> Vec<Candidate> {
    const AGE_MS: f64 = 500.0;
    let candidate = |(report, placements): (&Report, &Placements)| {
        let report = placements.onto(report.after(AGE_MS, speed));
        let estimate = Estimate {
            terms: terms(&report, speed, PROMPT, weights),
            expected_ms: AGE_MS * report.arriving.min(1.0),
            age_ms: Some(AGE_MS),
            placements: placements.count() as u32,
            cached_tokens: PROMPT.cached_tokens,
        };
        Candidate { tokens_in_flight: 1_000, estimate: Some(estimate), ..Candidate::new(Standing::Usable, 1) }
    };
    reports.iter().zip(placements).map(candidate).collect()
}

/// All that a sidecar notes of a request that is placed at once, but for its outcome.
fn note(considered: Considered, backend: &BackendId, stories: &mut Stories) {
    let story = Story::new(REQUEST_ID, Moment(0), backend.clone(), Asked::default());
    let number = stories.begin(story);
    stories.tell(number, |story| story.considers(Moment(1), considered));
    stories.tell(number, |story| story.attempt_ends(Moment(2), Ended::Answered { status: 200 }));
}

fn address(index: usize) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), index as u16)
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
