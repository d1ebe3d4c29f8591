//! One attempt at one endpoint: the request goes out, the answer comes in, both at the same time.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::RecvStream;
use h2::client::SendRequest;
use http::header::{CONNECTION, COOKIE, HOST, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, Version};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use penstock_model::names::EndpointId;
use penstock_policy::retry::{Fault, Kind, Sent, Side};

use super::call::Call;
use super::place::{Carrier, Place};
use super::pool::{ConnectError, Lease, Link, Pool, Single, Terms, Used};
use super::tunnel::Tunnel;
use super::upload::{Feeding, Upload, UploadBody};
use crate::http::headers::{self, SWITCHED, TARGET, WIRE, WIRE_VERSION};
use crate::seed;

/// The one protocol that connections are switched to.
pub const WEBSOCKET: &str = "websocket";

/// What is sent: everything but the body.
#[derive(Clone, Debug)]
pub struct Head {
    /// Method.
    pub method: http::Method,
    /// Path and query.
    pub target: http::uri::PathAndQuery,
    /// Host and port as the application is to see them.
    pub authority: String,
    /// Fields, without hop-by-hop ones and without `host`.
    pub headers: HeaderMap,
}

/// An attempt that has failed, in the words of the retry decision.
#[derive(Debug)]
pub struct Failed {
    /// What happened.
    pub fault: Fault,
    /// For the log.
    pub message: String,
}

/// An answer that has begun.
#[derive(Debug)]
pub enum Answer {
    /// Over HTTP/2.
    Http2 {
        /// What is still being sent.
        sending: Feeding,
        /// What is being received.
        receiving: RecvStream,
        /// The place on the connection.
        lease: Lease,
    },
    /// Over a connection that has switched to WebSocket.
    Tunnel {
        /// The connection.
        tunnel: Tunnel,
        /// The application has closed its way.
        ended: bool,
    },
    /// Over HTTP/1.1.
    Http1 {
        /// What is being received.
        receiving: Incoming,
        /// The connection, to be kept when all is done.
        sender: http1::SendRequest<UploadBody>,
        /// Trailers, if they have come.
        trailers: Option<HeaderMap>,
        /// The last byte has come. The library does not say so of a chunked body.
        ended: bool,
    },
}

/// Sends a request and waits for the head of its answer; 101 where the endpoint has switched to WebSocket, whatever carries it.
///
/// # Errors
/// When there is no connection or no answer.
pub async fn attempt(
    pool: &Pool,
    place: &Place,
    terms: Terms,
    head: &Head,
    call: &Call,
) -> Result<(Response<()>, Answer), Failed> {
    loop {
        match pool.link(place, terms).await? {
            Link::Shared(lease) => match lease.sender().ready().await {
                Ok(sender) => return over_http2(sender, lease, place.carrier, head, call).await,
                // A kept connection that has meanwhile closed; the next link dials or finds a live one.
                Err(_) => pool.discard(place, &lease),
            },
            Link::Single(single) => {
                if let Some(answered) = over_http1(single, head.http1_request(call)?, call).await {
                    return answered;
                }
            }
        }
    }
}

async fn over_http2(
    mut sender: SendRequest<Bytes>,
    lease: Lease,
    carrier: Carrier,
    head: &Head,
    call: &Call,
) -> Result<(Response<()>, Answer), Failed> {
    let mut request = head.http2_request(carrier)?;
    if call.upgrade.is_some() {
        if !sender.is_extended_connect_protocol_enabled() {
            let message = "the endpoint does not carry WebSocket over HTTP/2 (RFC 8441)".to_owned();
            return Err(Failed::upstream(Kind::Protocol, Sent::Nothing, message));
        }
        *request.method_mut() = http::Method::CONNECT;
        request.extensions_mut().insert(h2::ext::Protocol::from_static(WEBSOCKET));
    }
    let ends = call.upload.is_whole();
    let (mut answer, stream) =
        sender.send_request(request, ends).map_err(|error| Failed::http2(&error, Sent::Nothing))?;
    let sending = call.upload.feed(stream);
    let response = poll_fn(|context| {
        sending.poll(context);
        while let Poll::Ready(Some(Ok(interim))) = answer.poll_informational(context) {
            call.interim.push(interim);
        }
        Pin::new(&mut answer).poll(context)
    });
    let response = response.await.map_err(|error| Failed::http2(&error, Sent::Something))?;
    let (mut parts, receiving) = response.into_parts();
    let switched = carrier != Carrier::Mesh || parts.headers.contains_key(SWITCHED);
    if call.upgrade.is_some() && parts.status.is_success() && switched {
        parts.status = StatusCode::SWITCHING_PROTOCOLS;
    }
    Ok((Response::from_parts(parts, ()), Answer::Http2 { sending, receiving, lease }))
}

/// Nothing where the application closed a kept connection just now, and the request never left.
async fn over_http1(
    Single { mut sender, used }: Single,
    request: Request<UploadBody>,
    call: &Call,
) -> Option<Result<(Response<()>, Answer), Failed>> {
    match sender.try_send_request(request).await {
        Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
            Some(switch(response, call).await)
        }
        Ok(response) => {
            let (parts, receiving) = response.into_parts();
            let ended = hyper::body::Body::is_end_stream(&receiving);
            let answer = Answer::Http1 { receiving, sender, trailers: None, ended };
            Some(Ok((Response::from_parts(parts, ()), answer)))
        }
        Err(error) if error.message().is_some() && used == Used::Before && call.upload.rewind() => None,
        Err(error) => {
            let sent = if error.message().is_some() { Sent::Nothing } else { Sent::Something };
            Some(Err(Failed::http1(error.error(), sent)))
        }
    }
}

/// Takes the connection over from HTTP.
async fn switch(mut response: Response<Incoming>, call: &Call) -> Result<(Response<()>, Answer), Failed> {
    if call.upgrade.is_none() {
        let message = "the application switches protocols without having been asked".to_owned();
        return Err(Failed::upstream(Kind::Protocol, Sent::Something, message));
    }
    let switched = hyper::upgrade::on(&mut response).await;
    let io = switched.map_err(|error| Failed::http1(&error, Sent::Something))?;
    let (parts, _) = response.into_parts();
    let answer = Answer::Tunnel { tunnel: Tunnel::new(io, &call.upload), ended: false };
    Ok((Response::from_parts(parts, ()), answer))
}

impl Answer {
    /// Sends what can be sent of the request; HTTP/1.1 does so by itself.
    pub fn poll_sending(&mut self, context: &mut Context<'_>) {
        match self {
            Self::Http2 { sending, .. } => sending.poll(context),
            // An error is found again by whoever reads.
            Self::Tunnel { tunnel, .. } => drop(tunnel.poll_send(context)),
            Self::Http1 { .. } => {}
        }
    }

    /// The next chunk of the body; `None` at its end.
    ///
    /// # Errors
    /// When the answer breaks off.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Failed> {
        match self {
            Self::Http2 { sending, receiving, .. } => {
                let chunk = poll_fn(|context| {
                    sending.poll(context);
                    receiving.poll_data(context)
                });
                let chunk =
                    chunk.await.transpose().map_err(|error| Failed::http2(&error, Sent::Something))?;
                if let Some(bytes) = &chunk {
                    // Back-pressure is pingora's channel, which this chunk goes into: it is consumed here. A stream that has
                    // been reset meanwhile needs no window.
                    drop(receiving.flow_control().release_capacity(bytes.len()));
                }
                Ok(chunk)
            }
            Self::Tunnel { tunnel, ended } => {
                let chunk = poll_fn(|context| tunnel.poll_chunk(context)).await;
                let chunk = chunk
                    .map_err(|error| Failed::upstream(Kind::Closed, Sent::Something, error.to_string()))?;
                *ended = chunk.is_none();
                Ok(chunk)
            }
            Self::Http1 { receiving, trailers, ended, .. } => loop {
                let Some(frame) = receiving.frame().await else {
                    *ended = true;
                    return Ok(None);
                };
                let frame = frame.map_err(|error| Failed::http1(&error, Sent::Something))?;
                match frame.into_data() {
                    Ok(bytes) => {
                        *ended = hyper::body::Body::is_end_stream(receiving);
                        return Ok(Some(bytes));
                    }
                    Err(frame) => *trailers = frame.into_trailers().ok(),
                }
            },
        }
    }

    /// Trailers, after the last chunk.
    ///
    /// # Errors
    /// When the answer breaks off.
    pub async fn trailers(&mut self) -> Result<Option<HeaderMap>, Failed> {
        match self {
            Self::Http2 { sending, receiving, .. } => {
                let trailers = poll_fn(|context| {
                    sending.poll(context);
                    receiving.poll_trailers(context)
                });
                trailers.await.map_err(|error| Failed::http2(&error, Sent::Something))
            }
            Self::Tunnel { .. } => Ok(None),
            Self::Http1 { trailers, .. } => Ok(trailers.take()),
        }
    }

    /// Whether everything has been received.
    pub fn has_ended(&self) -> bool {
        match self {
            Self::Http2 { receiving, .. } => receiving.is_end_stream(),
            Self::Tunnel { ended, .. } | Self::Http1 { ended, .. } => *ended,
        }
    }

    /// Gives the connection back. An HTTP/1.1 connection is kept only when both ways are complete.
    pub fn release(self, pool: &Pool, place: &Place, upload: &Upload) {
        match self {
            Self::Http1 { sender, ended: true, .. } if upload.is_whole() => pool.keep(place, sender),
            Self::Http1 { .. } | Self::Http2 { .. } | Self::Tunnel { .. } => {}
        }
    }
}

impl Head {
    /// Adds what an endpoint's sidecar is told.
    pub fn address(&mut self, endpoint: &EndpointId, attempt: u32) {
        self.headers.insert(WIRE, WIRE_VERSION);
        headers::insert_text(&mut self.headers, TARGET, &endpoint.address.to_string());
        headers::insert_text(&mut self.headers, headers::BACKEND, &endpoint.backend.to_string());
        headers::insert_text(&mut self.headers, headers::ATTEMPT, &attempt.to_string());
    }

    fn http2_request(&self, carrier: Carrier) -> Result<Request<()>, Failed> {
        let uri = Uri::builder()
            .scheme(carrier.scheme())
            .authority(self.authority.as_str())
            .path_and_query(self.target.clone())
            .build()
            .map_err(|error| Failed::unsendable(&error))?;
        let mut request = Request::new(());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = uri;
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = self.headers.clone();
        Ok(request)
    }

    fn http1_request(&self, call: &Call) -> Result<Request<UploadBody>, Failed> {
        let host = self.authority.parse().map_err(|error| Failed::unsendable(&error))?;
        let body = match call.upgrade {
            None => UploadBody::new(&call.upload),
            Some(_) => UploadBody::none(&call.upload),
        };
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = Uri::from(self.target.clone());
        *request.headers_mut() = self.headers.clone();
        let fields = request.headers_mut();
        fields.insert(HOST, host);
        if call.upgrade.is_some() {
            fields.insert(UPGRADE, HeaderValue::from_static(WEBSOCKET));
            fields.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            if !fields.contains_key(SEC_WEBSOCKET_KEY) {
                headers::insert_text(fields, SEC_WEBSOCKET_KEY, &seed::websocket_key());
            }
        }
        join_cookies(fields);
        let interim = Arc::clone(&call.interim);
        hyper::ext::on_informational(&mut request, move |answer| {
            let mut copy = Response::new(());
            *copy.status_mut() = answer.status();
            *copy.headers_mut() = answer.headers().clone();
            interim.push(copy);
        });
        Ok(request)
    }
}

/// HTTP/2 may send a cookie in parts; HTTP/1.1 knows one field (RFC 9113 section 8.2.3).
fn join_cookies(fields: &mut HeaderMap) {
    let mut parts = fields.get_all(COOKIE).iter();
    if let (Some(_), Some(_)) = (parts.next(), parts.next()) {
        let parts: Vec<&[u8]> = fields.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
        if let Ok(joined) = HeaderValue::from_bytes(&parts.join(&b"; "[..])) {
            fields.insert(COOKIE, joined);
        }
    }
}

impl Failed {
    fn upstream(kind: Kind, sent: Sent, message: String) -> Self {
        Self { fault: Fault { side: Side::Upstream, kind, sent }, message }
    }

    fn unsendable(error: &dyn std::error::Error) -> Self {
        let fault = Fault { side: Side::Caller, kind: Kind::Protocol, sent: Sent::Nothing };
        Self { fault, message: format!("the authority cannot be sent on: {error}") }
    }

    fn http2(error: &h2::Error, sent: Sent) -> Self {
        let refused = error.is_remote() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
        let kind = if error.is_reset() && refused {
            Kind::RefusedStream
        } else if error.is_go_away() && error.is_remote() {
            // The library reports it for streams above the last one that the peer has taken, and for no other.
            Kind::GoAway
        } else if error.is_reset() {
            Kind::Reset
        } else if error.is_io() {
            Kind::Closed
        } else {
            Kind::Protocol
        };
        Self::upstream(kind, sent, error.to_string())
    }

    fn http1(error: &hyper::Error, sent: Sent) -> Self {
        let kind = if error.is_parse() {
            Kind::Protocol
        } else if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
            Kind::Closed
        } else {
            Kind::Reset
        };
        Self::upstream(kind, sent, report(error))
    }
}

impl From<ConnectError> for Failed {
    fn from(error: ConnectError) -> Self {
        let kind = match &error {
            ConnectError::Network { .. } | ConnectError::Timeout { .. } => Kind::Connect,
            ConnectError::Identity { .. }
            | ConnectError::Distrust { .. }
            | ConnectError::Handshake { .. } => Kind::Tls,
        };
        Self::upstream(kind, Sent::Nothing, report(&error))
    }
}

/// The message of an error and of everything behind it.
fn report(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut behind = error.source();
    while let Some(source) = behind {
        text.push_str(": ");
        text.push_str(&source.to_string());
        behind = source.source();
    }
    text
}
