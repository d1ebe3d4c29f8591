//! HTTP/2 as RFC 9113 and RFC 7541 want it, frame by frame, on both listeners: the cases of h2spec (generic, http2, hpack) and those of
//! our own about fields that the next hop could misread.
//!
//! A case sends bytes on a connection of its own and looks at the first thing that tells what became of them. Where it is not what the
//! case wants, the case names the deviation and its reason, and holds that it is still there.

mod cases;

use std::net::SocketAddr;
use std::time::Duration;

use penstock_tests::certs::Authority;
use penstock_tests::client::tls_stream;
use penstock_tests::documents::{Endpoint, backend};
use penstock_tests::frames::{Connection, Frame, PREFACE, code, field, flag, frame, kind, setting};
use penstock_tests::mesh::Mesh;
use penstock_tests::messages::message;
use rustls::ClientConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// What tells how bytes were taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// The stream's answer came whole, with this status.
    Answered(u16),
    /// So many bytes of the stream's answer came at once.
    Body(usize),
    /// The stream was reset.
    Reset(u32),
    /// GOAWAY, and then the end of the connection.
    Ended(u32),
    /// The end of the connection without a word.
    Closed,
    /// The PING behind them was answered.
    Ponged,
    /// The SETTINGS were acknowledged.
    Acknowledged,
    /// Nothing.
    Silence,
}

/// Far above what an outcome takes.
const SILENCE_MAX: Duration = Duration::from_secs(20);

const OK: Outcome = Outcome::Answered(200);

/// A case.
struct Case {
    name: &'static str,
    /// Sent first, and what must have come before the rest is sent.
    before: Option<(Send, Outcome)>,
    send: Send,
    /// Which stream's outcome counts.
    stream: u32,
    wanted: &'static [Outcome],
    /// The client has said that it asks nothing more.
    leaves: bool,
    /// What happens instead, and why that is so.
    instead: Option<(Outcome, &'static str)>,
}

type Send = fn(&Side) -> Vec<u8>;

fn case(name: &'static str, send: Send, wanted: &'static [Outcome]) -> Case {
    Case { name, before: None, send, stream: 1, wanted, leaves: false, instead: None }
}

impl Case {
    fn after(mut self, send: Send, outcome: Outcome) -> Self {
        self.before = Some((send, outcome));
        self
    }

    fn on(mut self, stream: u32) -> Self {
        self.stream = stream;
        self
    }

    fn leaving(mut self) -> Self {
        self.leaves = true;
        self
    }

    fn but(mut self, outcome: Outcome, reason: &'static str) -> Self {
        self.instead = Some((outcome, reason));
        self
    }
}

/// One of our listeners.
struct Side {
    name: &'static str,
    address: SocketAddr,
    tls: Option<ClientConfig>,
    scheme: &'static str,
    /// Fields that a request needs beside the usual ones.
    fields: Vec<u8>,
}

impl Side {
    async fn open(&self) -> Connection {
        match &self.tls {
            Some(tls) => Connection::open(tls_stream(self.address, tls.clone()).await.unwrap()).await,
            None => Connection::open(TcpStream::connect(self.address).await.unwrap()).await,
        }
    }

    async fn silent(&self) -> Connection {
        match &self.tls {
            Some(tls) => Connection::silent(tls_stream(self.address, tls.clone()).await.unwrap()),
            None => Connection::silent(TcpStream::connect(self.address).await.unwrap()),
        }
    }

    /// A header block with these pseudo-header fields.
    fn block(&self, pseudo: &[(&str, &str)]) -> Vec<u8> {
        let mut block: Vec<u8> =
            pseudo.iter().flat_map(|(name, value)| field(name.as_bytes(), value.as_bytes())).collect();
        block.extend_from_slice(&self.fields);
        block
    }

    /// A whole header block; `/hold` is never answered.
    fn request(&self, method: &str, path: &str) -> Vec<u8> {
        self.block(&[(":method", method), (":scheme", self.scheme), (":path", path), (":authority", "app")])
    }

    fn get(&self, stream: u32, path: &str) -> Vec<u8> {
        self.get_with(stream, path, &[])
    }

    /// A request without a body whose header block goes on with `more`.
    fn get_with(&self, stream: u32, path: &str, more: &[u8]) -> Vec<u8> {
        whole(stream, &[self.request("GET", path), more.to_vec()].concat())
    }

    fn post(&self, stream: u32, path: &str) -> Vec<u8> {
        self.post_with(stream, path, &[])
    }

    /// The head of a request whose body follows.
    fn post_with(&self, stream: u32, path: &str, more: &[u8]) -> Vec<u8> {
        let block = [self.request("POST", path), more.to_vec()].concat();
        frame(kind::HEADERS, flag::END_HEADERS, stream, &block)
    }
}

/// A request in one frame.
fn whole(stream: u32, block: &[u8]) -> Vec<u8> {
    frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, stream, block)
}

fn data(flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    frame(kind::DATA, flags, stream, payload)
}

fn ping() -> Vec<u8> {
    frame(kind::PING, flag::NONE, 0, b"the end.")
}

/// The first thing that tells, or nothing for longer than anything here takes.
async fn outcome(connection: &mut Connection, stream: u32, wanted: &[Outcome]) -> Outcome {
    let first = first_outcome(connection, stream, wanted);
    tokio::time::timeout(SILENCE_MAX, first).await.unwrap_or(Outcome::Silence)
}

/// What `wanted` does not ask for is passed over, if it is no refusal.
async fn first_outcome(connection: &mut Connection, stream: u32, wanted: &[Outcome]) -> Outcome {
    let asks = |kind: fn(&Outcome) -> bool| wanted.iter().any(kind);
    let mut status = 0;
    loop {
        let Some(frame) = connection.next().await else { return Outcome::Closed };
        let is_ours = frame.stream == stream;
        match frame.kind {
            kind::GOAWAY if frame.code() != code::NO_ERROR => return ended(connection, &frame).await,
            kind::RST_STREAM if is_ours && frame.code() != code::NO_ERROR => {
                return Outcome::Reset(frame.code());
            }
            kind::HEADERS if is_ours => status = frame.status(),
            kind::DATA if is_ours && asks(|outcome| matches!(outcome, Outcome::Body(_))) => {
                return Outcome::Body(frame.payload.len());
            }
            kind::PING if frame.flags == flag::ACK && asks(|outcome| matches!(outcome, Outcome::Ponged)) => {
                assert_eq!(frame.payload, b"the end.", "the payload comes back");
                return Outcome::Ponged;
            }
            kind::SETTINGS
                if frame.flags == flag::ACK && asks(|outcome| matches!(outcome, Outcome::Acknowledged)) =>
            {
                return Outcome::Acknowledged;
            }
            _ => {}
        }
        if is_ours && frame.ends_stream() {
            return Outcome::Answered(status);
        }
    }
}

/// After GOAWAY with an error nothing comes any more.
async fn ended(connection: &mut Connection, goaway: &Frame) -> Outcome {
    while let Some(frame) = connection.next().await {
        assert!(matches!(frame.kind, kind::RST_STREAM | kind::GOAWAY), "after GOAWAY: {frame:?}");
    }
    Outcome::Ended(goaway.code())
}

/// Whether the connection goes on: what was refused was one stream.
async fn lives(connection: &mut Connection) -> bool {
    connection.send(&ping()).await;
    outcome(connection, u32::MAX, &[Outcome::Ponged]).await == Outcome::Ponged
}

/// Runs one case; gives what is wrong.
async fn check(side: &Side, case: &Case) -> Result<(), String> {
    let told = |text: String| Err(format!("{}: {}: {text}", side.name, case.name));
    let mut connection = side.open().await;
    if let Some((send, awaited)) = &case.before {
        connection.send(&send(side)).await;
        let seen = outcome(&mut connection, 1, &[*awaited]).await;
        if seen != *awaited {
            return told(format!("{seen:?} came before the rest was sent"));
        }
    }
    connection.send(&(case.send)(side)).await;
    let seen = outcome(&mut connection, case.stream, case.wanted).await;
    match case.instead {
        Some((instead, _)) if seen == instead && !case.wanted.contains(&seen) => {}
        None if case.wanted.contains(&seen) => {}
        Some((instead, _)) => return told(format!("{seen:?}, and not the deviation {instead:?}")),
        None => return told(format!("{seen:?}, wanted {:?}", case.wanted)),
    }
    let goes_on = !case.leaves && matches!(seen, Outcome::Reset(_) | Outcome::Answered(_));
    if goes_on && !lives(&mut connection).await {
        return told(format!("{seen:?}, and the connection ended"));
    }
    Ok(())
}

/// An application that answers whole requests with five bytes, and those for `/hold` never.
async fn application(tasks: &mut JoinSet<()>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn(async move {
        let mut tasks = JoinSet::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tasks.spawn(async move {
                let mut bytes = Vec::new();
                while let Ok(1..) = stream.read_buf(&mut bytes).await {
                    if message(&bytes).is_some_and(|(message, _)| message.target != "/hold") {
                        let answer =
                            b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello";
                        drop(stream.write_all(answer).await);
                        return;
                    }
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn both_listeners_take_frames_as_the_standard_says() {
    let mut tasks = JoinSet::new();
    let application = application(&mut tasks).await;
    let mesh = Mesh::start().await;
    let inbound = mesh.inbound("app", application).await;
    let web = mesh.caller("web").await;
    let endpoint = Endpoint { address: application, sidecar: Some(inbound.inbound()) };
    mesh.publish(&[backend("app", &[endpoint])], &[&inbound, &web]).await;
    let leaf = Authority::of_plane(&mesh.plane.state_dir()).leaf("spiffe://cluster.local/ns/default/sa/web");
    let own = application.to_string();
    let sides = [
        Side { name: "outbound", address: web.outbound(), tls: None, scheme: "http", fields: Vec::new() },
        Side {
            name: "inbound",
            address: inbound.inbound(),
            tls: Some(leaf.client()),
            scheme: "https",
            fields: field(b"x-penstock-target", own.as_bytes()),
        },
    ];
    let all = cases::all();
    let mut wrong = Vec::new();
    for side in &sides {
        for case in &all {
            wrong.extend(check(side, case).await.err());
        }
        wrong.extend(too_many_streams(side).await.err());
        wrong.extend(prefaces(side).await.err());
    }
    let deviations: Vec<_> = all.iter().filter(|case| case.instead.is_some()).collect();
    println!("{} cases on each of 2 listeners, {} deviations:", all.len() + 4, deviations.len() + 1);
    for case in &deviations {
        println!("  {}: {:?}", case.name, case.instead);
    }
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
    // Whatever was sent, nothing is held, and whoever is well-behaved is served.
    for sidecar in [&inbound, &web] {
        sidecar.idle().await;
    }
    for side in &sides {
        let mut connection = side.open().await;
        connection.send(&side.get(1, "/")).await;
        assert_eq!(outcome(&mut connection, 1, &[OK]).await, OK, "{}", side.name);
    }
}

/// One stream more than was allowed (RFC 9113 section 5.1.2).
async fn too_many_streams(side: &Side) -> Result<(), String> {
    let mut connection = side.open().await;
    let last = connection.streams_max * 2 + 1;
    let requests: Vec<u8> = (1..=last).step_by(2).flat_map(|stream| side.get(stream, "/hold")).collect();
    connection.send(&requests).await;
    match outcome(&mut connection, last, &[]).await {
        Outcome::Reset(code::REFUSED | code::PROTOCOL) => Ok(()),
        seen => Err(format!("{}: one stream too many: {seen:?}", side.name)),
    }
}

/// What a connection begins with (RFC 9113 section 3.4). Deviation: the HTTP/2 library does not insist on SETTINGS as the first frame.
async fn prefaces(side: &Side) -> Result<(), String> {
    let settings = frame(kind::SETTINGS, flag::NONE, 0, &[]);
    let not_settings = ping();
    for (name, bytes, wanted) in [
        (
            "another preface",
            [b"INVALID CONNECTION PREFACE\r\n\r\n", &settings[..]].concat(),
            &[Outcome::Closed, Outcome::Ended(code::PROTOCOL)][..],
        ),
        ("a preface without SETTINGS", [PREFACE, &not_settings].concat(), &[Outcome::Ponged]),
        (
            "a preface",
            [PREFACE, &settings, &frame(kind::SETTINGS, flag::ACK, 0, &[])].concat(),
            &[Outcome::Acknowledged],
        ),
    ] {
        let mut connection = side.silent().await;
        connection.send(&bytes).await;
        let seen = match outcome(&mut connection, 1, wanted).await {
            // HTTP/1.1's refusal is no frame.
            Outcome::Answered(_) => Outcome::Closed,
            seen => seen,
        };
        if !wanted.contains(&seen) {
            return Err(format!("{}: {name}: {seen:?}", side.name));
        }
    }
    Ok(())
}

fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> = values.iter().flat_map(|(id, value)| setting(*id, *value)).collect();
    frame(kind::SETTINGS, flag::NONE, 0, &payload)
}
