//! Models, tokens, metrics.

use std::collections::BTreeMap;

use hyper::StatusCode;
use serde_json::json;

use crate::caller::{Caller, read};

#[tokio::test]
async fn every_name_is_listed_and_served() {
    let caller = Caller::of("--speed 1000 --model a --model b --max-model-len 5000").await;
    let models = caller.get("/v1/models").await;
    let names: Vec<_> = models["data"].as_array().expect("a list").iter().map(|model| &model["id"]).collect();
    assert_eq!(names, [&json!("a"), &json!("b")]);
    assert_eq!(models["data"][0]["max_model_len"], 5_000);
    for name in ["a", "b"] {
        let answer = caller.whole_chat("hi", json!({"model": name, "max_tokens": 1})).await;
        assert_eq!(answer["model"], name);
    }
}

#[tokio::test]
async fn tokens_become_the_text_they_came_from() {
    let caller = Caller::of("").await;
    let text = "The gate, Zürich: ½ open.\n\n  日本";
    let (_, answer) = caller.post("/tokenize", json!({"prompt": text})).await;
    assert_eq!(answer["count"].as_u64(), answer["tokens"].as_array().map(|tokens| tokens.len() as u64));
    let (_, back) = caller.post("/detokenize", json!({"tokens": answer["tokens"]})).await;
    assert_eq!(back["prompt"], text);
    let messages = json!([{"role": "user", "content": text}]);
    let (_, chat) = caller.post("/tokenize", json!({"messages": messages})).await;
    assert_eq!(chat["count"].as_u64(), answer["count"].as_u64().map(|count| count + 3), "three marks");
    assert_eq!(caller.post("/tokenize", json!({})).await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn the_metrics_page_has_one_type_a_name_and_vllms_names_with_their_labels() {
    let caller = Caller::of("--speed 1000").await;
    caller.whole_chat(&"water ".repeat(50), json!({"max_tokens": 4, "ignore_eos": true})).await;
    let response = caller.send("/metrics", "").await;
    assert_eq!(response.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let page = read(response).await.1;
    let page = page.as_str().expect("text");
    let types: BTreeMap<&str, &str> =
        page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    assert_eq!(types.len(), page.lines().filter(|line| line.starts_with("# TYPE ")).count());
    for (name, kind) in [
        ("vllm:num_requests_running", "gauge"),
        ("vllm:num_requests_waiting", "gauge"),
        ("vllm:kv_cache_usage_perc", "gauge"),
        ("vllm:cache_config_info", "gauge"),
        ("vllm:prefix_cache_queries_total", "counter"),
        ("vllm:prefix_cache_hits_total", "counter"),
        ("vllm:prompt_tokens_total", "counter"),
        ("vllm:generation_tokens_total", "counter"),
        ("vllm:num_preemptions_total", "counter"),
        ("vllm:request_success_total", "counter"),
        ("vllm:admission_rejections_total", "counter"),
        ("vllm:time_to_first_token_seconds", "histogram"),
        ("vllm:inter_token_latency_seconds", "histogram"),
        ("vllm:request_time_per_output_token_seconds", "histogram"),
        ("vllm:e2e_request_latency_seconds", "histogram"),
        ("vllm:request_queue_time_seconds", "histogram"),
        ("penstock_engine_wasted_steps_total", "counter"),
        ("penstock_engine_saved_tokens_total", "counter"),
    ] {
        assert_eq!(types.get(name), Some(&kind), "{name}");
    }
    let labels = "{model_name=\"penstock-small\",engine=\"0\"}";
    for line in [
        format!("vllm:generation_tokens_total{labels} 4"),
        format!("vllm:time_to_first_token_seconds_count{labels} 1"),
        format!("vllm:inter_token_latency_seconds_count{labels} 3"),
    ] {
        assert!(page.lines().any(|found| found == line), "{line}\n{page}");
    }
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').expect("a value");
        assert!(name.contains("model_name=\"penstock-small\",engine=\"0\""), "{line}");
        assert!(value.parse::<f64>().is_ok(), "{line}");
    }
}
