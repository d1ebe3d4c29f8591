//! HTTP/1.1 to an application: one connection, one request at a time, driven by the request's own task.
//!
//! A connection of its own task, as libraries have it, costs a wake-up and a channel for every request and every chunk, and some
//! 35 KiB for every open stream. Here the task that waits for the answer writes and reads by itself, through a buffer on its stack:
//! a stream that waits for its next token holds no buffer at all.
//!
//! ```text
//! start ─► poll_head ─┬─► poll_chunk … ─► end ─► keep, if both ways are complete
//!    (the body is sent meanwhile)     └─► into_parts: the connection has switched protocols
//! ```

mod body;
mod head;

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes, BytesMut};
use http::header::TRAILER;
use http::{HeaderMap, Method, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use self::body::{Decoder, Framing};
use super::dial::Wire;
use super::upload::{Next, Turn, Upload};

/// Read at once, on the stack.
const READ_BYTES: usize = 32 << 10;
/// Longest head of an answer.
const HEAD_BYTES_MAX: usize = 256 << 10;
/// A body chunk below this is copied behind what is to be sent before it, so that both are one write.
const COPIED_BYTES_MAX: usize = 8 << 10;

/// Why an exchange failed.
#[derive(Debug, thiserror::Error)]
pub enum Http1Error {
    /// The network says so.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The application closed the connection before its answer was whole.
    #[error("the application closed the connection before its answer was complete")]
    Closed,
    /// What it sends is not HTTP/1.1, or can be read in two ways.
    #[error("the application's answer is refused: {0}")]
    Protocol(&'static str),
    /// We broke the request off.
    #[error("the request was broken off by its sidecar")]
    Aborted,
}

/// What is asked of whom.
#[derive(Clone, Copy, Debug)]
pub struct Start<'h> {
    /// Method.
    pub method: &'h Method,
    /// Path and query.
    pub target: &'h str,
    /// Host and port.
    pub host: &'h str,
}

/// A connection.
pub struct Http1 {
    wire: Box<dyn Wire>,
    /// Received and not yet understood: part of a head, or what follows the head that was read last.
    received: BytesMut,
    sending: Sending,
    receiving: Receiving,
    /// Bytes of the current request that the kernel has taken.
    written_bytes: u64,
    is_persistent: bool,
}

/// The request on its way out.
struct Sending {
    upload: Option<(Arc<Upload>, Turn)>,
    framing: Framing,
    /// The head has a `trailer` field; many applications cannot read trailers that nobody announced.
    announces_trailers: bool,
    /// Written first, …
    front: BytesMut,
    /// … then this, …
    chunk: Bytes,
    /// … then this.
    back: &'static [u8],
    state: SendState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SendState {
    /// More of the body may come.
    Body,
    /// Only what is buffered is left.
    Last,
    /// Everything is written.
    Done,
    /// The application wants no more, or the connection has broken; what it answers counts.
    Stopped,
}

/// The answer on its way in.
struct Receiving {
    decoder: Decoder,
    /// The request was HEAD: no answer has a body.
    is_head: bool,
}

impl Http1 {
    /// A new connection.
    pub fn new(wire: Box<dyn Wire>) -> Self {
        let sending = Sending {
            upload: None,
            framing: Framing::None,
            announces_trailers: false,
            front: BytesMut::new(),
            chunk: Bytes::new(),
            back: b"",
            state: SendState::Done,
        };
        let receiving = Receiving { decoder: Decoder::ended(), is_head: false };
        let received = BytesMut::new();
        Self { wire, received, sending, receiving, written_bytes: 0, is_persistent: true }
    }

    /// Whether a kept connection is still open, with nothing on it that nobody asked for.
    pub fn is_usable(&mut self) -> bool {
        let mut byte = [0; 1];
        let mut buffer = ReadBuf::new(&mut byte);
        let mut context = Context::from_waker(Waker::noop());
        self.received.is_empty() && Pin::new(&mut self.wire).poll_read(&mut context, &mut buffer).is_pending()
    }

    /// Begins a request. The body comes from `upload`, if there is to be one.
    ///
    /// # Errors
    /// When the head cannot be written as HTTP/1.1.
    pub fn start(
        &mut self,
        start: Start<'_>,
        fields: &HeaderMap,
        upload: Option<&Arc<Upload>>,
    ) -> Result<(), Http1Error> {
        if !start.host.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Http1Error::Protocol("the host has a character that cannot be sent"));
        }
        let framing = Framing::of_request(start.method, fields, upload.map(Arc::as_ref))?;
        let front = head::request(start, fields, framing);
        let state = if framing == Framing::None { SendState::Last } else { SendState::Body };
        let upload = upload.map(|upload| (Arc::clone(upload), upload.turn()));
        let announces_trailers = fields.contains_key(TRAILER);
        self.sending =
            Sending { upload, framing, announces_trailers, front, chunk: Bytes::new(), back: b"", state };
        self.receiving = Receiving { decoder: Decoder::ended(), is_head: *start.method == Method::HEAD };
        self.written_bytes = 0;
        Ok(())
    }

    /// Nothing of the request has left.
    pub fn is_unsent(&self) -> bool {
        self.written_bytes == 0
    }

    /// Writes what can be written of the request.
    ///
    /// # Errors
    /// When the request was broken off. A connection that takes no more is found out by whoever reads from it.
    pub fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Http1Error>> {
        if self.sending.state == SendState::Done {
            return Poll::Ready(Ok(()));
        }
        loop {
            let mut waits = false;
            while !waits && self.sending.has_room() {
                match self.sending.poll_fill(context) {
                    Poll::Ready(filled) => filled?,
                    Poll::Pending => waits = true,
                }
            }
            if self.sending.state == SendState::Stopped {
                return Poll::Ready(Ok(()));
            }
            match self.poll_write(context) {
                Poll::Ready(Ok(())) => self.sending.front = BytesMut::new(),
                Poll::Ready(Err(error)) if self.is_unsent() => return Poll::Ready(Err(error.into())),
                Poll::Ready(Err(_)) => {
                    self.sending.stop();
                    return Poll::Ready(Ok(()));
                }
                Poll::Pending => {
                    // What is being sent may turn out to be unwanted meanwhile.
                    return if self.sending.is_aborted(context) {
                        Poll::Ready(Err(Http1Error::Aborted))
                    } else {
                        Poll::Pending
                    };
                }
            }
            match self.sending.state {
                SendState::Body if waits => return Poll::Pending,
                SendState::Body => {}
                SendState::Last => self.sending.state = SendState::Done,
                SendState::Done | SendState::Stopped => return Poll::Ready(Ok(())),
            }
        }
    }

    /// The head of the next answer: an interim one, 101, or the final one.
    ///
    /// # Errors
    /// When there is none, or it is refused.
    pub fn poll_head(&mut self, context: &mut Context<'_>) -> Poll<Result<Response<()>, Http1Error>> {
        if let Poll::Ready(Err(error)) = self.poll_send(context) {
            return Poll::Ready(Err(error));
        }
        loop {
            if let Some(answer) = head::answer(&mut self.received)? {
                return Poll::Ready(self.accept(answer));
            }
            if self.received.len() > HEAD_BYTES_MAX {
                return Poll::Ready(Err(Http1Error::Protocol("its head is longer than 256 KiB")));
            }
            let mut space = [const { MaybeUninit::uninit() }; READ_BYTES];
            let mut buffer = ReadBuf::uninit(&mut space);
            match Pin::new(&mut self.wire).poll_read(context, &mut buffer) {
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => {
                    return Poll::Ready(Err(Http1Error::Closed));
                }
                Poll::Ready(Ok(())) => self.received.extend_from_slice(buffer.filled()),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn accept(&mut self, answer: Response<()>) -> Result<Response<()>, Http1Error> {
        if answer.status().is_informational() {
            // Interim: the final one is still to come. (After 101 there is none.)
            return Ok(answer);
        }
        let framing = Framing::of_answer(&answer, self.receiving.is_head)?;
        self.is_persistent &= framing != Framing::UntilClose && head::is_persistent(&answer);
        self.receiving.decoder = Decoder::new(framing);
        Ok(answer)
    }

    /// The next bytes of the answer's body; `None` at its end.
    ///
    /// # Errors
    /// When it breaks off.
    pub fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Http1Error>> {
        if let Poll::Ready(Err(error)) = self.poll_send(context) {
            return Poll::Ready(Err(error));
        }
        let mut out = BytesMut::new();
        if !self.received.is_empty() {
            let received = std::mem::take(&mut self.received);
            let used = self.receiving.decoder.decode(&received, &mut out)?;
            self.received.extend_from_slice(&received[used..]);
        }
        while out.is_empty() && !self.receiving.decoder.has_ended() {
            let mut space = [const { MaybeUninit::uninit() }; READ_BYTES];
            let mut buffer = ReadBuf::uninit(&mut space);
            match Pin::new(&mut self.wire).poll_read(context, &mut buffer) {
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => self.receiving.decoder.closed()?,
                Poll::Ready(Ok(())) => {
                    let used = self.receiving.decoder.decode(buffer.filled(), &mut out)?;
                    self.received.extend_from_slice(&buffer.filled()[used..]);
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok((!out.is_empty()).then(|| out.freeze())))
    }

    /// The last byte of the answer has come.
    pub fn has_ended(&self) -> bool {
        self.receiving.decoder.has_ended()
    }

    /// Nothing follows what has been taken: neither bytes nor trailers.
    pub fn is_over(&self) -> bool {
        self.has_ended() && !self.receiving.decoder.has_trailers()
    }

    /// Fields that followed a chunked body.
    pub fn take_trailers(&mut self) -> Option<HeaderMap> {
        self.receiving.decoder.take_trailers()
    }

    /// Both ways are complete and the application keeps the connection open.
    pub fn is_reusable(&self) -> bool {
        self.is_persistent
            && self.has_ended()
            && self.received.is_empty()
            && self.sending.state == SendState::Done
    }

    /// The connection and what has been read ahead on it, after 101.
    pub fn into_parts(self) -> (Box<dyn Wire>, Bytes) {
        (self.wire, self.received.freeze())
    }

    /// Ready when the buffers are empty.
    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { wire, sending, written_bytes, .. } = self;
        while !sending.is_flushed() {
            let slices = [
                io::IoSlice::new(&sending.front),
                io::IoSlice::new(&sending.chunk),
                io::IoSlice::new(sending.back),
            ];
            let count = match Pin::new(&mut *wire).poll_write_vectored(context, &slices) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => count,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            };
            *written_bytes += count as u64;
            sending.written(count);
        }
        // A stream with a buffer of its own, such as TLS, may hold the end back.
        Pin::new(wire).poll_flush(context)
    }
}

impl Sending {
    fn is_flushed(&self) -> bool {
        self.front.is_empty() && self.chunk.is_empty() && self.back.is_empty()
    }

    /// More of the body can go out in the same write.
    fn has_room(&self) -> bool {
        self.state == SendState::Body
            && self.chunk.is_empty()
            && self.back.is_empty()
            && self.front.len() < COPIED_BYTES_MAX
    }

    fn written(&mut self, mut count: usize) {
        let part = count.min(self.front.len());
        self.front.advance(part);
        count -= part;
        let part = count.min(self.chunk.len());
        self.chunk.advance(part);
        count -= part;
        self.back = &self.back[count..];
    }

    fn stop(&mut self) {
        self.state = SendState::Stopped;
        (self.front, self.chunk, self.back) = (BytesMut::new(), Bytes::new(), b"");
    }

    /// Small chunks go out with what stands around them.
    fn gather(&mut self) {
        if self.chunk.len() < COPIED_BYTES_MAX {
            self.front.extend_from_slice(&std::mem::take(&mut self.chunk));
            self.front.extend_from_slice(std::mem::take(&mut self.back));
        }
    }

    fn is_aborted(&self, context: &Context<'_>) -> bool {
        self.upload.as_ref().is_some_and(|(upload, _)| upload.poll_aborted(context).is_ready())
    }

    /// Takes the next of the body into the buffers.
    fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Http1Error>> {
        let Some((upload, turn)) = &self.upload else {
            self.state = SendState::Last;
            return Poll::Ready(Ok(()));
        };
        match upload.poll_next(*turn, context) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Next::Chunk(chunk)) => {
                let is_last = upload.is_whole();
                self.framing.open_chunk(&mut self.front, chunk.len())?;
                self.back = self.framing.close_chunk(is_last)?;
                self.chunk = chunk;
                self.gather();
                if is_last {
                    self.state = SendState::Last;
                }
            }
            Poll::Ready(Next::Trailers(trailers)) => {
                self.framing.end(&mut self.front, self.announces_trailers.then_some(&trailers))?;
                self.state = SendState::Last;
            }
            Poll::Ready(Next::End) => {
                self.framing.end(&mut self.front, None)?;
                self.state = SendState::Last;
            }
            Poll::Ready(Next::Unwanted) => self.stop(),
            Poll::Ready(Next::Aborted) => return Poll::Ready(Err(Http1Error::Aborted)),
        }
        Poll::Ready(Ok(()))
    }
}

impl std::fmt::Debug for Http1 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Http1").field("sending", &self.sending.state).finish_non_exhaustive()
    }
}

/// Whether an answer with this status never has a body.
fn is_bodiless(status: StatusCode) -> bool {
    status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;
    use crate::upstream::upload::{BodyBudget, Held};

    fn connection() -> (Http1, DuplexStream) {
        let (ours, theirs) = duplex(1 << 20);
        (Http1::new(Box::new(ours)), theirs)
    }

    fn upload(chunks: &[&'static str], ends: bool) -> Arc<Upload> {
        let held = Held::none(&BodyBudget::new(1 << 20));
        let chunks: VecDeque<_> = chunks.iter().map(|chunk| Bytes::from_static(chunk.as_bytes())).collect();
        if ends { Upload::whole(chunks, held, None) } else { Upload::new(chunks, held) }
    }

    fn to<'h>(host: &'h str, method: &'h Method) -> Start<'h> {
        Start { method, target: "/", host }
    }

    fn fields(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    /// Everything that there is to be read now.
    fn written(theirs: &mut DuplexStream) -> String {
        let mut space = vec![0; 1 << 20];
        let mut buffer = ReadBuf::new(&mut space);
        let mut context = Context::from_waker(Waker::noop());
        drop(Pin::new(theirs).poll_read(&mut context, &mut buffer));
        String::from_utf8(buffer.filled().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn a_request_is_written_in_one_framing() {
        let (sized, nothing) = (&[("content-length", "4")][..], &[][..]);
        for (method, given, chunks, ends, expected) in [
            (Method::GET, nothing, &[][..], true, "GET / HTTP/1.1\r\nhost: a\r\n\r\n"),
            (Method::POST, nothing, &[], true, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n"),
            (
                Method::POST,
                nothing,
                &["ab", "cd"],
                true,
                "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nabcd",
            ),
            (
                Method::POST,
                sized,
                &["ab", "cd"],
                false,
                "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nabcd",
            ),
            (
                Method::GET,
                nothing,
                &["ab", "cd"],
                false,
                "GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n2\r\ncd\r\n0\r\n\r\n",
            ),
        ] {
            let (mut connection, mut theirs) = connection();
            let upload = upload(chunks, ends);
            connection.start(to("a", &method), &fields(given), Some(&upload)).unwrap();
            if !ends {
                assert!(poll_fn(|cx| Poll::Ready(connection.poll_send(cx).is_pending())).await);
                upload.finish(None);
            }
            poll_fn(|cx| connection.poll_send(cx)).await.unwrap();
            assert_eq!(written(&mut theirs), expected);
        }
    }

    #[tokio::test]
    async fn trailers_are_sent_where_they_were_announced() {
        let announced = &[("trailer", "t")][..];
        for (given, end) in [(announced, "0\r\nt: 1\r\n\r\n"), (&[], "\r\n0\r\n\r\n")] {
            let (mut connection, mut theirs) = connection();
            let upload = upload(&["ab"], false);
            connection.start(to("a", &Method::POST), &fields(given), Some(&upload)).unwrap();
            upload.finish(Some(fields(&[("t", "1")])));
            poll_fn(|cx| connection.poll_send(cx)).await.unwrap();
            let written = written(&mut theirs);
            assert!(written.ends_with(end), "{written}");
        }
    }

    #[tokio::test]
    async fn a_body_that_is_not_as_long_as_it_says_is_refused() {
        for (chunks, expected) in [(&["abc"][..], "shorter"), (&["abcde"], "longer"), (&[], "shorter")] {
            let (mut connection, _theirs) = connection();
            let given = fields(&[("content-length", "4")]);
            connection.start(to("a", &Method::POST), &given, Some(&upload(chunks, true))).unwrap();
            let refused = poll_fn(|cx| connection.poll_send(cx)).await.unwrap_err();
            assert!(refused.to_string().contains(expected), "{refused}");
        }
    }

    /// What the application sends, how the request's answer reads, and whether the connection is kept.
    async fn check(method: &Method, sent: &str, cut: usize) -> Result<(Vec<u16>, String, bool), String> {
        let (mut connection, mut theirs) = connection();
        connection.start(to("a", method), &HeaderMap::new(), None).unwrap();
        let application = async {
            for piece in sent.as_bytes().chunks(cut) {
                theirs.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            if !sent.contains("KEEP") {
                theirs.shutdown().await.unwrap();
            }
            theirs
        };
        let exchange = async {
            let mut statuses = Vec::new();
            loop {
                let answer = poll_fn(|cx| connection.poll_head(cx)).await.map_err(|e| e.to_string())?;
                statuses.push(answer.status().as_u16());
                if !answer.status().is_informational() {
                    break;
                }
            }
            let mut body = Vec::new();
            while !connection.has_ended() {
                let chunk = poll_fn(|cx| connection.poll_chunk(cx)).await.map_err(|e| e.to_string())?;
                body.extend_from_slice(&chunk.unwrap_or_default());
            }
            Ok((statuses, String::from_utf8(body).unwrap()))
        };
        let (_theirs, read): (_, Result<_, String>) = tokio::join!(application, exchange);
        read.map(|(statuses, body)| (statuses, body, connection.is_reusable() && connection.is_usable()))
    }

    #[tokio::test]
    async fn answers_are_read_as_they_are_framed_however_they_arrive() {
        let kept = |body: &str| Ok((vec![200], body.to_owned(), true));
        let closed = |body: &str| Ok((vec![200], body.to_owned(), false));
        let refused = |why: &str| Err(why.to_owned());
        let cases = [
            (Method::GET, "HTTP/1.1 200 OK\r\ncontent-length: 4\r\nx: KEEP\r\n\r\nbody", kept("body")),
            (Method::GET, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx: KEEP\r\n\r\n", kept("")),
            (Method::HEAD, "HTTP/1.1 200 OK\r\ncontent-length: 4\r\nx: KEEP\r\n\r\n", kept("")),
            (
                Method::GET,
                "HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\nx: KEEP\r\n\r\n2\r\nbo\r\n002;x=y\r\ndy\r\n0\r\nt: 1\r\n\r\n",
                kept("body"),
            ),
            (
                Method::GET,
                "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 4\r\n\r\nbody",
                closed("body"),
            ),
            (Method::GET, "HTTP/1.0 200 OK\r\ncontent-length: 4\r\n\r\nbody", closed("body")),
            (
                Method::GET,
                "HTTP/1.0 200 OK\r\nconnection: Keep-Alive\r\ncontent-length: 4\r\nx: KEEP\r\n\r\nbody",
                kept("body"),
            ),
            (Method::GET, "HTTP/1.1 200 OK\r\n\r\nbody", closed("body")),
            (
                Method::GET,
                "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 204 No Content\r\nx: KEEP\r\n\r\n",
                Ok((vec![103, 204], String::new(), true)),
            ),
            // More than was asked for is no answer to anybody's next request.
            (
                Method::GET,
                "HTTP/1.1 200 OK\r\ncontent-length: 4\r\nx: KEEP\r\n\r\nbodyHTTP/1.1 200",
                closed("body"),
            ),
            (
                Method::GET,
                "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nbody",
                refused("the application closed the connection before its answer was complete"),
            ),
            (
                Method::GET,
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n",
                refused("the application closed the connection before its answer was complete"),
            ),
            (
                Method::GET,
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n",
                refused(
                    "the application's answer is refused: it has both `transfer-encoding` and `content-length`",
                ),
            ),
            (
                Method::GET,
                "HTTP/1.1 200 OK\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nbody",
                refused(
                    "the application's answer is refused: it has two different values of `content-length`",
                ),
            ),
            (
                Method::GET,
                "HTTP/1.1 200 OK\r\ncontent-length: +4\r\n\r\nbody",
                refused("the application's answer is refused: its `content-length` is not a number"),
            ),
            (
                Method::GET,
                "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
                refused(
                    "the application's answer is refused: its `transfer-encoding` is not exactly `chunked`",
                ),
            ),
            (
                Method::GET,
                "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
                refused("the application's answer is refused: HTTP/1.0 has no `transfer-encoding`"),
            ),
            (
                Method::GET,
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\nbody\r\n",
                refused("the application's answer is refused: a line of its chunked body ends without CR"),
            ),
            (
                Method::GET,
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0x4\r\nbody\r\n",
                refused("the application's answer is refused: a chunk's size is not a hexadecimal number"),
            ),
            (
                Method::GET,
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbodyX",
                refused("the application's answer is refused: a chunk is not followed by an end of line"),
            ),
            (
                Method::GET,
                "SSH-2.0-server\r\n",
                refused("the application's answer is refused: its head is malformed"),
            ),
        ];
        for (method, sent, expected) in cases {
            for cut in [sent.len(), 1, 7] {
                assert_eq!(check(&method, sent, cut).await, expected, "{method} {sent:?} in pieces of {cut}");
            }
        }
    }

    #[tokio::test]
    async fn a_kept_connection_that_the_application_closed_is_not_used() {
        let (mut connection, mut theirs) = connection();
        assert!(connection.is_usable());
        theirs.write_all(b"x").await.unwrap();
        assert!(!connection.is_usable(), "something that nobody asked for");
        let (mut connection, theirs) = self::connection();
        drop(theirs);
        assert!(!connection.is_usable());
    }

    #[tokio::test]
    async fn what_follows_a_switch_is_not_lost() {
        let (mut connection, mut theirs) = connection();
        connection.start(to("a", &Method::GET), &HeaderMap::new(), None).unwrap();
        theirs.write_all(b"HTTP/1.1 101 Switching\r\n\r\nfirst").await.unwrap();
        let answer = poll_fn(|cx| connection.poll_head(cx)).await.unwrap();
        let (mut wire, first) = connection.into_parts();
        assert_eq!((answer.status(), &first[..]), (StatusCode::SWITCHING_PROTOCOLS, &b"first"[..]));
        theirs.write_all(b"more").await.unwrap();
        let mut more = [0; 4];
        wire.read_exact(&mut more).await.unwrap();
        assert_eq!(&more, b"more");
    }
}
