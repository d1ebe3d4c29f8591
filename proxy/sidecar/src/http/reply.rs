//! The one place where a fault becomes an answer, in the caller's dialect.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION, RETRY_AFTER};
use penstock_dialect::Dialect;
use penstock_dialect::reply::{ErrorCode, Reply};
use pingora_core::protocols::http::HttpTask;
use pingora_error::{ErrorType, Result};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use super::exchange::Exchange;
use super::headers::{ERROR, REQUEST_ID, UNPROCESSED, WIRE, WIRE_VERSION};
use crate::listen::conn::Direction;
use crate::upstream::call::Failure;

/// What is read and thrown away of a refused HTTP/1.1 upload, so that a reset does not overtake the answer.
const DRAIN_TIME_MAX: Duration = Duration::from_millis(200);
/// When a refused caller should come again; the queue's drain rate is not known here.
const RETRY_AFTER_S: u32 = 1;

/// Whether the connection can take another request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Connection {
    /// It can.
    Kept,
    /// It cannot: part of the request is unread, or the framing is in doubt.
    Closed,
}

/// Answers with an error.
///
/// # Errors
/// When the client is gone.
pub(super) async fn send(
    session: &mut Session,
    exchange: &mut Exchange,
    failure: &Failure,
) -> Result<Connection> {
    let is_grpc = exchange.asked.as_ref().is_some_and(|asked| asked.is_grpc);
    let is_head = session.req_header().method == http::Method::HEAD;
    let dialect = exchange.error_dialect();
    let body = Reply::new(failure.code, failure.message.as_str()).body(dialect);
    let mut header = ResponseHeader::build(if is_grpc { 200 } else { failure.code.status() }, Some(8))?;
    header.insert_header(ERROR, failure.code.as_str())?;
    if let Some(asked) = &exchange.asked {
        header.insert_header(REQUEST_ID, asked.request_id.as_str())?;
        if dialect == Dialect::AnthropicMessages {
            // Where its clients look for it.
            header.insert_header("request-id", asked.request_id.as_str())?;
        }
    }
    if exchange.direction() == Direction::Inbound && nothing_was_processed(exchange, failure.code) {
        header.insert_header(UNPROCESSED, "1")?;
    }
    if exchange.direction() == Direction::Inbound {
        header.insert_header(WIRE, WIRE_VERSION)?;
    }
    if matches!(failure.code, ErrorCode::Overloaded | ErrorCode::RateLimited | ErrorCode::Draining) {
        header.insert_header(RETRY_AFTER, RETRY_AFTER_S)?;
        let pushback = if is_grpc { "grpc-retry-pushback-ms" } else { "retry-after-ms" };
        header.insert_header(pushback, RETRY_AFTER_S * 1_000)?;
    }
    // Once a request was handed to an endpoint, pingora closes the connection after a failure.
    let connection = match exchange.upload {
        Some(_) => Connection::Closed,
        None => ready_for_another(session).await,
    };
    if connection == Connection::Closed {
        session.set_keepalive(None);
    }
    if is_grpc {
        header.insert_header(CONTENT_TYPE, "application/grpc")?;
        for (name, value) in grpc_status(failure) {
            header.insert_header(name, value)?;
        }
        exchange.answer_began(200, &header.headers);
        // With the end in the same frame: gRPC's own library takes no empty frame of data after a status.
        let whole = vec![HttpTask::Header(Box::new(header), true)];
        session.downstream_session.response_duplex_vec(whole).await?;
        return Ok(connection);
    }
    header.insert_header(CONTENT_TYPE, body.content_type)?;
    header.insert_header(CONTENT_LENGTH, body.bytes.len())?;
    exchange.answer_began(failure.code.status(), &header.headers);
    session.write_response_header(Box::new(header), is_head).await?;
    if !is_head {
        session.write_response_body(Some(Bytes::from(body.bytes)), true).await?;
    }
    Ok(connection)
}

/// Answers with a redirect.
///
/// # Errors
/// When the client is gone.
pub(super) async fn redirect(
    session: &mut Session,
    exchange: &mut Exchange,
    status: u16,
    location: &str,
) -> Result<()> {
    let mut header = ResponseHeader::build(status, Some(4))?;
    header.insert_header(LOCATION, location)?;
    header.insert_header(CONTENT_LENGTH, 0)?;
    if let Some(asked) = &exchange.asked {
        header.insert_header(REQUEST_ID, asked.request_id.as_str())?;
    }
    if ready_for_another(session).await == Connection::Closed {
        session.set_keepalive(None);
    }
    exchange.answer_began(status, &header.headers);
    session.write_response_header(Box::new(header), true).await
}

/// The failure that an error of pingora stands for, and whether anybody is there to be told.
pub(super) fn failure_of(exchange: &Exchange, error: &pingora_error::Error) -> Option<Failure> {
    if let Some(failure) = exchange.failure.clone().or_else(|| exchange.trail.read().failure) {
        return Some(failure);
    }
    let explained = |code| {
        let context = error.context.as_ref().map(|context| context.as_str().to_owned());
        Some(Failure::new(code, context.unwrap_or_else(|| error.etype().as_str().to_owned())))
    };
    match (error.esource(), error.etype()) {
        (_, ErrorType::InvalidHTTPHeader) => explained(ErrorCode::BadRequest),
        (pingora_error::ErrorSource::Downstream, _) => None,
        _ => explained(ErrorCode::Internal),
    }
}

/// HTTP/1.1: reads a little of what the client is still sending, and says whether that was all.
async fn ready_for_another(session: &mut Session) -> Connection {
    if session.as_http1().is_none() || session.is_body_done() {
        return Connection::Kept;
    }
    session.set_total_drain_timeout(Some(DRAIN_TIME_MAX));
    // Only the time is bounded here; what cannot be read in it is cut off with the connection.
    let drained = tokio::time::timeout(DRAIN_TIME_MAX, session.downstream_session.drain_request_body()).await;
    if matches!(drained, Ok(Ok(()))) && session.is_body_done() {
        Connection::Kept
    } else {
        Connection::Closed
    }
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
