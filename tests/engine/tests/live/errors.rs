//! What is refused, and in which words.

use hyper::StatusCode;
use serde_json::{Value, json};

use crate::caller::{Caller, chat_body, first_token, read};

const CHAT: &str = "/v1/chat/completions";

#[track_caller]
fn check(answer: &(StatusCode, Value), status: u16, kind: &str, message: &str) {
    let (found, body) = answer;
    let error = &body["error"];
    assert_eq!(
        (found.as_u16(), &error["code"], &error["type"]),
        (status, &json!(status), &json!(kind)),
        "{body}"
    );
    assert!(error["message"].as_str().is_some_and(|text| text.contains(message)), "{body}");
    assert!(error.get("param").is_some(), "all four keys are there: {body}");
}

#[tokio::test]
async fn bad_requests_are_refused_in_the_shape_that_clients_know() {
    let caller = Caller::of("--speed 1000 --model a --model b --max-model-len 100").await;
    let asks = [
        (CHAT, json!({"model": "c", "messages": []}), 404, "NotFoundError", "served: a, b"),
        (CHAT, json!({"model": "b", "messages": []}), 400, "BadRequestError", "at least one message"),
        (CHAT, json!({"model": "b"}), 400, "BadRequestError", "missing field `messages`"),
        (CHAT, json!({"messages": [{"role": "dog", "content": "x"}]}), 400, "BadRequestError", "\"dog\""),
        (CHAT, json!({"messages": 7}), 400, "BadRequestError", "line 1 column"),
        ("/v1/completions", json!({"prompt": ["a", "b"]}), 400, "BadRequestError", "only one prompt"),
        ("/v1/completions", json!({"prompt": ""}), 400, "BadRequestError", "must not be empty"),
        ("/v1/completions", json!({"prompt": "x", "n": 2}), 400, "BadRequestError", "n: "),
        ("/v1/embeddings", json!({"input": []}), 400, "BadRequestError", "input: "),
        ("/rerank", json!({"query": "x", "documents": []}), 400, "BadRequestError", "documents: "),
        ("/rerank", json!({"query": "", "documents": ["x"]}), 400, "BadRequestError", "query: "),
        ("/v2/models/b/infer", json!({"inputs": []}), 400, "BadRequestError", "inputs: "),
        ("/v2/models/c/infer", json!({"inputs": []}), 404, "NotFoundError", "served: a, b"),
        ("/v1/embeddings", json!({"input": "x", "dimensions": 0}), 400, "BadRequestError", "dimensions: "),
        ("/v1/nothing", json!({}), 404, "NotFoundError", "/v1/nothing"),
        ("/health", json!({}), 405, "MethodNotAllowedError", "POST"),
    ];
    for (path, body, status, kind, message) in asks {
        check(&caller.post(path, body).await, status, kind, message);
    }
    let words = "water ".repeat(100);
    let long = json!({"messages": [{"role": "user", "content": words}]});
    check(&caller.post(CHAT, long).await, 400, "BadRequestError", "together may have 100");
    let picture =
        json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]});
    check(&caller.post(CHAT, picture).await, 400, "BadRequestError", "image_url");
    check(&read(caller.send(CHAT, "{\"messages\": [").await).await, 400, "BadRequestError", "EOF");
}

#[tokio::test]
async fn a_full_queue_answers_503_and_takes_requests_again_later() {
    let caller = Caller::of("--max-num-seqs 1 --max-num-queued-reqs 1").await;
    let long = json!({"stream": true, "max_tokens": 100_000, "ignore_eos": true});
    let running = first_token(caller.chat("one", long.clone()).await).await;
    let waiting = caller.chat("two", long.clone()).await;
    let refused = caller.post(CHAT, chat_body("three", json!({}))).await;
    check(&refused, 503, "ServiceUnavailableError", "try another instance");
    drop((running, waiting));
    caller.stats_when(|stats| stats["running"] == 0 && stats["waiting"] == 0).await;
    caller.whole_chat("four", json!({"max_tokens": 1})).await;
    assert_eq!(caller.get("/admin/stats").await["refused_requests"], 1);
}

#[tokio::test]
async fn options_that_contradict_each_other_do_not_start() {
    for line in ["--speed 0", "--max-num-seqs 0", "--block-size 0", "--noise -1", "--block-size 1000000"] {
        let started = std::panic::AssertUnwindSafe(Caller::of(line));
        let started = futures::FutureExt::catch_unwind(started).await;
        assert!(started.is_err(), "{line}");
    }
}
