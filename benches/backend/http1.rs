//! HTTP/1.1, one connection.

use std::sync::Arc;

use bytes::BytesMut;
use tokio::net::TcpStream;

use penstock_benches::{clock, event, h1};

use super::pacer::{Order, Pacer};

const SMALL: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 12\r\n\r\nhello world\n";
const STREAM: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
const BUFFER_BYTES: usize = 4 * 1024;

/// Serves a connection to its end.
pub(super) async fn serve(stream: TcpStream, pacer: Pacer) -> anyhow::Result<()> {
    let stream = Arc::new(stream);
    let mut buffer = BytesMut::with_capacity(BUFFER_BYTES);
    loop {
        let Some((target, mut body)) = h1::request_head(&mut buffer)? else {
            if !more(&stream, &mut buffer).await? {
                return Ok(());
            }
            continue;
        };
        loop {
            body.read(&mut buffer, &mut |_| ()).map_err(|_| anyhow::anyhow!("a broken body"))?;
            if body.is_over() {
                break;
            }
            if !more(&stream, &mut buffer).await? {
                return Ok(());
            }
        }
        match Asked::of(&target) {
            None => send(&stream, SMALL).await?,
            Some(asked) if !answer(&stream, &mut buffer, &pacer, &asked).await? => return Ok(()),
            Some(_) => {}
        }
    }
}

/// A stream as the query asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Asked {
    chunks: u64,
    interval_us: u64,
}

impl Asked {
    fn of(target: &str) -> Option<Self> {
        let (_, query) = target.split_once('?')?;
        let value = |name: &str| {
            let mut fields = query.split('&').filter_map(|field| field.split_once('='));
            fields.find(|(field, _)| *field == name)?.1.parse().ok()
        };
        Some(Self { chunks: value("chunks")?, interval_us: value("interval_us").unwrap_or(0) })
    }
}

/// Sends a stream; says whether the connection can be used for more.
async fn answer(
    stream: &Arc<TcpStream>,
    buffer: &mut BytesMut,
    pacer: &Pacer,
    asked: &Asked,
) -> anyhow::Result<bool> {
    let begun_ns = clock::now_ns();
    send(stream, STREAM).await?;
    if asked.chunks == 0 {
        send(stream, framed(&event::write(begun_ns)).as_bytes()).await?;
        while more(stream, buffer).await? {}
        return Ok(false);
    }
    let order = Order {
        stream: Arc::clone(stream),
        begun_ns,
        interval_ns: asked.interval_us * 1_000,
        chunks: asked.chunks,
    };
    pacer.send(order).await
}

/// An event as one chunk.
pub(super) fn framed(event: &str) -> String {
    format!("{:x}\r\n{event}\r\n", event.len())
}

/// Reads more; false at the end.
async fn more(stream: &TcpStream, buffer: &mut BytesMut) -> std::io::Result<bool> {
    buffer.reserve(BUFFER_BYTES / 2);
    loop {
        match stream.try_read_buf(buffer) {
            Ok(read) => return Ok(read > 0),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => stream.readable().await?,
            Err(error) => return Err(error),
        }
    }
}

async fn send(stream: &TcpStream, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match stream.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => stream.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_asked_for_in_the_query() {
        let asked = |target| Asked::of(target).map(|asked| (asked.chunks, asked.interval_us));
        assert_eq!(asked("/v1/chat/completions?chunks=200&interval_us=2000"), Some((200, 2_000)));
        assert_eq!(asked("/v1/chat/completions?chunks=0"), Some((0, 0)));
        for target in ["/small", "/small?x=1", "/small?chunks=many"] {
            assert_eq!(asked(target), None, "{target}");
        }
    }
}
