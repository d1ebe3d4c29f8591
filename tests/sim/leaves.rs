//! A caller leaves, at every millisecond of a request over links that take time: while its sidecar dials, in the handshake, in the
//! queue, in prefill, in the middle of the answer. Whenever it is, everything that the request held is free at once.

use std::collections::BTreeMap;
use std::time::Duration;

use penstock_tests::client::Version;
use penstock_tests::engine::chat;
use penstock_tests::memory::Plan as Trouble;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use crate::caller::ask;
use crate::world::{Plan, Transport, World, simulate};

/// Time that a link takes, one way.
const LATENCY: Duration = Duration::from_millis(3);
/// The promise is 100 ms on links that take none; here a reset travels over three of them.
const FREE: Duration = Duration::from_millis(100);

/// How a caller leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leave {
    /// It closes its connection.
    Close,
    /// It resets the stream and keeps the connection.
    Reset,
}

/// What connections there are when it asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Links {
    /// None: both have to be made.
    Cold,
    /// Those of an earlier request.
    Warm,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    version: Version,
    leave: Leave,
    links: Links,
    stream: bool,
}

/// Leaves after `patience`; gives whether the answer came first, and how long its traces stayed.
async fn leave_after(world: &World, case: Case, patience: Duration) -> (bool, Duration) {
    if case.links == Links::Cold {
        let away = [world.sidecar("a").inbound.expect("a door"), world.engine("a").address()];
        away.iter().flat_map(|address| world.memory.links(*address)).for_each(|link| link.reset());
        sleep(LATENCY).await;
    }
    let mut connection = world.connect("web", case.version).await;
    let words = "water and gate ".repeat(40);
    let body = chat(&words, json!({"stream": case.stream, "max_tokens": 4, "ignore_eos": true}));
    let request = connection.post("/v1/chat/completions", &body);
    let asked = timeout(patience, ask(&mut connection, request)).await;
    let kept = (case.leave == Leave::Reset).then_some(connection);
    let free = world.quiet_within(FREE, &format!("{case:?} after {patience:?}")).await;
    drop(kept);
    (asked.is_ok(), free)
}

fn sweep(case: Case) {
    let (count, longest) = simulate(Transport::Memory, async || {
        // Small steps, so that prefill takes several, and one place, so that one waits for another.
        let world = Plan::new(Transport::Memory, 3)
            .serve("a", "--noise 0 --max-num-seqs 1 --max-num-batched-tokens 64")
            .caller("web")
            .start()
            .await;
        let places =
            [world.outbound("web"), world.sidecar("a").inbound.expect("a door"), world.engine("a").address()];
        places.into_iter().for_each(|address| world.memory.usually(address, Trouble::slow(LATENCY)));
        let (mut count, mut longest) = (0, Duration::ZERO);
        for ms in 0.. {
            let (was_answered, free) = leave_after(&world, case, Duration::from_millis(ms)).await;
            if was_answered {
                break;
            }
            count += 1;
            longest = longest.max(free);
        }
        world.end().await;
        (count, longest)
    });
    println!("{case:?}: left {count} times, free after at most {longest:?}");
    assert!(count > 50, "{case:?}: {count}");
}

#[test]
fn whenever_a_caller_leaves_everything_is_free_at_once() {
    for links in [Links::Cold, Links::Warm] {
        for stream in [false, true] {
            for (version, leave) in [
                (Version::Http1, Leave::Close),
                (Version::Http2, Leave::Close),
                (Version::Http2, Leave::Reset),
            ] {
                sweep(Case { version, leave, links, stream });
            }
        }
    }
}

/// Behind a request that holds the only place, and in front of a door that does not open.
#[test]
fn one_that_waits_leaves_as_well() {
    simulate(Transport::Memory, async || {
        let world = Plan::new(Transport::Memory, 4)
            .serve("a", "--noise 0 --max-num-seqs 1")
            .caller("web")
            .start()
            .await;
        let long = chat("hi", json!({"stream": true, "max_tokens": 100_000, "ignore_eos": true}));
        let mut first = world.connect("web", Version::Http2).await;
        let request = first.post("/v1/chat/completions", &long);
        let running = first.try_send(request).await.expect("an answer that begins");
        while world.engine("a").load().running == 0 {
            sleep(Duration::from_millis(1)).await;
        }
        let mut free = BTreeMap::new();
        for ms in [1, 10, 100, 1_000] {
            for version in Version::BOTH {
                let mut second = world.connect("web", version).await;
                let request = second.post("/v1/chat/completions", &long);
                assert!(timeout(Duration::from_millis(ms), ask(&mut second, request)).await.is_err());
                assert_eq!(world.engine("a").load().waiting, 1);
                let left = Instant::now();
                drop(second);
                while world.engine("a").load().waiting > 0
                    || world.sidecar("web").vitals.in_use().accounts > 1
                {
                    assert!(left.elapsed() < FREE, "{version} after {ms} ms");
                    sleep(Duration::from_millis(1)).await;
                }
                free.insert((ms, version.to_string()), left.elapsed());
            }
        }
        println!("out of the queue: {free:?}");
        assert_eq!(world.engine("a").load().running, 1, "the other goes on");
        drop((first, running));
        world.end().await;
    });
}
