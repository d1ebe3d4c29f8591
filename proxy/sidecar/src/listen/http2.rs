//! One HTTP/2 connection: its streams become requests, each a task of its own; it ends by GOAWAY, in two steps.
//!
//! At the stop signal the peer is told to open no more streams, with the highest stream number there is; when it has answered the
//! ping behind that, it is told which stream was the last, so that none is lost on the way (RFC 9113 section 6.8).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::ext::Protocol;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{Method, Request, Response, StatusCode, request};
use penstock_dialect::reply::ErrorCode;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use penstock_model::settings::Limits;
use penstock_model::spiffe::SpiffeId;

use super::caller::Caller;
use super::conn::Arrival;
use super::line::STREAM_WINDOW_BYTES;
use super::stream::Http2Stream;
use crate::http::hygiene::{self, Ambiguity};
use crate::http::{self as requests, Shared, headers};
use crate::tasks::Tasks;
use crate::telemetry::Telemetry;
use crate::upstream::attempt::WEBSOCKET;

/// Idle time of a connection without streams.
const IDLE_MAX: Duration = Duration::from_secs(300);
/// Time that a peer has to answer our farewell when nothing else keeps the connection open.
const FAREWELL_MAX: Duration = Duration::from_secs(5);
/// Bytes of one stream that wait in the HTTP/2 library for the peer's window.
const SEND_BUFFER_BYTES: usize = 64 << 10;
/// Streams that a peer may open and reset before they are taken up: a flood of them ends the connection.
const PENDING_RESETS_MAX: usize = 20;
/// The same of a sidecar of the mesh, which carries what many callers do: those who leave must not end the requests of the others.
const MESH_PENDING_RESETS_MAX: usize = 10_000;
/// Requests that cannot be read, after which the connection ends.
const MALFORMED_MAX: u32 = 32;

/// Why a request is refused before it is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Malformed {
    /// It could be read in two ways when it is sent on: no answer, a stream error (RFC 9113 section 8.1.1), unless it is the
    /// addressee alone that is in doubt.
    Ambiguous(Ambiguity),
    /// It asks for a tunnel of a kind that we do not know (RFC 9220 section 3).
    Protocol,
    /// It asks for a tunnel to anywhere.
    Connect,
}

/// Serves a connection to its end. Its streams become tasks in `tasks`.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    shared: &Arc<Shared>,
    stream: S,
    arrival: &Arc<Arrival>,
    tasks: &Tasks,
    stop: &watch::Receiver<bool>,
) {
    let settings = Arc::clone(&shared.settings.load());
    let limits = &settings.limits;
    let handshake = options(limits, arrival.peer.as_ref()).handshake::<_, Bytes>(stream);
    let Ok(Ok(mut connection)) = timeout(limits.header_read_timeout, handshake).await else {
        tracing::debug!("no HTTP/2 preface in time");
        return;
    };
    let mut stopping = stop.clone();
    let mut leaving = false;
    let mut quiet_until = Instant::now() + IDLE_MAX;
    let mut malformed = 0;
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stopping.wait_for(|stop| *stop), if !leaving => {
                connection.graceful_shutdown();
                (leaving, quiet_until) = (true, Instant::now() + FAREWELL_MAX);
                continue;
            }
            accepted = connection.accept() => accepted,
            () = sleep_until(quiet_until) => {
                if connection.has_streams() {
                    quiet_until = Instant::now() + if leaving { FAREWELL_MAX } else { IDLE_MAX };
                } else if leaving {
                    return;
                } else {
                    connection.graceful_shutdown();
                    (leaving, quiet_until) = (true, Instant::now() + FAREWELL_MAX);
                }
                continue;
            }
        };
        let (request, answer) = match accepted {
            None => return,
            Some(Err(error)) => {
                tracing::debug!(%error, "HTTP/2 connection ended");
                return;
            }
            Some(Ok(accepted)) => accepted,
        };
        if !leaving {
            quiet_until = Instant::now() + IDLE_MAX;
        }
        match admit(request, answer, arrival) {
            Ok(stream) => {
                let shared = Arc::clone(shared);
                tasks.spawn("stream", async move {
                    requests::serve(&shared, &mut Caller::Http2(stream)).await;
                });
            }
            Err(why) => {
                malformed += 1;
                told(why, arrival, &shared.telemetry);
            }
        }
        if malformed == MALFORMED_MAX {
            tracing::warn!(malformed, "too many requests that cannot be read, the connection is ended");
            connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            malformed = 0;
        }
    }
}

fn admit(
    request: Request<RecvStream>,
    mut answer: SendResponse<Bytes>,
    arrival: &Arc<Arrival>,
) -> Result<Http2Stream, Malformed> {
    let (head, body) = request.into_parts();
    if let Err(why) = check(&head) {
        refuse(why, &head, &mut answer);
        return Err(why);
    }
    Ok(Http2Stream::new(head, body, answer, Arc::clone(arrival)))
}

fn refuse(why: Malformed, head: &request::Parts, answer: &mut SendResponse<Bytes>) {
    match why {
        Malformed::Ambiguous(why) if why.is_about_addressee() => answer_bad_request(why, head, answer),
        Malformed::Ambiguous(_) => answer.send_reset(Reason::PROTOCOL_ERROR),
        Malformed::Protocol => answer_bare(StatusCode::NOT_IMPLEMENTED, answer),
        Malformed::Connect => answer_bare(StatusCode::METHOD_NOT_ALLOWED, answer),
    }
}

fn answer_bare(status: StatusCode, answer: &mut SendResponse<Bytes>) {
    let mut response = Response::new(());
    *response.status_mut() = status;
    // Fails when the client has reset the stream; then it needs no answer.
    drop(answer.send_response(response, true));
}

/// The same answer that HTTP/1.1 gets. What fails here is a stream that the client has reset.
fn answer_bad_request(why: Ambiguity, head: &request::Parts, answer: &mut SendResponse<Bytes>) {
    let body = why.reply(head.method.as_str(), head.uri.path());
    let response = Response::builder()
        .status(StatusCode::BAD_REQUEST)
        .header(CONTENT_TYPE, body.content_type)
        .header(CONTENT_LENGTH, body.bytes.len())
        .header(headers::ERROR, ErrorCode::BadRequest.as_str())
        .body(());
    let Ok(response) = response else { return answer.send_reset(Reason::INTERNAL_ERROR) };
    let is_head = head.method == Method::HEAD;
    if let (Ok(mut stream), false) = (answer.send_response(response, is_head), is_head) {
        drop(stream.send_data(body.bytes.into(), true));
    }
}

/// What the HTTP/2 library lets through and the next hop could misread.
fn check(head: &request::Parts) -> Result<(), Malformed> {
    hygiene::fields(head).map_err(Malformed::Ambiguous)?;
    match head.extensions.get::<Protocol>() {
        Some(protocol) if protocol.as_str() != WEBSOCKET => Err(Malformed::Protocol),
        None if head.method == Method::CONNECT => Err(Malformed::Connect),
        _ => Ok(()),
    }
}

fn told(why: Malformed, arrival: &Arrival, telemetry: &Telemetry) {
    if let Malformed::Ambiguous(why) = why {
        telemetry.request_refused(arrival.direction.as_str(), why);
        tracing::info!(source = %arrival.source, reason = why.reason(), error = %why, "request refused");
    }
}

fn options(limits: &Limits, peer: Option<&SpiffeId>) -> h2::server::Builder {
    let mut options = h2::server::Builder::new();
    options
        .max_header_list_size(limits.header_bytes_max)
        .max_concurrent_streams(limits.streams_per_connection_max)
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(connection_window(limits.streams_per_connection_max))
        .max_send_buffer_size(SEND_BUFFER_BYTES)
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
        .enable_connect_protocol();
    if peer.is_some() {
        options
            .max_pending_accept_reset_streams(MESH_PENDING_RESETS_MAX)
            // Counted over the whole life of a connection, also what was on its way when a stream was given up here.
            .max_local_error_reset_streams(None);
    }
    options
}

/// As much as all streams can fill: one that is not read can then never stop the others.
fn connection_window(streams_max: u32) -> u32 {
    const WINDOW_MAX: u32 = (1 << 31) - 1; // RFC 9113 section 6.9.1
    STREAM_WINDOW_BYTES.saturating_mul(streams_max.max(1)).min(WINDOW_MAX)
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    /// How many of these requests, each reset at once, come to be taken up before the connection ends.
    async fn taken_up(requests: u32, peer: Option<&SpiffeId>) -> u32 {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
        for id in (1..).step_by(2).take(requests as usize).map(u32::to_be_bytes) {
            // HEADERS of `GET / HTTP/2` to `x`, all that there is of the request, then RST_STREAM(CANCEL).
            bytes.extend_from_slice(b"\0\0\x06\x01\x05");
            bytes.extend_from_slice(&id);
            bytes.extend_from_slice(b"\x82\x84\x86\x41\x01x\0\0\x04\x03\0");
            bytes.extend_from_slice(&id);
            bytes.extend_from_slice(&8_u32.to_be_bytes());
        }
        client.write_all(&bytes).await.unwrap();
        let options = options(&Limits::default(), peer);
        let mut connection = options.handshake::<_, Bytes>(server).await.unwrap();
        let mut taken = 0;
        while taken < requests && matches!(connection.accept().await, Some(Ok(_))) {
            taken += 1;
        }
        taken
    }

    #[tokio::test]
    async fn callers_of_another_sidecar_that_leave_at_once_do_not_end_its_connection() {
        let peer: SpiffeId = "spiffe://cluster.local/ns/web/sa/web".parse().unwrap();
        assert_eq!(taken_up(1_000, Some(&peer)).await, 1_000);
        assert!(taken_up(1_000, None).await < 1_000);
    }

    #[test]
    fn the_streams_of_a_connection_cannot_fill_its_window() {
        for streams_max in [1, 100, 256, 100_000] {
            let all = u64::from(STREAM_WINDOW_BYTES) * u64::from(streams_max);
            let window = u64::from(connection_window(streams_max));
            assert!(window == all || window == (1 << 31) - 1, "{streams_max}");
        }
    }
}
