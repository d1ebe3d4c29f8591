//! HTTP/1.1 as bytes: heads, bodies, and a client's connection.

use std::net::SocketAddr;

use anyhow::{Context, bail, ensure};
use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::chunked::{Chunked, Malformed};

/// More fields than any proxy here adds.
const FIELDS_MAX: usize = 48;
const BUFFER_BYTES: usize = 16 * 1024;

/// How much of the connection belongs to a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// So many bytes more.
    Length(usize),
    /// Until the framing says so.
    Chunked(Chunked),
}

impl Body {
    /// Whether it was read to its end.
    pub fn is_over(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(chunked) => chunked.is_over(),
        }
    }

    /// Takes what has arrived of it out of `buffer`, and hands the data to `sink`.
    ///
    /// # Errors
    /// When the framing is broken.
    pub fn read(&mut self, buffer: &mut BytesMut, sink: &mut impl FnMut(&[u8])) -> Result<(), Malformed> {
        match self {
            Self::Length(left) => {
                let here = buffer.len().min(*left);
                sink(&buffer[..here]);
                buffer.advance(here);
                *left -= here;
            }
            Self::Chunked(chunked) => {
                let used = chunked.read(buffer, sink)?;
                buffer.advance(used);
            }
        }
        Ok(())
    }
}

/// The framing that a message's fields ask for. A message without any has no body.
///
/// # Errors
/// When a length is no number.
pub fn body_of(fields: &[httparse::Header<'_>]) -> anyhow::Result<Body> {
    for field in fields {
        if field.name.eq_ignore_ascii_case("transfer-encoding") {
            return Ok(Body::Chunked(Chunked::default()));
        }
        if field.name.eq_ignore_ascii_case("content-length") {
            let length = std::str::from_utf8(field.value).ok().and_then(|text| text.parse().ok());
            return Ok(Body::Length(length.context("a content-length that is no number")?));
        }
    }
    Ok(Body::Length(0))
}

/// Takes the head of a response out of `buffer` once it is whole: its status, and its body to come.
///
/// # Errors
/// When it is no response.
pub fn response_head(buffer: &mut BytesMut) -> anyhow::Result<Option<(u16, Body)>> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(length) = response.parse(buffer)? else { return Ok(None) };
    let status = response.code.context("a response without a status")?;
    let body = body_of(response.headers)?;
    buffer.advance(length);
    Ok(Some((status, body)))
}

/// Takes the head of a request out of `buffer` once it is whole: its target, and its body to come.
///
/// # Errors
/// When it is no request.
pub fn request_head(buffer: &mut BytesMut) -> anyhow::Result<Option<(String, Body)>> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    let httparse::Status::Complete(length) = request.parse(buffer)? else { return Ok(None) };
    let target = request.path.context("a request without a target")?.to_owned();
    let body = body_of(request.headers)?;
    buffer.advance(length);
    Ok(Some((target, body)))
}

/// A client's connection, which is kept.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    buffer: BytesMut,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// When nobody listens there.
    pub async fn open(to: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(to).await.with_context(|| format!("cannot connect to {to}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: BytesMut::with_capacity(BUFFER_BYTES) })
    }

    /// Sends a request and reads the whole answer, its data into `sink`.
    ///
    /// # Errors
    /// When the answer does not end well, or is not 200.
    pub async fn exchange(&mut self, request: &[u8], sink: impl FnMut(&[u8])) -> anyhow::Result<()> {
        self.send(request).await?;
        self.answer(sink).await
    }

    /// Sends a request or a part of one.
    ///
    /// # Errors
    /// When the other side takes no more.
    pub async fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        Ok(self.stream.write_all(bytes).await?)
    }

    /// Reads a whole answer, its data into `sink`.
    ///
    /// # Errors
    /// When it does not end well, or is not 200.
    pub async fn answer(&mut self, mut sink: impl FnMut(&[u8])) -> anyhow::Result<()> {
        let (status, mut body) = self.head().await?;
        while !self.part(&mut body, &mut sink).await? {}
        ensure!(status == 200, "answered with {status}");
        Ok(())
    }

    /// Reads the head of an answer: its status, and its body to come.
    ///
    /// # Errors
    /// When none comes.
    pub async fn head(&mut self) -> anyhow::Result<(u16, Body)> {
        loop {
            if let Some(head) = response_head(&mut self.buffer)? {
                return Ok(head);
            }
            self.more().await?;
        }
    }

    /// Hands what has arrived of a body to `sink`, and waits for more unless that was all: then it is true.
    ///
    /// # Errors
    /// When it breaks off.
    pub async fn part(&mut self, body: &mut Body, sink: &mut impl FnMut(&[u8])) -> anyhow::Result<bool> {
        body.read(&mut self.buffer, sink).map_err(|Malformed| anyhow::anyhow!("a broken body"))?;
        if !body.is_over() {
            self.more().await?;
        }
        Ok(body.is_over())
    }

    async fn more(&mut self) -> anyhow::Result<()> {
        if self.stream.read_buf(&mut self.buffer).await? == 0 {
            bail!("the connection ended inside an answer");
        }
        Ok(())
    }
}

/// A GET.
pub fn get(authority: SocketAddr, path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: {authority}\r\n\r\n").into_bytes()
}

/// A POST of JSON.
pub fn post(authority: SocketAddr, path: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nhost: {authority}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_read_once_it_is_whole() {
        let whole = b"HTTP/1.1 200 OK\r\nserver: x\r\nContent-Length: 3\r\n\r\nabcHTTP";
        for cut in 0..whole.len() - 7 {
            assert_eq!(response_head(&mut BytesMut::from(&whole[..cut])).unwrap(), None, "at {cut}");
        }
        let mut buffer = BytesMut::from(&whole[..]);
        let (status, mut body) = response_head(&mut buffer).unwrap().unwrap();
        let mut data = Vec::new();
        body.read(&mut buffer, &mut |bytes| data.extend_from_slice(bytes)).unwrap();
        assert_eq!((status, body.is_over(), &data[..], &buffer[..]), (200, true, &b"abc"[..], &b"HTTP"[..]));
    }

    #[test]
    fn requests_are_read_as_they_are_written() {
        let to = SocketAddr::from(([127, 0, 0, 1], 1));
        for (request, target, length) in [(get(to, "/small"), "/small", 0), (post(to, "/v1", "{}"), "/v1", 2)]
        {
            let head = request_head(&mut BytesMut::from(&request[..])).unwrap().unwrap();
            assert_eq!(head, (target.to_owned(), Body::Length(length)));
        }
    }

    #[test]
    fn framing_follows_the_fields() {
        let mut chunked = BytesMut::from("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
        assert_eq!(response_head(&mut chunked).unwrap(), Some((200, Body::Chunked(Chunked::default()))));
        let mut broken = BytesMut::from("HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n");
        assert!(response_head(&mut broken).is_err());
    }
}
