//! The only file that names pingora's hidden custom-connector traits. It translates; it decides nothing.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::attempt::Head;
use super::call::{Call, Failure, Interim, Trail, Upgrade};
use super::pool::Pool;
use super::session::{Chunk, LogicalRequest};
use super::upload::Upload;
use crate::listen::line::Line;
use crate::telemetry::Telemetry;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, Stream};
use http::{HeaderMap, Response, StatusCode};
use parking_lot::Mutex;
use pingora_core::connectors::http::custom::{Connection, Connector};
use pingora_core::protocols::http::custom::client::Session;
use pingora_core::protocols::http::custom::{BodyWrite, CustomMessageWrite};
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::protocols::tls::{ALPN, CustomALPN};
use pingora_core::protocols::{Digest, UniqueIDType};
use pingora_core::upstreams::peer::{HttpPeer, Peer};
use pingora_error::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use tokio::sync::watch;

/// Carries a [`Call`] and its head from the hooks to the session, in the request's extensions.
#[derive(Clone)]
pub struct Parcel(Arc<Mutex<Option<(Call, Head)>>>);

impl Parcel {
    /// Wraps a request.
    pub fn new(call: Call, head: Head) -> Self {
        Self(Arc::new(Mutex::new(Some((call, head)))))
    }
}

/// The peer that every request names: its protocol selects our connector before anything is dialled.
pub fn peer() -> Box<HttpPeer> {
    let nowhere = std::net::SocketAddr::from(([0, 0, 0, 0], 0));
    let mut peer = HttpPeer::new(nowhere, false, String::new());
    peer.options.alpn = ALPN::Custom(CustomALPN::new(b"penstock".to_vec()));
    Box::new(peer)
}

/// Makes sessions.
pub struct Mesh {
    /// Connections to endpoints.
    pub pool: Arc<Pool>,
    /// Where retries are told.
    pub telemetry: Arc<Telemetry>,
    /// Turns true when what still runs must end.
    pub over: watch::Receiver<bool>,
}

#[async_trait::async_trait]
impl Connector for Mesh {
    type Session = MeshSession;

    async fn get_http_session<P: Peer + Send + Sync + 'static>(
        &self,
        _peer: &P,
    ) -> Result<(Connection<MeshSession>, bool)> {
        Ok((Connection::Session(MeshSession::new(self)), false))
    }

    async fn reused_http_session<P: Peer + Send + Sync + 'static>(&self, _peer: &P) -> Option<MeshSession> {
        Some(MeshSession::new(self))
    }

    async fn release_http_session<P: Peer + Send + Sync + 'static>(
        &self,
        session: MeshSession,
        _peer: &P,
        _idle_timeout: Option<Duration>,
    ) {
        if let Some(request) = session.0.request {
            request.release();
        }
    }
}

/// The request while its answer is waited for: kept here between two interim answers.
type Answering = BoxFuture<'static, (LogicalRequest, Result<Response<()>, Failure>)>;

/// One logical request as pingora sees it. On the heap: pingora moves it through several futures, and each keeps the room.
pub struct MeshSession(Box<Logical>);

struct Logical {
    pool: Arc<Pool>,
    telemetry: Arc<Telemetry>,
    over: watch::Receiver<bool>,
    request: Option<LogicalRequest>,
    // Shared with nobody; pingora asks for `Sync` all the same.
    answering: Mutex<Option<Answering>>,
    answered: Option<Result<Response<()>, Failure>>,
    interim: Option<Arc<Interim>>,
    caller_upgrade: Option<Upgrade>,
    /// The caller's HTTP/1.1 connection has switched to WebSocket.
    is_switched: bool,
    upload: Option<Arc<Upload>>,
    line: Option<Arc<Line>>,
    trail: Option<Arc<Trail>>,
    response: Option<ResponseHeader>,
    ended: bool,
}

impl MeshSession {
    fn new(mesh: &Mesh) -> Self {
        Self(Box::new(Logical {
            pool: Arc::clone(&mesh.pool),
            telemetry: Arc::clone(&mesh.telemetry),
            over: mesh.over.clone(),
            request: None,
            answering: Mutex::new(None),
            answered: None,
            interim: None,
            caller_upgrade: None,
            is_switched: false,
            upload: None,
            line: None,
            trail: None,
            response: None,
            ended: false,
        }))
    }

    fn request(&mut self) -> Result<&mut LogicalRequest> {
        self.0
            .request
            .as_mut()
            .ok_or_else(|| Error::explain(ErrorType::InternalError, "no request was written"))
    }

    /// The next interim answer, or the answer.
    fn poll_answer(&mut self, context: &mut Context<'_>) -> Poll<Result<Response<()>, Failure>> {
        if self.0.answered.is_none()
            && let Some(answering) = self.0.answering.get_mut()
            && let Poll::Ready((request, answered)) = answering.as_mut().poll(context)
        {
            *self.0.answering.get_mut() = None;
            self.0.request = Some(request);
            self.0.answered = Some(answered);
        }
        if let Some(interim) = &self.0.interim
            && let Poll::Ready(interim) = interim.poll_next(context)
        {
            return Poll::Ready(Ok(interim));
        }
        self.0.answered.take().map_or(Poll::Pending, Poll::Ready)
    }

    /// What the endpoint sends after the switch. Its end is an error to pingora, which would otherwise wait for the caller to close first.
    async fn read_tunnel(&mut self) -> Result<Option<Bytes>> {
        let chunk = self.request()?.chunk().await;
        match chunk.map_err(|failure| self.failed(failure))? {
            Chunk::Bytes(bytes) | Chunk::Last(bytes) => Ok(Some(bytes)),
            Chunk::End => Err(Error::explain(ErrorType::ConnectionClosed, "the endpoint closed").into_up()),
        }
    }

    /// Tells the trail and makes pingora's error, which only says that there is one.
    fn failed(&self, failure: Failure) -> Box<Error> {
        let error = Error::explain(ErrorType::HTTPStatus(failure.code.status()), failure.message.clone());
        if let Some(trail) = &self.0.trail {
            trail.fail(failure);
        }
        error.into_up()
    }
}

#[async_trait::async_trait]
impl Session for MeshSession {
    async fn write_request_header(&mut self, mut request: Box<RequestHeader>, _end: bool) -> Result<()> {
        let parcel = request.extensions_mut().remove::<Parcel>();
        let (call, head) = parcel
            .and_then(|parcel| parcel.0.lock().take())
            .ok_or_else(|| Error::explain(ErrorType::InternalError, "the request was not prepared"))?;
        self.0.upload = Some(Arc::clone(&call.upload));
        self.0.trail = Some(Arc::clone(&call.trail));
        self.0.line = Some(Arc::clone(&call.line));
        self.0.interim = Some(Arc::clone(&call.interim));
        self.0.caller_upgrade = call.upgrade;
        let (pool, telemetry) = (Arc::clone(&self.0.pool), Arc::clone(&self.0.telemetry));
        self.0.request = Some(LogicalRequest::new(call, head, pool, telemetry, self.0.over.clone()));
        Ok(())
    }

    async fn read_response_header(&mut self) -> Result<()> {
        // Asked again after every interim answer.
        if self.0.response.is_none()
            && let Some(mut request) = self.0.request.take()
        {
            let answering = async move {
                let answered = request.answer().await;
                (request, answered)
            };
            *self.0.answering.get_mut() = Some(answering.boxed());
        }
        let answered = poll_fn(|context| self.poll_answer(context)).await;
        let (parts, ()) = answered.map_err(|failure| self.failed(failure))?.into_parts();
        self.0.is_switched =
            parts.status == StatusCode::SWITCHING_PROTOCOLS && self.0.caller_upgrade == Some(Upgrade::Http1);
        self.0.response = Some(ResponseHeader::from(parts));
        self.0.ended = !self.0.is_switched && self.0.request.as_ref().is_some_and(LogicalRequest::has_ended);
        Ok(())
    }

    async fn read_response_body(&mut self) -> Result<Option<Bytes>> {
        if self.0.is_switched {
            return self.read_tunnel().await;
        }
        if self.0.ended {
            return Ok(None);
        }
        let chunk = self.request()?.chunk().await;
        match chunk.map_err(|failure| self.failed(failure))? {
            Chunk::Bytes(bytes) => {
                self.0.ended = self.request()?.has_ended();
                Ok(Some(bytes))
            }
            Chunk::Last(bytes) => {
                self.0.ended = true;
                Ok(Some(bytes))
            }
            Chunk::End => Ok(None),
        }
    }

    async fn read_trailers(&mut self) -> Result<Option<HeaderMap>> {
        if self.0.ended {
            return Ok(None);
        }
        let trailers = self.request()?.trailers().await;
        self.0.ended = true;
        trailers.map_err(|failure| self.failed(failure))
    }

    async fn check_response_end_or_error(&mut self, _headers: bool) -> Result<bool> {
        Ok(self.0.ended)
    }

    fn response_header(&self) -> Option<&ResponseHeader> {
        self.0.response.as_ref()
    }

    fn response_finished(&self) -> bool {
        self.0.ended
    }

    fn take_request_body_writer(&mut self) -> Option<Box<dyn BodyWrite>> {
        let (upload, line) = (self.0.upload.take()?, self.0.line.take()?);
        Some(Box::new(Writer { upload, line }))
    }

    async fn shutdown(&mut self, _code: u32, _reason: &str) {
        self.0.request = None;
        *self.0.answering.get_mut() = None;
    }

    fn take_custom_message_reader(
        &mut self,
    ) -> Option<Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>> {
        Some(Box::new(futures::stream::empty()))
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        Some(Box::new(()))
    }

    // What follows has no meaning for a logical request: the body goes through the writer, deadlines are in the call.

    async fn write_request_body(&mut self, _bytes: Bytes, _end: bool) -> Result<()> {
        Ok(())
    }

    async fn finish_request_body(&mut self) -> Result<()> {
        Ok(())
    }

    fn set_read_timeout(&mut self, _timeout: Option<Duration>) {}

    fn set_write_timeout(&mut self, _timeout: Option<Duration>) {}

    fn was_upgraded(&self) -> bool {
        self.0.is_switched
    }

    fn digest(&self) -> Option<&Digest> {
        None
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        None
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        None
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        None
    }

    fn fd(&self) -> UniqueIDType {
        -1
    }

    async fn finish_custom(&mut self) -> Result<()> {
        Ok(())
    }

    async fn drain_custom_messages(&mut self) -> Result<()> {
        Ok(())
    }
}

/// The client's half of the body. It never waits: nothing is read that there is no room for.
struct Writer {
    upload: Arc<Upload>,
    line: Arc<Line>,
}

#[async_trait::async_trait]
impl BodyWrite for Writer {
    async fn write_all_buf(&mut self, bytes: &mut Bytes) -> Result<()> {
        self.upload.push(bytes.split_to(bytes.len()));
        Ok(())
    }

    async fn finish(&mut self) -> Result<()> {
        self.upload.finish(self.line.take_trailers());
        Ok(())
    }

    async fn cleanup(&mut self) -> Result<()> {
        Ok(())
    }

    fn upgrade_body_writer(&mut self) {}
}
