//! The one place where a fault becomes an answer, in the caller's dialect.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION, RETRY_AFTER};
use http::{HeaderName, HeaderValue, Method, Response, StatusCode, response};
use penstock_dialect::Dialect;
use penstock_dialect::reply::{ErrorCode, Reply};

use super::exchange::Exchange;
use super::headers::{self, ERROR, REQUEST_ID, UNPROCESSED, WIRE, WIRE_VERSION};
use super::{Connection, Stop};
use crate::listen::caller::{Caller, CallerError, Then};
use crate::listen::conn::Direction;
use crate::upstream::call::Failure;

/// What is read and thrown away of a refused HTTP/1.1 upload, so that a reset does not overtake the answer.
const DRAIN_TIME_MAX: Duration = Duration::from_millis(200);
/// When a refused caller should come again, where nobody knows better.
const RETRY_AFTER_MS: u64 = 1_000;

/// Answers with an error.
///
/// # Errors
/// When the client is gone.
pub(super) async fn send(
    caller: &mut Caller,
    exchange: &mut Exchange,
    failure: &Failure,
) -> Result<Connection, CallerError> {
    let is_grpc = exchange.asked.as_ref().is_some_and(|asked| asked.is_grpc);
    let is_head = caller.head().method == Method::HEAD;
    let dialect = exchange.error_dialect();
    let body = Reply::new(failure.code, failure.message.as_str()).body(dialect);
    let status = if is_grpc { 200 } else { failure.code.status() };
    let mut head = head(status);
    let fields = &mut head.headers;
    fields.insert(ERROR, HeaderValue::from_static(failure.code.as_str()));
    if let Some(asked) = &exchange.asked {
        headers::insert_text(fields, REQUEST_ID, &asked.request_id);
        if dialect == Dialect::AnthropicMessages {
            // Where its clients look for it.
            headers::insert_text(fields, HeaderName::from_static("request-id"), &asked.request_id);
        }
    }
    if exchange.direction() == Direction::Inbound {
        if nothing_was_processed(exchange, failure.code) {
            fields.insert(UNPROCESSED, HeaderValue::from_static("1"));
        }
        fields.insert(WIRE, WIRE_VERSION);
        exchange.tell_load(fields);
    }
    if matches!(failure.code, ErrorCode::Overloaded | ErrorCode::RateLimited | ErrorCode::Draining) {
        let after_ms = failure.retry_after.map_or(RETRY_AFTER_MS, |after| after.as_millis() as u64);
        fields.insert(RETRY_AFTER, after_ms.div_ceil(1_000).max(1).into());
        let pushback = if is_grpc { "grpc-retry-pushback-ms" } else { "retry-after-ms" };
        fields.insert(pushback, after_ms.max(1).into());
    }
    let connection = ready_for_another(caller).await;
    if is_grpc {
        fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        for (name, value) in grpc_status(failure) {
            fields.insert(name, value);
        }
    } else {
        fields.insert(CONTENT_TYPE, HeaderValue::from_static(body.content_type));
        fields.insert(CONTENT_LENGTH, body.bytes.len().into());
    }
    exchange.answer_began(status, fields);
    // A gRPC answer ends with its head: its own library takes no empty frame of data after a status.
    if is_head || is_grpc {
        caller.send_head(head, Then::End).await?;
    } else {
        caller.send_head(head, Then::More).await?;
        caller.send(Bytes::from(body.bytes), Then::End).await?;
    }
    Ok(connection)
}

/// Answers with a redirect.
///
/// # Errors
/// When the client is gone.
pub(super) async fn redirect(
    caller: &mut Caller,
    exchange: &mut Exchange,
    status: u16,
    location: &str,
) -> Result<(), CallerError> {
    let mut head = head(status);
    headers::insert_text(&mut head.headers, LOCATION, location);
    head.headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    if let Some(asked) = &exchange.asked {
        headers::insert_text(&mut head.headers, REQUEST_ID, &asked.request_id);
    }
    ready_for_another(caller).await;
    exchange.answer_began(status, &head.headers);
    caller.send_head(head, Then::End).await
}

fn head(status: u16) -> response::Parts {
    let (mut head, ()) = Response::new(()).into_parts();
    head.status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    head
}

/// What the caller is to be told, if anybody is there to be told.
pub(super) fn failure_of(exchange: &mut Exchange, stop: Stop) -> Option<Failure> {
    let failure = match stop {
        Stop::Endpoint(failure) => return Some(failure),
        Stop::Refused(failure) => failure,
        Stop::Caller(CallerError::Malformed(message)) => Failure::new(ErrorCode::BadRequest, message),
        // A body that the gate below the parser has broken off comes as an unreadable stream.
        Stop::Caller(CallerError::Gone(_)) => {
            let why = exchange.asked.as_ref()?.arrival.head.broken_by()?;
            Failure::new(ErrorCode::BadRequest, why.to_string())
        }
    };
    exchange.failure = Some(failure.clone());
    Some(failure)
}

/// HTTP/1.1: reads a little of what the client is still sending, and says whether that was all.
async fn ready_for_another(caller: &mut Caller) -> Connection {
    if caller.can_go_on(DRAIN_TIME_MAX).await { Connection::Kept } else { Connection::Closed }
}

fn nothing_was_processed(exchange: &Exchange, code: ErrorCode) -> bool {
    let trail = exchange.trail.read();
    code != ErrorCode::BadRequest && (trail.attempts == 0 || trail.is_unprocessed)
}

/// How a caller that speaks gRPC is told: in trailers, or in their place where nothing was answered.
pub(crate) fn grpc_status(failure: &Failure) -> [(&'static str, HeaderValue); 2] {
    let status = HeaderValue::from(u32::from(failure.code.grpc()));
    [("grpc-status", status), ("grpc-message", percent_encoded(&failure.message))]
}

/// `grpc-message` is percent-encoded where it is not printable ASCII.
fn percent_encoded(message: &str) -> HeaderValue {
    let mut text = String::with_capacity(message.len());
    for byte in message.bytes() {
        if matches!(byte, b' '..=b'$' | b'&'..=b'~') {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("error"))
}
