//! The same troubles in memory and on real sockets end in the same verdicts: the memory tells the truth.

use std::net::SocketAddr;
use std::time::Duration;

use penstock_tests::client::Version;
use penstock_tests::engine::chat;
use penstock_tests::memory::Way;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::caller::{Seen, ask};
use crate::world::{Plan, Transport, World, simulate};

/// What goes wrong.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    Nothing,
    /// The engine refuses for a while.
    Unavailable,
    /// The engine breaks off after two tokens.
    Torn,
    /// The caller leaves in the middle.
    CallerLeaves,
    /// The link to the other sidecar is cut.
    Mesh(Way, u64),
    /// The link to the engine is cut.
    Engine(Way, u64),
    /// The caller's own link is cut.
    Caller(Way, u64),
}

const TROUBLES: [Trouble; 12] = [
    Trouble::Nothing,
    Trouble::Unavailable,
    Trouble::Torn,
    Trouble::CallerLeaves,
    // In the handshake: another endpoint is asked. In the answer: it ends in an error.
    Trouble::Mesh(Way::There, 700),
    Trouble::Mesh(Way::Back, 700),
    Trouble::Mesh(Way::Back, 5_000),
    Trouble::Engine(Way::There, 100),
    Trouble::Engine(Way::Back, 60),
    Trouble::Engine(Way::Back, 2_000),
    Trouble::Caller(Way::There, 100),
    Trouble::Caller(Way::Back, 2_000),
];

/// All that does not depend on how long things take.
#[derive(Debug, PartialEq, Eq)]
struct Verdict {
    status: Option<u16>,
    error: Option<String>,
    is_whole: bool,
    ends: String,
    accepted: u64,
    aborted: u64,
}

async fn verdict(world: &World, version: Version, trouble: Trouble) -> Verdict {
    let engines = || world.engines.iter().map(|(_, engine)| engine.load());
    let before = (world.accepted(), engines().map(|load| load.aborted).sum::<u64>());
    let inbound: Vec<SocketAddr> = ["a", "b"].map(|name| world.sidecar(name).inbound.unwrap()).to_vec();
    let addresses: Vec<SocketAddr> = world.engines.iter().map(|(_, engine)| engine.address()).collect();
    let order = |order: &Value| {
        world.engines.iter().for_each(|(_, engine)| engine.order_faults(order).expect("an order"));
    };
    // Enough that nothing is over before the trouble has come through.
    let mut tokens = 40;
    match trouble {
        Trouble::Nothing => {}
        Trouble::Unavailable => order(&json!({"unavailable_ms": 60_000, "retry_after": 1})),
        Trouble::Torn => order(&json!({"reset_after_tokens": 2})),
        Trouble::CallerLeaves => tokens = 100_000,
        Trouble::Mesh(way, bytes) => world.cut(&inbound, way, bytes),
        Trouble::Engine(way, bytes) => world.cut(&addresses, way, bytes),
        Trouble::Caller(way, bytes) => world.cut(&[world.outbound("web")], way, bytes),
    }
    let patience = Duration::from_millis(if matches!(trouble, Trouble::CallerLeaves) { 300 } else { 20_000 });
    let asked = timeout(patience, async {
        let mut connection = world.try_connect("web", version).await.ok()?;
        let body = chat("hi", json!({"stream": true, "max_tokens": tokens, "ignore_eos": true}));
        let request = connection.post("/v1/chat/completions", &body);
        Some(ask(&mut connection, request).await)
    });
    let seen: Seen = asked.await.ok().flatten().unwrap_or_default();
    world.quiet_within(Duration::from_secs(20), &format!("{version} {trouble:?}")).await;
    order(&json!({"clear": true}));
    let text = String::from_utf8_lossy(&seen.body).into_owned();
    let last = text.trim_end().rsplit("data: ").next().unwrap_or_default();
    // What a library says of a broken connection depends on where it noticed.
    let ends = match serde_json::from_str::<Value>(last) {
        Ok(error) => error["error"]["code"].to_string(),
        Err(_) => last.to_owned(),
    };
    Verdict {
        status: seen.status,
        error: seen.error,
        is_whole: seen.is_whole,
        ends: if seen.is_whole { ends } else { String::new() },
        accepted: world.accepted() - before.0,
        aborted: engines().map(|load| load.aborted).sum::<u64>() - before.1,
    }
}

/// A mesh for each trouble, since only new connections can be cut after so many bytes.
fn verdicts(transport: Transport) -> Vec<String> {
    let mut told = Vec::new();
    for version in Version::BOTH {
        for trouble in TROUBLES {
            let verdict = simulate(transport, async || {
                let plan =
                    Plan::new(transport, 5).serve("a", "--noise 0").serve("b", "--noise 0").caller("web");
                let plan = plan.documents(|served| {
                    let endpoints: Vec<_> = served.iter().map(|(_, endpoint)| *endpoint).collect();
                    vec![penstock_tests::documents::backend("chat", &endpoints).with("default", true)]
                });
                let world = plan.start().await;
                let verdict = verdict(&world, version, trouble).await;
                // Pings between sidecars and the like end by themselves.
                sleep(Duration::from_millis(5)).await;
                world.end().await;
                verdict
            });
            told.push(format!("{version} {trouble:?}: {verdict:?}"));
        }
    }
    told
}

#[test]
fn sockets_and_memory_agree() {
    let (memory, sockets) = (verdicts(Transport::Memory), verdicts(Transport::Sockets));
    println!("{}", memory.join("\n"));
    for (one, other) in memory.iter().zip(&sockets) {
        assert_eq!(one, other, "memory and sockets");
    }
    assert!(memory.iter().any(|told| told.contains("upstream_reset")), "{memory:#?}");
}
