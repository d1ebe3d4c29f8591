//! One attempt at one endpoint: the request goes out, the answer comes in, both at the same time.

use std::borrow::Cow;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use h2::client::SendRequest;
use http::header::{CONNECTION, COOKIE, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, Version};
use penstock_model::names::EndpointId;
use penstock_policy::retry::{Fault, Kind, Sent, Side};

use super::call::Call;
use super::http1::{Http1, Http1Error, Start};
use super::place::{Carrier, Place};
use super::pool::{ConnectError, Lease, Link, Pool, Single, Terms, Used};
use super::tunnel::Tunnel;
use super::upload::{Feeding, Upload};
use crate::http::headers::{self, SWITCHED, TARGET, WIRE, WIRE_VERSION};
use crate::http::hygiene;
use crate::load::wire::{ACCEPTED, BODY};
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
        /// The connection, to be kept when all is done.
        connection: Box<Http1>,
    },
}

/// What follows the head of an answer.
#[derive(Debug)]
pub enum Part {
    /// Bytes of the body, at least one but in the last chunk.
    Chunk {
        /// The bytes.
        bytes: Bytes,
        /// Nothing follows.
        is_last: bool,
    },
    /// The end, with trailers if there are any.
    End(Option<HeaderMap>),
}

/// Sends a request and waits for the head of its answer; 101 where the endpoint has switched to WebSocket, whatever carries it.
///
/// # Errors
/// When there is no connection or no answer.
pub async fn attempt(
    pool: &Pool,
    place: &Place,
    terms: Terms,
    head: Head,
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
                if let Some(answered) = over_http1(single, &head, call).await? {
                    return Ok(answered);
                }
            }
        }
    }
}

/// Asks by way of a connection to `place` that is there.
///
/// # Errors
/// When it is closing, or there is no answer. One that is closing is given to nobody any more.
pub async fn beside(
    pool: &Pool,
    place: &Place,
    lease: Lease,
    head: Head,
    call: &Call,
) -> Result<(Response<()>, Answer), Failed> {
    match lease.sender().ready().await {
        Ok(sender) => over_http2(sender, lease, place.carrier, head, call).await,
        Err(error) => {
            pool.discard(place, &lease);
            Err(Failed::http2(&error, Sent::Nothing))
        }
    }
}

async fn over_http2(
    mut sender: SendRequest<Bytes>,
    lease: Lease,
    carrier: Carrier,
    head: Head,
    call: &Call,
) -> Result<(Response<()>, Answer), Failed> {
    let mut is_held = head.headers.contains_key(&BODY);
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
        while let Poll::Ready(Some(Ok(interim))) = answer.poll_informational(context) {
            if carrier == Carrier::Mesh && interim.headers().contains_key(&ACCEPTED) {
                is_held = false;
                continue;
            }
            call.line.interim_came(interim);
        }
        if !is_held {
            sending.poll(context);
        }
        Pin::new(&mut answer).poll(context)
    });
    let response = response.await.map_err(|error| Failed::http2(&error, Sent::Something))?;
    let (mut parts, receiving) = response.into_parts();
    refuse_ambiguity(&parts)?;
    let switched = carrier != Carrier::Mesh || parts.headers.contains_key(SWITCHED);
    if call.upgrade.is_some() && parts.status.is_success() && switched {
        parts.status = StatusCode::SWITCHING_PROTOCOLS;
    }
    Ok((Response::from_parts(parts, ()), Answer::Http2 { sending, receiving, lease }))
}

/// Nothing where the application closed a kept connection just now, and the request never left.
async fn over_http1(
    Single { mut connection, used }: Single,
    head: &Head,
    call: &Call,
) -> Result<Option<(Response<()>, Answer)>, Failed> {
    let upload = call.upgrade.is_none().then_some(&call.upload);
    let fields = head.http1_fields(call);
    let start = Start { method: &head.method, target: head.target.as_str(), host: &head.authority };
    connection.start(start, &fields, upload).map_err(|error| Failed::unsendable(&error))?;
    match http1_head(&mut connection, call).await {
        Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
            switch(response, *connection, call).map(Some)
        }
        Ok(response) => Ok(Some((response, Answer::Http1 { connection }))),
        Err(_) if connection.is_unsent() && used == Used::Before && call.upload.rewind() => Ok(None),
        Err(error) => {
            let sent = if connection.is_unsent() { Sent::Nothing } else { Sent::Something };
            Err(Failed::http1(&error, sent))
        }
    }
}

/// The final answer, or the one that switches protocols; interim ones are told on the way.
async fn http1_head(connection: &mut Http1, call: &Call) -> Result<Response<()>, Http1Error> {
    loop {
        let response = poll_fn(|context| connection.poll_head(context)).await?;
        if !response.status().is_informational() || response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(response);
        }
        call.line.interim_came(response);
    }
}

/// Takes the connection over from HTTP.
fn switch(response: Response<()>, connection: Http1, call: &Call) -> Result<(Response<()>, Answer), Failed> {
    if call.upgrade.is_none() {
        let message = "the application switches protocols without having been asked".to_owned();
        return Err(Failed::upstream(Kind::Protocol, Sent::Something, message));
    }
    let (wire, first) = connection.into_parts();
    Ok((response, Answer::Tunnel { tunnel: Tunnel::new(wire, first, &call.upload), ended: false }))
}

/// An answer whose end the caller could see elsewhere than we do is not passed on.
fn refuse_ambiguity(parts: &http::response::Parts) -> Result<(), Failed> {
    hygiene::answer(&parts.headers).map_err(|why| {
        Failed::upstream(Kind::Protocol, Sent::Something, format!("the answer was refused: {why}"))
    })
}

impl Answer {
    /// Sends what can be sent of the request.
    pub fn poll_sending(&mut self, context: &mut Context<'_>) {
        match self {
            Self::Http2 { sending, .. } => sending.poll(context),
            // An error is found again by whoever reads.
            Self::Tunnel { tunnel, .. } => drop(tunnel.poll_send(context)),
            // As above.
            Self::Http1 { connection } => drop(connection.poll_send(context)),
        }
    }

    /// What comes next of the body.
    ///
    /// # Errors
    /// When the answer breaks off.
    pub fn poll_part(&mut self, context: &mut Context<'_>) -> Poll<Result<Part, Failed>> {
        match self {
            Self::Http2 { receiving, .. } => poll_http2_part(receiving, context),
            Self::Tunnel { tunnel, ended } => {
                let chunk = ready!(tunnel.poll_chunk(context));
                let chunk = chunk
                    .map_err(|error| Failed::upstream(Kind::Closed, Sent::Something, error.to_string()))?;
                *ended = chunk.is_none();
                Poll::Ready(Ok(chunk.map_or(Part::End(None), |bytes| Part::Chunk { bytes, is_last: false })))
            }
            Self::Http1 { connection } => {
                let chunk = ready!(connection.poll_chunk(context));
                let chunk = chunk.map_err(|error| Failed::http1(&error, Sent::Something))?;
                Poll::Ready(Ok(match chunk {
                    Some(bytes) => Part::Chunk { bytes, is_last: connection.is_over() },
                    None => Part::End(connection.take_trailers()),
                }))
            }
        }
    }

    /// Whether nothing follows what has been taken.
    pub fn is_over(&self) -> bool {
        match self {
            Self::Http2 { receiving, .. } => receiving.is_end_stream(),
            Self::Tunnel { ended, .. } => *ended,
            Self::Http1 { connection } => connection.is_over(),
        }
    }

    /// Gives the connection back. An HTTP/1.1 connection is kept only when both ways are complete.
    pub fn release(self, pool: &Pool, place: &Place, upload: &Upload) {
        match self {
            Self::Http1 { connection } if connection.is_reusable() && upload.is_whole() => {
                pool.keep(place, connection);
            }
            Self::Http1 { .. } | Self::Http2 { .. } | Self::Tunnel { .. } => {}
        }
    }
}

fn poll_http2_part(receiving: &mut RecvStream, context: &mut Context<'_>) -> Poll<Result<Part, Failed>> {
    let broken = |error| Failed::http2(&error, Sent::Something);
    loop {
        let Some(bytes) = ready!(receiving.poll_data(context)).transpose().map_err(broken)? else {
            return receiving.poll_trailers(context).map_ok(Part::End).map_err(broken);
        };
        // Passed on at once, as far as the caller has room. A stream that has been reset meanwhile needs no window.
        drop(receiving.flow_control().release_capacity(bytes.len()));
        let is_last = receiving.is_end_stream();
        // An empty frame in the middle is not passed on: the peer's library ends a connection after a hundred.
        if !bytes.is_empty() || is_last {
            return Poll::Ready(Ok(Part::Chunk { bytes, is_last }));
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

    fn http2_request(self, carrier: Carrier) -> Result<Request<()>, Failed> {
        let uri = Uri::builder()
            .scheme(carrier.scheme())
            .authority(self.authority.as_str())
            .path_and_query(self.target)
            .build()
            .map_err(|error| Failed::unsendable(&error))?;
        let mut request = Request::new(());
        *request.method_mut() = self.method;
        *request.uri_mut() = uri;
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = self.headers;
        Ok(request)
    }

    fn http1_fields(&self, call: &Call) -> Cow<'_, HeaderMap> {
        let mut fields = Cow::Borrowed(&self.headers);
        if call.upgrade.is_some() {
            let fields = fields.to_mut();
            fields.insert(UPGRADE, HeaderValue::from_static(WEBSOCKET));
            fields.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            if !fields.contains_key(SEC_WEBSOCKET_KEY) {
                headers::insert_text(fields, SEC_WEBSOCKET_KEY, &seed::websocket_key());
            }
        }
        if let Some(cookie) = joined_cookie(&self.headers) {
            fields.to_mut().insert(COOKIE, cookie);
        }
        fields
    }
}

/// HTTP/2 may send a cookie in parts; HTTP/1.1 knows one field (RFC 9113 section 8.2.3).
fn joined_cookie(fields: &HeaderMap) -> Option<HeaderValue> {
    let parts: Vec<&[u8]> = fields.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if parts.len() < 2 {
        return None;
    }
    HeaderValue::from_bytes(&parts.join(&b"; "[..])).ok()
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

    fn http1(error: &Http1Error, sent: Sent) -> Self {
        let kind = match error {
            Http1Error::Protocol(_) => Kind::Protocol,
            Http1Error::Closed | Http1Error::Aborted => Kind::Closed,
            Http1Error::Io(_) => Kind::Reset,
        };
        Self::upstream(kind, sent, error.to_string())
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
