//! Streams of events over HTTP/1.1, all begun at once; each event carries the time when it was due.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::ensure;
use tokio::task::JoinSet;

use penstock_benches::clock;
use penstock_benches::event::Events;
use penstock_benches::h1::{self, Connection};

use super::flags::{Flags, Streams};
use super::tally::{self, Report, Tally, Window};

const NS_PER_SECOND: f64 = 1e9;
/// What a chat client sends.
const QUESTION: &str = r#"{"model":"bench","stream":true,"messages":[{"role":"system","content":"You are a helpful assistant."},{"role":"user","content":"Say something long."}]}"#;

/// Runs streams for the warm-up, and then anew for the measured time. All streams of either are read to their end.
///
/// # Errors
/// When no connection can be made.
pub(crate) async fn run(flags: &Flags, asked: &Streams) -> anyhow::Result<Report> {
    let mut connections = Vec::new();
    for _ in 0..asked.streams {
        connections.push(Connection::open(flags.target).await?);
    }
    let unseen = Tally::new(Window { begin_ns: 0, end_ns: 0 })?;
    let few = Streams { chunks: fitting(flags.warm_up, asked), ..*asked };
    let connections = all(connections, flags, few, flags.warm_up, &unseen).await;
    let begin_ns = clock::now_ns();
    let tally = Tally::new(Window { begin_ns, end_ns: u64::MAX })?;
    tally::begin();
    all(connections, flags, *asked, flags.measured, &tally).await;
    tally::end();
    let seconds = (clock::now_ns() - begin_ns) as f64 / NS_PER_SECOND;
    let errors_before = unseen.report(1.0);
    let mut report = tally.report(seconds);
    report.errors += errors_before.errors;
    report.first_error = errors_before.first_error.or(report.first_error);
    Ok(report)
}

/// Events that fit into this time, so that the warm-up of long streams is short.
fn fitting(time: Duration, asked: &Streams) -> u64 {
    let fit = clock::nanos(time).checked_div(clock::nanos(asked.interval)).unwrap_or(asked.chunks);
    fit.clamp(1, asked.chunks)
}

async fn all(
    connections: Vec<Connection>,
    flags: &Flags,
    asked: Streams,
    time: Duration,
    tally: &Tally,
) -> Vec<Connection> {
    let until_ns = clock::now_ns() + clock::nanos(time);
    let mut tasks = JoinSet::new();
    for connection in connections {
        tasks.spawn_local(ask(flags.target, connection, asked, until_ns, tally.clone()));
    }
    tasks.join_all().await.into_iter().flatten().collect()
}

/// One stream after the other until the time is over.
async fn ask(
    target: SocketAddr,
    mut connection: Connection,
    asked: Streams,
    until_ns: u64,
    tally: Tally,
) -> Option<Connection> {
    loop {
        if let Err(error) = once(target, &mut connection, &asked, &tally).await {
            tally.error(&error);
            match Connection::open(target).await {
                Ok(fresh) => connection = fresh,
                Err(error) => {
                    tally.error(&error);
                    return None;
                }
            }
        }
        if clock::now_ns() >= until_ns {
            return Some(connection);
        }
    }
}

async fn once(
    target: SocketAddr,
    connection: &mut Connection,
    asked: &Streams,
    tally: &Tally,
) -> anyhow::Result<()> {
    let (mut events, mut arrived) = (Events::default(), 0);
    let sent_ns = clock::now_ns();
    let request = question(target, asked.chunks, asked.interval);
    let whole = connection.exchange(&request, |bytes| {
        let now_ns = clock::now_ns();
        events.read(bytes, |due_ns| {
            if arrived == 0 {
                tally.first_event(sent_ns, now_ns);
            }
            arrived += 1;
            tally.event(due_ns, now_ns);
        });
    });
    whole.await?;
    ensure!(arrived == asked.chunks, "{arrived} of {} events", asked.chunks);
    tally.stream();
    Ok(())
}

/// A request for a stream.
pub(crate) fn question(target: SocketAddr, chunks: u64, interval: Duration) -> Vec<u8> {
    let path = format!("/v1/chat/completions?chunks={chunks}&interval_us={}", interval.as_micros());
    h1::post(target, &path, QUESTION)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warm_up_is_no_longer_than_it_is_meant_to_be() {
        for (interval_ms, expected) in [(20, 50), (2, 200), (5_000, 1), (0, 200)] {
            let asked = Streams { streams: 1, chunks: 200, interval: Duration::from_millis(interval_ms) };
            assert_eq!(fitting(Duration::from_secs(1), &asked), expected, "{interval_ms} ms");
        }
    }
}
