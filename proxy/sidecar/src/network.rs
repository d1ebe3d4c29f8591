//! The network as a sidecar sees it: whom it can reach and where it can be reached. Production is TCP; a test gives another.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use futures::future::BoxFuture;
use tokio::net::{TcpListener, TcpStream};

use crate::upstream::dial::{Dial, Tcp, Wire, tune};

/// Both directions.
pub trait Network: Dial {
    /// Connects to `HOST:PORT`, where the host may be a name.
    fn dial_name(&self, name: &str) -> BoxFuture<'static, io::Result<Box<dyn Wire>>>;

    /// Opens a listening socket.
    fn listen(&self, address: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Accept>>>;
}

/// A listening socket. Dropping it closes it.
pub trait Accept: Send + fmt::Debug {
    /// The next connection. May be dropped and asked again.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Accepted>>;

    /// Where it listens.
    ///
    /// # Errors
    /// When the system does not say.
    fn local(&self) -> io::Result<SocketAddr>;
}

/// A connection that came in.
pub struct Accepted {
    /// Its bytes.
    pub wire: Box<dyn Wire>,
    /// Who connected.
    pub source: SocketAddr,
    /// The address that was connected to.
    pub local: SocketAddr,
}

impl Network for Tcp {
    fn dial_name(&self, name: &str) -> BoxFuture<'static, io::Result<Box<dyn Wire>>> {
        let name = name.to_owned();
        Box::pin(async move {
            let stream = TcpStream::connect(name).await?;
            tune(&stream)?;
            Ok(Box::new(stream) as Box<dyn Wire>)
        })
    }

    fn listen(&self, address: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Accept>>> {
        Box::pin(async move { Ok(Box::new(TcpListener::bind(address).await?) as Box<dyn Accept>) })
    }
}

impl Accept for TcpListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Accepted>> {
        Box::pin(async move {
            loop {
                let (stream, source) = Self::accept(self).await?;
                // A peer that has gone already is no fault of the socket.
                if let (Ok(local), Ok(())) = (stream.local_addr(), tune(&stream)) {
                    return Ok(Accepted { wire: Box::new(stream), source, local });
                }
            }
        })
    }

    fn local(&self) -> io::Result<SocketAddr> {
        self.local_addr()
    }
}
