//! LMetric: the least product of prompt tokens to compute, ours among them, and sequences, ours among them.

use crate::trace::Arrival;

use super::{Router, View};

/// From where it is known what is cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Index {
    /// This router's own sends.
    Own,
    /// The caches themselves.
    Exact,
}

pub(super) struct Lmetric {
    pub(super) index: Index,
}

impl Router for Lmetric {
    fn choose(&mut self, arrival: &Arrival, view: &mut View<'_>) -> usize {
        let index = self.index;
        view.least(|view, place| {
            let cached = match index {
                Index::Own => view.own.believed_cached(place, arrival),
                Index::Exact => view.backends[place].cached_tokens(arrival),
            };
            let report = view.report(place);
            let tokens = report.prompt_tokens_pending + f64::from(arrival.prompt_tokens - cached);
            tokens * f64::from(report.running + report.waiting + 1)
        })
    }
}
