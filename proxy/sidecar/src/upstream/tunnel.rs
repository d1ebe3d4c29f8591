//! A connection to an application that has switched to WebSocket: bytes both ways, each way with its own end.

use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use super::dial::Wire;
use super::upload::{Next, Turn, Upload};

/// Longest time in which no byte goes either way; HAProxy's guides set `timeout tunnel` so.
pub const IDLE_MAX: Duration = Duration::from_secs(3600);
/// Bytes read at once.
const READ_BYTES: usize = 16 << 10;

/// See the module.
pub struct Tunnel {
    io: Box<dyn Wire>,
    /// Read ahead together with the 101.
    first: Bytes,
    upload: Arc<Upload>,
    turn: Turn,
    sending: Sending,
    idle: Pin<Box<Sleep>>,
}

/// How the caller's way stands.
enum Sending {
    /// This is to be written next; empty when nothing is at hand.
    Chunk(Bytes),
    /// Everything is written; the application is to be told.
    Ending,
    /// It has been told.
    Ended,
}

impl std::fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tunnel")
    }
}

impl Tunnel {
    /// What the caller sends comes from `upload`; `first` is what the application has sent already.
    pub fn new(io: Box<dyn Wire>, first: Bytes, upload: &Arc<Upload>) -> Self {
        Self {
            io,
            first,
            turn: upload.turn(),
            upload: Arc::clone(upload),
            sending: Sending::Chunk(Bytes::new()),
            idle: Box::pin(sleep(IDLE_MAX)),
        }
    }

    /// Writes what can be written.
    ///
    /// # Errors
    /// When the application's connection has broken, or the caller's has.
    pub fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match &mut self.sending {
                Sending::Chunk(chunk) if chunk.is_empty() => {
                    match ready!(self.upload.poll_next(self.turn, context)) {
                        Next::Chunk(bytes) => *chunk = bytes,
                        Next::Trailers(_) | Next::End => self.sending = Sending::Ending,
                        Next::Unwanted | Next::Aborted => {
                            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
                        }
                    }
                }
                Sending::Chunk(chunk) => {
                    let count = ready!(Pin::new(&mut self.io).poll_write(context, chunk))?;
                    if count == 0 {
                        return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                    }
                    drop(chunk.split_to(count));
                    self.moved();
                }
                Sending::Ending => {
                    // An application that has closed already needs not be told.
                    drop(ready!(Pin::new(&mut self.io).poll_shutdown(context)));
                    self.sending = Sending::Ended;
                }
                Sending::Ended => return Poll::Pending,
            }
        }
    }

    /// Reads what the application sends, and writes meanwhile; `None` when it has closed its way.
    ///
    /// # Errors
    /// When a connection has broken, or no byte went either way for too long.
    pub fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        if let Poll::Ready(Err(error)) = self.poll_send(context) {
            return Poll::Ready(Err(error));
        }
        if !self.first.is_empty() {
            return Poll::Ready(Ok(Some(std::mem::take(&mut self.first))));
        }
        let mut space = [const { MaybeUninit::uninit() }; READ_BYTES];
        let mut buffer = ReadBuf::uninit(&mut space);
        if Pin::new(&mut self.io).poll_read(context, &mut buffer)?.is_ready() {
            let bytes = buffer.filled();
            self.moved();
            return Poll::Ready(Ok((!bytes.is_empty()).then(|| Bytes::copy_from_slice(bytes))));
        }
        if self.idle.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "nothing went either way for an hour",
            )));
        }
        Poll::Pending
    }

    fn moved(&mut self) {
        self.idle.as_mut().reset(Instant::now() + IDLE_MAX);
    }
}
