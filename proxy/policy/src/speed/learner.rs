//! Finds the constants of one engine from the times at which chunks come, and from nothing else.
//!
//! | constant | seen in |
//! |---|---|
//! | `step_ms`, `context_us` | steps without prompts: a step has ended when a sequence sends a second chunk since the last end |
//! | `token_us`, `attention_ns`, `free_tokens` | stretches of time with prompts, less what their steps would have taken without ([`Period`]) |
//! | `step_tokens_max` | how many steps a long prompt takes that was alone |
//! | `front_end_ms` | which step took a short prompt that was alone, and which was too early for it; on an idle engine, what is left over |
//! | `chunk_us` | how long after the first chunk of a step the first token of a new sequence comes |
//!
//! Sizes are estimates when a request arrives; `usage` at its end corrects what is learned from it. What the constants are learned
//! from is robust in three ways: outliers count little (see `fit.rs`), stretches that are not what they seem are left out (somebody
//! gave up, or prompts waited for memory), and when all of it has become slower at once (see `change.rs`) everything known is
//! scaled instead of being learned anew. Before anything is known, the first steps scale the prior.
//!
//! Each event costs a bounded number of operations and no allocation; memory is that of the struct, whatever the traffic.

use std::time::Duration;

use penstock_model::units::Moment;

use super::change::Change;
use super::fit::{Bound, Fit};
use super::period::{Period, Periods};
use super::queue::Queue;
use super::{Load, Speed, Work};

/// What a step keeps of its weight with each that follows: the last 1,000 or so count, some ten seconds.
const STEP_KEEP: f64 = 0.999;
/// The same for stretches with prompts: the last 50.
const PERIOD_KEEP: f64 = 0.98;
/// How sure everything known still is after a change of speed: five times less, so that what did not change alike is soon found.
const TRUST_AFTER_CHANGE: f64 = 0.2;
/// Steps by which the prior is corrected as a whole, before anything is fitted.
const FIRST_STEPS: u32 = 4;
/// Stretches after which prompts are known well enough to tell a change of speed from ignorance, and so many after a change.
const JUDGED_MIN: u32 = 30;
const JUDGED_AFTER_CHANGE: u32 = 3;
/// Steps' worth of prompt tokens after which a stretch is closed although prompts wait.
const PERIOD_STEPS: f64 = 4.0;
/// Tokens for each step below which reading the weights may hide what prompts cost.
const PERIOD_TOKENS_MIN: f64 = 256.0;
/// Steps in which prompts should have been computed and none was, after which a stretch is not learned from.
const IDLE_STEPS_MAX: u32 = 2;
/// A step that took at most so many times what it takes without prompts had none in it.
const IDLE_MAX: f64 = 1.5;
/// Steps of a prompt that was alone from which the size of a step can be told.
const SIZED_STEPS_MIN: f64 = 4.0;
/// A pair of tokens costs at most this share of a token: a model with 512 hidden units, far below any that is served.
const PAIR_SHARE_MAX: f64 = 0.5e-3;
/// Uncertainty of where a stretch begins and ends, in steps, against the noise of one step.
const PERIOD_BLUR_STEPS: f64 = 3.0;
/// Weights of the newest observation in the errors and in two constants.
const ERROR_GAIN: f64 = 0.05;
const FRONT_END_GAIN: f64 = 0.1;
const FRONT_END_MAX_MS: f64 = 500.0;
const CHUNK_GAIN: f64 = 0.1;
/// Farther off than this, in microseconds, a chunk's way is an outlier.
const CHUNK_BOUND_US: f64 = 10.0;
/// Steps of which no end is seen that are reckoned with for one question.
const UNSEEN_STEPS_MAX: u32 = 64;

/// A prompt's size, estimated when it arrives and exact when the engine tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Tokens of the prompt.
    pub tokens: u32,
    /// Those of them that the engine has cached; 0 where it is not known.
    pub cached_tokens: u32,
}

/// What the learner remembers of one request; whoever carries the request keeps it and hands it in with each event.
#[derive(Clone, Copy, Debug)]
pub struct Track {
    stage: Stage,
    work: Work,
    tokens: f64,
    sent: Moment,
    expected_ms: f64,
    /// No other prompt was there when it came, and which arrival it was.
    is_alone: bool,
    arrival: u64,
    /// Its time to the first token, where it had an idle engine for itself.
    idle_ms: Option<f64>,
    context_tokens: f64,
    /// The step in which it sent its last chunk, and the stretch that contains its prompt, if one does.
    step: u64,
    period: Option<u32>,
}

impl Track {
    /// How long its first token was expected to take when it was sent.
    pub fn expected(&self) -> Duration {
        span(self.expected_ms)
    }

    /// Whether its first token has come, or counts as having come.
    pub fn is_generating(&self) -> bool {
        matches!(self.stage, Stage::Generating { .. })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Prompt,
    Generating { is_seen: bool },
}

/// Learns one engine's speed.
#[derive(Clone, Debug)]
pub struct Learner {
    speed: Speed,
    /// Milliseconds of a step and for each thousand tokens of context.
    steps: Fit<2>,
    /// Milliseconds for each thousand tokens, for each million of doubled pairs, and saved in each step by the free tokens.
    prompts: Fit<3>,
    step_change: Change,
    prompt_change: Change,
    periods: Periods,
    queue: Queue,
    /// Requests whose first token has not come, their prompts, and since when there has been one all the time.
    prompts_open: u32,
    work_open: Work,
    prompts_since: Moment,
    arrivals: u64,
    sequences: u32,
    /// Those of the sequences whose tokens are seen one by one; the answers of the others come as a whole.
    watched: u32,
    context_tokens: f64,
    /// Number of the step under way, its start, and the starts as they were seen, newest first.
    step: u64,
    step_start: Moment,
    starts: [Moment; 3],
    /// First steps seen, and the mean logarithm of their ratio to the prior.
    first_steps: u32,
    first_ratio: f64,
    periods_judged: u32,
    /// Prompts wait and are not computed: for memory or for a place.
    is_held_up: bool,
    step_error: f64,
    first_token_error: f64,
}

impl Learner {
    /// Starts from what is known of its like, or from [`Speed::default`].
    pub fn starting(prior: Speed) -> Self {
        let sure = 1.0 / (prior.step_ms * prior.step_ms);
        let steps = [prior.step_ms, prior.context_us];
        let prompts = [prior.token_us, prior.attention_ns * 0.5, prior.token_us * prior.free_tokens * 1e-3];
        let pairs = Bound { of: 1, by: 0, ratio: PAIR_SHARE_MAX * 1e3 * 0.5 };
        Self {
            speed: prior,
            steps: Fit::starting(steps, [1.0, 16.0], sure, STEP_KEEP),
            prompts: Fit::starting(prompts, as_sure(prompts, 0.3), 0.3 * sure, PERIOD_KEEP).bounded(pairs),
            step_change: Change::default(),
            prompt_change: Change::default(),
            periods: Periods::new(),
            queue: Queue::default(),
            prompts_open: 0,
            work_open: Work::default(),
            prompts_since: Moment(0),
            arrivals: 0,
            sequences: 0,
            watched: 0,
            context_tokens: 0.0,
            step: 0,
            step_start: Moment(0),
            starts: [Moment(0); 3],
            first_steps: 0,
            first_ratio: 0.0,
            periods_judged: 0,
            is_held_up: false,
            step_error: 1.0,
            first_token_error: 1.0,
        }
    }

    /// The constants as they are known now.
    pub fn speed(&self) -> &Speed {
        &self.speed
    }

    /// Whether steps were seen by which what was assumed has been corrected as a whole.
    pub fn has_seen_steps(&self) -> bool {
        self.first_steps >= FIRST_STEPS
    }

    /// Mean of |observed − expected| / observed of late, for steps without prompts; 1 before there was any.
    pub fn step_error(&self) -> f64 {
        self.step_error
    }

    /// The same for times to the first token, as expected when the requests came; what came after them is part of it.
    pub fn first_token_error(&self) -> f64 {
        self.first_token_error
    }

    /// Number of the step under way, as far as the ends of steps are seen: it grows with each.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// What the engine has before it at `now`.
    pub fn load(&self, now: Moment) -> Load {
        let (mut queue, mut start) = (self.queue.clone(), self.step_start);
        let mut left_ms = self.step_left_ms(&queue, start, now);
        // Where nobody generates the ends of steps are not seen, and are as the constants say.
        for _ in 0..UNSEEN_STEPS_MAX {
            let is_next = |ready: &Moment| self.watched == 0 && left_ms <= 0.0 && *ready <= now;
            let Some(ready) = queue.ready().filter(is_next) else { break };
            start = (start + span(self.step_ms(&queue))).max(ready);
            queue.start_step(start, self.speed.room(0));
            left_ms = self.step_left_ms(&queue, start, now);
        }
        let step_ms = self.step_ms(&queue);
        Load {
            step_left_ms: left_ms,
            stepping: queue.in_step().times(if step_ms > 0.0 { (left_ms / step_ms).min(1.0) } else { 0.0 }),
            waiting: queue.open(),
            sequences: self.sequences,
            context_tokens: self.context_tokens,
        }
    }

    /// A request was sent on.
    pub fn sent(&mut self, size: Size, now: Moment) -> Track {
        let work = Work::of(size.tokens, size.cached_tokens);
        let expected_ms = self.speed.first_token_ms(&self.load(now), work);
        let is_alone = self.prompts_open == 0;
        let ready = now + span(self.speed.front_end_ms);
        self.queue.push(work, ready);
        if is_alone {
            self.is_held_up = false;
            self.prompts_since = now;
        }
        if is_alone && self.watched == 0 {
            // An idle engine starts a step as soon as the prompt has reached its scheduler.
            self.step_start = ready;
            self.queue.start_step(ready, self.speed.room(0));
        }
        self.arrivals += 1;
        self.prompts_open += 1;
        self.work_open = self.work_open.plus(work);
        Track {
            stage: Stage::Prompt,
            work,
            tokens: f64::from(size.tokens),
            sent: now,
            expected_ms,
            is_alone,
            arrival: self.arrivals,
            idle_ms: None,
            context_tokens: 0.0,
            step: 0,
            period: None,
        }
    }

    /// A chunk of its answer came, with `tokens` tokens of content.
    pub fn chunk(&mut self, track: &mut Track, tokens: u32, now: Moment) {
        if track.stage == Stage::Prompt {
            self.first_token(track, now);
        } else if track.step == self.step {
            self.end_step(1.0, now);
            self.start_step(now);
        }
        track.step = self.step;
        track.context_tokens += f64::from(tokens);
        self.context_tokens += f64::from(tokens);
    }

    /// Its answer ended, or its caller left. `size` is what the engine said of the prompt.
    pub fn ended(&mut self, track: &Track, size: Option<Size>, now: Moment) {
        let unseen_tokens = match track.stage {
            Stage::Prompt => {
                self.prompt_left(track, now);
                return;
            }
            Stage::Generating { is_seen: true } => {
                self.watched = self.watched.saturating_sub(1);
                0.0
            }
            Stage::Generating { is_seen: false } => self.step.saturating_sub(track.step) as f64,
        };
        self.sequences = self.sequences.saturating_sub(1);
        let context_tokens = (self.context_tokens - track.context_tokens - unseen_tokens).max(0.0);
        self.context_tokens = if self.sequences == 0 { 0.0 } else { context_tokens };
        let exact = size.map_or(track.work, |size| Work::of(size.tokens, size.cached_tokens));
        if let Some(took_ms) = track.idle_ms {
            self.learn_idle_front_end(took_ms, exact);
        }
        let correction = Work {
            tokens: exact.tokens - track.work.tokens,
            attention_doubled: exact.attention_doubled - track.work.attention_doubled,
        };
        if let Some(number) = track.period
            && let Some(period) = self.periods.ended(number, correction)
        {
            self.judge(&period);
        }
    }

    /// Its answer comes as a whole: from now on its prompt counts as computed. Nothing is learned from the step in which it was.
    pub fn first_token_unseen(&mut self, track: &mut Track, now: Moment) {
        if track.stage != Stage::Prompt {
            return;
        }
        track.stage = Stage::Generating { is_seen: false };
        track.step = self.step;
        track.context_tokens = track.tokens;
        self.sequences += 1;
        self.context_tokens += track.tokens;
        self.close_prompt(track);
        self.periods.open().is_tainted = true;
        if self.prompts_open == 0 {
            self.turn_period();
            if self.watched == 0 {
                self.step_start = now;
            }
        }
    }

    /// The whole answer of one whose tokens were not seen came, `tokens` of them. Where nobody else's are seen either, that it took
    /// longer or shorter than expected is all that tells of a speed.
    pub fn whole_answer(&mut self, track: &Track, tokens: u32, now: Moment) {
        if self.watched > 0 || tokens == 0 {
            return;
        }
        let token_ms = self.speed.token_ms(self.sequences.max(1), self.context_tokens);
        let expected_ms = track.expected_ms + f64::from(tokens - 1) * token_ms;
        let took_ms = millis(now.since(track.sent));
        if self.first_steps < FIRST_STEPS {
            self.first_sight(took_ms / expected_ms.max(1e-3));
        } else if let Some(factor) = self.step_change.see(took_ms, expected_ms) {
            self.slow_down(factor);
        }
    }

    fn prompt_left(&mut self, track: &Track, now: Moment) {
        self.close_prompt(track);
        self.periods.open().is_tainted = true;
        if self.prompts_open == 0 {
            self.turn_period();
            if self.watched == 0 {
                self.step_start = now;
            }
        }
    }

    fn close_prompt(&mut self, track: &Track) {
        self.prompts_open = self.prompts_open.saturating_sub(1);
        self.work_open =
            if self.prompts_open == 0 { Work::default() } else { self.work_open.minus(track.work) };
        self.queue.bound(self.work_open);
    }

    fn first_token(&mut self, track: &mut Track, now: Moment) {
        // Within a step's burst of chunks it is one of them; alone it is the end of a step.
        let beside_ms = self.speed.token_ms(self.sequences, self.context_tokens);
        let is_end = self.watched == 0 || millis(now.since(self.step_start)) > 0.5 * beside_ms;
        if is_end {
            let unseen = (track.work.tokens / self.speed.room(0)).ceil().max(1.0);
            self.end_step(if self.watched == 0 { unseen } else { 1.0 }, now);
        } else {
            self.learn_chunk(now);
        }
        self.compare(track, now);
        if track.is_alone && self.arrivals == track.arrival {
            match self.watched {
                0 if self.sequences > 0 => {}
                0 => track.idle_ms = Some(millis(now.since(track.sent))),
                _ => self.learn_front_end(track, is_end),
            }
        }
        track.stage = Stage::Generating { is_seen: true };
        track.context_tokens = track.tokens;
        self.sequences += 1;
        self.watched += 1;
        self.context_tokens += track.tokens;
        self.close_prompt(track);
        if is_end {
            self.start_step(now);
        }
        let period = self.periods.open();
        period.outstanding += 1;
        period.prompts += 1;
        period.work = period.work.plus(track.work);
        track.period = Some(period.number);
        let is_long = period.work.tokens >= PERIOD_STEPS * self.speed.step_tokens_max;
        if self.prompts_open == 0 || is_long {
            self.turn_period();
        }
    }

    fn compare(&mut self, track: &Track, now: Moment) {
        let error = relative_error(millis(now.since(track.sent)), track.expected_ms);
        self.first_token_error += ERROR_GAIN * (error - self.first_token_error);
    }

    fn learn_chunk(&mut self, now: Moment) {
        let way_us = millis(now.since(self.step_start)) * 1e3 / f64::from(self.sequences.max(1));
        let known_us = self.speed.chunk_us;
        self.speed.chunk_us += CHUNK_GAIN * (way_us - known_us).clamp(-CHUNK_BOUND_US, CHUNK_BOUND_US);
    }

    /// A busy engine's front end is longer than the way to the last step that a prompt missed, and no longer than that to the step
    /// that took it; to be seen where a prompt was alone and took a single step.
    fn learn_front_end(&mut self, track: &Track, is_end: bool) {
        if track.work.tokens <= self.speed.room(self.sequences) {
            let way_ms = |start: Moment| millis(start.since(track.sent));
            let [missed, taken] = if is_end { [1, 0] } else { [2, 1] };
            let known_ms = self.speed.front_end_ms;
            self.move_front_end(known_ms.max(way_ms(self.starts[missed])).min(way_ms(self.starts[taken])));
        }
    }

    /// An idle engine's front end is what its only prompt's step leaves over of `took_ms`. Its size must be known, so it ends first.
    fn learn_idle_front_end(&mut self, took_ms: f64, work: Work) {
        if work.tokens <= self.speed.room(0) {
            let step_ms = self.speed.steps_ms(1.0, work, 0, 0.0);
            let known_ms = self.speed.front_end_ms;
            self.move_front_end(
                (took_ms - step_ms).clamp(known_ms - 0.2 * step_ms, known_ms + 0.2 * step_ms),
            );
        }
    }

    fn move_front_end(&mut self, to_ms: f64) {
        let known_ms = self.speed.front_end_ms;
        self.speed.front_end_ms =
            (known_ms + FRONT_END_GAIN * (to_ms - known_ms)).clamp(0.0, FRONT_END_MAX_MS);
    }

    /// The step under way ended, or so many that could not be told apart.
    fn end_step(&mut self, steps: f64, now: Moment) {
        let took_ms = millis(now.since(self.step_start));
        let x = [1.0, self.context_tokens * 1e-3];
        let is_unseen = self.watched == 0;
        let unwatched = self.sequences - self.watched;
        self.periods.open().is_tainted |= unwatched > 0;
        self.context_tokens += f64::from(unwatched);
        let may_have_prompts = is_unseen || self.prompts_open > 0 && self.prompts_since <= self.step_start;
        if may_have_prompts {
            let period = self.periods.open();
            period.took_ms += took_ms;
            period.beside_ms += steps * self.steps.expected(&x);
            period.is_unseen |= is_unseen;
            let is_busy = took_ms > IDLE_MAX * self.steps.expected(&x);
            period.busy_steps += u32::from(is_busy);
            if is_unseen || self.queue.in_step().tokens > 0.0 {
                period.steps += steps;
                period.sequences += steps * f64::from(self.sequences);
                self.watch_step(took_ms);
            } else if self.queue.ready().is_none() {
                period.late_steps += 1;
                if !is_busy {
                    period.idle_steps += 1;
                    self.is_held_up = true;
                }
            }
        } else {
            self.learn_step(&x, took_ms);
        }
        self.queue.end_step();
    }

    fn start_step(&mut self, now: Moment) {
        self.step += 1;
        self.step_start = now;
        self.starts = [now, self.starts[0], self.starts[1]];
        let room = self.speed.room(self.sequences);
        self.queue.start_step(now, room);
    }

    /// A step without prompts.
    fn learn_step(&mut self, x: &[f64; 2], took_ms: f64) {
        let beyond_free = (f64::from(self.sequences) - self.speed.free_tokens).max(0.0);
        let beyond_free_ms = beyond_free * self.speed.token_us * 1e-3;
        let expected_ms = (self.steps.expected(x) + beyond_free_ms).max(1e-3);
        if self.first_steps < FIRST_STEPS {
            self.first_sight(took_ms / expected_ms);
            return;
        }
        self.step_error += ERROR_GAIN * (relative_error(took_ms, expected_ms) - self.step_error);
        if let Some(factor) = self.step_change.see(took_ms, expected_ms) {
            self.slow_down(factor);
            return;
        }
        self.steps.observe(x, took_ms - beyond_free_ms, 1.0 / (expected_ms * expected_ms));
        self.read();
    }

    /// The first steps tell by which factor the prior is wrong as a whole.
    fn first_sight(&mut self, ratio: f64) {
        self.first_steps += 1;
        self.first_ratio += ratio.clamp(1e-3, 1e3).ln() / f64::from(FIRST_STEPS);
        if self.first_steps == FIRST_STEPS {
            self.slow_down(self.first_ratio.exp());
        }
    }

    /// A step full of prompts: what it should have taken follows from the replay of the queue. That is good enough to notice a
    /// slowdown under which no step is without prompts, though not to learn from, nor to tell a faster engine from an idle queue.
    fn watch_step(&mut self, took_ms: f64) {
        let is_full = self.queue.in_step().tokens >= 0.5 * self.speed.room(self.sequences);
        if self.watched == 0 || self.periods_judged < JUDGED_MIN || !is_full || self.is_held_up {
            return;
        }
        let expected_ms = self.step_ms(&self.queue);
        if let Some(factor) = self.step_change.see(took_ms, expected_ms).filter(|factor| *factor > 1.0) {
            self.slow_down(factor);
            self.periods_judged = JUDGED_MIN - JUDGED_AFTER_CHANGE;
        }
    }

    /// Where nobody generates there are no steps to be seen, but stretches.
    fn watch_period(&mut self, period: &Period) {
        if !period.is_true() || !period.is_unseen || self.periods_judged < JUDGED_MIN {
            return;
        }
        if let Some(factor) = self.prompt_change.see(period.took_ms, self.expected_ms(period)) {
            self.slow_down(factor);
            self.periods_judged = JUDGED_MIN - JUDGED_AFTER_CHANGE;
        }
    }

    fn turn_period(&mut self) {
        // What the next prompts have had computed of them counts here, and not there.
        let untouched = self.queue.open().plus(self.queue.in_step());
        let carried = self.work_open.minus(untouched);
        let period = self.periods.open();
        period.work = period.work.plus(carried);
        let closed = *period;
        self.watch_period(&closed);
        for period in self.periods.turn(carried).into_iter().flatten() {
            self.judge(&period);
        }
    }

    fn judge(&mut self, period: &Period) {
        let was_held_up = period.prompts > 1 && period.idle_steps > IDLE_STEPS_MAX;
        if was_held_up || !period.is_true() || period.work.tokens < PERIOD_TOKENS_MIN * period.steps {
            return;
        }
        let (expected_ms, blur_ms) = (self.expected_ms(period), PERIOD_BLUR_STEPS * self.speed.step_ms);
        let weight = 1.0 / (expected_ms * expected_ms / period.steps + blur_ms * blur_ms);
        self.prompts.observe(&period.regressors(), period.took_ms - period.beside_ms, weight);
        self.periods_judged = self.periods_judged.saturating_add(1);
        self.learn_step_size(period);
        self.read();
    }

    fn expected_ms(&self, period: &Period) -> f64 {
        period.beside_ms + self.prompts.expected(&period.regressors()).max(0.0)
    }

    fn learn_step_size(&mut self, period: &Period) {
        // Steps that should have found nothing left, and did: the engine computes less in one than was thought. But in one that was short it
        // computed nothing: the prompt waited.
        let (most, busy) = (period.steps + f64::from(period.late_steps), f64::from(period.busy_steps));
        let tokens = period.work.tokens + period.sequences;
        if period.prompts != 1 || period.is_unseen || most < SIZED_STEPS_MIN {
            return;
        }
        // One step more or less may belong to it; only the last one is not full.
        let known = self.speed.step_tokens_max;
        let at_most = if busy > 2.0 { tokens / (busy - 2.0) } else { f64::INFINITY };
        let bounded = known.max(tokens / (most + 1.0)).min(at_most);
        self.speed.step_tokens_max = (known + 0.5 * (bounded - known)).max(1.0);
    }

    fn slow_down(&mut self, factor: f64) {
        self.steps.rescale(factor, TRUST_AFTER_CHANGE);
        self.prompts.rescale(factor, TRUST_AFTER_CHANGE);
        self.periods.rescale(factor);
        self.speed = self.speed.slower(factor);
        self.read();
    }

    fn read(&mut self) {
        let [step_ms, context_us] = *self.steps.solution();
        let [token_us, attention_half_ns, saved_ms] = *self.prompts.solution();
        self.speed = Speed {
            step_ms: step_ms.max(1e-3),
            context_us,
            token_us,
            free_tokens: (saved_ms * 1e3 / token_us.max(1e-3)).clamp(0.0, 1_024.0),
            attention_ns: attention_half_ns * 2.0,
            ..self.speed
        };
    }

    /// Milliseconds of a step with what is in it by the replay; 0 where nothing is.
    fn step_ms(&self, queue: &Queue) -> f64 {
        let step = queue.in_step();
        let is_busy = self.sequences > 0 || step.tokens > 0.0;
        if is_busy { self.speed.steps_ms(1.0, step, self.sequences, self.context_tokens) } else { 0.0 }
    }

    fn step_left_ms(&self, queue: &Queue, start: Moment, now: Moment) -> f64 {
        // A step that starts in the future takes its whole time, and the time until then.
        (self.step_ms(queue) - millis(now.since(start)) + millis(start.since(now))).max(0.0)
    }
}

/// In which size a coefficient counts as one observation so that all are as sure as the first one with `size`, each beside its own value:
/// what of a first observation is not as expected is shared out in proportion.
fn as_sure(prior: [f64; 3], size: f64) -> [f64; 3] {
    prior.map(|one| size * prior[0] / one.max(1e-6 * prior[0]))
}

fn relative_error(observed: f64, expected: f64) -> f64 {
    ((observed - expected).abs() / observed.max(1e-3)).min(1.0)
}

fn millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}

fn span(millis: f64) -> Duration {
    Duration::from_secs_f64(millis.clamp(0.0, 1e9) * 1e-3)
}
