//! Whoever sent a request, over either version of HTTP: the head, the body as it comes, and the way back.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, StatusCode, request, response};

use super::conn::Arrival;
use super::http1::Http1Caller;
use super::line::Line;
use super::stream::Http2Stream;

/// The request cannot go on, by the caller's doing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallerError {
    /// It left, or takes nothing, or nothing more can be read of it: nobody is there to be told.
    #[error("{0}")]
    Gone(String),
    /// What it sends cannot be understood, and it can be told so.
    #[error("{0}")]
    Malformed(String),
}

/// What follows a part of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Another part that is at hand: this one may wait for it, and go out with it.
    More,
    /// Nothing yet.
    Later,
    /// Nothing at all.
    End,
}

/// See the module.
#[expect(
    clippy::large_enum_variant,
    reason = "it is in the task of its request, where a box would only cost more"
)]
pub enum Caller {
    /// A connection that serves one request at a time.
    Http1(Http1Caller),
    /// One stream of a connection.
    Http2(Http2Stream),
}

impl Caller {
    /// What the accept loop learned of its connection.
    pub fn arrival(&self) -> &Arc<Arrival> {
        match self {
            Self::Http1(caller) => caller.arrival(),
            Self::Http2(caller) => caller.arrival(),
        }
    }

    /// Its end of the connection.
    pub fn line(&self) -> &Arc<Line> {
        match self {
            Self::Http1(caller) => &caller.arrival().line,
            Self::Http2(caller) => caller.line(),
        }
    }

    /// The request's head.
    pub fn head(&self) -> &request::Parts {
        match self {
            Self::Http1(caller) => caller.head(),
            Self::Http2(caller) => caller.head(),
        }
    }

    /// Takes a field off the head.
    pub fn remove_field(&mut self, name: &HeaderName) {
        match self {
            Self::Http1(caller) => caller.remove_field(name),
            Self::Http2(caller) => caller.remove_field(name),
        }
    }

    /// The fields of the head, to be sent on. They are no longer in the head after this where nothing else asks for them.
    pub fn take_fields(&mut self) -> HeaderMap {
        match self {
            // Keep-alive and upgrades are still judged by them.
            Self::Http1(caller) => caller.head().headers.clone(),
            Self::Http2(caller) => caller.take_fields(),
        }
    }

    /// The head as it came, where it came as text.
    pub fn raw_head(&self) -> Option<Bytes> {
        match self {
            Self::Http1(caller) => Some(caller.raw_head()),
            Self::Http2(_) => None,
        }
    }

    /// Asks to go on in WebSocket by an extended CONNECT.
    pub fn asks_for_tunnel(&self) -> bool {
        match self {
            Self::Http1(_) => false,
            Self::Http2(caller) => caller.asks_for_tunnel(),
        }
    }

    /// Nothing of the body will come any more.
    pub fn is_body_done(&mut self) -> bool {
        match self {
            Self::Http1(caller) => caller.is_body_done(),
            Self::Http2(caller) => caller.is_body_done(),
        }
    }

    /// The next chunk of the body; `None` at its end.
    ///
    /// # Errors
    /// When it does not come.
    pub async fn body(&mut self) -> Result<Option<Bytes>, CallerError> {
        match self {
            Self::Http1(caller) => caller.body().await,
            Self::Http2(caller) => caller.body().await,
        }
    }

    /// The same while there is something to be waited for at the other end: chunks come at the pace at which they are taken, and when
    /// nothing more `is_awaited`, only the end of the connection ends the wait.
    ///
    /// # Errors
    /// When the caller leaves, or takes nothing of the answer for too long.
    pub async fn body_or_gone(&mut self, is_awaited: bool) -> Result<Option<Bytes>, CallerError> {
        match self {
            Self::Http1(caller) => caller.body_or_gone(is_awaited).await,
            Self::Http2(caller) => caller.body_or_gone(is_awaited).await,
        }
    }

    /// Reads on when the answer is complete, so that what is still being sent does not cost the caller the answer: over HTTP/1.1 to the
    /// end of the body, however long that is; a stream of HTTP/2 is ended by itself.
    pub async fn linger(&mut self) {
        if let Self::Http1(caller) = self {
            caller.linger().await;
        }
    }

    /// Whether the connection can take another request when at most `time_max` is spent on what is left of this one.
    pub async fn can_go_on(&mut self, time_max: Duration) -> bool {
        match self {
            Self::Http1(caller) => caller.can_go_on(time_max).await,
            Self::Http2(_) => true,
        }
    }

    /// Status of the answer whose head was sent.
    pub fn answered(&self) -> Option<StatusCode> {
        match self {
            Self::Http1(caller) => caller.answered(),
            Self::Http2(caller) => caller.answered(),
        }
    }

    /// Asks for the body.
    ///
    /// # Errors
    /// When the caller is gone.
    pub async fn invite_body(&mut self) -> Result<(), CallerError> {
        match self {
            Self::Http1(caller) => caller.invite_body().await,
            Self::Http2(caller) => caller.invite_body(),
        }
    }

    /// Sends the head of an answer, or an interim one.
    ///
    /// # Errors
    /// When the caller is gone.
    pub async fn send_head(&mut self, head: response::Parts, then: Then) -> Result<(), CallerError> {
        match self {
            Self::Http1(caller) => caller.send_head(head, then).await,
            Self::Http2(caller) => caller.send_head(head, then),
        }
    }

    /// Sends a part of the answer.
    ///
    /// # Errors
    /// When the caller is gone.
    pub async fn send(&mut self, bytes: Bytes, then: Then) -> Result<(), CallerError> {
        match self {
            Self::Http1(caller) => caller.send(&bytes, then).await,
            Self::Http2(caller) => caller.send(bytes, then),
        }
    }

    /// Ends the answer.
    ///
    /// # Errors
    /// When the caller is gone.
    pub async fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), CallerError> {
        match self {
            // pingora writes no trailers over HTTP/1.1.
            Self::Http1(caller) => caller.send(b"", Then::End).await,
            Self::Http2(caller) => caller.end(trailers),
        }
    }

    /// Goes on in WebSocket: there is no more HTTP on this connection.
    pub fn switch(&mut self) {
        if let Self::Http1(caller) = self {
            caller.switch();
        }
    }

    /// Ends what has switched.
    pub async fn shut(&mut self) {
        match self {
            Self::Http1(caller) => caller.shut().await,
            Self::Http2(caller) => caller.reset(),
        }
    }
}
