//! Real sockets with one trouble of the network in memory: a connection that is cut after a number of bytes.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use futures::future::BoxFuture;
use penstock_proxy::network::{Accept, Network};
use penstock_proxy::upstream::dial::{Dial, Tcp, Wire};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::memory::Way;

/// A network of sockets. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Sockets {
    plans: Arc<Mutex<Vec<Planned>>>,
}

#[derive(Debug)]
struct Planned {
    addresses: Vec<SocketAddr>,
    way: Way,
    bytes: u64,
}

impl Sockets {
    /// The next connection to any of `addresses` ends after so many bytes in that way.
    pub fn cut(&self, addresses: &[SocketAddr], way: Way, bytes: u64) {
        let planned = Planned { addresses: addresses.to_vec(), way, bytes };
        self.plans.lock().unwrap_or_else(PoisonError::into_inner).push(planned);
    }

    fn planned(&self, address: SocketAddr) -> Option<(Way, u64)> {
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let at = plans.iter().position(|planned| planned.addresses.contains(&address))?;
        let planned = plans.remove(at);
        Some((planned.way, planned.bytes))
    }
}

impl Dial for Sockets {
    fn dial(&self, address: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Wire>>> {
        let planned = self.planned(address);
        Box::pin(async move {
            let wire = Tcp.dial(address).await?;
            Ok(match planned {
                None => wire,
                Some((way, left)) => Box::new(Severed { wire: Some(wire), way, left }),
            })
        })
    }
}

impl Network for Sockets {
    fn dial_name(&self, name: &str) -> BoxFuture<'static, io::Result<Box<dyn Wire>>> {
        Tcp.dial_name(name)
    }

    fn listen(&self, address: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Accept>>> {
        Tcp.listen(address)
    }
}

/// A connection that will be cut; closed once it has been.
struct Severed {
    wire: Option<Box<dyn Wire>>,
    way: Way,
    left: u64,
}

impl Severed {
    /// How many of `wanted` bytes may still pass in `way`.
    fn room(&self, way: Way, wanted: usize) -> usize {
        if way == self.way { wanted.min(usize::try_from(self.left).unwrap_or(usize::MAX)) } else { wanted }
    }

    fn passed(&mut self, way: Way, count: usize) {
        if way == self.way {
            self.left -= count as u64;
            if self.left == 0 {
                self.wire = None;
            }
        }
    }

    /// The connection, if bytes may still pass in `way`.
    fn open(&mut self, way: Way) -> io::Result<Pin<&mut Box<dyn Wire>>> {
        if way == self.way && self.left == 0 {
            self.wire = None;
        }
        let wire = self.wire.as_mut().ok_or(io::ErrorKind::ConnectionReset)?;
        Ok(Pin::new(wire))
    }
}

impl AsyncRead for Severed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut part = vec![0; self.room(Way::Back, buffer.remaining())];
        let mut part = ReadBuf::new(&mut part);
        ready!(self.open(Way::Back)?.poll_read(context, &mut part))?;
        buffer.put_slice(part.filled());
        if !part.filled().is_empty() {
            self.passed(Way::Back, part.filled().len());
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Severed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let room = self.room(Way::There, bytes.len());
        let count = ready!(self.open(Way::There)?.poll_write(cx, &bytes[..room]))?;
        self.passed(Way::There, count);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.wire.as_mut().map_or(Poll::Ready(Ok(())), |wire| Pin::new(wire).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.wire.as_mut().map_or(Poll::Ready(Ok(())), |wire| Pin::new(wire).poll_shutdown(cx))
    }
}
