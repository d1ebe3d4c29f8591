//! One fixed exchange, and its connection cut after byte k, for every k: on the caller's link, between the sidecars and before the
//! engine, in both ways, with callers of HTTP/1.1 and HTTP/2.
//!
//! Whatever is cut, nothing stays open, a broken answer never looks whole, and no engine is asked twice.

use std::collections::BTreeMap;
use std::time::Duration;

use penstock_tests::client::{Connection, Version};
use penstock_tests::engine::chat;
use penstock_tests::memory::{Cut, Link, PROBED, Plan as Trouble, Way};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::caller::{Seen, ask};
use crate::world::{Plan, Transport, World, simulate};

/// The link that is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// From the caller to its sidecar.
    Caller,
    /// From sidecar to sidecar.
    Mesh,
    /// From the sidecar to the engine.
    Engine,
}

/// After so long a caller gives up: longer than the pings between sidecars take to notice.
const PATIENCE: Duration = Duration::from_secs(30);
/// What is left of a request is gone so soon: the engine ends its step …
const QUIET: Duration = Duration::from_millis(100);
/// … and so soon where an end has vanished without a word.
const QUIET_AFTER_SILENCE: Duration = PROBED;

/// A mesh with two engines and the answer that it gives when nothing is cut.
struct Exchange {
    world: World,
    whole: Seen,
}

/// What was cut where.
#[derive(Clone, Copy, Debug)]
struct Case {
    version: Version,
    place: Place,
    way: Way,
    cut: Cut,
}

impl Exchange {
    async fn new() -> Self {
        let plan = Plan::new(Transport::Memory, 1)
            .serve("a", "--noise 0")
            .serve("b", "--noise 0")
            .caller("web")
            .documents(|served| {
                let endpoints: Vec<_> = served.iter().map(|(_, endpoint)| *endpoint).collect();
                vec![penstock_tests::documents::backend("chat", &endpoints).with("default", true)]
            });
        let world = plan.start().await;
        let mut connection = world.connect("web", Version::Http1).await;
        let request = request(&connection);
        let whole = ask(&mut connection, request).await;
        assert_eq!((whole.status, whole.is_whole), (Some(200), true), "{whole}");
        assert!(whole.body.ends_with(b"data: [DONE]\n\n"), "{whole}");
        Self { world, whole }
    }

    fn addresses(&self, place: Place) -> Vec<std::net::SocketAddr> {
        match place {
            Place::Caller => vec![self.world.outbound("web")],
            Place::Mesh => ["a", "b"].map(|name| self.world.sidecar(name).inbound.unwrap()).to_vec(),
            Place::Engine => ["a", "b"].map(|name| self.world.engine(name).address()).to_vec(),
        }
    }

    /// Cuts after `bytes`, asks, and checks everything; gives what became of it, or nothing where there are not as many bytes.
    async fn cut(&self, case: Case, bytes: u64) -> Option<Fate> {
        let what = format!("{case:?} after {bytes} bytes");
        let addresses = self.addresses(case.place);
        self.forget_connections(&addresses).await;
        self.world.memory.plan(&addresses, Trouble::cut(case.way, bytes, case.cut));
        let (accepted, cuts) = (self.world.accepted(), self.world.memory.cuts());
        let asked = timeout(PATIENCE, async {
            let mut connection = self.world.try_connect("web", case.version).await.ok()?;
            let request = request(&connection);
            Some(ask(&mut connection, request).await)
        });
        let seen = asked.await.ok().flatten();
        let limit = if case.cut == Cut::Stall { QUIET_AFTER_SILENCE } else { QUIET };
        self.world.quiet_within(limit, &what).await;
        let fate = self.check(&what, &seen.unwrap_or_default());
        assert!(self.world.accepted() <= accepted + 1, "{what}: asked twice");
        self.world.memory.unplan();
        // More than one retry costs of the budget, and than a sidecar that is to be listened to is dialled after.
        sleep(Duration::from_secs(2)).await;
        (self.world.memory.cuts() > cuts).then_some(fate)
    }

    async fn forget_connections(&self, addresses: &[std::net::SocketAddr]) {
        let links = || addresses.iter().flat_map(|address| self.world.memory.links(*address));
        if links().next().is_some() {
            links().for_each(|link: Link| link.reset());
            // Longer than whoever listened pauses: the next connection is the next request's.
            sleep(Duration::from_secs(2)).await;
        }
    }

    /// An answer is the whole one, the beginning of it, or an error that says so.
    fn check(&self, what: &str, seen: &Seen) -> Fate {
        let (came, whole) = (undated(&seen.body), undated(&self.whole.body));
        let text = String::from_utf8_lossy(&came);
        match (seen.status, &seen.error) {
            (None, _) => Fate::Nothing,
            (Some(200), None) if came == whole => Fate::Whole,
            (Some(200), None) => {
                let told = came.windows(ERROR_EVENT.len()).position(|window| window == ERROR_EVENT);
                let engine_s = &came[..told.unwrap_or(came.len())];
                assert!(whole.starts_with(engine_s), "{what}: {text}");
                let is_between = engine_s.is_empty() || engine_s.ends_with(b"\n\n");
                assert!(told.is_none() || is_between, "{what}: an error inside an event: {text}");
                match told.filter(|_| seen.is_whole) {
                    Some(at) => assert!(is_dialect_error(&came[at + b"data: ".len()..]), "{what}: {text}"),
                    None => assert!(!seen.is_whole, "{what}: it looks whole: {text}"),
                }
                if told.is_some() { Fate::ErrorEvent } else { Fate::Broken }
            }
            (Some(status), Some(_)) => {
                assert!(matches!(status, 408 | 502 | 503 | 504), "{what}: {seen}");
                assert!(!seen.is_whole || is_dialect_error(&came), "{what}: {text}");
                Fate::Refused
            }
            // The engine itself says that it has not got the whole request.
            (Some(400), None) if text.contains("reading a body") => Fate::Refused,
            (Some(_), None) => panic!("{what}: {seen} {text}"),
        }
    }

    /// Everything goes on afterwards, with what was there before.
    async fn end(self) {
        for place in [Place::Caller, Place::Mesh, Place::Engine] {
            self.forget_connections(&self.addresses(place)).await;
        }
        for version in Version::BOTH {
            let mut connection = self.world.connect("web", version).await;
            let request = request(&connection);
            let seen = ask(&mut connection, request).await;
            assert!(undated(&seen.body) == undated(&self.whole.body), "{version}: {seen}");
        }
        self.world.end().await;
    }
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    /// It was answered as if nothing had happened.
    Whole,
    /// Its answer ended in an event that says why.
    ErrorEvent,
    /// Its answer broke off, visibly.
    Broken,
    /// A sidecar answered with an error.
    Refused,
    /// There was no answer at all.
    Nothing,
}

/// How an error begins that a sidecar says in a stream.
const ERROR_EVENT: &[u8] = b"data: {\"error\":";

fn is_dialect_error(text: &[u8]) -> bool {
    let end = text.iter().position(|byte| *byte == b'\n').unwrap_or(text.len());
    let error = serde_json::from_slice::<Value>(&text[..end]);
    error.is_ok_and(|error| error["error"]["message"].is_string() && error["error"]["type"].is_string())
}

/// The engine dates its answers; virtual time goes on between them.
fn undated(body: &[u8]) -> Vec<u8> {
    const CREATED: &[u8] = b"\"created\":";
    let mut body = body.to_vec();
    let mut at = 0;
    while let Some(found) = body[at..].windows(CREATED.len()).position(|window| window == CREATED) {
        at += found + CREATED.len();
        while body.get(at).is_some_and(u8::is_ascii_digit) {
            body[at] = b'0';
            at += 1;
        }
    }
    body
}

fn request(connection: &Connection) -> http::Request<penstock_tests::client::Body> {
    let body = chat("hi", json!({"stream": true, "max_tokens": 3, "ignore_eos": true}));
    let mut request = connection.post("/v1/chat/completions", &body);
    request.headers_mut().insert("x-request-id", "cut".parse().expect("an id"));
    request
}

/// Every `step`th byte in both ways, up to the last one that there is. Each of `fates` must be met, or the sweep has swept nothing.
fn sweep(version: Version, place: Place, cut: Cut, step: usize, fates: &[Fate]) {
    let met = simulate(Transport::Memory, async || {
        let exchange = Exchange::new().await;
        let mut met = BTreeMap::new();
        for way in Way::BOTH {
            let case = Case { version, place, way, cut };
            for bytes in (0..).step_by(step) {
                let Some(fate) = exchange.cut(case, bytes).await else { break };
                *met.entry(fate).or_insert(0) += 1;
            }
        }
        exchange.end().await;
        met
    });
    println!("{version}, {place:?}, {cut:?}: {} cuts: {met:?}", met.values().sum::<u64>());
    assert!(fates.iter().all(|fate| met.contains_key(fate)), "{met:?}");
}

const ALL: &[Fate] = &[Fate::Whole, Fate::ErrorEvent, Fate::Refused];

#[test]
fn the_caller_s_link_is_reset_after_every_byte() {
    sweep(Version::Http1, Place::Caller, Cut::Reset, 1, &[Fate::Broken, Fate::Nothing]);
    sweep(Version::Http2, Place::Caller, Cut::Reset, 1, &[Fate::Broken, Fate::Nothing]);
}

#[test]
fn the_mesh_s_link_is_reset_after_every_byte_for_callers_of_http1() {
    sweep(Version::Http1, Place::Mesh, Cut::Reset, 1, ALL);
}

#[test]
fn the_mesh_s_link_is_reset_after_every_third_byte_for_callers_of_http2() {
    sweep(Version::Http2, Place::Mesh, Cut::Reset, 3, ALL);
}

#[test]
fn the_engine_s_link_is_reset_after_every_byte() {
    sweep(Version::Http1, Place::Engine, Cut::Reset, 1, ALL);
    sweep(Version::Http2, Place::Engine, Cut::Reset, 1, ALL);
}

#[test]
fn one_half_of_any_link_is_closed() {
    for version in Version::BOTH {
        sweep(version, Place::Caller, Cut::HalfClose, 7, &[]);
        sweep(version, Place::Mesh, Cut::HalfClose, 29, &[]);
        sweep(version, Place::Engine, Cut::HalfClose, 7, &[]);
    }
}

#[test]
fn any_link_falls_silent() {
    for version in Version::BOTH {
        sweep(version, Place::Caller, Cut::Stall, 7, &[]);
        sweep(version, Place::Mesh, Cut::Stall, 29, &[]);
        sweep(version, Place::Engine, Cut::Stall, 7, &[]);
    }
}
