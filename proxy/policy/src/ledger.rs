//! The account of one model server, kept by the sidecar beside it: what it has before it at any moment.
//!
//! ```text
//!   enter ──► prompt pending ── first token ──► generating ── last byte, or the caller leaves ──► leave
//! ```
//!
//! Every request of every caller passes here, so prompts pending and sequences are known at once and to a request; no engine tells the
//! first of them. What goes on inside (how much of a prompt is computed, and how fast) is replayed by the [`Learner`], which sees the
//! same events. An entry lives as long as its request: nothing in here ends by a timer.
//!
//! An answer that comes as a whole shows no first token. Its prompt counts as pending for as long as it was expected to be.

mod calls;
mod places;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use penstock_model::units::Moment;

use crate::gate::{self, Patience, Place, Promise, Promises, UnderWay, Verdict};
use crate::lately::{Lately, MEAN_MS};
use crate::pick::cost::{self, Prompt, Report, Terms, Weights};
use crate::speed::{Learner, Size, Speed, Track};
pub use calls::{CallEntry, Calls};
use places::Places;

/// Of the time that was expected until a first token, beyond which (and [`Weights::blocked_from_ms`]) it waits for something else than
/// prompts. By the ledger, long prompts take up to a quarter longer than was thought before their engine is known well, and a step more than was
/// thought is none of it: with 1 instead, azure code keeps 0.4 points less at capacity, with 2 reasoning a point less.
const OVERDUE: f64 = 1.25;

/// Answers over which their length is averaged.
const ANSWERS: f64 = 200.0;
/// What a size keeps of its weight in the scale with each that follows, and the tokens for which the estimate stands at first.
const SCALE_KEEP: f64 = 0.99;
const SCALE_TOKENS: f64 = 500.0;
/// Four bytes a token are estimated, and a tokenizer takes between one and sixteen. What lies outside is an estimate of something else,
/// such as a picture, or a conversation that the engine keeps.
const SCALES: RangeInclusive<f64> = 0.25..=4.0;

/// Whether tokens are seen as they come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A stream.
    Stream,
    /// One piece, at the end.
    Whole,
}

/// What an engine says of a request when it has answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// The prompt's size; `None` where it was not told.
    pub size: Option<Size>,
    /// Tokens of the answer; 0 where they were not told.
    pub output_tokens: u32,
}

/// Memory of an engine, as it says itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// KV tokens held.
    pub used_tokens: u64,
    /// KV tokens in all.
    pub total_tokens: u64,
}

/// A request's place in the account.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a request that has entered must leave"]
pub struct Entry(u64);

#[derive(Clone, Debug)]
struct Open {
    track: Track,
    sent: Moment,
    shape: Shape,
    /// Tokens of its prompt as they were estimated.
    estimated: u32,
    /// Of the prompt tokens that came in, the one with which its prompt ends.
    prompt_ends: f64,
    place: Option<Place>,
    /// Tokens of its answer so far.
    tokens: u32,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Ledger {
    learner: Learner,
    /// By number of arrival, so the oldest is the first.
    open: BTreeMap<u64, Open>,
    /// Those whose first token is awaited, oldest first.
    awaited: BTreeSet<u64>,
    /// Of them, those whose first token will not be seen, by when it is expected.
    unseen: BTreeSet<(Moment, u64)>,
    entered: u64,
    /// When a token came last, or an answer ended: the engine computes.
    last_sign: Moment,
    /// Milliseconds of prompts' work.
    arriving: Lately,
    /// Of the last [`ANSWERS`], of which there were so many.
    output_tokens_mean: f64,
    answers: f64,
    memory: Memory,
    scale: Scale,
    promises: Promises,
    places: Places,
}

/// Tokens of prompts as engines count them, to what was estimated from their bytes: of late, and weighed by size.
#[derive(Clone, Copy, Debug)]
struct Scale {
    told: f64,
    estimated: f64,
}

impl Scale {
    fn learn(&mut self, told: u32, estimated: u32) {
        let [told, estimated] = [told, estimated].map(f64::from);
        if !SCALES.contains(&(told / estimated)) {
            return;
        }
        self.told = self.told * SCALE_KEEP + told;
        self.estimated = self.estimated * SCALE_KEEP + estimated;
    }

    fn of(&self, size: Size) -> Size {
        let factor = self.told / self.estimated;
        let scaled = |tokens: u32| (f64::from(tokens) * factor).round().max(1.0) as u32;
        Size { tokens: scaled(size.tokens), cached_tokens: (f64::from(size.cached_tokens) * factor) as u32 }
    }
}

impl Ledger {
    /// An idle engine of which `prior` is assumed.
    pub fn starting(prior: Speed) -> Self {
        Self {
            learner: Learner::starting(prior),
            open: BTreeMap::new(),
            awaited: BTreeSet::new(),
            unseen: BTreeSet::new(),
            entered: 0,
            last_sign: Moment::default(),
            arriving: Lately::default(),
            output_tokens_mean: 0.0,
            answers: 0.0,
            memory: Memory::default(),
            promises: Promises::default(),
            places: Places::default(),
            scale: Scale { told: SCALE_TOKENS, estimated: SCALE_TOKENS },
        }
    }

    /// A request is sent to the engine. What its caller was promised counts for whoever comes later.
    pub fn enter(&mut self, size: Size, shape: Shape, promise: Option<Promise>, now: Moment) -> Entry {
        self.pass_unseen(now);
        let estimated = size.tokens;
        let size = self.scale.of(size);
        self.count_arrival(size, now);
        let track = self.learner.sent(size, now);
        self.entered += 1;
        let number = self.entered;
        if shape == Shape::Whole {
            self.unseen.insert((now + track.expected(), number));
        }
        self.awaited.insert(number);
        let uncached = Prompt { tokens: size.tokens, cached_tokens: size.cached_tokens }.uncached_tokens();
        let place = match promise {
            Some(promise) => Some(self.promises.came(promise, uncached)),
            None => {
                self.promises.came_unpromised(uncached);
                None
            }
        };
        self.open.insert(
            number,
            Open {
                track,
                sent: now,
                shape,
                estimated,
                prompt_ends: self.promises.came_tokens(),
                place,
                tokens: 0,
            },
        );
        Entry(number)
    }

    /// Its answer begins, and shows how it comes: what was asked for may not have been known.
    pub fn answered(&mut self, entry: &Entry, shape: Shape, now: Moment) {
        self.pass_unseen(now);
        let Some(open) = self.open.get_mut(&entry.0).filter(|open| open.shape != shape) else { return };
        open.shape = shape;
        match shape {
            Shape::Stream => {
                self.unseen.remove(&(open.sent + open.track.expected(), entry.0));
            }
            Shape::Whole => {
                self.awaited.remove(&entry.0);
                self.learner.first_token_unseen(&mut open.track, now);
                open.place.take().into_iter().for_each(|place| self.promises.left(place));
            }
        }
    }

    /// So many tokens of its answer came; true if they are the first.
    pub fn tokens(&mut self, entry: &Entry, tokens: u32, now: Moment) -> bool {
        self.pass_unseen(now);
        let Some(open) = self.open.get_mut(&entry.0).filter(|open| open.shape == Shape::Stream) else {
            return false;
        };
        open.tokens = open.tokens.saturating_add(tokens);
        self.last_sign = now;
        self.learner.chunk(&mut open.track, tokens, now);
        if let Some(place) = open.place {
            let step = self.learner.step();
            (0..tokens).for_each(|_| self.promises.token(place, step, now));
        }
        self.awaited.remove(&entry.0)
    }

    /// Its answer is over, or its caller has left.
    #[expect(clippy::needless_pass_by_value, reason = "who has left must not be heard of again")]
    pub fn leave(&mut self, entry: Entry, told: Told, now: Moment) {
        let Entry(number) = entry;
        self.pass_unseen(now);
        let Some(open) = self.open.remove(&number) else { return };
        self.awaited.remove(&number);
        open.place.into_iter().for_each(|place| self.promises.left(place));
        self.unseen.remove(&(open.sent + open.track.expected(), number));
        if open.shape == Shape::Whole {
            self.learner.whole_answer(&open.track, told.output_tokens, now);
        }
        self.learner.ended(&open.track, told.size, now);
        if let Some(size) = told.size {
            self.scale.learn(size.tokens, open.estimated);
        }
        let tokens = told.output_tokens.max(open.tokens);
        if tokens > 0 {
            self.last_sign = now;
            self.answers = (self.answers + 1.0).min(ANSWERS);
            self.output_tokens_mean += (f64::from(tokens) - self.output_tokens_mean) / self.answers;
        }
    }

    /// What a prompt is to this engine that was estimated as `size`.
    pub fn scaled(&self, size: Size) -> Size {
        self.scale.of(size)
    }

    /// What the engine says of its memory.
    pub fn memory(&mut self, memory: Memory) {
        self.memory = memory;
    }

    /// Requests that have entered and not left.
    pub fn requests(&self) -> usize {
        self.open.len()
    }

    /// The state at `now`, in the words in which placements are compared.
    pub fn report(&mut self, now: Moment) -> Report {
        self.pass_unseen(now);
        let load = self.learner.load(now);
        let waiting = u32::try_from(self.awaited.len()).unwrap_or(u32::MAX);
        let computed = self.promises.came_tokens() - (load.waiting.tokens + load.stepping.tokens);
        let oldest = self.awaited.first().and_then(|number| self.open.get(number));
        // A prompt that should have been computed, and whose first token has not come though others have: for want of memory, or of a place.
        let is_blocked = |open: &&Open| {
            let expected = open.track.expected();
            let late = now.since(open.sent + expected.mul_f64(OVERDUE)).as_secs_f64() * 1e3;
            open.prompt_ends < computed + 1.0
                && late > Weights::CHOSEN.blocked_from_ms
                && (load.sequences == 0 || self.last_sign > open.sent + expected)
        };
        let blocked_ms =
            oldest.filter(is_blocked).map_or(0.0, |open| now.since(open.sent).as_secs_f64() * 1e3);
        self.places.running(load.sequences, now);
        if blocked_ms > 0.0 {
            self.places.is_blocked(load.sequences, now);
        }
        let held = load.context_tokens as u64;
        let report = Report {
            prompt_tokens_pending: load.waiting.tokens + load.stepping.tokens,
            attention_doubled_pending: load.waiting.attention_doubled + load.stepping.attention_doubled,
            sequences_running: load.sequences,
            sequences_waiting: waiting,
            sequences_max: self.places.known(now),
            longest_waiting_ms: blocked_ms,
            output_tokens_mean: self.output_tokens_mean,
            kv_tokens_used: self.memory.used_tokens.max(held),
            kv_tokens_total: self.memory.total_tokens,
            arriving: self.arriving.rate(now),
            bearable_ms: None,
        };
        let is_stepping = load.sequences > 0 || load.stepping.tokens > 0.0;
        let under_way = is_stepping
            .then(|| UnderWay { step: self.learner.step(), prompt_tokens_waiting: load.waiting.tokens });
        let bearable_ms = self.promises.bearable_ms(&report, &self.speed(), now, under_way, &Weights::CHOSEN);
        Report { bearable_ms, ..report }
    }

    /// Whether a prompt comes in at the moment of `report`, and what it costs.
    ///
    /// An engine without work takes everything: it is as fast as it will ever be, and whoever refused for it would never learn that it is
    /// faster than was thought.
    pub fn judge(&self, report: &Report, prompt: Prompt, patience: Patience) -> (Verdict, Terms) {
        let terms = cost::terms(report, &self.speed(), prompt, &Weights::CHOSEN);
        if self.requests() == 0 {
            return (Verdict::Serve, terms);
        }
        (gate::decide(&terms, patience, self.promises.gain(report, &self.speed())), terms)
    }

    /// How fast the engine is, as far as it is known.
    pub fn speed(&self) -> cost::Speed {
        (*self.learner.speed()).into()
    }

    /// Whether it has shown that: before, its speed is an assumption.
    pub fn has_shown_speed(&self) -> bool {
        self.learner.has_seen_steps()
    }

    /// Relative errors of what is known: of a step without prompts, and of the time to the first token; 0 to 1.
    pub fn errors(&self) -> [f64; 2] {
        [self.learner.step_error(), self.learner.first_token_error()]
    }

    fn pass_unseen(&mut self, now: Moment) {
        while let Some((due, number)) = self.unseen.first().copied().filter(|(due, _)| *due <= now) {
            self.unseen.remove(&(due, number));
            self.awaited.remove(&number);
            if let Some(open) = self.open.get_mut(&number) {
                self.learner.first_token_unseen(&mut open.track, due);
                // None of its tokens is seen, so nobody can tell which of them is late.
                open.place.take().into_iter().for_each(|place| self.promises.left(place));
            }
        }
    }

    fn count_arrival(&mut self, size: Size, now: Moment) {
        let prompt = Prompt { tokens: size.tokens, cached_tokens: size.cached_tokens };
        let work_ms = self.speed().prompt_ms(prompt.uncached_tokens(), prompt.attention_doubled());
        // One alone keeps it as busy as it can be; a size that is told is not always true.
        self.arriving.add(work_ms.min(MEAN_MS), now);
    }
}

#[cfg(test)]
mod tests;
