//! HTTP/1.1, one connection.

use std::sync::Arc;

use bytes::BytesMut;
use tokio::net::TcpStream;

use penstock_benches::h1::{self, Body};
use penstock_benches::pattern::{Arrived, Pattern};
use penstock_benches::{clock, event};

use super::Common;
use super::asked::Asked;
use super::pacer::Order;

const SMALL: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 12\r\n\r\nhello world\n";
const STREAM: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
const BUFFER_BYTES: usize = 4 * 1024;
/// For a body that is long.
const LARGE_BUFFER_BYTES: usize = 256 * 1024;

/// One connection, and what all share.
struct Connection {
    stream: Arc<TcpStream>,
    buffer: BytesMut,
    common: Common,
}

/// Whether the connection can be used for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    More,
    /// The client has left.
    Gone,
}

/// Serves a connection to its end.
pub(super) async fn serve(stream: TcpStream, common: Common) -> anyhow::Result<()> {
    let mut connection =
        Connection { stream: Arc::new(stream), buffer: BytesMut::with_capacity(BUFFER_BYTES), common };
    loop {
        let Some((target, body)) = h1::request_head(&mut connection.buffer)? else {
            if !connection.more(BUFFER_BYTES).await? {
                return Ok(());
            }
            continue;
        };
        let asked = Asked::of(&target);
        let open = connection.common.begin(asked);
        if connection.one(asked, body).await? == After::Gone {
            return Ok(());
        }
        if let Some(open) = open {
            open.answered();
        }
    }
}

impl Connection {
    /// One request whose head is read.
    async fn one(&mut self, asked: Asked, body: Body) -> anyhow::Result<After> {
        let arrived = match asked {
            Asked::Upload => {
                let (mut arrived, pattern) = (Arrived::default(), self.common.pattern());
                let compared = |bytes: &[u8]| arrived.more(&pattern, bytes);
                self.body(body, LARGE_BUFFER_BYTES, compared).await?.then_some(arrived)
            }
            _ => self.body(body, BUFFER_BYTES, |_| ()).await?.then(Arrived::default),
        };
        let Some(arrived) = arrived else { return Ok(After::Gone) };
        match asked {
            Asked::Small => self.send(SMALL).await?,
            Asked::Stream { chunks: 0, .. } => {
                self.send(STREAM).await?;
                self.send(framed(&event::write(clock::now_ns())).as_bytes()).await?;
                return self.wait().await;
            }
            Asked::Stream { chunks, interval_us } => return self.events(chunks, interval_us).await,
            Asked::Silence => return self.wait().await,
            Asked::Download { bytes } => self.pattern(bytes, &self.common.pattern()).await?,
            Asked::Upload => self.json(&super::verdict(&arrived)).await?,
            Asked::Counts => self.json(&self.common.counts.json()).await?,
        }
        Ok(After::More)
    }

    /// Reads a body to its end; false when the client leaves before.
    async fn body(
        &mut self,
        mut body: Body,
        buffer_bytes: usize,
        mut sink: impl FnMut(&[u8]),
    ) -> anyhow::Result<bool> {
        loop {
            body.read(&mut self.buffer, &mut sink).map_err(|_| anyhow::anyhow!("a broken body"))?;
            if body.is_over() {
                return Ok(true);
            }
            if !self.more(buffer_bytes).await? {
                return Ok(false);
            }
        }
    }

    async fn events(&self, chunks: u64, interval_us: u64) -> anyhow::Result<After> {
        let begun_ns = clock::now_ns();
        self.send(STREAM).await?;
        let stream = Arc::clone(&self.stream);
        let order = Order { stream, begun_ns, interval_ns: interval_us * 1_000, chunks };
        Ok(if self.common.pacer.send(order).await? { After::More } else { After::Gone })
    }

    async fn pattern(&self, bytes: u64, pattern: &Pattern) -> std::io::Result<()> {
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ncontent-length: {bytes}\r\n\r\n"
        );
        self.send(head.as_bytes()).await?;
        let mut sent = 0;
        while sent < bytes {
            let piece = pattern.at(sent, bytes - sent);
            self.send(&piece).await?;
            sent += piece.len() as u64;
        }
        Ok(())
    }

    async fn json(&self, text: &str) -> std::io::Result<()> {
        let length = text.len();
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length:";
        self.send(format!("{head} {length}\r\n\r\n{text}").as_bytes()).await
    }

    /// Until the client leaves.
    async fn wait(&mut self) -> anyhow::Result<After> {
        while self.more(BUFFER_BYTES).await? {}
        Ok(After::Gone)
    }

    /// Reads more; false at the end.
    async fn more(&mut self, buffer_bytes: usize) -> std::io::Result<bool> {
        self.buffer.reserve(buffer_bytes / 2);
        loop {
            match self.stream.try_read_buf(&mut self.buffer) {
                Ok(read) => return Ok(read > 0),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    self.stream.readable().await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn send(&self, mut bytes: &[u8]) -> std::io::Result<()> {
        while !bytes.is_empty() {
            match self.stream.try_write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    self.stream.writable().await?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// An event as one chunk.
pub(super) fn framed(event: &str) -> String {
    format!("{:x}\r\n{event}\r\n", event.len())
}
