//! A caller that leaves frees its place, in whatever phase.

use futures::future::select;
use serde_json::{Value, json};

use crate::caller::{Caller, first_token};

/// Long enough to be still under way when the caller leaves.
fn long() -> Value {
    json!({"stream": true, "max_tokens": 100_000, "ignore_eos": true})
}

/// What the stats must say once the engine is idle again and one caller has left in `phase`.
async fn check(caller: &Caller, phase: &str) -> Value {
    let stats = caller.stats_when(|stats| stats["aborted_requests"] == 1 && stats["running"] == 0).await;
    let abort = stats["aborts"][0].clone();
    assert_eq!(abort["phase"], phase, "{stats:#}");
    assert_eq!(abort["request_id"], "req-7");
    assert_eq!(stats["kv_blocks_used"], 0);
    assert!(stats["last_slot_freed_unix_ms"].as_u64() >= abort["noticed_unix_ms"].as_u64(), "{stats:#}");
    abort
}

#[tokio::test]
async fn in_the_middle_of_a_stream() {
    for http2 in [false, true] {
        let caller = Caller::of("--noise 0").await;
        let caller = if http2 { caller.over_http2() } else { caller };
        let stream = first_token(caller.chat("hi", long()).await).await;
        drop(stream);
        let abort = check(&caller, "decode").await;
        assert!(abort["slot_free_ms"].as_f64().is_some_and(|ms| ms < 8.0), "at most a step: {abort}");
        assert!(abort["saved_tokens"].as_u64().is_some_and(|saved| saved > 90_000), "{abort}");
        let stats = caller.get("/admin/stats").await;
        assert!(stats["wasted_steps"].as_u64().is_some_and(|wasted| wasted <= 1), "{stats:#}");
    }
}

#[tokio::test]
async fn while_an_answer_that_is_not_streamed_is_being_computed() {
    for http2 in [false, true] {
        let caller = Caller::of("--noise 0").await;
        let caller = if http2 { caller.over_http2() } else { caller };
        let asked = Box::pin(caller.chat("hi", json!({"max_tokens": 100_000, "ignore_eos": true})));
        let running = Box::pin(caller.stats_when(|stats| {
            stats["running"] == 1 && stats["generation_tokens"].as_u64().is_some_and(|tokens| tokens > 0)
        }));
        drop(select(asked, running).await);
        check(&caller, "decode").await;
    }
}

#[tokio::test]
async fn while_its_prompt_is_being_computed() {
    let caller = Caller::of("--noise 0 --max-num-batched-tokens 64").await;
    let words = "water and gate ".repeat(2_000);
    let asked = Box::pin(caller.chat(&words, json!({"max_tokens": 5})));
    let running = Box::pin(caller.stats_when(|stats| stats["running"] == 1));
    drop(select(asked, running).await);
    let abort = check(&caller, "prefill").await;
    assert!(abort["saved_prompt_tokens"].as_u64().is_some_and(|saved| saved > 1_000), "{abort}");
    assert_eq!(abort["output_tokens"], 0);
}

#[tokio::test]
async fn while_it_waits_in_the_queue_and_the_next_in_line_moves_up() {
    let caller = Caller::of("--noise 0 --max-num-seqs 1").await;
    let first = first_token(caller.chat("one", long()).await).await;
    // Headers come when a request is accepted; its first token must wait.
    let second = caller.chat("two", long()).await;
    caller.stats_when(|stats| stats["waiting"] == 1).await;
    drop(second);
    let stats = caller.stats_when(|stats| stats["aborted_requests"] == 1).await;
    assert_eq!(stats["aborts"][0]["phase"], "waiting");
    assert_eq!(stats["aborts"][0]["slot_free_ms"], 0.0);
    let third = caller.chat("three", long()).await;
    drop(first);
    let third = first_token(third).await;
    assert_eq!(caller.get("/admin/stats").await["running"], 1);
    drop(third);
    caller.stats_when(|stats| stats["running"] == 0 && stats["aborted_requests"] == 3).await;
}

#[tokio::test]
async fn an_answer_read_to_its_end_is_no_abort() {
    let caller = Caller::of("--speed 1000").await;
    for _ in 0..5 {
        caller.whole_chat("hi", json!({"max_tokens": 5})).await;
    }
    let stats = caller.stats_when(|stats| stats["running"] == 0).await;
    assert_eq!((&stats["aborted_requests"], &stats["finished_requests"]), (&json!(0), &json!(5)));
    assert_eq!(stats["wasted_steps"], 0);
}
