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
use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{Method, Request, Response, StatusCode};
use pingora_core::apps::HttpServerApp;
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::authority::{
    RawTargetAuthority, raw_target_authority, validate_request_authority,
};
use pingora_core::protocols::{Digest, Stream};
use pingora_core::server::ShutdownWatch;
use pingora_http::RequestHeader;
use tokio::time::{Instant, sleep_until, timeout};

use penstock_model::settings::Limits;

use super::engine::Proxy;
use super::line::STREAM_WINDOW_BYTES;
use super::stream::{self, Http2Stream};
use crate::tasks::Tasks;
use crate::upstream::attempt::WEBSOCKET;

/// Idle time of a connection without streams.
const IDLE_MAX: Duration = Duration::from_secs(300);
/// Time that a peer has to answer our farewell when nothing else keeps the connection open.
const FAREWELL_MAX: Duration = Duration::from_secs(5);
/// Bytes of one stream that wait in the HTTP/2 library for the peer's window.
const SEND_BUFFER_BYTES: usize = 64 << 10;
/// Streams that a peer may open and reset before they are taken up: a flood of them ends the connection.
const PENDING_RESETS_MAX: usize = 20;
/// Requests that cannot be read, after which the connection ends.
const MALFORMED_MAX: u32 = 32;

/// Why a request is refused before it is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Malformed {
    /// It could be read in two ways when it is sent on: no answer, a stream error (RFC 9113 section 8.1.1).
    Framing,
    /// Nobody knows to whom it goes.
    Authority,
    /// It asks for a tunnel of a kind that we do not know (RFC 9220 section 3).
    Protocol,
}

impl Malformed {
    fn status(self) -> StatusCode {
        match self {
            Self::Framing | Self::Authority => StatusCode::BAD_REQUEST,
            Self::Protocol => StatusCode::NOT_IMPLEMENTED,
        }
    }
}

/// Serves a connection to its end.
pub(super) async fn serve(
    proxy: &Arc<Proxy>,
    stream: Stream,
    limits: &Limits,
    tasks: &Tasks,
    stop: &ShutdownWatch,
) {
    let digest = Arc::new(Digest {
        ssl_digest: stream.get_ssl_digest(),
        timing_digest: stream.get_timing_digest(),
        proxy_digest: stream.get_proxy_digest(),
        socket_digest: stream.get_socket_digest(),
    });
    let handshake = options(limits).handshake::<_, Bytes>(stream);
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
        match admit(request, answer, &digest) {
            Some(stream) => {
                let (proxy, stop) = (Arc::clone(proxy), stop.clone());
                tasks.spawn("stream", async move {
                    // A stream is used once: there is nothing to be given back.
                    drop(proxy.process_new_http(ServerSession::new_custom(Box::new(stream)), &stop).await);
                });
            }
            None => malformed += 1,
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
    digest: &Arc<Digest>,
) -> Option<Http2Stream> {
    let (parts, body) = request.into_parts();
    let mut head = RequestHeader::from(parts);
    match check(&head) {
        Ok(()) => {
            if head.extensions.get::<Protocol>().is_some() {
                stream::asked_for_websocket(&mut head);
            }
            Some(Http2Stream::new(head, body, answer, Arc::clone(digest)))
        }
        Err(Malformed::Framing) => {
            answer.send_reset(Reason::PROTOCOL_ERROR);
            None
        }
        Err(malformed) => {
            let mut response = Response::new(());
            *response.status_mut() = malformed.status();
            // Fails when the client has reset the stream; then it needs no answer.
            drop(answer.send_response(response, true));
            None
        }
    }
}

/// What the HTTP/2 library lets through and the next hop could misread.
fn check(head: &RequestHeader) -> Result<(), Malformed> {
    let mut lengths = head.headers.get_all(CONTENT_LENGTH).iter();
    let length = lengths.next();
    let is_number = length.is_none_or(|length| length.as_bytes().iter().all(u8::is_ascii_digit));
    let delimiters = |byte: &u8| matches!(byte, 0 | b'\r' | b'\n' | b' ');
    if head.headers.contains_key(TRANSFER_ENCODING)
        || lengths.next().is_some()
        || !is_number
        || head.raw_path().iter().any(delimiters)
    {
        return Err(Malformed::Framing);
    }
    let is_named = head.uri.authority().is_some() || head.headers.contains_key(HOST);
    let protocol = head.extensions.get::<Protocol>();
    let is_plain_path = (head.method == Method::CONNECT && protocol.is_none())
        || matches!(raw_target_authority(head.raw_path()), RawTargetAuthority::None);
    if !is_named || !is_plain_path || validate_request_authority(head).is_err() {
        return Err(Malformed::Authority);
    }
    if protocol.is_some_and(|protocol| protocol.as_str() != WEBSOCKET) {
        return Err(Malformed::Protocol);
    }
    Ok(())
}

fn options(limits: &Limits) -> h2::server::Builder {
    let mut options = h2::server::Builder::new();
    options
        .max_header_list_size(limits.header_bytes_max)
        .max_concurrent_streams(limits.streams_per_connection_max)
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(connection_window(limits.streams_per_connection_max))
        .max_send_buffer_size(SEND_BUFFER_BYTES)
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
        .enable_connect_protocol();
    options
}

/// As much as all streams can fill: one that is not read can then never stop the others.
fn connection_window(streams_max: u32) -> u32 {
    const WINDOW_MAX: u32 = (1 << 31) - 1; // RFC 9113 section 6.9.1
    STREAM_WINDOW_BYTES.saturating_mul(streams_max.max(1)).min(WINDOW_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(uri: &str, fields: &[(&'static str, &'static str)]) -> RequestHeader {
        let mut request = Request::builder().uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        RequestHeader::from(request.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_no_request() {
        for (uri, fields, expected) in [
            ("http://a/", &[][..], Ok(())),
            ("http://a/", &[("content-length", "5")], Ok(())),
            ("http://a/", &[("host", "a")], Ok(())),
            ("/", &[("host", "a")], Ok(())),
            ("http://a/", &[("content-length", "5"), ("content-length", "5")], Err(Malformed::Framing)),
            ("http://a/", &[("content-length", "5, 5")], Err(Malformed::Framing)),
            ("http://a/", &[("content-length", "+5")], Err(Malformed::Framing)),
            ("http://a/", &[("transfer-encoding", "chunked")], Err(Malformed::Framing)),
            ("http://a/", &[("host", "b")], Err(Malformed::Authority)),
            ("http://a/", &[("host", "a"), ("host", "a")], Err(Malformed::Authority)),
            ("http://user@a/", &[], Err(Malformed::Authority)),
            ("/", &[], Err(Malformed::Authority)),
        ] {
            assert_eq!(check(&head(uri, fields)), expected, "{uri} {fields:?}");
        }
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
