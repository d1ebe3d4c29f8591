//! Faults that an operator orders.

use hyper::StatusCode;
use serde_json::{Value, json};

use crate::caller::{Caller, chat_body, events, first_token};

#[tokio::test]
async fn a_reset_breaks_the_stream_off_after_so_many_tokens_and_only_as_often_as_ordered() {
    let caller = Caller::of("--speed 100").await;
    let (_, report) = caller.post("/admin/faults", json!({"reset_after_tokens": 5, "count": 1})).await;
    assert_eq!((&report["reset_after_tokens"], &report["count_left"]), (&json!(5), &json!(1)));
    let more = json!({"stream": true, "max_tokens": 20, "ignore_eos": true});
    let broken = events(caller.chat("hi", more.clone()).await).await;
    assert_eq!(broken.len(), 1 + 5 + 1, "{broken:#?}");
    assert_eq!(broken[6], "torn");
    let whole = events(caller.chat("hi", more).await).await;
    assert_eq!(whole.len(), 1 + 20 + 1);
    assert_eq!(whole[..6], broken[..6].iter().map(|e| renamed(e, &whole[0])).collect::<Vec<_>>());
    let stats = caller.stats_when(|stats| stats["running"] == 0).await;
    assert_eq!((&stats["torn_responses"], &stats["aborted_requests"]), (&json!(1), &json!(0)));
}

/// `event` with the creation time of `like`, which may be a second later.
fn renamed(event: &str, like: &str) -> String {
    let created = |event: &str| {
        event.split("\"created\":").nth(1).and_then(|rest| rest.split(',').next().map(str::to_owned))
    };
    event.replace(&created(event).expect("a time"), &created(like).expect("a time"))
}

#[tokio::test]
async fn a_reset_before_the_first_token_breaks_answers_of_both_kinds() {
    let caller = Caller::of("--speed 100").await;
    caller.post("/admin/faults", json!({"reset_after_tokens": 0})).await;
    let stream = events(caller.chat("hi", json!({"stream": true})).await).await;
    assert_eq!(stream, ["torn"]);
    let whole = caller.try_send("/v1/chat/completions", chat_body("hi", json!({})).to_string()).await;
    assert!(whole.is_err(), "the connection closes without an answer");
    caller.post("/admin/faults", json!({"clear": true})).await;
    caller.whole_chat("hi", json!({"max_tokens": 1})).await;
}

#[tokio::test]
async fn unavailable_answers_503_with_retry_after_while_the_pages_still_work() {
    let caller = Caller::of("--speed 100").await;
    caller.post("/admin/faults", json!({"unavailable_ms": 60_000, "retry_after": 7})).await;
    let refused = caller.chat("hi", json!({})).await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.headers()["retry-after"], "7");
    assert_eq!(caller.send("/health", "").await.status(), StatusCode::OK);
    caller.post("/admin/faults", json!({"clear": true})).await;
    caller.whole_chat("hi", json!({"max_tokens": 1})).await;
    assert_eq!(caller.get("/admin/stats").await["unavailable_requests"], 1);
}

#[tokio::test]
async fn an_engine_that_loads_its_model_says_so_to_requests_and_to_whoever_asks_for_its_health() {
    let caller = Caller::of("--speed 100").await;
    let (_, report) = caller.post("/admin/faults", json!({"loading_ms": 60_000})).await;
    assert!(report["loading_ms_left"].as_u64() > Some(0), "{report}");
    for path in ["/health", "/ping"] {
        assert_eq!(caller.send(path, "").await.status(), StatusCode::SERVICE_UNAVAILABLE, "{path}");
    }
    let (status, refused) = caller.post("/v1/chat/completions", chat_body("hi", json!({}))).await;
    assert_eq!(
        (status, &refused["error"]["message"]),
        (StatusCode::SERVICE_UNAVAILABLE, &json!("the model is being loaded"))
    );
    caller.post("/admin/faults", json!({"clear": true})).await;
    assert_eq!(caller.send("/health", "").await.status(), StatusCode::OK);
    caller.whole_chat("hi", json!({"max_tokens": 1})).await;
    assert_eq!(caller.get("/admin/stats").await["unavailable_requests"], 1);
}

#[tokio::test]
async fn slowness_stretches_the_engines_own_account_of_time() {
    let caller = Caller::of("--speed 100 --noise 0").await;
    let busy = async |caller: &Caller| {
        let page = caller.get("/metrics").await;
        let page = page.as_str().expect("text").to_owned();
        let line = page.lines().find(|line| line.starts_with("penstock_engine_busy_seconds_total{"));
        line.and_then(|line| line.split(' ').next_back()?.parse::<f64>().ok()).expect("a number")
    };
    let more = json!({"max_tokens": 20, "ignore_eos": true, "cache_salt": "1"});
    caller.whole_chat("hi", more.clone()).await;
    let normal = busy(&caller).await;
    caller.post("/admin/faults", json!({"slow_factor": 3.0})).await;
    caller.whole_chat("hi", more).await;
    let slow = busy(&caller).await - normal;
    assert!((slow / normal - 3.0).abs() < 0.01, "{slow} s against {normal} s");
}

#[tokio::test]
async fn a_stall_holds_everything_until_it_is_cleared_and_callers_may_still_leave() {
    let caller = Caller::of("--speed 100").await;
    let long = json!({"stream": true, "max_tokens": 100_000, "ignore_eos": true});
    let stream = first_token(caller.chat("hi", long).await).await;
    caller.post("/admin/faults", json!({"stall_ms": 3_600_000})).await;
    drop(stream);
    let stats = caller.stats_when(|stats| stats["running"] == 0).await;
    assert_eq!(stats["aborted_requests"], 1);
    let waiting = caller.chat("hi", json!({"stream": true, "max_tokens": 1})).await;
    assert_eq!(caller.get("/admin/stats").await["waiting"], 1);
    caller.post("/admin/faults", json!({"clear": true})).await;
    assert_eq!(events(waiting).await.len(), 3);
}

#[tokio::test]
async fn a_cold_restart_breaks_off_what_runs_and_empties_the_cache() {
    let caller = Caller::of("--speed 1").await;
    let words = "water ".repeat(100);
    let long = json!({"stream": true, "max_tokens": 100_000, "ignore_eos": true});
    let stream = caller.chat(&words, long).await;
    caller.stats_when(|stats| stats["generation_tokens"].as_u64().is_some_and(|tokens| tokens > 0)).await;
    caller.post("/admin/faults", json!({"cold_restart": true})).await;
    let told = events(stream).await;
    assert_eq!(told[told.len() - 1], "torn");
    let answer = caller.whole_chat(&words, json!({"max_tokens": 1})).await;
    assert_eq!(answer["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
}

#[tokio::test]
async fn an_order_that_cannot_be_read_changes_nothing_and_names_the_field() {
    let caller = Caller::of("").await;
    let before = caller.get("/admin/faults").await;
    let orders: [(Value, &str); 3] = [
        (json!({"slow_factor": 2.0, "stal_ms": 1}), "`stal_ms`"),
        (json!({"unavailable_ms": 5, "slow_factor": -1.0}), "slow_factor"),
        (json!({"unavailable_ms": 5, "count": 1}), "count"),
    ];
    for (order, name) in orders {
        let (status, body) = caller.post("/admin/faults", order).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(body["error"]["message"].as_str().is_some_and(|text| text.contains(name)), "{body}");
    }
    assert_eq!(caller.get("/admin/faults").await, before);
}
