//! Model servers without a sidecar of ours: plain pods, of which nobody says when they are ready, and APIs over TLS.

use penstock_tests::certs::{self, Authority};
use penstock_tests::client::{self, Answer, Version, empty};
use penstock_tests::documents::{Endpoint, backend, policy};
use penstock_tests::engine::{Engine, chat};
use penstock_tests::mesh::Mesh;
use penstock_tests::python::Python;
use penstock_tests::sidecar::Sidecar;
use rcgen::SanType;
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

async fn asked(web: &Sidecar, host: &str) -> Answer {
    let mut connection = web.connect(Version::Http1).await;
    let request = connection.request_to(host, "GET", "/v1/models");
    connection.ask(request.body(empty()).unwrap()).await
}

#[tokio::test]
async fn an_api_over_tls_is_reached_by_its_name_and_an_impostor_is_not() {
    let Some(python) = Python::with(&["ssl"]) else { return };
    let mesh = Mesh::start().await;
    let authority = Authority::unknown();
    let mut params = certs::params(&["spiffe://partner.example/ns/api/sa/front"]);
    params.subject_alt_names.push(SanType::DnsName("api.partner.example".try_into().unwrap()));
    let leaf = authority.sign(&params);
    let (certificate, key) = leaf.pem();
    let files = [("api.pem", certificate), ("api-key.pem", &*key), ("roots.pem", authority.root_pem())];
    let [certificate, key, roots] = files.map(|(name, text)| {
        let path = mesh.dir().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    });
    let new = python.start(mesh.dir(), "tls_origin.py", &[&certificate, &key, "1.3"]).await;
    let old = python.start(mesh.dir(), "tls_origin.py", &[&certificate, &key, "1.2"]).await;
    let over_tls = |name: &str, address, tls: Value| {
        backend(name, &[Endpoint { address, sidecar: None }]).with("tls", tls)
    };
    let (new, old) = (new.listening("https"), old.listening("https"));
    let ours = "api.partner.example";
    let by_uri = json!([{"type": "URI", "uri": "spiffe://partner.example/ns/api/sa/front"}]);
    let pem = authority.root_pem();
    let web = mesh.caller("web").await;
    let published = [
        over_tls("new", new, json!({"hostname": ours, "caCertificates": pem}))
            .with("healthCheck", json!({"path": "/health", "interval": "1m"})),
        over_tls("old", old, json!({"hostname": ours, "caFile": roots})),
        over_tls(
            "named",
            new,
            json!({"hostname": "front.example", "caFile": roots, "subjectAltNames": by_uri}),
        ),
        over_tls("wrong", new, json!({"hostname": "other.example", "caCertificates": pem})),
        over_tls(
            "namesake",
            new,
            json!({"hostname": ours, "caCertificates": Authority::unknown().root_pem()}),
        ),
    ];
    mesh.publish(&published, &[&web]).await;
    web.metric_is("penstock_health_checks_total", &[("result", "ready")], 1.0).await;
    for (host, sni, version) in
        [("new", ours, "TLSv1.3"), ("old", ours, "TLSv1.2"), ("named", "front.example", "TLSv1.3")]
    {
        let answer = asked(&web, host).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let expected = json!({"sni": sni, "version": version, "host": host, "path": "/v1/models"});
        assert_eq!(answer.json(), expected, "{host}");
        let counted = [("direction", "origination"), ("version", version)];
        assert!(web.metrics().await.sum("penstock_tls_connections_total", &counted) >= 1.0, "{version}");
    }
    for (host, why, reason) in [
        ("wrong", "its certificate is for none of: other.example", "wrong_name"),
        ("namesake", "its certificate names one of the Backend's roots and is not signed by it", "signature"),
    ] {
        let answer = asked(&web, host).await;
        assert_eq!((answer.status, &answer.headers["x-penstock-error"]), (502, &"connect".parse().unwrap()));
        assert!(answer.text.contains(why), "{answer:?}");
        let counted = [("direction", "origination"), ("reason", reason)];
        assert!(web.metrics().await.sum("penstock_tls_refusals_total", &counted) >= 1.0, "{reason}");
    }
}
