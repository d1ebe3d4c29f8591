//! Small GETs over HTTP/1.1 on connections that are kept.

use std::net::SocketAddr;

use tokio::task::JoinSet;

use penstock_benches::clock::{self, Alarm};
use penstock_benches::h1::{self, Connection};

use super::flags::{Flags, Small};
use super::pace::Pace;
use super::tally::{self, Report, Tally, Window};

/// Runs the warm-up and the measured time.
///
/// # Errors
/// When no connection can be made.
pub(crate) async fn run(flags: &Flags, asked: &Small) -> anyhow::Result<Report> {
    let mut connections = Vec::new();
    for _ in 0..asked.connections {
        connections.push(Connection::open(flags.target).await?);
    }
    let window = Window::after(clock::now_ns(), flags.warm_up, flags.measured);
    let (tally, pace) = (Tally::new(window)?, Pace::new(asked.rate)?);
    let mut tasks = JoinSet::new();
    for connection in connections {
        tasks.spawn_local(ask(flags.target, connection, pace.clone(), tally.clone()));
    }
    watch(window, &mut tasks).await?;
    Ok(tally.report(flags.measured.as_secs_f64()))
}

/// Lets the tasks work from begin to end of the window, and ends them.
///
/// # Errors
/// When there is no timer.
pub(crate) async fn watch(window: Window, tasks: &mut JoinSet<()>) -> anyhow::Result<()> {
    let alarm = Alarm::new()?;
    alarm.wait_until(window.begin_ns).await?;
    tally::begin();
    alarm.wait_until(window.end_ns).await?;
    tally::end();
    tasks.shutdown().await;
    Ok(())
}

async fn ask(target: SocketAddr, mut connection: Connection, pace: Pace, tally: Tally) {
    let request = h1::get(target, "/small");
    loop {
        let asked = async {
            let due_ns = pace.due().await?;
            connection.exchange(&request, |_| ()).await?;
            tally.request(due_ns, clock::now_ns());
            anyhow::Ok(())
        };
        if let Err(error) = asked.await {
            tally.error(&error);
            match Connection::open(target).await {
                Ok(fresh) => connection = fresh,
                Err(error) => return tally.error(&error),
            }
        }
    }
}
