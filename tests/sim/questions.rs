//! What a caller's sidecar asks before it sends a request for the last time, where it has heard of nobody for a while.

use std::time::Duration;

use futures::future::join_all;
use http::{HeaderName, HeaderValue};
use penstock_tests::client::Version;
use penstock_tests::documents;
use penstock_tests::engine::chat;
use penstock_tests::memory::Listener;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::between::Between;
use crate::caller::ask;
use crate::world::{Plan, Transport, World, simulate};

const ENGINES: usize = 6;

/// Who sends it has so little time, less than answers to questions are waited for.
const HURRY: &str = "x-hurry";
const HURRY_MS: u64 = 30;

/// Engines, each with somebody before its sidecar, and two callers.
async fn world(seed: u64) -> (World, Vec<Between>) {
    let mut plan = Plan::new(Transport::Memory, seed).caller("web").caller("batch");
    let name = |number: usize| format!("engine-{number}");
    let listeners: Vec<Listener> =
        (0..ENGINES).map(|_| plan.memory().listen_on(([127, 0, 0, 1], 0).into()).expect("a port")).collect();
    let addresses: Vec<_> = listeners.iter().map(Listener::address).collect();
    for number in 0..ENGINES {
        plan = plan.serve(&name(number), "--noise 0");
    }
    let plan = plan.documents(move |served| {
        let endpoints: Vec<_> = served
            .iter()
            .zip(&addresses)
            .map(|((_, endpoint), address)| documents::Endpoint { sidecar: Some(*address), ..*endpoint })
            .collect();
        let hurry = json!([{"headers": [{"name": HURRY, "value": "yes"}]}]);
        let refs = json!([documents::reference("chat")]);
        let timeouts = json!({"request": format!("{HURRY_MS}ms")});
        let rules =
            json!([{"matches": hurry, "backendRefs": refs, "timeouts": timeouts}, {"backendRefs": refs}]);
        vec![documents::backend("chat", &endpoints).with("default", true), documents::route("chat", &rules)]
    });
    let world = plan.start().await;
    let stand = |(number, listener)| Between::stand(listener, &world, &name(number));
    let between = listeners.into_iter().enumerate().map(stand).collect();
    (world, between)
}

/// A prompt that takes 0.4 s, and travels with its head: who stands between passes on no interim answers.
const LONG: usize = 1_800;

async fn one(world: &World, caller: &str, id: &str, repetitions: usize) -> Option<u16> {
    send(world, caller, id, repetitions, None).await
}

async fn send(world: &World, caller: &str, id: &str, repetitions: usize, more: Option<&str>) -> Option<u16> {
    let mut connection = world.connect(caller, Version::Http2).await;
    let words = format!("{id} ") + &"the water falls through the gate ".repeat(repetitions);
    let body = chat(&words, json!({"stream": true, "max_tokens": 5, "ignore_eos": true}));
    let mut request = connection.post("/v1/chat/completions", &body);
    request.headers_mut().insert("x-request-id", id.parse().expect("a value"));
    if repetitions < LONG {
        request.headers_mut().insert("x-slo-ttft-ms", "250".parse().expect("a value"));
    }
    if let Some(name) = more {
        request
            .headers_mut()
            .insert(HeaderName::try_from(name).expect("a name"), HeaderValue::from_static("yes"));
    }
    ask(&mut connection, request).await.status
}

/// One round: all engines but one are made busy by a caller, and another one, who hears nothing of it, asks for something short, with one
/// more field. What it is answered, after how long, and its story.
async fn round(world: &World, number: usize, more: Option<&str>) -> (Option<u16>, Duration, Value) {
    let long: Vec<String> = (1..ENGINES).map(|of| format!("long-{number}-{of}")).collect();
    let busy = join_all(long.iter().map(|id| one(world, "batch", id, LONG)));
    let (busy, short) = tokio::join!(busy, async {
        sleep(Duration::from_millis(20)).await;
        let (id, begun) = (format!("short-{number}"), Instant::now());
        let status = send(world, "web", &id, 10, more).await;
        let took = begun.elapsed();
        (status, took, world.sidecar("web").vitals.why(&id).expect("a page")["requests"][0].clone())
    });
    assert!(busy.iter().all(|status| *status == Some(200)), "{busy:?}");
    short
}

/// The questions of the attempts of a story, where there were any.
fn questions(story: &Value) -> Vec<&Value> {
    let attempts = story["attempts"].as_array().expect("attempts");
    attempts.iter().map(|attempt| &attempt["questions"]).collect()
}

async fn begin(world: &World, between: &[Between]) {
    for caller in ["web", "batch"] {
        assert_eq!(one(world, caller, &format!("first-{caller}"), 10).await, Some(200));
    }
    // By then all are followed.
    sleep(Duration::from_secs(3)).await;
    between.iter().for_each(Between::mute);
}

async fn end(world: World, between: Vec<Between>) {
    for between in between {
        between.end().await;
    }
    world.end().await;
}

#[test]
fn who_was_refused_twice_asks_how_the_others_stand_and_goes_to_the_one_that_is_idle() {
    simulate(Transport::Memory, async || {
        let (world, between) = world(4).await;
        begin(&world, &between).await;
        let mut asked = 0;
        for number in 0..12 {
            let (status, took, story) = round(&world, number, None).await;
            assert_eq!(status, Some(200), "{story:#}");
            assert!(took < Duration::from_millis(250), "it waited for long ones: {took:?}");
            match questions(&story)[..] {
                [_] | [_, _] => assert!(questions(&story).iter().all(|told| told.is_null()), "{story:#}"),
                [first, second, last] => {
                    assert!(first.is_null() && last.is_null(), "{story:#}");
                    assert_eq!((&second["asked"], &second["answered"]), (&json!(4), &json!(4)), "{story:#}");
                    asked += 4;
                }
                _ => panic!("more than three attempts: {story:#}"),
            }
        }
        let page = world.sidecar("web").vitals.metrics().expect("a page");
        let labels = "backend_name=\"chat\",backend_namespace=\"default\",result=\"answered\"";
        let line = format!("penstock_load_questions_total{{{labels}}} {asked}");
        assert!(asked > 0 && page.lines().any(|found| found == line), "{line}");
        end(world, between).await;
    });
}

#[test]
fn nobody_waits_for_answers_longer_than_its_request_may_take() {
    simulate(Transport::Memory, async || {
        let (world, between) = world(4).await;
        begin(&world, &between).await;
        between.iter().for_each(Between::deafen);
        let mut has_asked = false;
        for number in 0..12 {
            let (status, took, story) = round(&world, number, Some(HURRY)).await;
            assert!(took <= Duration::from_millis(HURRY_MS + 1), "{took:?} {story:#}");
            for told in questions(&story).into_iter().filter(|told| !told.is_null()) {
                assert_eq!((&told["answered"], status), (&json!(0), Some(504)), "{story:#}");
                has_asked = true;
            }
        }
        assert!(has_asked, "nobody asked");
        end(world, between).await;
    });
}
