//! The shape of answers.

use hyper::StatusCode;
use serde_json::{Value, json};

use crate::caller::{Caller, events, parsed, read};

fn texts(events: &[String], at: &str) -> String {
    let chunks = events.iter().filter(|event| event.starts_with('{')).map(|event| parsed(event));
    chunks.filter_map(|chunk| chunk.pointer(at).and_then(Value::as_str).map(str::to_owned)).collect()
}

#[tokio::test]
async fn a_chat_stream_is_role_then_one_event_a_token_then_usage_then_done() {
    let caller = Caller::of("--speed 100").await;
    let more = json!({"stream": true, "max_tokens": 7, "stream_options": {"include_usage": true}});
    let response = caller.chat("How are gates moved?", more).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream; charset=utf-8");
    assert_eq!(response.headers()["x-request-id"], "req-7");
    let events = events(response).await;
    assert_eq!(events.len(), 1 + 7 + 1 + 1, "{events:#?}");

    let role = parsed(&events[0]);
    assert_eq!(role["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    assert_eq!(role["object"], "chat.completion.chunk");
    for event in &events[1..8] {
        let chunk = parsed(event);
        assert!(chunk["choices"][0]["delta"]["content"].is_string(), "{chunk}");
        assert_eq!(chunk.get("usage"), Some(&Value::Null), "{chunk}");
        assert_eq!(chunk["id"], role["id"]);
    }
    assert_eq!(parsed(&events[6])["choices"][0]["finish_reason"], Value::Null);
    assert_eq!(parsed(&events[7])["choices"][0]["finish_reason"], "length");
    let last = parsed(&events[8]);
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["completion_tokens"], 7);
    assert_eq!(events[9], "[DONE]");
}

#[tokio::test]
async fn usage_is_absent_unless_asked_for_and_with_every_chunk_if_wished() {
    let caller = Caller::of("--speed 100").await;
    let plain = events(caller.chat("hi", json!({"stream": true, "max_tokens": 3})).await).await;
    assert!(plain.iter().all(|event| !event.contains("usage")), "{plain:#?}");
    let options = json!({"include_usage": true, "continuous_usage_stats": true});
    let each = json!({"stream": true, "max_tokens": 3, "stream_options": options});
    let each = events(caller.chat("hi", each).await).await;
    let counts: Vec<_> =
        each[..5].iter().map(|event| parsed(event)["usage"]["completion_tokens"].clone()).collect();
    assert_eq!(counts, [1, 1, 2, 3, 3], "{each:#?}");
}

#[tokio::test]
async fn the_stream_says_what_the_whole_answer_says_on_every_run() {
    let words = "Tell me of café and ½ of Zürich.";
    let caller = Caller::of("--speed 1000 --seed 5").await;
    let whole = caller.whole_chat(words, json!({})).await;
    let streamed = events(caller.chat(words, json!({"stream": true})).await).await;
    let text = whole["choices"][0]["message"]["content"].as_str().expect("text");
    assert_eq!(whole["choices"][0]["finish_reason"], "stop");
    assert_eq!(texts(&streamed, "/choices/0/delta/content"), text);

    let again = Caller::of("--speed 1000 --seed 5").await.whole_chat(words, json!({})).await;
    assert_eq!(again["choices"], whole["choices"]);
    let other = Caller::of("--speed 1000 --seed 6").await.whole_chat(words, json!({})).await;
    assert_ne!(other["choices"], whole["choices"]);
}

#[tokio::test]
async fn caps_are_obeyed_and_a_prompt_seen_before_is_cached() {
    let caller = Caller::of("--speed 1000").await;
    let words = "water ".repeat(100);
    let more = json!({"max_completion_tokens": 300, "max_tokens": 2, "ignore_eos": true});
    let first = caller.whole_chat(&words, more).await["usage"].clone();
    assert_eq!(first["completion_tokens"], 300);
    assert_eq!(first["prompt_tokens_details"]["cached_tokens"], 0);
    let second = caller.whole_chat(&words, json!({"max_tokens": 1})).await["usage"].clone();
    let (prompt, cached) = (&second["prompt_tokens"], &second["prompt_tokens_details"]["cached_tokens"]);
    let prompt_tokens = prompt.as_u64().expect("a number");
    assert_eq!(cached.as_u64(), Some((prompt_tokens - 1) / 16 * 16));
    assert_eq!(second["total_tokens"], prompt_tokens + 1);
    let salted = caller.whole_chat(&words, json!({"max_tokens": 1, "cache_salt": "s"})).await;
    assert_eq!(salted["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
}

#[tokio::test]
async fn a_demanded_tool_call_has_arguments_that_parse_whole_and_streamed() {
    let caller = Caller::of("--speed 1000").await;
    let parameters =
        json!({"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}});
    let tool = |name: &str| json!({"type": "function", "function": {"name": name, "parameters": parameters}});
    let named = json!({"type": "function", "function": {"name": "forecast"}});
    let more = |stream: bool| json!({"tools": [tool("now"), tool("forecast")], "tool_choice": named, "stream": stream});
    let whole = caller.whole_chat("Rain?", more(false)).await;
    let choice = &whole["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    let function = &choice["message"]["tool_calls"][0]["function"];
    assert_eq!(function["name"], "forecast");
    let arguments = function["arguments"].as_str().expect("text");
    let parsed_arguments = parsed(arguments);
    assert!(parsed_arguments["city"].is_string() && parsed_arguments["days"].is_i64(), "{arguments}");

    let streamed = events(caller.chat("Rain?", more(true)).await).await;
    assert_eq!(parsed(&streamed[0])["choices"][0]["delta"]["content"], "");
    assert_eq!(texts(&streamed, "/choices/0/delta/tool_calls/0/function/name"), "forecast");
    assert_eq!(texts(&streamed, "/choices/0/delta/tool_calls/0/function/arguments"), arguments);
    assert_eq!(texts(&streamed, "/choices/0/finish_reason"), "tool_calls");

    let free = caller.whole_chat("Rain?", json!({"tools": [tool("now")], "tool_choice": "auto"})).await;
    assert_eq!(free["choices"][0]["finish_reason"], "stop");
}

#[tokio::test]
async fn completions_take_text_or_tokens() {
    let caller = Caller::of("--speed 1000").await;
    let (_, text) = caller.post("/v1/completions", json!({"prompt": "The gate", "max_tokens": 9})).await;
    let tokens = caller.post("/tokenize", json!({"prompt": "The gate"})).await.1["tokens"].clone();
    let body = json!({"prompt": tokens, "max_tokens": 9, "stream": true});
    let streamed = events(caller.send("/v1/completions", body.to_string()).await).await;
    assert_eq!(text["object"], "text_completion");
    assert_eq!(texts(&streamed, "/choices/0/text"), text["choices"][0]["text"].as_str().expect("text"));
    assert_eq!(streamed.len(), 9 + 1, "no role, no usage: {streamed:#?}");
}

#[tokio::test]
async fn embeddings_come_as_numbers_or_as_base64() {
    let caller = Caller::of("--speed 1000").await;
    let body = |format: &str| json!({"input": ["one", "two"], "dimensions": 8, "encoding_format": format});
    let (status, floats) = caller.post("/v1/embeddings", body("float")).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(floats["data"].as_array().map(Vec::len), Some(2));
    assert_eq!(floats["data"][1]["embedding"].as_array().map(Vec::len), Some(8));
    let (_, text) = caller.post("/v1/embeddings", body("base64")).await;
    assert_eq!(text["data"][0]["embedding"].as_str().map(str::len), Some((8 * 4usize).div_ceil(3) * 4));
    assert_eq!(text["usage"], floats["usage"]);
}

#[tokio::test]
async fn documents_are_ranked_by_what_they_share_with_the_question() {
    let caller = Caller::of("--speed 1000").await;
    let documents = json!(["seven grey geese", {"text": "the keeper opens the gate"}, "nobody"]);
    let ask = json!({"query": "who opens the gate", "documents": documents, "top_n": 2});
    for path in ["/rerank", "/v1/rerank", "/v2/rerank"] {
        let (status, ranked) = caller.post(path, ask.clone()).await;
        assert_eq!(status, StatusCode::OK, "{ranked}");
        let results = ranked["results"].as_array().expect("results");
        assert_eq!((results.len(), &results[0]["index"]), (2, &json!(1)), "{ranked}");
        assert_eq!(results[0]["document"]["text"], "the keeper opens the gate");
        assert!(results[0]["relevance_score"].as_f64() >= results[1]["relevance_score"].as_f64());
        let pairs = ["seven grey geese", "the keeper opens the gate", "nobody"];
        assert!(ranked["usage"]["total_tokens"].as_u64() > Some(pairs.len() as u64 * 3), "{ranked}");
    }
}

#[tokio::test]
async fn a_batch_of_tensors_is_inferred_row_by_row() {
    let caller = Caller::of("--speed 1000").await;
    let input = json!({"name": "ids", "datatype": "INT64", "shape": [2, 3], "data": [1, 2, 3, 1, 2, 3]});
    for path in ["/v2/models/penstock-small/infer", "/v2/models/penstock-small/versions/1/infer"] {
        let (status, answer) = caller.post(path, json!({"id": "7", "inputs": [input]})).await;
        assert_eq!(
            (status, &answer["id"], &answer["model_version"]),
            (StatusCode::OK, &json!("7"), &json!("1"))
        );
        let output = &answer["outputs"][0];
        assert_eq!(output["shape"], json!([2, 8]), "{answer}");
        let data = output["data"].as_array().expect("data");
        assert!(data.len() == 16 && data[..8] == data[8..], "equal rows, equal vectors: {answer}");
    }
    let stats = caller.get("/admin/stats").await;
    assert_eq!(stats["accepted_requests"], 4, "a sequence for each row: {stats}");
}

#[tokio::test]
async fn a_prompt_of_200_kb_is_served() {
    let caller = Caller::of("--speed 1000").await;
    let words = "The keeper opens the gate a little. ".repeat(200_000 / 36);
    let usage = caller.whole_chat(&words, json!({"max_tokens": 2})).await["usage"].clone();
    assert!(usage["prompt_tokens"].as_u64().is_some_and(|tokens| tokens > 40_000), "{usage}");
}

#[tokio::test]
async fn silence_is_filled_with_comments_when_asked_for() {
    let caller = Caller::of("--speed 1 --sse-keep-alive-interval 0.01").await;
    caller.post("/admin/faults", json!({"stall_ms": 100})).await;
    let events = events(caller.chat("hi", json!({"stream": true, "max_tokens": 1})).await).await;
    assert_eq!(events[0], ": keep-alive");
    assert_eq!(events[events.len() - 1], "[DONE]");
}

#[tokio::test]
async fn http_2_without_tls_is_understood() {
    let caller = Caller::of("--speed 1000").await.over_http2();
    let response = caller.chat("hi", json!({"stream": true, "max_tokens": 3})).await;
    assert_eq!(response.version(), hyper::Version::HTTP_2);
    assert_eq!(events(response).await.len(), 5);
    let (status, _) = read(caller.chat("hi", json!({"max_tokens": 3})).await).await;
    assert_eq!(status, StatusCode::OK);
}
