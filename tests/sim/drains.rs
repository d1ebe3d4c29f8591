//! What becomes of requests that a sidecar has not begun to serve when it is told to stop.

use std::time::Duration;

use futures::future::join_all;
use penstock_proxy::lifecycle::Drained;
use penstock_tests::client::Version;
use penstock_tests::documents;
use penstock_tests::engine::chat;
use serde_json::json;
use tokio::time::sleep;

use crate::caller::{Seen, ask};
use crate::world::{Plan, Transport, World, simulate};

const WORDS: &str = "the water falls through the gate ";
const ENGINES: [&str; 2] = ["one", "other"];

/// Two engines under one Backend.
async fn world(seed: u64) -> World {
    let plan = Plan::new(Transport::Memory, seed).caller("web");
    let plan = ENGINES.iter().fold(plan, |plan, name| plan.serve(name, "--noise 0"));
    let plan = plan.documents(|served| {
        let endpoints: Vec<_> = served.iter().map(|(_, endpoint)| *endpoint).collect();
        vec![documents::backend("chat", &endpoints).with("default", true)]
    });
    plan.start().await
}

/// A request for a stream of which the first token is promised, and then one every 50 ms. Its connection is open.
async fn one(
    world: &World,
    words: &str,
    tokens: u32,
    first_token_ms: &'static str,
) -> impl Future<Output = Seen> + use<> {
    let mut connection = world.connect("web", Version::Http2).await;
    let body = chat(words, json!({"stream": true, "max_tokens": tokens, "ignore_eos": true}));
    let mut request = connection.post("/v1/chat/completions", &body);
    for (name, value) in [("x-llm-d-slo-ttft-ms", first_token_ms), ("x-llm-d-slo-tpot-ms", "50")] {
        request.headers_mut().insert(name, value.parse().expect("a value"));
    }
    async move { ask(&mut connection, request).await }
}

/// Requests that each engine has accepted.
fn accepted(world: &World) -> [u64; 2] {
    ENGINES.map(|name| world.engine(name).load().accepted)
}

/// Whether somebody has waited at the door of this engine.
fn has_waited(world: &World, name: &str) -> bool {
    let page = world.sidecar(name).vitals.metrics().expect("a page");
    !page.contains("\npenstock_door_waits_total 0\n")
}

#[test]
fn who_waits_at_the_door_of_a_server_goes_elsewhere_at_once_when_its_sidecar_is_told_to_stop() {
    simulate(Transport::Memory, async || {
        let mut world = world(31).await;
        for number in 0..8 {
            assert_eq!(one(&world, &number.to_string(), 20, "20000").await.await.status, Some(200));
        }
        let before = accepted(&world);
        // Each engine has an answer under way that cannot bear a long prompt yet.
        let words = WORDS.repeat(200);
        let streams = [one(&world, &words, 300, "500").await, one(&world, &words, 300, "500").await];
        let long = one(&world, &WORDS.repeat(4_000), 20, "20000").await;
        let long = async {
            sleep(Duration::from_millis(50)).await;
            long.await
        };
        let stopping = async {
            sleep(Duration::from_millis(60)).await;
            assert_eq!(accepted(&world), before.map(|count| count + 1), "one stream each");
            let [at] = ENGINES.into_iter().filter(|name| has_waited(&world, name)).collect::<Vec<_>>()[..]
            else {
                panic!("the long one waits at one door");
            };
            (at, world.stop(at).await)
        };
        let (streams, long, (at, drained)) = tokio::join!(join_all(streams), long, stopping);
        assert!(streams.iter().all(|seen| seen.status == Some(200) && seen.is_whole), "{streams:?}");
        assert_eq!((long.status, long.is_whole, drained), (Some(200), true, Drained::All), "{long}");
        let at = ENGINES.map(|name| u64::from(name == at));
        let expected = [0, 1].map(|place| before[place] + 2 - at[place]);
        assert_eq!(accepted(&world), expected, "it went to the other one");
        world.end().await;
    });
}
