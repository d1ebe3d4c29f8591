//! What sidecars tell each other of load, and what comes of it.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use http::StatusCode;
use penstock_tests::client::Version;
use penstock_tests::documents;
use penstock_tests::engine::chat;
use penstock_tests::memory::Plan as Link;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::caller::ask;
use crate::world::{Plan, Transport, World, simulate};

const WORDS: &str = "the water falls through the gate ";

/// Engines under one Backend, and callers.
async fn world(seed: u64, engines: &[&str], callers: &[&str], policy: Value) -> World {
    let mut plan = Plan::new(Transport::Memory, seed);
    for (number, words) in engines.iter().enumerate() {
        plan = plan.serve(&format!("engine-{number}"), words);
    }
    for caller in callers {
        plan = plan.caller(caller);
    }
    let plan = plan.documents(move |served| {
        let endpoints: Vec<_> = served.iter().map(|(_, endpoint)| *endpoint).collect();
        let backend = documents::backend("chat", &endpoints).with("default", true);
        let fields = policy.as_object().into_iter().flatten();
        let written =
            fields.fold(documents::policy("chat"), |made, (name, value)| made.with(name, value.clone()));
        vec![backend, written]
    });
    plan.start().await
}

/// One question of so many repetitions, with a number that makes it like no other.
async fn one(
    world: &World,
    caller: &str,
    number: usize,
    repetitions: usize,
    more: &[(&str, &str)],
) -> (u16, Value) {
    let mut connection = world.connect(caller, Version::Http2).await;
    let words = format!("{number} ") + &WORDS.repeat(repetitions);
    let body = chat(&words, json!({"stream": false, "max_tokens": 20, "ignore_eos": true}));
    let mut request = connection.post("/v1/chat/completions", &body);
    for (name, value) in more {
        let name: http::HeaderName = name.parse().expect("a name");
        request.headers_mut().insert(name, value.parse().expect("a value"));
    }
    let seen = ask(&mut connection, request).await;
    let body = serde_json::from_slice(&seen.body).unwrap_or(Value::Null);
    (seen.status.unwrap_or(0), body)
}

/// Requests that each engine has accepted.
fn shares(world: &World) -> Vec<u64> {
    world.engines.iter().map(|(_, engine)| engine.load().accepted).collect()
}

fn refusals(world: &World, caller: &str) -> BTreeMap<String, u64> {
    let page = world.sidecar(caller).vitals.metrics().expect("a page");
    let lines = page.lines().filter(|line| line.starts_with("penstock_refusals_total{"));
    let reason = |line: &str| {
        line.split("reason=\"").nth(1).and_then(|rest| rest.split('"').next()).map(str::to_owned)
    };
    let count = |line: &str| line.rsplit(' ').next().and_then(|count| count.parse().ok());
    lines.filter_map(|line| Some((reason(line)?, count(line)?))).collect()
}

#[test]
fn what_one_caller_does_is_known_to_another_within_a_tenth_of_a_second() {
    simulate(Transport::Memory, async || {
        let world = world(1, &["--noise 0", "--noise 0"], &["web", "batch"], json!({})).await;
        for (number, caller) in ["web", "web", "batch", "batch"].into_iter().enumerate() {
            assert_eq!(one(&world, caller, number, 10, &[]).await.0, 200);
        }
        let busy = one(&world, "batch", 10, 4_000, &[]);
        let (_, ()) = tokio::join!(busy, async {
            sleep(Duration::from_millis(150)).await;
            let known = world.sidecar("web").vitals.believed();
            let pending: Vec<_> =
                known.iter().map(|(_, told)| told.report.prompt_tokens_pending > 5_000.0).collect();
            assert_eq!(pending.iter().filter(|is_busy| **is_busy).count(), 1, "{known:?}");
        });
        sleep(Duration::from_millis(200)).await;
        let known = world.sidecar("web").vitals.believed();
        assert!(known.iter().all(|(_, told)| told.report.prompt_tokens_pending == 0.0), "{known:?}");
        world.end().await;
    });
}

#[test]
fn who_asks_what_a_request_would_cost_soon_knows_it_of_everybody_it_asked_about() {
    simulate(Transport::Memory, async || {
        let world = world(9, &["--noise 0"; 6], &["web"], json!({})).await;
        let known = || world.sidecar("web").vitals.believed().len();
        assert_eq!(one(&world, "web", 0, 10, &[]).await.0, 200);
        // The others are dialled at moments of the next second that are drawn.
        assert!((1..6).contains(&known()), "{}", known());
        sleep(Duration::from_secs(2)).await;
        assert_eq!(known(), 6);
        world.end().await;
    });
}

#[test]
fn a_burst_of_many_callers_is_spread_by_cost() {
    let callers = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let burst = |policy: &'static str, seed: u64| {
        simulate(Transport::Memory, async || {
            let policy = json!({"loadBalancer": {"policy": policy}});
            let world = world(seed, &["--noise 0"; 4], &callers, policy).await;
            for (number, caller) in callers.iter().enumerate() {
                assert_eq!(one(&world, caller, number, 10, &[]).await.0, 200);
            }
            // Within 640 ms, and one in eight has thirty times the prompt of the others.
            let asked = (0..64).map(|number| {
                let world = &world;
                async move {
                    sleep(Duration::from_millis(number as u64 * 10)).await;
                    let repetitions = if number % 8 == number / 8 { 3_000 } else { 100 };
                    let asked = Instant::now();
                    let (status, _) = one(world, callers[number % 8], 100 + number, repetitions, &[]).await;
                    (status, asked.elapsed())
                }
            });
            let answered = join_all(asked).await;
            assert!(answered.iter().all(|(status, _)| *status == 200), "{answered:?}");
            let took = answered.iter().map(|(_, took)| *took).sum::<Duration>() / 64;
            let refused: u64 = callers.iter().flat_map(|caller| refusals(&world, caller).into_values()).sum();
            world.end().await;
            (took, refused)
        })
    };
    // Over several seeds: in one of them any rule can have luck.
    let all = |policy| {
        (1..=12)
            .map(|seed| burst(policy, seed))
            .fold((Duration::ZERO, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    };
    let [(by_cost, refused), (by_request, _), (by_lot, _)] = ["LeastCost", "P2C", "Random"].map(all);
    println!(
        "mean of an answer, all bursts together: by cost {by_cost:?}, {refused} refusals; by requests {by_request:?}; by lot {by_lot:?}"
    );
    assert!(
        by_cost < by_request.mul_f64(0.9) && by_cost < by_lot.mul_f64(0.9),
        "{by_cost:?} {by_request:?} {by_lot:?}"
    );
}

#[test]
fn a_slow_server_gets_less_without_anybody_saying_so() {
    let (shares, answered) = simulate(Transport::Memory, async || {
        let engines = ["--noise 0", "--noise 0", "--noise 0", "--noise 0 --speed 0.25"];
        let world = world(4, &engines, &["web", "batch"], json!({})).await;
        let asked = (0..200).map(|number| {
            let world = &world;
            async move {
                sleep(Duration::from_millis(number as u64 * 60)).await;
                one(world, ["web", "batch"][number % 2], number, 200, &[]).await.0
            }
        });
        let answered = join_all(asked).await;
        let shares = shares(&world);
        world.end().await;
        (shares, answered)
    });
    println!("{shares:?}");
    assert!(answered.iter().all(|status| *status == 200));
    let fast = shares[..3].iter().sum::<u64>() as f64 / 3.0;
    assert!((shares[3] as f64) < 0.6 * fast, "{shares:?}");
}

#[test]
fn who_cannot_be_served_in_time_is_told_at_once_and_when_to_come_again() {
    simulate(Transport::Memory, async || {
        let world =
            world(5, &["--noise 0", "--noise 0"], &["web"], json!({"queue": {"maxWait": "6s"}})).await;
        for number in 0..4 {
            assert_eq!(one(&world, "web", number, 10, &[]).await.0, 200);
        }
        let long = (0..30).map(|number| one(&world, "web", 100 + number, 4_000, &[]));
        let (answered, (late, soon)) = tokio::join!(join_all(long), async {
            sleep(Duration::from_millis(300)).await;
            let promised = [("x-llm-d-slo-ttft-ms", "50")];
            let late = one(&world, "web", 200, 50, &promised).await;
            (late, shares(&world))
        });
        assert_eq!(late.0, StatusCode::TOO_MANY_REQUESTS, "{late:?}");
        let message = late.1["error"]["message"].as_str().unwrap_or_default();
        assert!(
            message.contains("Backend default/chat: no endpoint can answer in time; at the last one asked"),
            "{message}"
        );
        assert!(soon.iter().sum::<u64>() < 34, "the one that is refused never reached an engine: {soon:?}");
        let statuses: BTreeMap<u16, usize> = answered.iter().fold(BTreeMap::new(), |mut all, (status, _)| {
            *all.entry(*status).or_default() += 1;
            all
        });
        println!("{statuses:?} {:?} {:?}", refusals(&world, "web"), late.1);
        let [served, refused] = [200, 429].map(|status| statuses.get(&status).copied().unwrap_or(0));
        assert_eq!(served + refused, 30, "{statuses:?}");
        assert!(served >= 4 && refused >= 6, "some fit into six seconds, and not all: {statuses:?}");
        assert!(refusals(&world, "web").contains_key("late"), "{:?}", refusals(&world, "web"));
        world.end().await;
    });
}

#[test]
fn a_long_prompt_waits_at_the_door_until_the_answer_under_way_can_bear_it() {
    simulate(Transport::Memory, async || {
        let world = world(7, &["--noise 0"], &["web"], json!({})).await;
        for number in 0..4 {
            assert_eq!(one(&world, "web", number, 10, &[]).await.0, 200);
        }
        let promised =
            |first_token: &'static str| [("x-llm-d-slo-ttft-ms", first_token), ("x-llm-d-slo-tpot-ms", "50")];
        // Of its tokens one is due every 50 ms, and one comes every 8: after some of them the long prompt is no harm.
        let streamed = async {
            let mut connection = world.connect("web", Version::Http2).await;
            let body = chat("a short one", json!({"stream": true, "max_tokens": 300, "ignore_eos": true}));
            let mut request = connection.post("/v1/chat/completions", &body);
            for (name, value) in promised("200") {
                request.headers_mut().insert(name, value.parse().expect("a value"));
            }
            ask(&mut connection, request).await
        };
        let long = async {
            sleep(Duration::from_millis(50)).await;
            one(&world, "web", 10, 4_000, &promised("20000")).await
        };
        let (streamed, long) = tokio::join!(streamed, long);
        assert_eq!(
            (streamed.status, streamed.is_whole, long.0),
            (Some(200), true, 200),
            "{streamed} {long:?}"
        );
        let page = world.sidecar("engine-0").vitals.metrics().expect("a page");
        assert!(page.contains("\npenstock_door_waits_total 1\n"), "{page}");
        assert!(refusals(&world, "web").is_empty(), "{:?}", refusals(&world, "web"));
        world.end().await;
    });
}

#[test]
fn a_prompt_of_up_to_64_kib_travels_with_its_head_and_a_longer_one_waits_a_round_trip() {
    const LATENCY: Duration = Duration::from_millis(100);
    simulate(Transport::Memory, async || {
        let world = world(8, &["--noise 0 --speed 50"], &["web"], json!({})).await;
        let inbound = world.sidecar("engine-0").inbound.expect("a door");
        world.memory.usually(inbound, Link::slow(LATENCY));
        let mut round_trips = Vec::new();
        // The first one opens the connection, and after it the caller's sidecar knows how the server stands.
        for repetitions in [10, 10, 1_800, 2_200] {
            let asked = Instant::now();
            assert_eq!(one(&world, "web", repetitions, repetitions, &[]).await.0, 200);
            round_trips.push((asked.elapsed().as_secs_f64() / (2.0 * LATENCY.as_secs_f64())).floor());
            sleep(LATENCY * 4).await;
        }
        assert_eq!(round_trips[1..], [1.0, 1.0, 2.0], "{round_trips:?}: of 400, 58,000 and 71,000 bytes");
        world.end().await;
    });
}

#[test]
fn a_long_body_waits_until_it_is_let_in_and_comes_whole_to_who_lets_it_in() {
    simulate(Transport::Memory, async || {
        let callers = ["a", "b", "c", "d"];
        let world = world(6, &["--noise 0"; 4], &callers, json!({})).await;
        for number in 0..16 {
            assert_eq!(one(&world, callers[number % 4], number, 10, &[]).await.0, 200);
        }
        // Three times what travels with the head.
        let asked = (0..16).map(|number| {
            let world = &world;
            async move {
                let words = format!("{number} ") + &WORDS.repeat(6_000);
                let body = chat(&words, json!({"max_tokens": 5, "ignore_eos": true}));
                let mut connection = world.connect(callers[number % 4], Version::BOTH[number % 2]).await;
                let request = connection.post("/v1/chat/completions", &body);
                ask(&mut connection, request).await
            }
        });
        let answered = join_all(asked).await;
        for seen in &answered {
            assert_eq!((seen.status, seen.is_whole), (Some(200), true), "{seen}");
        }
        let refused: u64 = callers.iter().flat_map(|caller| refusals(&world, caller).into_values()).sum();
        println!("{refused} refusals of 16");
        assert!(refused > 0, "nobody was refused, and nothing is shown");
        world.end().await;
    });
}
