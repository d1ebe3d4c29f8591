//! The simulation itself: the same seed twice is the same run, byte for byte.

use std::time::Duration;

use penstock_tests::client::Version;
use penstock_tests::engine::chat;
use penstock_tests::memory::Plan as Link;
use serde_json::json;

use crate::caller::ask;
use crate::world::{Plan, Transport, World, simulate};

/// Two engines and two callers that ask for a while, some of whom leave; everything that happened, in order.
fn story(seed: u64) -> Vec<String> {
    simulate(Transport::Memory, async || {
        let plan = Plan::new(Transport::Memory, seed)
            .serve("a", "--max-num-seqs 2")
            .serve("b", "--max-num-seqs 2")
            .caller("web")
            .caller("batch")
            .logs()
            .documents(|served| {
                let endpoints: Vec<_> = served.iter().map(|(_, endpoint)| *endpoint).collect();
                vec![penstock_tests::documents::backend("chat", &endpoints).with("default", true)]
            });
        let world = plan.start().await;
        for sidecar in &world.sidecars {
            for address in sidecar.inbound.iter().chain(&sidecar.outbound) {
                world.memory.usually(*address, Link::slow(Duration::from_millis(2)));
            }
        }
        world.memory.record();
        let callers = (0..12).map(|number| call(&world, number));
        futures::future::join_all(callers).await;
        world.quiet_within(Duration::from_secs(10), "the story").await;
        let counters: Vec<String> = world.sidecars.iter().map(|sidecar| counters(&sidecar.vitals)).collect();
        // Up to here: tasks that hear the same stop signal wake in an order that the runtime draws.
        let mut story = world.memory.log();
        let logs = world.end().await;
        story.extend(logs.into_iter().flat_map(|(name, log)| [name, log]));
        story.extend(counters);
        story
    })
}

async fn call(world: &World, number: u64) {
    let version = Version::BOTH[(number % 2) as usize];
    let mut connection = world.connect(if number.is_multiple_of(3) { "batch" } else { "web" }, version).await;
    for turn in 0..4 {
        tokio::time::sleep(Duration::from_millis(number * 37 % 200)).await;
        let body = chat(
            &format!("call {number} {turn}"),
            json!({"stream": turn % 2 == 0, "max_tokens": 5 + number, "ignore_eos": true}),
        );
        let mut request = connection.post("/v1/chat/completions", &body);
        let id = format!("{number}-{turn}").parse().expect("an id");
        request.headers_mut().insert("x-request-id", id);
        // Nobody leaves in the very millisecond of a token: between two things that are ready at once the runtime draws lots.
        let patience = Duration::from_millis(if (number + turn) % 4 == 3 { 43 } else { 60_000 });
        let seen = tokio::time::timeout(patience, ask(&mut connection, request)).await;
        let told = seen.map_or_else(|_| "left".to_owned(), |seen| seen.to_string());
        world.memory.note(&format!("caller {number} turn {turn}: {told}"));
        if told == "left" {
            connection = world.connect("web", version).await;
        }
    }
}

/// What a sidecar has counted, without what depends on this machine.
fn counters(vitals: &penstock_proxy::vitals::Vitals) -> String {
    let page = vitals.metrics().expect("a page of metrics");
    page.lines().filter(|line| !line.contains("process_")).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_same_seed_twice_is_the_same_story_and_another_seed_another() {
    let first = story(7);
    assert!(first.len() > 100, "{}", first.join("\n"));
    for _ in 0..4 {
        let again = story(7);
        let differs = first.iter().zip(&again).position(|(one, other)| one != other);
        if let Some(at) = differs {
            let around = at.saturating_sub(5)..(at + 3).min(first.len());
            panic!(
                "line {at}:\n{}\n-- and --\n{}",
                first[around.clone()].join("\n"),
                again[around].join("\n")
            );
        }
        assert_eq!(first.len(), again.len());
    }
    assert_ne!(first, story(8));
}
