//! HTTP/2, one connection: unary calls as gRPC makes them, and whatever else is asked for.

use std::future::poll_fn;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::sleep;

use penstock_benches::h2_body;
use penstock_benches::pattern::{Arrived, Pattern};
use penstock_benches::unary::{MESSAGE, WINDOW_BYTES};
use penstock_benches::{clock, event};

use super::Common;
use super::asked::Asked;

const STREAMS_MAX: u32 = 100_000;

/// Serves a connection to its end.
pub(super) async fn serve(stream: TcpStream, common: Common) -> anyhow::Result<()> {
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(STREAMS_MAX);
    builder.initial_window_size(WINDOW_BYTES).initial_connection_window_size(WINDOW_BYTES);
    // It is no bottleneck: the library's limits against floods of resets would be one where many callers leave.
    builder.max_pending_accept_reset_streams(STREAMS_MAX as usize).max_local_error_reset_streams(None);
    let mut connection = builder.handshake::<_, Bytes>(stream).await?;
    let mut calls = JoinSet::new();
    loop {
        tokio::select! {
            accepted = connection.accept() => match accepted {
                Some(accepted) => {
                    let (request, respond) = accepted?;
                    calls.spawn_local(serve_one(request, respond, common.clone()));
                }
                None => return Ok(()),
            },
            // Callers may give up.
            Some(_) = calls.join_next() => {}
        }
    }
}

async fn serve_one(
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    common: Common,
) -> anyhow::Result<()> {
    let asked = Asked::of(request.uri().path_and_query().map_or("", |target| target.as_str()));
    let open = common.begin(asked);
    answer(asked, request, respond, &common).await?;
    if let Some(open) = open {
        open.answered();
    }
    Ok(())
}

/// Answers to the end; an error when the client gives up.
async fn answer(
    asked: Asked,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    common: &Common,
) -> anyhow::Result<()> {
    let (mut body, mut arrived) = (request.into_body(), Arrived::default());
    while let Some(data) = body.data().await {
        let data = data?;
        if asked == Asked::Upload {
            arrived.more(&common.pattern(), &data);
        }
        body.flow_control().release_capacity(data.len())?;
    }
    match asked {
        Asked::Small => unary(&mut respond),
        Asked::Stream { chunks, interval_us } => events(&mut respond, chunks, interval_us).await,
        Asked::Silence => gone(poll_fn(|cx| respond.poll_reset(cx)).await?),
        Asked::Download { bytes } => download(&mut respond, bytes, &common.pattern()).await,
        Asked::Upload => json(&mut respond, super::verdict(&arrived)),
        Asked::Counts => json(&mut respond, common.counts.json()),
    }
}

fn begin(respond: &mut SendResponse<Bytes>, kind: &str) -> anyhow::Result<SendStream<Bytes>> {
    let head = Response::builder().header("content-type", kind).body(())?;
    Ok(respond.send_response(head, false)?)
}

fn unary(respond: &mut SendResponse<Bytes>) -> anyhow::Result<()> {
    let mut stream = begin(respond, "application/grpc")?;
    stream.send_data(Bytes::from_static(MESSAGE), false)?;
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    stream.send_trailers(trailers)?;
    Ok(())
}

fn json(respond: &mut SendResponse<Bytes>, text: String) -> anyhow::Result<()> {
    begin(respond, "application/json")?.send_data(text.into(), true)?;
    Ok(())
}

async fn events(respond: &mut SendResponse<Bytes>, chunks: u64, interval_us: u64) -> anyhow::Result<()> {
    let mut stream = begin(respond, "text/event-stream")?;
    if chunks == 0 {
        stream.send_data(event::write(clock::now_ns()).into(), false)?;
        return gone(poll_fn(|cx| stream.poll_reset(cx)).await?);
    }
    for _ in 0..chunks {
        tokio::select! {
            biased;
            reason = poll_fn(|cx| stream.poll_reset(cx)) => return gone(reason?),
            () = sleep(Duration::from_micros(interval_us)) => {}
        }
        stream.send_data(event::write(clock::now_ns()).into(), false)?;
    }
    stream.send_data(Bytes::from_static(event::DONE.as_bytes()), true)?;
    Ok(())
}

async fn download(respond: &mut SendResponse<Bytes>, bytes: u64, pattern: &Pattern) -> anyhow::Result<()> {
    let head = Response::builder().header("content-length", bytes).body(())?;
    let mut stream = respond.send_response(head, bytes == 0)?;
    h2_body::send(&mut stream, bytes, pattern).await.context("the client takes no more")
}

fn gone(reason: h2::Reason) -> anyhow::Result<()> {
    anyhow::bail!("the client gave up: {reason}")
}
