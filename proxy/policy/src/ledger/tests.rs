use std::time::Duration;

use super::*;

const MS: u64 = 1_000_000;

fn size(tokens: u32) -> Size {
    Size { tokens, cached_tokens: 0 }
}

fn at(ms: u64) -> Moment {
    Moment(ms * MS)
}

fn counts(ledger: &mut Ledger, now: Moment) -> (f64, u32, u32) {
    let report = ledger.report(now);
    (report.prompt_tokens_pending.round(), report.sequences_waiting, report.sequences_running)
}

#[test]
fn a_prompt_is_pending_until_its_first_token_and_a_sequence_until_its_end() {
    let mut ledger = Ledger::starting(Speed::default());
    let one = ledger.enter(size(1_000), Shape::Stream, None, at(0));
    assert_eq!(counts(&mut ledger, at(0)), (1_000.0, 1, 0));
    assert!(ledger.tokens(&one, 1, at(70)), "it is the first");
    assert!(!ledger.tokens(&one, 0, at(70)), "and no other is");
    assert_eq!(counts(&mut ledger, at(70)), (0.0, 0, 1));
    assert_eq!(ledger.report(at(70)).kv_tokens_used, 1_001);
    ledger.leave(one, Told { size: None, output_tokens: 40 }, at(90));
    assert_eq!(counts(&mut ledger, at(90)), (0.0, 0, 0));
    assert_eq!((ledger.requests(), ledger.report(at(90)).output_tokens_mean), (0, 40.0));
}

#[test]
fn who_leaves_before_the_first_token_takes_the_prompt_along() {
    let mut ledger = Ledger::starting(Speed::default());
    let one = ledger.enter(size(50_000), Shape::Stream, None, at(0));
    let two = ledger.enter(size(700), Shape::Stream, None, at(1));
    ledger.leave(one, Told::default(), at(2));
    let (pending, waiting, running) = counts(&mut ledger, at(2));
    assert!(pending <= 700.0 && (waiting, running) == (1, 0), "{pending} {waiting} {running}");
    ledger.leave(two, Told::default(), at(3));
    assert_eq!(counts(&mut ledger, at(3)), (0.0, 0, 0));
}

#[test]
fn an_answer_in_one_piece_generates_from_when_its_first_token_is_due() {
    let mut ledger = Ledger::starting(Speed::default());
    let due =
        Speed::default().first_token_ms(&crate::speed::Load::default(), crate::speed::Work::of(1_000, 0));
    let one = ledger.enter(size(1_000), Shape::Whole, None, at(0));
    assert_eq!(counts(&mut ledger, at(0)), (1_000.0, 1, 0));
    ledger.tokens(&one, 40, at(1)); // a piece of JSON is no token
    let after = at(due.ceil() as u64 + 1);
    assert_eq!(counts(&mut ledger, after), (0.0, 0, 1));
    ledger.leave(one, Told { size: Some(size(1_100)), output_tokens: 20 }, at(900));
    assert_eq!(counts(&mut ledger, at(900)), (0.0, 0, 0));
    assert_eq!(ledger.report(at(900)).kv_tokens_used, 0);
}

#[test]
fn a_first_token_that_is_overdue_with_nothing_to_compute_says_that_there_is_no_room() {
    let mut ledger = Ledger::starting(Speed::default());
    let one = ledger.enter(size(1_000), Shape::Stream, None, at(0));
    assert_eq!(ledger.report(at(20)).longest_waiting_ms, 0.0);
    let late_ms = ledger.report(at(100)).longest_waiting_ms;
    assert_eq!(late_ms, 0.0, "it was expected before that, and is no more than some steps late");
    let waited_ms = ledger.report(at(2_000)).longest_waiting_ms;
    assert!((waited_ms - 2_000.0).abs() < 1e-6, "{waited_ms}");
    ledger.tokens(&one, 1, at(2_001));
    assert_eq!(ledger.report(at(2_002)).longest_waiting_ms, 0.0);
    ledger.leave(one, Told::default(), at(2_003));
}

#[test]
fn who_waits_for_a_place_is_seen_while_others_still_come_and_an_engine_that_stands_still_is_not_full() {
    let mut ledger = Ledger::starting(Speed::default());
    let first = ledger.enter(size(10), Shape::Stream, None, at(0));
    assert!(ledger.tokens(&first, 1, at(30)));
    let mut later: Vec<_> =
        (4..=30).map(|number| ledger.enter(size(10), Shape::Stream, None, at(10 * number))).collect();
    let report = ledger.report(at(300));
    assert!(report.prompt_tokens_pending > 0.0, "the last one has just come: {report:?}");
    assert_eq!(report.longest_waiting_ms, 0.0, "nothing has come of anybody");
    ledger.tokens(&first, 1, at(290));
    let blocked_ms = ledger.report(at(300)).longest_waiting_ms;
    assert!((blocked_ms - 260.0).abs() < 1e-6, "{blocked_ms}");
    later.push(first);
    later.into_iter().for_each(|entry| ledger.leave(entry, Told::default(), at(301)));
}

#[test]
fn arriving_work_is_a_share_of_the_time_and_fades() {
    let mut ledger = Ledger::starting(Speed::default());
    let prompt_ms = ledger.speed().prompt_ms(1_000.0, 1e6);
    // One prompt every `2 · prompt_ms` for a long time: half of the time.
    let mut now_ms = 0.0;
    for _ in 0..2_000 {
        now_ms += 2.0 * prompt_ms;
        let entry = ledger.enter(size(1_000), Shape::Whole, None, at(now_ms as u64));
        ledger.leave(entry, Told::default(), at(now_ms as u64));
    }
    let arriving = ledger.report(at(now_ms as u64)).arriving;
    assert!((arriving - 0.5).abs() < 0.02, "{arriving}");
    assert!(ledger.report(at(now_ms as u64 + 30_000)).arriving < 0.03);
}

#[test]
fn an_engine_that_only_gives_whole_answers_is_still_known_to_be_slow() {
    let mut ledger = Ledger::starting(Speed::default());
    let before_ms = ledger.speed().prompt_ms(1_000.0, 1e6);
    let mut now_ms = 0;
    for _ in 0..40 {
        let entry = ledger.enter(size(1_000), Shape::Whole, None, at(now_ms));
        // Three times what is expected at first: about 60 ms and 100 steps of 12 ms.
        now_ms += 3 * (60 + 100 * 12);
        ledger.leave(entry, Told { size: Some(size(1_000)), output_tokens: 100 }, at(now_ms));
        now_ms += 10;
    }
    let ratio = ledger.speed().prompt_ms(1_000.0, 1e6) / before_ms;
    assert!((2.4..3.6).contains(&ratio), "{ratio}");
}

#[test]
fn estimates_are_corrected_by_what_the_engine_counts() {
    let mut ledger = Ledger::starting(Speed::default());
    for at_s in 0..50 {
        let entry = ledger.enter(size(1_000), Shape::Whole, None, at(at_s * 1_000));
        ledger.leave(entry, Told { size: Some(size(1_250)), output_tokens: 1 }, at(at_s * 1_000 + 500));
    }
    let scaled = ledger.scaled(Size { tokens: 2_000, cached_tokens: 400 });
    assert!(scaled.tokens.abs_diff(2_500) < 25 && scaled.cached_tokens.abs_diff(500) < 5, "{scaled:?}");
    let pending = ledger.report(at(100_000)).prompt_tokens_pending;
    assert_eq!(pending, 0.0);
}

#[test]
fn how_the_answer_comes_counts_and_not_what_was_thought() {
    let mut ledger = Ledger::starting(Speed::default());
    let stream = ledger.enter(size(1_000), Shape::Whole, None, at(0));
    ledger.answered(&stream, Shape::Stream, at(10));
    assert_eq!(counts(&mut ledger, at(900)).1, 1, "its first token has not come, however long it takes");
    ledger.tokens(&stream, 1, at(901));
    assert_eq!(counts(&mut ledger, at(901)), (0.0, 0, 1));

    let whole = ledger.enter(size(1_000), Shape::Stream, None, at(902));
    ledger.answered(&whole, Shape::Whole, at(903));
    assert_eq!(counts(&mut ledger, at(903)).2, 2, "all of it comes at once, so its prompt is computed");
    ledger.leave(whole, Told::default(), at(904));
    ledger.leave(stream, Told::default(), at(905));
    assert_eq!((counts(&mut ledger, at(906)), ledger.report(at(906)).kv_tokens_used), ((0.0, 0, 0), 0));
}

#[test]
fn what_was_promised_to_those_who_are_there_bounds_who_comes() {
    let mut ledger = Ledger::starting(Speed::default());
    assert_eq!(ledger.report(at(0)).bearable_ms, None, "nobody was promised anything");
    let promise = Promise { first_due: at(500), span: Duration::from_millis(50) };
    let one = ledger.enter(size(1_000), Shape::Stream, Some(promise), at(0));
    let first = ledger.report(at(0)).bearable_ms.unwrap();
    assert!(first > 100.0 && first < 500.0, "{first}");
    ledger.tokens(&one, 1, at(70));
    let second = ledger.report(at(70)).bearable_ms.unwrap();
    assert!((350.0..480.0).contains(&second), "the next token is due at 550: {second}");
    ledger.leave(one, Told::default(), at(90));
    assert_eq!(ledger.report(at(90)).bearable_ms, None);
}

#[test]
fn an_answer_in_one_piece_is_promised_nothing_more_once_its_prompt_should_be_computed() {
    let promise = Promise { first_due: at(500), span: Duration::from_millis(50) };
    let mut ledger = Ledger::starting(Speed::default());
    let expected = ledger.enter(size(1_000), Shape::Whole, Some(promise), at(0));
    assert!(ledger.report(at(10)).bearable_ms.is_some());
    assert_eq!(ledger.report(at(450)).bearable_ms, None, "nobody sees its tokens, so none can be late");
    let seen = ledger.enter(size(1_000), Shape::Stream, Some(promise), at(451));
    ledger.answered(&seen, Shape::Whole, at(460));
    assert_eq!(ledger.report(at(461)).bearable_ms, None);
    ledger.leave(seen, Told::default(), at(470));
    ledger.leave(expected, Told::default(), at(471));
}

#[test]
fn an_estimate_of_something_else_teaches_nothing_of_others() {
    let mut ledger = Ledger::starting(Speed::default());
    // A picture of ten bytes of text, and a size that was never true.
    for (estimated, told) in [(10, 100_000), (u32::MAX, 10), (1_000, 0)] {
        let entry = ledger.enter(size(estimated), Shape::Whole, None, at(0));
        ledger.leave(entry, Told { size: Some(size(told)), output_tokens: 1 }, at(1));
    }
    assert_eq!(ledger.scaled(size(1_000)), size(1_000));
}

#[test]
fn one_size_that_is_not_true_does_not_make_an_engine_busy_for_longer_than_it_is_there() {
    let mut ledger = Ledger::starting(Speed::default());
    let entry = ledger.enter(size(u32::MAX), Shape::Stream, None, at(0));
    ledger.leave(entry, Told::default(), at(1));
    let report = ledger.report(at(2));
    assert!(report.arriving <= 1.0 && report.prompt_tokens_pending == 0.0, "{report:?}");
}

#[test]
fn the_first_answers_count_alike() {
    let mut ledger = Ledger::starting(Speed::default());
    for output_tokens in [1, 400, 400, 400] {
        let entry = ledger.enter(size(10), Shape::Whole, None, at(0));
        ledger.leave(entry, Told { size: None, output_tokens }, at(1));
    }
    let mean = ledger.report(at(2)).output_tokens_mean;
    assert!((mean - 300.25).abs() < 1e-6, "{mean}");
}
