//! What generates no text: counted, told and placed by what it costs.

use std::time::Duration;

use futures::future::join_all;
use penstock_tests::client::Version;
use penstock_tests::documents;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::caller::ask;
use crate::world::{Plan, Transport, World, simulate};

/// Places of calls that are counted in tokens and in bytes.
const TOKENS: usize = 0;
const BYTES: usize = 2;
const CALLERS: [&str; 2] = ["web", "batch"];

/// Model servers under one Backend with this policy.
async fn world(engines: &[&str], policy: &'static str) -> World {
    let mut plan = Plan::new(Transport::Memory, 3);
    for (number, words) in engines.iter().enumerate() {
        plan = plan.serve(&format!("engine-{number}"), words);
    }
    for caller in CALLERS {
        plan = plan.caller(caller);
    }
    let plan = plan.documents(move |served| {
        let endpoints: Vec<_> = served.iter().map(|(_, endpoint)| *endpoint).collect();
        let policy = documents::policy("texts").with("loadBalancer", json!({"policy": policy}));
        vec![documents::backend("texts", &endpoints).with("default", true), policy]
    });
    plan.start().await
}

/// One text of so many repetitions, with a number that makes it like no other.
async fn embed(world: &World, caller: &str, number: usize, repetitions: usize) -> Option<u16> {
    let mut connection = world.connect(caller, Version::Http2).await;
    let words = format!("{number} ") + &"the water falls through the gate ".repeat(repetitions);
    let body = json!({"model": "penstock-small", "input": words, "dimensions": 8});
    let mut request = connection.post("/v1/embeddings", &body);
    request.headers_mut().insert("x-request-id", format!("text-{number}").parse().unwrap());
    ask(&mut connection, request).await.status
}

/// Calls that each of four engines got of 400, where the last one is four times as slow as the others.
fn shares(policy: &'static str) -> Vec<u64> {
    simulate(Transport::Memory, async || {
        let slow = "--noise 0 --speed 0.25";
        let world = world(&["--noise 0", "--noise 0", "--noise 0", slow], policy).await;
        let asked = (0..400).map(|number| {
            let world = &world;
            async move {
                sleep(Duration::from_millis(number as u64 * 15)).await;
                embed(world, CALLERS[number % 2], number, 20 + number * 37 % 80).await
            }
        });
        assert!(join_all(asked).await.iter().all(|status| *status == Some(200)));
        let shares = world.engines.iter().map(|(_, engine)| engine.load().accepted).collect();
        world.end().await;
        shares
    })
}

#[test]
fn a_slow_server_gets_fewer_calls_by_cost_than_in_turn() {
    let [by_cost, in_turn] = ["LeastCost", "RoundRobin"].map(shares);
    println!("by cost {by_cost:?}, in turn {in_turn:?}");
    assert_eq!([by_cost.iter().sum::<u64>(), in_turn.iter().sum()], [400, 400]);
    assert!(by_cost[3] * 2 < in_turn[3], "{by_cost:?} {in_turn:?}");
}

#[test]
fn calls_under_way_and_their_speed_are_known_to_callers_and_gone_when_the_caller_leaves() {
    simulate(Transport::Memory, async || {
        let world = world(&["--noise 0"], "LeastCost").await;
        let told = |world: &World| {
            let believed = world.sidecar("web").vitals.believed();
            believed.first().and_then(|(_, told)| told.calls[TOKENS])
        };
        for number in 0..40 {
            assert_eq!(embed(&world, "web", number, 50).await, Some(200));
        }
        sleep(Duration::from_millis(200)).await;
        let idle = told(&world).expect("a report");
        let speed = idle.speed.expect("what calls have shown");
        assert_eq!(idle.units_ahead, 0.0, "{idle:?}");
        assert!((5.0..100.0).contains(&speed.call_ms(400.0, 0.0)), "{speed:?}");

        let left = tokio::time::timeout(Duration::from_millis(150), embed(&world, "batch", 100, 7_000));
        let (left, ()) = tokio::join!(left, async {
            sleep(Duration::from_millis(140)).await;
            let busy = told(&world).expect("a report");
            assert!(busy.units_ahead > 40_000.0, "{busy:?}");
        });
        assert!(left.is_err(), "it was answered before its caller left");
        sleep(Duration::from_millis(300)).await;
        assert_eq!(told(&world).map(|report| report.units_ahead), Some(0.0));
        world.end().await;
    });
}

/// Posts JSON and gives the status.
async fn post(world: &World, path: &str, body: &Value) -> Option<u16> {
    let mut connection = world.connect("web", Version::Http2).await;
    let request = connection.post(path, body);
    ask(&mut connection, request).await.status
}

#[test]
fn reranking_is_counted_in_tokens_and_tensors_in_bytes_and_both_are_learned() {
    simulate(Transport::Memory, async || {
        let world = world(&["--noise 0"], "LeastCost").await;
        for number in 0..60usize {
            let document = "the water falls through the gate ".repeat(5 + number * 7 % 40);
            let ask = json!({"model": "penstock-small", "query": "who opens it", "documents": [document, "nobody"]});
            assert_eq!(post(&world, "/v1/rerank", &ask).await, Some(200));
            let ids: Vec<usize> = (0..100 + number * 37 % 900).map(|place| number * 1_000 + place).collect();
            let input = json!({"name": "ids", "datatype": "INT64", "shape": [1, ids.len()], "data": ids});
            let ask = json!({"inputs": [input]});
            assert_eq!(post(&world, "/v2/models/penstock-small/infer", &ask).await, Some(200));
        }
        sleep(Duration::from_millis(200)).await;
        let believed = world.sidecar("web").vitals.believed();
        let calls = believed.first().map(|(_, told)| told.calls).expect("a report");
        for unit in [TOKENS, BYTES] {
            let report = calls[unit].expect("calls of this unit");
            let speed = report.speed.expect("what calls have shown");
            assert!(report.units_ahead == 0.0 && speed.unit_us > 0.0, "{unit}: {report:?}");
        }
        world.end().await;
    });
}

#[test]
fn an_opaque_post_is_counted_in_bytes_and_one_that_fails_teaches_nothing() {
    simulate(Transport::Memory, async || {
        let world = world(&["--noise 0"], "LeastCost").await;
        let mut connection = world.connect("web", Version::Http1).await;
        for _ in 0..60 {
            let request = connection.post("/v1/unheard-of", &json!({"words": "of no dialect"}));
            assert_eq!(ask(&mut connection, request).await.status, Some(404));
        }
        let believed = world.sidecar("web").vitals.believed();
        let calls = believed.first().map(|(_, told)| told.calls).expect("a report");
        let bytes = calls[BYTES].expect("calls in bytes");
        assert_eq!((bytes.units_ahead, bytes.speed, calls[TOKENS]), (0.0, None, None), "{calls:?}");
        world.end().await;
    });
}

#[test]
fn what_a_call_would_have_cost_is_told_in_its_own_terms() {
    simulate(Transport::Memory, async || {
        let world = world(&["--noise 0", "--noise 0"], "LeastCost").await;
        for number in 0..4 {
            assert_eq!(embed(&world, "web", number, 50).await, Some(200));
        }
        world.quiet_within(Duration::from_secs(60), "answers").await;
        let page = world.sidecar("web").vitals.why("text-3").expect("a page");
        let story = &page["requests"][0];
        assert_eq!(
            (&story["promptTokens"], &story["call"]["unit"]),
            (&json!(null), &json!("tokens")),
            "{story:#}"
        );
        assert!(story["call"]["units"].as_u64().is_some_and(|units| units > 300), "{story:#}");
        let attempt = &story["attempts"][0];
        assert_eq!(
            (&attempt["reason"], &attempt["patience"]),
            (&json!("least_cost"), &json!(null)),
            "{story:#}"
        );
        for row in attempt["endpoints"].as_array().expect("endpoints") {
            let term =
                |name: &str| row["cost"][name].as_f64().unwrap_or_else(|| panic!("{name} of {story:#}"));
            assert!(
                term("promptMs") > 0.0 && (term("waitMs") + term("promptMs") - term("totalMs")).abs() < 0.2
            );
        }
        world.end().await;
    });
}
