//! Stands between two sidecars with an identity of its own, passes on what they say, writes down what it sees of digests, and loses one,
//! or all reports of a stream, where it is told to.
//!
//! ```text
//!   caller's sidecar ══ mutual TLS ══► this ══ mutual TLS ══► server's sidecar
//! ```

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Request, Response};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use penstock_proxy::load::wire;
use penstock_proxy::network::Accept;
use penstock_tests::certs::{Authority, Leaf, from_now};
use penstock_tests::memory::{Listener, Memory};
use rustls_pki_types::ServerName;
use tokio::task::JoinSet;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::world::World;

/// Any of the trust domain will do: the Backend names none.
const IDENTITY: &str = "spiffe://cluster.local/ns/default/sa/between";
const YEAR_SECONDS: i64 = 365 * 86_400;

/// A digest that came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Passed {
    /// Which stream of reports it was on, from 1.
    pub(crate) stream: usize,
    pub(crate) key: u32,
    pub(crate) number: u32,
    pub(crate) fate: Fate,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Told,
    Lost,
}

#[derive(Debug, Default)]
struct Seen {
    streams: usize,
    /// How far apart their reports were asked to be.
    intervals: Vec<Duration>,
    digests: Vec<Passed>,
    /// Of each request the tokens that its sender believed cached.
    cached: Vec<u64>,
    to_lose: usize,
    is_mute: bool,
    is_deaf: bool,
    is_silent: bool,
}

/// See the module.
pub(crate) struct Between {
    seen: Arc<Mutex<Seen>>,
    tasks: JoinSet<()>,
}

impl Between {
    /// Takes its place on this listener, in front of the sidecar of the workload `name`.
    pub(crate) fn stand(listener: Listener, world: &World, name: &str) -> Self {
        let inbound = world.sidecar(name).inbound.expect("a sidecar of a server");
        // The world has a time of its own.
        let leaf = Authority::of_plane(&world.authority()).changed(IDENTITY, |leaf| {
            (leaf.not_before, leaf.not_after) = (from_now(-YEAR_SECONDS), from_now(10 * YEAR_SECONDS));
        });
        let seen = Arc::<Mutex<Seen>>::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, leaf, (world.memory.clone(), inbound), Arc::clone(&seen)));
        Self { seen, tasks }
    }

    /// The next digest does not arrive.
    pub(crate) fn lose_next(&self) {
        lock(&self.seen).to_lose += 1;
    }

    /// How many streams of reports were begun so far.
    pub(crate) fn streams(&self) -> usize {
        lock(&self.seen).streams
    }

    /// How far apart the reports of each were asked to be.
    pub(crate) fn intervals(&self) -> Vec<Duration> {
        lock(&self.seen).intervals.clone()
    }

    /// From here on no report arrives, but for those in the heads of answers.
    pub(crate) fn mute(&self) {
        lock(&self.seen).is_mute = true;
    }

    /// Whether who asks for a stream of reports gets no answer from here on. Each is counted among the streams.
    pub(crate) fn silent(&self, is_silent: bool) {
        lock(&self.seen).is_silent = is_silent;
    }

    /// From here on no question is answered.
    pub(crate) fn deafen(&self) {
        lock(&self.seen).is_deaf = true;
    }

    /// Those that came so far.
    pub(crate) fn digests(&self) -> Vec<Passed> {
        lock(&self.seen).digests.clone()
    }

    /// How many of the tokens of the last request its sender believed cached.
    pub(crate) fn last_believed(&self) -> u64 {
        lock(&self.seen).cached.last().copied().expect("a request")
    }

    /// Goes, and breaks off what passes.
    pub(crate) async fn end(mut self) {
        self.tasks.shutdown().await;
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(mut listener: Listener, leaf: Leaf, to: (Memory, SocketAddr), seen: Arc<Mutex<Seen>>) {
    let acceptor = TlsAcceptor::from(Arc::new(leaf.server()));
    let connector = TlsConnector::from(Arc::new(leaf.client()));
    let mut connections = JoinSet::new();
    while let Ok(accepted) = listener.accept().await {
        let (acceptor, connector, seen) = (acceptor.clone(), connector.clone(), Arc::clone(&seen));
        let (memory, inbound) = to.clone();
        connections.spawn(async move {
            let near = acceptor.accept(accepted.wire).await.expect("a caller's sidecar");
            let pipe = memory.connect(inbound).await.expect("a server's sidecar");
            let far = connector.connect(ServerName::from(inbound.ip()), pipe).await.expect("an identity");
            let (sender, driver) = handshake(TokioExecutor::new(), TokioIo::new(far)).await.expect("HTTP/2");
            let mut driven = JoinSet::new();
            driven.spawn(async move { drop(driver.await) });
            let service = service_fn(move |request| pass(sender.clone(), request, Arc::clone(&seen)));
            let serving = http2::Builder::new(TokioExecutor::new());
            drop(serving.serve_connection(TokioIo::new(near), service).await);
        });
    }
}

async fn pass(
    mut sender: SendRequest<Incoming>,
    request: Request<Incoming>,
    seen: Arc<Mutex<Seen>>,
) -> hyper::Result<Response<UnsyncBoxBody<Bytes, hyper::Error>>> {
    let subscribes = request.headers().contains_key(wire::SUBSCRIBE);
    lock(&seen).cached.extend(believed(request.headers()));
    let is_question = request.method() == Method::HEAD;
    let (stream, is_unheard) = {
        let mut seen = lock(&seen);
        if subscribes && !is_question {
            seen.streams += 1;
            seen.intervals.push(wire::read_interval(request.headers()));
        }
        (seen.streams, if is_question { seen.is_deaf } else { subscribes && seen.is_silent })
    };
    if is_unheard {
        return std::future::pending().await;
    }
    let answer = sender.send_request(request).await?;
    if !subscribes {
        return Ok(answer.map(BodyExt::boxed_unsync));
    }
    let mut begun = BytesMut::new();
    Ok(answer.map(|body| {
        let told = body.map_frame(move |frame| match frame.into_data() {
            Ok(bytes) => {
                begun.extend_from_slice(&bytes);
                Frame::data(reports(&mut begun, stream, &mut lock(&seen)))
            }
            Err(frame) => Frame::trailers(frame.into_trailers().unwrap_or_default()),
        });
        told.boxed_unsync()
    }))
}

fn believed(fields: &HeaderMap) -> Option<u64> {
    let demand = wire::read_demand(fields)?;
    Some(u64::from(demand.size.cached_tokens))
}

/// The reports that are whole now, but for what gets lost.
fn reports(begun: &mut BytesMut, stream: usize, seen: &mut Seen) -> Bytes {
    let mut told = BytesMut::new();
    while let Some(part) = wire::read_report(begun) {
        let bytes = begun.split_to(part.bytes);
        if seen.is_mute {
            continue;
        }
        let Some(digest) = part.digest else {
            told.extend_from_slice(&bytes);
            continue;
        };
        let digest = digest.expect("a digest that can be read");
        let fate = if seen.to_lose > 0 { Fate::Lost } else { Fate::Told };
        seen.digests.push(Passed { stream, key: digest.key, number: digest.number, fate });
        match fate {
            Fate::Lost => seen.to_lose -= 1,
            Fate::Told => told.extend_from_slice(&bytes),
        }
    }
    told.freeze()
}
