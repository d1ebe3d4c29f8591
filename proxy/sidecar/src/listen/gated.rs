//! The HTTP/1.1 side of a connection: bytes pass the gate before pingora sees them, and each head has a deadline.
//!
//! What does not pass is answered here, in our form, when the request before it has ended; then the connection is closed. A body
//! that goes wrong on its way breaks its request off instead, and that is answered as any failure.
//!
//! pingora writes the head of an answer, each chunk and the end one by one. What is there at the same time is held back here and
//! goes out in one call of the kernel.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use penstock_model::settings::Limits;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::conn::Arrival;
use crate::http::hygiene::Ambiguity;
use crate::http::hygiene::gate::{self, Gate, Judged, Rest};

/// How long a client that was refused may go on sending before the connection is cut: a reset would overtake the answer.
const LINGER_MAX: Duration = Duration::from_millis(200);
/// Most that is held back of an answer.
const HELD_BACK_BYTES_MAX: usize = 16 << 10;
/// Pieces that are written in one call: what was held back, and what a chunk is made of.
const SLICES_MAX: usize = 8;
/// Taken off the stream and thrown away at once.
const DISCARD_BYTES: usize = 4 << 10;

/// A stream whose HTTP/1.1 requests are judged.
pub(super) struct Gated<S> {
    io: S,
    gate: Gate,
    /// Read and not judged to be whole.
    held: Vec<u8>,
    /// Judged, and not taken yet.
    ready: Bytes,
    /// What detection has read.
    put_back: Bytes,
    arrival: Arc<Arrival>,
    head_read_timeout: Duration,
    head_deadline: Option<Pin<Box<Sleep>>>,
    refusing: Option<Refusing>,
    /// Of an answer: written to us, and not written on yet.
    held_back: Vec<u8>,
}

/// The end of a connection that is refused.
struct Refusing {
    answer: Bytes,
    is_shut: bool,
    linger: Option<Pin<Box<Sleep>>>,
}

impl<S> Gated<S> {
    /// A connection of which `put_back` was read.
    pub(super) fn new(io: S, put_back: Bytes, arrival: Arc<Arrival>, limits: &Limits) -> Self {
        Self {
            io,
            gate: Gate::new(limits.header_bytes_max),
            held: Vec::new(),
            ready: Bytes::new(),
            put_back,
            arrival,
            head_read_timeout: limits.header_read_timeout,
            head_deadline: None,
            refusing: None,
            held_back: Vec::new(),
        }
    }

    /// Judges what is held, the first `seen` bytes of which were not whole.
    fn judge_held(&mut self, seen: usize) {
        let Judged { pass, rest } = self.gate.judge(&self.held, seen);
        let left = self.held.split_off(pass);
        self.ready = std::mem::replace(&mut self.held, left).into();
        if let Rest::Refuse(why) = rest {
            let head = std::mem::take(&mut self.held);
            self.refuse(why, &head);
        }
    }

    fn refuse(&mut self, why: Ambiguity, head: &[u8]) {
        self.arrival.head.refuse(why);
        self.refusing =
            Some(Refusing { answer: gate::answer(head, why).into(), is_shut: false, linger: None });
    }

    /// Tells the gate of an answer; those to requests before the last one that it has let in do not concern it.
    fn answered(&mut self, bytes: &[u8]) {
        if self.gate.heads() == self.arrival.head.heads() {
            self.gate.answered(bytes);
        }
    }

    /// Arms the deadline with the first byte of a head, disarms it when the head has been taken.
    fn head_is_late(&mut self, context: &mut Context<'_>) -> bool {
        if !self.arrival.head.is_in_head() {
            self.head_deadline = None;
            return false;
        }
        let late = Instant::now() + self.head_read_timeout;
        let deadline = self.head_deadline.get_or_insert_with(|| Box::pin(sleep_until(late)));
        deadline.as_mut().poll(context).is_ready()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Gated<S> {
    fn poll_refused(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let refused = || io::Error::new(io::ErrorKind::InvalidData, "the request can be read in two ways");
        let head = &self.arrival.head;
        if head.is_in_request() {
            let discarded = self.poll_discard(context);
            let head = &self.arrival.head;
            return match discarded {
                // The request under way is a good one: the answer to the next waits for its end.
                Poll::Pending if !self.gate.is_in_body() || self.gate.heads() > head.heads() => Poll::Pending,
                Poll::Pending => {
                    head.breaks_request();
                    Poll::Ready(Err(refused()))
                }
                ended => ended,
            };
        }
        let Some(refusing) = &mut self.refusing else { return Poll::Ready(Ok(())) };
        while refusing.answer.has_remaining() {
            let written = ready!(Pin::new(&mut self.io).poll_write(context, &refusing.answer))?;
            refusing.answer.advance(written);
        }
        if !refusing.is_shut {
            ready!(Pin::new(&mut self.io).poll_shutdown(context))?;
            refusing.is_shut = true;
        }
        let linger = refusing.linger.get_or_insert_with(|| Box::pin(sleep(LINGER_MAX)));
        let is_over = linger.as_mut().poll(context).is_ready();
        match self.poll_discard(context) {
            Poll::Pending if !is_over => Poll::Pending,
            _ => Poll::Ready(Err(refused())),
        }
    }

    /// Throws away what is there; ready at the end of the stream.
    fn poll_discard(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut bytes = [0; DISCARD_BYTES];
        loop {
            let mut buffer = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut self.io).poll_read(context, &mut buffer))?;
            if buffer.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Reads once; true when something may be there to be taken, false at the end of the stream.
    fn poll_more(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<bool>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(context, buffer))?;
        let bytes = &buffer.filled()[before..];
        if bytes.is_empty() {
            return Poll::Ready(Ok(false));
        }
        self.arrival.head.bytes_arrived();
        if !self.held.is_empty() {
            let seen = self.held.len();
            self.held.extend_from_slice(bytes);
            buffer.set_filled(before);
            self.judge_held(seen);
            return Poll::Ready(Ok(true));
        }
        let Judged { pass, rest } = self.gate.judge(bytes, 0);
        match rest {
            Rest::Hold => self.held.extend_from_slice(&bytes[pass..]),
            Rest::Refuse(why) => self.refuse(why, &bytes[pass..]),
        }
        buffer.set_filled(before + pass);
        Poll::Ready(Ok(true))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gated<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        loop {
            if !self.ready.is_empty() {
                let count = self.ready.len().min(buffer.remaining());
                buffer.put_slice(&self.ready.split_to(count));
                return Poll::Ready(Ok(()));
            }
            if self.refusing.is_some() {
                return self.poll_refused(context);
            }
            if !self.put_back.is_empty() {
                self.held = std::mem::take(&mut self.put_back).into();
                self.arrival.head.bytes_arrived();
                self.judge_held(0);
                continue;
            }
            match self.poll_more(context, buffer) {
                Poll::Ready(Ok(true)) if buffer.filled().len() > before => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(true)) => {}
                Poll::Ready(ended) => return Poll::Ready(ended.map(drop)),
                Poll::Pending => {
                    if !self.held.is_empty() {
                        self.arrival.head.bytes_arrived();
                    }
                    if self.head_is_late(context) {
                        let late = io::Error::new(io::ErrorKind::TimedOut, "request head took too long");
                        return Poll::Ready(Err(late));
                    }
                    return Poll::Pending;
                }
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> Gated<S> {
    /// Writes what was held back, and `slices` behind it; ready with how much of `slices` was taken.
    fn poll_write_on(
        &mut self,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        while !self.held_back.is_empty() {
            let mut all = [io::IoSlice::new(&[]); SLICES_MAX];
            all[0] = io::IoSlice::new(&self.held_back);
            let more = slices.len().min(SLICES_MAX - 1);
            all[1..=more].copy_from_slice(&slices[..more]);
            let written = ready!(Pin::new(&mut self.io).poll_write_vectored(context, &all[..=more]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let old = written.min(self.held_back.len());
            if old == self.held_back.len() {
                self.held_back = Vec::new();
            } else {
                self.held_back.drain(..old);
            }
            if written > old {
                return Poll::Ready(Ok(written - old));
            }
        }
        if slices.iter().all(|slice| slice.is_empty()) {
            return Poll::Ready(Ok(0));
        }
        Pin::new(&mut self.io).poll_write_vectored(context, slices)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gated<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.arrival.head.is_held_back() {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_write_on(cx, &[]))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_on(cx, &[]))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Some(first) = slices.first() {
            self.answered(first);
        }
        let count: usize = slices.iter().map(|slice| slice.len()).sum();
        if !self.arrival.head.is_held_back() || self.held_back.len() + count > HELD_BACK_BYTES_MAX {
            return self.poll_write_on(cx, slices);
        }
        for slice in slices {
            self.held_back.extend_from_slice(slice);
        }
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::AsyncWriteExt;

    use super::super::conn::{Direction, HeadWatch};
    use super::*;

    /// Notes each call, of which it takes so many bytes.
    struct Calls(Vec<Vec<u8>>, usize);

    impl AsyncWrite for Calls {
        fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.poll_write_vectored(cx, &[io::IoSlice::new(bytes)])
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
            slices: &[io::IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let all: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
            let taken = all.len().min(self.1);
            self.0.push(all[..taken].to_vec());
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn gated(taken_at_once: usize) -> (Arc<Arrival>, Gated<Calls>) {
        let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
        let arrival = Arc::new(Arrival {
            direction: Direction::Outbound,
            source: nobody,
            local: nobody,
            peer: None,
            head: HeadWatch::default(),
            line: Arc::default(),
        });
        let calls = Calls(Vec::new(), taken_at_once);
        let gated = Gated::new(calls, Bytes::new(), Arc::clone(&arrival), &Limits::default());
        (arrival, gated)
    }

    /// Calls that are made for a head and two parts of a body, the first of which is there with the head.
    async fn calls(taken_at_once: usize) -> Vec<Vec<u8>> {
        let (arrival, mut gated) = gated(taken_at_once);
        arrival.head.hold_back();
        gated.write_all(b"head ").await.expect("held back");
        gated.flush().await.expect("held back");
        arrival.head.let_go();
        gated.write_all(b"and body").await.expect("written");
        gated.flush().await.expect("flushed");
        gated.write_all(b", more").await.expect("written");
        gated.io.0
    }

    #[tokio::test]
    async fn what_is_there_at_the_same_time_is_one_call() {
        assert_eq!(calls(100).await, [&b"head and body"[..], b", more"]);
        assert_eq!(calls(3).await.concat(), b"head and body, more");
    }

    #[tokio::test]
    async fn no_more_is_held_back_than_the_bound() {
        let (arrival, mut gated) = gated(usize::MAX);
        arrival.head.hold_back();
        let chunk = vec![b'x'; HELD_BACK_BYTES_MAX / 2];
        for _ in 0..5 {
            gated.write_all(&chunk).await.expect("taken");
            assert!(gated.held_back.len() <= HELD_BACK_BYTES_MAX);
        }
        assert_eq!(gated.io.0.concat().len() + gated.held_back.len(), 5 * chunk.len());
    }
}
