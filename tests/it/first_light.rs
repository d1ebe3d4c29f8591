//! A request crosses the mesh: caller → outbound sidecar → mutual TLS → inbound sidecar → application.

use http::header::CONTENT_TYPE;
use penstock_tests::application::Application;
use penstock_tests::certs::Authority;
use penstock_tests::client::{self, Connection, Raw, Version, chunks, empty, whole};
use penstock_tests::curl::Curl;
use penstock_tests::documents::{Document, Endpoint, backend, model_rule, policy, route};
use penstock_tests::engine::chat;
use penstock_tests::mesh::{Mesh, Served};
use penstock_tests::sidecar::Sidecar;
use serde_json::{Value, json};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// One model behind one sidecar, which is the default backend of one caller.
async fn one_model(mesh: &Mesh) -> (Served, Sidecar) {
    let served = mesh.serve("chat", "--speed 50").await;
    let web = mesh.caller("web").await;
    let documents = [backend("chat", &[served.endpoint()]).with("default", true)];
    mesh.publish(&documents, &[&served.sidecar, &web]).await;
    (served, web)
}

fn request(stream: bool) -> String {
    let mut more = json!({"max_tokens": 8, "stream": stream, "ignore_eos": true});
    if stream {
        more["stream_options"] = json!({"include_usage": true});
    }
    chat("hello", more).to_string()
}

#[tokio::test]
async fn curl_gets_an_answer_whole_and_streamed_over_http1_and_h2c() {
    let Some(curl) = Curl::installed() else { return };
    let mesh = Mesh::start().await;
    let (served, web) = one_model(&mesh).await;
    let url = format!("http://{}/v1/chat/completions", web.outbound());
    for http in ["--http1.1", "--http2-prior-knowledge"] {
        for stream in [false, true] {
            let id = format!("curl{http}-{stream}");
            let id_field = format!("x-request-id: {id}");
            let trace = format!("traceparent: 00-{TRACE}-00f067aa0ba902b7-01");
            let body = request(stream);
            let words = [
                http,
                &url,
                "--header",
                "content-type: application/json",
                "--header",
                &id_field,
                "--header",
                &trace,
                "--data",
                &body,
            ];
            let answer = curl.run(&words).await;
            if stream {
                assert!(answer.starts_with("data: {") && answer.ends_with("data: [DONE]\n\n"), "{answer}");
                assert_eq!(answer.matches("\"content\":").count(), 9, "a role and eight tokens: {answer}");
            } else {
                let answer: Value = serde_json::from_str(&answer).unwrap();
                assert_eq!(answer["usage"]["completion_tokens"], 8, "{answer}");
            }
            check_logs(&id, &web, &served.sidecar).await;
        }
    }
    let labels = [("version", "TLSv1.3"), ("key_exchange", "X25519MLKEM768")];
    for (sidecar, direction) in [(&web, "outbound"), (&served.sidecar, "inbound")] {
        let metrics = sidecar.metrics().await;
        let all = metrics.sum("penstock_tls_connections_total", &[("direction", direction)]);
        assert!(all >= 1.0 && (metrics.sum("penstock_tls_connections_total", &labels) - all).abs() < 0.5);
    }
    assert_eq!(served.engine.count("finished_requests").await, 4);
}

/// Both sidecars tell the same request, each from its side.
async fn check_logs(id: &str, web: &Sidecar, chat: &Sidecar) {
    let (out, inb) = (web.logged(id).await, chat.logged(id).await);
    for line in [&out, &inb] {
        assert_eq!(line["trace_id"], TRACE, "{line:#}");
        assert_eq!((&line["status"], &line["classification"]), (&json!(200), &json!("success")), "{line:#}");
        assert_eq!((&line["model"], &line["dialect"]), (&json!("penstock-small"), &json!("openai_chat")));
        assert_eq!(
            (&line["backend"], &line["output_tokens"]),
            (&json!("default/chat"), &json!(8)),
            "{line:#}"
        );
        // When the first token came is only seen in a stream.
        assert_eq!(
            line["ttft_ms"].as_f64().is_some_and(|ms| ms > 0.0),
            line["streaming"] == true,
            "{line:#}"
        );
    }
    assert_eq!((&out["direction"], &inb["direction"]), (&json!("outbound"), &json!("inbound")));
    assert_eq!((&out["tls"], &inb["tls"]), (&json!("false"), &json!("true")), "{out:#} {inb:#}");
    assert_eq!(inb["peer"], "spiffe://cluster.local/ns/default/sa/web");
}

#[tokio::test]
async fn a_request_goes_where_its_model_says_wherever_the_model_stands_in_the_body() {
    let mesh = Mesh::start().await;
    let small = mesh.serve("small", "--speed 50 --model penstock-small").await;
    let large = mesh.serve("large", "--speed 50 --model penstock-large").await;
    let web = mesh.caller("web").await;
    let documents = [
        backend("small", &[small.endpoint()])
            .with("default", true)
            .with("hostnames", json!(["models.example"])),
        backend("large", &[large.endpoint()]),
        route(
            "small",
            &json!([model_rule("penstock-small", "small"), model_rule("penstock-large", "large")]),
        ),
    ];
    mesh.publish(&documents, &[&small.sidecar, &large.sidecar, &web]).await;
    let own = web.outbound().to_string();
    let padding = "water ".repeat(20_000);
    for version in Version::BOTH {
        for model in ["penstock-small", "penstock-large"] {
            let first = format!(
                r#"{{"model":"{model}","max_tokens":2,"messages":[{{"role":"user","content":"{padding}"}}]}}"#
            );
            let last = format!(
                r#"{{"messages":[{{"role":"user","content":"{padding}"}}],"max_tokens":2,"model":"{model}"}}"#
            );
            for authority in
                [own.as_str(), "small", "small.default", "small.default.svc.cluster.local", "models.example"]
            {
                for body in [&first, &last] {
                    let mut connection = web.connect(version).await;
                    let request = connection.request_to(authority, "POST", "/v1/chat/completions");
                    let request =
                        request.header(CONTENT_TYPE, "application/json").body(whole(body.clone())).unwrap();
                    let answer = connection.ask(request).await;
                    assert_eq!(answer.status, 200, "{version} {authority} {answer:?}");
                    assert_eq!(answer.json()["model"], model, "{version} {authority}");
                }
            }
        }
    }
    assert_eq!(small.engine.count("finished_requests").await, large.engine.count("finished_requests").await);
}

#[tokio::test]
async fn what_cannot_be_routed_is_told_with_the_names_that_could() {
    let mesh = Mesh::start().await;
    let application = Application::start(&[], "").await;
    let web = mesh.caller("web").await;
    let endpoint = Endpoint { address: application.address, sidecar: None };
    let documents = [
        backend("chat", &[endpoint]).with("hostnames", json!(["chat.example"])),
        backend("embed", &[endpoint]),
        route("chat", &json!([model_rule("penstock-small", "chat")])),
    ];
    mesh.publish(&documents, &[&web]).await;
    let own = web.outbound().to_string();
    for version in Version::BOTH {
        let cases = [
            // No Backend is the default one.
            (own.as_str(), "/v1/chat/completions", "penstock-small", &["chat", "embed", "chat.example"][..]),
            ("nowhere.example", "/v1/chat/completions", "penstock-small", &["chat", "embed", "chat.example"]),
            ("chat", "/v1/chat/completions", "other", &["default/chat"]),
        ];
        for (authority, path, model, told) in cases {
            let body = json!({"model": model, "messages": []}).to_string();
            let mut connection = web.connect(version).await;
            let request = connection.request_to(authority, "POST", path);
            let request = request.header(CONTENT_TYPE, "application/json").body(whole(body)).unwrap();
            let answer = connection.ask(request).await;
            assert_eq!(answer.status, 404, "{version} {authority} {answer:?}");
            assert_eq!(answer.header("x-penstock-error"), Some("no_route"), "{answer:?}");
            let error = &answer.json()["error"];
            let keys: Vec<_> = error.as_object().unwrap().keys().cloned().collect();
            assert_eq!(keys, ["code", "message", "param", "type"], "what OpenAI's clients read");
            let message = error["message"].as_str().unwrap();
            assert!(told.iter().all(|name| message.contains(name)), "{version} {authority}: {message}");
        }
        // Anything else than an AI API is told in plain text.
        let mut connection = web.connect(version).await;
        let request = connection.request_to("nowhere.example", "GET", "/index.html").body(empty()).unwrap();
        let answer = connection.ask(request).await;
        assert_eq!((answer.status, answer.header("x-penstock-error")), (404, Some("no_route")));
        assert!(answer.header("content-type").unwrap().starts_with("text/plain"), "{answer:?}");
    }
    assert!(application.seen().is_empty());
}

#[tokio::test]
async fn a_body_whose_model_does_not_come_in_time_is_refused_or_routed_by_policy() {
    let mesh = Mesh::start().await;
    let application = Application::start(&[], "").await;
    let web = mesh.caller("web").await;
    let endpoint = Endpoint { address: application.address, sidecar: None };
    let rest = json!({"backendRefs": [penstock_tests::documents::reference("route")]});
    let held = |action: &str| json!({"holdMax": "4Ki", "onOverflow": action});
    let documents: Vec<Document> = vec![
        backend("reject", &[endpoint]),
        route("reject", &json!([model_rule("penstock-small", "reject")])),
        policy("reject").with("requestBody", held("Reject")),
        backend("route", &[endpoint]),
        route("route", &json!([model_rule("penstock-small", "reject"), rest])),
        policy("route").with("requestBody", held("Route")),
    ];
    mesh.publish(&documents, &[&web]).await;
    // Longer than what is read at once from a socket.
    let padding = "x".repeat(300_000);
    let body =
        format!(r#"{{"messages":[{{"role":"user","content":"{padding}"}}],"model":"penstock-small"}}"#);
    let pieces: Vec<_> = body.as_bytes().chunks(1_000).map(bytes::Bytes::copy_from_slice).collect();
    for version in Version::BOTH {
        for (authority, status) in [("reject", 413), ("route", 200)] {
            for body in [whole(body.clone()), chunks(pieces.clone())] {
                let mut connection = web.connect(version).await;
                let request = connection.request_to(authority, "POST", "/v1/chat/completions");
                let request = request.header(CONTENT_TYPE, "application/json").body(body).unwrap();
                let answer = connection.ask(request).await;
                assert_eq!(answer.status, status, "{version} {authority} {answer:?}");
                let told = answer.header("x-penstock-error");
                assert_eq!(told, (status == 413).then_some("body_too_large"), "{answer:?}");
            }
        }
    }
    let sizes: Vec<_> = application.seen().iter().map(|seen| seen.body_bytes).collect();
    assert_eq!(sizes, [body.len(); 4], "what is routed arrives whole, what is refused not at all");
    let overflows = |action| [("action", action), ("limit", "request")];
    web.metric_is("penstock_body_overflows_total", &overflows("reject"), 4.0).await;
    web.metric_is("penstock_body_overflows_total", &overflows("route"), 4.0).await;
    web.metric_is("penstock_body_held_bytes", &[], 0.0).await;
}

#[tokio::test]
async fn an_inbound_sidecar_serves_its_own_applications_alone() {
    let mesh = Mesh::start().await;
    let application = Application::start(&[], "here").await;
    let echo = mesh.inbound("echo", application.address).await;
    let endpoint = Endpoint { address: application.address, sidecar: Some(echo.inbound()) };
    mesh.publish(&[backend("echo", &[endpoint])], &[&echo]).await;
    let leaf =
        Authority::of_plane(&mesh.plane.state_dir()).leaf("spiffe://cluster.local/ns/default/sa/tester");
    let mut connection = Connection::open_tls(echo.inbound(), leaf.client()).await.unwrap();
    let own = application.address.to_string();
    let cases = [
        (Some(own.as_str()), 200),
        (Some("127.0.0.1:1"), 421),
        (Some("169.254.169.254:80"), 421),
        (Some("localhost"), 421),
        (None, 421),
    ];
    for (target, status) in cases {
        let mut request = connection.request_to("echo", "GET", "/").header("x-penstock-wire", "1");
        if let Some(target) = target {
            request = request.header("x-penstock-target", target);
        }
        let answer = connection.ask(request.body(empty()).unwrap()).await;
        assert_eq!(answer.status, status, "{target:?} {answer:?}");
        let misdirected = status == 421;
        assert_eq!(answer.header("x-penstock-error"), misdirected.then_some("misdirected"), "{answer:?}");
        assert_eq!(answer.header("x-penstock-unprocessed"), misdirected.then_some("1"), "{answer:?}");
        assert_eq!(answer.header("x-penstock-wire"), Some("1"), "{answer:?}");
    }
    assert_eq!(application.seen().len(), 1);
}

#[tokio::test]
async fn what_an_application_says_in_our_name_is_taken_off_at_both_ends() {
    let fields = [
        ("x-penstock-error", "connect"),
        ("x-penstock-unprocessed", "1"),
        ("x-penstock-x", "1"),
        ("x-kept", "1"),
    ];
    let mesh = Mesh::start().await;
    let application = Application::start(&fields, "here").await;
    let echo = mesh.inbound("echo", application.address).await;
    let web = mesh.caller("web").await;
    let endpoint = Endpoint { address: application.address, sidecar: Some(echo.inbound()) };
    mesh.publish(&[backend("echo", &[endpoint])], &[&echo, &web]).await;
    for version in Version::BOTH {
        let mut connection = web.connect(version).await;
        let request = connection
            .request_to("echo", "GET", "/a?b=c")
            .header("x-penstock-target", "127.0.0.1:1")
            .header("x-penstock-backend", "other/other")
            .header("x-penstock-x", "1")
            .header("x-gateway-model-name", "m")
            .header("x-request-id", "id-7")
            .header("traceparent", format!("00-{TRACE}-00f067aa0ba902b7-01"))
            .header("tracestate", "a=b")
            .header("baggage", "c=d");
        let answer = connection.ask(request.body(empty()).unwrap()).await;
        assert_eq!((answer.status, answer.text.as_str()), (200, "here"), "{version} {answer:?}");
        assert_eq!(names(&answer.headers), Vec::<&str>::new(), "{version}");
        assert_eq!((answer.header("x-kept"), answer.header("x-request-id")), (Some("1"), Some("id-7")));
    }
    let seen = application.seen();
    assert_eq!(seen.len(), 2, "each was sent once, whatever the application says: {seen:?}");
    for seen in seen {
        assert_eq!((seen.line.as_str(), seen.authority.as_str()), ("GET /a?b=c", "echo"));
        assert_eq!(names(&seen.headers), Vec::<&str>::new());
        let kept = ["x-request-id", "tracestate", "baggage"].map(|name| seen.headers[name].to_str().unwrap());
        assert_eq!(kept, ["id-7", "a=b", "c=d"]);
        assert!(seen.headers["traceparent"].to_str().unwrap().contains(TRACE), "{seen:?}");
    }
}

/// Fields that are the mesh's own business.
fn names(headers: &http::HeaderMap) -> Vec<&str> {
    let own = |name: &&str| name.starts_with("x-penstock-") || name.starts_with("x-gateway-");
    headers.keys().map(http::HeaderName::as_str).filter(own).collect()
}

#[tokio::test]
async fn a_request_without_an_id_gets_one_that_both_ends_know() {
    let mesh = Mesh::start().await;
    let (served, web) = one_model(&mesh).await;
    let answer =
        client::post(web.outbound(), "/v1/chat/completions", &chat("hi", json!({"max_tokens": 2}))).await;
    let id = answer.header("x-request-id").unwrap();
    assert_eq!(id.len(), 36, "{answer:?}");
    web.logged(id).await;
    served.sidecar.logged(id).await;
}

#[tokio::test]
async fn one_connection_carries_many_requests_answers_of_ours_among_them() {
    let mesh = Mesh::start().await;
    let application = Application::start(&[], "here").await;
    let web = mesh.caller("web").await;
    let endpoint = Endpoint { address: application.address, sidecar: None };
    mesh.publish(&[backend("echo", &[endpoint])], &[&web]).await;
    for version in Version::BOTH {
        let mut connection = web.connect(version).await;
        for (authority, status) in [("echo", 200), ("nowhere", 404), ("echo", 200), ("echo", 200)] {
            for body in [empty(), whole("some"), chunks(vec!["so".into(), "me".into()])] {
                let request = connection.request_to(authority, "POST", "/").body(body).unwrap();
                let answer = connection.ask(request).await;
                assert_eq!(answer.status, status, "{version} {authority} {answer:?}");
            }
        }
    }
    assert_eq!(application.seen().len(), 2 * 9);
}

#[tokio::test]
async fn a_head_may_come_in_pieces() {
    let mesh = Mesh::start().await;
    let application = Application::start(&[], "here").await;
    let web = mesh.caller("web").await;
    let endpoint = Endpoint { address: application.address, sidecar: None };
    mesh.publish(&[backend("echo", &[endpoint])], &[&web]).await;
    let head = "GET / HTTP/1.1\r\nhost: echo\r\nx-long: 1\r\nconnection: close\r\n\r\n";
    for cut in [1, 4, 20, 50, head.len() - 1] {
        let mut raw = Raw::open(web.outbound()).await;
        raw.send(&head[..cut]).await;
        // The beginning has been taken from the socket once the connection is counted.
        web.metric_is("penstock_open_connections", &[("direction", "outbound")], 1.0).await;
        raw.send(&head[cut..]).await;
        let answer = raw.read_to_end().await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("here"), "{cut}: {answer:?}");
        web.metric_is("penstock_open_connections", &[("direction", "outbound")], 0.0).await;
    }
}
