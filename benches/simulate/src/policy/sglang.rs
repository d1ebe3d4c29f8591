//! SGLang's cache-aware router: the endpoint with the longest match if it is at least 0.3 of the prompt, else the one with the smallest
//! tree; while requests in flight differ by more than 64 and by more than half, the one with the fewest.
//!
//! All of it by this router's own sends, as its tree is. Prompts without blocks match nothing and make trees grow all the same.

use crate::trace::Arrival;

use super::{Router, View};

const MATCH_MIN: f64 = 0.3;
const GAP_MAX: u32 = 64;
const RATIO_MAX: f64 = 1.5;

pub(super) struct CacheAware {
    tree_tokens: Vec<u64>,
}

impl CacheAware {
    pub(super) fn over(endpoints: usize) -> Self {
        Self { tree_tokens: vec![0; endpoints] }
    }
}

impl Router for CacheAware {
    fn choose(&mut self, arrival: &Arrival, view: &mut View<'_>) -> usize {
        let most = view.own.in_flight.iter().copied().max().unwrap_or(0);
        let fewest = view.own.in_flight.iter().copied().min().unwrap_or(0);
        if most - fewest > GAP_MAX && f64::from(most) > RATIO_MAX * f64::from(fewest) {
            return view.least(|view, place| f64::from(view.own.in_flight[place]));
        }
        let longest =
            (0..view.count()).map(|place| view.own.believed_cached(place, arrival)).max().unwrap_or(0);
        if f64::from(longest) >= MATCH_MIN * f64::from(arrival.prompt_tokens) {
            return view.least(|view, place| -f64::from(view.own.believed_cached(place, arrival)));
        }
        view.least(|_, place| self.tree_tokens[place] as f64)
    }

    fn sent(&mut self, place: usize, uncached_tokens: u64) {
        self.tree_tokens[place] += uncached_tokens;
    }
}
