//! The request body between the client's half of a request and the half that talks to an endpoint.
//!
//! The client's half pushes what it reads, and reads no more than there is room for; the endpoint's half takes, at its own pace.
//! What was sent is kept for a second attempt while it is small enough and memory is granted. Once an endpoint has refused, the body
//! becomes a sink: what the client still sends is thrown away.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use h2::SendStream;
use http::HeaderMap;
use parking_lot::Mutex;
use tokio::time::{Sleep, sleep};

use crate::listen::line::STALL_MAX;

/// Bytes that may wait unsent before nothing more is read.
const WINDOW_BYTES: usize = 256 << 10;
/// Most bytes kept for a second attempt. Peers keep 64 KiB, which long prompts exceed.
const REPLAY_BYTES_MAX: usize = 4 << 20;

/// Memory that all request bodies together may hold.
#[derive(Debug)]
pub struct BodyBudget {
    held_bytes: AtomicU64,
    bytes_max: AtomicU64,
}

impl BodyBudget {
    /// A budget of `bytes_max`.
    pub fn new(bytes_max: u64) -> Arc<Self> {
        Arc::new(Self { held_bytes: AtomicU64::new(0), bytes_max: AtomicU64::new(bytes_max) })
    }

    /// Bytes held now.
    pub fn held_bytes(&self) -> u64 {
        self.held_bytes.load(Ordering::Relaxed)
    }

    /// Another budget from now on. What is held above it stays; nothing more is taken until it has been given back.
    pub fn resize(&self, bytes_max: u64) {
        self.bytes_max.store(bytes_max, Ordering::Relaxed);
    }

    fn take(&self, bytes: u64) -> bool {
        let bytes_max = self.bytes_max.load(Ordering::Relaxed);
        let fits = |held: u64| held.checked_add(bytes).filter(|sum| *sum <= bytes_max);
        self.held_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok()
    }
}

/// A part of the budget; given back on drop.
#[derive(Debug)]
pub struct Held {
    budget: Arc<BodyBudget>,
    bytes: u64,
}

impl Held {
    /// Nothing yet.
    pub fn none(budget: &Arc<BodyBudget>) -> Self {
        Self { budget: Arc::clone(budget), bytes: 0 }
    }

    /// Takes `bytes` more; false, and nothing taken, when the budget is used up.
    pub fn grow(&mut self, bytes: usize) -> bool {
        let granted = self.budget.take(bytes as u64);
        if granted {
            self.bytes += bytes as u64;
        }
        granted
    }

    /// Gives back all but `bytes`.
    fn shrink_to(&mut self, bytes: usize) {
        let kept = self.bytes.min(bytes as u64);
        self.budget.held_bytes.fetch_sub(self.bytes - kept, Ordering::Relaxed);
        self.bytes = kept;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

/// One request body.
#[derive(Debug)]
pub struct Upload {
    state: Mutex<State>,
    /// The HTTP/2 stream that it goes into; for HTTP/1.1 the connection takes it by itself.
    http2: Mutex<Option<Http2>>,
}

#[derive(Debug)]
struct Http2 {
    stream: SendStream<Bytes>,
    turn: Turn,
    chunk: Bytes,
}

#[derive(Debug)]
struct State {
    chunks: VecDeque<Bytes>,
    /// Chunks before this one were sent by the current attempt.
    next: usize,
    unsent_bytes: usize,
    /// Sum of `chunks`, of which `held` is accounted.
    memory_bytes: usize,
    held: Held,
    /// Runs while there is no room; starts anew with every chunk that the endpoint takes.
    stall: Option<Pin<Box<Sleep>>>,
    stalled: bool,
    /// What follows the body, and whether the current attempt has sent it.
    trailers: Option<HeaderMap>,
    trailers_are_sent: bool,
    replay: Replay,
    turn: u32,
    ended: bool,
    fate: Fate,
    wants_room: Option<Waker>,
    wants_chunk: Option<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Replay {
    /// Everything sent so far is still there.
    Whole,
    /// It was too long, or the answer has begun.
    Gone,
}

/// What becomes of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It is sent.
    Wanted,
    /// It is thrown away: the answer is there.
    Sink,
    /// It breaks off.
    Aborted,
}

/// An attempt's right to take the body.
#[derive(Clone, Copy, Debug)]
pub struct Turn(u32);

impl Turn {
    /// Takes nothing any more.
    const OVER: Self = Self(u32::MAX);
}

/// Lets go of the HTTP/2 stream with the attempt that it belongs to.
#[derive(Debug)]
pub struct Feeding(Arc<Upload>);

impl Feeding {
    /// Sends what can be sent.
    pub fn poll(&self, context: &mut Context<'_>) {
        self.0.poll_http2(context);
    }
}

impl Drop for Feeding {
    fn drop(&mut self) {
        *self.0.http2.lock() = None;
    }
}

impl Http2 {
    /// Ready when there is nothing more to send, or nobody to send it to: the answer will tell why.
    fn poll(&mut self, upload: &Upload, context: &mut Context<'_>) -> Poll<()> {
        if self.turn.0 == Turn::OVER.0 {
            return Poll::Pending;
        }
        loop {
            if self.chunk.is_empty() {
                match ready!(upload.poll_next(self.turn, context)) {
                    Next::Chunk(chunk) => self.chunk = chunk,
                    Next::Trailers(trailers) => {
                        drop(self.stream.send_trailers(trailers));
                        return Poll::Ready(());
                    }
                    Next::End => {
                        // Fails when the peer has reset the stream, which the answer tells too.
                        drop(self.stream.send_data(Bytes::new(), true));
                        return Poll::Ready(());
                    }
                    // Left open: the peer has ended the stream, or resets it.
                    Next::Unwanted => return Poll::Ready(()),
                    Next::Aborted => {
                        self.stream.send_reset(h2::Reason::CANCEL);
                        return Poll::Ready(());
                    }
                }
            }
            if upload.is_aborted() {
                self.stream.send_reset(h2::Reason::CANCEL);
                return Poll::Ready(());
            }
            self.stream.reserve_capacity(self.chunk.len());
            let room = match ready!(self.stream.poll_capacity(context)) {
                Some(Ok(room)) => room.min(self.chunk.len()),
                Some(Err(_)) | None => return Poll::Ready(()),
            };
            let part = self.chunk.split_to(room);
            let ends = self.chunk.is_empty() && upload.is_whole();
            if self.stream.send_data(part, ends).is_err() || ends {
                return Poll::Ready(());
            }
        }
    }
}

/// What an attempt gets of the body.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Bytes to send.
    Chunk(Bytes),
    /// Fields after the last byte; nothing follows.
    Trailers(HeaderMap),
    /// That was all.
    End,
    /// The endpoint has answered and wants no more; send nothing.
    Unwanted,
    /// Break off.
    Aborted,
}

impl Upload {
    /// A body of which `chunks` are there already, accounted in `held`.
    pub fn new(chunks: VecDeque<Bytes>, held: Held) -> Arc<Self> {
        Self::with_end(chunks, held, false, None)
    }

    /// A body that is there already, with what follows it.
    pub fn whole(chunks: VecDeque<Bytes>, held: Held, trailers: Option<HeaderMap>) -> Arc<Self> {
        Self::with_end(chunks, held, true, trailers)
    }

    fn with_end(chunks: VecDeque<Bytes>, held: Held, ended: bool, trailers: Option<HeaderMap>) -> Arc<Self> {
        let unsent_bytes = chunks.iter().map(Bytes::len).sum();
        Arc::new(Self {
            state: Mutex::new(State {
                memory_bytes: unsent_bytes,
                chunks,
                next: 0,
                unsent_bytes,
                held,
                stall: None,
                stalled: false,
                trailers,
                trailers_are_sent: false,
                replay: Replay::Whole,
                turn: 0,
                ended,
                fate: Fate::Wanted,
                wants_room: None,
                wants_chunk: None,
            }),
            http2: Mutex::new(None),
        })
    }

    /// Sends it into an HTTP/2 stream from now on, as far as it is polled, until the answer is dropped.
    pub fn feed(self: &Arc<Self>, stream: SendStream<Bytes>) -> Feeding {
        *self.http2.lock() = Some(Http2 { stream, turn: self.turn(), chunk: Bytes::new() });
        Feeding(Arc::clone(self))
    }

    /// Sends what can be sent into the HTTP/2 stream, if there is one.
    pub fn poll_http2(&self, context: &mut Context<'_>) {
        let mut http2 = self.http2.lock();
        let Some(sending) = http2.as_mut() else { return };
        if sending.poll(self, context).is_ready() {
            // Nothing more to send. The handle is kept: dropping it early would count as giving the stream up.
            sending.turn = Turn::OVER;
        }
    }

    /// Adds a chunk from the client.
    pub fn push(&self, chunk: Bytes) {
        let mut state = self.state.lock();
        if state.fate != Fate::Wanted || chunk.is_empty() {
            return;
        }
        state.unsent_bytes += chunk.len();
        state.memory_bytes += chunk.len();
        let granted = state.held.grow(chunk.len());
        state.chunks.push_back(chunk);
        if !granted || state.memory_bytes > REPLAY_BYTES_MAX {
            state.forget_sent();
        }
        state.wake_taker();
    }

    /// The client has sent everything.
    pub fn finish(&self, trailers: Option<HeaderMap>) {
        let mut state = self.state.lock();
        if state.fate == Fate::Wanted {
            state.ended = true;
            state.trailers = trailers;
        }
        state.wake_taker();
    }

    /// Ready when more may be read from the client. Sends meanwhile: the other half may be waiting for this one. An endpoint that takes
    /// nothing for too long is given up.
    pub fn poll_room(&self, context: &mut Context<'_>) -> Poll<()> {
        self.poll_http2(context);
        let mut state = self.state.lock();
        if state.ended || state.fate != Fate::Wanted || state.has_room() {
            return Poll::Ready(());
        }
        let stall = state.stall.get_or_insert_with(|| Box::pin(sleep(STALL_MAX)));
        if stall.as_mut().poll(context).is_ready() {
            state.end(Fate::Aborted);
            state.stalled = true;
            // The endpoint's half may have been polled before this one, and must see it.
            context.waker().wake_by_ref();
            return Poll::Ready(());
        }
        state.wants_room = Some(context.waker().clone());
        Poll::Pending
    }

    /// The endpoint took nothing for too long.
    pub fn has_stalled(&self) -> bool {
        self.state.lock().stalled
    }

    /// The right to take the body, for the attempt that begins now; an earlier attempt's is void after [`rewind`](Self::rewind).
    pub fn turn(&self) -> Turn {
        Turn(self.state.lock().turn)
    }

    /// What comes next for an attempt.
    pub fn poll_next(&self, turn: Turn, context: &Context<'_>) -> Poll<Next> {
        let mut state = self.state.lock();
        match state.fate {
            Fate::Wanted if state.turn == turn.0 => {}
            Fate::Wanted | Fate::Aborted => return Poll::Ready(Next::Aborted),
            Fate::Sink => {
                // It may still be aborted.
                state.wants_chunk = Some(context.waker().clone());
                return Poll::Ready(Next::Unwanted);
            }
        }
        let Some(chunk) = state.chunks.get(state.next).cloned() else {
            if let Some(trailers) = state.unsent_trailers().cloned() {
                state.trailers_are_sent = true;
                return Poll::Ready(Next::Trailers(trailers));
            }
            if state.ended {
                return Poll::Ready(Next::End);
            }
            state.wants_chunk = Some(context.waker().clone());
            return Poll::Pending;
        };
        state.unsent_bytes -= chunk.len();
        state.stall = None;
        if state.replay == Replay::Whole {
            state.next += 1;
        } else {
            state.chunks.pop_front();
            state.memory_bytes -= chunk.len();
            let memory_bytes = state.memory_bytes;
            state.held.shrink_to(memory_bytes);
        }
        if state.has_room() {
            state.wake_pusher();
        }
        Poll::Ready(Next::Chunk(chunk))
    }

    /// The client has sent everything.
    pub fn is_ended(&self) -> bool {
        self.state.lock().ended
    }

    /// The client has sent everything and the endpoint was handed all of it.
    pub fn is_whole(&self) -> bool {
        let state = self.state.lock();
        state.fate == Fate::Wanted && state.is_handed_over()
    }

    /// How long it is, once all of it is there and nothing follows it.
    pub fn whole_bytes(&self) -> Option<u64> {
        let state = self.state.lock();
        (state.ended && state.trailers.is_none()).then_some(state.unsent_bytes as u64)
    }

    /// Ready when the request was broken off: for an attempt that waits to send what it has taken already.
    pub fn poll_aborted(&self, context: &Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        if state.fate == Fate::Aborted {
            return Poll::Ready(());
        }
        state.wants_chunk = Some(context.waker().clone());
        Poll::Pending
    }

    fn is_aborted(&self) -> bool {
        self.state.lock().fate == Fate::Aborted
    }

    /// Starts over for another attempt; false when what was sent is no longer there.
    pub fn rewind(&self) -> bool {
        let mut state = self.state.lock();
        if state.replay == Replay::Gone || state.fate != Fate::Wanted {
            return false;
        }
        state.next = 0;
        state.trailers_are_sent = false;
        state.turn += 1;
        state.unsent_bytes = state.chunks.iter().map(Bytes::len).sum();
        state.wake_taker();
        true
    }

    /// An answer was accepted: there will be no other attempt.
    pub fn settle(&self) {
        self.state.lock().forget_sent();
    }

    /// The endpoint has answered and wants no more of it. A body that was sent whole stays as it is.
    pub fn sink_unless_whole(&self) {
        let mut state = self.state.lock();
        if state.is_handed_over() {
            return state.forget_sent();
        }
        state.end(Fate::Sink);
    }

    /// The client must not get through with it: the attempt is torn down, and the endpoint never sees an orderly end.
    pub fn abort(&self) {
        self.state.lock().end(Fate::Aborted);
    }
}

impl State {
    fn is_handed_over(&self) -> bool {
        self.ended && self.next >= self.chunks.len() && self.unsent_trailers().is_none()
    }

    fn unsent_trailers(&self) -> Option<&HeaderMap> {
        self.trailers.as_ref().filter(|_| !self.trailers_are_sent)
    }

    fn end(&mut self, fate: Fate) {
        self.fate = fate;
        self.stall = None;
        self.replay = Replay::Gone;
        self.chunks.clear();
        self.next = 0;
        self.unsent_bytes = 0;
        self.memory_bytes = 0;
        self.held.shrink_to(0);
        self.wake_pusher();
        self.wake_taker();
    }

    fn forget_sent(&mut self) {
        self.replay = Replay::Gone;
        self.chunks.drain(..self.next);
        self.next = 0;
        self.memory_bytes = self.unsent_bytes;
        self.held.shrink_to(self.memory_bytes);
    }

    fn has_room(&self) -> bool {
        self.unsent_bytes <= WINDOW_BYTES
    }

    fn wake_taker(&mut self) {
        if let Some(waker) = self.wants_chunk.take() {
            waker.wake();
        }
    }

    fn wake_pusher(&mut self) {
        if let Some(waker) = self.wants_room.take() {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use tokio::time::{Instant, timeout};

    use super::*;

    fn upload(budget_bytes: u64, chunks: &[&'static str]) -> (Arc<BodyBudget>, Arc<Upload>) {
        let budget = BodyBudget::new(budget_bytes);
        let mut held = Held::none(&budget);
        let chunks: VecDeque<_> = chunks.iter().map(|chunk| Bytes::from_static(chunk.as_bytes())).collect();
        assert!(held.grow(chunks.iter().map(Bytes::len).sum()));
        (budget, Upload::new(chunks, held))
    }

    async fn take(upload: &Upload) -> Next {
        let turn = upload.turn();
        poll_fn(|cx| upload.poll_next(turn, cx)).await
    }

    fn chunk(text: &'static str) -> Next {
        Next::Chunk(Bytes::from_static(text.as_bytes()))
    }

    #[tokio::test]
    async fn a_second_attempt_gets_the_same_bytes() {
        let (budget, upload) = upload(100, &["held"]);
        upload.push(Bytes::from_static(b"more"));
        assert_eq!(take(&upload).await, chunk("held"));
        assert!(upload.rewind());
        assert_eq!(take(&upload).await, chunk("held"));
        assert_eq!(take(&upload).await, chunk("more"));
        assert_eq!(budget.held_bytes(), 8);
        upload.finish(None);
        assert_eq!(take(&upload).await, Next::End);
        assert!(upload.is_whole());
        drop(upload);
        assert_eq!(budget.held_bytes(), 0);
    }

    #[tokio::test]
    async fn an_attempt_that_was_given_up_takes_nothing_more() {
        let (_, upload) = upload(100, &["held"]);
        let old = upload.turn();
        assert!(upload.rewind());
        assert_eq!(poll_fn(|cx| upload.poll_next(old, cx)).await, Next::Aborted);
        assert_eq!(take(&upload).await, chunk("held"));
    }

    #[tokio::test]
    async fn without_budget_the_body_flows_but_is_not_kept() {
        let (budget, upload) = upload(4, &["held"]);
        upload.push(Bytes::from_static(b"more"));
        assert_eq!(budget.held_bytes(), 4, "no more than the budget");
        assert_eq!(take(&upload).await, chunk("held"));
        assert!(!upload.rewind());
        assert_eq!(take(&upload).await, chunk("more"));
    }

    #[tokio::test]
    async fn no_more_is_read_than_the_window_and_a_sink_takes_anything() {
        let (_, upload) = upload(1 << 30, &[]);
        upload.push(Bytes::from(vec![0; WINDOW_BYTES]));
        poll_fn(|cx| upload.poll_room(cx)).await;
        upload.push(Bytes::from_static(b"x"));
        let waits = poll_fn(|cx| Poll::Ready(upload.poll_room(cx).is_pending())).await;
        assert!(waits);
        upload.sink_unless_whole();
        poll_fn(|cx| upload.poll_room(cx)).await;
        upload.push(Bytes::from_static(b"ignored"));
        assert_eq!(take(&upload).await, Next::Unwanted);
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_that_takes_nothing_is_given_up_and_a_slow_one_is_not() {
        let (_, upload) = upload(0, &[]);
        let began = Instant::now();
        for _ in 0..4 {
            upload.push(Bytes::from(vec![0; WINDOW_BYTES]));
        }
        for _ in 0..2 {
            let waited =
                timeout(STALL_MAX - Duration::from_secs(1), poll_fn(|cx| upload.poll_room(cx))).await;
            assert!(waited.is_err() && !upload.has_stalled());
            assert!(matches!(take(&upload).await, Next::Chunk(_)));
        }
        poll_fn(|cx| upload.poll_room(cx)).await;
        assert!(upload.has_stalled());
        assert_eq!(began.elapsed(), STALL_MAX * 3 - Duration::from_secs(2));
        assert_eq!(take(&upload).await, Next::Aborted);
    }

    #[tokio::test]
    async fn trailers_follow_the_last_byte_in_every_attempt() {
        let (_, upload) = upload(100, &["held"]);
        let trailers = HeaderMap::from_iter([(http::header::ETAG, http::HeaderValue::from_static("1"))]);
        upload.finish(Some(trailers.clone()));
        for _ in 0..2 {
            assert_eq!(take(&upload).await, chunk("held"));
            assert!(!upload.is_whole(), "the end of the stream must wait for them");
            assert_eq!(take(&upload).await, Next::Trailers(trailers.clone()));
            assert!(upload.is_whole());
            assert!(upload.rewind());
        }
    }

    #[tokio::test]
    async fn what_is_in_memory_is_accounted_until_it_is_sent() {
        let (budget, upload) = upload(100 << 20, &[]);
        let megabyte = || Bytes::from(vec![0; 1 << 20]);
        for _ in 0..6 {
            upload.push(megabyte());
        }
        assert_eq!(budget.held_bytes(), 6 << 20);
        assert!(matches!(take(&upload).await, Next::Chunk(_)));
        assert_eq!(budget.held_bytes(), 5 << 20, "too long to be kept for another attempt");
        assert!(!upload.rewind());
        drop(upload);
        assert_eq!(budget.held_bytes(), 0);
    }
}
