//! Where requests go for other reasons than load: what an endpoint serves, its weight, its zone, and the session that belongs there.

use penstock_tests::client::{self, Version, whole};
use penstock_tests::documents::{Document, Endpoint, backend, policy};
use penstock_tests::engine::{Engine, chat};
use penstock_tests::mesh::Mesh;
use penstock_tests::sidecar::Sidecar;
use serde_json::{Value, json};

/// A Backend of these model servers, without sidecars, of which each has one of `attributes`.
fn written(engines: &[Engine], attributes: &[Value]) -> Document {
    let places = engines.iter().zip(attributes).map(|(engine, attributes)| {
        let mut place = json!({"address": engine.address.ip(), "port": engine.address.port()});
        place.as_object_mut().unwrap().extend(attributes.as_object().unwrap().clone());
        place
    });
    let places: Vec<Value> = places.collect();
    let plain: Vec<_> =
        engines.iter().map(|engine| Endpoint { address: engine.address, sidecar: None }).collect();
    backend("chat", &plain).with("default", true).with("endpoints", places)
}

async fn accepted(engines: &[Engine]) -> Vec<u64> {
    let mut counts = Vec::new();
    for engine in engines {
        counts.push(engine.count("accepted_requests").await);
    }
    counts
}

async fn ask(web: &Sidecar, version: Version, model: &str, session: Option<(&str, &str)>) -> client::Answer {
    let body = chat("hi", json!({"model": model, "max_tokens": 1}));
    let mut connection = web.connect(version).await;
    let mut request =
        connection.request("POST", "/v1/chat/completions").header("content-type", "application/json");
    if let Some((name, value)) = session {
        request = request.header(name, value);
    }
    connection.ask(request.body(whole(body.to_string())).unwrap()).await
}

async fn three(mesh: &Mesh) -> [Engine; 3] {
    [
        Engine::start(mesh.dir(), "a", "--speed 50").await,
        Engine::start(mesh.dir(), "b", "--speed 50").await,
        Engine::start(mesh.dir(), "c", "--speed 50").await,
    ]
}

#[tokio::test]
async fn a_request_goes_only_where_its_model_is_served() {
    let mesh = Mesh::start().await;
    let engines = three(&mesh).await;
    let web = mesh.caller("web").await;
    let attributes = [
        json!({"models": ["base"], "lora": ["penstock-small"]}),
        json!({"models": ["penstock-small"], "weight": 0}),
        json!({"models": ["base"]}),
    ];
    mesh.publish(&[written(&engines, &attributes)], &[&web]).await;
    for version in Version::BOTH {
        for _ in 0..5 {
            let answer = ask(&web, version, "penstock-small", None).await;
            assert_eq!(answer.status, 200, "{answer:?}");
        }
        let answer = ask(&web, version, "other", None).await;
        assert_eq!((answer.status, answer.header("x-penstock-error")), (404, Some("no_route")), "{answer:?}");
        let message = answer.json()["error"]["message"].to_string();
        assert!(message.contains("no endpoint serves the model `other`"), "{message}");
        assert!(message.contains("base, penstock-small"), "{message}");
    }
    assert_eq!(accepted(&engines).await, [10, 0, 0]);
}

#[tokio::test]
async fn a_session_stays_where_it_is_whichever_sidecar_it_comes_through() {
    let mesh = Mesh::start().await;
    let engines = three(&mesh).await;
    let callers = [mesh.caller("one").await, mesh.caller("two").await];
    let all = json!({});
    let documents = [
        written(&engines, &[all.clone(), all.clone(), all]),
        policy("chat").with("loadBalancer", json!({"policy": "RoundRobin", "affinity": "Session"})),
    ];
    mesh.publish(&documents, &[&callers[0], &callers[1]]).await;
    // In the order in which they are looked for: a later one changes nothing.
    let names =
        ["x-session-token", "x-session-affinity", "x-claude-code-session-id", "session-id", "session_id"];
    for name in names {
        let before = accepted(&engines).await;
        for caller in &callers {
            for version in Version::BOTH {
                let answer = ask(caller, version, "penstock-small", Some((name, "7"))).await;
                assert_eq!(answer.status, 200, "{answer:?}");
            }
        }
        let after = accepted(&engines).await;
        let taken: Vec<_> = before.iter().zip(&after).map(|(before, after)| after - before).collect();
        assert!(taken.contains(&4), "{name}: {taken:?}");
    }
    for _ in 0..6 {
        ask(&callers[0], Version::Http2, "penstock-small", None).await;
    }
    let metrics = callers[0].metrics().await;
    assert_eq!(metrics.sum("penstock_lb_picks_total", &[("reason", "affinity")]), 10.0);
    assert_eq!(metrics.sum("penstock_lb_picks_total", &[("reason", "turn")]), 6.0, "who has none goes round");
}

#[tokio::test]
async fn the_own_zone_comes_first_and_weights_share_what_is_there() {
    let mesh = Mesh::start().await;
    let engines = three(&mesh).await;
    let web = mesh.caller_with("web", json!({"zone": "north"})).await;
    let attributes =
        [json!({"zone": "north", "weight": 2}), json!({"zone": "south"}), json!({"zone": "north"})];
    let near = json!({"policy": "RoundRobin", "trafficDistribution": "PreferSameZone"});
    let documents = [written(&engines, &attributes), policy("chat").with("loadBalancer", near)];
    mesh.publish(&documents, &[&web]).await;
    for _ in 0..30 {
        assert_eq!(ask(&web, Version::Http1, "penstock-small", None).await.status, 200);
    }
    let taken = accepted(&engines).await;
    assert_eq!(taken[1], 0, "{taken:?}");
    assert!(taken[0].abs_diff(20) <= 2, "{taken:?}");
    let page = web.page("/clusters").await;
    let row = page.pointer("/backends/0/endpoints").and_then(Value::as_array).unwrap();
    let row = row.iter().find(|row| row["endpoint"] == json!(engines[0].address)).unwrap();
    assert_eq!((&row["weight"], &row["zone"]), (&json!(2), &json!("north")), "{page:#}");
}
