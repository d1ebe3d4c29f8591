//! How long a caller's sidecar listens to the sidecars of servers, and how it begins anew.

use std::net::SocketAddr;
use std::time::Duration;

use penstock_tests::client::Version;
use penstock_tests::documents::{self, Endpoint};
use penstock_tests::engine::chat;
use penstock_tests::memory::{Door, Listener};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::between::Between;
use crate::caller::ask;
use crate::world::{Plan, Transport, World, simulate};

/// Whose requests go to the Backend with many endpoints.
const MANY: &str = "x-many";

/// An endpoint of a Backend, with whoever stands in front of its sidecar.
fn written(endpoint: &Endpoint, sidecar: Option<SocketAddr>, weight: u32) -> Value {
    let address = endpoint.address;
    json!({"address": address.ip(), "port": address.port(), "sidecar": sidecar, "weight": weight})
}

/// One engine that takes all requests, and one that takes none and is only listened to, with somebody before its sidecar.
async fn world(seed: u64) -> (World, Between, SocketAddr) {
    let plan = Plan::new(Transport::Memory, seed).caller("web");
    let listener: Listener = plan.memory().listen_on(([127, 0, 0, 1], 0).into()).expect("a port");
    let address = listener.address();
    let plan = plan.serve("busy", "--noise 0").serve("quiet", "--noise 0").documents(move |served| {
        let [(_, busy), (_, quiet)] = served else { panic!("two engines") };
        let endpoints = json!([written(busy, busy.sidecar, 1), written(quiet, Some(address), 0)]);
        vec![documents::backend("chat", &[]).with("default", true).with("endpoints", endpoints)]
    });
    let world = plan.start().await;
    let between = Between::stand(listener, &world, "quiet");
    (world, between, address)
}

/// One request each second. Between them nothing that a request holds is taken.
async fn requests(world: &World, count: usize) {
    for _ in 0..count {
        one(world, &[]).await;
        sleep(Duration::from_millis(500)).await;
        assert!(world.is_quiet(), "{:?}", world.in_use());
        sleep(Duration::from_millis(500)).await;
    }
}

/// Of how many endpoints the caller's sidecar knows how they stand.
fn believed(world: &World) -> usize {
    world.sidecar("web").vitals.believed().len()
}

async fn one(world: &World, fields: &[(&'static str, &'static str)]) {
    let mut connection = world.connect("web", Version::Http2).await;
    let body = chat("hi", json!({"max_tokens": 2}));
    let mut request = connection.post("/v1/chat/completions", &body);
    for (name, value) in fields {
        request.headers_mut().insert(*name, value.parse().expect("a value"));
    }
    let seen = ask(&mut connection, request).await;
    assert_eq!(seen.status, Some(200), "{seen}");
}

#[test]
fn a_sidecar_that_has_come_back_is_listened_to_though_no_request_goes_there() {
    simulate(Transport::Memory, async || {
        let (world, between, address) = world(21).await;
        requests(&world, 4).await;
        assert_eq!(between.streams(), 1);
        between.end().await;
        let listener = world.memory.listen_on(address).expect("the same port");
        let between = Between::stand(listener, &world, "quiet");
        requests(&world, 8).await;
        assert_eq!((between.streams(), world.engine("quiet").load().accepted), (1, 0));
        between.end().await;
        world.end().await;
    });
}

#[test]
fn who_gets_no_answer_asks_again_and_takes_no_place_of_a_request_meanwhile() {
    simulate(Transport::Memory, async || {
        let (world, between, _) = world(22).await;
        between.silent(true);
        requests(&world, 8).await;
        assert!((2..8).contains(&between.streams()), "{}", between.streams());
        assert_eq!(believed(&world), 1);
        between.silent(false);
        requests(&world, 4).await;
        assert_eq!(believed(&world), 2);
        between.end().await;
        world.end().await;
    });
}

#[test]
fn a_server_is_heard_less_often_while_many_others_are_listened_to() {
    simulate(Transport::Memory, async || {
        let plan = Plan::new(Transport::Memory, 23).caller("web");
        let listener: Listener = plan.memory().listen_on(([127, 0, 0, 1], 0).into()).expect("a port");
        let address = listener.address();
        // Of a second Backend all endpoints but one are nowhere: they are listened to for as long as that takes to notice.
        let nowhere: Vec<Value> = (1..60)
            .map(|host| {
                let [application, sidecar] =
                    [80, 4743].map(|port| SocketAddr::from(([10, 0, 0, host], port)));
                plan.memory().door(sidecar, Door::Hole);
                written(&Endpoint { address: application, sidecar: None }, Some(sidecar), 0)
            })
            .collect();
        let plan = plan.serve("one", "--noise 0").serve("many", "--noise 0").documents(move |served| {
            let [(_, one), (_, many)] = served else { panic!("two engines") };
            let one = json!([written(one, Some(address), 1)]);
            let mut all = vec![written(many, many.sidecar, 1)];
            all.extend(nowhere.clone());
            let headers = json!([{"headers": [{"name": MANY, "value": "yes"}]}]);
            let to = |name: &str| json!([documents::reference(name)]);
            let rules = json!([{"matches": headers, "backendRefs": to("many")}, {"backendRefs": to("one")}]);
            vec![
                documents::backend("one", &[]).with("default", true).with("endpoints", one),
                documents::backend("many", &[]).with("endpoints", all),
                documents::route("one", &rules),
            ]
        });
        let world = plan.start().await;
        let between = Between::stand(listener, &world, "one");
        requests(&world, 12).await;
        assert_eq!(between.intervals().len(), 1, "{:?}", between.intervals());
        one(&world, &[(MANY, "yes")]).await;
        one(&world, &[]).await;
        requests(&world, 30).await;
        let asked: Vec<u128> = between.intervals().iter().map(Duration::as_millis).collect();
        // 61 of them, and then two.
        assert_eq!(asked, [2, 122, 4]);
        between.end().await;
        world.end().await;
    });
}
