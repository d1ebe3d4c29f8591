//! SIGTERM: nothing new is taken, what runs is finished, and the exit code says whether all was.

use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use penstock_tests::client::{self, Connection, Raw, Version, empty};
use penstock_tests::documents::{backend, model_rule, policy, reference, route};
use penstock_tests::engine::chat;
use penstock_tests::load::Load;
use penstock_tests::mesh::{Mesh, Served};
use penstock_tests::programs::signal;
use penstock_tests::sidecar::Sidecar;
use penstock_tests::wait::{eventually, within};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::Instant;

async fn one_model(mesh: &Mesh, settings: Value) -> (Served, Sidecar) {
    let served = mesh.serve("chat", "--noise 0 --speed 2").await;
    let web = mesh.caller_with("web", settings).await;
    let documents = [backend("chat", &[served.endpoint()]).with("default", true)];
    mesh.publish(&documents, &[&served.sidecar, &web]).await;
    (served, web)
}

/// A stream of so many tokens that has begun.
async fn stream(connection: &mut Connection, tokens: u32) -> (Incoming, String) {
    let body = chat("hi", json!({"stream": true, "max_tokens": tokens, "ignore_eos": true}));
    let request = connection.post("/v1/chat/completions", &body);
    let mut stream = connection.send(request).await.into_body();
    let begun = client::read_until(&mut stream, "\"content\":").await;
    (stream, begun)
}

async fn is_draining(sidecar: &Sidecar) {
    eventually(&format!("{} is not ready any more", sidecar.name), async || {
        let page = client::get(sidecar.admin(), "/ready").await;
        let told = page.status == 503 && page.text.contains("shutting down");
        if told { Ok(()) } else { Err(format!("{page:?}")) }
    })
    .await;
    assert_eq!(client::get(sidecar.admin(), "/live").await.status, 200);
}

/// Whoever connects now is told at once that there is nobody, rather than left to wait in a queue that no one serves.
async fn takes_nothing_new(address: std::net::SocketAddr) {
    eventually("new connections are refused", async || match TcpStream::connect(address).await {
        Err(_) => Ok(()),
        Ok(_) => Err("accepted".to_owned()),
    })
    .await;
}

#[tokio::test]
async fn a_caller_s_sidecar_finishes_its_streams_and_takes_nothing_new() {
    let mesh = Mesh::start().await;
    for (version, name) in Version::BOTH.into_iter().zip(["TERM", "INT"]) {
        let (chat, mut web) = one_model(&mesh, json!({})).await;
        let mut connection = web.connect(version).await;
        let (running, begun) = stream(&mut connection, 600).await;
        let mut idle = web.connect(Version::Http1).await;
        let request = idle.request("GET", "/health").body(empty()).unwrap();
        assert_eq!(idle.ask(request).await.status, 200);
        signal(name, web.program.id());
        is_draining(&web).await;
        takes_nothing_new(web.outbound()).await;
        if version == Version::Http2 {
            let late = connection.request("GET", "/health").body(empty()).unwrap();
            let late = within("no for an answer", connection.try_send(late)).await;
            let refused = late.as_ref().map_or(true, |answer| answer.status() == 503);
            assert!(refused, "a new stream on an old connection was served: {late:?}");
        }
        assert_eq!(
            chat.engine.stats().await["running"],
            1,
            "the stream must still run for this to mean anything"
        );
        let rest = running.collect().await.expect("a stream that ends whole").to_bytes();
        let whole = begun + &String::from_utf8_lossy(&rest);
        assert!(whole.ends_with("data: [DONE]\n\n"), "{version}");
        assert_eq!(web.program.ended().await.code(), Some(0), "{version} {name}");
        let last = web.logged_so_far().into_iter().find(|line| line["streaming"] == true).unwrap();
        assert_eq!(last["classification"], "success");
    }
}

#[tokio::test]
async fn a_model_server_s_sidecar_finishes_its_streams() {
    let mesh = Mesh::start().await;
    let (mut chat, web) = one_model(&mesh, json!({})).await;
    let mut connection = web.connect(Version::Http1).await;
    let (running, begun) = stream(&mut connection, 600).await;
    chat.sidecar.program.terminate();
    is_draining(&chat.sidecar).await;
    takes_nothing_new(chat.sidecar.inbound()).await;
    // There is no other endpoint, and this one takes nothing: the answer is an error of ours, at once.
    let answer = client::post(web.outbound(), "/v1/chat/completions", &small()).await;
    assert!((500..600).contains(&answer.status) && answer.header("x-penstock-error").is_some(), "{answer:?}");
    assert_eq!(
        chat.engine.stats().await["running"],
        1,
        "the stream must still run for this to mean anything"
    );
    let rest = running.collect().await.expect("a stream that ends whole").to_bytes();
    assert!((begun + &String::from_utf8_lossy(&rest)).ends_with("data: [DONE]\n\n"));
    assert_eq!(chat.sidecar.program.ended().await.code(), Some(0));
}

fn small() -> Value {
    chat("hi", json!({"max_tokens": 2}))
}

#[tokio::test]
async fn what_runs_at_the_deadline_ends_with_an_error_and_the_exit_code_says_so() {
    let mesh = Mesh::start().await;
    let (chat, mut web) = one_model(&mesh, json!({"drain": {"deadline": "500ms"}})).await;
    for version in Version::BOTH {
        if !web.program.runs() {
            web.restart().await;
            web.ready().await;
        }
        let mut connection = web.connect(version).await;
        let (running, _) = stream(&mut connection, 100_000).await;
        let begun = Instant::now();
        web.program.terminate();
        let rest = within("the stream ends", running.collect()).await.expect("an orderly end").to_bytes();
        let text = String::from_utf8_lossy(&rest);
        let last = text.trim_end().rsplit("\n\n").next().expect("an event");
        let event: Value = serde_json::from_str(last.trim_start_matches("data: ")).expect("an event of ours");
        assert_eq!(event["error"]["code"], "draining", "{version}: {last}");
        assert_eq!(text.matches("\"error\"").count(), 1, "{version}: one error, and nothing after it");
        assert_eq!(web.program.ended().await.code(), Some(3), "{version}");
        let logged = web.logged_so_far().into_iter().rev().find(|line| line["streaming"] == true);
        let logged = logged.expect("a line of the stream");
        assert_eq!((&logged["classification"], &logged["error"]), (&json!("failure"), &json!("draining")));
        assert!(begun.elapsed() >= Duration::from_millis(500), "{:?}", begun.elapsed());
        chat.engine.idle().await;
        chat.sidecar.idle().await;
    }
    assert_eq!(chat.engine.count("aborted_requests").await, 2);
}

#[tokio::test]
async fn a_request_whose_model_is_still_looked_for_at_the_deadline_is_told_why_it_ends() {
    let mesh = Mesh::start().await;
    let chat = mesh.serve("chat", "--noise 0").await;
    let mut web = mesh.caller_with("web", json!({"drain": {"deadline": "500ms"}})).await;
    let rules = json!([model_rule("penstock-small", "chat")]);
    let documents = [backend("chat", &[chat.endpoint()]).with("default", true), route("chat", &rules)];
    mesh.publish(&documents, &[&chat.sidecar, &web]).await;
    let mut raw = Raw::open(web.outbound()).await;
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: chat\r\ncontent-type: application/json\r\n";
    raw.send(format!("{head}content-length: 1000\r\n\r\n{{\"messages\":")).await;
    web.metric_is("penstock_inflight_requests", &[("direction", "outbound")], 1.0).await;
    web.program.terminate();
    let told = raw.read_to_end().await;
    assert!(told.starts_with("HTTP/1.1 503 ") && told.contains("x-penstock-error: draining"), "{told:?}");
    assert_eq!(web.program.ended().await.code(), Some(3));
}

#[tokio::test]
async fn nothing_idle_holds_up_the_end() {
    let mesh = Mesh::start().await;
    // A sidecar that waited for it would wait longer than this test.
    let patient = json!({"limits": {"headerReadTimeout": "5m"}});
    let (mut chat, mut web) = one_model(&mesh, patient).await;
    let mut kept = Vec::new();
    for version in Version::BOTH {
        let mut connection = web.connect(version).await;
        let request = connection.request("GET", "/health").body(empty()).unwrap();
        assert_eq!(connection.ask(request).await.status, 200);
        kept.push(connection);
    }
    // One that never asked for anything, and one of a scraper.
    let silent = Raw::open(web.outbound()).await;
    web.metric_is("penstock_open_connections", &[("direction", "outbound")], 3.0).await;
    let mut scraper = Connection::open(Version::Http1, web.admin()).await;
    let request = scraper.request("GET", "/metrics").body(empty()).unwrap();
    assert_eq!(scraper.ask(request).await.status, 200);
    for program in [&mut web.program, &mut chat.sidecar.program, &mut chat.engine.program] {
        program.terminate();
        assert_eq!(program.ended().await.code(), Some(0));
    }
    drop((kept, silent, scraper));
}

#[tokio::test]
async fn no_request_is_lost_while_a_model_server_s_sidecar_goes() {
    // One that reports steer, and one that chooses by lot among those which have not said that they drain.
    for policy in ["LeastCost", "Random"] {
        goes_beside_another(policy).await;
    }
}

async fn goes_beside_another(load_balancer: &str) {
    let mesh = Mesh::start().await;
    let mut a = mesh.serve("a", "--speed 50").await;
    let b = mesh.serve("b", "--speed 50").await;
    let web = mesh.caller("web").await;
    let documents = [
        backend("chat", &[a.endpoint(), b.endpoint()]).with("default", true),
        policy("chat").with("loadBalancer", json!({"policy": load_balancer})),
    ];
    mesh.publish(&documents, &[&a.sidecar, &b.sidecar, &web]).await;
    let load = Load::start(web.outbound());
    load.more(100).await;
    a.sidecar.program.terminate();
    assert_eq!(a.sidecar.program.ended().await.code(), Some(0));
    load.more(100).await;
    // Whether any was tried twice is luck: who hears of the drain in time has nothing to try again.
    let faults = load.end().await;
    assert!(faults.is_empty(), "{load_balancer}: {} requests were lost: {faults:#?}", faults.len());
    for engine in [&a.engine, &b.engine] {
        assert!(engine.count("finished_requests").await > 0, "{load_balancer}");
    }
}

/// Asks by way of the Backend `to`; the status.
async fn ask_by(web: &Sidecar, to: &str) -> u16 {
    let mut connection = web.connect(Version::Http2).await;
    let mut request = connection.post("/v1/chat/completions", &chat("hi", json!({"max_tokens": 1})));
    request.headers_mut().insert("x-to", to.parse().expect("a value"));
    connection.ask(request).await.status
}

#[tokio::test]
async fn a_model_server_s_sidecar_that_comes_back_where_it_was_is_used_again() {
    let mesh = Mesh::start().await;
    let mut a = mesh.serve("a", "--speed 50").await;
    let b = mesh.serve("b", "--speed 50").await;
    let web = mesh.caller("web").await;
    let to = |name| json!({"matches": [{"headers": [{"name": "x-to", "value": name}]}], "backendRefs": [reference(name)]});
    let documents = [
        backend("alone", &[a.endpoint()]).with("default", true),
        backend("pair", &[a.endpoint(), b.endpoint()]),
        backend("lot", &[a.endpoint(), b.endpoint()]),
        policy("lot").with("loadBalancer", json!({"policy": "Random"})),
        route("alone", &json!([to("alone"), to("pair"), to("lot")])),
    ];
    mesh.publish(&documents, &[&a.sidecar, &b.sidecar, &web]).await;
    let backends = ["alone", "pair", "lot"];
    for _ in 0..8 {
        for to in backends {
            assert_eq!(ask_by(&web, to).await, 200, "{to}");
        }
    }
    let applications = json!([{"endpoint": a.engine.address}]);
    let spec = json!({"inbound": {"listen": a.sidecar.inbound(), "applications": applications}});
    a.sidecar.configure(mesh.spec("a", spec));
    a.sidecar.program.terminate();
    assert_eq!(a.sidecar.program.ended().await.code(), Some(0));
    a.sidecar.restart().await;
    a.sidecar.ready().await;
    for to in backends {
        let before = a.engine.count("finished_requests").await;
        eventually(&format!("{to}: the one that has come back is used"), async || {
            let status = ask_by(&web, to).await;
            let others = to == "alone" || status == 200;
            assert!(others, "{to}: there was another all the time, and it answered {status}");
            let after = a.engine.count("finished_requests").await;
            if after > before { Ok(()) } else { Err(status.to_string()) }
        })
        .await;
    }
}
