//! An application that remembers what it was sent, in the process of the test.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// A server for HTTP/1.1 and HTTP/2 without TLS. Dropping it closes every connection.
#[derive(Debug)]
pub struct Application {
    /// Where it listens.
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    _tasks: JoinSet<()>,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Method, path and query.
    pub line: String,
    /// Host and port as the request named them.
    pub authority: String,
    /// Fields.
    pub headers: HeaderMap,
    /// Length of the body.
    pub body_bytes: usize,
}

impl Application {
    /// Starts one that answers 200 with these fields and this text.
    ///
    /// # Panics
    /// When there is no port.
    pub async fn start(fields: &[(&str, &str)], text: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let seen = Arc::default();
        let fields = fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let answer = Arc::new((fields, Bytes::from(text.to_owned())));
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, Arc::clone(&seen), answer));
        Self { address, seen, _tasks: tasks }
    }

    /// The requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

type Template = Arc<(BTreeMap<String, String>, Bytes)>;

async fn accept(listener: TcpListener, seen: Arc<Mutex<Vec<Seen>>>, template: Template) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        let (seen, template) = (Arc::clone(&seen), Arc::clone(&template));
        connections.spawn(async move {
            let service =
                service_fn(move |request| answer(request, Arc::clone(&seen), Arc::clone(&template)));
            let server = auto::Builder::new(TokioExecutor::new());
            drop(server.serve_connection(TokioIo::new(stream), service).await);
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    seen: Arc<Mutex<Vec<Seen>>>,
    template: Template,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let body_bytes = body.collect().await.map_or(0, |body| body.to_bytes().len());
    let host = parts.headers.get("host").and_then(|value| value.to_str().ok());
    let authority = parts.uri.authority().map(ToString::to_string).or(host.map(ToOwned::to_owned));
    let target = parts.uri.path_and_query().map_or("", |target| target.as_str());
    seen.lock().unwrap_or_else(PoisonError::into_inner).push(Seen {
        line: format!("{} {target}", parts.method),
        authority: authority.unwrap_or_default(),
        headers: parts.headers,
        body_bytes,
    });
    let mut response = Response::builder().status(200);
    for (name, value) in &template.0 {
        response = response.header(name, value);
    }
    Ok(response.body(Full::new(template.1.clone())).expect("an answer"))
}
