//! Streams that the client gives up, at every point and in every way.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{bail, ensure};
use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, SendStream};
use tokio::task::JoinSet;
use tokio::time::sleep;

use penstock_benches::event::Events;
use penstock_benches::h1::Connection;

use super::client::{self, Asking, Http2, To, in_time};
use super::tally::{Seen, Tally, Turns};

const HTTP1_WORKERS: usize = 16;
const HTTP2_WORKERS: usize = 4;
/// Requests on a connection of HTTP/2 that are given up together.
const BATCH: u64 = 8;
/// So often it is the connection that is closed, not each stream.
const CLOSE_EVERY: u64 = 4;
const QUESTION: &str = r#"{"messages":[{"role":"system","content":"You are a helpful assistant."},{"role":"user","content":"Say something long."}],"model":"bench","stream":true}"#;
/// Before the model, for which the caller's sidecar waits.
const HELD_BYTES: usize = 60;
const SILENCE: &str = "/v1/chat/completions?ask=silence";
const ONE_EVENT: &str = "/v1/chat/completions?chunks=0";
const EVENTS: &str = "/v1/chat/completions?chunks=1000000&interval_us=1000";

/// When the client leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Point {
    /// The body was begun; the caller's sidecar holds it, since it does not know the model.
    HeldBody,
    /// The body has all but its end; it is on its way to the application.
    PassingBody,
    /// The application has the request and says nothing.
    Silence,
    /// The head of the answer is there.
    Head,
    /// So many events are there, and more to come.
    Events(u64),
}

impl Point {
    fn of(number: u64) -> Self {
        match number % 10 {
            0 => Self::HeldBody,
            1 => Self::PassingBody,
            2 | 3 => Self::Silence,
            4 | 5 => Self::Head,
            after => Self::Events(after - 5),
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::HeldBody | Self::PassingBody | Self::Silence => SILENCE,
            Self::Head => ONE_EVENT,
            Self::Events(_) => EVENTS,
        }
    }

    /// What is sent of the body.
    fn body(self) -> &'static str {
        match self {
            Self::HeldBody => &QUESTION[..HELD_BYTES],
            Self::PassingBody => &QUESTION[..QUESTION.len() - 1],
            Self::Silence | Self::Head | Self::Events(_) => QUESTION,
        }
    }

    /// Events to be read.
    fn events(self) -> u64 {
        if let Self::Events(events) = self { events } else { 0 }
    }

    fn seen(self) -> Seen {
        if matches!(self, Self::Head | Self::Events(_)) { Seen::Begin } else { Seen::Nothing }
    }
}

/// How long nothing is waited for: from not at all to longer than a request needs to its application.
fn patience(number: u64) -> Duration {
    Duration::from_micros(number * 7_919 % 4_000)
}

/// Begins so many requests and gives them up: two of three over HTTP/1.1 by closing the connection, the others over HTTP/2.
pub(crate) async fn run(target: SocketAddr, count: u64, tally: &Tally) {
    let (one, batches) = (Turns::new(count - count / 3), Turns::new((count / 3).div_ceil(BATCH)));
    let mut tasks = JoinSet::new();
    for _ in 0..HTTP1_WORKERS {
        tasks.spawn_local(over_http1(target, one.clone(), tally.clone()));
    }
    for _ in 0..HTTP2_WORKERS {
        tasks.spawn_local(over_http2(target, batches.clone(), tally.clone()));
    }
    tasks.join_all().await;
}

async fn over_http1(target: SocketAddr, turns: Turns, tally: Tally) {
    while let Some(number) = turns.take() {
        match in_time(leave_http1(target, number)).await {
            Ok(seen) => tally.cancelled(seen),
            Err(error) => tally.failed(&error.context(format!("{:?} over HTTP/1.1", Point::of(number)))),
        }
    }
}

async fn leave_http1(target: SocketAddr, number: u64) -> anyhow::Result<Seen> {
    // The points have a cycle of even length: without this each application would see half of them.
    let (point, to) = (Point::of(number), To::in_turn(number / 10));
    let asking = Asking { to, path: point.path(), length: Some(QUESTION.len() as u64) };
    let mut connection = Connection::open(target).await?;
    connection.send(&[&asking.http1()[..], point.body().as_bytes()].concat()).await?;
    if point.seen() == Seen::Nothing {
        sleep(patience(number)).await;
        return Ok(Seen::Nothing);
    }
    let (status, mut body) = connection.head().await?;
    ensure!(status == 200, "answered with {status}");
    let (mut events, mut arrived) = (Events::default(), 0);
    while arrived < point.events() {
        let is_over = connection.part(&mut body, &mut |bytes| events.read(bytes, |_| arrived += 1)).await?;
        ensure!(!is_over, "the stream ended after {arrived} events");
    }
    Ok(Seen::Begin)
}

async fn over_http2(target: SocketAddr, batches: Turns, tally: Tally) {
    let mut kept = None;
    while let Some(batch) = batches.take() {
        match in_time(leave_http2(target, &mut kept, batch)).await {
            Ok(all) => all.into_iter().for_each(|seen| tally.cancelled(seen)),
            Err(error) => tally.failed(&error.context("requests over HTTP/2")),
        }
    }
}

/// A request that is open, for as long as it is held.
struct Open {
    stream: SendStream<Bytes>,
    _unanswered: Option<ResponseFuture>,
    _answer: Option<RecvStream>,
}

/// Brings a batch of requests to their points, and resets them or closes the connection.
async fn leave_http2(target: SocketAddr, kept: &mut Option<Http2>, batch: u64) -> anyhow::Result<Vec<Seen>> {
    let mut connection = match kept.take() {
        Some(connection) => connection,
        None => Http2::open(target).await?,
    };
    let mut begun = Vec::new();
    for number in batch * BATCH..(batch + 1) * BATCH {
        let (point, to) = (Point::of(number), To::in_turn(number / 10));
        let asking = Asking { to, path: point.path(), length: Some(QUESTION.len() as u64) };
        let (response, mut stream) = connection.begin(&asking).await?;
        stream.send_data(Bytes::from_static(point.body().as_bytes()), point.body() == QUESTION)?;
        begun.push((point, response, stream));
    }
    connection.is_read().await?;
    let mut open = Vec::new();
    for (point, response, stream) in begun {
        open.push((point, reach(point, response, stream).await?));
    }
    sleep(patience(batch)).await;
    if closes(batch) {
        // Before the requests are dropped, which would reset them.
        drop(connection);
    } else {
        open.iter_mut().for_each(|(_, open)| open.stream.send_reset(Reason::CANCEL));
        *kept = Some(connection);
    }
    Ok(open.iter().map(|(point, _)| point.seen()).collect())
}

/// Whether a batch is given up by closing the connection.
fn closes(batch: u64) -> bool {
    batch % CLOSE_EVERY == CLOSE_EVERY - 1
}

async fn reach(point: Point, response: ResponseFuture, stream: SendStream<Bytes>) -> anyhow::Result<Open> {
    if point.seen() == Seen::Nothing {
        return Ok(Open { stream, _unanswered: Some(response), _answer: None });
    }
    let mut answer = client::answer(response).await?;
    let (mut events, mut arrived) = (Events::default(), 0);
    while arrived < point.events() {
        let Some(bytes) = client::part(&mut answer).await? else { bail!("ended after {arrived} events") };
        events.read(&bytes, |_| arrived += 1);
    }
    Ok(Open { stream, _unanswered: None, _answer: Some(answer) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_meets_both_applications_and_both_ways_of_http2() {
        let mut met = std::collections::BTreeSet::new();
        for batch in 0..200 {
            for number in batch * BATCH..(batch + 1) * BATCH {
                met.insert(format!(
                    "{:?} {:?} {}",
                    Point::of(number),
                    To::in_turn(number / 10),
                    closes(batch)
                ));
            }
        }
        assert_eq!(met.len(), 8 * 2 * 2, "{met:#?}");
    }

    #[test]
    fn what_is_held_has_no_model_and_what_passes_has_no_end() {
        assert!(!Point::HeldBody.body().contains("model"));
        assert!(Point::PassingBody.body().contains("model") && Point::PassingBody.body() != QUESTION);
    }
}
