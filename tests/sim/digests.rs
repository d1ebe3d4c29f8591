//! Digests of what model servers have cached, on streams of reports that live: a key takes the place of another, and one is lost.

use std::time::Duration;

use penstock_tests::client::Version;
use penstock_tests::documents;
use penstock_tests::engine::chat;
use penstock_tests::memory::Listener;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::between::{Between, Fate, Passed};
use crate::caller::ask;
use crate::world::{Plan, Transport, World, simulate};

const WORDS: &str = "the water falls through the gate ";
/// Far more than a report needs, and less than the pause before another stream of them.
const TOLD: Duration = Duration::from_millis(200);
/// After a stream that broke the next one is not opened sooner.
const PAUSE: Duration = Duration::from_millis(1_100);
/// Of virtual time.
const PATIENCE: Duration = Duration::from_secs(60);

/// A caller and a model server, with somebody between their sidecars, so many seconds before the world's midnight (at which keys change).
async fn world(seed: u64, before_midnight: Option<u64>) -> (World, Between) {
    let mut plan = Plan::new(Transport::Memory, seed);
    if let Some(seconds) = before_midnight {
        plan = plan.before_midnight(Duration::from_secs(seconds));
    }
    let listener: Listener = plan.memory().listen_on(([127, 0, 0, 1], 0).into()).expect("a port");
    let address = listener.address();
    let plan = plan.serve("engine", "--noise 0").caller("web").documents(move |served| {
        let endpoint = documents::Endpoint { sidecar: Some(address), ..served[0].1 };
        vec![documents::backend("chat", &[endpoint]).with("default", true)]
    });
    let world = plan.start().await;
    let between = Between::stand(listener, &world, "engine");
    (world, between)
}

/// Asks with this prompt, and gives how many of its tokens the caller's sidecar believed cached when it sent it.
async fn believed(world: &World, between: &Between, session: &str) -> u64 {
    let mut connection = world.connect("web", Version::Http2).await;
    let words = format!("{session} ") + &WORDS.repeat(200);
    let body = chat(&words, json!({"stream": false, "max_tokens": 5, "ignore_eos": true}));
    let request = connection.post("/v1/chat/completions", &body);
    let seen = ask(&mut connection, request).await;
    assert_eq!(seen.status, Some(200), "{seen}");
    between.last_believed()
}

/// The same once more a moment after, when reports have told of it.
async fn asked_and_told(world: &World, between: &Between, session: &str) -> u64 {
    believed(world, between, session).await;
    sleep(TOLD).await;
    believed(world, between, session).await
}

#[test]
fn after_a_lost_digest_nothing_of_later_ones_is_believed_until_all_has_been_told_anew() {
    simulate(Transport::Memory, async || {
        let (world, between) = world(11, None).await;
        assert!(asked_and_told(&world, &between, "one").await > 1_000, "{:?}", between.digests());

        between.lose_next();
        assert_eq!(asked_and_told(&world, &between, "two").await, 0, "its digest is lost");
        assert_eq!(between.digests().last().map(|passed| passed.fate), Some(Fate::Lost));
        // The next one has a gap before it.
        assert_eq!(asked_and_told(&world, &between, "three").await, 0, "{:?}", between.digests());
        for session in ["one", "two"] {
            assert_eq!(believed(&world, &between, session).await, 0, "{session}: all is forgotten");
        }
        let before = between.digests();
        assert!(before.iter().all(|passed| passed.stream == 1), "{before:?}");

        sleep(PAUSE).await;
        believed(&world, &between, "one").await;
        sleep(TOLD).await;
        for session in ["one", "two", "three"] {
            assert!(believed(&world, &between, session).await > 1_000, "{session}: {:?}", between.digests());
        }
        let anew = between.digests()[before.len()..].to_vec();
        let [first, ..] = anew[..] else { panic!("another stream tells nothing") };
        assert_eq!((first.stream, first.number), (2, 0), "{anew:?}");
        between.end().await;
        world.end().await;
    });
}

#[test]
fn a_key_takes_the_place_of_another_on_a_stream_that_goes_on_and_no_prompt_is_forgotten() {
    simulate(Transport::Memory, async || {
        let (world, between) = world(12, Some(20)).await;
        assert!(asked_and_told(&world, &between, "one").await > 1_000);
        let key = between.digests()[0].key;
        let begun = Instant::now();
        let is_new = |passed: &Passed| passed.key != key;
        while !between.digests().iter().any(is_new) {
            assert!(begun.elapsed() < PATIENCE, "no other key: {:?}", between.digests());
            assert!(believed(&world, &between, "one").await > 1_000, "{:?}", between.digests());
            sleep(TOLD).await;
        }
        assert!(begun.elapsed() > Duration::from_secs(15), "before midnight: {:?}", begun.elapsed());
        assert!(believed(&world, &between, "one").await > 1_000, "{:?}", between.digests());
        assert!(asked_and_told(&world, &between, "two").await > 1_000, "{:?}", between.digests());
        let digests = between.digests();
        assert!(digests.iter().all(|passed| passed.stream == 1), "{digests:?}");
        let under_new: Vec<u32> =
            digests.iter().filter(|passed| is_new(passed)).map(|one| one.number).collect();
        assert_eq!(under_new, [0, 1], "{digests:?}");
        between.end().await;
        world.end().await;
    });
}
