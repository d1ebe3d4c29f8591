//! Whoever leaves frees the model server's place at once, in whatever phase, and no account stays open anywhere.
//!
//! The model server counts for itself: it says when it noticed and when the place was free, by the clock of this machine.

use std::future::Future;
use std::time::Duration;

use futures::future::{Either, select};
use http::Request;
use http_body_util::BodyExt;
use penstock_tests::client::{Body, Connection, Raw, Version, unfinished};
use penstock_tests::documents::{Endpoint, backend, model_rule, policy, route};
use penstock_tests::engine::{Engine, chat};
use penstock_tests::mesh::{Mesh, Served};
use penstock_tests::sidecar::Sidecar;
use penstock_tests::wait::{eventually, unix_ms, within};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpSocket};

/// The promise is 100 ms. Asserted is what also holds on a machine that does other work.
const BOUND_MS: u64 = 1_000;

/// How a caller leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// It closes its connection.
    CloseHttp1,
    /// It resets the stream; the connection stays.
    ResetStream,
    /// It closes the connection with the stream on it.
    CloseHttp2,
}

impl Way {
    const ALL: [Self; 3] = [Self::CloseHttp1, Self::ResetStream, Self::CloseHttp2];

    fn version(self) -> Version {
        if self == Self::CloseHttp1 { Version::Http1 } else { Version::Http2 }
    }

    /// Sends a request, waits for `phase` while it is under way, and leaves; gives the time of that.
    async fn leave(
        self,
        mut connection: Connection,
        request: Request<Body>,
        phase: impl Future<Output = ()>,
    ) -> u64 {
        let asked = Box::pin(async {
            let mut answer = connection.try_send(request).await.expect("an answer that begins");
            while let Some(frame) = answer.frame().await {
                frame.expect("an answer that goes on");
            }
        });
        let Either::Right(((), asked)) = select(asked, Box::pin(phase)).await else {
            panic!("the answer was there before the caller could leave");
        };
        let left = unix_ms();
        drop(asked);
        if self == Self::ResetStream {
            // Whether the connection lives is seen by using it.
            let request = connection.request_to("nowhere", "GET", "/").body(penstock_tests::client::empty());
            assert_eq!(connection.ask(request.unwrap()).await.status, 404);
        }
        left
    }
}

/// A model server with one place and small steps, and a caller whose routes ask for the model.
async fn one_place(mesh: &Mesh) -> (Served, Sidecar) {
    let served = mesh.serve("chat", "--noise 0 --max-num-seqs 1 --max-num-batched-tokens 64").await;
    let web = mesh.caller("web").await;
    let documents = [
        backend("chat", &[served.endpoint()]).with("default", true),
        route("chat", &json!([model_rule("penstock-small", "chat")])),
    ];
    mesh.publish(&documents, &[&served.sidecar, &web]).await;
    (served, web)
}

/// Nothing is open any more, and both logs say why.
async fn all_is_closed(id: &str, sidecars: &[&Sidecar]) {
    for sidecar in sidecars {
        sidecar.idle().await;
        sidecar.metric_is("penstock_endpoint_load", &[("signal", "inflight")], 0.0).await;
        sidecar.metric_is("penstock_body_held_bytes", &[], 0.0).await;
        let line = sidecar.logged(id).await;
        assert_eq!(line["classification"], "cancelled", "{}: {line:#}", sidecar.name);
    }
}

fn named(connection: &Connection, id: &str, body: &Value) -> Request<Body> {
    let mut request = connection.post("/v1/chat/completions", body);
    request.headers_mut().insert("x-request-id", id.parse().unwrap());
    request
}

/// The last abort that the engine counted must be of this request in this phase, and soon enough.
fn check_abort(stats: &Value, id: &str, phase: &str, left: u64) {
    let abort = stats["aborts"].as_array().and_then(|all| all.last()).expect("an abort");
    assert_eq!((&abort["request_id"], &abort["phase"]), (&json!(id), &json!(phase)), "{abort:#}");
    let after = |what: &str| abort[what].as_u64().expect("a time").saturating_sub(left);
    let (noticed, freed) = (after("noticed_unix_ms"), after("freed_unix_ms"));
    println!("{id}: noticed after {noticed} ms, free after {freed} ms");
    assert!(freed <= BOUND_MS, "{id}: free only after {freed} ms: {abort:#}");
}

/// Leaves in each way when the engine says that it is as `wish`; the engine must have aborted it in `phase`.
async fn check(phase: &str, body: Value, wish: impl Fn(&Value, u64) -> bool) {
    let mesh = Mesh::start().await;
    let (chat, web) = one_place(&mesh).await;
    for (number, way) in Way::ALL.into_iter().enumerate() {
        let id = format!("{phase}-{}-{way:?}", if body["stream"] == true { "stream" } else { "whole" });
        let tokens = chat.engine.count("generation_tokens").await;
        let connection = web.connect(way.version()).await;
        let request = named(&connection, &id, &body);
        let reached = async {
            chat.engine.stats_when(&format!("{id} is there"), |stats| wish(stats, tokens)).await;
        };
        let left = way.leave(connection, request, reached).await;
        let stats = aborted(&chat.engine, number + 1).await;
        check_abort(&stats, &id, phase, left);
        all_is_closed(&id, &[&web, &chat.sidecar]).await;
    }
}

async fn aborted(engine: &Engine, number: usize) -> Value {
    let what = format!("{number} aborts and nothing that runs");
    engine.stats_when(&what, |stats| stats["aborted_requests"] == number && stats["running"] == 0).await
}

fn generated(stats: &Value, before: u64) -> u64 {
    stats["generation_tokens"].as_u64().unwrap_or_default() - before
}

#[tokio::test]
async fn in_the_middle_of_a_stream() {
    let body = chat("hi", json!({"stream": true, "max_tokens": 100_000, "ignore_eos": true}));
    check("decode", body, |stats, before| generated(stats, before) > 5).await;
}

#[tokio::test]
async fn while_an_answer_that_is_not_streamed_is_computed() {
    let body = chat("hi", json!({"max_tokens": 100_000, "ignore_eos": true}));
    check("decode", body, |stats, before| generated(stats, before) > 5).await;
}

#[tokio::test]
async fn in_prefill() {
    let words = "water and gate ".repeat(20_000);
    for stream in [false, true] {
        let body = chat(&words, json!({"stream": stream, "max_tokens": 5}));
        check("prefill", body, |stats, before| stats["running"] == 1 && generated(stats, before) == 0).await;
    }
}

#[tokio::test]
async fn while_it_waits_in_the_engine_s_queue() {
    let mesh = Mesh::start().await;
    let (served, web) = one_place(&mesh).await;
    let long = chat("hi", json!({"stream": true, "max_tokens": 100_000, "ignore_eos": true}));
    let mut first = web.connect(Version::Http2).await;
    let mut running = first.send(first.post("/v1/chat/completions", &long)).await.into_body();
    served.engine.stats_when("one runs", |stats| stats["running"] == 1 && stats["waiting"] == 0).await;
    for (number, way) in Way::ALL.into_iter().enumerate() {
        let id = format!("waiting-{way:?}");
        let connection = web.connect(way.version()).await;
        let request = named(&connection, &id, &long);
        let reached = async {
            served.engine.stats_when("one waits", |stats| stats["waiting"] == 1).await;
        };
        let left = way.leave(connection, request, reached).await;
        let stats =
            served.engine.stats_when("one less", |stats| stats["aborted_requests"] == number + 1).await;
        assert_eq!(
            (&stats["running"], &stats["waiting"]),
            (&json!(1), &json!(0)),
            "the other goes on: {stats:#}"
        );
        check_abort(&stats, &id, "waiting", left);
        web.metric_is("penstock_inflight_requests", &[], 1.0).await;
        assert_eq!(web.logged(&id).await["classification"], "cancelled");
    }
    assert!(within("a chunk", running.frame()).await.unwrap().is_ok());
}

#[tokio::test]
async fn while_its_body_is_held_until_the_model_is_known() {
    let mesh = Mesh::start().await;
    let (served, web) = one_place(&mesh).await;
    let beginning = format!(r#"{{"messages":[{{"role":"user","content":"{}"#, "water ".repeat(50_000));
    for way in Way::ALL {
        let id = format!("held-{way:?}");
        let connection = web.connect(way.version()).await;
        let mut request = named(&connection, &id, &json!({}));
        *request.body_mut() = unfinished(beginning.clone());
        let reached = eventually("the body is held", async || {
            let held = web.metrics().await.sum("penstock_body_held_bytes", &[]);
            if held >= 300_000.0 { Ok(()) } else { Err(format!("{held} bytes")) }
        });
        let left = way.leave(connection, request, reached).await;
        web.idle().await;
        println!("{id}: account closed after at most {} ms", unix_ms() - left);
        all_is_closed(&id, &[&web]).await;
        assert_eq!(web.logged(&id).await["endpoint"], Value::Null);
    }
    assert_eq!(served.sidecar.access_log().await.len(), 0, "nothing was sent anywhere");
}

#[tokio::test]
async fn while_its_body_is_on_its_way_to_the_engine() {
    let mesh = Mesh::start().await;
    let (served, web) = one_place(&mesh).await;
    let beginning = format!(
        r#"{{"model":"penstock-small","messages":[{{"role":"user","content":"{}"#,
        "water ".repeat(50_000)
    );
    for way in Way::ALL {
        let id = format!("uploading-{way:?}");
        let connection = web.connect(way.version()).await;
        let mut request = named(&connection, &id, &json!({}));
        *request.body_mut() = unfinished(beginning.clone());
        let reached = async {
            served.sidecar.metric_is("penstock_inflight_requests", &[("direction", "inbound")], 1.0).await;
        };
        let left = way.leave(connection, request, reached).await;
        served.sidecar.idle().await;
        println!("{id}: account at the far end closed after at most {} ms", unix_ms() - left);
        all_is_closed(&id, &[&web, &served.sidecar]).await;
    }
    let stats = served.engine.stats().await;
    assert_eq!(
        (&stats["accepted_requests"], &stats["aborted_requests"]),
        (&json!(0), &json!(0)),
        "{stats:#}"
    );
}

/// A backend whose sidecar is at `hole`, and all the time in the world to connect to it.
async fn towards(hole: std::net::SocketAddr, mesh: &Mesh) -> Sidecar {
    let web = mesh.caller("web").await;
    let endpoint = Endpoint { address: ([127, 0, 0, 1], 9).into(), sidecar: Some(hole) };
    let documents = [
        backend("chat", &[endpoint]).with("default", true),
        // Where costs decide, the sidecar connects on its own account as well, to hear how the endpoint stands.
        policy("chat")
            .with("connectionPool", json!({"tcp": {"connectTimeout": "5m"}}))
            .with("loadBalancer", json!({"policy": "P2C"})),
    ];
    mesh.publish(&documents, &[&web]).await;
    web
}

#[tokio::test]
async fn while_the_other_sidecar_says_nothing_to_the_handshake() {
    let mesh = Mesh::start().await;
    let hole = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let web = towards(hole.local_addr().unwrap(), &mesh).await;
    for way in Way::ALL {
        let id = format!("handshake-{way:?}");
        let connection = web.connect(way.version()).await;
        let request = named(&connection, &id, &chat("hi", json!({})));
        let mut caught = None;
        let reached = async {
            let (mut stream, _) = hole.accept().await.unwrap();
            assert!(stream.read(&mut [0; 16]).await.unwrap() > 0, "it says hello");
            caught = Some(stream);
        };
        let left = way.leave(connection, request, within("a connection to the hole", reached)).await;
        let mut rest = Vec::new();
        // A reset ends it as well.
        drop(within("the connection is given up", caught.unwrap().read_to_end(&mut rest)).await);
        let after = unix_ms() - left;
        println!("{id}: given up after {after} ms");
        assert!(after <= BOUND_MS, "{id}: given up only after {after} ms");
        all_is_closed(&id, &[&web]).await;
    }
}

#[tokio::test]
async fn while_the_network_says_nothing() {
    let mesh = Mesh::start().await;
    // A full backlog: the kernel drops whatever else asks for a connection.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let hole = socket.listen(1).unwrap();
    let address = hole.local_addr().unwrap();
    let mut fillers = Vec::new();
    while let Ok(stream) =
        tokio::time::timeout(Duration::from_millis(300), tokio::net::TcpStream::connect(address)).await
    {
        fillers.push(stream.unwrap());
    }
    let web = towards(address, &mesh).await;
    for way in Way::ALL {
        let id = format!("connecting-{way:?}");
        let connection = web.connect(way.version()).await;
        let request = named(&connection, &id, &chat("hi", json!({})));
        let reached = web.metric_is("penstock_endpoint_load", &[("signal", "inflight")], 1.0);
        let left = way.leave(connection, request, reached).await;
        web.idle().await;
        println!("{id}: account closed after at most {} ms", unix_ms() - left);
        all_is_closed(&id, &[&web]).await;
        assert_eq!(web.logged(&id).await["attempts"], 1);
    }
}

#[tokio::test]
async fn a_caller_that_closes_its_half_alone_still_gets_its_answer_or_is_gone() {
    let mesh = Mesh::start().await;
    let (served, web) = one_place(&mesh).await;
    let body = chat("hi", json!({"max_tokens": 20, "ignore_eos": true})).to_string();
    let mut raw = Raw::open(web.outbound()).await;
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: {}\r\nx-request-id: half\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        web.outbound(),
        body.len()
    );
    raw.send(head + &body).await;
    raw.close_own_half().await;
    let answer = raw.read_to_end().await;
    let line = web.logged("half").await;
    let answered = answer.starts_with("HTTP/1.1 200 ");
    assert_eq!(line["classification"], if answered { "success" } else { "cancelled" }, "{answer} {line:#}");
    served.engine.idle().await;
    web.idle().await;
}
