//! One HTTP/1.1 connection: request after request, each to its end. pingora reads and writes the messages.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderName, HeaderValue, Method, StatusCode, Version, request, response};
use pingora_core::protocols::Stream;
use pingora_core::protocols::http::error_resp::gen_error_response;
use pingora_core::protocols::http::v1::server::HttpSession;
use pingora_error::{Error, ErrorType};
use pingora_http::ResponseHeader;
use tokio::sync::watch;
use tokio::time::timeout;

use super::caller::{Caller, CallerError, Then};
use super::conn::Arrival;
use super::line::STALL_MAX;
use crate::http::{self as requests, Connection, Shared};

/// Idle time of a kept connection; nginx's `keepalive_timeout`.
const KEEPALIVE_S: u64 = 75;
/// Longest silence of a client in the middle of its body. A little more than an endpoint has: a client that waits for room is not
/// silent by its own fault.
const BODY_SILENCE_MAX: Duration = STALL_MAX.saturating_add(Duration::from_secs(1));

/// Serves a connection to its end. At `stop` it ends between two requests.
pub(super) async fn serve(
    shared: &Arc<Shared>,
    stream: Stream,
    arrival: &Arc<Arrival>,
    stop: &watch::Receiver<bool>,
) {
    let mut stopping = stop.clone();
    let mut next = Some((stream, None));
    while let Some((stream, read_ahead)) = next {
        let mut session = Box::new(HttpSession::new(stream));
        session.set_server_keepalive(Some(KEEPALIVE_S));
        session.set_pipelining_enabled(true);
        if let Some(read_ahead) = read_ahead {
            session.set_pipelined_prefix(read_ahead);
        }
        let is_read = tokio::select! {
            biased;
            is_read = read_head(&mut session) => is_read,
            _ = stopping.wait_for(|stop| *stop) => false,
        };
        if !is_read {
            return;
        }
        if *stop.borrow() {
            session.set_server_keepalive(None);
        }
        let mut caller = Caller::Http1(Http1Caller { session, arrival: Arc::clone(arrival) });
        if requests::serve(shared, &mut caller).await == Connection::Closed {
            return;
        }
        let Caller::Http1(caller) = caller else { return };
        next = caller.session.reuse().await.ok().flatten().map(|kept| kept.into_parts());
    }
}

/// Whether there is a request to be served. What cannot be read as one is answered.
async fn read_head(session: &mut HttpSession) -> bool {
    let refused = match session.read_request().await {
        Ok(Some(_)) if session.req_header().method == Method::CONNECT => 405,
        Ok(Some(_)) => {
            if session.get_keepalive_timeout().is_some() {
                session.set_server_keepalive(Some(KEEPALIVE_S));
            }
            session.set_read_timeout(Some(BODY_SILENCE_MAX));
            session.set_write_timeout(Some(STALL_MAX));
            return true;
        }
        Err(error) if *error.etype() == ErrorType::InvalidHTTPHeader => 400,
        Ok(None) | Err(_) => return false,
    };
    session.set_server_keepalive(None);
    // Fails when the client is gone already.
    if session.write_response_header(Box::new(gen_error_response(refused))).await.is_ok() {
        drop(session.finish_body().await);
    }
    session.shutdown().await;
    false
}

/// A request over HTTP/1.1.
pub struct Http1Caller {
    // On the heap: it is moved from request to request.
    session: Box<HttpSession>,
    arrival: Arc<Arrival>,
}

impl Http1Caller {
    pub(super) fn arrival(&self) -> &Arc<Arrival> {
        &self.arrival
    }

    pub(super) fn head(&self) -> &request::Parts {
        self.session.req_header()
    }

    pub(super) fn remove_field(&mut self, name: &HeaderName) {
        self.session.req_header_mut().remove_header(name);
    }

    pub(super) fn raw_head(&self) -> Bytes {
        self.session.get_headers_raw_bytes()
    }

    pub(super) fn is_body_done(&mut self) -> bool {
        self.session.is_body_done()
    }

    pub(super) async fn body(&mut self) -> Result<Option<Bytes>, CallerError> {
        Ok(self.session.read_body_bytes().await?)
    }

    pub(super) async fn body_or_gone(&mut self, is_awaited: bool) -> Result<Option<Bytes>, CallerError> {
        Ok(self.session.read_body_or_idle(!is_awaited).await?)
    }

    pub(super) async fn linger(&mut self) {
        while !self.is_body_done() && self.body().await.is_ok() {}
    }

    pub(super) async fn can_go_on(&mut self, time_max: Duration) -> bool {
        if self.is_body_done() {
            return true;
        }
        self.session.set_total_drain_timeout(Some(time_max));
        // Only the time is bounded here; what cannot be read in it is cut off with the connection.
        let drained = timeout(time_max, self.session.drain_request_body()).await;
        let can_go_on = matches!(drained, Ok(Ok(()))) && self.is_body_done();
        if !can_go_on {
            self.session.set_server_keepalive(None);
        }
        can_go_on
    }

    pub(super) fn answered(&self) -> Option<StatusCode> {
        self.session.response_written().map(|head| head.status)
    }

    pub(super) async fn invite_body(&mut self) -> Result<(), CallerError> {
        if self.head().version == Version::HTTP_10 {
            return Ok(());
        }
        self.keep_open(StatusCode::CONTINUE);
        Ok(self.session.write_continue_response().await?)
    }

    pub(super) async fn send_head(&mut self, head: response::Parts, then: Then) -> Result<(), CallerError> {
        let mut head = ResponseHeader::from(head);
        head.set_version(Version::HTTP_11);
        self.keep_open(head.status);
        self.frame(&mut head);
        self.gather(then);
        self.session.write_response_header(Box::new(head)).await?;
        if then == Then::End { self.send(b"", then).await } else { Ok(()) }
    }

    /// pingora writes part by part; what is followed at once is held back until the last of it.
    fn gather(&self, then: Then) {
        match then {
            Then::More | Then::End => self.arrival.head.hold_back(),
            Then::Later => self.arrival.head.let_go(),
        }
    }

    /// An answer before the end of the upload costs the connection; an interim one does not.
    fn keep_open(&mut self, status: StatusCode) {
        self.session.set_close_on_response_before_downstream_finish(!status.is_informational());
    }

    /// Says where the body ends if its length is not known.
    fn frame(&mut self, head: &mut ResponseHeader) {
        let has_no_body = self.head().method == Method::HEAD
            || head.status.is_informational()
            || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if has_no_body || head.headers.contains_key(CONTENT_LENGTH) {
            return;
        }
        if self.head().version == Version::HTTP_11 {
            // Cannot fail: the name and the value are known to be good.
            drop(head.insert_header(TRANSFER_ENCODING, HeaderValue::from_static("chunked")));
        } else {
            self.session.set_server_keepalive(None);
        }
    }

    pub(super) async fn send(&mut self, bytes: &[u8], then: Then) -> Result<(), CallerError> {
        if !bytes.is_empty() {
            self.gather(then);
            self.session.write_body(bytes).await?;
        }
        if then == Then::End {
            self.arrival.head.let_go();
            self.session.finish_body().await?;
        }
        Ok(())
    }

    pub(super) fn switch(&mut self) {
        // The tunnel has its own limit; the two ways end one by one.
        self.session.set_read_timeout(None);
        self.session.set_abort_on_close(false);
    }

    pub(super) async fn shut(&mut self) {
        self.session.shutdown().await;
    }
}

impl From<Box<Error>> for CallerError {
    fn from(error: Box<Error>) -> Self {
        if *error.etype() == ErrorType::InvalidHTTPHeader {
            let context = error.context.as_ref().map(|context| context.as_str().to_owned());
            return Self::Malformed(context.unwrap_or_else(|| error.etype().as_str().to_owned()));
        }
        Self::Gone(error.to_string())
    }
}
