//! One attempt at one endpoint: the request goes out, the answer comes in, both at the same time.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use h2::RecvStream;
use http::{HeaderMap, Request, Response, Uri, Version};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use penstock_policy::retry::{Fault, Kind, Sent, Side};

use super::pool::{Carrier, ConnectError, Lease, Place, Pool, Single, Terms, Used};
use super::upload::{Feeding, Upload, UploadBody};

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

/// Sends a request and waits for the head of its answer.
///
/// # Errors
/// When there is no connection or no answer.
pub async fn attempt(
    pool: &Pool,
    place: &Place,
    terms: Terms,
    head: &Head,
    upload: &Arc<Upload>,
) -> Result<(Response<()>, Answer), Failed> {
    match place.carrier {
        Carrier::Mesh | Carrier::H2c => over_http2(pool, place, terms, head, upload).await,
        Carrier::Http1 => over_http1(pool, place, terms, head, upload).await,
    }
}

async fn over_http2(
    pool: &Pool,
    place: &Place,
    terms: Terms,
    head: &Head,
    upload: &Arc<Upload>,
) -> Result<(Response<()>, Answer), Failed> {
    let request = head.http2_request(place.carrier)?;
    let (lease, mut sender) = loop {
        let lease = pool.lease(place, terms).await?;
        match lease.sender().ready().await {
            Ok(sender) => break (lease, sender),
            // A kept connection that has meanwhile closed; the next lease dials or finds a live one.
            Err(_) => pool.discard(place, &lease),
        }
    };
    let ends = upload.is_whole();
    let (mut answer, stream) =
        sender.send_request(request, ends).map_err(|error| Failed::http2(&error, Sent::Nothing))?;
    let sending = upload.feed(stream);
    let response = poll_fn(|context| {
        sending.poll(context);
        Pin::new(&mut answer).poll(context)
    });
    let response = response.await.map_err(|error| Failed::http2(&error, Sent::Something))?;
    let (parts, receiving) = response.into_parts();
    Ok((Response::from_parts(parts, ()), Answer::Http2 { sending, receiving, lease }))
}

async fn over_http1(
    pool: &Pool,
    place: &Place,
    terms: Terms,
    head: &Head,
    upload: &Arc<Upload>,
) -> Result<(Response<()>, Answer), Failed> {
    loop {
        let Single { mut sender, used } = pool.single(place, terms).await?;
        let request = head.http1_request(upload)?;
        match sender.try_send_request(request).await {
            Ok(response) => {
                let (parts, receiving) = response.into_parts();
                let ended = hyper::body::Body::is_end_stream(&receiving);
                let answer = Answer::Http1 { receiving, sender, trailers: None, ended };
                return Ok((Response::from_parts(parts, ()), answer));
            }
            // The application closed a kept connection just now, and the request never left.
            Err(error) if error.message().is_some() && used == Used::Before && upload.rewind() => {}
            Err(error) => {
                let sent = if error.message().is_some() { Sent::Nothing } else { Sent::Something };
                return Err(Failed::http1(error.error(), sent));
            }
        }
    }
}

impl Answer {
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
            Self::Http1 { trailers, .. } => Ok(trailers.take()),
        }
    }

    /// Whether everything has been received.
    pub fn has_ended(&self) -> bool {
        match self {
            Self::Http2 { receiving, .. } => receiving.is_end_stream(),
            Self::Http1 { ended, .. } => *ended,
        }
    }

    /// Gives the connection back. An HTTP/1.1 connection is kept only when both ways are complete.
    pub fn release(self, pool: &Pool, place: &Place, upload: &Upload) {
        match self {
            Self::Http1 { sender, ended: true, .. } if upload.is_whole() => pool.keep(place, sender),
            Self::Http1 { .. } | Self::Http2 { .. } => {}
        }
    }
}

impl Head {
    fn http2_request(&self, carrier: Carrier) -> Result<Request<()>, Failed> {
        let scheme = if carrier == Carrier::Mesh { "https" } else { "http" };
        let uri = Uri::builder()
            .scheme(scheme)
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

    fn http1_request(&self, upload: &Arc<Upload>) -> Result<Request<UploadBody>, Failed> {
        let host = self.authority.parse().map_err(|error| Failed::unsendable(&error))?;
        let mut request = Request::new(UploadBody::new(upload));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = Uri::from(self.target.clone());
        *request.headers_mut() = self.headers.clone();
        request.headers_mut().insert(http::header::HOST, host);
        Ok(request)
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
            ConnectError::Identity { .. } | ConnectError::Handshake { .. } => Kind::Tls,
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
