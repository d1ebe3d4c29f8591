//! Model servers in plain pods: no sidecar of ours beside them, and nobody who says when they are ready.

use penstock_tests::client;
use penstock_tests::documents::{Endpoint, backend, policy};
use penstock_tests::engine::{Engine, chat};
use penstock_tests::mesh::Mesh;
use penstock_tests::sidecar::Sidecar;
use serde_json::{Value, json};

/// Waits until the caller's sidecar believes this of a model server.
async fn believed(web: &Sidecar, engine: &Engine, state: &str) {
    let endpoint = engine.address.to_string();
    web.metric_is("penstock_endpoint_state", &[("endpoint", &endpoint), ("state", state)], 1.0).await;
}

async fn twenty_requests(web: &Sidecar) {
    for _ in 0..20 {
        let asked = chat("hi", json!({"max_tokens": 1}));
        let answer = client::post(web.outbound(), "/v1/chat/completions", &asked).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

#[tokio::test]
async fn a_pod_that_is_loading_its_model_gets_nothing_whenever_it_does_so() {
    let mesh = Mesh::start().await;
    let steady = Engine::start(mesh.dir(), "steady", "--speed 50").await;
    let late = Engine::start(mesh.dir(), "late", "--speed 50").await;
    late.order_faults(&json!({"loading_ms": 3_600_000})).await;
    let web = mesh.caller("web").await;
    let endpoints = [&steady, &late].map(|engine| Endpoint { address: engine.address, sidecar: None });
    let published = [
        backend("chat", &endpoints)
            .with("default", true)
            .with("healthCheck", json!({"engine": "vllm", "interval": "100ms"})),
        policy("chat").with("loadBalancer", json!({"policy": "RoundRobin"})),
    ];
    mesh.publish(&published, &[&web]).await;
    believed(&web, &steady, "ready").await;
    twenty_requests(&web).await;
    assert_eq!(late.count("accepted_requests").await, 0);
    let page = web.page("/clusters").await;
    let rows = page.pointer("/backends/0/endpoints").and_then(Value::as_array).unwrap();
    let row = rows.iter().find(|row| row["endpoint"] == json!(late.address)).unwrap();
    assert_eq!(row["state"], "pending", "{page:#}");
    assert_eq!(row["lastHealthCheck"], "answered 503 to GET /health");

    late.order_faults(&json!({"clear": true})).await;
    believed(&web, &late, "ready").await;
    twenty_requests(&web).await;
    assert_eq!(late.count("accepted_requests").await, 10, "one after the other");

    // A pod that restarts on its address loads once more.
    late.order_faults(&json!({"loading_ms": 3_600_000})).await;
    believed(&web, &late, "unready").await;
    twenty_requests(&web).await;
    assert_eq!(late.count("accepted_requests").await, 10);
    for engine in [&steady, &late] {
        assert_eq!(engine.count("unavailable_requests").await, 0, "nobody had to be refused");
    }
}

#[tokio::test]
async fn while_no_pod_is_ready_callers_are_told_what_each_has_said() {
    let mesh = Mesh::start().await;
    let late = Engine::start(mesh.dir(), "late", "--speed 50").await;
    late.order_faults(&json!({"loading_ms": 3_600_000})).await;
    let web = mesh.caller("web").await;
    let endpoint = Endpoint { address: late.address, sidecar: None };
    let check = json!({"engine": "vllm", "interval": "1m"});
    let published = [backend("chat", &[endpoint]).with("default", true).with("healthCheck", check)];
    mesh.publish(&published, &[&web]).await;
    web.metric_is("penstock_health_checks_total", &[("result", "refusal")], 1.0).await;
    let asked = chat("hi", json!({"max_tokens": 1}));
    let answer = client::post(web.outbound(), "/v1/chat/completions", &asked).await;
    assert_eq!(answer.status, 503);
    let told = format!("no endpoint is ready, of 1: {} answered 503 to GET /health", late.address);
    assert!(answer.text.contains(&told), "{answer:?}");
    assert_eq!(late.count("unavailable_requests").await, 0);
}
