//! The operators' side.

use serde_json::{Value, json};

use crate::plane::{Plane, backend};

async fn diff(plane: &Plane, kind: &str, body: &str) -> (u16, Value) {
    let (status, _, body) = plane.http("POST", "/api/v1/diff?file=new.yaml", kind, body).await;
    (status, serde_json::from_str(&body).unwrap())
}

#[tokio::test]
async fn a_diff_tells_what_would_change_and_changes_nothing() {
    let plane = Plane::start(&[("a.yaml", &backend("chat", "10.0.0.1"))]).await;
    let before = plane.json("/api/v1/status").await;

    let (status, same) = diff(&plane, "application/yaml", &backend("chat", "10.0.0.1")).await;
    assert_eq!((status, &same["valid"]), (200, &json!(true)));
    assert_eq!(same["from"], same["to"]);
    assert_eq!(same["from"], before["config"]["version"]);

    let (_, other) = diff(&plane, "application/yaml", &backend("chat", "10.0.0.2")).await;
    assert_ne!(other["from"], other["to"]);
    assert!(other["changes"].is_object() || other["changes"].is_array(), "{other}");

    let files = json!({ "sources": [
        { "file": "one.yaml", "text": backend("chat", "10.0.0.1") },
        { "file": "two.yaml", "text": "apiVersion: penstock.dev/v1alpha1\nkind: Backend\nmetadata: { name: x }\nspec: { edpoints: [] }\n" },
    ]});
    let (status, bad) = diff(&plane, "application/json; charset=utf-8", &files.to_string()).await;
    assert_eq!((status, &bad["valid"], &bad["to"]), (200, &json!(false), &Value::Null));
    assert_eq!(bad["findings"][0]["file"], "two.yaml");

    assert_eq!(plane.json("/api/v1/status").await, before);
}

#[tokio::test]
async fn a_body_that_makes_no_sense_is_refused() {
    let plane = Plane::start(&[("a.yaml", &backend("chat", "10.0.0.1"))]).await;
    for (kind, body) in [
        ("application/json", "{"),
        ("application/json", "{\"sources\": [{\"file\": \"a\"}]}"),
        ("application/json", "{\"sources\": [], \"force\": true}"),
    ] {
        let (status, answer) = diff(&plane, kind, body).await;
        assert_eq!((status, &answer["kind"]), (400, &json!("Error")), "{body}");
    }
}

#[tokio::test]
async fn answers_have_their_kind_and_hold_no_secret() {
    let plane = Plane::start(&[("a.yaml", &backend("chat", "10.0.0.1"))]).await;
    let _stream = plane.follower("web").await;
    let key = std::fs::read_to_string(plane.path("state/ca-key.pem")).unwrap();
    let key_line = key.lines().nth(1).unwrap();
    for (path, kind) in [
        ("/api/v1/status", Some("Status")),
        ("/api/v1/config", Some("Config")),
        ("/debug/syncz", Some("Sidecars")),
        ("/metrics", None),
        ("/ready", None),
    ] {
        let (status, body) = plane.get(path).await;
        assert_eq!(status, 200, "{path}");
        assert!(!body.contains(&plane.token()) && !body.contains(key_line), "{path}");
        if let Some(kind) = kind {
            let answer: Value = serde_json::from_str(&body).unwrap();
            assert_eq!(answer["apiVersion"], "penstock.dev/v1alpha1", "{path}");
            assert_eq!(answer["kind"], kind, "{path}");
        }
    }
    let config = plane.json("/api/v1/config").await;
    assert!(config["snapshot"]["endpoints"].to_string().contains("10.0.0.1:8000"), "{config}");
}

#[tokio::test]
async fn metrics_have_the_content_type_that_prometheus_insists_on() {
    let plane = Plane::start(&[("a.yaml", &backend("chat", "10.0.0.1"))]).await;
    let (_, head, _) = plane.http("GET", "/metrics", "text/plain", "").await;
    assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
    let end = plane.metric("identity_cert_expiration_timestamp_seconds").await.unwrap();
    assert!(end > 1_700_000_000.0);
}
