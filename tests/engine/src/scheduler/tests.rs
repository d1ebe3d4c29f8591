//! The scheduler's decisions, on a machine whose step times are easy to add up.

use proptest::prelude::*;

use super::*;

/// 1 ms a step, 1 us a token, no front end; `blocks` blocks of 4 tokens.
fn round_numbers(blocks: u32) -> Profile {
    Profile {
        name: "round",
        fixed_ms: 1.0,
        sequence_us: 0.0,
        weights_ms: 0.0,
        compute_ms: 0.0,
        token_us: 1.0,
        context_us: 0.0,
        attention_ns: 0.0,
        kv_tokens: blocks * 4,
        front_end_ms: 0.0,
        front_end_token_us: 0.0,
    }
}

fn engine(blocks: u32, batched_tokens_max: u32, sequences_max: u32) -> Engine {
    let limits = Limits { batched_tokens_max, sequences_max, queued_max: None, block_tokens: 4 };
    Engine::new(round_numbers(blocks), limits, Pace::default(), 1).expect("a usable engine")
}

/// A prompt whose blocks are `family`, then unique to the request from block `shared` on.
fn request(id: SequenceId, prompt_tokens: u32, output_tokens_max: u32) -> Request {
    shared_request(id, prompt_tokens, output_tokens_max, 0)
}

fn shared_request(id: SequenceId, prompt_tokens: u32, output_tokens_max: u32, shared: u32) -> Request {
    let hash = |block: u32| if block < shared { u64::from(block) } else { id << 32 | u64::from(block) };
    let block_hashes = (0..prompt_tokens / 4).map(hash).collect();
    Request { id, prompt_tokens, block_hashes, output_tokens_max }
}

/// Steps until idle; one line a step: `tokens in it: emitted ids, +admitted(cached), -preempted`.
fn history(engine: &mut Engine) -> Vec<String> {
    let mut lines = Vec::new();
    let mut step = Step::default();
    while let Some(at) = engine.next_step_at() {
        engine.step(at, &mut step);
        if step.is_empty() {
            continue;
        }
        let mut line = format!("{}:", step.batch.tokens);
        for token in &step.tokens {
            line += &format!(" {}{}", token.id, if token.last { "." } else { "" });
        }
        for admission in &step.admitted {
            line += &format!(" +{}({})", admission.id, admission.cached_tokens);
        }
        for id in &step.preempted {
            line += &format!(" -{id}");
        }
        lines.push(line);
        assert!(lines.len() < 10_000, "the engine makes no progress");
    }
    lines
}

/// Submits everything at the origin and compares the history.
#[track_caller]
fn check(mut engine: Engine, requests: &[Request], expected: &[&str]) {
    for request in requests {
        engine.submit(Moment::START, request.clone()).expect("accepted");
    }
    assert_eq!(history(&mut engine), expected);
    assert_eq!(engine.gauges().running + engine.gauges().waiting + engine.gauges().blocks_pinned, 0);
}

#[test]
fn decodes_go_first_then_the_prompt_begun_then_the_queue_in_order() {
    check(
        engine(100, 10, 8),
        &[request(1, 4, 3), request(2, 12, 2), request(3, 3, 1)],
        &["10: 1 +1(0) +2(0)", "10: 1 2 3. +3(0)", "2: 1. 2."],
    );
}

#[test]
fn a_long_prompt_is_computed_in_chunks_and_its_token_leaves_with_the_last_one() {
    check(engine(100, 10, 8), &[request(1, 25, 2)], &["10: +1(0)", "10:", "5: 1", "1: 1."]);
}

#[test]
fn nobody_overtakes_in_the_queue_even_when_a_later_request_would_fit() {
    check(
        engine(5, 100, 8),
        &[request(1, 12, 2), request(2, 12, 1), request(3, 2, 1)],
        &["12: 1 +1(0)", "1: 1.", "14: 2. 3. +2(0) +3(0)"],
    );
}

#[test]
fn places_bound_the_batch() {
    check(
        engine(100, 100, 2),
        &[request(1, 2, 2), request(2, 2, 1), request(3, 2, 1)],
        &["4: 1 2. +1(0) +2(0)", "3: 1. 3. +3(0)"],
    );
}

#[test]
fn when_blocks_run_out_the_youngest_goes_back_and_computes_everything_again() {
    check(
        engine(5, 100, 8),
        &[request(1, 4, 8), request(2, 8, 4)],
        &["12: 1 2 +1(0) +2(0)", "2: 1 2", "2: 1 2", "2: 1 2.", "1: 1", "1: 1", "1: 1", "1: 1."],
    );
    check(
        engine(4, 100, 8),
        &[request(1, 4, 8), request(2, 8, 4)],
        &[
            "12: 1 2 +1(0) +2(0)",
            "1: 1 -2",
            "1: 1",
            "1: 1",
            "1: 1",
            "1: 1",
            "1: 1",
            "1: 1.",
            "5: 2 +2(4)",
            "1: 2",
            "1: 2.",
        ],
    );
}

#[test]
fn a_prompt_seen_before_is_cached_but_for_one_token() {
    let mut engine = engine(100, 100, 8);
    for id in 1..=2 {
        engine.submit(Moment::START, shared_request(id, 16, 1, 4)).expect("accepted");
        history(&mut engine);
    }
    let mut longer = shared_request(3, 18, 1, 4);
    longer.id = 3;
    engine.submit(Moment::START, longer).expect("accepted");
    assert_eq!(history(&mut engine), ["2: 3. +3(16)"]);
    assert_eq!(
        engine.totals().prefix_hits,
        12 + 16,
        "the second computes its last block, the third two tokens"
    );
}

#[test]
fn looking_into_the_cache_says_what_admission_will_find_and_changes_nothing() {
    let mut engine = engine(16, 64, 4);
    let (known, longer) = (shared_request(1, 16, 1, 4), shared_request(2, 22, 1, 4));
    assert_eq!(engine.cached_tokens(16, &known.block_hashes), 0);
    engine.submit(Moment::START, known.clone()).unwrap();
    history(&mut engine);
    assert_eq!(engine.cached_tokens(16, &known.block_hashes), 12, "one token is always computed");
    assert_eq!(engine.cached_tokens(22, &longer.block_hashes), 16);
    assert_eq!(engine.cached_tokens(22, &longer.block_hashes), 16);
    engine.submit(Moment::from_millis(100), longer).unwrap();
    assert_eq!(history(&mut engine), ["6: 2. +2(16)"]);
}

#[test]
fn requests_that_start_in_the_same_step_share_their_prefix() {
    check(
        engine(100, 100, 8),
        &[shared_request(1, 10, 1, 2), shared_request(2, 10, 1, 2)],
        &["12: 1. 2. +1(0) +2(8)"],
    );
}

#[test]
fn blocks_of_running_requests_survive_a_flood_of_others() {
    let mut engine = engine(12, 100, 8);
    engine.submit(Moment::START, shared_request(1, 16, 17, 4)).expect("accepted");
    let mut step = Step::default();
    engine.step(Moment::START, &mut step);
    for id in 10..20 {
        engine.submit(step.until, request(id, 12, 1)).expect("accepted");
        engine.step(step.until, &mut step);
    }
    engine.submit(step.until, shared_request(2, 17, 1, 4)).expect("accepted");
    engine.step(step.until, &mut step);
    assert_eq!(step.admitted, [Admission { id: 2, cached_tokens: 16, again: false }]);
}

#[test]
fn a_full_queue_refuses_but_only_what_would_have_to_wait() {
    let limits = Limits { sequences_max: 2, queued_max: Some(1), block_tokens: 4, batched_tokens_max: 100 };
    let mut engine = Engine::new(round_numbers(100), limits, Pace::default(), 1).expect("usable");
    for id in 1..=3 {
        engine.submit(Moment::START, request(id, 2, 5)).expect("two places and one in the queue");
    }
    let refused = engine.submit(Moment::START, request(4, 2, 5));
    assert_eq!(refused, Err(Refused::QueueFull { waiting: 3, queued_max: 1 }));
    engine.step(Moment::START, &mut Step::default());
    assert!(engine.submit(Moment::from_nanos(1), request(4, 2, 5)).is_err(), "the places are taken now");
    engine.abort(Moment::from_nanos(1), 3);
    assert!(engine.submit(Moment::from_nanos(1), request(4, 2, 5)).is_ok());
}

#[test]
fn what_could_never_finish_is_refused_at_once() {
    let mut engine = engine(4, 100, 8);
    let at = Moment::START;
    assert_eq!(engine.submit(at, request(1, 10, 7)), Err(Refused::TooLong { tokens: 17, kv_tokens: 16 }));
    assert!(engine.submit(at, request(1, 10, 6)).is_ok());
    assert_eq!(engine.submit(at, request(1, 1, 1)), Err(Refused::DuplicateId(1)));
    assert_eq!(engine.submit(at, request(2, 0, 1)), Err(Refused::Empty));
    assert_eq!(engine.submit(at, request(2, 1, 0)), Err(Refused::Empty));
}

#[test]
fn an_abort_gives_the_place_back_at_the_end_of_the_step_under_way() {
    let mut engine = engine(100, 100, 1);
    engine.submit(Moment::START, request(1, 8, 50)).expect("accepted");
    engine.submit(Moment::START, request(2, 8, 1)).expect("accepted");
    let mut step = Step::default();
    engine.step(Moment::START, &mut step);
    let until = step.until;
    let aborted = engine.abort(Moment::from_nanos(7), 1).expect("it runs");
    assert_eq!((aborted.phase, aborted.free_at, aborted.wasted_steps), (Phase::Decode, until, 1));
    assert_eq!((aborted.output_tokens, aborted.saved_output_tokens), (1, 49));
    assert_eq!(engine.gauges().running, 1, "the step cannot be stopped");
    assert_eq!(engine.abort(Moment::from_nanos(8), 1), None);
    engine.step(until, &mut step);
    assert_eq!(step.finished().collect::<Vec<_>>(), [2]);
    assert_eq!(step.start, until);
}

#[test]
fn an_abort_in_the_queue_frees_at_once_and_spares_the_whole_prompt() {
    let mut engine = engine(100, 100, 1);
    engine.submit(Moment::START, request(1, 8, 5)).expect("accepted");
    engine.submit(Moment::START, request(2, 9, 6)).expect("accepted");
    engine.step(Moment::START, &mut Step::default());
    let aborted = engine.abort(Moment::from_nanos(3), 2).expect("it waits");
    assert_eq!((aborted.phase, aborted.free_at), (Phase::Waiting, Moment::from_nanos(3)));
    assert_eq!((aborted.saved_prompt_tokens, aborted.saved_output_tokens, aborted.wasted_steps), (9, 6, 0));
}

#[test]
fn an_abort_in_the_middle_of_a_prompt_spares_the_rest_of_it() {
    let mut engine = engine(100, 10, 4);
    engine.submit(Moment::START, request(1, 25, 5)).expect("accepted");
    let mut step = Step::default();
    engine.step(Moment::START, &mut step);
    let aborted = engine.abort(step.until, 1).expect("it runs");
    assert_eq!((aborted.phase, aborted.free_at), (Phase::Prefill, step.until));
    assert_eq!((aborted.saved_prompt_tokens, aborted.wasted_steps), (15, 0), "no step was under way");
    assert_eq!(engine.next_step_at(), None);
}

#[test]
fn tokens_leave_after_the_front_end_one_after_the_other() {
    let profile = Profile { front_end_ms: 5.0, front_end_token_us: 46.0, ..round_numbers(100) };
    let limits = Limits { block_tokens: 4, ..Limits::default() };
    let mut engine = Engine::new(profile, limits, Pace::default(), 1).expect("usable");
    for id in 1..=2 {
        let accepted = engine.submit(Moment::START, request(id, 10, 1)).expect("accepted");
        assert_eq!(accepted.ready, Moment::from_millis(5));
    }
    assert_eq!(engine.next_step_at(), Some(Moment::from_millis(5)));
    let mut step = Step::default();
    engine.step(Moment::from_millis(5), &mut step);
    assert_eq!(step.until.nanos(), 6_020_000);
    assert_eq!(step.tokens.iter().map(|t| t.at.nanos()).collect::<Vec<_>>(), [6_066_000, 6_112_000]);
}

#[test]
fn speed_divides_every_duration_and_noise_is_the_same_for_the_same_seed() {
    let run = |pace: Pace, seed: u64| {
        let mut engine = Engine::new(PROFILES[0], Limits::default(), pace, seed).expect("usable");
        engine.submit(Moment::START, request(1, 100, 50)).expect("accepted");
        let mut end = Moment::START;
        engine.advance(Moment::from_millis(60_000), &mut Step::default(), |step| end = end.max(step.until));
        end.nanos() as f64
    };
    let (plain, fast) = (Pace::default(), Pace { speed: 10.0, noise_sigma: 0.0 });
    assert!((run(plain, 1) / run(fast, 1) - 10.0).abs() < 1e-3);
    let noisy = Pace { speed: 1.0, noise_sigma: 0.05 };
    assert_eq!(run(noisy, 1), run(noisy, 1));
    assert_ne!(run(noisy, 1), run(noisy, 2));
    assert!((run(noisy, 1) / run(plain, 1) - 1.0).abs() < 0.05);
}

#[test]
fn a_held_engine_starts_nothing_but_still_frees_places() {
    let mut engine = engine(100, 100, 4);
    engine.submit(Moment::START, request(1, 4, 9)).expect("accepted");
    let mut step = Step::default();
    engine.step(Moment::START, &mut step);
    engine.hold(Moment::from_millis(50));
    assert_eq!(engine.next_step_at(), Some(Moment::from_millis(50)));
    engine.abort(Moment::from_nanos(5), 1);
    assert_eq!(engine.next_step_at(), Some(step.until));
    engine.step(step.until, &mut step);
    assert_eq!((step.is_empty(), engine.gauges().running), (true, 0));
}

#[test]
fn a_restart_forgets_everything() {
    let mut engine = engine(100, 100, 1);
    for id in 1..=2 {
        engine.submit(Moment::START, shared_request(id, 16, 9, 4)).expect("accepted");
    }
    engine.step(Moment::START, &mut Step::default());
    engine.restart(Moment::from_millis(1));
    assert_eq!(engine.gauges(), Gauges { blocks_total: 100, ..Gauges::default() });
    assert_eq!((engine.totals().dropped, engine.next_step_at()), (2, None));
    engine.submit(Moment::from_millis(1), shared_request(1, 16, 1, 4)).expect("accepted");
    assert_eq!(history(&mut engine), ["16: 1. +1(0)"]);
}

#[test]
fn limits_of_nothing_are_refused_by_name() {
    let none = Limits { sequences_max: 0, ..Limits::default() };
    let refused = |limits, pace| Engine::new(PROFILES[0], limits, pace, 0).map(|_| ()).expect_err("unusable");
    assert_eq!(refused(none, Pace::default()).to_string(), "the number of sequences must be at least 1");
    let still = Pace { speed: 0.0, noise_sigma: 0.0 };
    assert_eq!(refused(Limits::default(), still), Unusable::Speed(0.0));
    let huge = Limits { block_tokens: 1_000_000, ..Limits::default() };
    assert_eq!(
        refused(huge, Pace::default()),
        Unusable::NoBlocks { kv_tokens: 410_000, block_tokens: 1_000_000 }
    );
}

/// What happens to an engine in a random run.
#[derive(Clone, Debug)]
enum Happening {
    Submit { prompt: u32, output: u32, shared: u32 },
    Abort { nth: u64 },
    Pass { nanos: u64 },
}

fn happenings() -> impl Strategy<Value = Vec<Happening>> {
    let one = prop_oneof![
        3 => (1..40u32, 1..20u32, 0..6u32)
            .prop_map(|(prompt, output, shared)| Happening::Submit { prompt, output, shared }),
        1 => (0..60u64).prop_map(|nth| Happening::Abort { nth }),
        3 => (0..6_000_000u64).prop_map(|nanos| Happening::Pass { nanos }),
    ];
    proptest::collection::vec(one, 1..120)
}

proptest! {
    /// Blocks held never exceed what there is, every request ends in exactly one way, tokens of a sequence come in
    /// order without gaps, and at the end nothing is held.
    #[test]
    fn kv_is_never_exceeded_and_requests_are_conserved(
        happenings in happenings(), blocks in 5..40u32, budget in 1..64u32, places in 1..9u32,
    ) {
        let mut engine = engine(blocks, budget, places);
        let mut run = Run::default();
        for happening in &happenings {
            run.apply(&mut engine, happening)?;
        }
        run.now = run.now.plus(u64::MAX / 2);
        run.pass(&mut engine)?;
        let (gauges, totals) = (engine.gauges(), engine.totals());
        prop_assert_eq!((gauges.running, gauges.waiting, gauges.blocks_pinned), (0, 0, 0));
        prop_assert_eq!(totals.accepted, totals.finished + totals.aborted);
        prop_assert_eq!(totals.finished, run.ended.len() as u64 - run.ended_after_abort);
        prop_assert!(totals.prefix_hits <= totals.prefix_queries);
    }
}

#[derive(Default)]
struct Run {
    now: Moment,
    submitted: u64,
    next_index: std::collections::BTreeMap<SequenceId, u32>,
    ended: std::collections::BTreeSet<SequenceId>,
    ended_after_abort: u64,
    step: Step,
}

impl Run {
    fn apply(&mut self, engine: &mut Engine, happening: &Happening) -> Result<(), TestCaseError> {
        match *happening {
            Happening::Submit { prompt, output, shared } => {
                self.pass(engine)?;
                // A refusal is fine: too long for this cache.
                let _refused =
                    engine.submit(self.now, shared_request(self.submitted, prompt, output, shared));
                self.submitted += 1;
            }
            Happening::Abort { nth } => {
                self.pass(engine)?;
                if let Some(aborted) = engine.abort(self.now, nth) {
                    prop_assert!(aborted.free_at >= self.now);
                    self.ended_after_abort += u64::from(self.ended.contains(&nth));
                }
            }
            Happening::Pass { nanos } => self.now = self.now.plus(nanos),
        }
        Ok(())
    }

    fn pass(&mut self, engine: &mut Engine) -> Result<(), TestCaseError> {
        while let Some(at) = engine.next_step_at().filter(|at| *at <= self.now) {
            engine.step(at, &mut self.step);
            let gauges = engine.gauges();
            prop_assert!(gauges.blocks_pinned + gauges.blocks_idle <= gauges.blocks_total);
            prop_assert!(gauges.running <= engine.limits().sequences_max);
            prop_assert!(self.step.batch.tokens <= engine.limits().batched_tokens_max);
            for token in &self.step.tokens {
                let expected = self.next_index.entry(token.id).or_default();
                prop_assert_eq!(token.index, *expected);
                prop_assert!(token.at >= self.step.until);
                *expected += 1;
                if token.last {
                    prop_assert!(self.ended.insert(token.id));
                }
            }
        }
        Ok(())
    }
}
