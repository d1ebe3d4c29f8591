//! The search for the constants of our cost and gate: each in turn halved and doubled, over all traces together.
//!
//! What is maximised is the geometric mean over the traces of the capacity at the age and the number of sidecars asked for, so that no
//! trace pays for another. A step is taken where it gains more than noise does; refusals are shown beside, since they cost a round trip
//! each and the mean does not see them.

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::Result;
use penstock_policy::pick::cost::Weights;
use serde::Serialize;

use crate::capacity::capacity;
use crate::policy::Policy;
use crate::session::in_parallel;
use crate::trace::Trace;
use crate::weights::WEIGHTS;
use crate::world::Setting;

/// Rounds over all constants.
const ROUNDS: usize = 2;
/// What each is multiplied by.
const STEPS: [f64; 2] = [0.5, 2.0];
/// Gain in the mean that is more than noise; the search for a capacity ends at half of a percent.
const GAIN: f64 = 1.005;

/// One point, as it is written.
#[derive(Debug, Serialize)]
struct Point {
    weights: BTreeMap<&'static str, f64>,
    capacity: BTreeMap<String, f64>,
    refusals_per_request: BTreeMap<String, f64>,
    mean: f64,
    taken: bool,
}

/// Searches, and writes a line for each point tried.
///
/// # Errors
/// A trace that has no capacity, or nowhere to write.
pub fn search(traces: &[Trace], setting: Setting, out: &mut impl Write) -> Result<()> {
    let mut best = setting.weights;
    let mut mean = 0.0;
    let mut attempt = |weights: Weights, mean: f64| -> Result<f64> {
        let mut point = point(traces, Setting { weights, ..setting })?;
        point.taken = point.mean > mean * GAIN;
        writeln!(out, "{}", serde_json::to_string(&point)?)?;
        out.flush()?;
        Ok(point.mean)
    };
    mean = attempt(best, mean)?;
    for _ in 0..ROUNDS {
        for weight in WEIGHTS {
            for step in STEPS {
                let mut weights = best;
                *(weight.place)(&mut weights) *= step;
                let found = attempt(weights, mean)?;
                if found > mean * GAIN {
                    (best, mean) = (weights, found);
                    break;
                }
            }
        }
    }
    Ok(())
}

fn point(traces: &[Trace], setting: Setting) -> Result<Point> {
    let mut weights = setting.weights;
    let mut point = Point {
        weights: WEIGHTS.iter().map(|weight| (weight.name, *(weight.place)(&mut weights))).collect(),
        capacity: BTreeMap::new(),
        refusals_per_request: BTreeMap::new(),
        mean: 0.0,
        taken: false,
    };
    in_parallel(
        traces.iter().collect(),
        |trace| Ok((trace.name.clone(), capacity(trace, setting, Policy::LeastCost)?.outcome)),
        |(name, outcome)| {
            point.refusals_per_request.insert(name.clone(), outcome.refusals_per_request());
            point.capacity.insert(name, outcome.rate);
            Ok(())
        },
    )?;
    let logarithms: f64 = point.capacity.values().map(|rate| rate.ln()).sum();
    point.mean = (logarithms / point.capacity.len().max(1) as f64).exp();
    Ok(point)
}
