//! One model server, and the account that its inbound sidecar keeps of it.
//!
//! The server is the scheduler of the simulated engine. The account is kept from what crosses the sidecar and what the engine says
//! when it admits a request (how much of the prompt was cached): prompt tokens not yet computed, sequences running and waiting, KV
//! tokens held. It is written down at every change, so that a reader with an old report can be shown what was true then.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use penstock_engine::scheduler::{Emission, Engine, Limits, Moment, Pace, Profile, Request, Step};
use penstock_model::units::Moment as Instant;
use penstock_policy::gate::{Place, Promise, Promises};
use penstock_policy::pick::cost::{Speed, Weights};

use crate::policy::{report_of, speed_of};
use crate::trace::{Arrival, BLOCK_TOKENS};

/// What is true of a server at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Truth {
    /// Prompt tokens that are neither cached nor computed.
    pub prompt_tokens_pending: f64,
    /// Twice the pairs of prompt and context tokens that these will attend to.
    pub attention_doubled_pending: f64,
    /// Sequences that hold a place.
    pub running: u32,
    /// Requests that wait for one.
    pub waiting: u32,
    /// Places.
    pub places: u32,
    /// KV tokens that running sequences hold.
    pub kv_tokens_used: u64,
    /// KV tokens in all.
    pub kv_tokens_total: u64,
    /// Nanoseconds until the step under way ends.
    pub step_left_ns: u64,
    /// Work of the prompts that came in the last seconds, as a share of that time.
    pub arriving: f64,
    /// For how long the oldest of those that wait does so.
    pub longest_waiting_ns: u64,
    /// Mean tokens of the answers that ended here lately.
    pub output_tokens_mean: f64,
    /// Milliseconds that one more prompt may take without a promise being broken.
    pub bearable_ms: Option<f64>,
}

impl Truth {
    /// Share of the KV cache that is held, 0 to 1.
    pub fn kv_share(&self) -> f64 {
        self.kv_tokens_used as f64 / self.kv_tokens_total.max(1) as f64
    }
}

/// The account as it stands from one change to the next.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    at_ns: u64,
    /// Not in a step yet.
    queued: Work,
    /// In the step under way.
    stepping: Work,
    step_from_ns: u64,
    step_until_ns: u64,
    running: u32,
    waiting: u32,
    kv_blocks_used: u32,
    arriving: f64,
    /// Since when the oldest of those that wait does so.
    waiting_since_ns: Option<u64>,
    /// Milliseconds that one more prompt may take.
    bearable_ms: Option<f64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Work {
    tokens: u64,
    attention_doubled: u64,
}

/// A prompt that is not computed to its end.
#[derive(Clone, Copy, Debug)]
struct Held {
    id: u64,
    target: u32,
    computed: u32,
    since_ns: u64,
}

impl Held {
    fn work(&self) -> Work {
        let (target, computed) = (u64::from(self.target), u64::from(self.computed));
        Work { tokens: target - computed, attention_doubled: target * target - computed * computed }
    }
}

/// A server with its account.
pub struct Backend {
    engine: Engine,
    step: Step,
    waiting: VecDeque<Held>,
    prefilling: VecDeque<Held>,
    queued: Work,
    prompts: HashMap<u64, (u32, Arc<[u64]>, Place)>,
    promises: Promises,
    entries: VecDeque<Entry>,
    memory_ns: u64,
    to_first_ns: f64,
    speed: Speed,
    weights: Weights,
    arriving: f64,
    arrived_ns: u64,
    output_tokens_mean: f64,
}

/// Answers over which their length is averaged.
const ANSWERS: f64 = 200.0;
/// Nanoseconds over which the arriving work is averaged.
const ARRIVING_NS: f64 = 10e9;
/// Weight of the newest answer in a server's own average of times to first tokens.
const NEWEST_WEIGHT: f64 = 0.2;

impl Backend {
    /// An idle server; its account can be read back as far as `memory_ns`.
    ///
    /// # Errors
    /// A profile or a pace with which no engine can be made.
    pub fn new(profile: Profile, pace: Pace, seed: u64, memory_ns: u64, weights: Weights) -> Result<Self> {
        let limits = Limits { block_tokens: BLOCK_TOKENS, ..Limits::default() };
        let engine = Engine::new(profile, limits, pace, seed).context("making a simulated engine")?;
        Ok(Self {
            engine,
            step: Step::default(),
            waiting: VecDeque::new(),
            prefilling: VecDeque::new(),
            queued: Work::default(),
            prompts: HashMap::new(),
            promises: Promises::default(),
            entries: VecDeque::from([Entry::default()]),
            memory_ns,
            to_first_ns: 0.0,
            speed: speed_of(&profile, pace.speed),
            weights,
            arriving: 0.0,
            arrived_ns: 0,
            output_tokens_mean: 0.0,
        })
    }

    /// When [`step`](Self::step) is due.
    pub fn next_step_ns(&self) -> Option<u64> {
        self.engine.next_step_at().map(Moment::nanos)
    }

    /// Takes a request; false if it can never run here.
    pub fn submit(&mut self, now_ns: u64, id: u64, arrival: &Arrival, promise: Promise) -> bool {
        let request = Request {
            id,
            prompt_tokens: arrival.prompt_tokens,
            block_hashes: arrival.blocks.iter().copied().collect(),
            output_tokens_max: arrival.output_tokens,
        };
        if self.engine.submit(Moment::from_nanos(now_ns), request).is_err() {
            return false;
        }
        let computed = self.cached_tokens(arrival);
        let held = Held { id, target: arrival.prompt_tokens, computed, since_ns: now_ns };
        self.waiting.push_back(held);
        self.grow(held.work());
        let place = self.promises.came(promise, held.work().tokens as f64);
        self.prompts.insert(id, (arrival.prompt_tokens, Arc::clone(&arrival.blocks), place));
        self.count_arrival(now_ns, held.work());
        let now = self.entry(now_ns);
        self.write(Entry { at_ns: now_ns, ..now });
        true
    }

    /// Runs one step and returns the tokens that it will send.
    pub fn step(&mut self, now_ns: u64, admitted: &mut Vec<(u64, u32)>) -> &[Emission] {
        let mut step = std::mem::take(&mut self.step);
        self.engine.step(Moment::from_nanos(now_ns), &mut step);
        let before = self.queued;
        for id in &step.preempted {
            self.send_back(*id, now_ns);
        }
        let returned = self.queued;
        for admission in &step.admitted {
            self.admit(admission.id, admission.cached_tokens);
            if !admission.again {
                admitted.push((admission.id, admission.cached_tokens));
            }
        }
        let total = self.queued;
        self.compute(&step);
        let stepping = Work {
            tokens: total.tokens - self.queued.tokens,
            attention_doubled: total.attention_doubled - self.queued.attention_doubled,
        };
        debug_assert!(returned.tokens >= before.tokens);
        let until_ns = step.until.nanos();
        let from_ns = step.start.nanos();
        let entry = Entry {
            at_ns: from_ns,
            stepping,
            step_from_ns: from_ns,
            step_until_ns: until_ns,
            ..Entry::default()
        };
        self.write(entry);
        self.step = step;
        &self.step.tokens
    }

    /// What is true now.
    pub fn truth(&self, now_ns: u64) -> Truth {
        self.seen(self.entries.len() - 1, now_ns)
    }

    /// What was true at an earlier moment, as far back as the account is kept.
    pub fn truth_at(&self, at_ns: u64) -> Truth {
        let place = self.entries.partition_point(|entry| entry.at_ns <= at_ns).saturating_sub(1);
        self.seen(place, at_ns)
    }

    /// Prompt tokens of a request that are cached now.
    pub fn cached_tokens(&self, arrival: &Arrival) -> u32 {
        self.engine.cached_tokens(arrival.prompt_tokens, &arrival.blocks)
    }

    /// A first token left, so long after its request had come.
    pub fn sent_first(&mut self, to_first_ns: u64) {
        self.to_first_ns += NEWEST_WEIGHT * (to_first_ns as f64 - self.to_first_ns);
    }

    /// The server's average time to the first token; 0 before there was one.
    pub fn to_first_ns(&self) -> f64 {
        self.to_first_ns
    }

    /// What was promised to those who are here.
    pub fn promises(&self) -> &Promises {
        &self.promises
    }

    /// The engine itself.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Its sidecar has learned how fast it is.
    pub fn believe(&mut self, speed: Speed) {
        self.speed = speed;
    }

    /// From the next step on the hardware runs at `speed` times its profile.
    pub fn run_at(&mut self, speed: f64) {
        let kept = self.engine.run_at(speed);
        debug_assert!(kept.is_ok(), "{kept:?}");
    }

    fn seen(&self, place: usize, at_ns: u64) -> Truth {
        let entry = &self.entries[place];
        let left_ns = entry.step_until_ns.saturating_sub(at_ns);
        let length_ns = (entry.step_until_ns - entry.step_from_ns).max(1);
        let left = (left_ns as f64 / length_ns as f64).min(1.0);
        Truth {
            prompt_tokens_pending: entry.queued.tokens as f64 + left * entry.stepping.tokens as f64,
            attention_doubled_pending: entry.queued.attention_doubled as f64
                + left * entry.stepping.attention_doubled as f64,
            running: entry.running,
            waiting: entry.waiting,
            places: self.engine.limits().sequences_max,
            kv_tokens_used: u64::from(entry.kv_blocks_used) * u64::from(BLOCK_TOKENS),
            kv_tokens_total: u64::from(self.engine.gauges().blocks_total) * u64::from(BLOCK_TOKENS),
            step_left_ns: left_ns,
            arriving: entry.arriving,
            output_tokens_mean: self.output_tokens_mean,
            bearable_ms: entry.bearable_ms,
            longest_waiting_ns: entry.waiting_since_ns.map_or(0, |since_ns| at_ns.saturating_sub(since_ns)),
        }
    }

    fn count_arrival(&mut self, now_ns: u64, work: Work) {
        let work_ns = self.speed.prompt_ms(work.tokens as f64, work.attention_doubled as f64) * 1e6;
        let kept = (-((now_ns - self.arrived_ns) as f64) / ARRIVING_NS).exp();
        self.arriving = self.arriving * kept + work_ns / ARRIVING_NS;
        self.arrived_ns = now_ns;
    }

    fn entry(&self, now_ns: u64) -> Entry {
        let last = self.entries[self.entries.len() - 1];
        if last.step_until_ns > now_ns { last } else { Entry { stepping: Work::default(), ..last } }
    }

    fn write(&mut self, entry: Entry) {
        let gauges = self.engine.gauges();
        let entry = Entry {
            queued: self.queued,
            running: gauges.running,
            waiting: gauges.waiting,
            kv_blocks_used: gauges.blocks_pinned,
            arriving: self.arriving,
            waiting_since_ns: self.waiting.front().map(|held| held.since_ns),
            ..entry
        };
        while self.entries.len() > 1 && self.entries[1].at_ns + self.memory_ns < entry.at_ns {
            self.entries.pop_front();
        }
        self.entries.push_back(entry);
        let truth = self.truth(entry.at_ns);
        let bearable_ms = self.promises.bearable_ms(
            &report_of(&truth),
            &self.speed,
            Instant(entry.at_ns),
            None,
            &self.weights,
        );
        if let Some(last) = self.entries.back_mut() {
            last.bearable_ms = bearable_ms;
        }
    }

    fn grow(&mut self, work: Work) {
        self.queued.tokens += work.tokens;
        self.queued.attention_doubled += work.attention_doubled;
    }

    fn shrink(&mut self, work: Work) {
        self.queued.tokens -= work.tokens;
        self.queued.attention_doubled -= work.attention_doubled;
    }

    fn send_back(&mut self, id: u64, now_ns: u64) {
        if let Some(place) = self.prefilling.iter().position(|held| held.id == id)
            && let Some(held) = self.prefilling.remove(place)
        {
            self.shrink(held.work());
        }
        let Some((target, blocks, _)) = self.prompts.get(&id) else { return };
        let computed = self.engine.cached_tokens(*target, blocks);
        let held = Held { id, target: *target, computed, since_ns: now_ns };
        self.waiting.push_front(held);
        self.grow(held.work());
    }

    fn admit(&mut self, id: u64, cached_tokens: u32) {
        let Some(held) = self.waiting.pop_front() else { return };
        debug_assert_eq!(held.id, id, "the engine takes requests in the order of the account");
        self.shrink(held.work());
        let held = Held { computed: cached_tokens.min(held.target - 1), ..held };
        self.grow(held.work());
        self.prefilling.push_back(held);
    }

    /// Prompts are computed in the order of their admission; those that end send a token, the last ones of the step.
    fn compute(&mut self, step: &Step) {
        if self.prefilling.is_empty() {
            self.forget(step);
            return;
        }
        let ended = step
            .tokens
            .iter()
            .rev()
            .take_while(|token| self.prefilling.iter().any(|held| held.id == token.id))
            .count();
        let decoded = (step.tokens.len() - ended) as u32;
        let mut budget = step.batch.tokens - decoded;
        for token in &step.tokens[decoded as usize..] {
            if let Some(place) = self.prefilling.iter().position(|held| held.id == token.id)
                && let Some(held) = self.prefilling.remove(place)
            {
                self.shrink(held.work());
                budget = budget.saturating_sub(held.target - held.computed);
            }
        }
        for place in 0..self.prefilling.len() {
            let held = self.prefilling[place];
            let chunk = budget.min(held.target - held.computed - 1);
            budget -= chunk;
            let after = Held { computed: held.computed + chunk, ..held };
            self.shrink(held.work());
            self.grow(after.work());
            self.prefilling[place] = after;
        }
        self.forget(step);
    }

    fn forget(&mut self, step: &Step) {
        for token in &step.tokens {
            if let Some((_, _, place)) = self.prompts.get(&token.id) {
                // Counted with the beginning of its step, which nobody who comes now holds up.
                self.promises.token(*place, 0, Instant(token.at.nanos()));
            }
        }
        for token in step.tokens.iter().filter(|token| token.last) {
            if let Some((_, _, place)) = self.prompts.remove(&token.id) {
                self.promises.left(place);
            }
            self.output_tokens_mean += (f64::from(token.index + 1) - self.output_tokens_mean) / ANSWERS;
        }
    }
}
