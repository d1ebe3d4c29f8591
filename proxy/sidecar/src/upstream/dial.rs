//! The seam between the data path and the network: production dials TCP, tests dial memory.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, BufReader, BufWriter, ReadBuf};
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

/// For HTTP/2 over it: what a turn has to send becomes one record, and one call of the kernel.
///
/// The library gathers frames by itself, but those of 256 bytes and more, such as an event of a stream, it hands on and flushes one by
/// one where its stream takes several pieces in one call; where it does not, it gathers all below 1 KiB. So this one says that it does
/// not. Larger frames are gathered with their heads here.
#[derive(Debug)]
pub struct Gathered<S>(BufWriter<S>);

/// See [`Gathered`].
pub fn gathered<S: AsyncWrite>(stream: S) -> Gathered<S> {
    Gathered(BufWriter::with_capacity(RECORD_BYTES_MAX, stream))
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use http::{Request, Response};
    use parking_lot::Mutex;
    use tokio::io::duplex;

    use super::*;

    /// Counts what it is asked to write, and passes it on.
    struct Counted<S>(S, Arc<Mutex<usize>>);

    impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(context, buffer)
        }
    }

    impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
        fn poll_write(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            *self.1.lock() += 1;
            Pin::new(&mut self.0).poll_write(context, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(context)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(context)
        }

        fn is_write_vectored(&self) -> bool {
            true
        }
    }

    #[tokio::test]
    async fn events_of_many_streams_that_are_there_at_once_are_one_write() {
        let (near, far) = duplex(1 << 20);
        let writes = Arc::new(Mutex::new(0));
        let counted = Counted(near, Arc::clone(&writes));
        let client = async move {
            let (client, connection) = h2::client::handshake(far).await.expect("a client");
            let mut client = client.ready().await.expect("ready");
            let answers: Vec<_> =
                (0..8).map(|_| client.send_request(Request::new(()), true).expect("a request").0).collect();
            tokio::select! {
                ended = connection => panic!("{ended:?}"),
                () = async {
                    for answer in answers {
                        let mut body = answer.await.expect("an answer").into_body();
                        assert_eq!(body.data().await.expect("an event").expect("whole").len(), 300);
                    }
                } => {}
            }
        };
        let server = async move {
            let mut connection =
                h2::server::Builder::new().handshake::<_, Bytes>(gathered(counted)).await.expect("a server");
            let mut streams = Vec::new();
            for _ in 0..8 {
                let (_, mut answer) = connection.accept().await.expect("a request").expect("whole");
                streams.push(answer.send_response(Response::new(()), false).expect("a head"));
            }
            let before = *writes.lock();
            for stream in &mut streams {
                stream.send_data(vec![b'e'; 300].into(), false).expect("an event");
            }
            // One poll.
            let accepted = std::future::poll_fn(|context| Poll::Ready(connection.poll_accept(context))).await;
            assert!(accepted.is_pending());
            assert_eq!(*writes.lock() - before, 1);
            drop(connection.accept().await);
        };
        tokio::select! {
            () = client => {}
            () = async { server.await; std::future::pending().await } => {}
        }
    }
}
