//! How long one decision takes: what a sidecar computes between a request's head and its choice, over so many endpoints; and how long
//! with what it notes of that for `penstock why`.
//!
//! Reports are drawn anew for every decision; each is aged, gets the sidecar's own placements, and is priced; then one is picked. Looking
//! up which beginnings of prompts an endpoint has is not in it.

mod instructions;

use std::fmt;
use std::hint::black_box;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::time::Instant;

use anyhow::{Context as _, Result};
use penstock_engine::scheduler::Profile;
use penstock_model::names::{BackendId, ObjectName};
use penstock_model::snapshot::LoadBalancer;
use penstock_model::units::Moment;
use penstock_policy::pick::cost::{Estimate, Own, Prompt, Report, Speed, Weights, terms};
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

pub use instructions::{Instructions, count, run_counted};

/// One number of endpoints, as it is written.
#[derive(Debug, Serialize)]
struct Timing {
    #[serde(flatten)]
    case: Case,
    decisions: usize,
    p50_us: f64,
    p99_us: f64,
}

/// What is measured, written as `64:on`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Case {
    endpoints: usize,
    notes: Notes,
}

/// Whether what was decided is noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Notes {
    Off,
    On,
}

impl Case {
    fn all() -> impl Iterator<Item = Self> {
        let both = |endpoints| [Notes::Off, Notes::On].map(|notes| Self { endpoints, notes });
        ENDPOINTS.into_iter().flat_map(both)
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let notes = match self.notes {
            Notes::Off => "off",
            Notes::On => "on",
        };
        write!(f, "{}:{notes}", self.endpoints)
    }
}

impl FromStr for Case {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::all().find(|case| case.to_string() == text).context("expected ENDPOINTS:NOTES, as `64:on`")
    }
}

/// Measures, and writes a JSON object for each number of endpoints, without notes and with them.
///
/// # Errors
/// Nowhere to write.
pub fn measure(profile: &Profile, weights: &Weights, seed: u64, out: &mut impl Write) -> Result<()> {
    for case in Case::all() {
        let mut desk = Desk::new(case, profile, *weights, seed);
        let mut taken_us = Vec::with_capacity(DECISIONS);
        for turn in 0..DECISIONS + DECISIONS / 10 {
            let lots = desk.lay_out(turn);
            let from = now();
            let is_picked = one_decision(&mut desk, lots);
            let span_us = from.elapsed().as_secs_f64() * 1e6;
            black_box(is_picked);
            if turn >= DECISIONS / 10 {
                taken_us.push(span_us);
            }
        }
        taken_us.sort_by(f64::total_cmp);
        let [p50_us, p99_us] = [0.5, 0.99].map(|share| quantile(&taken_us, share));
        let timing = Timing { case, decisions: DECISIONS, p50_us, p99_us };
        writeln!(out, "{}", serde_json::to_string(&timing)?)?;
    }
    Ok(())
}

/// What is decided on, and what is noted.
struct Desk {
    notes: Notes,
    draws: Draws,
    speed: Speed,
    weights: Weights,
    backend: BackendId,
    stories: Stories,
    reports: Vec<Report>,
    placements: Vec<Own>,
}

impl Desk {
    fn new(case: Case, profile: &Profile, weights: Weights, seed: u64) -> Self {
        let mut draws = Draws::new(seed, Purpose::Choices);
        let placements = (0..case.endpoints).map(|_| placed(&mut draws)).collect();
        Self {
            notes: case.notes,
            draws,
            speed: speed_of(profile, 1.0),
            weights,
            backend: BackendId(ObjectName::new("default", "chat")),
            stories: Stories::default(),
            reports: vec![Report::default(); case.endpoints],
            placements,
        }
    }

    /// Other reports and lots for the next decision.
    fn lay_out(&mut self, turn: usize) -> Lots {
        let Self { draws, reports, .. } = self;
        reports.iter_mut().for_each(|report| *report = drawn(draws));
        Lots { first: draws.any(), second: draws.any(), turn: turn as u64 }
    }
}

/// All that is measured, and whether something was picked. The instructions are counted between its begin and its end, which are found
/// by its name: so it is never inlined, and no closure of its own has the name as well.
#[inline(never)]
fn one_decision(desk: &mut Desk, lots: Lots) -> bool {
    let candidates = candidates(&desk.reports, &desk.placements, &desk.speed, &desk.weights);
    let picked = pick(LoadBalancer::LeastCost, &candidates, u32::MAX, lots);
    if desk.notes == Notes::On {
        let considered = Considered::of(LoadBalancer::LeastCost, &candidates, u32::MAX, &picked, address);
        note(considered, &desk.backend, &mut desk.stories);
    }
    picked.is_ok()
}

fn candidates(reports: &[Report], placements: &[Own], speed: &Speed, weights: &Weights) -> Vec<Candidate> {
    const AGE_MS: f64 = 500.0;
    const NOW: Moment = Moment(500_000_000);
    let candidate = |(report, placements): (&Report, &Own)| {
        let report = placements.onto(*report, Moment(0), NOW, speed, weights);
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
    stories.tell(number, |story| story.attempt_ends(Moment(2), Ended::Answered { status: 200 }, None));
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

fn placed(draws: &mut Draws) -> Own {
    let mut placements = Own::default();
    for at in 0..draws.below(PLACEMENTS_MAX + 1) as u64 {
        placements.add(Moment(at), Prompt { tokens: 1_000, cached_tokens: 0 });
    }
    placements
}

#[expect(clippy::disallowed_methods, reason = "what is measured here is real time")]
fn now() -> Instant {
    Instant::now()
}
