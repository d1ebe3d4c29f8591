//! llm-d's token-aware default: endpoints that hold at least 80 % of the prompt, unless these have much more to compute than
//! others; then the least prompt tokens in flight with ours.
//!
//! All of it by this router's own sends. "Much more" is what an engine computes in 2 s (the shipped rule says 18 s; with requests of
//! seconds that would never release). Its rate is that of a whole prompt of 8,192 tokens.

use crate::trace::Arrival;

use super::{Router, View};

const HELD_SHARE_MIN: f64 = 0.8;
const RELEASE_S: f64 = 2.0;
const RATE_PROMPT_TOKENS: f64 = 8_192.0;

pub(super) struct TokenAware;

impl Router for TokenAware {
    fn choose(&mut self, arrival: &Arrival, view: &mut View<'_>) -> usize {
        let count = view.count();
        let prompt = f64::from(arrival.prompt_tokens);
        let holds = |view: &View<'_>, place| {
            f64::from(view.own.believed_cached(place, arrival)) >= HELD_SHARE_MIN * prompt
        };
        let in_flight = |view: &View<'_>, place: usize| view.own.uncached_in_flight[place];
        let least = |view: &View<'_>, places: &mut dyn Iterator<Item = usize>| {
            places.map(|place| in_flight(view, place)).min()
        };
        let holding = least(view, &mut (0..count).filter(|place| holds(view, *place)));
        let all = least(view, &mut (0..count)).unwrap_or(0);
        let sticky = holding.is_some_and(|held| ((held - all) as f64) < RELEASE_S * rate(view));
        view.least(|view, place| {
            if sticky && !holds(view, place) {
                return f64::INFINITY;
            }
            let uncached = arrival.prompt_tokens - view.own.believed_cached(place, arrival);
            in_flight(view, place) as f64 + f64::from(uncached)
        })
    }
}

/// Prompt tokens a second at their peak.
fn rate(view: &View<'_>) -> f64 {
    let speed = &view.speeds[0];
    let attention_s = speed.attention_ns * 0.5e-9 * RATE_PROMPT_TOKENS * RATE_PROMPT_TOKENS;
    RATE_PROMPT_TOKENS / (speed.step_ms * 1e-3 + speed.token_us * 1e-6 * RATE_PROMPT_TOKENS + attention_s)
}
