use std::time::Duration;

use penstock_model::units::Moment;
use proptest::prelude::*;

use super::*;

/// An 8B model on an H100, as its published profile has it.
const SPEED: Speed = Speed {
    front_end_ms: 5.0,
    step_ms: 7.65,
    chunk_us: 46.0,
    context_us: 0.07,
    token_us: 22.0,
    free_tokens: 164.0,
    attention_ns: 1.3,
    step_tokens_max: 8_192.0,
};

fn after_ms(from: Moment, millis: f64) -> Moment {
    from + Duration::from_secs_f64(millis * 1e-3)
}

#[track_caller]
fn check_first_token(load: Load, prompt: Work, expected_ms: f64) {
    let found_ms = SPEED.first_token_ms(&load, prompt);
    assert!(
        (found_ms - expected_ms).abs() < 0.05,
        "{found_ms} ms for {prompt:?} at {load:?}, expected {expected_ms}"
    );
}

#[test]
fn a_prompt_on_an_idle_engine_takes_the_front_end_and_its_own_step() {
    check_first_token(Load::default(), Work::of(100, 0), 5.0 + 7.65 + 0.0065);
    check_first_token(Load::default(), Work::of(1_164, 0), 5.0 + 7.65 + 22.0 + 0.88);
    check_first_token(Load::default(), Work::of(1_164, 1_000), 5.0 + 7.65 + 0.23);
}

#[test]
fn a_prompt_larger_than_a_step_takes_several() {
    let compute_ms = 22e-3 * (20_000.0 - 3.0 * 164.0) + 1.3e-6 * 0.5 * 4e8;
    check_first_token(Load::default(), Work::of(20_000, 0), 5.0 + 3.0 * 7.65 + compute_ms);
}

#[test]
fn a_prompt_joins_the_first_step_that_starts_after_its_front_end() {
    let busy =
        |step_left_ms| Load { step_left_ms, sequences: 10, context_tokens: 10_000.0, ..Load::default() };
    let (step_ms, out_ms) = (7.65 + 0.7, 0.46);
    check_first_token(busy(6.0), Work::of(100, 0), 6.0 + step_ms + out_ms + 0.0065);
    check_first_token(busy(4.0), Work::of(100, 0), 4.0 + 2.0 * step_ms + out_ms + 0.0065);
}

#[test]
fn a_prompt_waits_for_those_before_it() {
    let load = Load { step_left_ms: 50.0, waiting: Work::of(4_000, 0), ..Load::default() };
    let alone_ms = SPEED.first_token_ms(&Load::default(), Work::of(500, 0));
    let behind_ms = SPEED.first_token_ms(&load, Work::of(500, 0));
    assert!(behind_ms > 50.0 + 22e-3 * 4_000.0 + alone_ms - 15.0, "{behind_ms} ms behind, {alone_ms} alone");
}

#[test]
fn tokens_cost_nothing_until_the_weights_are_no_longer_the_limit() {
    assert_eq!(SPEED.token_ms(1, 0.0), SPEED.token_ms(164, 0.0));
    assert!((SPEED.token_ms(264, 0.0) - SPEED.token_ms(164, 0.0) - 2.2).abs() < 1e-9);
    assert!((SPEED.token_ms(8, 100_000.0) - SPEED.token_ms(8, 0.0) - 7.0).abs() < 1e-9);
}

#[test]
fn at_least_one_token_is_always_computed() {
    assert_eq!(Work::of(0, 0).tokens, 1.0);
    assert_eq!(Work::of(512, 512).tokens, 1.0);
    assert_eq!(Work::of(100, 4_000).tokens, 1.0);
}

#[test]
fn a_placement_costs_what_the_learned_constants_say() {
    for (tokens, sequences, context_tokens) in [(1_000, 0, 0u32), (4_000, 20, 20_000), (7_000, 60, 200_000)] {
        let prompt = cost::Prompt { tokens, cached_tokens: 0 };
        let report = cost::Report {
            sequences_running: sequences,
            kv_tokens_used: u64::from(context_tokens),
            ..cost::Report::default()
        };
        let terms = cost::terms(&report, &SPEED.into(), prompt, &cost::Weights::CHOSEN);
        let load = Load { sequences, context_tokens: f64::from(context_tokens), ..Load::default() };
        let step_ms = SPEED.steps_ms(1.0, Work::of(tokens, 0), sequences, load.context_tokens);
        assert!((terms.own_ms / step_ms - 1.0).abs() < 0.01, "{} ms, learned {step_ms} ms", terms.own_ms);
    }
}

/// Requests one after the other on an engine that is `truth`; the moment at which the last one ended.
fn one_by_one(learner: &mut Learner, truth: &Speed, requests: std::ops::Range<u32>, start: Moment) -> Moment {
    let mut now = start;
    for at in requests {
        let tokens = 200 + at * 7_919 % 6_000;
        let size = Size { tokens, cached_tokens: 0 };
        let mut track = learner.sent(size, now);
        now = after_ms(now, truth.first_token_ms(&Load::default(), Work::of(tokens, 0)));
        for token in 0..30 {
            learner.chunk(&mut track, 1, now);
            now = after_ms(now, truth.token_ms(1, f64::from(tokens + token + 1)));
        }
        learner.ended(&track, Some(size), now);
        now = after_ms(now, 300.0);
    }
    now
}

#[track_caller]
fn check_learned(found: &Speed, truth: &Speed) {
    // On an engine that is always idle the front end and what is saved by the free tokens cannot be told apart, only their difference.
    let cases = [(300, 0), (800, 0), (3_000, 0), (6_000, 4_000)];
    for (tokens, cached) in cases {
        let ms = |speed: &Speed| speed.first_token_ms(&Load::default(), Work::of(tokens, cached));
        let error = ms(found) / ms(truth) - 1.0;
        assert!(error.abs() < 0.05, "first token of {tokens}: {:+.1} %\n{found:?}\n{truth:?}", 100.0 * error);
        let error = found.token_ms(1, f64::from(tokens)) / truth.token_ms(1, f64::from(tokens)) - 1.0;
        assert!(error.abs() < 0.02, "token after {tokens}: {:+.1} %\n{found:?}\n{truth:?}", 100.0 * error);
    }
}

#[test]
fn requests_one_after_the_other_are_enough() {
    let mut learner = Learner::starting(Speed::default());
    one_by_one(&mut learner, &SPEED, 0..100, Moment(0));
    check_learned(learner.speed(), &SPEED);
    assert!(learner.step_error() < 0.02 && learner.first_token_error() < 0.05, "{learner:?}");
}

#[test]
fn after_a_single_request_the_prior_is_corrected_as_a_whole() {
    let mut learner = Learner::starting(Speed::default());
    let slow = SPEED.slower(4.0);
    one_by_one(&mut learner, &slow, 0..1, Moment(0));
    let found = learner.speed();
    assert!((found.token_ms(1, 500.0) / slow.token_ms(1, 500.0) - 1.0).abs() < 0.05, "{found:?}");
    assert!((found.token_us / slow.token_us - 1.0).abs() < 0.5, "{found:?}");
}

/// A sequence that generates beside, of which `steps` follow that take `step_ms` each; the moment after the last one.
fn steps(learner: &mut Learner, beside: &mut Track, step_ms: &[f64], start: Moment) -> Moment {
    step_ms.iter().fold(start, |now, ms| {
        let now = after_ms(now, *ms);
        learner.chunk(beside, 1, now);
        now
    })
}

/// An engine that has shown its steps, with a sequence that generates.
fn generating(learner: &mut Learner) -> (Track, Moment) {
    let now = one_by_one(learner, &SPEED, 0..2, Moment(0));
    let mut beside = learner.sent(Size { tokens: 100, cached_tokens: 0 }, now);
    let now = after_ms(now, SPEED.first_token_ms(&Load::default(), Work::of(100, 0)));
    learner.chunk(&mut beside, 1, now);
    let now = steps(learner, &mut beside, &[7.65; 8], now);
    (beside, now)
}

#[test]
fn what_the_first_prompt_says_is_shared_out_in_proportion() {
    let mut learner = Learner::starting(SPEED);
    let (mut beside, now) = generating(&mut learner);
    let before = *learner.speed();
    let size = Size { tokens: 7_000, cached_tokens: 0 };
    let mut track = learner.sent(size, now);
    // It takes three quarters of what was expected.
    let step_ms = 0.75 * before.steps_ms(1.0, Work::of(7_000, 0), 1, 0.0);
    let now = after_ms(steps(&mut learner, &mut beside, &[7.65, step_ms], now), 0.05);
    learner.chunk(&mut track, 1, now);
    let now = steps(&mut learner, &mut beside, &[7.65; 3], now);
    learner.ended(&track, Some(size), now);
    let after = learner.speed();
    let [tokens, pairs] = [after.token_us / before.token_us, after.attention_ns / before.attention_ns];
    assert!(tokens < 0.95 && pairs > 0.6, "tokens {tokens:.2}, pairs {pairs:.2}: {after:?}");
}

/// Tokens that one step is thought to compute after a lone prompt of 16,000 whose steps took so long.
fn step_tokens_after(step_ms: &[f64]) -> f64 {
    let mut learner = Learner::starting(SPEED);
    let (mut beside, now) = generating(&mut learner);
    let size = Size { tokens: 16_000, cached_tokens: 0 };
    let mut track = learner.sent(size, now);
    let now = after_ms(steps(&mut learner, &mut beside, step_ms, now), 0.05);
    learner.chunk(&mut track, 1, now);
    let now = steps(&mut learner, &mut beside, &[7.65; 3], now);
    learner.ended(&track, Some(size), now);
    learner.speed().step_tokens_max
}

#[test]
fn a_prompt_that_waits_for_memory_does_not_make_steps_smaller_and_one_of_many_steps_does() {
    let waited = step_tokens_after(&[7.65, 7.65, 7.65, 7.65, 7.65, 250.0, 250.0]);
    assert_eq!(waited, SPEED.step_tokens_max);
    let small = step_tokens_after(&[7.65, 75.0, 75.0, 75.0, 75.0, 75.0, 75.0, 75.0, 75.0]);
    assert!(small < 6_000.0, "{small}");
}

#[test]
fn a_slowdown_is_followed_from_one_request_to_the_next() {
    let mut learner = Learner::starting(Speed::default());
    let now = one_by_one(&mut learner, &SPEED, 0..100, Moment(0));
    for factor in [2.0, 6.0, 1.0] {
        let mut changed = learner.clone();
        one_by_one(&mut changed, &SPEED.slower(factor), 100..102, now);
        let (found, truth) = (changed.speed(), SPEED.slower(factor));
        let ms = |speed: &Speed| speed.first_token_ms(&Load::default(), Work::of(2_000, 0));
        assert!((ms(found) / ms(&truth) - 1.0).abs() < 0.1, "{factor}: {found:?}");
    }
}

#[test]
fn nothing_is_known_before_anything_was_seen_and_it_says_so() {
    let learner = Learner::starting(SPEED);
    assert_eq!((learner.speed(), learner.step_error(), learner.first_token_error()), (&SPEED, 1.0, 1.0));
    assert_eq!(learner.load(Moment(5)), Load::default());
}

#[test]
fn a_prompt_is_before_the_engine_until_its_first_token_or_its_end() {
    let size = Size { tokens: 10_000, cached_tokens: 0 };
    let mut learner = Learner::starting(SPEED);
    let track = learner.sent(size, Moment(0));
    let early = learner.load(Moment(0));
    assert!((early.waiting.tokens - 1_808.0).abs() < 1.0 && early.step_left_ms > 180.0, "{early:?}");
    let late = learner.load(after_ms(Moment(0), 240.0));
    assert!(late.waiting.tokens <= 0.0 && late.step_left_ms > 0.0, "the second step is under way: {late:?}");
    learner.ended(&track, None, after_ms(Moment(0), 245.0));
    assert_eq!(learner.load(after_ms(Moment(0), 245.0)), Load::default());
}

#[test]
fn an_estimate_that_usage_corrects_is_not_learned_from() {
    let run = |corrected: bool| {
        let mut learner = Learner::starting(SPEED);
        let mut now = Moment(0);
        for at in 0..60u32 {
            let tokens = 500 + at * 7_919 % 6_000;
            let guess = Size { tokens: tokens * 5 / 4, cached_tokens: 0 };
            let mut track = learner.sent(guess, now);
            now = after_ms(now, SPEED.first_token_ms(&Load::default(), Work::of(tokens, 0)));
            for _ in 0..5 {
                learner.chunk(&mut track, 1, now);
                now = after_ms(now, SPEED.token_ms(1, f64::from(tokens)));
            }
            learner.ended(&track, corrected.then_some(Size { tokens, cached_tokens: 0 }), now);
            now = after_ms(now, 100.0);
        }
        learner.speed().token_us
    };
    assert!((run(true) / 22.0 - 1.0).abs() < 0.1, "{}", run(true));
    assert!(run(false) < 19.0, "{}", run(false));
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Sent(u32, u32),
    Chunk(usize, u32),
    Ended(usize, Option<(u32, u32)>),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (0u32..200_000, 0u32..200_000).prop_map(|(tokens, cached)| Event::Sent(tokens, cached)),
        (0usize..64, 0u32..40).prop_map(|(at, tokens)| Event::Chunk(at, tokens)),
        (0usize..64, 0u32..40).prop_map(|(at, tokens)| Event::Chunk(at, tokens)),
        (0usize..64, 0u32..40).prop_map(|(at, tokens)| Event::Chunk(at, tokens)),
        (0usize..64, prop::option::of((0u32..200_000, 0u32..200_000)))
            .prop_map(|(at, size)| Event::Ended(at, size)),
    ]
}

fn all(speed: &Speed) -> [f64; 8] {
    [
        speed.front_end_ms,
        speed.step_ms,
        speed.chunk_us,
        speed.context_us,
        speed.token_us,
        speed.free_tokens,
        speed.attention_ns,
        speed.step_tokens_max,
    ]
}

proptest! {
    #[test]
    fn whatever_comes_the_constants_are_finite_and_not_negative_and_an_empty_engine_has_no_load(
        events in prop::collection::vec((event(), prop_oneof![Just(0u64), 0u64..5_000_000, 0u64..20_000_000_000]), 1..300),
    ) {
        let mut learner = Learner::starting(Speed::default());
        let (mut open, mut now) = (Vec::new(), Moment(0));
        let size = |(tokens, cached_tokens)| Size { tokens, cached_tokens };
        for (event, pause) in events {
            now = Moment(now.0 + pause);
            match event {
                Event::Sent(tokens, cached) => open.push(learner.sent(size((tokens, cached)), now)),
                Event::Chunk(at, tokens) if !open.is_empty() => {
                    let at = at % open.len();
                    learner.chunk(&mut open[at], tokens, now);
                }
                Event::Ended(at, usage) if !open.is_empty() => {
                    let track = open.swap_remove(at % open.len());
                    learner.ended(&track, usage.map(size), now);
                }
                Event::Chunk(..) | Event::Ended(..) => {}
            }
            let speed = learner.speed();
            prop_assert!(all(speed).iter().all(|one| one.is_finite() && *one >= 0.0), "{speed:?}");
            let load = learner.load(now);
            let first_ms = speed.first_token_ms(&load, Work::of(1_000, 0));
            prop_assert!(first_ms.is_finite() && first_ms > 0.0, "{first_ms} ms at {load:?}");
            prop_assert!(load.context_tokens >= 0.0 && load.waiting.tokens >= 0.0, "{load:?}");
            prop_assert_eq!(load.sequences as usize <= open.len(), true);
        }
        for track in open.drain(..) {
            learner.ended(&track, None, now);
        }
        prop_assert_eq!(learner.load(now), Load::default());
    }
}
