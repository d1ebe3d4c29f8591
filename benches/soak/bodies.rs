//! Long bodies, both ways over both versions of HTTP; every byte is compared where it arrives.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::ensure;
use serde_json::Value;
use tokio::time::{sleep, timeout};

use penstock_benches::h1::Connection;
use penstock_benches::h2_body;
use penstock_benches::pattern::{Arrived, Pattern};

use super::client::{self, Asking, Http2, To};
use super::tally::Tally;

/// A body on a busy machine, in an unoptimised build.
const BODY_MAX: Duration = Duration::from_secs(300);
/// A reader that takes nothing for a while: what is sent meanwhile has to wait at its source.
const PAUSE: Duration = Duration::from_millis(500);
const UPLOAD: &str = "/upload?ask=compare";

/// One upload and one download of so many bytes over each version, one after the other.
pub(crate) async fn run(target: SocketAddr, bytes: u64, tally: &Tally) {
    let pattern = Pattern::default();
    let download = format!("/download?bytes={bytes}");
    note(tally, "an upload over HTTP/1.1", up_http1(target, bytes, &pattern)).await;
    note(tally, "a download over HTTP/1.1", down_http1(target, &download, bytes, &pattern)).await;
    note(tally, "an upload over HTTP/2", up_http2(target, bytes, &pattern)).await;
    note(tally, "a download over HTTP/2", down_http2(target, &download, bytes, &pattern)).await;
}

async fn note(tally: &Tally, what: &'static str, work: impl Future<Output = anyhow::Result<(u64, u64)>>) {
    match timeout(BODY_MAX, work).await {
        Ok(Ok((bytes_up, bytes_down))) => {
            tally.carried(bytes_up, bytes_down);
            tally.answered();
        }
        Ok(Err(error)) => tally.failed(&error.context(what)),
        Err(_) => tally.failed(&anyhow::anyhow!("{what} hangs: no end within {BODY_MAX:?}")),
    }
}

async fn up_http1(target: SocketAddr, bytes: u64, pattern: &Pattern) -> anyhow::Result<(u64, u64)> {
    let mut connection = Connection::open(target).await?;
    connection.send(&Asking { to: To::Http1, path: UPLOAD, length: Some(bytes) }.http1()).await?;
    let mut sent = 0;
    while sent < bytes {
        let piece = pattern.at(sent, bytes - sent);
        connection.send(&piece).await?;
        sent += piece.len() as u64;
    }
    let mut told = Vec::new();
    connection.answer(|bytes| told.extend_from_slice(bytes)).await?;
    arrived_whole(&told, bytes)
}

async fn up_http2(target: SocketAddr, bytes: u64, pattern: &Pattern) -> anyhow::Result<(u64, u64)> {
    let mut connection = Http2::open(target).await?;
    let asking = Asking { to: To::Http2, path: UPLOAD, length: Some(bytes) };
    let (response, mut stream) = connection.begin(&asking).await?;
    h2_body::send(&mut stream, bytes, pattern).await?;
    let (mut answer, mut told) = (client::answer(response).await?, Vec::new());
    while let Some(bytes) = client::part(&mut answer).await? {
        told.extend_from_slice(&bytes);
    }
    arrived_whole(&told, bytes)
}

/// Bytes up and down, when the application says that it has got all of them.
fn arrived_whole(told: &[u8], bytes: u64) -> anyhow::Result<(u64, u64)> {
    let said: Value = serde_json::from_slice(told)?;
    ensure!(said["bytes"] == bytes && said["wrong_at"].is_null(), "of {bytes} bytes there arrived: {said}");
    Ok((bytes, told.len() as u64))
}

async fn down_http1(
    target: SocketAddr,
    path: &str,
    bytes: u64,
    pattern: &Pattern,
) -> anyhow::Result<(u64, u64)> {
    let mut connection = Connection::open(target).await?;
    connection.send(&Asking { to: To::Http1, path, length: None }.http1()).await?;
    let (status, mut body) = connection.head().await?;
    ensure!(status == 200, "answered with {status}");
    sleep(PAUSE).await;
    let mut arrived = Arrived::default();
    while !connection.part(&mut body, &mut |bytes| arrived.more(pattern, bytes)).await? {}
    came_whole(&arrived, bytes)
}

async fn down_http2(
    target: SocketAddr,
    path: &str,
    bytes: u64,
    pattern: &Pattern,
) -> anyhow::Result<(u64, u64)> {
    let mut connection = Http2::open(target).await?;
    let (response, _) = connection.begin(&Asking { to: To::Http2, path, length: None }).await?;
    let mut answer = client::answer(response).await?;
    sleep(PAUSE).await;
    let mut arrived = Arrived::default();
    while let Some(data) = client::part(&mut answer).await? {
        arrived.more(pattern, &data);
    }
    came_whole(&arrived, bytes)
}

fn came_whole(arrived: &Arrived, bytes: u64) -> anyhow::Result<(u64, u64)> {
    ensure!(
        arrived.bytes == bytes && arrived.wrong_at.is_none(),
        "of {bytes} bytes there arrived {}, wrong at {:?}",
        arrived.bytes,
        arrived.wrong_at
    );
    Ok((0, bytes))
}
