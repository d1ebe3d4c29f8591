//! The byte stream that the HTTP libraries are given, and what is known of it: ours from the socket up to the decrypted byte.
//!
//! It puts back the bytes that protocol detection has read. Of an HTTP/1.1 request's body it reads no more than there is room for
//! ([`super::line`]); HTTP/1.1 has one more layer below it, [`gated`](super::gated).

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest,
    UniqueID,
};
use std::net::SocketAddr;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use penstock_model::spiffe::SpiffeId;

use super::line::Line;
use crate::http::hygiene::Ambiguity;

/// Which way a request goes through the sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the workload to others.
    Outbound,
    /// From others to the workload.
    Inbound,
}

impl Direction {
    /// Value of the metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }
}

/// What the accept loop learned of a connection; every step of a request can read it.
#[derive(Debug)]
pub struct Arrival {
    /// Which listener it came to.
    pub direction: Direction,
    /// Who connected.
    pub source: SocketAddr,
    /// The address that was connected to.
    pub local: SocketAddr,
    /// The peer's verified identity.
    pub peer: Option<SpiffeId>,
    /// Where the connection stands between two requests (HTTP/1.1 alone).
    pub head: HeadWatch,
    /// The request under way (HTTP/1.1 alone).
    pub line: Arc<Line>,
}

/// Shared between the stream, which sees bytes, and the requests, which know what they mean.
#[derive(Debug, Default)]
pub struct HeadWatch {
    state: AtomicU8,
    heads: AtomicU64,
    refusal: OnceLock<Ambiguity>,
    broke_request: AtomicBool,
    is_held_back: AtomicBool,
}

impl HeadWatch {
    const IDLE: u8 = 0;
    const HEAD: u8 = 1;
    const REQUEST: u8 = 2;

    /// A whole head has arrived.
    pub fn head_is_read(&self) {
        self.heads.fetch_add(1, Ordering::Relaxed);
        self.state.store(Self::REQUEST, Ordering::Relaxed);
    }

    /// The request has ended; the next byte starts a new head.
    pub fn request_ended(&self) {
        self.state.store(Self::IDLE, Ordering::Relaxed);
    }

    /// Bytes of a head are there. Changes nothing while a request is under way, whose body they are.
    pub(super) fn bytes_arrived(&self) {
        let _started =
            self.state.compare_exchange(Self::IDLE, Self::HEAD, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Whether a head has begun to arrive and is not whole.
    pub(super) fn is_in_head(&self) -> bool {
        self.state.load(Ordering::Relaxed) == Self::HEAD
    }

    /// Whether a request is under way.
    pub(super) fn is_in_request(&self) -> bool {
        self.state.load(Ordering::Relaxed) == Self::REQUEST
    }

    /// More of the answer follows at once: nothing is written before it is there.
    pub(super) fn hold_back(&self) {
        self.is_held_back.store(true, Ordering::Relaxed);
    }

    /// The next write, or flush, takes with it what was held back.
    pub(super) fn let_go(&self) {
        self.is_held_back.store(false, Ordering::Relaxed);
    }

    /// Whether the answer is held back.
    pub(super) fn is_held_back(&self) -> bool {
        self.is_held_back.load(Ordering::Relaxed)
    }

    /// How many heads have been taken.
    pub(super) fn heads(&self) -> u64 {
        self.heads.load(Ordering::Relaxed)
    }

    /// Nothing more is read from this connection.
    pub(crate) fn refuse(&self, why: Ambiguity) {
        // The first reason stands.
        let _kept = self.refusal.set(why);
    }

    /// It is the request under way that cannot be read to its end.
    pub(super) fn breaks_request(&self) {
        self.broke_request.store(true, Ordering::Relaxed);
    }

    /// Why nothing more is read.
    pub(crate) fn refusal(&self) -> Option<Ambiguity> {
        self.refusal.get().copied()
    }

    /// Why the request under way cannot be read to its end.
    pub(crate) fn broken_by(&self) -> Option<Ambiguity> {
        self.refusal().filter(|_| self.broke_request.load(Ordering::Relaxed))
    }
}

/// A connection as the HTTP libraries are given it.
pub struct Conn<S> {
    io: S,
    put_back: Bytes,
    /// No more is read than there is room for in the request under way.
    is_bounded: bool,
    arrival: Arc<Arrival>,
}

impl<S> Conn<S> {
    /// Wraps a stream of which detection has read `put_back`.
    pub fn new(io: S, put_back: Bytes, arrival: Arc<Arrival>) -> Self {
        Self { io, put_back, is_bounded: false, arrival }
    }

    /// One request at a time: no more of it is read than its upload has room for.
    #[must_use]
    pub fn reading_no_more_than_room(self) -> Self {
        Self { is_bounded: true, ..self }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Conn<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.put_back.is_empty() {
            let count = self.put_back.len().min(buffer.remaining());
            buffer.put_slice(&self.put_back.split_to(count));
            return Poll::Ready(Ok(()));
        }
        if self.is_bounded && self.arrival.line.poll_room(context).is_pending() {
            return Poll::Pending;
        }
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Conn<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[async_trait::async_trait]
impl<S: AsyncWrite + Unpin + Send> Shutdown for Conn<S> {
    async fn shutdown(&mut self) {
        // The peer may be gone already; there is nobody left to tell.
        drop(self.io.shutdown().await);
    }
}

// What pingora asks of a stream. It is told nothing: what is known of a connection is in its arrival.

impl<S> UniqueID for Conn<S> {
    fn id(&self) -> i32 {
        -1
    }
}

impl<S> Ssl for Conn<S> {}

impl<S> GetProxyDigest for Conn<S> {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl<S> GetTimingDigest for Conn<S> {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl<S> GetSocketDigest for Conn<S> {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        None
    }
}

impl<S> Peek for Conn<S> {}

impl<S> fmt::Debug for Conn<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conn").field("arrival", &self.arrival).finish_non_exhaustive()
    }
}
