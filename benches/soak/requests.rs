//! Small requests that are answered: over connections that are kept, most of them GETs, every eighth a stream that is read to its end.

use std::net::SocketAddr;

use anyhow::{Context, ensure};
use bytes::Bytes;
use h2::client::SendRequest;
use tokio::task::JoinSet;

use penstock_benches::event::Events;
use penstock_benches::h1::Connection;
use penstock_benches::unary;

use super::client::{self, Asking, Http2, To, in_time};
use super::tally::{Tally, Turns};

const HTTP1_CONNECTIONS: usize = 32;
const HTTP2_CONNECTIONS: usize = 4;
const HTTP2_CALLS: usize = 16;
const STREAM_EVERY: u64 = 8;
const STREAM_EVENTS: u64 = 3;
const STREAM: &str = "/v1/chat/completions?chunks=3&interval_us=0";
const QUESTION: &str = r#"{"model":"bench","stream":true,"messages":[{"role":"user","content":"Hello."}]}"#;
const SMALL: &str = "hello world\n";

/// Makes so many over HTTP/1.1.
pub(crate) async fn http1(target: SocketAddr, count: u64, tally: &Tally) {
    let turns = Turns::new(count);
    let mut tasks = JoinSet::new();
    for _ in 0..HTTP1_CONNECTIONS {
        tasks.spawn_local(over_http1(target, turns.clone(), tally.clone()));
    }
    tasks.join_all().await;
}

async fn over_http1(target: SocketAddr, turns: Turns, tally: Tally) {
    let mut kept = None;
    while let Some(number) = turns.take() {
        match in_time(one_over_http1(target, &mut kept, number)).await {
            Ok(()) => tally.answered(),
            Err(error) => {
                kept = None;
                tally.failed(&error.context("a request over HTTP/1.1"));
            }
        }
    }
}

async fn one_over_http1(
    target: SocketAddr,
    kept: &mut Option<Connection>,
    number: u64,
) -> anyhow::Result<()> {
    let connection = match kept {
        Some(connection) => connection,
        none => none.insert(Connection::open(target).await?),
    };
    if number.is_multiple_of(STREAM_EVERY) {
        let asking = Asking { to: To::Http1, path: STREAM, length: Some(QUESTION.len() as u64) };
        let (mut events, mut arrived) = (Events::default(), 0);
        let request = [&asking.http1()[..], QUESTION.as_bytes()].concat();
        connection.exchange(&request, |bytes| events.read(bytes, |_| arrived += 1)).await?;
        return whole(arrived);
    }
    let asking = Asking { to: To::Http1, path: "/small", length: None };
    let mut text = Vec::new();
    connection.exchange(&asking.http1(), |bytes| text.extend_from_slice(bytes)).await?;
    ensure!(text == SMALL.as_bytes(), "answered with {:?}", String::from_utf8_lossy(&text));
    Ok(())
}

fn whole(events: u64) -> anyhow::Result<()> {
    ensure!(events == STREAM_EVENTS, "{events} of {STREAM_EVENTS} events");
    Ok(())
}

/// Makes so many over HTTP/2: in turn to the application that speaks HTTP/1.1, and as gRPC to the one that speaks HTTP/2.
pub(crate) async fn http2(target: SocketAddr, count: u64, tally: &Tally) {
    let turns = Turns::new(count);
    let mut tasks = JoinSet::new();
    for _ in 0..HTTP2_CONNECTIONS {
        tasks.spawn_local(over_http2(target, turns.clone(), tally.clone()));
    }
    tasks.join_all().await;
}

async fn over_http2(target: SocketAddr, turns: Turns, tally: Tally) {
    let connection = match Http2::open(target).await {
        Ok(connection) => connection,
        Err(error) => return tally.failed(&error),
    };
    let mut calls = JoinSet::new();
    for _ in 0..HTTP2_CALLS {
        let (mut sender, turns, tally) = (connection.sender(), turns.clone(), tally.clone());
        calls.spawn_local(async move {
            while let Some(number) = turns.take() {
                match in_time(one_over_http2(&mut sender, number)).await {
                    Ok(()) => tally.answered(),
                    Err(error) => tally.failed(&error.context("a request over HTTP/2")),
                }
            }
        });
    }
    calls.join_all().await;
}

async fn one_over_http2(sender: &mut SendRequest<Bytes>, number: u64) -> anyhow::Result<()> {
    if number.is_multiple_of(STREAM_EVERY) {
        let to = To::in_turn(number / STREAM_EVERY);
        let asking = Asking { to, path: STREAM, length: Some(QUESTION.len() as u64) };
        let (response, mut body) = client::begin(sender, &asking).await?;
        body.send_data(Bytes::from_static(QUESTION.as_bytes()), true)?;
        let (mut events, mut arrived) = (Events::default(), 0);
        let mut answer = client::answer(response).await?;
        while let Some(bytes) = client::part(&mut answer).await? {
            events.read(&bytes, |_| arrived += 1);
        }
        return whole(arrived);
    }
    let to = To::in_turn(number);
    if to == To::Http2 {
        return unary::call(to.authority(), sender).await.context("a call");
    }
    let (response, _) = client::begin(sender, &Asking { to, path: "/small", length: None }).await?;
    let mut answer = client::answer(response).await?;
    let mut text = Vec::new();
    while let Some(bytes) = client::part(&mut answer).await? {
        text.extend_from_slice(&bytes);
    }
    ensure!(text == SMALL.as_bytes(), "answered with {:?}", String::from_utf8_lossy(&text));
    Ok(())
}
