//! What an inbound sidecar knows of its model server, held against that server's own books at many moments.

use std::time::Duration;

use penstock_tests::client::Version;
use penstock_tests::engine::chat;
use serde_json::json;
use tokio::time::{sleep, timeout};

use crate::caller::ask;
use crate::world::{Plan, Transport, World, simulate};

/// Prompt tokens that one step computes: so much is neither pending nor computed while a step is under way.
const STEP_TOKENS: f64 = 1_024.0;

/// One moment: prompt tokens pending and requests that have not ended, as the sidecar says and as is true.
#[derive(Clone, Copy, Debug)]
struct Moment {
    pending: [f64; 2],
    requests: [u32; 2],
}

/// Long prompts, each alone beside a sequence that generates: they show how much a step computes.
async fn learn_step(world: &World) {
    let mut first = world.connect("web", Version::Http2).await;
    let long = chat("hi", json!({"stream": true, "max_tokens": 100_000, "ignore_eos": true}));
    let request = first.post("/v1/chat/completions", &long);
    let generating = first.try_send(request).await.expect("an answer that begins");
    for number in 0..6 {
        let mut second = world.connect("batch", Version::Http2).await;
        let words = format!("{number} ") + &"the water falls through the gate ".repeat(2_000);
        let body = chat(
            &words,
            json!({"stream": true, "max_tokens": 20, "stream_options": {"include_usage": true}}),
        );
        let request = second.post("/v1/chat/completions", &body);
        assert_eq!(ask(&mut second, request).await.status, Some(200));
    }
    drop((generating, first));
    world.quiet_within(Duration::from_secs(1), "the sequence that generated").await;
}

async fn call(world: &World, number: u64) {
    // Spread without a pattern, and the same in every run.
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    sleep(Duration::from_millis(number * 45 + mixed % 90)).await;
    let words =
        format!("{number} ") + &"the water falls through the gate ".repeat((20 + mixed % 400) as usize);
    let version = Version::BOTH[(number % 2) as usize];
    let mut connection = world.connect(["web", "batch"][(number % 3 % 2) as usize], version).await;
    let body = chat(
        &words,
        json!({"stream": number % 4 != 1, "max_tokens": 20 + mixed % 100, "ignore_eos": true, "stream_options": {"include_usage": true}}),
    );
    let request = connection.post("/v1/chat/completions", &body);
    let patience = Duration::from_millis(if number % 9 == 8 { 30 + mixed % 300 } else { 600_000 });
    // Who leaves is not asked why.
    let _left = timeout(patience, ask(&mut connection, request)).await;
}

/// Looks now and then, for ever.
async fn watch(world: &World, moments: &mut Vec<Moment>) {
    for turn in 0u64.. {
        sleep(Duration::from_micros(7_000 + turn * 7_919 % 13_000)).await;
        let told = world.sidecar("a").vitals.load();
        let truth = world.engine("a").load();
        let Some((_, told)) = told.first() else { continue };
        let report = told.report;
        moments.push(Moment {
            pending: [report.prompt_tokens_pending, truth.prompt_tokens_pending as f64],
            requests: [
                report.sequences_running + report.sequences_waiting,
                (truth.running + truth.waiting) as u32,
            ],
        });
    }
}

#[test]
fn the_account_agrees_with_the_engine_s_own_books() {
    let moments = simulate(Transport::Memory, async || {
        let world = Plan::new(Transport::Memory, 5)
            .serve("a", &format!("--noise 0.05 --max-num-seqs 64 --max-num-batched-tokens {STEP_TOKENS}"))
            .caller("web")
            .caller("batch")
            .start()
            .await;
        learn_step(&world).await;
        let callers = (0..160).map(|number| call(&world, number));
        let mut moments = Vec::new();
        tokio::select! {
            _ = futures::future::join_all(callers) => {}
            () = watch(&world, &mut moments) => {}
        }
        world.quiet_within(Duration::from_secs(10), "the callers are done").await;
        let told = world.sidecar("a").vitals.load();
        let report = told[0].1.report;
        assert_eq!(
            (report.sequences_running, report.sequences_waiting, report.prompt_tokens_pending),
            (0, 0, 0.0),
            "nothing is left in the account"
        );
        world.end().await;
        moments
    });
    let busy: Vec<_> = moments.iter().filter(|moment| moment.requests[1] > 0).collect();
    assert!(busy.len() > 300, "{} of {} moments", busy.len(), moments.len());
    let mean =
        |of: &dyn Fn(&Moment) -> f64| busy.iter().map(|moment| of(moment)).sum::<f64>() / busy.len() as f64;
    let requests = mean(&|moment| f64::from(moment.requests[1]));
    let requests_off = mean(&|moment| f64::from(moment.requests[0].abs_diff(moment.requests[1])));
    let pending = mean(&|moment| moment.pending[1]);
    // A step under way has up to its size in it that the engine's books do not have pending any more.
    let pending_off = mean(&|moment| {
        let [told, truth] = moment.pending;
        (truth - told).max(told - truth - STEP_TOKENS).max(0.0)
    });
    println!(
        "{} moments: {requests:.2} requests, off by {requests_off:.3}; {pending:.0} prompt tokens pending, off by {pending_off:.0}",
        busy.len()
    );
    assert!(requests > 3.0 && pending > 1_000.0, "{requests} {pending}");
    assert!(requests_off < 0.02 * requests, "{requests_off} of {requests}");
    assert!(pending_off < 0.2 * pending, "{pending_off} of {pending}");
}
