//! Connections to endpoints, kept and shared.
//!
//! HTTP/2 connections are shared up to a number of streams; one request at a time dials, the others wait for it. HTTP/1.1 connections
//! serve one request at a time and are kept for a few seconds. An endpoint outside the mesh chooses between the two in the TLS handshake:
//! until it has chosen, requests wait for the first dial as for HTTP/2; one that chose HTTP/1.1 last is dialled by each for itself.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::Version;
use parking_lot::Mutex;
use penstock_model::units::Moment;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::sync::{Notify, oneshot};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;

use super::dial::{Dial, Gathered, Wire, gathered, read_ahead};
use super::http1::Http1;
use super::origin::{Distrust, Origin};
use super::place::{Carrier, Offer, Place};
use crate::clock;
use crate::identity::tls::{ALPN_H2, ALPN_HTTP1};
use crate::identity::verify::{Refusal, Trust};
use crate::identity::{self, Identity};
use crate::listen::line::STREAM_WINDOW_BYTES;
use crate::tasks::Tasks;
use crate::telemetry::Telemetry;
use crate::turn::OncePerTurn;

/// How connections are made and shared.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Longest time for TCP, TLS and the HTTP/2 preface together.
    pub connect_timeout: Duration,
    /// Most requests at once on one HTTP/2 connection.
    pub streams_max: u32,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The network said no.
    #[error("cannot connect to {address}")]
    Network {
        /// Where to.
        address: SocketAddr,
        /// What it said.
        #[source]
        source: std::io::Error,
    },
    /// It took too long.
    #[error("no connection to {address} within {limit:?}")]
    Timeout {
        /// Where to.
        address: SocketAddr,
        /// How long was allowed.
        limit: Duration,
    },
    /// The peer is not who it should be.
    #[error("the sidecar at {address} was refused")]
    Identity {
        /// Where to.
        address: SocketAddr,
        /// Why.
        #[source]
        source: Refusal,
    },
    /// The endpoint outside the mesh is not who it should be.
    #[error("the endpoint at {address} was refused")]
    Distrust {
        /// Where to.
        address: SocketAddr,
        /// Why.
        #[source]
        source: Distrust,
    },
    /// The peer does not speak as agreed.
    #[error("the handshake with {address} failed")]
    Handshake {
        /// Where to.
        address: SocketAddr,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Receive window of one connection, the largest there is (RFC 9113 section 6.9.1): the windows of its streams bound what waits, and
/// streams that are not read can never stop the others.
const CONNECTION_WINDOW_BYTES: u32 = (1 << 31) - 1;
/// Bytes that wait in the HTTP/2 library for the peer's window.
const SEND_BUFFER_BYTES: usize = 256 << 10;
/// A peer that answers no ping for so long is gone; interval and wait as Envoy's and Linkerd's guides set them.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(3);
/// Below the 5 s after which uvicorn, in front of vLLM and SGLang, closes an idle connection.
const HTTP1_IDLE_MAX: Duration = Duration::from_secs(3);
/// Idle HTTP/1.1 connections kept for one place.
const HTTP1_KEPT_MAX: usize = 256;

/// All connections of the process.
#[derive(Debug)]
pub struct Pool {
    dial: Arc<dyn Dial>,
    tls: Arc<ClientConfig>,
    tasks: Tasks,
    telemetry: Arc<Telemetry>,
    shared: Mutex<HashMap<Place, Arc<Shelf>>>,
    single: Mutex<HashMap<Place, Vec<Idle>>>,
}

/// HTTP/2 connections to one place.
#[derive(Debug, Default)]
struct Shelf {
    open: Mutex<Vec<Arc<Shared>>>,
    /// Told of each that is added.
    opened: Notify,
    dialling: tokio::sync::Mutex<()>,
    /// What was spoken on the connection dialled last, where that is the endpoint's choice.
    chose_http1: AtomicBool,
}

/// Something to send a request on.
#[derive(Debug)]
pub enum Link {
    /// A place on an HTTP/2 connection.
    Shared(Lease),
    /// An HTTP/1.1 connection.
    Single(Single),
}

/// A connection that was just made.
enum Fresh {
    Http2(SendRequest<Bytes>),
    Http1(Box<dyn Wire>),
}

#[derive(Debug)]
struct Shared {
    sender: SendRequest<Bytes>,
    streams: AtomicU32,
}

#[derive(Debug)]
struct Idle {
    connection: Box<Http1>,
    since: Moment,
}

/// A place on a shared connection; given back on drop.
#[derive(Debug)]
pub struct Lease {
    shared: Arc<Shared>,
    is_counted: bool,
}

impl Lease {
    /// Sends requests.
    pub fn sender(&self) -> SendRequest<Bytes> {
        self.shared.sender.clone()
    }

    /// Goes on without a place: what it is for is no request, and must not keep requests out.
    pub fn step_aside(&mut self) {
        if std::mem::take(&mut self.is_counted) {
            self.shared.streams.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.step_aside();
    }
}

/// An HTTP/1.1 connection, and whether it has served before: then the peer may have closed it meanwhile.
#[derive(Debug)]
pub struct Single {
    /// Carries one request at a time.
    pub connection: Box<Http1>,
    /// New, or kept from an earlier request.
    pub used: Used,
}

impl Single {
    fn new(wire: Box<dyn Wire>) -> Self {
        Self { connection: Box::new(Http1::new(wire)), used: Used::Never }
    }
}

/// Whether a connection is new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Used {
    /// Just dialled.
    Never,
    /// It has served a request.
    Before,
}

impl Pool {
    /// An empty pool.
    ///
    /// # Errors
    /// When the TLS configuration cannot be made, a build defect.
    pub fn new(
        dial: Arc<dyn Dial>,
        identity: &Identity,
        tasks: Tasks,
        telemetry: Arc<Telemetry>,
    ) -> Result<Self, rustls::Error> {
        let tls = Arc::new(identity::tls::client_config(identity.cell())?);
        Ok(Self { dial, tls, tasks, telemetry, shared: Mutex::default(), single: Mutex::default() })
    }

    /// Something to send a request on, dialled if there is none.
    ///
    /// # Errors
    /// When a connection is needed and cannot be made. Nothing of the request has been sent then.
    pub async fn link(&self, place: &Place, terms: Terms) -> Result<Link, ConnectError> {
        match self.at_hand(place, terms) {
            Some(link) => Ok(link),
            // On the heap: it is rare, and every request would carry the room of a handshake.
            None => Box::pin(self.dialled(place, terms)).await,
        }
    }

    /// A place on a shared connection that somebody else's request has opened, or opens; none is dialled, and none is too full.
    pub async fn companion(&self, place: &Place) -> Lease {
        let shelf = Arc::clone(self.shared.lock().entry(place.clone()).or_default());
        loop {
            let mut opened = std::pin::pin!(shelf.opened.notified());
            opened.as_mut().enable();
            if let Some(lease) = shelf.room(u32::MAX) {
                return lease;
            }
            opened.await;
        }
    }

    /// A place on a shared connection that is open, whoever has made it and however full it is.
    pub fn open(&self, place: &Place) -> Option<Lease> {
        self.room(place, u32::MAX)
    }

    fn room(&self, place: &Place, streams_max: u32) -> Option<Lease> {
        let shelf = self.shared.lock().get(place).map(Arc::clone)?;
        shelf.room(streams_max)
    }

    /// A connection that is open and has room.
    fn at_hand(&self, place: &Place, terms: Terms) -> Option<Link> {
        let kept = || self.kept(place).map(Link::Single);
        let room = || self.room(place, terms.streams_max).map(Link::Shared);
        match place.carrier {
            Carrier::Http1 | Carrier::Tls(Offer::Http1) => kept(),
            Carrier::Mesh | Carrier::H2c | Carrier::Tls(Offer::Http2) => room(),
            Carrier::Tls(Offer::Both) => kept().or_else(room),
        }
    }

    async fn dialled(&self, place: &Place, terms: Terms) -> Result<Link, ConnectError> {
        match place.carrier {
            Carrier::Http1 | Carrier::Tls(Offer::Http1) => self.single(place, terms).await.map(Link::Single),
            Carrier::Mesh | Carrier::H2c | Carrier::Tls(_) => self.shared(place, terms).await,
        }
    }

    /// A place on a new shared connection, or on one that another has dialled meanwhile; another connection where the endpoint will have
    /// no HTTP/2.
    async fn shared(&self, place: &Place, terms: Terms) -> Result<Link, ConnectError> {
        let shelf = Arc::clone(self.shared.lock().entry(place.clone()).or_default());
        // The wait for another's dial counts: behind a dead endpoint nobody waits longer than for a dial of his own.
        let leased = timeout(terms.connect_timeout, async {
            let turn = if shelf.chose_http1.load(Ordering::Relaxed) {
                None
            } else {
                Some(shelf.dialling.lock().await)
            };
            if let Some(lease) = shelf.room(terms.streams_max) {
                return Ok(Link::Shared(lease));
            }
            if turn.is_some() && shelf.chose_http1.load(Ordering::Relaxed) {
                // Meanwhile the endpoint has chosen: nobody need wait for another any more.
                drop(turn);
            }
            match self.connect(place).await? {
                Fresh::Http2(sender) => {
                    shelf.chose_http1.store(false, Ordering::Relaxed);
                    let shared = Arc::new(Shared { sender, streams: AtomicU32::new(1) });
                    shelf.open.lock().push(Arc::clone(&shared));
                    shelf.opened.notify_waiters();
                    Ok(Link::Shared(Lease { shared, is_counted: true }))
                }
                Fresh::Http1(wire) => {
                    shelf.chose_http1.store(true, Ordering::Relaxed);
                    Ok(Link::Single(Single::new(wire)))
                }
            }
        });
        leased.await.unwrap_or_else(|_| Err(timed_out(place, terms)))
    }

    /// Removes a connection that has turned out to be closing.
    pub fn discard(&self, place: &Place, lease: &Lease) {
        if let Some(shelf) = self.shared.lock().get(place) {
            shelf.open.lock().retain(|open| !Arc::ptr_eq(open, &lease.shared));
        }
    }

    /// A new HTTP/1.1 connection.
    async fn single(&self, place: &Place, terms: Terms) -> Result<Single, ConnectError> {
        let connected = timeout(terms.connect_timeout, async {
            let wire = self.dial(place.address).await?;
            match (place.carrier, &place.origin) {
                (Carrier::Tls(offer), Some(origin)) => {
                    self.originate(place.address, origin, offer, wire).await.map(|(wire, _)| wire)
                }
                _ => Ok(wire),
            }
        });
        let wire = connected.await.unwrap_or_else(|_| Err(timed_out(place, terms)))?;
        Ok(Single::new(wire))
    }

    /// A kept HTTP/1.1 connection, if there is one that still lives.
    fn kept(&self, place: &Place) -> Option<Single> {
        loop {
            let mut idle = self.single.lock().get_mut(place).and_then(Vec::pop)?;
            if clock::now().since(idle.since) < HTTP1_IDLE_MAX && idle.connection.is_usable() {
                return Some(Single { connection: idle.connection, used: Used::Before });
            }
        }
    }

    /// Keeps an HTTP/1.1 connection whose request and answer are complete.
    pub fn keep(&self, place: &Place, connection: Box<Http1>) {
        let mut single = self.single.lock();
        let kept = single.entry(place.clone()).or_default();
        if kept.len() < HTTP1_KEPT_MAX {
            kept.push(Idle { connection, since: clock::now() });
        }
    }

    /// Drops connections to places for which `wanted` is false, and what has been idle for too long.
    pub fn retain(&self, wanted: impl Fn(&Place) -> bool) {
        let now = clock::now();
        self.shared.lock().retain(|place, _| wanted(place));
        self.single.lock().retain(|place, kept| {
            kept.retain(|idle| now.since(idle.since) < HTTP1_IDLE_MAX);
            wanted(place) && !kept.is_empty()
        });
    }

    /// Places taken on shared connections.
    pub fn streams(&self) -> u32 {
        let shared = self.shared.lock();
        let taken = |shelf: &Arc<Shelf>| -> u32 {
            shelf.open.lock().iter().map(|open| open.streams.load(Ordering::Acquire)).sum()
        };
        shared.values().map(taken).sum()
    }

    async fn connect(&self, place: &Place) -> Result<Fresh, ConnectError> {
        let wire = self.dial(place.address).await?;
        let wire = match (place.carrier, &place.origin) {
            (Carrier::Mesh, _) => self.secure(place, wire).await?,
            (Carrier::Tls(offer), Some(origin)) => {
                match self.originate(place.address, origin, offer, wire).await? {
                    (wire, Version::HTTP_2) => wire,
                    (wire, _) => return Ok(Fresh::Http1(wire)),
                }
            }
            (Carrier::Tls(_), None) => {
                let source = "nothing says whom to trust".into();
                return Err(ConnectError::Handshake { address: place.address, source });
            }
            (Carrier::H2c | Carrier::Http1, _) => wire,
        };
        self.connect_http2(place, wire).await.map(Fresh::Http2)
    }

    async fn connect_http2(
        &self,
        place: &Place,
        wire: Box<dyn Wire>,
    ) -> Result<SendRequest<Bytes>, ConnectError> {
        let address = place.address;
        let wire = gathered(wire);
        let (sender, mut connection) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_send_buffer_size(SEND_BUFFER_BYTES)
            // What still arrives of an answer that was given up and forgotten counts as an error of the peer, over the whole life of the
            // connection: at the limit all its other requests would end.
            .max_local_error_reset_streams(None)
            .enable_push(false)
            .handshake(wire)
            .await
            .map_err(|source| ConnectError::Handshake { address, source: source.into() })?;
        let pings = connection.ping_pong();
        let (silent, told) = oneshot::channel();
        self.tasks.spawn("http2 connection", OncePerTurn::new(drive(connection, told, address)));
        if let Some(mut pings) = pings {
            if place.carrier == Carrier::Mesh {
                // In TLS 1.3 the peer judges our certificate after our own handshake is over: one answer says that it has.
                let answered = pings.ping(h2::Ping::opaque()).await;
                answered.map_err(|source| ConnectError::Handshake { address, source: source.into() })?;
            }
            self.tasks.spawn("http2 pings", keep_pinging(pings, silent));
        }
        Ok(sender)
    }

    async fn dial(&self, address: SocketAddr) -> Result<Box<dyn Wire>, ConnectError> {
        self.dial.dial(address).await.map_err(|source| ConnectError::Network { address, source })
    }

    async fn secure(&self, place: &Place, wire: Box<dyn Wire>) -> Result<Box<dyn Wire>, ConnectError> {
        let address = place.address;
        let refused = |source: Refusal| {
            self.telemetry.tls_refused("outbound", &source);
            tracing::warn!(%address, reason = source.reason(), error = %source, "sidecar refused");
            ConnectError::Identity { address, source }
        };
        // Names play no part: the peer is known by the URI in its certificate.
        let name = ServerName::IpAddress(address.ip().into());
        let connected = TlsConnector::from(Arc::clone(&self.tls)).connect(name, read_ahead(wire)).await;
        let stream = connected.map_err(|source| match identity::refusal_of(&source) {
            Some(refusal) => refused(refusal),
            None => ConnectError::Handshake { address, source: source.into() },
        })?;
        let (_, session) = stream.get_ref();
        if session.alpn_protocol() != Some(ALPN_H2) {
            let source = "it did not agree to speak HTTP/2 (ALPN `h2`)".into();
            return Err(ConnectError::Handshake { address, source });
        }
        let leaf = session.peer_certificates().and_then(<[_]>::first);
        let peer = leaf.ok_or(Refusal::NoCertificate).and_then(Trust::peer_of).map_err(refused)?;
        if let Some(expected) = place.identity.as_ref().filter(|expected| ***expected != *peer.as_str()) {
            return Err(refused(Refusal::WrongIdentity { peer, expected: Arc::clone(expected) }));
        }
        self.telemetry.tls_opened("outbound", session);
        Ok(Box::new(stream))
    }

    /// TLS to an endpoint outside the mesh, and the version of HTTP that it chose.
    async fn originate(
        &self,
        address: SocketAddr,
        origin: &Origin,
        offer: Offer,
        wire: Box<dyn Wire>,
    ) -> Result<(Box<dyn Wire>, Version), ConnectError> {
        let refused = |source: Distrust| {
            let hostname = &*origin.tls().hostname;
            self.telemetry.origin_refused(&source);
            tracing::warn!(%address, hostname, reason = source.reason(), error = %source, "endpoint refused");
            ConnectError::Distrust { address, source }
        };
        let config = origin.config().await.map_err(refused)?;
        let name = origin.server_name().map_err(refused)?;
        let alpn = match offer {
            Offer::Http2 => vec![ALPN_H2.to_vec()],
            Offer::Http1 => vec![ALPN_HTTP1.to_vec()],
            Offer::Both => vec![ALPN_H2.to_vec(), ALPN_HTTP1.to_vec()],
        };
        let connected = TlsConnector::from(config).with_alpn(alpn).connect(name, read_ahead(wire)).await;
        let stream = connected.map_err(|source| match Distrust::of(&source) {
            Some(distrust) => refused(distrust),
            None => ConnectError::Handshake { address, source: source.into() },
        })?;
        let (_, session) = stream.get_ref();
        let version = match (session.alpn_protocol(), offer) {
            (Some(ALPN_H2), _) => Version::HTTP_2,
            // No choice is HTTP/1.1, as ever.
            (_, Offer::Both | Offer::Http1) => Version::HTTP_11,
            (_, Offer::Http2) => return Err(refused(Distrust::NoHttp2)),
        };
        self.telemetry.tls_opened("origination", session);
        Ok((Box::new(stream), version))
    }
}

impl Shelf {
    /// The connection with the most streams that still has room: the others can then end.
    fn room(&self, streams_max: u32) -> Option<Lease> {
        let open = self.open.lock();
        let usable = open.iter().filter(|shared| {
            let peer_max = u32::try_from(shared.sender.current_max_send_streams()).unwrap_or(u32::MAX);
            shared.streams.load(Ordering::Acquire) < streams_max.min(peer_max)
        });
        let fullest = usable.max_by_key(|shared| shared.streams.load(Ordering::Acquire))?;
        fullest.streams.fetch_add(1, Ordering::AcqRel);
        Some(Lease { shared: Arc::clone(fullest), is_counted: true })
    }
}

fn timed_out(place: &Place, terms: Terms) -> ConnectError {
    ConnectError::Timeout { address: place.address, limit: terms.connect_timeout }
}

/// Runs a connection until it ends or its peer is told to be silent.
async fn drive(
    connection: h2::client::Connection<Gathered<Box<dyn Wire>>, Bytes>,
    silent: oneshot::Receiver<()>,
    address: SocketAddr,
) {
    tokio::select! {
        biased;
        ended = connection => if let Err(error) = ended {
            tracing::debug!(%address, %error, "connection to the endpoint ended");
        },
        Ok(()) = silent => tracing::warn!(%address, "no answer to a ping, the connection is dropped"),
    }
}

/// Tells when the peer stops answering; ends with the connection.
async fn keep_pinging(mut pings: h2::PingPong, mut silent: oneshot::Sender<()>) {
    loop {
        tokio::select! {
            biased;
            () = sleep(PING_INTERVAL) => {}
            () = silent.closed() => return,
        }
        match timeout(PING_TIMEOUT, pings.ping(h2::Ping::opaque())).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return,
            Err(_) => {
                // Nobody listens when the connection has just ended.
                let _told = silent.send(());
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::future::{BoxFuture, join_all};
    use penstock_model::settings::AccessLog;
    use penstock_model::snapshot::Protocol;
    use tokio::time::Instant;

    use super::*;

    /// A network in which nobody ever answers.
    #[derive(Debug)]
    struct BlackHole;

    impl Dial for BlackHole {
        fn dial(&self, _address: SocketAddr) -> BoxFuture<'static, std::io::Result<Box<dyn Wire>>> {
            Box::pin(std::future::pending())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn behind_a_dead_endpoint_nobody_waits_longer_than_for_one_dial() {
        let telemetry = Telemetry::new(&AccessLog::Off).unwrap();
        let pool = Pool::new(Arc::new(BlackHole), &Identity::new(), Tasks::default(), telemetry).unwrap();
        let place = Place::plaintext(SocketAddr::from(([127, 0, 0, 1], 1)), Protocol::H2c);
        let terms = Terms { connect_timeout: Duration::from_secs(1), streams_max: 100 };
        let began = Instant::now();
        let leases = join_all((0..8).map(|_| pool.link(&place, terms))).await;
        assert!(leases.iter().all(|lease| matches!(lease, Err(ConnectError::Timeout { .. }))));
        assert_eq!(began.elapsed(), terms.connect_timeout);
    }
}
