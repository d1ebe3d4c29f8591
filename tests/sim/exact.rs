//! What the caller receives is what the application sent, byte for byte, and the other way round: for random bodies in random pieces
//! with random pauses, for every pair of protocols, over links that are slow and narrow.
//!
//! Both ends know the script of a request by its number, so neither has to tell the other.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use penstock_tests::client::{Body, Connection, Version};
use penstock_tests::memory::{Listener, Plan as Trouble};
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::caller::ask;
use crate::world::{Plan, Transport, World, simulate};

/// Requests for each pair of protocols.
const REQUESTS: u64 = 1_000;
/// Connections of callers at the same time.
const CALLERS: u64 = 4;
/// No script takes longer, unless something hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// A body in pieces, each after a pause.
type Pieces = Vec<(Duration, Bytes)>;

/// When the application answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// When it has read the whole body.
    AfterBody,
    /// At once; it reads the body meanwhile.
    AtOnce,
    /// With the body, piece by piece as it comes.
    Echo,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Length {
    /// Said beforehand.
    Known,
    /// Not said: chunks, or the end of the stream.
    Unknown,
}

/// What is sent and answered for one number.
#[derive(Debug)]
struct Script {
    method: &'static str,
    request: Pieces,
    request_length: Length,
    order: Order,
    status: u16,
    answer: Pieces,
    answer_length: Length,
}

impl Script {
    fn of(number: u64) -> Self {
        let mut draw = StdRng::seed_from_u64(number);
        let method = ["POST", "POST", "POST", "PUT", "GET", "HEAD"][draw.random_range(0..6)];
        let has_body = matches!(method, "POST" | "PUT");
        let order = [Order::AfterBody, Order::AfterBody, Order::AtOnce, Order::Echo][draw.random_range(0..4)];
        let status = [200, 200, 200, 200, 201, 204, 304, 404, 500][draw.random_range(0..9)];
        let length = |draw: &mut StdRng| if draw.random() { Length::Known } else { Length::Unknown };
        Self {
            method,
            request_length: length(&mut draw),
            request: if has_body { pieces(&mut draw) } else { Vec::new() },
            order: if has_body { order } else { Order::AfterBody },
            status: if order == Order::Echo { 200 } else { status },
            answer_length: length(&mut draw),
            answer: if matches!(status, 204 | 304) { Vec::new() } else { pieces(&mut draw) },
        }
    }

    /// What the caller must receive.
    fn expected(&self) -> Vec<u8> {
        match (self.method, self.order) {
            ("HEAD", _) => Vec::new(),
            (_, Order::Echo) => joined(&self.request),
            _ => joined(&self.answer),
        }
    }
}

/// Mostly small, now and then longer than any buffer on the way.
fn pieces(draw: &mut StdRng) -> Pieces {
    let count = [0, 1, 1, 2, 3, 8, 30][draw.random_range(0..7)];
    let piece = |_| {
        let bytes_max =
            [1, 16, 300, 5_000, 70_000][if draw.random_ratio(1, 20) { 4 } else { draw.random_range(0..4) }];
        // Never empty: the HTTP/2 library ends a connection after a hundred empty frames.
        let mut bytes = vec![0; draw.random_range(1..=bytes_max)];
        draw.fill_bytes(&mut bytes);
        let pause = if draw.random_ratio(1, 3) { draw.random_range(0..40) } else { 0 };
        (Duration::from_millis(pause), Bytes::from(bytes))
    };
    (0..count).map(piece).collect()
}

fn joined(pieces: &Pieces) -> Vec<u8> {
    pieces.iter().flat_map(|(_, bytes)| bytes.iter().copied()).collect()
}

fn paced(pieces: Pieces) -> Body {
    let stream = stream::iter(pieces).then(|(pause, bytes)| async move {
        if !pause.is_zero() {
            sleep(pause).await;
        }
        Ok::<_, Infallible>(Frame::data(bytes))
    });
    StreamBody::new(stream).boxed_unsync()
}

/// What an application has received, by number; whole or not.
type Received = Arc<Mutex<BTreeMap<u64, (Vec<u8>, bool)>>>;

/// An application that follows the scripts. Dropping the set ends it.
fn application(mut listener: Listener, received: &Received) -> JoinSet<()> {
    let received = Arc::clone(received);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (pipe, _) = axum::serve::Listener::accept(&mut listener).await;
            let received = Arc::clone(&received);
            connections.spawn(async move {
                let readers = Arc::new(Mutex::new(JoinSet::new()));
                let service =
                    service_fn(|request| answer(request, Arc::clone(&received), Arc::clone(&readers)));
                let server = auto::Builder::new(TokioExecutor::new());
                drop(server.serve_connection(TokioIo::new(pipe), service).await);
            });
        }
    });
    tasks
}

async fn answer(
    request: Request<Incoming>,
    received: Received,
    readers: Arc<Mutex<JoinSet<()>>>,
) -> Result<Response<Body>, Infallible> {
    let number = request.headers()["x-script"].to_str().unwrap().parse().unwrap();
    let script = Script::of(number);
    let length = joined(&script.answer).len();
    let is_head = request.method() == "HEAD";
    let body = request.into_body();
    let answer = match script.order {
        Order::AfterBody => {
            read(number, body, received).await;
            // The library does not know that an answer to HEAD has no body in HTTP/2.
            paced(if is_head { Vec::new() } else { script.answer })
        }
        Order::AtOnce => {
            let mut readers = readers.lock().unwrap_or_else(PoisonError::into_inner);
            readers.spawn(read(number, body, received));
            paced(script.answer)
        }
        Order::Echo => {
            // Let the echo alone say that it is whole.
            let echoed = body.into_data_stream().take_while(|piece| std::future::ready(piece.is_ok()));
            StreamBody::new(echoed.map(|piece| Ok(Frame::data(piece.unwrap_or_default())))).boxed_unsync()
        }
    };
    let mut response = Response::new(answer);
    *response.status_mut() = StatusCode::from_u16(script.status).unwrap();
    let may_have_length = script.order != Order::Echo && !matches!(script.status, 204 | 304);
    if script.answer_length == Length::Known && may_have_length {
        response.headers_mut().insert("content-length", length.into());
    }
    Ok(response)
}

async fn read(number: u64, mut body: Incoming, received: Received) {
    let note = |bytes: &[u8], is_whole| {
        let mut received = received.lock().unwrap_or_else(PoisonError::into_inner);
        let noted = received.entry(number).or_default();
        noted.0.extend_from_slice(bytes);
        noted.1 = is_whole;
    };
    loop {
        match body.frame().await {
            Some(Ok(frame)) => note(frame.data_ref().map_or(&[][..], |bytes| bytes), false),
            Some(Err(_)) => return,
            None => return note(&[], true),
        }
    }
}

async fn call(world: &World, version: Version, caller: u64, received: &Received) {
    let mut connection: Option<Connection> = None;
    for number in (caller..REQUESTS).step_by(CALLERS as usize) {
        // The end of a connection arrives a moment after the last byte of an answer.
        sleep(Duration::from_millis(20)).await;
        let mut open = match connection.take().filter(Connection::is_open) {
            Some(open) => open,
            None => world.connect("web", version).await,
        };
        let script = Script::of(number);
        let mut request = open.request(script.method, "/exact").header("x-script", number.to_string());
        let sent = joined(&script.request);
        if script.request_length == Length::Known && !script.request.is_empty() {
            request = request.header("content-length", sent.len());
        }
        let body = paced(script.request.clone());
        let body = if script.request.is_empty() { penstock_tests::client::empty() } else { body };
        let seen = timeout(PATIENCE, ask(&mut open, request.body(body).unwrap())).await;
        let what =
            || format!("{version} number {number}: {:?} {:?} {}", script.method, script.order, script.status);
        let seen = seen.unwrap_or_else(|_| panic!("{} hangs; {:?}", what(), world.in_use()));
        assert_eq!((seen.status, seen.is_whole), (Some(script.status), true), "{}: {seen}", what());
        assert!(
            seen.body == script.expected(),
            "{}: {seen} instead of {} bytes",
            what(),
            script.expected().len()
        );
        if script.order == Order::AfterBody {
            let received = received.lock().unwrap_or_else(PoisonError::into_inner);
            assert!(received.get(&number) == Some(&(sent, true)), "{}: not what was sent", what());
        }
        connection = (!seen.is_last).then_some(open);
    }
}

/// A thousand random exchanges for one pair of protocols.
fn check(version: Version, protocol: &'static str) {
    simulate(Transport::Memory, async || {
        let plan = Plan::new(Transport::Memory, 6);
        let listener = plan.memory().listen_on(([127, 0, 0, 1], 0).into()).unwrap();
        let (address, received) = (listener.address(), Received::default());
        let application = application(listener, &received);
        let world = plan.before("app", address, protocol).caller("web").start().await;
        let latency = Duration::from_millis(1);
        let narrow = Trouble { latency, bandwidth: Some(4 << 20), cut: None };
        for place in [world.outbound("web"), world.sidecar("app").inbound.unwrap(), address] {
            world.memory.usually(place, narrow);
        }
        let callers = (0..CALLERS).map(|caller| call(&world, version, caller, &received));
        futures::future::join_all(callers).await;
        world.quiet_within(Duration::from_secs(10), "after all of them").await;
        // What was cut short by an early answer is a beginning of what was sent.
        for (number, (bytes, _)) in received.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            assert!(joined(&Script::of(*number).request).starts_with(bytes), "{number}: not what was sent");
        }
        drop(application);
        world.end().await;
    });
}

#[test]
fn from_http1_to_http1() {
    check(Version::Http1, "http");
}

#[test]
fn from_http1_to_http2() {
    check(Version::Http1, "h2c");
}

#[test]
fn from_http2_to_http1() {
    check(Version::Http2, "http");
}

#[test]
fn from_http2_to_http2() {
    check(Version::Http2, "h2c");
}
