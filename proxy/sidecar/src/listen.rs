//! From a listening socket to requests.
//!
//! ```text
//! accept ─► connections_max? ─► first bytes ─► TLS (inbound) ─► HTTP/2 or HTTP/1.1 ─► a caller for each request
//! ```
//!
//! The outbound listener takes plaintext HTTP/1.1 and HTTP/2 from the workload; the inbound one takes mutual TLS with HTTP/2 alone.

pub mod caller;
pub mod conn;
mod detect;
mod gated;
mod http1;
mod http2;
pub mod line;
mod stream;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context;
use bytes::{Bytes, BytesMut};
use penstock_model::spiffe::SpiffeId;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, BufReader};
use tokio::sync::watch;
use tokio::time::error::Elapsed;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use self::conn::{Arrival, Conn, Direction, HeadWatch};
use self::detect::{First, detect};
use self::gated::Gated;
use crate::http::Shared;
use crate::identity::verify::{Refusal, Trust};
use crate::identity::{self, Identity};
use crate::network::{Accept, Accepted, Network};
use crate::tasks::Tasks;
use crate::telemetry::Telemetry;
use crate::turn::OncePerTurn;
use crate::upstream::dial::{self, Wire};

/// Pause after an accept that failed for want of descriptors, so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What to do with the connections of one listening socket.
pub struct Listener {
    /// Which way its requests go.
    pub direction: Direction,
    /// Mutual TLS, for the inbound direction.
    pub tls: Option<TlsAcceptor>,
    /// What all requests share.
    pub shared: Arc<Shared>,
    /// Owner of the connections, and of the streams of those that are HTTP/2.
    pub tasks: Tasks,
}

/// An acceptor for mutual TLS.
///
/// # Errors
/// When the configuration cannot be made, a build defect.
pub fn mutual_tls(identity: &Identity) -> Result<TlsAcceptor, rustls::Error> {
    Ok(TlsAcceptor::from(Arc::new(identity::tls::server_config(identity.cell())?)))
}

/// Opens a listening socket.
///
/// # Errors
/// When the address cannot be bound, with the address.
pub async fn bind(network: &dyn Network, what: &str, address: SocketAddr) -> anyhow::Result<Box<dyn Accept>> {
    let bound = network.listen(address).await;
    bound.with_context(|| format!("the {what} listener cannot be bound to {address}"))
}

/// The next connection to the listener `name`; `None` when `stop` turns true. A socket that fails is asked again after a pause, and each
/// time it is told.
pub async fn next(
    socket: &mut dyn Accept,
    name: &'static str,
    stop: &mut watch::Receiver<bool>,
) -> Option<Accepted> {
    let accepting = async {
        loop {
            match socket.accept().await {
                Ok(accepted) => return accepted,
                Err(error) => {
                    tracing::warn!(%error, listener = name, "a connection cannot be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        biased;
        _ = stop.wait_for(|stop| *stop) => None,
        accepted = accepting => Some(accepted),
    }
}

/// Counts one open connection.
struct Open {
    count: Arc<AtomicUsize>,
    telemetry: Arc<Telemetry>,
    direction: &'static str,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
        self.telemetry.metrics.connections.with_label_values(&[self.direction]).dec();
    }
}

impl Listener {
    /// Accepts connections until `stop` turns true, and closes the socket then: a caller is refused at once instead of waiting in the
    /// kernel's queue. Connections go on.
    pub async fn run(self, mut socket: Box<dyn Accept>, mut stop: watch::Receiver<bool>) {
        let listener = Arc::new(self);
        let count = Arc::new(AtomicUsize::new(0));
        while let Some(accepted) = next(&mut *socket, listener.direction.as_str(), &mut stop).await {
            match listener.admit(&count) {
                Some(open) => {
                    let listener = Arc::clone(&listener);
                    let stop = stop.clone();
                    listener.tasks.clone().spawn("connection", async move {
                        let _open = open;
                        listener.serve(accepted, stop).await;
                    });
                }
                None => listener.refused("connections_max"),
            }
        }
    }

    fn admit(&self, count: &Arc<AtomicUsize>) -> Option<Open> {
        let connections_max = self.shared.settings.load().limits.connections_max;
        let fits = |open: usize| (open < connections_max).then_some(open + 1);
        count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).ok()?;
        let direction = self.direction.as_str();
        self.shared.telemetry.metrics.connections.with_label_values(&[direction]).inc();
        Some(Open { count: Arc::clone(count), telemetry: Arc::clone(&self.shared.telemetry), direction })
    }

    fn refused(&self, reason: &str) {
        let labels = [self.direction.as_str(), reason];
        self.shared.telemetry.metrics.connections_refused.with_label_values(&labels).inc();
    }

    async fn serve(&self, accepted: Accepted, stop: watch::Receiver<bool>) {
        let Accepted { wire: stream, source, local } = accepted;
        match self.tls.clone() {
            Some(tls) => {
                let Some(handshake) = self.in_time(tls.accept(dial::read_ahead(stream)), stop.clone()).await
                else {
                    return;
                };
                match handshake {
                    Ok(Ok(stream)) => match self.peer_of(&stream) {
                        Ok(peer) => {
                            let arrival = self.arrival(source, local, Some(peer));
                            self.serve_http2(stream, Bytes::new(), arrival, stop).await;
                        }
                        Err(refusal) => self.refuse_peer(source, &refusal),
                    },
                    Ok(Err(error)) => self.handshake_failed(source, &error),
                    Err(_) => self.refused("handshake_timeout"),
                }
            }
            None => self.serve_plaintext(stream, (source, local), stop).await,
        }
    }

    async fn serve_plaintext(
        &self,
        mut stream: Box<dyn Wire>,
        (source, local): (SocketAddr, SocketAddr),
        stop: watch::Receiver<bool>,
    ) {
        let Some(first) = self.in_time(read_first(&mut stream), stop.clone()).await else { return };
        let arrival = self.arrival(source, local, None);
        match first {
            Ok(Ok((bytes, First::Http2))) => self.serve_http2(stream, bytes, arrival, stop).await,
            Ok(Ok((bytes, First::Http1))) => self.serve_http1(stream, bytes, arrival, stop).await,
            Ok(Ok((_, First::Tls))) => self.refused("tls_on_plaintext"),
            // A connection that was opened and closed is a probe, not an attack.
            Ok(Ok((bytes, First::More | First::Unknown))) if !bytes.is_empty() => {
                self.refused("unknown_protocol");
            }
            Ok(Ok(_) | Err(_)) => {}
            Err(_) => self.refused("first_bytes_timeout"),
        }
    }

    /// Bounds what comes before the first request: by time, and by the stop signal, which such a connection must not hold up.
    async fn in_time<T>(
        &self,
        work: impl Future<Output = T>,
        mut stop: watch::Receiver<bool>,
    ) -> Option<Result<T, Elapsed>> {
        let time = self.shared.settings.load().limits.header_read_timeout;
        tokio::select! {
            biased;
            done = timeout(time, work) => Some(done),
            _ = stop.wait_for(|stop| *stop) => None,
        }
    }

    async fn serve_http2<S>(
        &self,
        stream: S,
        put_back: Bytes,
        arrival: Arc<Arrival>,
        stop: watch::Receiver<bool>,
    ) where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let conn = Conn::new(dial::gathered(stream), put_back, Arc::clone(&arrival));
        let serving = http2::serve(&self.shared, conn, &arrival, &self.tasks, &stop);
        OncePerTurn::new(serving).await;
    }

    async fn serve_http1(
        &self,
        stream: Box<dyn Wire>,
        put_back: Bytes,
        arrival: Arc<Arrival>,
        stop: watch::Receiver<bool>,
    ) {
        let stream = Gated::new(stream, put_back, Arc::clone(&arrival), &self.shared.settings.load().limits);
        let conn = Conn::new(stream, Bytes::new(), Arc::clone(&arrival)).reading_no_more_than_room();
        // On its own, so that an open connection does not hold the room of its handshake.
        Box::pin(http1::serve(&self.shared, Box::new(conn), &arrival, &stop)).await;
        if let Some(why) = arrival.head.refusal() {
            self.shared.telemetry.request_refused(self.direction.as_str(), why);
            tracing::info!(source = %arrival.source, reason = why.reason(), error = %why, "request refused");
        }
    }

    fn arrival(&self, source: SocketAddr, local: SocketAddr, peer: Option<SpiffeId>) -> Arc<Arrival> {
        Arc::new(Arrival {
            direction: self.direction,
            source,
            local,
            peer,
            head: HeadWatch::default(),
            line: Arc::default(),
        })
    }

    fn peer_of(&self, stream: &TlsStream<BufReader<Box<dyn Wire>>>) -> Result<SpiffeId, Refusal> {
        let (_, session) = stream.get_ref();
        let leaf = session.peer_certificates().and_then(<[_]>::first).ok_or(Refusal::NoCertificate)?;
        let peer = Trust::peer_of(leaf)?;
        self.shared.telemetry.tls_opened(self.direction.as_str(), session);
        Ok(peer)
    }

    fn refuse_peer(&self, source: SocketAddr, refusal: &Refusal) {
        self.shared.telemetry.tls_refused(self.direction.as_str(), refusal);
        tracing::warn!(%source, reason = refusal.reason(), error = %refusal, "peer refused");
    }

    fn handshake_failed(&self, source: SocketAddr, error: &std::io::Error) {
        match identity::refusal_of(error) {
            Some(refusal) => self.refuse_peer(source, &refusal),
            None => {
                self.refused("handshake");
                tracing::debug!(%source, %error, "TLS handshake failed");
            }
        }
    }
}

/// Reads until the protocol is clear.
async fn read_first(stream: &mut Box<dyn Wire>) -> std::io::Result<(Bytes, First)> {
    let mut bytes = BytesMut::with_capacity(detect::BYTES_MAX);
    loop {
        let first = detect(&bytes);
        if first != First::More || stream.read_buf(&mut bytes).await? == 0 {
            return Ok((bytes.freeze(), first));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use futures::future::BoxFuture;

    use super::*;

    /// A socket for which there are no descriptors.
    #[derive(Debug, Default)]
    struct Exhausted {
        asked: u32,
    }

    impl Accept for Exhausted {
        fn accept(&mut self) -> BoxFuture<'_, io::Result<Accepted>> {
            self.asked += 1;
            assert!(self.asked < 1_000, "it spins");
            Box::pin(async { Err(io::Error::other("no descriptors")) })
        }

        fn local(&self) -> io::Result<SocketAddr> {
            Err(io::ErrorKind::NotConnected.into())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_socket_that_fails_is_asked_again_after_a_pause_until_it_is_told_to_stop() {
        let (stopping, mut stop) = watch::channel(false);
        let mut socket = Exhausted::default();
        let accepted = timeout(Duration::from_secs(1), next(&mut socket, "admin", &mut stop)).await;
        assert!(accepted.is_err() && (9..=11).contains(&socket.asked), "asked {} times", socket.asked);
        stopping.send_replace(true);
        assert!(next(&mut socket, "admin", &mut stop).await.is_none());
    }
}
