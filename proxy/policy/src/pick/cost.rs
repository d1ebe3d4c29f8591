//! What it costs to place a request on an endpoint: the time that its caller waits for the first token, and the time that it takes
//! from those who are there.
//!
//! ```text
//!   cost = wait + own + room + α · (own work + answer · a) · (1 + sequences / s) + h · harm
//!
//!   wait    the step under way, and prompts that are pending there
//!   own     our prompt without what is cached there
//!   room    waiting for KV memory, or for a place, where there is none
//!   answer  by how much our answer lengthens the steps in which it is
//!   harm    by how much our prompt takes longer than the answers under way can bear
//! ```
//!
//! The time of `n` prompt tokens follows the closed form of an engine that batches continuously and computes prompts in chunks:
//! each step has a fixed part, a part for each sequence in it and for the context that those read, and a part for each prompt token
//! and for each pair of prompt token and context. Whoever only minimises the wait fills an engine that decodes for many as readily
//! as an idle one; `α` (`others` of [`Weights`], where `a` and `s` stand too) makes it pay for each of them (a prompt of 8,192 tokens stops all their tokens for a quarter of a second).
//!
//! What generates no text has a simpler form, and is learned and told apart: see `calls.rs`.
//!
//! Numbers in, numbers out: where reports come from and who learns the speed is not known here.

mod ask;
mod belief;
mod calls;
mod level;
mod own;
mod placements;
mod weights;

pub use ask::{YOUNG_MS, is_worth_asking, lacks_memory, whom_to_ask};
pub use belief::{Belief, Estimate, Told};
pub use calls::CallReport;
pub use level::{Choice, NEAR, choose};
pub use own::Own;
pub use weights::Weights;

use crate::lately::MEAN_MS;
use placements::Placements;

/// What an endpoint says of itself, or what is known of it for other reasons.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Report {
    /// Prompt tokens that wait or are being computed, without those that are cached.
    pub prompt_tokens_pending: f64,
    /// Twice the pairs of prompt and context tokens that these will attend to: what makes long prompts dearer than short ones.
    pub attention_doubled_pending: f64,
    /// Sequences that hold a place.
    pub sequences_running: u32,
    /// Requests that wait for one.
    pub sequences_waiting: u32,
    /// Sequences for which there are places; 0 where that is not known, and then they are no reason for anything.
    pub sequences_max: u32,
    /// Milliseconds that the one who waits longest for a place has waited; 0 where nobody does.
    pub longest_waiting_ms: f64,
    /// Mean tokens of the answers that ended there lately; 0 before there were any.
    pub output_tokens_mean: f64,
    /// KV tokens that are held; those that can be evicted are not.
    pub kv_tokens_used: u64,
    /// KV tokens in all; 0 where they are not known, and then memory is no reason for anything.
    pub kv_tokens_total: u64,
    /// Milliseconds that one more prompt may take without breaking what was promised to those who are there, as
    /// [`Promises`](crate::gate::Promises) says; `None` where nothing was.
    pub bearable_ms: Option<f64>,
    /// Work of the prompts that came lately, as a share of the time in which they came: 1 keeps the endpoint busy with prompts alone.
    pub arriving: f64,
}

impl Report {
    /// Milliseconds of a step without any prompts.
    pub(crate) fn step_ms(&self, speed: &Speed) -> f64 {
        speed.step_ms
            + speed.sequence_us * 1e-3 * (f64::from(self.sequences_running) + 1.0)
            + speed.context_us * 1e-3 * self.kv_tokens_used as f64
    }

    /// Milliseconds of work that others are expected to have placed in the `age_ms` since the report. What came longer ago than rates are
    /// averaged over has been computed.
    pub fn expected_ms(&self, age_ms: f64) -> f64 {
        expected_ms(self.arriving, age_ms)
    }

    /// Those who run and those who wait: another sidecar tells both, and may tell any number.
    fn sequences(&self) -> f64 {
        f64::from(self.sequences_running) + f64::from(self.sequences_waiting)
    }

    /// Prompt tokens for which a step has room beside the sequences.
    pub(crate) fn room(&self, speed: &Speed) -> f64 {
        (speed.step_tokens_max - f64::from(self.sequences_running)).max(1.0)
    }

    /// Milliseconds that an answer takes there.
    pub(crate) fn answer_ms(&self, speed: &Speed, weights: &Weights) -> f64 {
        let known_ms = self.output_tokens_mean * self.step_ms(speed);
        if known_ms > 0.0 { known_ms } else { weights.answer_ms }
    }

    /// The report with one more prompt pending.
    #[must_use]
    pub(crate) fn with(self, prompt: Prompt) -> Self {
        Self {
            prompt_tokens_pending: self.prompt_tokens_pending + prompt.uncached_tokens(),
            attention_doubled_pending: self.attention_doubled_pending + prompt.attention_doubled(),
            ..self
        }
    }

    /// Its prompts as they will have become after `age_ms`: some have been computed, and others have come at the rate of late.
    #[must_use]
    pub(crate) fn after(self, age_ms: f64, speed: &Speed) -> Self {
        let pending_ms = speed.prompt_ms(self.prompt_tokens_pending, self.attention_doubled_pending);
        let drained_ms = age_ms * (1.0 - self.arriving).max(0.0);
        if pending_ms <= 0.0 || drained_ms <= 0.0 {
            return self;
        }
        let left = (1.0 - drained_ms / pending_ms).max(0.0);
        Self {
            prompt_tokens_pending: self.prompt_tokens_pending * left,
            attention_doubled_pending: self.attention_doubled_pending * left,
            ..self
        }
    }
}

fn expected_ms(arriving: f64, age_ms: f64) -> f64 {
    age_ms.min(MEAN_MS) * arriving.min(1.0)
}

/// How fast an endpoint computes: constants of the closed form, learned or configured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speed {
    /// Milliseconds between the arrival of a request and the first step that may take it.
    pub front_end_ms: f64,
    /// Milliseconds of a step, whatever is in it.
    pub step_ms: f64,
    /// Microseconds for each sequence in a step.
    pub sequence_us: f64,
    /// Microseconds for each prompt token.
    pub token_us: f64,
    /// Microseconds for each token of context that a decoding sequence reads.
    pub context_us: f64,
    /// Nanoseconds for each pair of prompt and context token.
    pub attention_ns: f64,
    /// Prompt tokens that one step computes at most; at least 1.
    pub step_tokens_max: f64,
}

impl Speed {
    /// Milliseconds that an endpoint without any sequences computes so many prompt tokens.
    pub fn prompt_ms(&self, tokens: f64, attention_doubled: f64) -> f64 {
        self.compute_ms(tokens, attention_doubled) + tokens / self.step_tokens_max * self.step_ms
    }

    pub(crate) fn compute_ms(&self, tokens: f64, attention_doubled: f64) -> f64 {
        self.token_us * 1e-3 * tokens + self.attention_ns * 0.5e-6 * attention_doubled
    }
}

/// The prompt that is to be placed, as seen from one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// Its tokens.
    pub tokens: u32,
    /// Those of them that the endpoint has cached; below `tokens`.
    pub cached_tokens: u32,
}

impl Prompt {
    /// Tokens to be computed.
    pub fn uncached_tokens(self) -> f64 {
        f64::from(self.tokens - self.cached_tokens.min(self.tokens))
    }

    /// Twice the pairs of tokens to be computed and their context.
    pub fn attention_doubled(self) -> f64 {
        let (whole, cached) = (f64::from(self.tokens), f64::from(self.cached_tokens));
        whole * whole - cached * cached
    }

    fn work_ms(self, speed: &Speed) -> f64 {
        speed.prompt_ms(self.uncached_tokens(), self.attention_doubled())
    }
}

/// The terms of one placement's cost, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Terms {
    /// Until the prompts before ours are computed.
    pub wait_ms: f64,
    /// To compute ours.
    pub own_ms: f64,
    /// Until there is memory for ours.
    pub room_ms: f64,
    /// By how much ours takes longer than those who are there can bear: where it is above 0, the gate does not let it in.
    pub beyond_ms: f64,
    /// The same, weighed.
    pub harm_ms: f64,
    /// What it takes from the others, weighed.
    pub others_ms: f64,
}

impl Terms {
    /// From the arrival to the first token.
    pub fn first_token_ms(&self) -> f64 {
        self.wait_ms + self.own_ms + self.room_ms
    }

    /// The cost by which endpoints are compared.
    pub fn total_ms(&self) -> f64 {
        self.first_token_ms() + self.others_ms + self.harm_ms
    }
}

/// What it costs to place `prompt` on an endpoint that is as `report` says.
pub fn terms(report: &Report, speed: &Speed, prompt: Prompt, weights: &Weights) -> Terms {
    let sequences = report.sequences();
    let running = f64::from(report.sequences_running);
    let chunk = report.room(speed);
    let step_ms = report.step_ms(speed);
    let pending = report.prompt_tokens_pending;
    let steps_pending = pending / chunk;
    // Where somebody runs a step is under way, and on average half of it is left.
    let steps_before = if running > 0.0 { steps_pending.max(0.5) } else { steps_pending };
    let steps = ((pending + prompt.uncached_tokens()) / chunk).ceil() - steps_pending;
    let wait_ms = speed.front_end_ms
        + steps_before * step_ms
        + speed.compute_ms(pending, report.attention_doubled_pending);
    let work_ms = speed.compute_ms(prompt.uncached_tokens(), prompt.attention_doubled());
    let own_ms = steps.max(1.0) * step_ms + work_ms;
    let share = prompt.uncached_tokens() / chunk * step_ms;
    let context = f64::from(prompt.tokens) + report.output_tokens_mean / 2.0;
    let answer_ms =
        weights.answer * report.output_tokens_mean * (speed.sequence_us + speed.context_us * context) * 1e-3;
    let steps_more =
        ((pending + prompt.uncached_tokens()) / chunk).ceil().max(1.0) - steps_pending.ceil().max(1.0);
    let takes_ms = steps_more * step_ms + work_ms;
    let beyond_ms = report.bearable_ms.map_or(0.0, |bearable_ms| (takes_ms - bearable_ms).max(0.0));
    Terms {
        wait_ms,
        beyond_ms,
        harm_ms: weights.harm * beyond_ms,
        own_ms,
        room_ms: room_ms(report, speed, prompt, weights)
            .max(blocked_ms(report, wait_ms, weights))
            .max(place_ms(report, speed, weights)),
        others_ms: weights.others
            * (work_ms + share + answer_ms)
            * (1.0 + sequences / weights.crowd_sequences),
    }
}

/// Somebody waits, and has for longer than prompts explain: for memory, or for a place. Who comes now waits at least as long.
fn blocked_ms(report: &Report, wait_ms: f64, weights: &Weights) -> f64 {
    let explained_ms = wait_ms + weights.blocked_from_ms;
    if report.longest_waiting_ms > explained_ms { report.longest_waiting_ms } else { 0.0 }
}

/// Until there is a place: who runs or waits has one or comes before, and answers end one by one.
fn place_ms(report: &Report, speed: &Speed, weights: &Weights) -> f64 {
    let ends = report.sequences() + 1.0 - f64::from(report.sequences_max);
    if report.sequences_max == 0 || report.sequences_running == 0 || ends < 1.0 {
        return 0.0;
    }
    ends * report.answer_ms(speed, weights) / f64::from(report.sequences_running)
}

/// Memory is given back at the rate at which answers end: in the time of one, all that is held now; but what those who run grow by
/// meanwhile is taken from it, and that is an answer of mean length each. (Who is met running has on average that much behind it: long
/// answers are met more often.) What is left are their prompts. Some is kept free, because an engine that has none left sends somebody
/// back, and computes everything of theirs again.
fn room_ms(report: &Report, speed: &Speed, prompt: Prompt, weights: &Weights) -> f64 {
    if report.kv_tokens_total == 0 {
        return 0.0;
    }
    let waiting = if report.sequences_waiting > 0 { report.prompt_tokens_pending } else { 0.0 };
    let wanted = report.kv_tokens_used as f64 + waiting + prompt.uncached_tokens();
    let missing = wanted - report.kv_tokens_total as f64 * (1.0 - weights.kv_free);
    if missing <= 0.0 {
        return 0.0;
    }
    let answer_ms = report.answer_ms(speed, weights);
    let used = report.kv_tokens_used as f64;
    let answers = f64::from(report.sequences_running) * report.output_tokens_mean;
    let given_back = (used - answers).max(weights.given_back_min * used).max(1.0);
    missing / given_back * answer_ms
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 10 ms a step, 10 us a token, 1,000 tokens a step.
    const SPEED: Speed = Speed {
        front_end_ms: 5.0,
        step_ms: 10.0,
        sequence_us: 0.0,
        token_us: 10.0,
        context_us: 0.0,
        attention_ns: 0.0,
        step_tokens_max: 1_000.0,
    };

    fn pending(tokens: f64) -> Report {
        Report { prompt_tokens_pending: tokens, ..Report::default() }
    }

    fn prompt(tokens: u32, cached_tokens: u32) -> Prompt {
        Prompt { tokens, cached_tokens }
    }

    #[track_caller]
    fn check(report: Report, prompt: Prompt, [wait_ms, own_ms, room_ms, others_ms]: [f64; 4]) {
        let terms = terms(&report, &SPEED, prompt, &Weights::CHOSEN);
        let found = [terms.wait_ms, terms.own_ms, terms.room_ms, terms.others_ms];
        for (found_ms, expected_ms) in found.into_iter().zip([wait_ms, own_ms, room_ms, others_ms]) {
            assert!((found_ms - expected_ms).abs() < 1e-6, "{report:?} {prompt:?}: {terms:?}");
        }
    }

    #[test]
    fn on_an_idle_endpoint_a_prompt_waits_for_the_front_end_and_itself() {
        check(Report::default(), prompt(500, 0), [5.0, 15.0, 0.0, 20.0]);
        check(Report::default(), prompt(500, 400), [5.0, 11.0, 0.0, 4.0]);
    }

    #[test]
    fn pending_prompts_come_first_and_ours_takes_a_step_at_least() {
        check(pending(500.0), prompt(500, 0), [15.0, 15.0, 0.0, 20.0]);
        check(pending(1_000.0), prompt(500, 0), [25.0, 15.0, 0.0, 20.0]);
    }

    #[test]
    fn each_sequence_there_makes_a_placement_dearer_for_others() {
        let crowded = Report { sequences_waiting: 16, ..Report::default() };
        check(crowded, prompt(500, 0), [5.0, 15.0, 0.0, 40.0]);
        let decoding = Report { sequences_running: 1, ..Report::default() };
        let others_ms = terms(&decoding, &SPEED, prompt(500, 0), &Weights::CHOSEN).others_ms;
        assert!(others_ms > 21.0 && others_ms < 22.0, "{others_ms}");
    }

    #[test]
    fn a_prompt_that_does_not_fit_waits_for_answers_to_end() {
        let full = Report { kv_tokens_used: 800, kv_tokens_total: 1_000, ..Report::default() };
        assert!(terms(&full, &SPEED, prompt(100, 0), &Weights::CHOSEN).room_ms == 0.0, "a tenth stays free");
        let room_ms = terms(&full, &SPEED, prompt(180, 0), &Weights::CHOSEN).room_ms;
        assert!((room_ms - Weights::CHOSEN.answer_ms / 10.0).abs() < 1e-6, "{room_ms}");
        let answers = Report { output_tokens_mean: 50.0, ..full };
        let room_ms = terms(&answers, &SPEED, prompt(180, 0), &Weights::CHOSEN).room_ms;
        assert!((room_ms - 50.0).abs() < 1e-6, "50 steps of 10 ms an answer: {room_ms}");
        // 10 answers of 50 tokens are taken from the 800 that are given back meanwhile, and all but a tenth at most.
        let growing = |sequences_running| {
            let report = Report { sequences_running, ..answers };
            terms(&report, &SPEED, prompt(180, 0), &Weights::CHOSEN).room_ms
        };
        assert!((growing(10) - 50.0 * 8.0 / 3.0).abs() < 1e-6, "{}", growing(10));
        assert!((growing(15) - 500.0).abs() < 1e-6, "{}", growing(15));
        let unknown = Report { kv_tokens_total: 0, ..full };
        assert!(terms(&unknown, &SPEED, prompt(100_000, 0), &Weights::CHOSEN).room_ms == 0.0);
    }

    #[test]
    fn a_queue_that_prompts_do_not_explain_is_a_lack_of_places() {
        let blocked = Report { sequences_waiting: 1, longest_waiting_ms: 400.0, ..Report::default() };
        assert!((terms(&blocked, &SPEED, prompt(100, 0), &Weights::CHOSEN).room_ms - 400.0).abs() < 1e-6);
        let explained = Report { prompt_tokens_pending: 30_000.0, ..blocked };
        assert!(terms(&explained, &SPEED, prompt(100, 0), &Weights::CHOSEN).room_ms == 0.0);
    }

    #[test]
    fn who_comes_when_all_places_are_taken_waits_for_as_many_answers_to_end() {
        // 10 run, and an answer of 50 steps ends every 50 ms.
        let room_ms = |sequences_max, sequences_waiting| {
            let running = Report { sequences_running: 10, output_tokens_mean: 50.0, ..Report::default() };
            let report = Report { sequences_max, sequences_waiting, ..running };
            terms(&report, &SPEED, prompt(100, 0), &Weights::CHOSEN).room_ms.round()
        };
        assert_eq!([room_ms(10, 0), room_ms(10, 3), room_ms(12, 3)], [50.0, 200.0, 100.0]);
        assert_eq!(
            [room_ms(12, 1), room_ms(0, 3)],
            [0.0, 0.0],
            "one is free; nobody knows how many there are"
        );
        let idle = Report { sequences_max: 1, sequences_waiting: 1, ..Report::default() };
        assert_eq!(
            terms(&idle, &SPEED, prompt(100, 0), &Weights::CHOSEN).room_ms,
            0.0,
            "no answer is to end"
        );
    }

    #[test]
    fn whatever_a_report_tells_can_be_reckoned_with() {
        let most = Report { sequences_running: u32::MAX, sequences_waiting: u32::MAX, ..Report::default() };
        for sequences_max in [0, 1, u32::MAX] {
            let terms = terms(&Report { sequences_max, ..most }, &SPEED, prompt(100, 0), &Weights::CHOSEN);
            assert!(terms.total_ms().is_finite(), "{terms:?}");
        }
    }

    #[test]
    fn a_prompt_does_harm_where_it_takes_longer_than_can_be_borne() {
        let harm_ms = |prompt_tokens_pending, bearable_ms, tokens| {
            let report = Report { prompt_tokens_pending, bearable_ms, ..Report::default() };
            terms(&report, &SPEED, prompt(tokens, 0), &Weights::CHOSEN).harm_ms / Weights::CHOSEN.harm
        };
        // 500 tokens take 5 ms in a step that happens anyway, 1,500 take a second step.
        assert_eq!([harm_ms(0.0, None, 500), harm_ms(0.0, Some(5.0), 500)], [0.0; 2]);
        assert_eq!([harm_ms(0.0, Some(2.0), 500), harm_ms(0.0, Some(-2.0), 500)], [3.0, 7.0]);
        assert_eq!([harm_ms(0.0, Some(20.0), 1_500), harm_ms(900.0, Some(20.0), 1_500)], [5.0, 15.0]);
    }

    #[test]
    fn long_answers_make_a_crowd_dearer() {
        let speed = Speed { context_us: 1.0, ..SPEED };
        let others_ms = |output_tokens_mean| {
            let report = Report { output_tokens_mean, sequences_waiting: 16, ..Report::default() };
            terms(&report, &speed, prompt(500, 0), &Weights::CHOSEN).others_ms
        };
        // 100 tokens, each 0.55 ms longer by a context of 550: 55 ms, half of it weighed with 2 for 2.
        assert!((others_ms(100.0) - others_ms(0.0) - 110.0).abs() < 1e-6, "{}", others_ms(100.0));
    }

    #[test]
    fn an_old_report_is_believed_to_have_drained_as_fast_as_others_let_it() {
        // 1,000 tokens are 20 ms.
        let after = |age_ms, arriving| {
            Report { arriving, ..pending(1_000.0) }.after(age_ms, &SPEED).prompt_tokens_pending
        };
        assert_eq!([after(0.0, 0.0), after(10.0, 0.0), after(30.0, 0.0)], [1_000.0, 500.0, 0.0]);
        assert_eq!([after(10.0, 0.5), after(10.0, 1.0), after(10.0, 1.5)], [750.0, 1_000.0, 1_000.0]);
    }
}
