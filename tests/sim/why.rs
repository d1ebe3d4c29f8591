//! Why a request went where it went, asked of the sidecar that sent it.

use std::time::Duration;

use futures::future::join_all;
use penstock_proxy::telemetry::why::Nothing;
use penstock_tests::client::Version;
use penstock_tests::documents;
use penstock_tests::engine::chat;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::caller::ask;
use crate::world::{Plan, Transport, World, simulate};

const CALLERS: [&str; 4] = ["a", "b", "c", "d"];

/// Four engines under one Backend with this policy.
async fn world(policy: &'static str) -> World {
    let mut plan = Plan::new(Transport::Memory, 6);
    for number in 0..4 {
        plan = plan.serve(&format!("engine-{number}"), "--noise 0");
    }
    for caller in CALLERS {
        plan = plan.caller(caller);
    }
    let plan = plan.documents(move |served| {
        let endpoints: Vec<_> = served.iter().map(|(_, endpoint)| *endpoint).collect();
        let policy = documents::policy("chat").with("loadBalancer", json!({"policy": policy}));
        vec![documents::backend("chat", &endpoints).with("default", true), policy]
    });
    plan.start().await
}

async fn one(world: &World, caller: &str, id: &str, repetitions: usize) -> Option<u16> {
    let mut connection = world.connect(caller, Version::Http2).await;
    let words = format!("{id} ") + &"the water falls through the gate ".repeat(repetitions);
    let body = chat(&words, json!({"stream": true, "max_tokens": 5, "ignore_eos": true}));
    let mut request = connection.post("/v1/chat/completions", &body);
    request.headers_mut().insert("x-request-id", id.parse().unwrap());
    ask(&mut connection, request).await.status
}

/// The one request of this id.
fn told(world: &World, caller: &str, id: &str) -> Value {
    let page = world.sidecar(caller).vitals.why(id).expect("a page");
    let requests = page["requests"].as_array().expect("requests");
    assert_eq!(requests.len(), 1, "{page:#}");
    requests[0].clone()
}

#[test]
fn a_request_that_was_refused_and_placed_elsewhere_tells_who_refused_it_why_and_what_it_had_cost() {
    simulate(Transport::Memory, async || {
        let world = world("LeastCost").await;
        for (number, caller) in CALLERS.into_iter().cycle().take(16).enumerate() {
            assert_eq!(one(&world, caller, &format!("warm-{number}"), 10).await, Some(200));
        }
        // All at once: no sidecar knows what the others send.
        let id = |number: usize| format!("long-{number}");
        let asked = (0..16).map(|number| {
            let world = &world;
            async move { one(world, CALLERS[number % 4], &id(number), 6_000).await }
        });
        assert!(join_all(asked).await.iter().all(|status| *status == Some(200)));
        world.quiet_within(Duration::from_secs(60), "answers").await;
        let stories: Vec<Value> =
            (0..16).map(|number| told(&world, CALLERS[number % 4], &id(number))).collect();
        let refused: Vec<&Value> =
            stories.iter().filter(|story| story["attempts"][0]["ended"]["how"] == "refused").collect();
        println!("{} of 16 were refused at first", refused.len());
        let story = refused.first().expect("some were refused, or nothing is shown");
        check_refusal(story);
        stories.iter().for_each(check_costs);
        world.end().await;
    });
}

#[track_caller]
fn check_refusal(story: &Value) {
    let attempts = story["attempts"].as_array().unwrap();
    let [first, second] = [&attempts[0], &attempts[1]];
    assert_eq!(first["reason"], "least_cost", "{story:#}");
    let refusal = &first["ended"];
    assert!(["elsewhere", "promised", "late", "memory"].iter().any(|known| refusal["reason"] == *known));
    assert!(refusal["firstTokenMs"].as_f64().is_some_and(|ms| ms > 0.0), "{story:#}");
    assert!(refusal["load"]["promptTokensPending"].as_f64().is_some_and(|tokens| tokens > 0.0), "{story:#}");
    let was_chosen = &first["endpoints"][0]["endpoint"];
    let rows = second["endpoints"].as_array().unwrap();
    let tried = rows.iter().find(|row| row["state"] == "tried").expect("the one that refused");
    assert_eq!((&tried["endpoint"], &second["counts"]["tried"]), (was_chosen, &json!(1)), "{story:#}");
    assert_ne!(&rows[0]["endpoint"], was_chosen, "{story:#}");
    let last = attempts.last().unwrap();
    assert_eq!(
        (&last["ended"]["how"], &last["ended"]["status"]),
        (&json!("answered"), &json!(200)),
        "{story:#}"
    );
}

/// What each would have cost is the sum of what it is said to be made of, and what came of it is told beside what was predicted.
#[track_caller]
fn check_costs(story: &Value) {
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("no number in {story:#}"));
    for attempt in story["attempts"].as_array().unwrap() {
        let rows = attempt["endpoints"].as_array().unwrap();
        assert_eq!((rows.len(), &rows[0]["role"]), (4, &json!("chosen")), "{story:#}");
        for (row, cost) in rows.iter().map(|row| (row, &row["cost"])) {
            assert!(
                number(&cost["ownSince"]) <= number(&row["inflight"]),
                "what has ended waits nowhere: {row:#}"
            );
            let terms = ["waitMs", "promptMs", "roomMs", "othersMs", "harmMs", "moreMs"]
                .map(|term| number(&cost[term]));
            let gap = (terms.iter().sum::<f64>() - number(&cost["totalMs"])).abs();
            assert!(gap < 1.0, "{story:#}");
        }
    }
    let outcome = &story["outcome"];
    assert_eq!(
        (&outcome["status"], &outcome["classification"]),
        (&json!(200), &json!("success")),
        "{story:#}"
    );
    assert!(number(&outcome["firstTokenMs"]) >= number(&story["attempts"][0]["atMs"]), "{story:#}");
    assert!(number(&story["promptTokens"]) > 1_000.0, "{story:#}");
}

/// Milliseconds that the first attempt of a request is willing to wait longer than was believed of the one chosen and of the next best.
fn margin_ms(story: &Value) -> f64 {
    let attempt = &story["attempts"][0];
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("no number in {story:#}"));
    let first_token_ms = |row: &Value| {
        ["waitMs", "promptMs", "roomMs"].iter().map(|term| number(&row["cost"][term])).sum::<f64>()
    };
    let rows = attempt["endpoints"].as_array().expect("rows");
    let (chosen, others) = rows.split_first().expect("the one chosen");
    let next_ms = others.iter().map(first_token_ms).fold(f64::INFINITY, f64::min);
    number(&attempt["patience"]["firstTokenMs"]) - first_token_ms(chosen).max(next_ms)
}

#[test]
fn who_is_never_refused_becomes_impatient_and_who_is_becomes_patient_again() {
    simulate(Transport::Memory, async || {
        let world = world("LeastCost").await;
        for number in 0..100 {
            for caller in CALLERS {
                assert_eq!(one(&world, caller, &format!("quiet-{number}-{caller}"), 10).await, Some(200));
            }
        }
        let margin = |caller: &str, id: &str| margin_ms(&told(&world, caller, &format!("{id}-{caller}")));
        let [first_ms, last_ms] = ["quiet-0", "quiet-99"].map(|id| margin("a", id));
        // The longest margin, and after a hundred times a fiftieth less in its logarithm the shortest.
        assert!((first_ms - 392.0).abs() < 2.0 && (last_ms - 60.0).abs() < 2.0, "{first_ms} {last_ms}");
        let id = |number: usize| format!("crowd-{number}");
        let asked = (0..16).map(|number| {
            let world = &world;
            async move { one(world, CALLERS[number % 4], &id(number), 6_000).await }
        });
        assert!(join_all(asked).await.iter().all(|status| *status == Some(200)));
        let refused = CALLERS.into_iter().enumerate().find(|(place, caller)| {
            (0..4).any(|round| {
                let story = told(&world, caller, &id(4 * round + place));
                story["attempts"][0]["ended"]["how"] == "refused"
            })
        });
        let (_, caller) = refused.expect("somebody was refused");
        assert_eq!(one(&world, caller, &format!("after-{caller}"), 10).await, Some(200));
        let after_ms = margin(caller, "after");
        assert!(after_ms > last_ms + 2.0, "{caller}: {last_ms} {after_ms}");
        world.end().await;
    });
}

#[test]
fn a_request_by_two_choices_tells_loads_and_no_costs() {
    simulate(Transport::Memory, async || {
        let world = world("P2C").await;
        assert_eq!(one(&world, "a", "plain", 10).await, Some(200));
        world.quiet_within(Duration::from_secs(60), "the answer").await;
        let story = told(&world, "a", "plain");
        let attempt = &story["attempts"][0];
        assert_eq!(
            (&attempt["reason"], &attempt["level"]),
            (&json!("least_load"), &Value::Null),
            "{story:#}"
        );
        let rows = attempt["endpoints"].as_array().unwrap();
        assert!(rows.len() == 4 && rows.iter().all(|row| row["cost"].is_null()), "{story:#}");
        let unknown = world.sidecar("b").vitals.why("plain");
        assert!(matches!(unknown, Err(Nothing::Unknown { kept: 0, .. })), "{unknown:?}");
        world.end().await;
    });
}

#[test]
fn a_request_that_is_under_way_is_told_and_one_whose_caller_left_has_an_end() {
    simulate(Transport::Memory, async || {
        let world = world("LeastCost").await;
        let asked = one(&world, "a", "left", 4_000);
        let gone = timeout(Duration::from_millis(50), asked).await;
        assert!(gone.is_err(), "it is still being computed");
        world.quiet_within(Duration::from_secs(60), "what was left").await;
        let story = told(&world, "a", "left");
        assert_eq!(story["outcome"]["classification"], "cancelled", "{story:#}");
        assert_eq!(story["attempts"].as_array().map(Vec::len), Some(1), "{story:#}");

        let asked = one(&world, "a", "waits", 4_000);
        let (status, ()) = tokio::join!(asked, async {
            sleep(Duration::from_millis(50)).await;
            let story = told(&world, "a", "waits");
            // The head of a stream comes before anything of it is computed.
            let how = &story["attempts"][0]["ended"]["how"];
            assert_eq!((&story["outcome"], how), (&Value::Null, &json!("answered")), "{story:#}");
        });
        assert_eq!(status, Some(200));
        world.end().await;
    });
}
