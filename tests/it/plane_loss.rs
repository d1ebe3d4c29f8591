//! The control plane may go, come back, or be told nonsense: requests do not notice.

use std::net::SocketAddr;

use penstock_tests::client::{self, Connection, Version};
use penstock_tests::documents::{Document, Endpoint, backend, file, reference, route};
use penstock_tests::engine::chat;
use penstock_tests::load::Load;
use penstock_tests::mesh::{Mesh, Served};
use penstock_tests::sidecar::Sidecar;
use penstock_tests::wait::{eventually, within};
use serde_json::{Value, json};
use tokio::time::Instant;

const ENOUGH: u64 = 100;

async fn two_engines(mesh: &Mesh) -> (Served, Served, Sidecar) {
    let a = mesh.serve("a", "--speed 50").await;
    let b = mesh.serve("b", "--speed 50").await;
    let web = mesh.caller("web").await;
    let documents = [backend("chat", &[a.endpoint(), b.endpoint()]).with("default", true)];
    mesh.publish(&documents, &[&a.sidecar, &b.sidecar, &web]).await;
    (a, b, web)
}

fn none(faults: &[String]) {
    assert!(faults.is_empty(), "{} requests were lost: {faults:#?}", faults.len());
}

#[tokio::test]
async fn no_request_is_lost_while_the_control_plane_is_killed_and_comes_back() {
    let mut mesh = Mesh::start().await;
    let (a, b, web) = two_engines(&mesh).await;
    let sidecars = [&a.sidecar, &b.sidecar, &web];
    let load = Load::start(web.outbound());
    load.more(ENOUGH).await;
    mesh.plane.kill();
    for sidecar in sidecars {
        sidecar.metric_is("penstock_xds_connected", &[], 0.0).await;
        assert!(sidecar.is_ready().await, "{} goes on without its control plane", sidecar.name);
    }
    load.more(ENOUGH).await;
    mesh.plane.restart().await;
    let version = mesh.plane.status().await["config"]["version"].as_str().unwrap().to_owned();
    mesh.in_use(&version, &sidecars).await;
    load.more(ENOUGH).await;
    // It is the same mesh: a change arrives as before.
    mesh.publish(&[backend("chat", &[b.endpoint()]).with("default", true)], &sidecars).await;
    load.more(ENOUGH).await;
    println!("{} requests", load.answered());
    none(&load.end().await);
    assert!(a.engine.count("finished_requests").await > 0 && b.engine.count("finished_requests").await > 0);
}

#[tokio::test]
async fn no_request_is_lost_while_endpoints_and_weights_change() {
    let mesh = Mesh::start().await;
    let (a, b, web) = two_engines(&mesh).await;
    let sidecars = [&a.sidecar, &b.sidecar, &web];
    let load = Load::start(web.outbound());
    let (both, one) = ([a.endpoint(), b.endpoint()], [a.endpoint()]);
    let plain = |endpoints: &[Endpoint]| backend("chat", endpoints).with("default", true);
    let split = |to_a: u32, to_b: u32| -> Vec<Document> {
        let weighted = |name: &str, weight: u32| {
            let mut written = reference(name);
            written["weight"] = json!(weight);
            written
        };
        vec![
            plain(&both),
            backend("only-a", &one),
            backend("only-b", &[b.endpoint()]),
            route("chat", &json!([{"backendRefs": [weighted("only-a", to_a), weighted("only-b", to_b)]}])),
        ]
    };
    for _ in 0..3 {
        for documents in [vec![plain(&one)], vec![plain(&both)], split(1, 9), split(9, 1), split(0, 1)] {
            mesh.publish(&documents, &sidecars).await;
            load.more(ENOUGH / 2).await;
        }
    }
    // Everything goes to one of them now, and to the other nothing that was not there before.
    a.sidecar.idle().await;
    let before = a.engine.count("accepted_requests").await;
    load.more(ENOUGH).await;
    assert_eq!(a.engine.count("accepted_requests").await, before);
    println!("{} requests", load.answered());
    none(&load.end().await);
}

const BAD: &str = "# Two documents, of which the second is bad.\n\
apiVersion: penstock.dev/v1alpha1\nkind: Backend\nmetadata: {name: chat}\nspec:\n  default: true\n  endpoints:\n    - {address: 127.0.0.1, port: 1}\n\
---\napiVersion: penstock.dev/v1alpha1\nkind: Backend\nmetadata: {name: next}\nspec:\n  edpoints:\n    - {address: 127.0.0.1, port: 70000}\n";

#[tokio::test]
async fn a_bad_change_changes_nothing_and_says_why_and_where() {
    let mesh = Mesh::start().await;
    let (a, b, web) = two_engines(&mesh).await;
    let sidecars = [&a.sidecar, &b.sidecar, &web];
    let before = mesh.plane.status().await;
    let (dump, load) = (web.page("/config_dump").await, Load::start(web.outbound()));
    load.more(ENOUGH / 2).await;
    mesh.plane.write("mesh.yaml", BAD);
    let after =
        mesh.plane.status_when("the change is refused", |status| status["config"]["valid"] == false).await;
    load.more(ENOUGH / 2).await;
    assert_eq!(after["config"]["version"], before["config"]["version"]);
    assert!(after["sidecars"].as_array().unwrap().iter().all(|row| row["in_sync"] == true), "{after:#}");
    assert_eq!(web.page("/config_dump").await, dump);
    let findings = after["config"]["findings"].as_array().unwrap();
    let misspelt = findings.iter().find(|finding| finding["message"].as_str().unwrap().contains("edpoints"));
    let misspelt = misspelt.unwrap_or_else(|| panic!("{after:#}"));
    let place = ["file", "line", "column"].map(|key| misspelt[key].clone());
    let path = mesh.plane.documents_dir().join("mesh.yaml");
    assert_eq!(place, [json!(path), json!(14), json!(3)], "{misspelt:#}");
    assert!(misspelt["help"].as_str().is_some_and(|help| help.contains("endpoints")), "{misspelt:#}");
    let log = mesh.plane.program.log();
    assert!(log.contains(&format!("{}:14:3", path.display())), "{log}");
    assert_eq!(mesh.plane.metrics().await.sum("penstock_config_valid", &[]), 0.0);

    // Half a file, as an editor might leave it, is nothing else.
    mesh.plane.write("mesh.yaml", &BAD[..BAD.len() / 2 + 40]);
    load.more(ENOUGH / 2).await;
    assert_eq!(mesh.plane.status().await["config"]["version"], before["config"]["version"]);

    // A sidecar that starts meanwhile gets the last good.
    let late = mesh.caller("late").await;
    mesh.in_use(before["config"]["version"].as_str().unwrap(), &[&late]).await;
    late.ready().await;
    assert_eq!(client::post(late.outbound(), "/v1/chat/completions", &small()).await.status, 200);

    mesh.publish(&[backend("chat", &[a.endpoint()]).with("default", true)], &sidecars).await;
    load.more(ENOUGH / 2).await;
    none(&load.end().await);
}

fn small() -> Value {
    chat("hi", json!({"max_tokens": 2}))
}

#[tokio::test]
async fn a_control_plane_that_starts_with_bad_documents_pushes_the_last_good() {
    let mut mesh = Mesh::start().await;
    let (a, _b, web) = two_engines(&mesh).await;
    let version = mesh.plane.status().await["config"]["version"].clone();
    mesh.plane.kill();
    mesh.plane.write("mesh.yaml", BAD);
    mesh.plane.restart().await;
    let status = mesh.plane.status().await;
    assert_eq!(
        (&status["config"]["version"], &status["config"]["valid"]),
        (&version, &json!(false)),
        "{status:#}"
    );
    mesh.in_use(version.as_str().unwrap(), &[&web, &a.sidecar]).await;
    assert_eq!(client::post(web.outbound(), "/v1/chat/completions", &small()).await.status, 200);
}

#[tokio::test]
async fn a_sidecar_that_restarts_without_its_control_plane_knows_its_routes_and_says_what_it_lacks() {
    let mut mesh = Mesh::start().await;
    let (a, b, mut web) = two_engines(&mesh).await;
    let plaintext = Endpoint { address: a.engine.address, sidecar: None };
    let documents = [
        backend("chat", &[a.endpoint(), b.endpoint()]).with("default", true),
        backend("plain", &[plaintext]),
    ];
    mesh.publish(&documents, &[&web, &a.sidecar, &b.sidecar]).await;
    let version = mesh.plane.status().await["config"]["version"].clone();
    web.kept(version.as_str().unwrap()).await;
    mesh.plane.kill();
    web.restart().await;
    let dump = web.page("/config_dump").await;
    assert_eq!((&dump["version"], &dump["source"]), (&version, &json!("cache")), "{dump:#}");
    // What needs no certificate is served.
    let mut connection = web.connect(Version::Http2).await;
    let request = connection.request_to("plain", "POST", "/v1/chat/completions");
    let request = request.header("content-type", "application/json").body(client::whole(small().to_string()));
    assert_eq!(connection.ask(request.unwrap()).await.status, 200);
    // What needs one is refused, not sent in plaintext and not left to hang; and nobody is told that all is well.
    let answer = client::post(web.outbound(), "/v1/chat/completions", &small()).await;
    let told = (answer.status, answer.header("x-penstock-error"));
    assert_eq!(told, (502, Some("connect")), "{answer:?}");
    let ready = client::get(web.admin(), "/ready").await;
    let is_told = ready.status == 503 && ready.text.starts_with("no certificate has been issued yet");
    assert!(is_told && ready.text.lines().count() == 1, "{ready:?}");
    // All is well once the control plane is back.
    mesh.plane.restart().await;
    web.ready().await;
    assert_eq!(client::post(web.outbound(), "/v1/chat/completions", &small()).await.status, 200);
    mesh.in_use(version.as_str().unwrap(), &[&web]).await;
    assert_eq!(web.page("/config_dump").await["source"], "push");
}

#[tokio::test]
async fn a_sidecar_that_starts_before_its_control_plane_waits_and_says_what_for() {
    let mut mesh = Mesh::start().await;
    let (a, _b, _web) = two_engines(&mesh).await;
    mesh.plane.kill();
    let late = mesh.caller("late").await;
    let lacks = [
        "no snapshot has been received yet: the control plane at 127.0.0.1:",
        "no certificate has been issued yet: the control plane at 127.0.0.1:",
    ];
    eventually("it says what it lacks, and why", async || {
        let page = client::get(late.admin(), "/ready").await;
        let lines: Vec<_> = page.text.lines().collect();
        let told = lines.len() == 2 && lacks.iter().zip(&lines).all(|(lack, line)| line.starts_with(lack));
        if told && page.status == 503 { Ok(()) } else { Err(format!("{page:?}")) }
    })
    .await;
    assert_eq!(client::get(late.admin(), "/live").await.status, 200);
    let answer = client::post(late.outbound(), "/v1/chat/completions", &small()).await;
    assert_eq!((answer.status, answer.header("x-penstock-error")), (503, Some("no_backend")), "{answer:?}");
    mesh.plane.restart().await;
    late.ready().await;
    let answer = client::post(late.outbound(), "/v1/chat/completions", &small()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(a.sidecar.is_ready().await);
}

#[tokio::test]
async fn a_damaged_cache_is_told_and_not_believed() {
    let mesh = Mesh::start().await;
    let (_a, _b, mut web) = two_engines(&mesh).await;
    let version = mesh.plane.status().await["config"]["version"].clone();
    let cache = web.kept(version.as_str().unwrap()).await;
    let mut bytes = std::fs::read(&cache).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    std::fs::write(&cache, bytes).unwrap();
    web.restart().await;
    assert!(web.program.log().contains("the last good snapshot is refused"), "{}", web.program.log());
    web.ready().await;
    mesh.in_use(version.as_str().unwrap(), &[&web]).await;
    assert_eq!(client::post(web.outbound(), "/v1/chat/completions", &small()).await.status, 200);
}

#[tokio::test]
async fn a_sidecar_without_a_control_plane_follows_its_own_documents() {
    let mesh = Mesh::start().await;
    let (a, b, _web) = two_engines(&mesh).await;
    let documents = mesh.dir().join("routes.yaml");
    let plain = |served: &Served| {
        file(&[backend("chat", &[Endpoint { address: served.engine.address, sidecar: None }])
            .with("default", true)])
    };
    std::fs::write(&documents, plain(&a)).unwrap();
    let spec = json!({"documents": documents, "outbound": {"listen": "127.0.0.1:0"}});
    let own = Sidecar::start(mesh.dir(), "own", spec).await;
    own.ready().await;
    let load = Load::start(own.outbound());
    load.more(ENOUGH / 2).await;
    std::fs::write(&documents, BAD).unwrap();
    own.metric_is("penstock_config_valid", &[], 0.0).await;
    assert!(own.program.log().contains("routes.yaml:14:3"), "{}", own.program.log());
    load.more(ENOUGH / 2).await;
    std::fs::write(&documents, plain(&b)).unwrap();
    own.metric_is("penstock_config_valid", &[], 1.0).await;
    eventually("the other engine is asked", async || {
        let asked = b.engine.count("accepted_requests").await;
        if asked > 0 { Ok(()) } else { Err(asked.to_string()) }
    })
    .await;
    none(&load.end().await);
}

#[tokio::test]
async fn a_sidecar_is_ready_only_with_the_whole_of_its_first_snapshot() {
    let mesh = Mesh::start().await;
    let (a, _b, web) = two_engines(&mesh).await;
    let rules = json!([{"name": "all", "backendRefs": [reference("chat")]}]);
    // Wide enough that the parts of a snapshot do not all arrive in the same moment.
    let many: Vec<Endpoint> = (0..1_000u16)
        .map(|number| {
            let [high, low] = number.to_be_bytes();
            Endpoint { address: ([10, 0, high, low], 8_000).into(), sidecar: None }
        })
        .collect();
    let documents = [
        backend("chat", &[a.endpoint()]).with("default", true),
        backend("wide", &many),
        route("chat", &rules),
    ];
    mesh.publish(&documents, &[&web]).await;
    let version = mesh.plane.status().await["config"]["version"].clone();
    for number in 0..5 {
        let late = mesh.caller(&format!("late-{number}")).await;
        // Asked without a pause over one connection, so that no moment is missed.
        let mut asking = Connection::open(Version::Http1, late.admin()).await;
        let mut page = async |path: &str| {
            let request = asking.request("GET", path).body(client::empty()).unwrap();
            asking.ask(request).await
        };
        within("it says that it is ready", async { while page("/ready").await.status != 200 {} }).await;
        let dump = page("/config_dump").await.json();
        assert_eq!(dump["version"], version, "ready with a part of its snapshot");
        let answer = client::post(late.outbound(), "/v1/chat/completions", &small()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

/// Responses with endpoints that the control plane has sent so far.
async fn sent(mesh: &Mesh) -> f64 {
    mesh.plane.metrics().await.sum("penstock_xds_messages_total", &[("type", "endpoints")])
}

#[tokio::test]
async fn ten_thousand_endpoints_come_and_one_goes_and_no_request_notices() {
    const ENDPOINTS: u16 = 10_000;
    let mesh = Mesh::start().await;
    let (a, b, web) = two_engines(&mesh).await;
    let sidecars = [&a.sidecar, &b.sidecar, &web];
    let chat = || backend("chat", &[a.endpoint(), b.endpoint()]).with("default", true);
    let far = |number: u16| Endpoint {
        address: SocketAddr::from(([127, 9, 0, 1], 10_000 + number)),
        sidecar: None,
    };
    let crowd: Vec<Endpoint> = (0..ENDPOINTS).map(far).collect();
    let known = async || web.page("/clusters").await.to_string().matches("127.9.0.1:").count();

    let load = Load::start(web.outbound());
    load.more(ENOUGH).await;
    let began = Instant::now();
    mesh.publish(&[chat(), backend("crowd", &crowd)], &sidecars).await;
    println!("{ENDPOINTS} endpoints reach three sidecars in {:?}", began.elapsed());
    assert_eq!(known().await, usize::from(ENDPOINTS));
    let before = sent(&mesh).await;

    let began = Instant::now();
    mesh.publish(&[chat(), backend("crowd", &crowd[1..])], &sidecars).await;
    let responses = sent(&mesh).await - before;
    println!("one removal in {:?}", began.elapsed());
    assert_eq!(responses, 3.0, "one to each sidecar");
    assert_eq!(known().await, usize::from(ENDPOINTS) - 1);
    load.more(ENOUGH).await;
    none(&load.end().await);
}
