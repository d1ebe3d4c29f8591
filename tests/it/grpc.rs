//! gRPC crosses the mesh with its trailers: grpcio at both ends.

use http_body_util::BodyExt as _;
use penstock_tests::client::{Connection, Version, whole};
use penstock_tests::documents::{Endpoint, backend};
use penstock_tests::mesh::Mesh;
use penstock_tests::python::Python;
use penstock_tests::sidecar::Sidecar;
use serde_json::json;

#[tokio::test]
async fn grpcio_works_as_it_does_without_a_mesh() {
    let Some(python) = Python::with(&["grpc"]) else { return };
    let mesh = Mesh::start().await;
    let application = python.start(mesh.dir(), "grpc_echo.py", &["serve"]).await;
    let address = application.listening("grpc");
    let behind = json!([{"endpoint": address, "protocol": "grpc"}]);
    let echo = mesh.inbound_with("echo", behind, json!({})).await;
    let web = mesh.caller("web").await;
    let endpoint = Endpoint { address, sidecar: Some(echo.inbound()) };
    let plaintext = Endpoint { address, sidecar: None };
    let documents = [
        backend("echo", &[endpoint]).with("protocol", "grpc"),
        backend("plain", &[plaintext]).with("protocol", "h2c").with("hostnames", json!(["plain.example"])),
    ];
    mesh.publish(&documents, &[&echo, &web]).await;
    let (outbound, direct) = (web.outbound().to_string(), address.to_string());
    python.run("grpc_echo.py", &["call", &outbound, &direct]).await;
    for sidecar in [&web, &echo] {
        sidecar.idle().await;
        let (served, refused) = (sidecar.logged("grpc-unary").await, sidecar.logged("grpc-refused").await);
        assert_eq!(
            (&served["grpc_status"], &served["classification"]),
            (&json!(0), &json!("success")),
            "{served:#}"
        );
        assert_eq!(refused["grpc_status"], 9, "{refused:#}");
        assert_eq!(sidecar.metrics().await.sum("penstock_requests_total", &[("grpc_status", "15")]), 1.0);
    }
    check_learning(&web, &echo).await;
    let before = (web.access_log().await.len(), echo.access_log().await.len());

    // An endpoint without a sidecar is reached with HTTP/2 as well, and our own errors are gRPC's: a 404 is UNIMPLEMENTED there.
    let mut connection = web.connect(Version::Http2).await;
    for (authority, status) in [("plain.example", "0"), ("nowhere.example", "12")] {
        let request = connection
            .request_to(authority, "POST", "/penstock.test.Echo/Unary")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(whole(&b"\0\0\0\0\x02hi"[..]))
            .unwrap();
        let response = connection.send(request).await;
        assert_eq!(response.status(), 200);
        let head = response.headers().get("grpc-status").cloned();
        let body = response.into_body().collect().await.unwrap();
        let last = body.trailers().and_then(|trailers| trailers.get("grpc-status")).cloned();
        let found = head.or(last).expect("a status");
        assert_eq!(found, status, "{authority}");
    }
    assert_eq!((web.access_log().await.len(), echo.access_log().await.len()), (before.0 + 2, before.1));
}

/// The last status of a question to a model, with a message of four bytes.
async fn infer(connection: &mut Connection, message: &str) -> String {
    let request = connection
        .request_to("echo", "POST", "/inference.GRPCInferenceService/ModelInfer")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(whole(format!("\0\0\0\0\x04{message}")))
        .unwrap();
    let response = connection.send(request).await;
    let head = response.headers().get("grpc-status").cloned();
    let body = response.into_body().collect().await.unwrap();
    let last = body.trailers().and_then(|trailers| trailers.get("grpc-status")).cloned();
    head.or(last).expect("a status").to_str().unwrap().to_owned()
}

/// How fast calls are answered is learned from those that succeed: a failure is an HTTP 200 as well, and mostly sooner.
async fn check_learning(web: &Sidecar, echo: &Sidecar) {
    let mut connection = web.connect(Version::Http2).await;
    let error = async || echo.metrics().await.sum("penstock_call_speed_error", &[("unit", "items")]);
    for _ in 0..40 {
        assert_eq!(infer(&mut connection, "fail").await, "13");
    }
    assert_eq!(error().await, 1.0, "nothing was learned from failures");
    for _ in 0..40 {
        assert_eq!(infer(&mut connection, "good").await, "0");
    }
    let learned = error().await;
    assert!(learned < 1.0, "{learned}");
    let page = web.metrics().await;
    let pending = [("signal", "call_items_pending"), ("backend_name", "echo")];
    let known: Vec<_> = page.samples("penstock_endpoint_load", &pending).collect();
    assert_eq!(known.len(), 1, "the caller's sidecar was told");
    assert_eq!(page.sum("penstock_endpoint_load", &pending), 0.0, "and all have ended");
}
