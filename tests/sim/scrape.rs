//! What a sidecar reads on its model server's metrics page is what the server does at that moment.

use std::collections::VecDeque;
use std::time::Duration;

use futures::future::join_all;
use penstock_proxy::clock;
use penstock_tests::client::{Version, whole};
use penstock_tests::engine::chat;
use penstock_tests::exposition::Exposition;
use serde_json::json;
use tokio::time::sleep;

use crate::caller::ask;
use crate::world::{Plan, Transport, World, simulate};

/// A page is made at most so long before its head is read.
const AGE_MAX: Duration = Duration::from_millis(5);

/// Compares each page with what the engine did when it was made; gives how many differed in running and waiting from the first.
async fn compare(world: &World, seen: &mut Vec<(u64, u64)>) {
    let engine = world.engine("a");
    let said = || world.sidecar("a").vitals.said(engine.address());
    let mut truth = VecDeque::new();
    // What was read before is not compared.
    let mut last = said().map(|taken| taken.at);
    loop {
        let load = engine.load();
        truth.push_back((clock::now(), (load.running as u64, load.waiting as u64)));
        if truth.len() > 10_000 {
            truth.pop_front();
        }
        if let Some(taken) = said()
            && last != Some(taken.at)
        {
            last = Some(taken.at);
            let gauges = &taken.gauges;
            let read = (gauges.running.unwrap(), gauges.waiting.unwrap());
            let near: Vec<_> = truth
                .iter()
                .filter(|(at, _)| *at <= taken.at + AGE_MAX && taken.at.since(*at) <= AGE_MAX)
                .map(|(_, load)| *load)
                .collect();
            assert!(near.contains(&read), "read {read:?}, was {near:?}");
            let (used, total) = (gauges.kv_tokens_used.unwrap(), gauges.kv_tokens_total.unwrap());
            assert!(used <= total && total > 0 && (used > 0) == (read.0 > 0), "{gauges:?}");
            seen.push(read);
        }
        sleep(Duration::from_millis(1)).await;
    }
}

#[test]
fn what_is_read_of_a_model_server_is_what_it_does() {
    simulate(Transport::Memory, async || {
        let plan = Plan::new(Transport::Memory, 11).serve("a", "--max-num-seqs 4").caller("web").scrapes();
        let world = plan.start().await;
        let calls = join_all((0..24_u64).map(async |number| {
            sleep(Duration::from_millis(number * 97)).await;
            let mut connection = world.connect("web", Version::Http2).await;
            let more = json!({"stream": true, "max_tokens": 20 + 15 * number, "ignore_eos": true});
            let request = connection.post("/v1/chat/completions", &chat("water and gate", more));
            assert!(ask(&mut connection, request).await.is_whole);
        }));
        let mut seen = Vec::new();
        tokio::select! {
            _ = calls => {}
            () = compare(&world, &mut seen) => {}
        }
        let loads: std::collections::BTreeSet<_> = seen.iter().copied().collect();
        assert!(seen.len() > 30 && loads.len() > 5, "{seen:?}");
        assert!(seen.iter().any(|(running, waiting)| *running == 4 && *waiting > 3), "{seen:?}");
        println!("{} pages, {} different loads", seen.len(), loads.len());
        world.end().await;
    });
}

/// How often the sidecar of `a` has read its engine's page.
fn scrapes(world: &World) -> f64 {
    let page = world.sidecar("a").vitals.metrics().unwrap();
    Exposition::parse(&page).unwrap().sum("penstock_scrapes_total", &[("result", "success")])
}

#[test]
fn who_only_asks_how_a_model_server_is_does_not_have_it_looked_at_more_often() {
    simulate(Transport::Memory, async || {
        let plan = Plan::new(Transport::Memory, 12).serve("a", "").caller("web").scrapes();
        let world = plan.start().await;
        let mut connection = world.connect("web", Version::Http2).await;
        let before = scrapes(&world);
        for _ in 0..20 {
            let request = connection.request("GET", "/health").body(whole(String::new())).unwrap();
            assert_eq!(ask(&mut connection, request).await.status, Some(200));
            sleep(Duration::from_secs(1)).await;
        }
        assert!((4.0..=5.0).contains(&(scrapes(&world) - before)), "{before} {}", scrapes(&world));
        let before = scrapes(&world);
        let request = connection.post("/v1/chat/completions", &chat("hi", json!({"max_tokens": 1})));
        assert_eq!(ask(&mut connection, request).await.status, Some(200));
        sleep(Duration::from_secs(4)).await;
        assert!(scrapes(&world) - before >= 20.0, "{before} {}", scrapes(&world));
        world.end().await;
    });
}
