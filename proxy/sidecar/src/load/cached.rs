//! Inbound: which prompts a model server has computed and still keeps, as far as its sidecar saw them pass.
//!
//! ```text
//!   body has ended ── asked ──► first token ── computed ──► last byte ── corrected by the engine's count, if it counts; used once more
//! ```
//!
//! The engine's room for prompts is its KV memory, by its last word, less the answers under way; where it never says how much it has,
//! [`ROOM_TOKENS`]. From there on what it finds tells. Nothing is known of caches that the engine drops for reasons of its own, but one
//! that nobody answers for has begun anew when somebody does.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;
use penstock_policy::prefix::{Belief, Boundary, Counted, Cursor, Digest, Held, Keys};

/// Tokens that an engine is taken to have room for which does not say: a model of some 30 billion parameters on two accelerators of
/// 80 GB has 307,000.
const ROOM_TOKENS: u64 = 262_144;

/// What one engine has.
#[derive(Debug, Default)]
pub struct Cached {
    held: Mutex<Held>,
    /// Tokens of the answers under way; apart, since it changes with every token.
    answer_tokens: AtomicU64,
    /// KV tokens in all, as it said last; 0 where it never did.
    kv_tokens: AtomicU64,
    /// How often its metrics page had gone when that was looked at last.
    gone: AtomicU32,
}

/// One prompt on its way through the engine.
#[derive(Debug)]
pub struct Passing {
    boundaries: Vec<Boundary>,
    estimated: u32,
    belief: Belief,
}

impl Cached {
    /// A prompt of so many tokens, as estimated, is sent to the engine.
    pub fn asked(&self, boundaries: Vec<Boundary>, estimated: u32) -> Passing {
        let belief = self.held.lock().believed(&boundaries);
        Passing { boundaries, estimated, belief }
    }

    /// So many tokens of an answer came.
    pub fn answer_grows(&self, tokens: u32) {
        self.answer_tokens.fetch_add(tokens.into(), Ordering::Relaxed);
    }

    /// An answer of so many tokens is gone.
    pub fn answer_ends(&self, tokens: u32) {
        self.answer_tokens.fetch_sub(tokens.into(), Ordering::Relaxed);
    }

    /// The first token shows that the prompt has been computed.
    pub fn computed(&self, passing: &mut Passing, kv_tokens: Option<u64>) {
        self.uses(&mut self.held.lock(), passing, kv_tokens);
        passing.belief.is_used(&passing.boundaries);
    }

    /// The answer is over, and `input` of its prompt's tokens were counted by the engine, with those that it found in its cache.
    pub fn ended(&self, passing: &Passing, counted: Option<(u32, u32)>, kv_tokens: Option<u64>) {
        let mut held = self.held.lock();
        if let Some((input, cached)) = counted {
            let counted = Counted { estimated: passing.estimated, input, cached };
            held.corrected(&passing.belief, counted);
        }
        self.uses(&mut held, passing, kv_tokens);
    }

    /// Its metrics page had gone so often by now: each time the engine had ended, and nothing is there.
    pub fn page_went(&self, times: u32) {
        if self.gone.swap(times, Ordering::Relaxed) != times {
            self.held.lock().forget();
            self.kv_tokens.store(0, Ordering::Relaxed);
        }
    }

    /// What a subscriber has not been told.
    pub fn digest(&self, cursor: &mut Cursor, keys: &Keys) -> Option<Digest> {
        self.held.lock().digest(cursor, keys)
    }

    fn uses(&self, held: &mut Held, passing: &Passing, kv_tokens: Option<u64>) {
        let answer_tokens = self.answer_tokens.load(Ordering::Relaxed);
        if let Some(told) = kv_tokens {
            self.kv_tokens.store(told, Ordering::Relaxed);
        }
        // A page that is late for once takes nothing of it away.
        let kv_tokens = match self.kv_tokens.load(Ordering::Relaxed) {
            0 => ROOM_TOKENS,
            known => known,
        };
        held.has_room(kv_tokens.saturating_sub(answer_tokens));
        held.uses(&passing.boundaries);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt(first: u64, blocks: u64) -> Vec<Boundary> {
        (0..blocks).map(|block| Boundary { tokens: (block as u32 + 1) * 128, hash: first + block }).collect()
    }

    /// Tokens believed cached of a prompt of ten blocks, after what `happens`.
    fn check(expected: u32, happens: impl FnOnce(&Cached)) {
        let cached = Cached::default();
        happens(&cached);
        assert_eq!(cached.asked(prompt(100, 10), 1_280).belief.tokens(), expected);
    }

    #[test]
    fn a_prompt_is_there_from_its_first_token_on() {
        check(0, |cached| drop(cached.asked(prompt(100, 10), 1_280)));
        check(1_280, |cached| cached.computed(&mut cached.asked(prompt(100, 10), 1_280), None));
        check(640, |cached| cached.ended(&cached.asked(prompt(100, 5), 640), None, None));
    }

    #[test]
    fn an_engine_that_was_gone_has_nothing() {
        let computed = |cached: &Cached| cached.computed(&mut cached.asked(prompt(100, 10), 1_280), None);
        check(0, |cached| {
            computed(cached);
            cached.page_went(1);
        });
        check(1_280, |cached| {
            cached.page_went(1);
            computed(cached);
            cached.page_went(1);
        });
    }

    #[test]
    fn an_engine_whose_page_is_late_for_once_keeps_what_it_has() {
        let cached = Cached::default();
        let blocks = 2 * ROOM_TOKENS / 128;
        let tokens = 2 * ROOM_TOKENS as u32;
        let has = |cached: &Cached| cached.asked(prompt(100, blocks), tokens).belief.tokens();
        cached.computed(&mut cached.asked(prompt(100, blocks), tokens), Some(4 * ROOM_TOKENS));
        assert_eq!(has(&cached), tokens);
        let other = || cached.asked(prompt(9_000_000, 10), 1_280);
        cached.computed(&mut other(), None);
        assert_eq!(has(&cached), tokens);
        cached.page_went(1);
        cached.computed(&mut cached.asked(prompt(100, blocks), tokens), None);
        assert!(u64::from(has(&cached)) <= ROOM_TOKENS, "nobody has said how much the next one has");
    }

    #[test]
    fn what_the_answers_take_is_no_room_for_prompts() {
        let other = |cached: &Cached| cached.asked(prompt(900, 10), 1_280);
        check(1_280, |cached| {
            cached.computed(&mut cached.asked(prompt(100, 10), 1_280), Some(2_560));
            cached.computed(&mut other(cached), Some(2_560));
        });
        check(640, |cached| {
            cached.computed(&mut cached.asked(prompt(100, 10), 1_280), Some(2_560));
            cached.answer_grows(640);
            cached.computed(&mut other(cached), Some(2_560));
        });
    }

    #[test]
    fn an_engine_that_keeps_nothing_is_believed_less_with_each_answer() {
        let cached = Cached::default();
        let mut believed = Vec::new();
        for _ in 0..12 {
            let mut passing = cached.asked(prompt(100, 10), 1_280);
            believed.push(passing.belief.tokens());
            cached.computed(&mut passing, None);
            cached.ended(&passing, Some((1_300, 0)), None);
        }
        assert_eq!(believed[1], 1_280);
        assert!(believed.last().is_some_and(|tokens| *tokens <= 256), "{believed:?}");
    }
}
