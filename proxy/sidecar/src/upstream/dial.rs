//! The seam between the data path and the network: production dials TCP, tests dial memory.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures::future::BoxFuture;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, BufReader, BufWriter};
use tokio::net::TcpStream;

/// A byte stream to somewhere.
pub trait Wire: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Wire for T {}

/// Opens byte streams.
pub trait Dial: Send + Sync + fmt::Debug {
    /// Connects to `address`. The caller bounds the time.
    fn dial(&self, address: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Wire>>>;
}

/// Dials TCP.
#[derive(Debug)]
pub struct Tcp;

/// Idle time before the kernel probes a peer, as Linkerd and Envoy's guides set it.
pub const KEEPALIVE_TIME: Duration = Duration::from_secs(10);
/// Between probes, and how many go unanswered before the peer counts as gone. The kernel's own values make that eleven minutes, for
/// which a request would be held whose caller's host has vanished.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);
const PROBES_MAX: u32 = 3;
/// The same for bytes that were sent and not acknowledged; as long as a stalled write may take.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(60);

impl Dial for Tcp {
    fn dial(&self, address: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Wire>>> {
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            tune(&stream)?;
            Ok(Box::new(stream) as Box<dyn Wire>)
        })
    }
}

/// A TLS record holds at most so much (RFC 8446, 5.1).
const RECORD_BYTES_MAX: usize = 16 << 10;

/// For HTTP/2 over it: frames of one flush become one record, and one call of the kernel, instead of one each.
pub fn gathered<S: AsyncWrite>(stream: S) -> BufWriter<S> {
    BufWriter::with_capacity(RECORD_BYTES_MAX, stream)
}

/// For TLS over it: rustls asks for 4 KiB at a time, however much has arrived.
pub fn read_ahead<S: AsyncRead>(stream: S) -> BufReader<S> {
    BufReader::with_capacity(RECORD_BYTES_MAX, stream)
}

/// No delay for small writes; probes for peers that have vanished.
///
/// # Errors
/// When the socket is closed already.
pub fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let probes = TcpKeepalive::new().with_time(KEEPALIVE_TIME);
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&probes.with_interval(PROBE_INTERVAL).with_retries(PROBES_MAX))?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))
}
