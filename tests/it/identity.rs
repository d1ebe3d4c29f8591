//! Both ends of a connection prove who they are, each refusal has a reason of its own, and certificates change under streams.

use http_body_util::BodyExt;
use penstock_tests::application::Application;
use penstock_tests::certs::{Authority, Leaf, from_now, nameless_client, params, uri_name};
use penstock_tests::client::{self, Connection, Version, empty, tls_stream};
use penstock_tests::curl::Curl;
use penstock_tests::documents::{Document, Endpoint, backend, policy};
use penstock_tests::engine::chat;
use penstock_tests::mesh::Mesh;
use penstock_tests::sidecar::Sidecar;
use penstock_tests::wait::eventually;
use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

const WEB: &str = "spiffe://cluster.local/ns/default/sa/web";

/// Everything that can be wrong with a certificate, by the reason that is told.
fn defective(authority: &Authority) -> Vec<(&'static str, Leaf)> {
    let second = uri_name("spiffe://cluster.local/ns/default/sa/two");
    vec![
        ("trust_domain", authority.leaf("spiffe://other.example/ns/default/sa/web")),
        ("expired", authority.changed(WEB, |leaf| leaf.not_after = from_now(-1))),
        ("not_yet_valid", authority.changed(WEB, |leaf| leaf.not_before = from_now(600))),
        ("ca_as_leaf", authority.changed(WEB, |leaf| leaf.is_ca = IsCa::Ca(BasicConstraints::Unconstrained))),
        ("uri_names", authority.changed(WEB, |leaf| leaf.subject_alt_names.push(second))),
        ("uri_names", authority.sign(&params(&[]))),
        ("not_spiffe", authority.leaf("https://cluster.local/ns/default/sa/web")),
        ("key_usage", authority.changed(WEB, |leaf| leaf.key_usages.push(KeyUsagePurpose::KeyCertSign))),
        (
            "key_usage",
            authority
                .changed(WEB, |leaf| leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning]),
        ),
        ("unknown_issuer", Authority::unknown().leaf(WEB)),
    ]
}

/// One refusal more than before, for that reason and no other, in metric and log.
async fn refused(sidecar: &Sidecar, direction: &str, reason: &str, before: f64) {
    let labels = [("direction", direction), ("reason", reason)];
    let all = [("direction", direction)];
    eventually(&format!("a refusal for {reason}"), async || {
        let metrics = sidecar.metrics().await;
        let (found, all) = (
            metrics.sum("penstock_tls_refusals_total", &labels),
            metrics.sum("penstock_tls_refusals_total", &all),
        );
        if found >= 1.0 && all > before + 0.5 { Ok(()) } else { Err(format!("{found} of {all}")) }
    })
    .await;
    assert_eq!(sidecar.metrics().await.sum("penstock_tls_refusals_total", &all), before + 1.0, "{reason}");
    let log = sidecar.program.log();
    assert!(log.contains(&format!("reason=\"{reason}\"")), "{reason}: {log}");
}

#[tokio::test]
async fn a_caller_with_a_defective_certificate_is_refused_for_that_reason() {
    let mesh = Mesh::start().await;
    let application = Application::start(&[], "here").await;
    let echo = mesh.inbound("echo", application.address).await;
    let endpoint = Endpoint { address: application.address, sidecar: Some(echo.inbound()) };
    mesh.publish(&[backend("echo", &[endpoint])], &[&echo]).await;
    let authority = Authority::of_plane(&mesh.plane.state_dir());
    let leaves = defective(&authority);
    let clients = leaves.iter().map(|(reason, leaf)| (*reason, leaf.client()));
    for (count, (reason, tls)) in clients.chain([("no_certificate", nameless_client())]).enumerate() {
        // In TLS 1.3 the client is through before the server has looked: the refusal comes with the first read.
        let outcome = async {
            let mut stream = tls_stream(echo.inbound(), tls).await?;
            stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await?;
            stream.read(&mut [0; 64]).await
        };
        assert!(!matches!(outcome.await, Ok(1..)), "{reason} was let in");
        refused(&echo, "inbound", reason, count as f64).await;
    }
    assert!(application.seen().is_empty());
    assert_eq!(echo.metrics().await.sum("penstock_tls_connections_total", &[]), 0.0);

    // With nothing wrong the same client is let in.
    let mut connection = Connection::open_tls(echo.inbound(), authority.leaf(WEB).client()).await.unwrap();
    let own = application.address.to_string();
    let request = connection.request_to("echo", "GET", "/").header("x-penstock-target", own);
    assert_eq!(connection.ask(request.body(empty()).unwrap()).await.status, 200);
    assert_eq!(echo.access_log().await[0]["peer"], WEB);
}

#[tokio::test]
async fn what_is_no_mutual_tls_13_with_http2_is_not_served_inbound() {
    let Some(curl) = Curl::installed() else { return };
    let mesh = Mesh::start().await;
    let application = Application::start(&[], "here").await;
    let echo = mesh.inbound("echo", application.address).await;
    let endpoint = Endpoint { address: application.address, sidecar: Some(echo.inbound()) };
    mesh.publish(&[backend("echo", &[endpoint])], &[&echo]).await;
    let (plain, tls) = (format!("http://{}/", echo.inbound()), format!("https://{}/", echo.inbound()));
    for words in [
        &["--http1.1", &plain][..],
        &["--http2-prior-knowledge", &plain],
        &["--insecure", "--tls-max", "1.2", &tls],
        &["--insecure", "--http1.1", &tls],
    ] {
        let refusals = echo.metrics().await.sum("penstock_connections_refused_total", &[]);
        let (code, text) = curl.try_run(words).await;
        assert!(code != 0 && text.is_empty(), "{words:?}: {code} {text}");
        echo.metric_is("penstock_connections_refused_total", &[("reason", "handshake")], refusals + 1.0)
            .await;
    }
    assert!(application.seen().is_empty());
}

/// A sidecar that is none: it shows this certificate and hangs up.
async fn impostor(leaf: &Leaf, tasks: &mut JoinSet<()>) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tls = TlsAcceptor::from(std::sync::Arc::new(leaf.server()));
    tasks.spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            if let Ok(mut stream) = tls.accept(stream).await {
                drop(stream.read(&mut [0; 64]).await);
            }
        }
    });
    address
}

#[tokio::test]
async fn a_sidecar_with_a_defective_certificate_is_refused_for_that_reason() {
    let mesh = Mesh::start().await;
    let web = mesh.caller("web").await;
    let authority = Authority::of_plane(&mesh.plane.state_dir());
    let mut leaves = defective(&authority);
    leaves.push(("wrong_identity", authority.leaf(WEB)));
    let mut tasks = JoinSet::new();
    let mut documents: Vec<Document> = Vec::new();
    for (number, (_, leaf)) in leaves.iter().enumerate() {
        let sidecar = Some(impostor(leaf, &mut tasks).await);
        let endpoint = Endpoint { address: ([127, 0, 0, 1], 9).into(), sidecar };
        let expected =
            if number + 1 == leaves.len() { "spiffe://cluster.local/ns/default/sa/chat" } else { WEB };
        documents.push(backend(&format!("b{number}"), &[endpoint]).with("identity", expected));
    }
    mesh.publish(&documents, &[&web]).await;
    for (number, (reason, _)) in leaves.iter().enumerate() {
        let mut connection = web.connect(Version::Http2).await;
        let request = connection.request_to(&format!("b{number}"), "GET", "/").body(empty()).unwrap();
        let answer = connection.ask(request).await;
        let told = (answer.status, answer.header("x-penstock-error"));
        assert_eq!(told, (502, Some("connect")), "{reason}: {answer:?}");
        refused(&web, "outbound", reason, number as f64).await;
    }
    assert_eq!(web.metrics().await.sum("penstock_tls_connections_total", &[]), 0.0);
}

#[tokio::test]
async fn a_stream_outlives_the_certificates_that_it_began_with() {
    let mesh = Mesh::start_with(&["--leaf-ttl", "3s"]).await;
    let served = mesh.serve("chat", "--noise 0").await;
    let web = mesh.caller("web").await;
    let documents = [
        backend("chat", &[served.endpoint()]).with("default", true),
        // Each further request at the same time is a connection of its own, and a handshake.
        policy("chat").with("connectionPool", json!({"http": {"maxConcurrentStreams": 1}})),
    ];
    mesh.publish(&documents, &[&served.sidecar, &web]).await;
    let sidecars = [&web, &served.sidecar];
    let expiry = async |sidecar: &Sidecar| {
        sidecar.metrics().await.sum("identity_cert_expiration_timestamp_seconds", &[])
    };
    let first = [expiry(sidecars[0]).await, expiry(sidecars[1]).await];

    let mut connection = web.connect(Version::Http2).await;
    let body = chat("hi", json!({"stream": true, "max_tokens": 1_300, "ignore_eos": true}));
    let mut stream = connection.send(connection.post("/v1/chat/completions", &body)).await.into_body();
    let begun = client::read_until(&mut stream, "\"content\":").await;
    for (sidecar, first) in sidecars.iter().zip(first) {
        eventually("two certificates have ended since", async || {
            let now = expiry(sidecar).await;
            if now >= first + 6.0 { Ok(()) } else { Err(format!("{first} {now}")) }
        })
        .await;
    }
    assert_eq!(
        served.engine.stats().await["running"],
        1,
        "the stream must still run for this to mean anything"
    );
    let before = web.metrics().await.sum("penstock_tls_connections_total", &[]);
    let answer =
        client::post(web.outbound(), "/v1/chat/completions", &chat("hi", json!({"max_tokens": 2}))).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(web.metrics().await.sum("penstock_tls_connections_total", &[]), before + 1.0);

    let rest = stream.collect().await.expect("a stream that ends whole").to_bytes();
    let whole = begun + std::str::from_utf8(&rest).unwrap();
    assert!(whole.ends_with("data: [DONE]\n\n"), "{}", &whole[whole.len() - 200..]);
    assert_eq!(whole.matches("\"delta\":{\"content\":").count(), 1_300);
    for sidecar in sidecars {
        let metrics = sidecar.metrics().await;
        let refreshes = metrics.sum("identity_cert_refresh_total", &[("result", "success")]);
        // At 60 % of 3 s, give or take a tenth, in the time of a stream of some 10 s.
        assert!((3.0..40.0).contains(&refreshes), "{refreshes} certificates at {}", sidecar.name);
        assert_eq!(metrics.sum("identity_cert_refresh_total", &[("result", "failure")]), 0.0);
    }
}
