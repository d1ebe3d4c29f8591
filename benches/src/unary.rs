//! Unary calls over HTTP/2 without TLS, as gRPC makes them: a message, an answer, trailers.

use std::fmt::Display;
use std::net::SocketAddr;

use anyhow::{Context, ensure};
use bytes::Bytes;
use h2::client::{Connection, SendRequest};
use http::Request;
use tokio::net::TcpStream;

/// A message of one byte, as gRPC frames it.
pub const MESSAGE: &[u8] = b"\0\0\0\0\x01x";
/// Room for whatever comes: windows are no subject here.
pub const WINDOW_BYTES: u32 = 1 << 24;

/// Connects. The connection has to be awaited beside the calls on it.
///
/// # Errors
/// When nobody listens there, or speaks HTTP/2.
pub async fn connect(to: SocketAddr) -> anyhow::Result<(SendRequest<Bytes>, Connection<TcpStream>)> {
    let stream = TcpStream::connect(to).await.with_context(|| format!("cannot connect to {to}"))?;
    stream.set_nodelay(true)?;
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(WINDOW_BYTES).initial_connection_window_size(WINDOW_BYTES);
    builder.handshake(stream).await.context("no HTTP/2")
}

/// One call.
///
/// # Errors
/// When it does not end with `grpc-status: 0`.
pub async fn call(authority: impl Display, sender: &mut SendRequest<Bytes>) -> anyhow::Result<()> {
    std::future::poll_fn(|cx| sender.poll_ready(cx)).await?;
    let request = Request::post(format!("http://{authority}/bench.Small/Ask"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?;
    let (answer, mut body) = sender.send_request(request, false)?;
    body.send_data(Bytes::from_static(MESSAGE), true)?;
    let answer = answer.await?;
    ensure!(answer.status() == 200, "answered with {}", answer.status());
    let mut body = answer.into_body();
    while let Some(data) = body.data().await {
        body.flow_control().release_capacity(data?.len())?;
    }
    let trailers = body.trailers().await?.context("an answer without trailers")?;
    ensure!(trailers.get("grpc-status").is_some_and(|status| status == "0"), "trailers: {trailers:?}");
    Ok(())
}
