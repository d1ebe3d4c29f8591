//! What the platform promises is kept, where that is asked, by turning away what would break it.

use std::time::Duration;

use futures::future::join_all;
use penstock_tests::client::Version;
use penstock_tests::documents;
use penstock_tests::engine::chat;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::caller::ask;
use crate::world::{Plan, Transport, World, simulate};

/// One model server, of which the first token is promised within half a second.
async fn world(sheds: bool, about: Value) -> World {
    let plan = Plan::new(Transport::Memory, 8).serve("engine", "--noise 0").caller("web");
    let plan = plan.documents(move |served| {
        let endpoints: Vec<_> = served.iter().map(|(_, endpoint)| *endpoint).collect();
        let objectives = json!([
            {"name": "first", "indicator": "TTFT", "threshold": "500ms", "target": "99", "match": about}
        ]);
        let slo = documents::slo("chat", &objectives).with("enforcement", json!({"shed": sheds}));
        vec![documents::backend("chat", &endpoints).with("default", true), slo]
    });
    plan.start().await
}

async fn one(world: &World, number: usize, words: usize) -> u16 {
    let words = format!("{number} ") + &"the water falls through the gate ".repeat(words);
    let mut connection = world.connect("web", Version::BOTH[number % 2]).await;
    let body = chat(&words, json!({"max_tokens": 5, "ignore_eos": true, "stream": true}));
    let request = connection.post("/v1/chat/completions", &body);
    ask(&mut connection, request).await.status.unwrap_or(0)
}

/// How many of thirty long prompts that come at once are answered, and how many turned away.
fn thirty(sheds: bool) -> [usize; 2] {
    simulate(Transport::Memory, async move || {
        let world = world(sheds, json!({})).await;
        for number in 0..4 {
            assert_eq!(one(&world, number, 10).await, 200);
        }
        let answered = join_all((0..30).map(|number| one(&world, 100 + number, 200))).await;
        world.quiet_within(Duration::from_secs(60), "answers").await;
        world.end().await;
        [200, 429].map(|status| answered.iter().filter(|answered| **answered == status).count())
    })
}

#[test]
fn a_promise_that_is_enforced_turns_away_what_would_break_it_and_one_that_is_counted_does_not() {
    assert_eq!(thirty(false), [30, 0]);
    let [served, refused] = thirty(true);
    assert!(served >= 3 && refused >= 10 && served + refused == 30, "{served} served, {refused} refused");
}

#[test]
fn a_promise_to_streams_is_one_to_a_prompt_that_is_too_long_to_see_the_flag_behind_it() {
    simulate(Transport::Memory, async || {
        let world = world(true, json!({"streaming": true})).await;
        assert_eq!(one(&world, 0, 10).await, 200);
        let (short, long) = tokio::join!(one(&world, 1, 10), async {
            sleep(Duration::from_millis(10)).await;
            // 1.3 MB, and only so much is looked at as is held.
            one(&world, 2, 40_000).await
        });
        assert_eq!((short, long), (200, 429));
        world.end().await;
    });
}
