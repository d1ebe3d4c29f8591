//! The highest load at which a policy keeps the promise, and what the oracle is at a load.
//!
//! Capacity is searched by bisection over the compression of time. A run that can no longer reach the attainment asked for ends at
//! once, so that loads far beyond capacity cost little.

use anyhow::{Result, bail};

use crate::outcome::Outcome;
use crate::policy::{Policy, REFERENCES, Reference};
use crate::trace::{Trace, arrivals};
use crate::world::{Setting, run};

/// Share of the requests that must keep the promise at capacity.
pub const ATTAINMENT: f64 = 0.95;
/// Ratio of the loads between which the search ends.
const PRECISION: f64 = 1.005;
/// Factor by which the search for an interval goes on.
const STRIDE: f64 = 1.4;
/// Compression of time beyond which the search gives up: the trace has too few requests to fill these servers.
const SCALE_MAX: f64 = 200.0;
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

/// The highest load at which the policy reaches [`ATTAINMENT`].
///
/// # Errors
/// A setting with which no engine can be made; a trace that reaches it at no load, or at all.
pub fn capacity(trace: &Trace, setting: Setting, policy: Policy) -> Result<Found> {
    let strict = Setting { attainment_min: ATTAINMENT, ..setting };
    let mut first = REFERENCES;
    let mut attempt = |scale: f64| -> Result<Option<Found>> {
        if policy != Policy::Oracle {
            let found = at(trace, strict, policy, scale)?;
            return Ok((found.outcome.attainment() >= ATTAINMENT).then_some(found));
        }
        for place in 0..first.len() {
            let found = at(trace, strict, Policy::Reference(first[place]), scale)?;
            if found.outcome.attainment() >= ATTAINMENT {
                first[..=place].rotate_right(1);
                return Ok(Some(Found { reference: Some(first[0]), ..found }));
            }
        }
        Ok(None)
    };
    let (mut found, mut beyond) = interval(&mut attempt)?;
    while beyond / found.scale > PRECISION {
        let middle = (beyond * found.scale).sqrt();
        match attempt(middle)? {
            Some(better) => found = better,
            None => beyond = middle,
        }
    }
    Ok(found)
}

/// A load that is carried, and one a stride higher that is not.
fn interval(attempt: &mut impl FnMut(f64) -> Result<Option<Found>>) -> Result<(Found, f64)> {
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
                None => return Ok((found, scale)),
            }
        }
    }
    loop {
        let beyond = scale;
        scale /= STRIDE;
        if scale < SCALE_MIN {
            bail!("the promise is kept for fewer than {} % at any load", ATTAINMENT * 100.0);
        }
        if let Some(found) = attempt(scale)? {
            return Ok((found, beyond));
        }
    }
}

/// The policy at a load; for the oracle the best of its references.
///
/// # Errors
/// A setting with which no engine can be made.
pub fn at(trace: &Trace, setting: Setting, policy: Policy, scale: f64) -> Result<Found> {
    let schedule = arrivals(trace, scale, setting.seed);
    if policy != Policy::Oracle {
        let reference = if let Policy::Reference(reference) = policy { Some(reference) } else { None };
        return Ok(Found { scale, outcome: run(&schedule, setting, policy)?, reference });
    }
    let mut best: Option<Found> = None;
    for reference in REFERENCES {
        let outcome = run(&schedule, setting, Policy::Reference(reference))?;
        if best.as_ref().is_none_or(|best| outcome.attainment() > best.outcome.attainment()) {
            best = Some(Found { scale, outcome, reference: Some(reference) });
        }
    }
    best.ok_or_else(|| anyhow::anyhow!("the oracle has no references"))
}
