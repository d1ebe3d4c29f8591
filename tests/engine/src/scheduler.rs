//! The scheduler of a model server: continuous batching with chunked prefill, as numbers only.
//!
//! One step computes a batch of tokens. Into it go, in this order:
//!
//! 1. one token for each decoding sequence, oldest first; where the KV cache has no block left for one, the
//!    youngest sequence is sent back to the queue and will compute everything again;
//! 2. the next chunk of each prompt that is already being computed;
//! 3. requests from the queue in order of arrival, as long as the step has tokens, the engine has places and the
//!    KV cache has blocks for the whole prompt. If anything was sent back, nothing new comes in.
//!
//! ```text
//!   submit ─► front end ─► queue ─► Prefill ─► Decode ─► Finishing ─► gone
//!                            ▲─── preempted ──────┘
//! ```
//!
//! Time is an argument: whoever drives the engine calls [`Engine::step`] when [`Engine::next_step_at`] says so,
//! with a clock or with events. The step is decided when it starts and its tokens are known then; they leave when it
//! ends. A sequence that finishes, or is aborted, during a step keeps its place and its blocks until the step has
//! ended. Nothing here reads a clock, draws from an unseeded source or depends on the order of a map.

mod blocks;
mod moment;
mod noise;
mod profile;
mod sequence;
mod step;

use std::collections::VecDeque;

use crate::mix::NumberMap;
use blocks::Blocks;
pub use moment::Moment;
use noise::Noise;
pub use profile::{Batch, PROFILES, Profile};
use sequence::{Sequence, Stage};
pub use step::{
    Aborted, Accepted, Admission, Emission, Gauges, Phase, Refused, Request, SequenceId, Step, Totals,
};

/// Bounds of the scheduler. The defaults are vLLM's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Tokens that one step may compute; at least 1.
    pub batched_tokens_max: u32,
    /// Sequences that may hold a place; at least 1.
    pub sequences_max: u32,
    /// Requests that may wait beyond those for which a place is free; `None` for any number.
    pub queued_max: Option<u32>,
    /// Tokens in a block of the KV cache; at least 1.
    pub block_tokens: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { batched_tokens_max: 8_192, sequences_max: 256, queued_max: None, block_tokens: 16 }
    }
}

/// How the hardware differs from its profile.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// Divides every duration: 2 is twice as fast as life. Finite and above 0.
    pub speed: f64,
    /// Sigma of the lognormal factor on step times; 0 for none, 0.05 for what real steps show.
    pub noise_sigma: f64,
}

impl Default for Pace {
    fn default() -> Self {
        Self { speed: 1.0, noise_sigma: 0.0 }
    }
}

/// Why an engine cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum Unusable {
    /// A limit of 0.
    #[error("{0} must be at least 1")]
    Zero(&'static str),
    /// The speed is 0, negative or no number.
    #[error("the speed must be a finite number above 0, not {0}")]
    Speed(f64),
    /// The sigma is negative or no number.
    #[error("the noise must be a finite number of at least 0, not {0}")]
    Noise(f64),
    /// The KV cache holds less than one block.
    #[error("a KV cache of {kv_tokens} tokens has no block of {block_tokens} tokens")]
    NoBlocks {
        /// Tokens that the profile's cache holds.
        kv_tokens: u32,
        /// Tokens in a block.
        block_tokens: u32,
    },
}

/// Index into the table of sequences.
type Slot = u32;

/// A simulated engine. See the header of this module for how it decides.
#[derive(Clone, Debug)]
pub struct Engine {
    profile: Profile,
    limits: Limits,
    pace: Pace,
    noise: Noise,
    blocks: Blocks,
    sequences: Vec<Sequence>,
    vacant: Vec<Slot>,
    by_id: NumberMap<SequenceId, Slot>,
    /// In the order of arrival; a sequence is ready to be taken when its front-end work is done.
    queue: VecDeque<Slot>,
    /// In the order of admission: the last one is the youngest.
    running: Vec<Slot>,
    /// How many of the running ones are still in prefill, and how many leave when the step ends.
    prefilling: u32,
    leaving: u32,
    /// Whether the last step left a ready request in the queue.
    queue_blocked: bool,
    busy_until: Moment,
    held_until: Moment,
    front_end_ready: Moment,
    front_end_free: Moment,
    totals: Totals,
}

impl Engine {
    /// An idle engine with an empty cache.
    ///
    /// # Errors
    /// A limit of 0, a speed that is not above 0, a negative noise, or no room for a single block.
    pub fn new(profile: Profile, limits: Limits, pace: Pace, seed: u64) -> Result<Self, Unusable> {
        check(&profile, &limits, &pace)?;
        Ok(Self {
            profile,
            limits,
            pace,
            noise: Noise::seeded(seed, pace.noise_sigma),
            blocks: Blocks::empty(profile.kv_tokens / limits.block_tokens),
            sequences: Vec::new(),
            vacant: Vec::new(),
            by_id: NumberMap::default(),
            queue: VecDeque::new(),
            running: Vec::new(),
            prefilling: 0,
            leaving: 0,
            queue_blocked: false,
            busy_until: Moment::START,
            held_until: Moment::START,
            front_end_ready: Moment::START,
            front_end_free: Moment::START,
            totals: Totals::default(),
        })
    }

    /// Offers a request that arrives at `now`.
    ///
    /// # Errors
    /// The queue is full, the request could never finish, is empty, or has the number of one that is here.
    pub fn submit(&mut self, now: Moment, request: Request) -> Result<Accepted, Refused> {
        self.settle(now);
        self.admissible(&request)?;
        let ready = now.plus(self.paced(self.profile.front_end_ms * 1e6)).max(self.front_end_ready);
        self.front_end_ready = ready;
        let id = request.id;
        let sequence = Sequence::waiting(request, ready);
        let slot = if let Some(slot) = self.vacant.pop() {
            self.sequences[slot as usize] = sequence;
            slot
        } else {
            self.sequences.push(sequence);
            (self.sequences.len() - 1) as Slot
        };
        self.by_id.insert(id, slot);
        self.queue.push_back(slot);
        self.totals.accepted += 1;
        Ok(Accepted { ready })
    }

    /// When the driver should call [`step`](Self::step) next, if nothing else arrives before: the end of the step
    /// under way, or the moment at which the oldest request is ready. `None` when there is nothing to do.
    pub fn next_step_at(&self) -> Option<Moment> {
        if self.leaving > 0 {
            return Some(self.busy_until);
        }
        if !self.running.is_empty() {
            return Some(self.busy_until.max(self.held_until));
        }
        let oldest = *self.queue.front()?;
        Some(self.sequences[oldest as usize].ready.max(self.busy_until).max(self.held_until))
    }

    /// Starts a step at `now`, or at the end of the step under way if that is later, and writes its account.
    ///
    /// The account is empty when there is nothing to do at that moment.
    pub fn step(&mut self, now: Moment, step: &mut Step) {
        let start = now.max(self.busy_until);
        self.settle(start);
        step.restart(start);
        if start < self.held_until {
            return;
        }
        let budget = self.decode(step);
        let budget = self.prefill(budget, step);
        self.admit(start, budget, step);
        if step.batch.sequences > 0 {
            self.close(step);
        }
    }

    /// Runs every step that starts at or before `now`, showing each account to `see`.
    pub fn advance(&mut self, now: Moment, step: &mut Step, mut see: impl FnMut(&Step)) {
        while let Some(at) = self.next_step_at().filter(|at| *at <= now) {
            self.step(at, step);
            see(step);
        }
    }

    /// Ends a request whose caller left at `now`. `None` if the engine does not hold it any more.
    pub fn abort(&mut self, now: Moment, id: SequenceId) -> Option<Aborted> {
        self.settle(now);
        let slot = *self.by_id.get(&id)?;
        let sequence = &mut self.sequences[slot as usize];
        let phase = match sequence.stage {
            Stage::Waiting => Phase::Waiting,
            Stage::Prefill => Phase::Prefill,
            Stage::Decode => Phase::Decode,
            Stage::Finishing => Phase::Finishing,
            Stage::Leaving => return None,
        };
        // Places are given only inside steps, so whoever holds one during a step is part of it.
        let in_step = phase != Phase::Waiting && now < self.busy_until;
        let aborted = Aborted {
            phase,
            free_at: if in_step { self.busy_until } else { now },
            output_tokens: sequence.generated,
            saved_output_tokens: sequence.output_max - sequence.generated,
            saved_prompt_tokens: sequence.target.saturating_sub(sequence.computed),
            wasted_steps: u32::from(in_step),
        };
        self.totals.aborted += 1;
        self.totals.wasted_steps += u64::from(aborted.wasted_steps);
        self.totals.saved_output_tokens += u64::from(aborted.saved_output_tokens);
        self.totals.saved_prompt_tokens += u64::from(aborted.saved_prompt_tokens);
        self.prefilling -= u32::from(phase == Phase::Prefill);
        if in_step {
            self.leaving += u32::from(phase != Phase::Finishing);
            self.sequences[slot as usize].stage = Stage::Leaving;
        } else {
            self.queue.retain(|queued| *queued != slot);
            self.running.retain(|running| *running != slot);
            self.vacate(slot);
        }
        Some(aborted)
    }

    /// From the next step on the hardware runs at `speed` times its profile.
    ///
    /// # Errors
    /// A speed that is not a finite number above 0; the old one stays.
    pub fn run_at(&mut self, speed: f64) -> Result<(), Unusable> {
        let pace = Pace { speed, ..self.pace };
        check(&self.profile, &self.limits, &pace)?;
        self.pace = pace;
        Ok(())
    }

    /// Starts no step before `until`; the one under way ends as it would have.
    pub fn hold(&mut self, until: Moment) {
        self.held_until = self.held_until.max(until);
    }

    /// Lifts every hold.
    pub fn lift_hold(&mut self) {
        self.held_until = Moment::START;
    }

    /// Starts as a fresh process at `now`: nothing runs, nothing waits, nothing is cached.
    pub fn restart(&mut self, now: Moment) {
        self.totals.dropped += u64::from(self.gauges().running + self.gauges().waiting);
        self.blocks = Blocks::empty(self.blocks.total());
        self.sequences.clear();
        self.vacant.clear();
        self.by_id.clear();
        self.queue.clear();
        self.running.clear();
        self.prefilling = 0;
        self.leaving = 0;
        self.queue_blocked = false;
        self.busy_until = now;
        self.held_until = now;
        self.front_end_ready = now;
        self.front_end_free = now;
    }

    /// How full the engine is, as of the last call.
    pub fn gauges(&self) -> Gauges {
        Gauges {
            running: self.running.len() as u32,
            waiting: self.queue.len() as u32,
            blocks_pinned: self.blocks.pinned(),
            blocks_idle: self.blocks.idle(),
            blocks_total: self.blocks.total(),
        }
    }

    /// Prompt tokens that no step has taken yet, as of the last call. Of a request that waits, what is cached counts too.
    pub fn prompt_tokens_pending(&self) -> u64 {
        self.queue.iter().chain(&self.running).map(|slot| self.pending(*slot)).sum()
    }

    fn pending(&self, slot: Slot) -> u64 {
        let sequence = &self.sequences[slot as usize];
        match sequence.stage {
            Stage::Waiting | Stage::Prefill => u64::from(sequence.target.saturating_sub(sequence.computed)),
            Stage::Decode | Stage::Finishing | Stage::Leaving => 0,
        }
    }

    /// Prompt tokens that the prefix cache would spare a request which came in now; `block_hashes` as in [`Request`].
    ///
    /// Looking changes nothing, so a driver may ask for requests that it then sends elsewhere.
    pub fn cached_tokens(&self, prompt_tokens: u32, block_hashes: &[u64]) -> u32 {
        let hashes = sequence::lookup(block_hashes, prompt_tokens, self.limits.block_tokens);
        self.blocks.find(hashes).blocks * self.limits.block_tokens
    }

    /// What the engine has done so far.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// The bounds it was made with.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// The profile it was made with.
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    fn admissible(&mut self, request: &Request) -> Result<(), Refused> {
        if request.prompt_tokens == 0 || request.output_tokens_max == 0 {
            return Err(Refused::Empty);
        }
        if self.by_id.contains_key(&request.id) {
            return Err(Refused::DuplicateId(request.id));
        }
        let tokens = u64::from(request.prompt_tokens) + u64::from(request.output_tokens_max);
        let kv_tokens = u64::from(self.blocks.total()) * u64::from(self.limits.block_tokens);
        if tokens > kv_tokens {
            return Err(Refused::TooLong { tokens, kv_tokens });
        }
        let Some(queued_max) = self.limits.queued_max else { return Ok(()) };
        let waiting = self.queue.len() as u32;
        let places = self.limits.sequences_max - self.running.len() as u32;
        if !self.queue_blocked && waiting < places {
            return Ok(());
        }
        let surplus = if self.queue_blocked { waiting } else { waiting - places };
        if surplus >= queued_max {
            self.totals.refused += 1;
            return Err(Refused::QueueFull { waiting, queued_max });
        }
        Ok(())
    }

    /// One token for each decoding sequence. Returns how many tokens the step may still compute.
    fn decode(&mut self, step: &mut Step) -> u32 {
        let mut budget = self.limits.batched_tokens_max;
        let mut at = 0;
        while at < self.running.len() && budget > 0 {
            let slot = self.running[at] as usize;
            if self.sequences[slot].stage == Stage::Decode {
                if self.sequences[slot].computed == self.sequences[slot].room && !self.grow(at, step) {
                    break; // it was the youngest, and is in the queue again
                }
                let sequence = &mut self.sequences[slot];
                sequence.computed += 1;
                step.batch.context += u64::from(sequence.computed);
                step.batch.sequences += 1;
                budget -= 1;
                emit(sequence, &mut self.leaving, step);
            }
            at += 1;
        }
        step.batch.tokens = self.limits.batched_tokens_max - budget;
        budget
    }

    /// One more block for the running sequence at `at`, sending back the youngest ones until there is room; false
    /// if it was itself the youngest.
    fn grow(&mut self, at: usize, step: &mut Step) -> bool {
        while !self.blocks.take(1) {
            let Some(youngest) = self.running.pop() else { return false };
            let sequence = &mut self.sequences[youngest as usize];
            self.prefilling -= u32::from(sequence.stage == Stage::Prefill);
            self.blocks.release(&mut sequence.held, sequence.private);
            sequence.send_back();
            self.queue.push_front(youngest);
            self.totals.preemptions += 1;
            step.preempted.push(sequence.id);
            if self.running.len() == at {
                return false;
            }
        }
        let sequence = &mut self.sequences[self.running[at] as usize];
        sequence.private += 1;
        sequence.room += self.limits.block_tokens;
        true
    }

    fn prefill(&mut self, mut budget: u32, step: &mut Step) -> u32 {
        if self.prefilling == 0 {
            return budget;
        }
        for at in 0..self.running.len() {
            let slot = self.running[at];
            if self.sequences[slot as usize].stage == Stage::Prefill {
                budget -= self.compute_chunk(slot, budget, step);
            }
        }
        budget
    }

    fn admit(&mut self, start: Moment, mut budget: u32, step: &mut Step) {
        self.queue_blocked = false;
        while let Some(&slot) = self.queue.front() {
            if self.sequences[slot as usize].ready > start {
                return;
            }
            self.queue_blocked = true;
            let no_place = self.running.len() >= self.limits.sequences_max as usize;
            if budget == 0 || no_place || !step.preempted.is_empty() || !self.reserve(slot, step) {
                return;
            }
            self.queue.pop_front();
            self.running.push(slot);
            self.prefilling += 1;
            budget -= self.compute_chunk(slot, budget, step);
            self.queue_blocked = false;
        }
    }

    /// Blocks for the whole prompt, or none: a prompt that is begun is never stopped by younger ones.
    fn reserve(&mut self, slot: Slot, step: &mut Step) -> bool {
        let block_tokens = self.limits.block_tokens;
        let sequence = &mut self.sequences[slot as usize];
        let found = self.blocks.find(sequence.lookup(block_tokens));
        let needed = sequence.target.div_ceil(block_tokens);
        if needed - found.blocks + found.idle > self.blocks.available() {
            return false;
        }
        self.blocks.hold(&sequence.hashes[..found.blocks as usize], &mut sequence.held);
        self.blocks.take(needed - found.blocks);
        sequence.stage = Stage::Prefill;
        sequence.private = needed - found.blocks;
        sequence.published = found.blocks;
        sequence.room = needed * block_tokens;
        sequence.computed = found.blocks * block_tokens;
        if !sequence.again {
            self.totals.prefix_queries += u64::from(sequence.target);
            self.totals.prefix_hits += u64::from(sequence.computed);
        }
        step.admitted.push(Admission {
            id: sequence.id,
            cached_tokens: sequence.computed,
            again: sequence.again,
        });
        true
    }

    /// The next chunk of a prompt, at most `budget` tokens. Its full blocks can be found from now on, also by the
    /// requests behind it in the same step. Returns the tokens used.
    fn compute_chunk(&mut self, slot: Slot, budget: u32, step: &mut Step) -> u32 {
        let sequence = &mut self.sequences[slot as usize];
        let chunk = budget.min(sequence.target - sequence.computed);
        if chunk == 0 {
            return 0;
        }
        step.batch.sequences += 1;
        step.batch.tokens += chunk;
        let doubled = 2 * u64::from(sequence.computed) + u64::from(chunk);
        step.batch.attention_doubled += u64::from(chunk) * doubled;
        sequence.computed += chunk;
        let full = (sequence.computed / self.limits.block_tokens).min(sequence.hashes.len() as u32);
        for at in sequence.published..full {
            if let Some(node) = self.blocks.publish(sequence.hashes[at as usize]) {
                sequence.held.push(node);
                sequence.private -= 1;
            }
        }
        sequence.published = sequence.published.max(full);
        if sequence.computed == sequence.target {
            sequence.stage = Stage::Decode;
            self.prefilling -= 1;
            emit(sequence, &mut self.leaving, step);
        }
        chunk
    }

    /// Sets when the step ends and when its tokens leave.
    fn close(&mut self, step: &mut Step) {
        let noise = self.noise.factor();
        let duration = self.paced(self.profile.step_ns(&step.batch) * noise).max(1);
        step.until = step.start.plus(duration);
        self.busy_until = step.until;
        let per_token = self.paced(self.profile.front_end_token_us * 1e3);
        let mut at = step.until.max(self.front_end_free);
        for token in &mut step.tokens {
            at = at.plus(per_token);
            token.at = at;
        }
        self.front_end_free = at;
        self.totals.steps += 1;
        self.totals.sequence_steps += u64::from(step.batch.sequences);
        self.totals.computed_tokens += u64::from(step.batch.tokens);
        self.totals.output_tokens += step.tokens.len() as u64;
        self.totals.busy_ns += duration;
    }

    /// Frees the places of those that left during a step which has ended by `now`.
    fn settle(&mut self, now: Moment) {
        if self.leaving == 0 || now < self.busy_until {
            return;
        }
        self.leaving = 0;
        let mut running = std::mem::take(&mut self.running);
        running.retain(|slot| match self.sequences[*slot as usize].stage {
            Stage::Finishing => {
                self.totals.finished += 1;
                self.vacate(*slot);
                false
            }
            Stage::Leaving => {
                self.vacate(*slot);
                false
            }
            Stage::Waiting | Stage::Prefill | Stage::Decode => true,
        });
        self.running = running;
    }

    fn vacate(&mut self, slot: Slot) {
        let sequence = &mut self.sequences[slot as usize];
        self.blocks.release(&mut sequence.held, sequence.private);
        self.by_id.remove(&sequence.id);
        self.vacant.push(slot);
    }

    /// Nanoseconds at the present speed.
    fn paced(&self, nanos: f64) -> u64 {
        (nanos / self.pace.speed).round() as u64
    }
}

/// Counts one output token; its moment is set when the step is closed.
fn emit(sequence: &mut Sequence, leaving: &mut u32, step: &mut Step) {
    let last = sequence.generated + 1 == sequence.output_max;
    step.tokens.push(Emission { id: sequence.id, index: sequence.generated, at: Moment::START, last });
    sequence.generated += 1;
    if last {
        sequence.stage = Stage::Finishing;
        *leaving += 1;
    }
}

fn check(profile: &Profile, limits: &Limits, pace: &Pace) -> Result<(), Unusable> {
    let floors = [
        ("the number of tokens in a step", limits.batched_tokens_max),
        ("the number of sequences", limits.sequences_max),
        ("the number of tokens in a block", limits.block_tokens),
    ];
    for (what, value) in floors {
        if value == 0 {
            return Err(Unusable::Zero(what));
        }
    }
    if !(pace.speed.is_finite() && pace.speed > 0.0) {
        return Err(Unusable::Speed(pace.speed));
    }
    if !(pace.noise_sigma.is_finite() && pace.noise_sigma >= 0.0) {
        return Err(Unusable::Noise(pace.noise_sigma));
    }
    if profile.kv_tokens < limits.block_tokens {
        return Err(Unusable::NoBlocks { kv_tokens: profile.kv_tokens, block_tokens: limits.block_tokens });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
