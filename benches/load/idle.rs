//! Streams that stay open without an event: what they cost in memory is read by who started this, between `open` and `end`.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use penstock_benches::clock;
use penstock_benches::event::Events;
use penstock_benches::h1::Connection;

use super::flags::{Flags, Idle};
use super::streams::question;
use super::tally::{self, Report, Tally, Window};

/// Streams being opened at once: a backlog is no subject here.
const OPENING_MAX: usize = 64;

/// Opens all streams, says so, keeps them for the measured time, and leaves.
///
/// # Errors
/// When no stream can be opened.
pub(crate) async fn run(flags: &Flags, asked: &Idle) -> anyhow::Result<Report> {
    let tally = Tally::new(Window { begin_ns: 0, end_ns: u64::MAX })?;
    let opening = Arc::new(Semaphore::new(OPENING_MAX));
    let mut streams = JoinSet::new();
    tally::begin();
    for _ in 0..asked.streams {
        let permit = Arc::clone(&opening).acquire_owned().await?;
        streams.spawn_local(open(flags.target, permit, tally.clone()));
    }
    let permits = u32::try_from(OPENING_MAX).context("a number of permits")?;
    // Every stream is open, or has failed, once nobody holds a permit.
    drop(opening.acquire_many(permits).await?);
    tally::open();
    tokio::time::sleep(flags.measured).await;
    tally::end();
    streams.shutdown().await;
    Ok(tally.report(flags.measured.as_secs_f64()))
}

async fn open(target: std::net::SocketAddr, permit: OwnedSemaphorePermit, tally: Tally) {
    let mut permit = Some(permit);
    let sent_ns = clock::now_ns();
    let (mut events, request) = (Events::default(), question(target, 0, Duration::ZERO));
    let stream = async {
        let mut connection = Connection::open(target).await?;
        let read = connection.exchange(&request, |bytes| {
            events.read(bytes, |due_ns| {
                let now_ns = clock::now_ns();
                tally.first_event(sent_ns, now_ns);
                tally.event(due_ns, now_ns);
                permit = None;
            });
        });
        read.await
    };
    if let Err(error) = stream.await {
        tally.error(&error);
    }
}
