//! One request's end of its connection, as both halves of the request see it.
//!
//! One task runs both halves, and what it does with a chunk it does without waiting, or two peers that both wait for their window to
//! open would wait for each other through us: the body is read only while the upload has room, and the answer is fetched only while
//! the client has room. Both waits are here. (Over HTTP/1.1 the second is in the write: a client that does not read is not read from.)

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::SendStream;
use http::{HeaderMap, Response};
use parking_lot::Mutex;

use crate::http::headers;
use crate::upstream::upload::Upload;

/// Longest time that one end may leave the other waiting in the middle of a body; nginx's `send_timeout` and `client_body_timeout`.
pub const STALL_MAX: Duration = Duration::from_secs(60);

/// HTTP/2 receive window of one stream, on both sides: 256 MB/s at 1 ms, and no endless buffer for a slow reader.
pub const STREAM_WINDOW_BYTES: u32 = 256 << 10;

/// More interim answers than anybody sends at once; an endpoint that sends only such must not fill the memory.
const INTERIM_MAX: usize = 16;

/// See the module.
#[derive(Debug, Default)]
pub struct Line {
    upload: Mutex<Option<Arc<Upload>>>,
    trailers: Mutex<Option<HeaderMap>>,
    interim: Mutex<VecDeque<Response<()>>>,
    outlet: Mutex<Outlet>,
}

/// Where the answer goes. HTTP/1.1 has none.
#[derive(Debug, Default)]
struct Outlet {
    stream: Option<SendStream<Bytes>>,
    is_full: bool,
}

impl Line {
    /// The body goes into `upload` from now on.
    pub fn open(&self, upload: &Arc<Upload>) {
        *self.upload.lock() = Some(Arc::clone(upload));
    }

    /// The request is over.
    pub fn close(&self) {
        *self.upload.lock() = None;
        *self.trailers.lock() = None;
        self.interim.lock().clear();
        *self.outlet.lock() = Outlet::default();
    }

    /// Ready when more of the body may be read.
    pub fn poll_room(&self, context: &mut Context<'_>) -> Poll<()> {
        let upload = self.upload.lock().clone();
        upload.map_or(Poll::Ready(()), |upload| upload.poll_room(context))
    }

    /// Keeps what came after the body.
    pub fn trailers_came(&self, mut trailers: HeaderMap) {
        headers::clean_trailers(&mut trailers);
        *self.trailers.lock() = Some(trailers);
    }

    /// What came after the body.
    pub fn take_trailers(&self) -> Option<HeaderMap> {
        self.trailers.lock().take()
    }

    /// An interim answer (1xx) has come from the endpoint. It waits until the endpoint's half has been polled.
    pub fn interim_came(&self, answer: Response<()>) {
        let mut interim = self.interim.lock();
        if interim.len() < INTERIM_MAX {
            interim.push_back(answer);
        }
    }

    /// The next interim answer.
    pub fn take_interim(&self) -> Option<Response<()>> {
        self.interim.lock().pop_front()
    }

    /// The answer goes into `stream` from now on.
    pub(super) fn answer_begins(&self, stream: SendStream<Bytes>) {
        *self.outlet.lock() = Outlet { stream: Some(stream), is_full: false };
    }

    /// Writes a part of the answer without waiting; how much that is, is bounded by [`poll_outlet`](Self::poll_outlet).
    pub(super) fn send<T>(&self, write: impl FnOnce(&mut SendStream<Bytes>) -> T) -> Option<T> {
        let mut outlet = self.outlet.lock();
        let is_full = outlet.is_full;
        outlet.stream.as_mut().map(|stream| {
            let written = write(stream);
            if is_full {
                // The library counts what is written against what was reserved: whoever waits would wait for ever.
                stream.reserve_capacity(1);
            }
            written
        })
    }

    /// Ready when the client takes more of the answer, or none ever again: its own half notices that.
    pub fn poll_outlet(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut outlet = self.outlet.lock();
        let Some(stream) = outlet.stream.as_mut() else { return Poll::Ready(()) };
        if stream.capacity() > 0 {
            outlet.is_full = false;
            return Poll::Ready(());
        }
        stream.reserve_capacity(1);
        if stream.poll_capacity(context).is_ready() {
            outlet.is_full = false;
            return Poll::Ready(());
        }
        // The client's half, which is polled after this one, keeps the time of the stall.
        outlet.is_full = true;
        Poll::Pending
    }

    /// The client takes nothing at the moment, and something waits for it.
    pub(super) fn is_full(&self) -> bool {
        self.outlet.lock().is_full
    }

    /// Ready when the client gives the stream up after the answer has begun.
    pub(super) fn poll_reset(&self, context: &mut Context<'_>) -> Poll<Result<h2::Reason, h2::Error>> {
        let mut outlet = self.outlet.lock();
        let Some(stream) = outlet.stream.as_mut() else { return Poll::Pending };
        Poll::Ready(ready!(stream.poll_reset(context)))
    }
}
