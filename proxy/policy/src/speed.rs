//! How fast an endpoint computes: the closed form of a model server, and its constants learned from what crosses a sidecar.
//!
//! An engine that batches continuously works in steps. Each step gives every running sequence one token and computes the next piece
//! of the prompts that wait:
//!
//! ```text
//!   step = step_ms + sequence·R + context·K + token·max(0, n − free) + attention·S
//!
//!   R  sequences that generate          n  tokens computed: one for each sequence, and those of prompts
//!   K  tokens of context that they read S  pairs of a prompt token with one that came before it
//! ```
//!
//! It is the form of Vidur's and BLIS's measured models: a step takes the time of reading the weights or of computing its tokens,
//! whichever is longer, so the first `free` tokens cost nothing beyond the reading. Time to the first token is the way to the engine,
//! the rest of the step under way and the steps until the prompt is computed; time per output token is the step.
//!
//! [`Learner`] finds the constants. Nothing of the engine is read or configured: see there for what it observes. [`CallLearner`] does
//! the same for work that is no token stream. A sequence has no constant of its own in the step: sequences and their context come
//! together, and on their way out ([`Speed::chunk_us`]) they are told apart.
//!
//! # How good it is
//!
//! Mean errors in percent over requests 200 to 999 of a simulated engine whose steps vary by a lognormal factor of sigma 0.05, from the
//! same prior for all profiles (`tests/engine/tests/learned_speed`, which asserts them). *Chat*: prompts of 700 tokens; *mixed*: with
//! prompts up to 90,000 tokens and shared beginnings. Load is the share of the requests a second that an endless queue would give.
//!
//! | profile | load | TTFT chat | TTFT mixed | TPOT chat | TPOT mixed | forecast chat | forecast mixed |
//! |---|---|---|---|---|---|---|---|
//! | 8b-h100 | 0.30 | 3.3 | 3.4 | 0.5 | 0.6 | 5.3 (5.1) | 4.5 (4.3) |
//! | | 0.60 | 3.8 | 3.3 | 0.6 | 0.6 | 8.3 (8.1) | 6.0 (5.4) |
//! | | 0.85 | 3.8 | 3.0 | 0.7 | 0.6 | 10.3 (10.1) | 7.3 (7.3) |
//! | 8b-a100 | 0.30 | 3.8 | 3.9 | 0.6 | 0.6 | 5.6 (5.2) | 6.0 (5.4) |
//! | | 0.60 | 4.1 | 3.3 | 0.6 | 0.6 | 7.7 (7.6) | 6.9 (6.6) |
//! | | 0.85 | 4.4 | 3.1 | 0.8 | 0.8 | 10.5 (10.5) | 6.6 (6.6) |
//! | 70b-h100-tp4 | 0.30 | 3.7 | 3.5 | 0.5 | 0.5 | 6.2 (5.6) | 5.5 (5.0) |
//! | | 0.60 | 4.0 | 3.3 | 0.8 | 0.7 | 8.7 (8.5) | 6.7 (6.4) |
//! | | 0.85 | 4.0 | 3.2 | 1.4 | 0.7 | 13.0 (12.9) | 8.7 (8.3) |
//! | 70b-a100-tp4 | 0.30 | 4.0 | 3.4 | 0.6 | 0.5 | 5.8 (5.5) | 4.9 (4.6) |
//! | | 0.60 | 4.2 | 3.3 | 0.6 | 0.7 | 9.7 (9.3) | 6.4 (6.0) |
//! | | 0.85 | 4.3 | 3.2 | 1.0 | 0.7 | 13.4 (12.9) | 8.3 (7.8) |
//!
//! TTFT and TPOT are the errors of the constants: what else was in the steps is given. Noise alone makes 4 % where a prompt takes one
//! step. The forecast is made when the request comes, from [`Learner::load`]; beside it, in brackets, that of somebody who knows the
//! true constants. What both miss are prompts that come later and into the same step. After a fall to half the speed at loads of 0.3
//! and 0.6 the error of a step is back between 4 and 8 % one second later, in all of these.

mod call;
mod change;
mod fit;
mod learner;
mod period;
mod queue;

use crate::pick::cost;
pub use call::{Call, CallLearner, CallSpeed, CallTrack, Unit};
pub use learner::{Learner, Size, Track};

/// Constants of the closed form.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speed {
    /// Milliseconds between the arrival of a request and the first step that may take it, and from a token to its chunk; 0 to 500.
    pub front_end_ms: f64,
    /// Milliseconds of a step with a single sequence and no prompt; above 0.
    pub step_ms: f64,
    /// Microseconds of the way out for each sequence, whose tokens leave one after the other, those of new sequences last.
    pub chunk_us: f64,
    /// Microseconds for each token of context that a generating sequence reads.
    pub context_us: f64,
    /// Microseconds for each token beyond the free ones.
    pub token_us: f64,
    /// Tokens of a step that cost nothing, since the weights must be read anyway; 0 to 1,024.
    pub free_tokens: f64,
    /// Nanoseconds for each pair of a prompt token and one before it.
    pub attention_ns: f64,
    /// Tokens that one step computes at most; at least 1.
    pub step_tokens_max: f64,
}

/// Prompt tokens to be computed, and what they attend to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    /// Tokens that are not cached.
    pub tokens: f64,
    /// Twice the pairs of these tokens and those before them: the square of the whole prompt less that of the cached part.
    pub attention_doubled: f64,
}

/// What an engine has before it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Milliseconds until the step under way ends; 0 where there is none.
    pub step_left_ms: f64,
    /// What that step still computes of prompts.
    pub stepping: Work,
    /// Prompts, or parts of them, that wait for a later step.
    pub waiting: Work,
    /// Sequences that generate.
    pub sequences: u32,
    /// Tokens of context that these read at each step.
    pub context_tokens: f64,
}

impl Work {
    /// The work of a prompt of `tokens`, `cached` of which are in the engine's cache; at least one token is always computed.
    pub fn of(tokens: u32, cached: u32) -> Self {
        let whole = f64::from(tokens.max(1));
        let cached = f64::from(cached).min(whole - 1.0);
        Self { tokens: whole - cached, attention_doubled: whole * whole - cached * cached }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            tokens: self.tokens + other.tokens,
            attention_doubled: self.attention_doubled + other.attention_doubled,
        }
    }

    /// What is left without `other`; never below nothing.
    fn minus(self, other: Self) -> Self {
        Self {
            tokens: (self.tokens - other.tokens).max(0.0),
            attention_doubled: (self.attention_doubled - other.attention_doubled).max(0.0),
        }
    }

    fn times(self, share: f64) -> Self {
        Self { tokens: self.tokens * share, attention_doubled: self.attention_doubled * share }
    }
}

impl Default for Speed {
    /// What is assumed of an engine of which nothing is known: a model of 8 to 32 billion parameters on a GPU of 2023. The first few
    /// steps correct it by a common factor, so what matters are the proportions.
    fn default() -> Self {
        Self {
            front_end_ms: 5.0,
            step_ms: 12.0,
            chunk_us: 20.0,
            context_us: 0.07,
            token_us: 45.0,
            free_tokens: 100.0,
            attention_ns: 2.0,
            step_tokens_max: 8_192.0,
        }
    }
}

impl Speed {
    /// Milliseconds from token to token while no prompt is computed: TPOT at this load.
    pub fn token_ms(&self, sequences: u32, context_tokens: f64) -> f64 {
        self.steps_ms(1.0, Work::default(), sequences, context_tokens)
    }

    /// Milliseconds of `steps` steps that compute `work` besides giving each sequence its token.
    pub fn steps_ms(&self, steps: f64, work: Work, sequences: u32, context_tokens: f64) -> f64 {
        let sequences = f64::from(sequences);
        let beyond_free = (work.tokens + steps * (sequences - self.free_tokens)).max(0.0);
        steps * (self.step_ms + self.context_us * 1e-3 * context_tokens)
            + self.token_us * 1e-3 * beyond_free
            + self.attention_ns * 0.5e-6 * work.attention_doubled
    }

    /// Milliseconds from the arrival of `prompt` to its first token: TTFT at this load.
    pub fn first_token_ms(&self, load: &Load, prompt: Work) -> f64 {
        let room = self.room(load.sequences);
        let mut at_ms = load.step_left_ms;
        let mut waiting = load.waiting;
        // A prompt misses the steps that start before it has reached the scheduler. A few suffice: a front end is short.
        for _ in 0..FRONT_END_STEPS_MAX {
            if at_ms >= self.front_end_ms || (load.sequences == 0 && waiting.tokens <= 0.0) {
                break;
            }
            let taken = waiting.times((room / waiting.tokens.max(1.0)).min(1.0));
            at_ms += self.steps_ms(1.0, taken, load.sequences, load.context_tokens);
            waiting = waiting.minus(taken);
        }
        let work = waiting.plus(prompt);
        let steps = (work.tokens / room).ceil().max(1.0);
        at_ms.max(self.front_end_ms)
            + self.steps_ms(steps, work, load.sequences, load.context_tokens)
            + self.chunk_us * 1e-3 * f64::from(load.sequences)
    }

    /// Prompt tokens for which a step has room beside the sequences.
    fn room(&self, sequences: u32) -> f64 {
        (self.step_tokens_max - f64::from(sequences)).max(1.0)
    }

    /// The same engine, everything `factor` times as slow.
    fn slower(&self, factor: f64) -> Self {
        Self {
            front_end_ms: self.front_end_ms * factor,
            step_ms: self.step_ms * factor,
            chunk_us: self.chunk_us * factor,
            context_us: self.context_us * factor,
            token_us: self.token_us * factor,
            attention_ns: self.attention_ns * factor,
            ..*self
        }
    }
}

/// What the cost of a placement reckons with: the steps that compute prompts. In those the weights are not the limit, so nothing is
/// free, and each sequence costs its token.
impl From<Speed> for cost::Speed {
    fn from(speed: Speed) -> Self {
        Self {
            front_end_ms: speed.front_end_ms,
            step_ms: (speed.step_ms - speed.token_us * 1e-3 * speed.free_tokens).max(0.0),
            sequence_us: speed.token_us,
            token_us: speed.token_us,
            context_us: speed.context_us,
            attention_ns: speed.attention_ns,
            step_tokens_max: speed.step_tokens_max,
        }
    }
}

/// Steps that a prompt can miss while it is on its way to the scheduler.
const FRONT_END_STEPS_MAX: u32 = 8;

#[cfg(test)]
mod tests;
