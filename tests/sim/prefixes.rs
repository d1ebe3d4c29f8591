//! What callers' sidecars know of the prompts that model servers have cached, and where requests go for it.

use std::time::Duration;

use futures::future::join_all;
use penstock_tests::client::{Version, whole};
use penstock_tests::documents;
use penstock_tests::engine::chat;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::caller::ask;
use crate::world::{Plan, Transport, World, simulate};

const WORDS: &str = "the water falls through the gate ";
const CALLERS: [&str; 2] = ["web", "batch"];

/// Four engines under one Backend, each also by its own name, and two callers that have sent something to each of them.
async fn world(seed: u64, policy: &'static str) -> World {
    let names: Vec<String> = (0..4).map(|number| format!("engine-{number}")).collect();
    let mut plan = Plan::new(Transport::Memory, seed);
    for name in &names {
        plan = plan.serve(name, "--noise 0");
    }
    for caller in CALLERS {
        plan = plan.caller(caller);
    }
    let plan = plan.documents(move |served| {
        let endpoints: Vec<_> = served.iter().map(|(_, endpoint)| *endpoint).collect();
        let all = documents::backend("chat", &endpoints).with("default", true);
        let one = served.iter().map(|(name, endpoint)| documents::backend(name, &[*endpoint]));
        let policy = documents::policy("chat").with("loadBalancer", json!({"policy": policy}));
        one.chain([all, policy]).collect()
    });
    let world = plan.start().await;
    for caller in CALLERS {
        let prompts: Vec<_> = (0..16).map(|number| prompt(number, 50, 0)).collect();
        join_all(prompts.iter().map(|words| cached(&world, caller, "chat", words))).await;
    }
    sleep(Duration::from_millis(300)).await;
    world
}

/// What a session has said up to a turn: all that it said before, and something new.
fn prompt(session: usize, repetitions: usize, turns: usize) -> String {
    let begun = format!("{session} {repetitions} ") + &WORDS.repeat(repetitions);
    (0..turns).fold(begun, |said, turn| said + &format!("{turn} ") + &WORDS.repeat(20))
}

/// Tokens of the prompt, and those that the engine found in its cache, as it counts.
async fn cached(world: &World, caller: &str, backend: &str, words: &str) -> [u64; 2] {
    let mut connection = world.connect(caller, Version::Http2).await;
    let body = chat(words, json!({"stream": false, "max_tokens": 20, "ignore_eos": true})).to_string();
    let request = connection.request_to(backend, "POST", "/v1/chat/completions");
    let request = request.header("content-type", "application/json").body(whole(body)).expect("a request");
    let seen = ask(&mut connection, request).await;
    assert_eq!(seen.status, Some(200), "{seen}");
    let answer: Value = serde_json::from_slice(&seen.body).expect("an answer");
    let usage = &answer["usage"];
    let cached = usage["prompt_tokens_details"]["cached_tokens"].as_u64();
    [usage["prompt_tokens"].as_u64().expect("a count"), cached.unwrap_or(0)]
}

/// Share of the prompt tokens of later turns that engines found cached, where each turn comes from the other caller.
fn share(policy: &'static str) -> f64 {
    simulate(Transport::Memory, async || {
        let world = world(7, policy).await;
        let sessions = (0..12).map(|session| {
            let world = &world;
            async move {
                sleep(Duration::from_millis(40 * session as u64)).await;
                let mut sums = [0; 2];
                for turn in 0..4 {
                    let words = prompt(100 + session, 200, turn);
                    let counts = cached(world, CALLERS[(session + turn) % 2], "chat", &words).await;
                    if turn > 0 {
                        sums = [sums[0] + counts[0], sums[1] + counts[1]];
                    }
                    sleep(Duration::from_millis(400)).await;
                }
                sums
            }
        });
        let sums = join_all(sessions).await;
        world.end().await;
        let [tokens, cached] = [0, 1].map(|which| sums.iter().map(|sums| sums[which]).sum::<u64>());
        cached as f64 / tokens as f64
    })
}

#[test]
fn a_later_turn_goes_where_the_earlier_ones_are_also_from_another_caller() {
    let [by_cost, by_request] = ["LeastCost", "P2C"].map(share);
    println!("found in caches: by cost {by_cost:.3}, by requests {by_request:.3}");
    assert!(by_cost > 0.8 && by_cost > by_request + 0.3, "{by_cost} {by_request}");
}

/// Which engine has taken one more since.
fn taker(world: &World, before: &[u64]) -> usize {
    let accepted = world.engines.iter().map(|(_, engine)| engine.load().accepted);
    accepted.zip(before).position(|(now, before)| now > *before).expect("one has taken it")
}

fn accepted(world: &World) -> Vec<u64> {
    world.engines.iter().map(|(_, engine)| engine.load().accepted).collect()
}

#[test]
fn a_cached_prompt_is_computed_anew_elsewhere_when_its_server_is_much_busier() {
    simulate(Transport::Memory, async || {
        let world = world(8, "LeastCost").await;
        let before = accepted(&world);
        cached(&world, "web", "chat", &prompt(100, 200, 0)).await;
        let home = taker(&world, &before);
        sleep(Duration::from_millis(300)).await;
        let before = accepted(&world);
        let [_, found] = cached(&world, "batch", "chat", &prompt(100, 200, 1)).await;
        assert!(found > 0 && taker(&world, &before) == home, "{found}");
        sleep(Duration::from_millis(300)).await;
        let name = &world.engines[home].0;
        let long: Vec<String> = (0..8).map(|number| prompt(200 + number, 3_000, 0)).collect();
        let busy = join_all(long.iter().map(|words| cached(&world, "web", name, words)));
        let (_, found) = tokio::join!(busy, async {
            sleep(Duration::from_millis(300)).await;
            let before = accepted(&world);
            let [_, found] = cached(&world, "batch", "chat", &prompt(100, 200, 2)).await;
            assert_ne!(taker(&world, &before), home, "{before:?} {:?}", accepted(&world));
            found
        });
        assert_eq!(found, 0, "nobody else has it");
        world.end().await;
    });
}
