//! What was promised to those whose answers are under way, and for how long one more prompt may hold them up.
//!
//! Each token of an answer has a deadline: that of the first one, and a span more for each token since. An engine computes prompts in
//! the same steps that give those who are there their tokens, so each prompt that is let in uses up some of the time that they have
//! to spare:
//!
//! ```text
//!   now          prompts that are pending are computed         deadline of the token that comes then
//!    ├──────────────────────────────────────────────────┤~~~~~~~~~~~~~~~│
//!         step by step, each with a token for everybody    bearable
//! ```
//!
//! Whoever has least to spare decides. Who is late already, or will be whatever comes, has nothing to lose and is not asked; neither is
//! an answer whose tokens were promised faster than this engine makes them for a single caller.

use std::time::Duration;

use penstock_model::units::Moment;

use crate::pick::cost::{Report, Speed, Weights};

/// What the caller of one request was promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promise {
    /// When the first token is due.
    pub first_due: Moment,
    /// How much later each further token is due than the one before.
    pub span: Duration,
}

/// The step that an endpoint computes now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UnderWay {
    /// Its number, as [`Promises::token`] is told.
    pub step: u64,
    /// Prompt tokens that wait for a later one.
    pub prompt_tokens_waiting: f64,
}

/// Where an answer stands among the others of its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(usize);

#[derive(Clone, Copy, Debug, PartialEq)]
struct Open {
    /// When the next token is due.
    due: Moment,
    span: Duration,
    /// Of the prompt tokens that came in, the one with which its prompt ends; 0 once it has ended.
    prompt_ends: f64,
    /// The step that was under way when its last token left.
    step: u64,
    is_kept: bool,
}

impl Open {
    /// Tokens that will come whatever comes in now: that of the step under way, and that of the last one until it has left. `begun` are the
    /// prompt tokens that have been in a step.
    fn tokens_safe(&self, under_way: Option<UnderWay>, begun: f64) -> f64 {
        match under_way {
            Some(UnderWay { step, .. }) if self.prompt_ends == 0.0 => {
                1.0 + step.saturating_sub(self.step).min(1) as f64
            }
            Some(_) if self.prompt_ends <= begun => 1.0,
            _ => 0.0,
        }
    }
}

/// The answers under way at one endpoint. Memory grows with those that are under way together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Promises {
    places: Vec<Option<Open>>,
    vacant: Vec<usize>,
    /// Prompt tokens that came in so far.
    came_tokens: f64,
}

impl Promises {
    /// A request came in with so many prompt tokens to compute.
    pub fn came(&mut self, promise: Promise, uncached_tokens: f64) -> Place {
        self.came_tokens += uncached_tokens;
        let open = Open {
            due: promise.first_due,
            span: promise.span,
            prompt_ends: self.came_tokens,
            step: 0,
            is_kept: true,
        };
        let place = self.vacant.pop().unwrap_or(self.places.len());
        if place == self.places.len() {
            self.places.push(None);
        }
        self.places[place] = Some(open);
        Place(place)
    }

    /// A request came in whose caller was promised nothing: its prompt is computed before those that come later all the same.
    pub fn came_unpromised(&mut self, uncached_tokens: f64) {
        self.came_tokens += uncached_tokens;
    }

    /// Prompt tokens that came in so far.
    pub fn came_tokens(&self) -> f64 {
        self.came_tokens
    }

    /// A token of an answer left, while this step was under way.
    pub fn token(&mut self, place: Place, step: u64, now: Moment) {
        if let Some(Some(open)) = self.places.get_mut(place.0) {
            open.is_kept &= now <= open.due;
            open.due = open.due + open.span;
            open.prompt_ends = 0.0;
            open.step = step;
        }
    }

    /// An answer ended, or its caller left.
    pub fn left(&mut self, place: Place) {
        if self.places.get_mut(place.0).is_some_and(|open| open.take().is_some()) {
            self.vacant.push(place.0);
        }
    }

    /// Milliseconds by which the prompts that are pending could take longer without any promise being broken; `None` where there is
    /// none to break. `report` is the endpoint's own, of this moment, in which the step `under_way` may be; who comes now does not hold up
    /// the tokens of that one, nor those of the last that are still on their way out.
    pub fn bearable_ms(
        &self,
        report: &Report,
        speed: &Speed,
        now: Moment,
        under_way: Option<UnderWay>,
        weights: &Weights,
    ) -> Option<f64> {
        let step_ms = report.step_ms(speed);
        let room = report.room(speed);
        let pending = report.prompt_tokens_pending;
        let steps = (pending / room).ceil().max(1.0);
        let pending_ms = steps * step_ms + speed.compute_ms(pending, report.attention_doubled_pending);
        let computed = self.came_tokens - pending;
        let begun = self.came_tokens - under_way.map_or(0.0, |step| step.prompt_tokens_waiting);
        let spare_ms = |open: &Open| {
            let due_ms = (open.due.0 as f64 - now.0 as f64) * 1e-6;
            // Those whose own prompt is among the pending get their first token after some steps only.
            let steps_before = ((open.prompt_ends - computed.max(0.0)).max(0.0) / room).floor();
            let tokens = (steps - 1.0 - steps_before).max(0.0) + open.tokens_safe(under_way, begun);
            due_ms + tokens * open.span.as_secs_f64() * 1e3 - pending_ms
        };
        self.asked(speed)
            .map(spare_ms)
            .filter(|spare_ms| *spare_ms >= 0.0)
            .min_by(f64::total_cmp)
            .map(|spare_ms| spare_ms - weights.reserve_ms)
    }

    /// Milliseconds to spare that those who are there gain in each millisecond without prompts: a step gives each a token, and moves
    /// what is due by the time that was promised for one. 0 where steps take longer than that.
    pub fn gain(&self, report: &Report, speed: &Speed) -> f64 {
        let spans_ms = self.asked(speed).map(|open| open.span.as_secs_f64() * 1e3);
        let shortest_ms = spans_ms.fold(f64::INFINITY, f64::min);
        (shortest_ms / report.step_ms(speed) - 1.0).max(0.0)
    }

    /// Those who have something to lose.
    fn asked(&self, speed: &Speed) -> impl Iterator<Item = &Open> {
        let step_ms = speed.step_ms;
        let places = self.places.iter().flatten();
        places.filter(move |open| open.is_kept && open.span.as_secs_f64() * 1e3 >= step_ms)
    }
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

    fn ms(ms: u64) -> Moment {
        Moment(ms * 1_000_000)
    }

    fn promise(first_due_ms: u64) -> Promise {
        Promise { first_due: ms(first_due_ms), span: Duration::from_millis(50) }
    }

    /// What can be borne at `now` beside so many prompt tokens, without the reserve.
    fn bearable_ms(promises: &Promises, now_ms: u64, prompt_tokens_pending: f64) -> Option<f64> {
        let report = Report { prompt_tokens_pending, ..Report::default() };
        let weights = Weights { reserve_ms: 0.0, ..Weights::CHOSEN };
        let found = promises.bearable_ms(&report, &SPEED, ms(now_ms), None, &weights)?;
        let kept =
            promises.bearable_ms(&report, &SPEED, ms(now_ms), None, &Weights { reserve_ms: 30.0, ..weights });
        assert_eq!(kept.map(|kept_ms| (found - kept_ms).round()), Some(30.0));
        Some((found * 1e3).round() / 1e3)
    }

    #[test]
    fn where_nothing_is_promised_everything_can_be_borne() {
        let mut promises = Promises::default();
        assert_eq!(bearable_ms(&promises, 0, 0.0), None);
        let place = promises.came(promise(500), 0.0);
        assert!(bearable_ms(&promises, 0, 0.0).is_some());
        promises.left(place);
        promises.left(place);
        assert_eq!(bearable_ms(&promises, 0, 0.0), None);
    }

    #[test]
    fn an_answer_under_way_bears_what_its_next_token_has_to_spare() {
        let mut promises = Promises::default();
        let place = promises.came(promise(500), 100.0);
        promises.token(place, 0, ms(100));
        // The second token is due at 550, and the next step ends at 110.
        assert_eq!(bearable_ms(&promises, 100, 0.0), Some(440.0));
        // 1,000 tokens more in that step: 20 ms.
        assert_eq!(bearable_ms(&promises, 100, 1_000.0), Some(430.0));
        // 2,000 tokens: 40 ms, and a token meanwhile.
        assert_eq!(bearable_ms(&promises, 100, 2_000.0), Some(460.0));
    }

    #[test]
    fn whose_prompt_is_pending_gets_no_tokens_before_it_is_computed() {
        let mut promises = Promises::default();
        promises.came(promise(500), 2_500.0);
        // Three steps and 25 ms, and the first token at the end of the last one.
        assert_eq!(bearable_ms(&promises, 0, 2_500.0), Some(445.0));
        // Half of another prompt behind it is computed in the same step; its own first token is due later.
        promises.came(promise(900), 500.0);
        assert_eq!(bearable_ms(&promises, 0, 3_000.0), Some(440.0));
        // One of 2,000 behind takes two steps, each with a token for the first one.
        promises.came(promise(900), 2_000.0);
        assert_eq!(bearable_ms(&promises, 0, 5_000.0), Some(500.0));
    }

    #[test]
    fn prompts_of_whom_nothing_was_promised_come_before_as_well() {
        let mut promises = Promises::default();
        promises.came_unpromised(2_000.0);
        promises.came(promise(900), 500.0);
        // Three steps and 25 ms, and its first token at the end of the last one.
        assert_eq!(bearable_ms(&promises, 0, 2_500.0), Some(845.0));
        assert_eq!(promises.came_tokens(), 2_500.0);
    }

    #[test]
    fn who_comes_now_holds_up_no_token_of_the_step_under_way() {
        let mut promises = Promises::default();
        let place = promises.came(promise(500), 100.0);
        let bearable_ms = |promises: &Promises, step, prompt_tokens_waiting| {
            let weights = Weights { reserve_ms: 0.0, ..Weights::CHOSEN };
            let under_way = Some(UnderWay { step, prompt_tokens_waiting });
            promises.bearable_ms(&Report::default(), &SPEED, ms(100), under_way, &weights)
        };
        // Its prompt waits, or is in the step: then its first token, due at 500, comes with that.
        assert_eq!(bearable_ms(&promises, 3, 100.0), Some(390.0));
        assert_eq!(bearable_ms(&promises, 3, 0.0), Some(440.0));
        promises.token(place, 4, ms(100));
        // The second token is that of step 4; when step 5 has begun, it is on its way out, and the third one is that of step 5.
        assert_eq!(bearable_ms(&promises, 4, 0.0), Some(490.0));
        assert_eq!(bearable_ms(&promises, 5, 0.0), Some(540.0));
        // No more than those two, though it has not been heard of for long.
        assert_eq!(bearable_ms(&promises, 9, 0.0), Some(540.0));
    }

    #[test]
    fn the_one_with_least_to_spare_decides_and_who_is_late_is_not_asked() {
        let mut promises = Promises::default();
        let slow = promises.came(promise(300), 0.0);
        let other = promises.came(promise(800), 0.0);
        promises.token(slow, 0, ms(100));
        promises.token(other, 0, ms(100));
        assert_eq!(bearable_ms(&promises, 100, 0.0), Some(240.0));
        assert_eq!(bearable_ms(&promises, 341, 0.0), Some(499.0), "the first one cannot be in time any more");
        promises.token(slow, 0, ms(351));
        promises.token(slow, 0, ms(352));
        assert_eq!(
            bearable_ms(&promises, 352, 0.0),
            Some(488.0),
            "and stays late with tokens that are in time"
        );
    }

    #[test]
    fn a_promise_that_this_engine_can_never_keep_keeps_nobody_out() {
        let mut promises = Promises::default();
        promises.came(Promise { span: Duration::from_millis(9), ..promise(500) }, 0.0);
        assert_eq!(bearable_ms(&promises, 0, 0.0), None);
    }

    #[test]
    fn what_is_to_spare_grows_by_what_a_token_was_given_beyond_its_step() {
        let mut promises = Promises::default();
        let gain = |promises: &Promises| promises.gain(&Report::default(), &SPEED);
        promises.came(promise(500), 0.0);
        assert_eq!(gain(&promises), 4.0, "50 ms for each step of 10");
        promises.came(Promise { span: Duration::from_millis(15), ..promise(500) }, 0.0);
        assert_eq!(gain(&promises), 0.5, "the one who gains least decides");
        let crowded = Report { sequences_running: 20, ..Report::default() };
        let slow = Speed { sequence_us: 1_000.0, ..SPEED };
        assert_eq!(promises.gain(&crowded, &slow), 0.0, "steps of 31 ms");
    }

    #[test]
    fn places_are_used_again() {
        let mut promises = Promises::default();
        for _ in 0..1_000 {
            let first = promises.came(promise(500), 10.0);
            let second = promises.came(promise(500), 10.0);
            promises.left(first);
            promises.left(second);
        }
        assert_eq!((promises.places.len(), promises.vacant.len()), (2, 2));
    }
}
