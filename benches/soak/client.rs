//! A client's connections to the caller's sidecar.

use std::fmt::Write as _;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Ping, PingPong, RecvStream, SendStream};
use http::{Method, Request};
use tokio::task::JoinSet;
use tokio::time::timeout;

use penstock_benches::unary;

/// Nothing here takes so long but what hangs.
const HANG_MAX: Duration = Duration::from_secs(60);

/// Where requests go in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum To {
    /// The application that speaks HTTP/1.1, the default.
    Http1,
    /// The one that speaks HTTP/2.
    Http2,
}

impl To {
    pub(crate) const HTTP1_NAME: &'static str = "bench";
    pub(crate) const HTTP2_NAME: &'static str = "calls";

    /// One after the other.
    pub(crate) fn in_turn(number: u64) -> Self {
        if number.is_multiple_of(2) { Self::Http1 } else { Self::Http2 }
    }

    pub(crate) fn authority(self) -> &'static str {
        match self {
            Self::Http1 => "bench.bench",
            Self::Http2 => "calls.bench",
        }
    }
}

/// A request as it is asked over either version.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asking<'a> {
    pub(crate) to: To,
    pub(crate) path: &'a str,
    /// Of the body; a GET without one.
    pub(crate) length: Option<u64>,
}

impl Asking<'_> {
    /// The head over HTTP/1.1.
    pub(crate) fn http1(&self) -> Vec<u8> {
        let method = if self.length.is_some() { "POST" } else { "GET" };
        let mut head = format!("{method} {} HTTP/1.1\r\nhost: {}\r\n", self.path, self.to.authority());
        if let Some(length) = self.length {
            // Writing to a String cannot fail.
            let _written = write!(head, "content-type: application/json\r\ncontent-length: {length}\r\n");
        }
        head.push_str("\r\n");
        head.into_bytes()
    }

    fn http2(&self) -> anyhow::Result<Request<()>> {
        let method = if self.length.is_some() { Method::POST } else { Method::GET };
        let uri = format!("http://{}{}", self.to.authority(), self.path);
        let mut request = Request::builder().method(method).uri(uri);
        if let Some(length) = self.length {
            request = request.header("content-type", "application/json").header("content-length", length);
        }
        Ok(request.body(())?)
    }
}

/// A connection of HTTP/2, closed on drop.
pub(crate) struct Http2 {
    sender: SendRequest<Bytes>,
    pings: PingPong,
    _connection: JoinSet<()>,
}

impl Http2 {
    pub(crate) async fn open(to: SocketAddr) -> anyhow::Result<Self> {
        let (sender, mut connection) = unary::connect(to).await?;
        let pings = connection.ping_pong().context("a connection without pings")?;
        let mut task = JoinSet::new();
        task.spawn_local(async move {
            // Its requests tell what went wrong.
            drop(connection.await);
        });
        Ok(Self { sender, pings, _connection: task })
    }

    pub(crate) fn sender(&self) -> SendRequest<Bytes> {
        self.sender.clone()
    }

    /// Begins a request whose body is still to come, if it has one.
    pub(crate) async fn begin(
        &mut self,
        asking: &Asking<'_>,
    ) -> anyhow::Result<(ResponseFuture, SendStream<Bytes>)> {
        begin(&mut self.sender, asking).await
    }

    /// Returns when the other side has read what was sent before.
    pub(crate) async fn is_read(&mut self) -> anyhow::Result<()> {
        // The library may send the first before what waits to be written.
        for _ in 0..2 {
            in_time(async { Ok(self.pings.ping(Ping::opaque()).await?) }).await?;
        }
        Ok(())
    }
}

/// Begins a request whose body is still to come, if it has one.
pub(crate) async fn begin(
    sender: &mut SendRequest<Bytes>,
    asking: &Asking<'_>,
) -> anyhow::Result<(ResponseFuture, SendStream<Bytes>)> {
    poll_fn(|cx| sender.poll_ready(cx)).await?;
    Ok(sender.send_request(asking.http2()?, asking.length.is_none())?)
}

/// The body of an answer, when its head has come and is 200.
pub(crate) async fn answer(response: ResponseFuture) -> anyhow::Result<RecvStream> {
    let answer = response.await?;
    ensure!(answer.status() == 200, "answered with {}", answer.status());
    Ok(answer.into_body())
}

/// The next part of an answer; none at its end.
pub(crate) async fn part(body: &mut RecvStream) -> anyhow::Result<Option<Bytes>> {
    let Some(data) = body.data().await else { return Ok(None) };
    let data = data?;
    body.flow_control().release_capacity(data.len())?;
    Ok(Some(data))
}

/// What must not hang.
pub(crate) async fn in_time<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    timeout(HANG_MAX, work).await.with_context(|| format!("it hangs: nothing within {HANG_MAX:?}"))?
}
