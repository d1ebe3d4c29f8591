//! One accept loop for gRPC: a listener of whatever transport, then TLS, then a stream that knows who is at its other end.
//!
//! Handshakes run beside each other, each under a deadline, so that a client that stalls keeps no other waiting. Past the bound
//! on connections a new one is closed at once.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use penstock_model::spiffe::SpiffeId;
use prometheus::IntGauge;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use crate::identity::identity_of;
use crate::tasks::Tasks;
use crate::telemetry::{ConnectionRefused, Metrics};

/// One a sidecar, with room for those that reconnect; 10,000 idle connections take about 500 MB.
const CONNECTIONS_MAX: usize = 10_000;
/// What sidecars give their own clients.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// Connections that are ready and wait for the server to take them.
const READY_MAX: usize = 64;

/// Who is at the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    /// What its certificate says, where it has presented one.
    pub(crate) identity: Option<SpiffeId>,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.identity {
            Some(identity) => write!(f, "{identity} at {}", self.address),
            None => self.address.fmt(f),
        }
    }
}

/// Accepts until the stop signal; hands on what has passed its handshake.
pub(crate) fn accept<L: Listener<Addr = SocketAddr>>(
    listener: L,
    tls: Arc<ServerConfig>,
    trust_domain: Arc<str>,
    tasks: &Tasks,
    metrics: Arc<Metrics>,
) -> mpsc::Receiver<io::Result<PeerStream<L::Io>>> {
    let (ready, connections) = mpsc::channel(READY_MAX);
    let door = Door {
        acceptor: TlsAcceptor::from(tls),
        trust_domain,
        places: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        tasks: tasks.clone(),
        metrics,
        ready,
    };
    let stop = tasks.clone();
    tasks.spawn("accept", async move {
        tokio::select! {
            biased;
            () = stop.stopped() => {}
            () = door.run(listener) => {}
        }
    });
    connections
}

struct Door<S> {
    acceptor: TlsAcceptor,
    trust_domain: Arc<str>,
    places: Arc<Semaphore>,
    tasks: Tasks,
    metrics: Arc<Metrics>,
    ready: mpsc::Sender<io::Result<PeerStream<S>>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Door<S> {
    async fn run<L: Listener<Io = S, Addr = SocketAddr>>(self, mut listener: L) {
        let door = Arc::new(self);
        loop {
            let (stream, address) = listener.accept().await;
            let Ok(place) = Arc::clone(&door.places).try_acquire_owned() else {
                door.metrics.connection_refused(
                    ConnectionRefused::Limit,
                    &address.to_string(),
                    "too many connections",
                );
                continue;
            };
            let door = Arc::clone(&door);
            door.tasks.clone().spawn("handshake", async move {
                tokio::select! {
                    biased;
                    () = door.welcome(stream, address, place) => {}
                    () = door.tasks.stopped() => {}
                }
            });
        }
    }

    async fn welcome(&self, stream: S, address: SocketAddr, place: OwnedSemaphorePermit) {
        let refused = |reason, why: &str| {
            self.metrics.connection_refused(reason, &address.to_string(), why);
        };
        match tokio::time::timeout(HANDSHAKE_DEADLINE, self.acceptor.accept(stream)).await {
            Err(_) => refused(ConnectionRefused::HandshakeTimeout, "no handshake in time"),
            Ok(Err(error)) => refused(ConnectionRefused::Handshake, &error.to_string()),
            Ok(Ok(stream)) => {
                let connection = PeerStream {
                    peer: Peer { address, identity: self.identity(&stream) },
                    stream,
                    _open: Open::new(&self.metrics.connections),
                    _place: place,
                };
                // The server is gone only when the process ends.
                let _shutting_down = self.ready.send(Ok(connection)).await;
            }
        }
    }

    fn identity(&self, stream: &TlsStream<S>) -> Option<SpiffeId> {
        let (_, session) = stream.get_ref();
        let leaf = session.peer_certificates()?.first()?;
        // The handshake has verified it with the same function; were that to change, the peer would count as unknown.
        identity_of(leaf, &self.trust_domain).ok()
    }
}

/// A connection after its handshake. Holds its place among the connections until it is dropped.
#[derive(Debug)]
pub(crate) struct PeerStream<S> {
    stream: TlsStream<S>,
    peer: Peer,
    _open: Open,
    _place: OwnedSemaphorePermit,
}

/// Counts one thing as open until it is dropped.
#[derive(Debug)]
pub(crate) struct Open(IntGauge);

impl Open {
    pub(crate) fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl<S> Connected for PeerStream<S> {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for PeerStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for PeerStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
