//! Unary calls, many at once on each of some connections.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::task::JoinSet;

use penstock_benches::{clock, unary};

use super::flags::{Flags, Unary};
use super::pace::Pace;
use super::small::watch;
use super::tally::{Report, Tally, Window};

/// Runs the warm-up and the measured time.
///
/// # Errors
/// When no connection can be made.
pub(crate) async fn run(flags: &Flags, asked: &Unary) -> anyhow::Result<Report> {
    let mut tasks = JoinSet::new();
    let mut senders = Vec::new();
    for _ in 0..asked.connections {
        senders.push(connect(flags.target, &mut tasks).await?);
    }
    let window = Window::after(clock::now_ns(), flags.warm_up, flags.measured);
    let (tally, pace) = (Tally::new(window)?, Pace::new(asked.rate)?);
    for sender in senders {
        for _ in 0..asked.calls {
            tasks.spawn_local(call(flags.target, sender.clone(), pace.clone(), tally.clone()));
        }
    }
    watch(window, &mut tasks).await?;
    Ok(tally.report(flags.measured.as_secs_f64()))
}

async fn connect(to: SocketAddr, tasks: &mut JoinSet<()>) -> anyhow::Result<SendRequest<Bytes>> {
    let (sender, connection) = unary::connect(to).await?;
    tasks.spawn_local(async move {
        // Its calls tell what went wrong.
        drop(connection.await);
    });
    Ok(sender)
}

/// One call after the other. What goes wrong with a connection goes wrong with all calls on it, so it ends there.
async fn call(target: SocketAddr, mut sender: SendRequest<Bytes>, pace: Pace, tally: Tally) {
    loop {
        let called = async {
            let due_ns = pace.due().await?;
            unary::call(target, &mut sender).await?;
            tally.request(due_ns, clock::now_ns());
            anyhow::Ok(())
        };
        if let Err(error) = called.await {
            return tally.error(&error);
        }
    }
}
