//! A sidecar's own settings change while it runs: streams go on, what cannot change is named, and what is wrong changes nothing.

use http_body_util::BodyExt;
use hyper::body::Incoming;
use penstock_tests::client::{self, Answer, Connection, Raw, Version, empty};
use penstock_tests::documents::{Endpoint, backend};
use penstock_tests::engine::{Engine, chat};
use penstock_tests::mesh::Mesh;
use penstock_tests::programs::signal;
use penstock_tests::sidecar::Sidecar;
use penstock_tests::wait::{eventually, within};
use serde_json::{Value, json};

fn outbound(mut more: Value) -> Value {
    more["outbound"] = json!({"listen": "127.0.0.1:0"});
    more
}

/// Gives a sidecar other settings, and waits until it has read them.
async fn configure(sidecar: &Sidecar, spec: Value, result: &str) {
    let labels = [("result", result)];
    let before = sidecar.metrics().await.sum("penstock_settings_reloads_total", &labels);
    sidecar.configure(spec);
    sidecar.metric_is("penstock_settings_reloads_total", &labels, before + 1.0).await;
}

async fn settings(sidecar: &Sidecar) -> Value {
    sidecar.page("/settings").await
}

/// A stream of so many tokens that has begun.
async fn begin(connection: &mut Connection, tokens: u32) -> (Incoming, String) {
    let body = chat("hi", json!({"stream": true, "max_tokens": tokens, "ignore_eos": true}));
    let mut stream = connection.send(connection.post("/v1/chat/completions", &body)).await.into_body();
    let begun = client::read_until(&mut stream, "\"content\":").await;
    (stream, begun)
}

async fn ends_whole((stream, begun): (Incoming, String), tokens: usize) {
    let rest = stream.collect().await.expect("a stream that ends whole").to_bytes();
    let whole = begun + &String::from_utf8_lossy(&rest);
    assert!(whole.ends_with("data: [DONE]\n\n"), "{whole}");
    assert_eq!(whole.matches("\"delta\":{\"content\":").count(), tokens);
}

/// A request whose head has so many bytes and a few more.
async fn ask(sidecar: &Sidecar, head_bytes: usize) -> Answer {
    let mut connection = sidecar.connect(Version::Http1).await;
    let request = connection.request("GET", "/v1/models").header("x-long", "a".repeat(head_bytes));
    connection.ask(request.body(empty()).unwrap()).await
}

#[tokio::test]
async fn settings_change_under_a_stream_and_a_file_that_is_refused_changes_nothing() {
    let mesh = Mesh::start().await;
    let served = mesh.serve("chat", "--noise 0").await;
    let web = mesh.caller("web").await;
    mesh.publish(&[backend("chat", &[served.endpoint()]).with("default", true)], &[&served.sidecar, &web])
        .await;
    let spec = |more| mesh.spec("web", outbound(more));
    let mut connection = web.connect(Version::Http2).await;
    let stream = begin(&mut connection, 1_000).await;

    assert_eq!(ask(&web, 3_000).await.status, 200);
    configure(&web, spec(json!({"limits": {"headerBytesMax": "2Ki"}})), "success").await;
    assert_eq!((ask(&web, 3_000).await.status, ask(&web, 100).await.status), (431, 200));
    assert_eq!(settings(&web).await["inForce"]["limits"]["headerBytesMax"], 2_048);

    // Whatever is wrong with a file, nothing of it is used: the limit beside it would let the request through.
    for (wrong, told) in [
        (json!({"limits": {"headerBytesMax": "2"}}), "headerBytesMax"),
        (json!({"drain": {"deadlin": "1s"}}), "unknown field `deadlin`"),
        (json!({"logLevel": "inof"}), "`inof` in the log level `inof` is no level"),
        (json!({"accessLog": {"path": "there/is/no/such.log"}}), "cannot be opened for appending"),
    ] {
        configure(&web, spec(wrong), "failure").await;
        let page = settings(&web).await;
        assert!(page["lastError"].as_str().unwrap().contains(told), "{page:#}");
        assert_eq!(page["inForce"]["limits"]["headerBytesMax"], 2_048);
        assert_eq!(ask(&web, 3_000).await.status, 431);
        assert!(web.is_ready().await);
    }
    assert!(web.program.log().contains("all of those in force stay"), "{}", web.program.log());

    let lines = web.access_log().await.len();
    configure(
        &web,
        spec(json!({"accessLog": {"path": "other.log"}, "logLevel": "info,h2=trace"})),
        "success",
    )
    .await;
    assert_eq!(settings(&web).await["lastError"], Value::Null);
    assert_eq!(ask(&web, 3_000).await.status, 200, "the limit is what it is without a word");
    eventually("one line in the other file", async || {
        let text = std::fs::read_to_string(mesh.dir().join("other.log")).unwrap_or_default();
        if text.lines().count() == 1 { Ok(()) } else { Err(text) }
    })
    .await;
    assert_eq!(web.logged_so_far().len(), lines, "and none in the one of before");
    eventually("it says more", async || {
        let log = web.program.log();
        let is_told = log.lines().any(|line| line.contains("TRACE") && line.contains("h2::"));
        if is_told { Ok(()) } else { Err(log) }
    })
    .await;

    configure(&web, spec(json!({"limits": {"connectionsMax": 1}})), "success").await;
    web.metric_is("penstock_open_connections", &[("direction", "outbound")], 1.0).await;
    let mut second = Raw::open(web.outbound()).await;
    assert_eq!(second.read_to_end().await, "", "the stream has the one connection");
    web.metric_is("penstock_connections_refused_total", &[("reason", "connections_max")], 1.0).await;
    configure(&web, spec(json!({})), "success").await;
    assert_eq!(ask(&web, 100).await.status, 200);
    ends_whole(stream, 1_000).await;
}

#[tokio::test]
async fn a_listener_keeps_its_address_and_the_change_is_named_until_it_is_taken_back() {
    let mesh = Mesh::start().await;
    let served = mesh.serve("chat", "--speed 50").await;
    let web = mesh.caller("web").await;
    mesh.publish(&[backend("chat", &[served.endpoint()]).with("default", true)], &[&served.sidecar, &web])
        .await;
    let small = chat("hi", json!({"max_tokens": 2}));

    let mut moved = mesh.spec("web", json!({"drain": {"deadline": "7s"}}));
    moved["outbound"] = json!({"listen": "127.0.0.1:1"});
    moved["inbound"] = json!({"listen": "127.0.0.1:2", "applications": [{"endpoint": "127.0.0.1:3"}]});
    moved["admin"] = json!({"listen": "127.0.0.1:4"});
    configure(&web, moved, "success").await;
    let page = settings(&web).await;
    let kept = |field: &str, in_force: &str, written: &str| json!({"field": field, "inForce": in_force, "written": written});
    let expected = json!([
        kept("spec.outbound.listen", "127.0.0.1:0", "127.0.0.1:1"),
        kept("spec.inbound.listen", "none", "127.0.0.1:2"),
        kept("spec.admin.listen", "127.0.0.1:0", "127.0.0.1:4"),
    ]);
    assert_eq!(page["restartNeeded"], expected);
    assert_eq!(page["inForce"]["drainDeadlineMs"], 7_000, "what is no listener is in force");
    web.metric_is("penstock_settings_restart_needed", &[], 3.0).await;
    let log = web.program.log();
    for field in ["spec.outbound.listen", "spec.inbound.listen", "spec.admin.listen"] {
        let told = |line: &str| line.contains("this change needs a restart") && line.contains(field);
        assert!(log.lines().any(told), "{field}: {log}");
    }
    assert_eq!(client::post(web.outbound(), "/v1/chat/completions", &small).await.status, 200);

    configure(&web, mesh.spec("web", outbound(json!({}))), "success").await;
    assert_eq!(settings(&web).await["restartNeeded"], json!([]));
    web.metric_is("penstock_settings_restart_needed", &[], 0.0).await;
}

#[tokio::test]
async fn a_sidecar_moves_from_one_control_plane_to_another_that_has_another_root() {
    let [here, there] = [Mesh::start().await, Mesh::start().await];
    let [near, far] = [here.serve("near", "--noise 0").await, there.serve("far", "--speed 50").await];
    let web = here.caller("web").await;
    here.publish(&[backend("chat", &[near.endpoint()]).with("default", true)], &[&near.sidecar, &web]).await;
    there.publish(&[backend("chat", &[far.endpoint()]).with("default", true)], &[&far.sidecar]).await;
    let mut connection = web.connect(Version::Http2).await;
    let stream = begin(&mut connection, 500).await;
    let root = web.page("/identity").await["roots"].clone();

    configure(&web, there.spec("web", outbound(json!({}))), "success").await;
    let version = there.plane.status().await["config"]["version"].as_str().unwrap().to_owned();
    web.uses(&version).await;
    eventually("it has a certificate of the other control plane", async || {
        let page = web.page("/identity").await;
        if page["roots"] != root && page["lastError"].is_null() { Ok(()) } else { Err(format!("{page:#}")) }
    })
    .await;
    let small = chat("hi", json!({"max_tokens": 2}));
    assert_eq!(client::post(web.outbound(), "/v1/chat/completions", &small).await.status, 200);
    assert!(far.engine.count("finished_requests").await > 0);
    there.in_use(&version, &[&web]).await;
    ends_whole(stream, 500).await;

    // And from there to documents of its own.
    let own = here.dir().join("own.yaml");
    std::fs::write(&own, penstock_tests::documents::file(&[backend("other", &[far.endpoint()])])).unwrap();
    let mut spec = there.spec("web", outbound(json!({"documents": own})));
    spec["stateDir"] = json!("elsewhere");
    configure(&web, spec, "success").await;
    eventually("its own documents are in use", async || {
        let page = web.page("/config/sync").await;
        if page["source"] == "files" && page["connected"] == false {
            Ok(())
        } else {
            Err(format!("{page:#}"))
        }
    })
    .await;
    web.metric_is("penstock_xds_connected", &[], 0.0).await;
    eventually("the snapshot is kept in the other place", async || {
        let bytes = std::fs::read(here.dir().join("elsewhere/snapshot.bin")).unwrap_or_default();
        if bytes.windows(5).any(|word| word == b"other") {
            Ok(())
        } else {
            Err(format!("{} bytes", bytes.len()))
        }
    })
    .await;
}

#[tokio::test]
async fn an_application_is_added_behind_a_sidecar_and_the_deadline_of_a_drain_is_cut_short() {
    let mesh = Mesh::start().await;
    let mut served = mesh.serve("chat", "--noise 0").await;
    let second = Engine::start(mesh.dir(), "second-engine", "--speed 50").await;
    let web = mesh.caller("web").await;
    let beside = Endpoint { address: second.address, sidecar: Some(served.sidecar.inbound()) };
    let documents =
        [backend("chat", &[served.endpoint()]).with("default", true), backend("second", &[beside])];
    mesh.publish(&documents, &[&served.sidecar, &web]).await;
    let ask = async || {
        let mut connection = web.connect(Version::Http1).await;
        let request = connection.request_to("second", "GET", "/v1/models").body(empty());
        connection.ask(request.unwrap()).await.status
    };
    assert_eq!(ask().await, 502, "the sidecar behind it does not serve it yet");
    let applications = json!([{"endpoint": served.engine.address}, {"endpoint": second.address}]);
    let spec = json!({"inbound": {"listen": "127.0.0.1:0", "applications": applications}, "drain": {"deadline": "100ms"}});
    configure(&served.sidecar, mesh.spec("chat", spec), "success").await;
    assert_eq!(ask().await, 200);

    // Without the new deadline the stream would go on for minutes.
    let mut connection = web.connect(Version::Http2).await;
    let (running, _) = begin(&mut connection, 100_000).await;
    signal("TERM", served.sidecar.program.id());
    let status = within("the end", served.sidecar.program.ended()).await;
    assert_eq!(status.code(), Some(3));
    drop(running);
}
