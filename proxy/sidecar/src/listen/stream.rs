//! One request over HTTP/2: the stream that it came on, and the way back.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, HeaderName, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, Response, StatusCode, Version, request, response};
use pingora_core::protocols::http::date::get_cached_date;
use tokio::time::{Sleep, sleep};

use super::caller::{CallerError, Then};
use super::conn::Arrival;
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
pub struct Http2Stream {
    arrival: Arc<Arrival>,
    head: request::Parts,
    body: RecvStream,
    /// Nothing of the body will come any more, or nobody wants it.
    body_is_done: bool,
    asks_for_tunnel: bool,
    answer: SendResponse<Bytes>,
    line: Arc<Line>,
    answered: Option<StatusCode>,
    /// The end of the answer is sent.
    ended: bool,
    /// Runs while the client takes nothing of the answer.
    stall: Option<Pin<Box<Sleep>>>,
}

impl Http2Stream {
    pub(super) fn new(
        mut head: request::Parts,
        body: RecvStream,
        answer: SendResponse<Bytes>,
        arrival: Arc<Arrival>,
    ) -> Self {
        // A length of zero says that there is no body, also where the end of the stream comes later.
        let body_is_done = head.headers.get(CONTENT_LENGTH).is_some_and(|length| length.as_bytes() == b"0");
        // An extended CONNECT (RFC 8441); from here on the request is the same as over HTTP/1.1.
        let asks_for_tunnel = head.extensions.remove::<h2::ext::Protocol>().is_some();
        if asks_for_tunnel {
            head.method = http::Method::GET;
        }
        Self {
            arrival,
            head,
            body,
            body_is_done,
            asks_for_tunnel,
            answer,
            line: Arc::default(),
            answered: None,
            ended: false,
            stall: None,
        }
    }

    pub(super) fn arrival(&self) -> &Arc<Arrival> {
        &self.arrival
    }

    pub(super) fn line(&self) -> &Arc<Line> {
        &self.line
    }

    pub(super) fn head(&self) -> &request::Parts {
        &self.head
    }

    pub(super) fn remove_field(&mut self, name: &HeaderName) {
        self.head.headers.remove(name);
    }

    pub(super) fn take_fields(&mut self) -> HeaderMap {
        std::mem::take(&mut self.head.headers)
    }

    pub(super) fn asks_for_tunnel(&self) -> bool {
        self.asks_for_tunnel
    }

    pub(super) fn is_body_done(&self) -> bool {
        self.body_is_done || self.body.is_end_stream()
    }

    pub(super) async fn body(&mut self) -> Result<Option<Bytes>, CallerError> {
        if self.is_body_done() {
            return Ok(None);
        }
        poll_fn(|context| self.poll_body(context)).await
    }

    pub(super) async fn body_or_gone(&mut self, is_awaited: bool) -> Result<Option<Bytes>, CallerError> {
        poll_fn(|context| self.poll_body_or_gone(is_awaited, context)).await
    }

    /// The next chunk, or `None` at the end; trailers go to the line.
    fn poll_body(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, CallerError>> {
        if let Some(chunk) = ready!(self.body.poll_data(context)) {
            let chunk = chunk.map_err(|error| gone("the request body was read", &error))?;
            // Fails when the stream has been reset meanwhile; then nobody needs the window.
            drop(self.body.flow_control().release_capacity(chunk.len()));
            return Poll::Ready(Ok(Some(chunk)));
        }
        let trailers = ready!(self.body.poll_trailers(context));
        if let Some(trailers) = trailers.map_err(|error| gone("the request's trailers were read", &error))? {
            self.line.trailers_came(trailers);
        }
        self.body_is_done = true;
        Poll::Ready(Ok(None))
    }

    /// Ready when the client has given up the stream.
    fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<CallerError> {
        let reset = if self.answered.is_some() {
            self.line.poll_reset(context)
        } else {
            self.answer.poll_reset(context)
        };
        Poll::Ready(CallerError::Gone(match ready!(reset) {
            Ok(reason) => format!("the client gave up: {reason}"),
            Err(error) => format!("the client's connection ended: {error}"),
        }))
    }

    /// Ready when the client has taken nothing of the answer for too long.
    fn poll_stalled(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if !self.line.is_full() {
            self.stall = None;
            return Poll::Pending;
        }
        self.stall.get_or_insert_with(|| Box::pin(sleep(STALL_MAX))).as_mut().poll(context)
    }

    /// Reads at the pace of the endpoint, and meanwhile watches for a client that leaves or stalls.
    fn poll_body_or_gone(
        &mut self,
        is_awaited: bool,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, CallerError>> {
        if self.poll_stalled(context).is_ready() {
            self.answer.send_reset(Reason::CANCEL);
            let message = "the client took nothing of the answer for too long";
            return Poll::Ready(Err(CallerError::Gone(message.to_owned())));
        }
        if !is_awaited || self.is_body_done() || self.line.poll_room(context).is_pending() {
            return self.poll_gone(context).map(Err);
        }
        self.poll_body(context)
    }

    pub(super) fn answered(&self) -> Option<StatusCode> {
        self.answered
    }

    pub(super) fn invite_body(&mut self) -> Result<(), CallerError> {
        let mut head = Response::new(());
        *head.status_mut() = StatusCode::CONTINUE;
        self.send_head(head.into_parts().0, Then::Later)
    }

    pub(super) fn send_head(&mut self, mut head: response::Parts, then: Then) -> Result<(), CallerError> {
        let ends = then == Then::End;
        for name in &CONNECTION_SPECIFIC {
            head.headers.remove(name);
        }
        head.version = Version::HTTP_2;
        if head.status.is_informational() {
            let sent = self.answer.send_informational(Response::from_parts(head, ()));
            return sent.map_err(|error| gone("an interim answer was sent", &error));
        }
        head.headers.entry(DATE).or_insert_with(get_cached_date);
        self.answered = Some(head.status);
        let sent = self.answer.send_response(Response::from_parts(head, ()), ends);
        self.line.answer_begins(sent.map_err(|error| gone("the answer's head was sent", &error))?);
        self.ended = ends;
        Ok(())
    }

    pub(super) fn send(&mut self, bytes: Bytes, then: Then) -> Result<(), CallerError> {
        let ends = then == Then::End;
        if self.ended || (bytes.is_empty() && !ends) {
            return Ok(());
        }
        let sent = self.line.send(|stream| stream.send_data(bytes, ends));
        self.ended = ends;
        told(sent, "the answer was sent")
    }

    pub(super) fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), CallerError> {
        let Some(trailers) = trailers.filter(|_| !self.ended) else {
            return self.send(Bytes::new(), Then::End);
        };
        let sent = self.line.send(|stream| stream.send_trailers(trailers));
        self.ended = true;
        told(sent, "the answer's trailers were sent")
    }

    pub(super) fn reset(&mut self) {
        if !self.ended {
            self.answer.send_reset(Reason::INTERNAL_ERROR);
            self.ended = true;
        }
    }
}

/// A stream that is given up in the middle of its answer must not look whole.
impl Drop for Http2Stream {
    fn drop(&mut self) {
        self.reset();
        self.line.close();
    }
}

/// Nothing was sent where the answer has no head yet.
fn told(sent: Option<Result<(), h2::Error>>, when: &str) -> Result<(), CallerError> {
    match sent {
        Some(sent) => sent.map_err(|error| gone(when, &error)),
        None => Err(CallerError::Gone(format!("while {when}: its head was not"))),
    }
}

fn gone(when: &str, error: &h2::Error) -> CallerError {
    CallerError::Gone(format!("while {when}: {error}"))
}
