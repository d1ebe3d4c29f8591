//! Rivals that go by what engines report, as it was reported.

use crate::trace::Arrival;

use super::{Router, View};

/// Least share of KV memory held.
pub(super) struct LeastKv;

impl Router for LeastKv {
    fn choose(&mut self, _: &Arrival, view: &mut View<'_>) -> usize {
        view.least(|view, place| view.report(place).kv_share())
    }
}

/// Least 4 × waiting + running: the score of vLLM's coordinator for data-parallel engines, without its correction for own sends.
pub(super) struct VllmDp;

impl Router for VllmDp {
    fn choose(&mut self, _: &Arrival, view: &mut View<'_>) -> usize {
        view.least(|view, place| {
            let report = view.report(place);
            f64::from(4 * report.waiting + report.running)
        })
    }
}
