//! HTTP/1.1 as bytes: a reader that takes one form alone, an application that keeps the bytes, and the corpus of raw requests.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::wait::eventually;

/// What a request says to whoever acts on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Method.
    pub method: String,
    /// Target, as it is written.
    pub target: String,
    /// The value of `host`.
    pub host: String,
    /// Body, without its framing.
    pub body: Vec<u8>,
    /// Fields but for `host` and framing, in order, names in lower case.
    pub fields: Vec<(String, String)>,
}

impl Message {
    /// Whether two say the same; a proxy may add and drop fields.
    pub fn says_the_same(&self, other: &Self) -> bool {
        (&self.method, &self.target, &self.host, &self.body)
            == (&other.method, &other.target, &other.host, &other.body)
    }
}

/// The first message in `bytes` and its length; nothing while it is not whole.
///
/// # Panics
/// When it is not in the one form that a careful sender uses.
pub fn message(bytes: &[u8]) -> Option<(Message, usize)> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = bytes[..end].iter().map(|byte| char::from(*byte)).collect::<String>();
    let mut lines = head.split("\r\n");
    let words: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
    let [method, target, "HTTP/1.1" | "HTTP/1.0"] = words[..] else { panic!("a request line: {words:?}") };
    let fields: Vec<(String, String)> = lines
        .map(|line| line.split_once(':').unwrap_or_else(|| panic!("a field: {line:?}")))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let all = |wanted: &str| -> Vec<&str> {
        fields.iter().filter(|(name, _)| name == wanted).map(|(_, value)| value.as_str()).collect()
    };
    let rest = &bytes[end + 4..];
    let (body, length) = match (&all("content-length")[..], &all("transfer-encoding")[..]) {
        ([], []) => (Vec::new(), 0),
        ([length], []) => {
            let length = length.parse().unwrap_or_else(|_| panic!("a length: {length}"));
            (rest.get(..length)?.to_vec(), length)
        }
        ([], [coding]) if coding.eq_ignore_ascii_case("chunked") => chunked(rest)?,
        framing => panic!("one framing: {framing:?}"),
    };
    let hosts = all("host");
    assert!(hosts.len() < 2, "one host: {head}");
    let host = hosts.first().copied().unwrap_or_default().to_owned();
    let (method, target) = (method.to_owned(), target.to_owned());
    let framing = ["host", "content-length", "transfer-encoding"];
    let fields = fields.into_iter().filter(|(name, _)| !framing.contains(&name.as_str())).collect();
    Some((Message { method, target, host, body, fields }, end + 4 + length))
}

fn chunked(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let line = at + bytes[at..].windows(2).position(|window| window == b"\r\n")?;
        let size = std::str::from_utf8(&bytes[at..line]).expect("a size");
        let size = usize::from_str_radix(size, 16).unwrap_or_else(|_| panic!("a size: {size:?}"));
        let data = line + 2;
        if size == 0 {
            // Trailers, if any.
            let mut at = data;
            loop {
                let end = at + bytes[at..].windows(2).position(|window| window == b"\r\n")?;
                if end == at {
                    return Some((body, end + 2));
                }
                at = end + 2;
            }
        }
        body.extend_from_slice(bytes.get(data..data + size)?);
        assert_eq!(bytes.get(data + size..data + size + 2)?, b"\r\n", "the end of a chunk");
        at = data + size + 2;
    }
}

/// An application that answers every message with 200 and closes, and keeps all bytes that came. Dropping it closes every connection.
#[derive(Debug)]
pub struct Recorder {
    /// Where it listens.
    pub address: SocketAddr,
    connections: Arc<Mutex<Vec<Connection>>>,
    _tasks: JoinSet<()>,
}

#[derive(Clone, Debug, Default)]
struct Connection {
    bytes: Vec<u8>,
    is_closed: bool,
}

/// What came over one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// All bytes.
    pub bytes: Vec<u8>,
    /// Whole messages.
    pub messages: Vec<Message>,
    /// Bytes after the last whole one.
    pub left: usize,
}

impl Recorder {
    /// Starts one that sends `answer` to each whole message and then closes.
    ///
    /// # Panics
    /// When there is no port.
    pub async fn answering(answer: &'static [u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let connections: Arc<Mutex<Vec<Connection>>> = Arc::default();
        let all = Arc::clone(&connections);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut tasks = JoinSet::new();
            loop {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                let all = Arc::clone(&all);
                let index = {
                    let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
                    all.push(Connection::default());
                    all.len() - 1
                };
                tasks.spawn(async move {
                    let (mut bytes, mut read) = (Vec::new(), 0);
                    // A reset is an end too.
                    while let Ok(1..) = stream.read_buf(&mut bytes).await {
                        all.lock().unwrap_or_else(PoisonError::into_inner)[index].bytes.clone_from(&bytes);
                        while let Some((_, length)) = message(&bytes[read..]) {
                            read += length;
                            if stream.write_all(answer).await.is_err() {
                                break;
                            }
                            drop(stream.shutdown().await);
                        }
                    }
                    all.lock().unwrap_or_else(PoisonError::into_inner)[index].is_closed = true;
                });
            }
        });
        Self { address, connections, _tasks: tasks }
    }

    /// Starts one that answers 200 without a body.
    pub async fn start() -> Self {
        Self::answering(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await
    }

    /// Takes what came over connections that are closed; waits until all are.
    pub async fn take(&self) -> Vec<Recorded> {
        eventually("connections to the application are closed", async || {
            let mut all = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
            let open = all.iter().filter(|connection| !connection.is_closed).count();
            if open > 0 {
                return Err(format!("{open} are open"));
            }
            // Tasks hold indices: emptied only when none runs.
            Ok(std::mem::take(&mut *all))
        })
        .await
        .into_iter()
        .filter(|connection| !connection.bytes.is_empty())
        .map(|connection| recorded(connection.bytes))
        .collect()
    }
}

fn recorded(bytes: Vec<u8>) -> Recorded {
    let (mut messages, mut read) = (Vec::new(), 0);
    while let Some((message, length)) = message(&bytes[read..]) {
        messages.push(message);
        read += length;
    }
    Recorded { left: bytes.len() - read, bytes, messages }
}

/// One raw request of the corpus.
#[derive(Clone, Debug)]
pub struct Case {
    /// Its name.
    pub name: String,
    /// What becomes of each request in it.
    pub verdict: Vec<Verdict>,
    /// What is sent.
    pub bytes: Vec<u8>,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Passed on and answered.
    Passed,
    /// Answered with this status.
    Refused(u16),
    /// Not whole.
    Waits,
}

/// The requests of `corpora/http1_requests.txt`, whose first lines say how it is written.
///
/// # Panics
/// When it is written otherwise.
pub fn corpus() -> Vec<Case> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpora/http1_requests.txt");
    let text = std::fs::read_to_string(path).expect("the corpus");
    let lines = text.lines().filter(|line| !line.starts_with("# "));
    lines
        .map(|line| {
            let mut parts = line.splitn(3, " | ");
            let mut part = || parts.next().unwrap_or_else(|| panic!("a case: {line}"));
            let name = part().to_owned();
            let verdict = part().split(' ').map(verdict).collect();
            Case { name, verdict, bytes: unescaped(part()) }
        })
        .collect()
}

fn verdict(word: &str) -> Verdict {
    match word {
        "ok" => Verdict::Passed,
        "wait" => Verdict::Waits,
        status => Verdict::Refused(status.parse().unwrap_or_else(|_| panic!("a verdict: {status}"))),
    }
}

fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        bytes.extend_from_slice(before.as_bytes());
        let (byte, count, length) = match after.as_bytes() {
            [b'r', ..] => (b'\r', 1, 1),
            [b'n', ..] => (b'\n', 1, 1),
            [b't', ..] => (b'\t', 1, 1),
            [b'\\', ..] => (b'\\', 1, 1),
            [b'x', ..] => (u8::from_str_radix(&after[1..3], 16).expect("two digits"), 1, 3),
            [b'{', byte, b'*', ..] => {
                let end = after.find('}').expect("an end");
                (*byte, after[3..end].parse().expect("a count"), end + 1)
            }
            _ => panic!("an escape: \\{after}"),
        };
        bytes.extend(std::iter::repeat_n(byte, count));
        rest = &after[length..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}
