//! HTTP clients that can leave at any moment: one value is one connection, and dropping it closes it.

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream;
use http::{HeaderMap, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::wait::within;

/// A request's body.
pub type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Which HTTP a caller speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, without TLS unless said otherwise.
    Http2,
}

impl Version {
    /// Both, for tables.
    pub const BOTH: [Self; 2] = [Self::Http1, Self::Http2];
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http1 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        })
    }
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    sender: Sender,
    authority: String,
    _driver: JoinSet<()>,
}

#[derive(Debug)]
enum Sender {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status.
    pub status: u16,
    /// Fields.
    pub headers: HeaderMap,
    /// Body, as text.
    pub text: String,
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Panics
    /// When it is not.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// A field, if it is there.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("a field of ASCII"))
    }
}

impl Connection {
    /// Opens one.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn open(version: Version, address: SocketAddr) -> Self {
        let stream = within("a connection", TcpStream::connect(address)).await;
        let stream = stream.unwrap_or_else(|error| panic!("no connection to {address}: {error}"));
        stream.set_nodelay(true).expect("a socket without delay");
        Self::over(version, stream, address.to_string()).await
    }

    /// Opens one with HTTP/2 over TLS.
    ///
    /// # Errors
    /// When the handshake fails.
    pub async fn open_tls(address: SocketAddr, tls: ClientConfig) -> std::io::Result<Self> {
        let stream = tls_stream(address, tls).await?;
        Ok(Self::over(Version::Http2, stream, address.to_string()).await)
    }

    async fn over(
        version: Version,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        authority: String,
    ) -> Self {
        Self::try_over(version, stream, authority).await.expect("a stream that takes a preface")
    }

    /// Speaks over a stream that is open, as to `authority`.
    ///
    /// # Errors
    /// When the stream breaks at once.
    pub async fn try_over(
        version: Version,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        authority: String,
    ) -> hyper::Result<Self> {
        let mut driver = JoinSet::new();
        let stream = TokioIo::new(stream);
        let sender = match version {
            Version::Http1 => {
                let (sender, connection) = http1::handshake(stream).await?;
                driver.spawn(async move { drop(connection.await) });
                Sender::Http1(sender)
            }
            Version::Http2 => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
                driver.spawn(async move { drop(connection.await) });
                Sender::Http2(sender)
            }
        };
        Ok(Self { sender, authority, _driver: driver })
    }

    /// Sends a request; gives the answer when its head is there.
    ///
    /// # Errors
    /// When the connection breaks first.
    pub async fn try_send(&mut self, request: Request<Body>) -> hyper::Result<Response<Incoming>> {
        match &mut self.sender {
            Sender::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Sender::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }

    /// As [`try_send`](Self::try_send), for when an answer must come.
    ///
    /// # Panics
    /// When none comes.
    pub async fn send(&mut self, request: Request<Body>) -> Response<Incoming> {
        within("an answer", self.try_send(request)).await.expect("an answer")
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Panics
    /// When it does not come.
    pub async fn ask(&mut self, request: Request<Body>) -> Answer {
        let response = self.send(request).await;
        read(response).await.expect("a whole answer")
    }

    /// Whether it will take another request.
    pub fn is_open(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => !sender.is_closed(),
            Sender::Http2(sender) => !sender.is_closed(),
        }
    }

    /// A request for this connection.
    pub fn request(&self, method: &str, path: &str) -> http::request::Builder {
        self.request_to(&self.authority.clone(), method, path)
    }

    /// A request to another authority over this connection.
    pub fn request_to(&self, authority: &str, method: &str, path: &str) -> http::request::Builder {
        let request = Request::builder().method(method);
        match self.sender {
            Sender::Http1(_) => request.uri(path).header("host", authority),
            Sender::Http2(_) => request.uri(format!("http://{authority}{path}")),
        }
    }

    /// A `POST` of JSON.
    pub fn post(&self, path: &str, body: &Value) -> Request<Body> {
        let request = self.request("POST", path).header("content-type", "application/json");
        request.body(whole(body.to_string())).expect("a request")
    }

    /// Posts JSON and reads the whole answer.
    pub async fn ask_json(&mut self, path: &str, body: &Value) -> Answer {
        let request = self.post(path, body);
        self.ask(request).await
    }
}

/// No body.
pub fn empty() -> Body {
    whole(Bytes::new())
}

/// A body of known length.
pub fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed_unsync()
}

/// A body of chunks without a length.
pub fn chunks(chunks: Vec<Bytes>) -> Body {
    StreamBody::new(stream::iter(chunks).map(|chunk| Ok(Frame::data(chunk)))).boxed_unsync()
}

/// A body that begins and never ends.
pub fn unfinished(bytes: impl Into<Bytes>) -> Body {
    let beginning = stream::iter([bytes.into()]).chain(stream::pending());
    StreamBody::new(beginning.map(|chunk| Ok(Frame::data(chunk)))).boxed_unsync()
}

/// Reads an answer to its end.
///
/// # Errors
/// When it breaks off.
pub async fn read(response: Response<Incoming>) -> hyper::Result<Answer> {
    let (parts, body) = response.into_parts();
    let body = within("the end of an answer", body.collect()).await?.to_bytes();
    let text = String::from_utf8_lossy(&body).into_owned();
    Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, text })
}

/// Reads a stream until its bytes so far contain `wanted`; gives them.
///
/// # Panics
/// When it ends first.
pub async fn read_until(body: &mut Incoming, wanted: &str) -> String {
    let mut text = String::new();
    within("an event", async {
        while !text.contains(wanted) {
            let frame = body.frame().await.unwrap_or_else(|| panic!("the stream ended: {text}"));
            let frame = frame.unwrap_or_else(|error| panic!("the stream broke: {error}: {text}"));
            if let Some(bytes) = frame.data_ref() {
                text.push_str(&String::from_utf8_lossy(bytes));
            }
        }
    })
    .await;
    text
}

/// `GET`s a page.
pub async fn get(address: SocketAddr, path: &str) -> Answer {
    let mut connection = Connection::open(Version::Http1, address).await;
    let request = connection.request("GET", path).body(empty()).expect("a request");
    connection.ask(request).await
}

/// `GET`s a page of JSON.
///
/// # Panics
/// When it is not there.
pub async fn json(address: SocketAddr, path: &str) -> Value {
    let answer = get(address, path).await;
    assert_eq!(answer.status, 200, "{path}: {answer:?}");
    answer.json()
}

/// Posts JSON over a connection of its own.
pub async fn post(address: SocketAddr, path: &str, body: &Value) -> Answer {
    Connection::open(Version::Http1, address).await.ask_json(path, body).await
}

/// TLS and nothing above it.
///
/// # Errors
/// When the handshake fails.
pub async fn tls_stream(address: SocketAddr, tls: ClientConfig) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = within("a connection", TcpStream::connect(address)).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::IpAddress(address.ip().into());
    within("a handshake", TlsConnector::from(Arc::new(tls)).connect(name, stream)).await
}

/// A TCP connection for requests that no library would send.
#[derive(Debug)]
pub struct Raw(TcpStream);

impl Raw {
    /// Opens one.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn open(address: SocketAddr) -> Self {
        let stream = within("a connection", TcpStream::connect(address)).await.expect("a connection");
        stream.set_nodelay(true).expect("a socket without delay");
        Self(stream)
    }

    /// Sends these bytes.
    ///
    /// # Panics
    /// When the other side has closed.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.expect("an open connection");
    }

    /// Says that no more will be sent, and goes on reading.
    ///
    /// # Panics
    /// When the other side has closed.
    pub async fn close_own_half(&mut self) {
        self.0.shutdown().await.expect("an open connection");
    }

    /// Reads until what came contains `wanted`, or the end; gives it.
    ///
    /// # Panics
    /// When neither comes.
    pub async fn read_until(&mut self, wanted: &str) -> String {
        let mut bytes = Vec::new();
        within("bytes", async {
            while !String::from_utf8_lossy(&bytes).contains(wanted) {
                match self.0.read_buf(&mut bytes).await {
                    Ok(0) | Err(_) => break,
                    Ok(_) => {}
                }
            }
        })
        .await;
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Reads to the end.
    pub async fn read_to_end(&mut self) -> String {
        let mut bytes = Vec::new();
        // A reset is an end too.
        drop(within("the end of a connection", self.0.read_to_end(&mut bytes)).await);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}
