//! All that was measured, and what its rounds have in common.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

use crate::measure::{Cell, FOREIGN_CORES_MAX, Figures};
use crate::ratios;
use penstock_benches::machine::Machine;

/// Everything of one run.
#[derive(Debug)]
pub(crate) struct Results {
    pub(crate) machine: Machine,
    pub(crate) rounds: BTreeMap<Cell, Vec<Figures>>,
    /// What was left out, and why.
    pub(crate) missing: Vec<String>,
}

/// The middle of some rounds, and how far they are apart.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Of these figures; none of none.
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        };
        Some(Self { median, min, max })
    }
}

impl Results {
    /// The rounds of one cell by one figure.
    pub(crate) fn spread(&self, cell: Cell, figure: impl Fn(&Figures) -> f64) -> Option<Spread> {
        Spread::of(self.rounds.get(&cell)?.iter().map(figure))
    }

    pub(crate) fn json(&self) -> anyhow::Result<Value> {
        let mut cells = Vec::new();
        for (cell, rounds) in &self.rounds {
            let spread = |figure: fn(&Figures) -> f64| Spread::of(rounds.iter().map(figure));
            let quiet = rounds.iter().filter(|round| round.foreign_cores <= FOREIGN_CORES_MAX).count();
            cells.push(json!({
                "scenario": cell.scenario, "hops": cell.hops, "proxy": cell.contender,
                "per_second": spread(|round| round.per_second),
                "cpu_ms_per_thousand": spread(|round| round.cpu_ms_per_thousand),
                "foreign_cores": spread(|round| round.foreign_cores),
                "quiet_rounds": quiet,
                "rounds": serde_json::to_value(rounds)?,
            }));
        }
        Ok(json!({
            "machine": serde_json::to_value(&self.machine)?,
            "ratios": ratios::all(self),
            "missing": self.missing,
            "cells": cells,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_its_middle_and_its_ends() {
        let spread = |figures: &[f64]| Spread::of(figures.iter().copied());
        assert_eq!(spread(&[3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(spread(&[4.0, 1.0]), Some(Spread { median: 2.5, min: 1.0, max: 4.0 }));
        assert_eq!(spread(&[]), None);
    }
}
