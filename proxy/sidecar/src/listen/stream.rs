//! One HTTP/2 stream as pingora's hooks see it: our own session, because pingora's drops trailers of requests and every 1xx answer,
//! and waits in the middle of its loop (see [`super::line`]).
//!
//! With `upstream/seam.rs` the only file that names pingora's hidden custom traits. It translates; it decides nothing.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, HeaderName, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, Response};
use pingora_core::protocols::Digest;
use pingora_core::protocols::http::HttpTask;
use pingora_core::protocols::http::custom::CustomMessageWrite;
use pingora_core::protocols::http::custom::server::Session;
use pingora_core::protocols::http::date::get_cached_date;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_error::{Error, ErrorType, OrErr, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use tokio::time::{Sleep, sleep, timeout};

use super::line::{Line, STALL_MAX};

/// Fields of one HTTP/1.1 connection, which have no place in HTTP/2 (RFC 9113 section 8.2.2).
const CONNECTION_SPECIFIC: [HeaderName; 5] = [
    TRANSFER_ENCODING,
    CONNECTION,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// A request and the way back.
pub(super) struct Http2Stream {
    head: RequestHeader,
    body: RecvStream,
    /// Nothing of the body will come any more, or nobody wants it.
    body_is_done: bool,
    body_bytes: usize,
    answer: SendResponse<Bytes>,
    line: Arc<Line>,
    written: Option<Box<ResponseHeader>>,
    /// The end of the answer is sent.
    ended: bool,
    answer_bytes: usize,
    /// Runs while the client takes nothing of the answer.
    stall: Option<Pin<Box<Sleep>>>,
    digest: Arc<Digest>,
    write_timeout: Option<Duration>,
    drain_timeout: Option<Duration>,
}

/// The line of the stream that `head` came on.
pub fn line(head: &RequestHeader) -> Option<Arc<Line>> {
    head.extensions.get::<Arc<Line>>().map(Arc::clone)
}

/// The client asked for a tunnel, by an extended CONNECT.
#[derive(Clone, Copy, Debug)]
struct AskedForWebSocket;

/// Whether the stream that `head` came on is to become a tunnel.
pub fn asks_for_websocket(head: &RequestHeader) -> bool {
    head.extensions.get::<AskedForWebSocket>().is_some()
}

/// Makes the request that an extended CONNECT stands for, the same as over HTTP/1.1.
pub(super) fn asked_for_websocket(head: &mut RequestHeader) {
    head.set_method(http::Method::GET);
    head.extensions_mut().remove::<h2::ext::Protocol>();
    head.extensions_mut().insert(AskedForWebSocket);
}

impl Http2Stream {
    pub(super) fn new(
        mut head: RequestHeader,
        body: RecvStream,
        answer: SendResponse<Bytes>,
        digest: Arc<Digest>,
    ) -> Self {
        let line = Arc::new(Line::default());
        head.extensions_mut().insert(Arc::clone(&line));
        // A length of zero says that there is no body, also where the end of the stream comes later.
        let body_is_done = head.headers.get(CONTENT_LENGTH).is_some_and(|length| length.as_bytes() == b"0");
        Self {
            head,
            body,
            body_is_done,
            body_bytes: 0,
            answer,
            line,
            written: None,
            ended: false,
            answer_bytes: 0,
            stall: None,
            digest,
            write_timeout: None,
            drain_timeout: None,
        }
    }

    /// The next chunk, or `None` at the end; trailers go to the line.
    fn poll_body(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>>> {
        let failed = |error| Error::because(ErrorType::ReadError, "while the request body was read", error);
        if let Some(chunk) = ready!(self.body.poll_data(context)) {
            let chunk = chunk.map_err(failed)?;
            self.body_bytes += chunk.len();
            // Fails when the stream has been reset meanwhile; then nobody needs the window.
            drop(self.body.flow_control().release_capacity(chunk.len()));
            return Poll::Ready(Ok(Some(chunk)));
        }
        if let Some(trailers) = ready!(self.body.poll_trailers(context)).map_err(failed)? {
            self.line.trailers_came(trailers);
        }
        self.body_is_done = true;
        Poll::Ready(Ok(None))
    }

    /// Ready when the client has given up the stream.
    fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<Box<Error>> {
        let reset = if self.written.is_some() {
            self.line.poll_reset(context)
        } else {
            self.answer.poll_reset(context)
        };
        Poll::Ready(match ready!(reset) {
            Ok(reason) => Error::explain(ErrorType::H2Error, format!("the client gave up: {reason}")),
            Err(error) => Error::because(ErrorType::H2Error, "the client's connection ended", error),
        })
    }

    /// Ready when the client has taken nothing of the answer for too long.
    fn poll_stalled(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if !self.line.is_full() {
            self.stall = None;
            return Poll::Pending;
        }
        let limit = self.write_timeout.unwrap_or(STALL_MAX);
        self.stall.get_or_insert_with(|| Box::pin(sleep(limit))).as_mut().poll(context)
    }

    /// Reads at the pace of the endpoint, and meanwhile watches for a client that leaves or stalls.
    fn poll_body_or_idle(
        &mut self,
        body_is_done: bool,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>>> {
        if self.poll_stalled(context).is_ready() {
            self.answer.send_reset(Reason::CANCEL);
            let message = "the client took nothing of the answer for too long";
            return Poll::Ready(Error::e_explain(ErrorType::WriteTimedout, message));
        }
        if body_is_done || self.is_body_done() {
            return self.poll_gone(context).map(Err);
        }
        if self.ended {
            self.line.end_upload();
            self.body_is_done = true;
            return Poll::Ready(Ok(None));
        }
        if self.line.poll_room(context).is_pending() {
            return self.poll_gone(context).map(Err);
        }
        self.poll_body(context)
    }

    fn send_head(&mut self, mut head: Box<ResponseHeader>, end: bool) -> Result<()> {
        for name in &CONNECTION_SPECIFIC {
            head.remove_header(name);
        }
        if head.status.is_informational() {
            if self.written.is_none() {
                let response = Response::from_parts(head.as_owned_parts(), ());
                let sent = self.answer.send_informational(response);
                sent.or_err(ErrorType::WriteError, "while an interim answer was sent")?;
            }
            return Ok(());
        }
        if self.ended || self.written.is_some() {
            return Ok(());
        }
        head.insert_header(DATE, get_cached_date())?;
        let response = Response::from_parts(head.as_owned_parts(), ());
        let sent = self.answer.send_response(response, end);
        self.line.answer_begins(sent.or_err(ErrorType::WriteError, "while the answer's head was sent")?);
        self.written = Some(head);
        self.ended = end;
        Ok(())
    }

    fn send_body(&mut self, bytes: Bytes, end: bool) -> Result<()> {
        if self.ended || (bytes.is_empty() && !end) {
            return Ok(());
        }
        self.answer_bytes += bytes.len();
        let Some(sent) = self.line.send(|stream| stream.send_data(bytes, end)) else {
            return Error::e_explain(ErrorType::H2Error, "a body came before its head");
        };
        sent.or_err(ErrorType::WriteError, "while the answer was sent")?;
        self.ended = end;
        Ok(())
    }

    fn send_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        if self.ended {
            return Ok(());
        }
        let Some(sent) = self.line.send(|stream| stream.send_trailers(trailers)) else {
            return Error::e_explain(ErrorType::H2Error, "trailers came before their head");
        };
        sent.or_err(ErrorType::WriteError, "while the answer's trailers were sent")?;
        self.ended = true;
        Ok(())
    }

    fn send_end(&mut self) -> Result<()> {
        if self.written.is_some() { self.send_body(Bytes::new(), true) } else { Ok(()) }
    }

    /// True at the end of the answer.
    fn send_task(&mut self, task: HttpTask) -> Result<bool> {
        match task {
            HttpTask::Header(head, end) => self.send_head(head, end).map(|()| end),
            HttpTask::Body(bytes, end) | HttpTask::UpgradedBody(bytes, end) => {
                self.send_body(bytes.unwrap_or_default(), end).map(|()| end)
            }
            HttpTask::Trailer(trailers) => {
                if let Some(trailers) = trailers {
                    self.send_trailers(*trailers)?;
                }
                Ok(true)
            }
            HttpTask::Done => Ok(true),
            HttpTask::Failed(error) => Err(error),
        }
    }
}

/// A stream that is given up in the middle of its answer must not look whole.
impl Drop for Http2Stream {
    fn drop(&mut self) {
        if !self.ended {
            self.answer.send_reset(Reason::INTERNAL_ERROR);
        }
        self.line.close();
    }
}

#[async_trait::async_trait]
impl Session for Http2Stream {
    fn req_header(&self) -> &RequestHeader {
        &self.head
    }

    fn req_header_mut(&mut self) -> &mut RequestHeader {
        &mut self.head
    }

    async fn read_body_bytes(&mut self) -> Result<Option<Bytes>> {
        if self.is_body_done() {
            return Ok(None);
        }
        poll_fn(|context| self.poll_body(context)).await
    }

    async fn read_body_or_idle(&mut self, no_body_expected: bool) -> Result<Option<Bytes>> {
        poll_fn(|context| self.poll_body_or_idle(no_body_expected, context)).await
    }

    async fn drain_request_body(&mut self) -> Result<()> {
        let limit = self.drain_timeout.unwrap_or(STALL_MAX);
        let drain = async {
            while self.read_body_bytes().await?.is_some() {}
            Ok(())
        };
        let drained = timeout(limit, drain).await;
        drained.unwrap_or_else(|_| Error::e_explain(ErrorType::ReadTimedout, "the body did not end in time"))
    }

    fn is_body_done(&mut self) -> bool {
        self.body_is_done || self.body.is_end_stream()
    }

    fn is_body_empty(&mut self) -> bool {
        self.body_bytes == 0 && self.is_body_done()
    }

    async fn write_response_header(&mut self, head: Box<ResponseHeader>, end: bool) -> Result<()> {
        self.send_head(head, end)
    }

    async fn write_response_header_ref(&mut self, head: &ResponseHeader, end: bool) -> Result<()> {
        self.send_head(Box::new(head.clone()), end)
    }

    async fn write_body(&mut self, bytes: Bytes, end: bool) -> Result<()> {
        self.send_body(bytes, end)
    }

    async fn write_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        self.send_trailers(trailers)
    }

    async fn response_duplex_vec(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        let mut ended = false;
        for task in tasks {
            ended |= self.send_task(task).map_err(Error::into_down)?;
        }
        if ended {
            self.send_end().map_err(Error::into_down)?;
        }
        Ok(ended)
    }

    async fn finish(&mut self) -> Result<()> {
        self.send_end()
    }

    async fn shutdown(&mut self, _code: u32, _reason: &str) {
        if !self.ended {
            self.answer.send_reset(Reason::INTERNAL_ERROR);
            self.ended = true;
        }
    }

    fn response_written(&self) -> Option<&ResponseHeader> {
        self.written.as_deref()
    }

    fn request_summary(&self) -> String {
        format!("{} {}", self.head.method, self.head.uri)
    }

    fn body_bytes_sent(&self) -> usize {
        self.answer_bytes
    }

    fn body_bytes_read(&self) -> usize {
        self.body_bytes
    }

    fn digest(&self) -> Option<&Digest> {
        Some(&self.digest)
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        Arc::get_mut(&mut self.digest)
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        self.digest.socket_digest.as_ref()?.peer_addr()
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        self.digest.socket_digest.as_ref()?.local_addr()
    }

    fn set_write_timeout(&mut self, limit: Option<Duration>) {
        self.write_timeout = limit;
    }

    fn get_write_timeout(&self) -> Option<Duration> {
        self.write_timeout
    }

    fn set_total_drain_timeout(&mut self, limit: Option<Duration>) {
        self.drain_timeout = limit;
    }

    fn get_total_drain_timeout(&self) -> Option<Duration> {
        self.drain_timeout
    }

    // What follows has no meaning here: bodies are replayed by the upload, and there are no messages beside the body.

    fn set_read_timeout(&mut self, _limit: Option<Duration>) {}

    fn get_read_timeout(&self) -> Option<Duration> {
        None
    }

    fn pseudo_raw_h1_request_header(&self) -> Bytes {
        Bytes::new()
    }

    fn enable_retry_buffering(&mut self) {}

    fn retry_buffer_truncated(&self) -> bool {
        false
    }

    fn get_retry_buffer(&self) -> Option<Bytes> {
        None
    }

    async fn finish_custom(&mut self) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_reader(
        &mut self,
    ) -> Option<Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>> {
        Some(Box::new(futures::stream::empty()))
    }

    fn restore_custom_message_reader(
        &mut self,
        _reader: Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>,
    ) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        Some(Box::new(()))
    }

    fn restore_custom_message_writer(&mut self, _writer: Box<dyn CustomMessageWrite>) -> Result<()> {
        Ok(())
    }
}
