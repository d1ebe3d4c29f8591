//! One link: two ways of bytes, each with its own troubles.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::Memory;

/// Bytes that one way holds before its writer waits, as a socket's buffers do.
const WINDOW_BYTES: usize = 64 << 10;
/// After so long the kernels' probes tell both ends of a silent link that it is dead; see the sidecar's `dial.rs`.
pub const PROBED: Duration = Duration::from_secs(25);
/// How TLS and HTTP/2 begin.
const TLS_HANDSHAKE: u8 = 0x16;
const HTTP2_PREFACE: &[u8] = b"PRI * HT";

/// A direction of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// From the one who dialled.
    There,
    /// To the one who dialled.
    Back,
}

impl Way {
    /// Both, for tables.
    pub const BOTH: [Self; 2] = [Self::There, Self::Back];
}

/// What happens to a link once a number of bytes has passed in one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Both ends see a reset; what was on its way back is lost.
    Reset,
    /// The reader sees an orderly end; what is still sent there goes nowhere. The other way goes on.
    HalfClose,
    /// Nothing more arrives, and nobody is told until the kernels' probes do.
    Stall,
}

/// What a link is like.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Plan {
    /// From one end to the other.
    pub latency: Duration,
    /// Bytes a second in each way; none for no limit.
    pub bandwidth: Option<u64>,
    /// What goes wrong: which way, after how many bytes, how.
    pub cut: Option<(Way, u64, Cut)>,
}

impl Plan {
    /// A link without troubles that takes this long.
    pub fn slow(latency: Duration) -> Self {
        Self { latency, ..Self::default() }
    }

    /// A link to which `cut` happens after `bytes` in `way`.
    pub fn cut(way: Way, bytes: u64, cut: Cut) -> Self {
        Self { cut: Some((way, bytes, cut)), ..Self::default() }
    }
}

/// A link that is open, to interfere with.
#[derive(Clone, Debug)]
pub struct Link(Arc<Mutex<Ways>>);

#[derive(Debug)]
struct Ways {
    plan: Plan,
    number: u64,
    memory: Memory,
    ways: [Half; 2],
    ends: usize,
    silent_since: Option<Instant>,
    /// The first eight bytes there, to tell the protocol by.
    first: Vec<u8>,
}

/// One way of a link.
#[derive(Debug, Default)]
struct Half {
    segments: VecDeque<(Instant, Bytes)>,
    queued_bytes: usize,
    sent_bytes: u64,
    /// When the last byte has left, where bandwidth is bounded.
    idle_at: Option<Instant>,
    is_stalled: bool,
    /// What is written goes nowhere.
    is_deaf: bool,
    /// What the reader sees after the last byte.
    end: Option<End>,
    /// The reader is gone: there is nobody to write to.
    is_abandoned: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Orderly,
    Reset,
}

/// One end of a link. Dropping it closes it; what was not read makes that a reset, as with TCP.
#[derive(Debug)]
pub struct Pipe {
    link: Link,
    /// The way that this end writes into; it reads from the other.
    writes: usize,
    due: Option<Pin<Box<Sleep>>>,
}

pub(super) fn pair(plan: Plan, number: u64, memory: Memory) -> (Pipe, Pipe, Link) {
    let ways = Ways {
        plan,
        number,
        memory,
        ways: Default::default(),
        ends: 2,
        silent_since: None,
        first: Vec::new(),
    };
    let link = Link(Arc::new(Mutex::new(ways)));
    let end = |writes| Pipe { link: link.clone(), writes, due: None };
    (end(0), end(1), link)
}

impl Link {
    fn lock(&self) -> MutexGuard<'_, Ways> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Both ends see a reset, at once.
    pub fn reset(&self) {
        self.lock().reset();
    }

    /// Nothing arrives any more, in either way.
    pub fn stall(&self) {
        let mut ways = self.lock();
        ways.silent_since.get_or_insert_with(Instant::now);
        for way in &mut ways.ways {
            way.is_stalled = true;
            way.wake();
        }
    }

    /// Ends a stall.
    pub fn flow(&self) {
        let mut ways = self.lock();
        ways.silent_since = None;
        for way in &mut ways.ways {
            way.is_stalled = false;
            way.wake();
        }
    }

    /// Bytes that were sent, there and back.
    pub fn sent_bytes(&self) -> [u64; 2] {
        let ways = self.lock();
        [ways.ways[0].sent_bytes, ways.ways[1].sent_bytes]
    }
}

impl Ways {
    fn reset(&mut self) {
        for way in &mut self.ways {
            way.segments.clear();
            way.queued_bytes = 0;
            way.end = Some(End::Reset);
            way.is_abandoned = true;
            way.is_stalled = false;
            way.wake();
        }
    }

    /// How many of `wanted` bytes may be written before the plan's trouble.
    fn until_cut(&self, way: usize, wanted: usize) -> usize {
        match self.plan.cut {
            Some((cut_way, after, _)) if cut_way as usize == way => {
                let left = after.saturating_sub(self.ways[way].sent_bytes);
                wanted.min(usize::try_from(left).unwrap_or(usize::MAX))
            }
            _ => wanted,
        }
    }

    /// Lets the plan's trouble happen if it is due.
    fn cut_if_due(&mut self, way: usize) {
        let Some((cut_way, after, cut)) = self.plan.cut else { return };
        if cut_way as usize != way || self.ways[way].sent_bytes < after {
            return;
        }
        self.plan.cut = None;
        self.memory.has_cut();
        match cut {
            Cut::Reset => {
                // What has passed the place of the cut still arrives.
                let passed = std::mem::take(&mut self.ways[way].segments);
                self.reset();
                self.ways[way].segments = passed;
            }
            Cut::HalfClose => {
                self.ways[way].end = Some(End::Orderly);
                self.ways[way].is_deaf = true;
                self.ways[way].wake();
            }
            Cut::Stall => {
                self.ways[way].is_deaf = true;
                self.silent_since = Some(Instant::now());
                self.ways.iter_mut().for_each(Half::wake);
            }
        }
    }

    fn push(&mut self, way: usize, bytes: &[u8]) {
        if way == 0 && self.first.len() < HTTP2_PREFACE.len() {
            self.first.extend(bytes.iter().take(HTTP2_PREFACE.len() - self.first.len()));
        }
        let (now, plan) = (Instant::now(), self.plan);
        let half = &mut self.ways[way];
        half.sent_bytes += bytes.len() as u64;
        if half.is_deaf {
            return;
        }
        let begins = half.idle_at.map_or(now, |idle| idle.max(now));
        let takes = plan.bandwidth.map_or(Duration::ZERO, |bytes_a_second| {
            Duration::from_secs_f64(bytes.len() as f64 / bytes_a_second as f64)
        });
        half.idle_at = Some(begins + takes);
        half.segments.push_back((begins + takes + plan.latency, Bytes::copy_from_slice(bytes)));
        half.queued_bytes += bytes.len();
        half.wake();
    }
}

impl Half {
    fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }
}

impl Pipe {
    /// Wakes the reader at that moment, if there is one.
    fn poll_again_at(&mut self, at: Option<Instant>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(at) = at else { return Poll::Pending };
        let timer = self.due.get_or_insert_with(|| Box::pin(sleep_until(at)));
        if timer.deadline() != at {
            timer.as_mut().reset(at);
        }
        if timer.as_mut().poll(context).is_ready() {
            context.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let link = self.link.clone();
        let mut ways = link.lock();
        let dead_at = ways.silent_since.map(|since| since + PROBED);
        if dead_at.is_some_and(|dead_at| dead_at <= Instant::now()) {
            ways.reset();
        }
        let half = &mut ways.ways[1 - self.writes];
        half.reader = Some(context.waker().clone());
        let front = half.segments.front_mut().filter(|_| !half.is_stalled);
        let Some((due, bytes)) = front else {
            return match half.end.filter(|_| !half.is_stalled) {
                Some(End::Orderly) => Poll::Ready(Ok(())),
                Some(End::Reset) => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                None => {
                    drop(ways);
                    self.poll_again_at(dead_at, context)
                }
            };
        };
        if *due > Instant::now() {
            let due = *due;
            drop(ways);
            return self.poll_again_at(Some(due), context);
        }
        let count = bytes.len().min(buffer.remaining());
        buffer.put_slice(&bytes[..count]);
        bytes.advance(count);
        if bytes.is_empty() {
            half.segments.pop_front();
        }
        half.queued_bytes = half.queued_bytes.saturating_sub(count);
        if let Some(writer) = half.writer.take() {
            writer.wake();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut ways = self.link.lock();
        ways.cut_if_due(self.writes);
        let half = &mut ways.ways[self.writes];
        if half.is_abandoned {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let room = if half.is_deaf { bytes.len() } else { WINDOW_BYTES.saturating_sub(half.queued_bytes) };
        if room == 0 && !bytes.is_empty() {
            half.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        let count = ways.until_cut(self.writes, bytes.len().min(room));
        ways.push(self.writes, &bytes[..count]);
        ways.cut_if_due(self.writes);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut ways = self.link.lock();
        let half = &mut ways.ways[self.writes];
        half.end.get_or_insert(End::Orderly);
        half.wake();
        Poll::Ready(Ok(()))
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let mut ways = self.link.lock();
        let unread = !ways.ways[1 - self.writes].segments.is_empty();
        let to_peer = &mut ways.ways[self.writes];
        if !to_peer.is_deaf {
            to_peer.end.get_or_insert(if unread { End::Reset } else { End::Orderly });
        }
        to_peer.wake();
        let from_peer = &mut ways.ways[1 - self.writes];
        from_peer.is_abandoned = true;
        from_peer.wake();
        ways.ends -= 1;
        if ways.ends == 0 {
            let bytes = [ways.ways[0].sent_bytes, ways.ways[1].sent_bytes];
            // Signatures vary in length, and so do dates of this day when HTTP/2 has compressed them.
            let is_exact = !matches!(ways.first[..], [TLS_HANDSHAKE, ..]) && ways.first != HTTP2_PREFACE;
            let (number, memory) = (ways.number, ways.memory.clone());
            drop(ways);
            memory.ended(number, is_exact.then_some(bytes));
        }
    }
}
