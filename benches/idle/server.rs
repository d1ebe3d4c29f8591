//! The server's sidecar under a steady load, in turns with few and with many who are told how loaded its model server is.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

use penstock_benches::place::Place;

use crate::flags::{Asked, Side};
use crate::result::{Round, Server, Told};
use crate::stand::{Ask, Stand};
use crate::subscribers::{Credentials, Heard, Subscribers};

/// Handshakes, and the first digests that tell all there is, are over after this.
const SETTLE: Duration = Duration::from_secs(4);
/// As many as are told without delay.
const FEW: u32 = 10;
/// Some 700 tokens, and an answer of some hundred milliseconds.
const ASK: Ask = Ask { repetitions: 100, answer_tokens: 64 };
/// Requests that the mesh has answered before anything is measured, so that caches and speeds are known.
const WARM_REQUESTS: u64 = 20;

/// What the load has seen.
#[derive(Default)]
struct Load {
    answered: Cell<u64>,
    failed: Cell<u64>,
    first_error: std::cell::RefCell<Option<String>>,
}

/// Measures it.
///
/// # Errors
/// When something does not come up, a request fails, or a subscriber is not told.
pub(crate) async fn measure(place: &Place, asked: &Asked) -> anyhow::Result<Server> {
    let dir = tempfile::Builder::new().prefix("penstock-idle-").tempdir()?;
    let stand = Rc::new(Stand::start(place, 1, Side::Server, dir.path()).await?);
    let credentials = Credentials::signed_by(&stand.authority)?;
    let load = Rc::new(Load::default());
    let mut generator = JoinSet::new();
    generator.spawn_local(generate(Rc::clone(&stand), Rc::clone(&load), asked.rate));
    while load.answered.get() < WARM_REQUESTS.min(u64::from(asked.rate)) && load.failed.get() == 0 {
        sleep(Duration::from_millis(50)).await;
    }
    let mut rounds = Vec::new();
    for _ in 0..asked.rounds {
        let alone = told(&stand, &load, &credentials, (0, asked.seconds)).await?;
        let few = told(&stand, &load, &credentials, (FEW.min(asked.subscribers), asked.seconds)).await?;
        let many = told(&stand, &load, &credentials, (asked.subscribers, asked.seconds)).await?;
        rounds.push(Round { alone, few, many });
    }
    generator.abort_all();
    while generator.join_next().await.is_some() {}
    let failed = load.failed.get();
    ensure!(failed == 0, "{failed} requests failed: {}", load.first_error.take().unwrap_or_default());
    Rc::try_unwrap(stand).ok().context("a request is still under way")?.end().await?;
    Ok(Server::of(asked.subscribers, asked.rate, rounds))
}

/// The state with so many subscribers beside the caller's sidecar.
async fn told(
    stand: &Stand,
    load: &Load,
    credentials: &Credentials,
    (subscribers, seconds): (u32, Duration),
) -> anyhow::Result<Told> {
    let many = Subscribers::open(credentials, stand.served[0], subscribers).await?;
    sleep(SETTLE).await;
    let (answered, before) = (load.answered.get(), many.heard());
    let used = Stand::used(&stand.servers[0], sleep(seconds)).await?;
    let heard = many.heard().since(before);
    ensure!(many.open_streams() == subscribers, "{} of {subscribers} streams are open", many.open_streams());
    many.close().await;
    Ok(told_of(subscribers, load.answered.get() - answered, used, heard))
}

fn told_of(subscribers: u32, requests: u64, used: crate::result::Used, heard: Heard) -> Told {
    let reports_per_second = heard.reports as f64 / used.seconds;
    Told {
        subscribers,
        requests,
        reports_per_second,
        bytes_per_second: heard.bytes as f64 / used.seconds,
        used,
    }
}

/// Requests at a rate, until it is dropped.
async fn generate(stand: Rc<Stand>, load: Rc<Load>, rate: u32) {
    let mut ticks = interval(Duration::from_secs(1) / rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut asking = JoinSet::new();
    for number in 0.. {
        ticks.tick().await;
        let (stand, load) = (Rc::clone(&stand), Rc::clone(&load));
        asking.spawn_local(async move {
            match stand.chat(0, number, ASK).await {
                Ok(()) => load.answered.set(load.answered.get() + 1),
                Err(error) => {
                    load.failed.set(load.failed.get() + 1);
                    load.first_error.borrow_mut().get_or_insert_with(|| format!("{error:#}"));
                }
            }
        });
        while asking.try_join_next().is_some() {}
    }
}
