//! The highest load at which a policy keeps the promise, and what the oracle is at a load.
//!
//! Capacity is searched by bisection over the compression of time. A run that can no longer reach the attainment asked for ends at
//! once, so that loads far beyond capacity cost little.

use anyhow::{Result, bail, ensure};

use crate::outcome::Outcome;
use crate::policy::{Policy, REFERENCES, Reference};
use crate::trace::{Schedule, Trace, arrivals};
use crate::world::{Setting, run};

/// Share of the requests that must keep the promise at capacity.
pub const ATTAINMENT: f64 = 0.95;
/// Ratio of the loads between which the search ends.
const PRECISION: f64 = 1.005;
/// Factor by which the search for an interval goes on.
const STRIDE: f64 = 1.4;
/// Compression of time beyond which the search gives up. Traces that end too soon begin again, so there is no lack of requests.
const SCALE_MAX: f64 = 1e9;
/// And below which.
const SCALE_MIN: f64 = 0.01;

/// A load and what came of it.
#[derive(Clone, Debug)]
pub struct Found {
    /// Compression of time.
    pub scale: f64,
    /// What the run came to.
    pub outcome: Outcome,
    /// Which of its references the oracle was.
    pub reference: Option<Reference>,
}

impl Found {
    /// Whether so many kept the promise as do at capacity.
    pub fn is_carried(&self) -> bool {
        self.outcome.attainment() >= ATTAINMENT
    }

    /// Requests, or starts of sessions, a second that are carried, where this is what [`highest`] found.
    pub fn capacity(&self) -> f64 {
        if self.is_carried() { self.outcome.rate } else { 0.0 }
    }
}

/// The highest load at which the policy reaches [`ATTAINMENT`].
///
/// # Errors
/// As [`highest`], and a trace of which the policy reaches it at no load.
pub fn capacity(trace: &Trace, setting: Setting, policy: Policy) -> Result<Found> {
    let found = highest(trace, setting, policy)?;
    ensure!(
        found.is_carried(),
        "the promise is kept for fewer than {} % at any load: for {:.1} % at {:.3} times the trace's rate",
        ATTAINMENT * 100.0,
        found.outcome.attainment() * 100.0,
        found.scale
    );
    Ok(found)
}

/// The highest load at which the policy reaches [`ATTAINMENT`]; where it does so at none, the lowest that was tried.
///
/// # Errors
/// A setting with which no engine can be made; a trace that never fills the servers, or is too short for a low load.
pub fn highest(trace: &Trace, setting: Setting, policy: Policy) -> Result<Found> {
    let strict = Setting { attainment_min: ATTAINMENT, ..setting };
    let mut first = REFERENCES;
    let mut attempt = |scale: f64| -> Result<Option<Found>> {
        if policy != Policy::Oracle {
            let found = at(trace, strict, policy, scale)?;
            return Ok(found.is_carried().then_some(found));
        }
        for place in 0..first.len() {
            let found = at(trace, strict, Policy::Reference(first[place]), scale)?;
            if found.is_carried() {
                first[..=place].rotate_right(1);
                return Ok(Some(Found { reference: Some(first[0]), ..found }));
            }
        }
        Ok(None)
    };
    let (carried, mut beyond) = interval(&mut attempt)?;
    // Attempts end as soon as too much is broken; the figures of this one are to be whole.
    let Some(mut found) = carried else { return at(trace, setting, policy, beyond) };
    while beyond / found.scale > PRECISION {
        let middle = (beyond * found.scale).sqrt();
        match attempt(middle)? {
            Some(better) => found = better,
            None => beyond = middle,
        }
    }
    Ok(found)
}

/// A load that is carried, and one a stride higher that is not; none, and the lowest.
fn interval(attempt: &mut impl FnMut(f64) -> Result<Option<Found>>) -> Result<(Option<Found>, f64)> {
    let mut scale = 1.0;
    if let Some(mut found) = attempt(scale)? {
        loop {
            scale *= STRIDE;
            if scale > SCALE_MAX {
                bail!(
                    "the trace never fills these servers: it keeps its promises at {SCALE_MAX} times its rate"
                );
            }
            match attempt(scale)? {
                Some(more) => found = more,
                None => return Ok((Some(found), scale)),
            }
        }
    }
    while scale / STRIDE >= SCALE_MIN {
        let beyond = scale;
        scale /= STRIDE;
        if let Some(found) = attempt(scale)? {
            return Ok((Some(found), beyond));
        }
    }
    Ok((None, scale))
}

/// The policy at a load; for the oracle the best of its references.
///
/// # Errors
/// A setting with which no engine can be made; a load at which nothing counts.
pub fn at(trace: &Trace, setting: Setting, policy: Policy, scale: f64) -> Result<Found> {
    let schedule = arrivals(trace, scale, setting.seed);
    if policy != Policy::Oracle {
        let reference = if let Policy::Reference(reference) = policy { Some(reference) } else { None };
        return Ok(Found { scale, outcome: counted(&schedule, setting, policy, scale)?, reference });
    }
    let mut best: Option<Found> = None;
    for reference in REFERENCES {
        let outcome = counted(&schedule, setting, Policy::Reference(reference), scale)?;
        if best.as_ref().is_none_or(|best| outcome.attainment() > best.outcome.attainment()) {
            best = Some(Found { scale, outcome, reference: Some(reference) });
        }
    }
    best.ok_or_else(|| anyhow::anyhow!("the oracle has no references"))
}

/// What comes of a schedule: of no request at all nothing can be said, least that the promise was broken.
fn counted(schedule: &Schedule, setting: Setting, policy: Policy, scale: f64) -> Result<Outcome> {
    let outcome = run(schedule, setting, policy)?;
    ensure!(
        outcome.counted > 0,
        "at {scale:.3} times the trace's rate none of its requests counts, since all come within the warm-up: \
         give a longer trace, or a higher load"
    );
    Ok(outcome)
}
