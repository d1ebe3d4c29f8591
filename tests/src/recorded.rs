//! The streams of `proxy/dialect/corpus`, and an application that answers with them.
//!
//! A request is answered with the stream whose name stands in its path or body, as a model does. `~between` after the name breaks the answer
//! off behind an event, `~inside` in the middle of one. [`SILENT`] in place of a name is never answered.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use futures::stream;
use http_body_util::BodyExt;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// A model that never answers.
pub const SILENT: &str = "silent";

/// One file of the corpus.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// The file's, without its ending.
    pub name: String,
    /// The label of its dialect.
    pub dialect: String,
    /// Of the answer.
    pub content_type: String,
    /// The answer.
    pub bytes: Bytes,
    /// The last line of the file: what is to be read in the answer.
    pub summary: String,
}

impl Recorded {
    /// All that are text and need no more than to be sent.
    ///
    /// # Panics
    /// When the corpus cannot be read.
    pub fn all() -> Vec<Recorded> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proxy/dialect/corpus/streams");
        let files = fs::read_dir(folder).expect("the corpus");
        let mut all: Vec<_> =
            files.filter_map(|file| Recorded::read(&file.expect("a file").path())).collect();
        all.sort_by(|one, other| one.name.cmp(&other.name));
        assert!(all.len() >= 60, "only {} recorded", all.len());
        all
    }

    fn read(path: &Path) -> Option<Recorded> {
        let text = fs::read_to_string(path).expect("text");
        let (head, rest) = text.split_once("\n----\n").expect("a head");
        let (input, result) = rest.split_once("\n----\n").expect("an input");
        let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        let input = match field("lines") {
            None => format!("{input}\n"),
            Some("crlf") => format!("{input}\n").replace('\n', "\r\n"),
            Some(_) => return None,
        };
        (!input.contains('«')).then(|| Recorded {
            name: path.file_stem().expect("a name").to_string_lossy().into_owned(),
            dialect: field("dialect").expect("a dialect").to_owned(),
            content_type: field("content-type").expect("a content type").to_owned(),
            bytes: Bytes::from(input),
            summary: result.lines().last().expect("a result").to_owned(),
        })
    }

    /// A count of the summary, as `input=12` says it.
    pub fn count(&self, name: &str) -> Option<u64> {
        let (_, after) = self.summary.split_once(&format!(" {name}="))?;
        after.split([' ', ',']).next()?.parse().ok()
    }

    /// How the answer ended.
    ///
    /// # Panics
    /// When the file does not say.
    pub fn ending(&self) -> &str {
        self.summary.rsplit("ending ").next().expect("an ending")
    }

    /// Behind the first event, or in the middle of the second.
    fn cut(&self, inside: bool) -> Bytes {
        let lines = self.content_type.contains("ndjson");
        let blank: &[u8] = if lines { b"\n" } else { b"\n\n" };
        let first = self.bytes.windows(blank.len()).position(|window| window == blank).expect("two events");
        self.bytes.slice(..first + blank.len() + if inside { 9 } else { 0 })
    }
}

/// The application. Dropping it closes every connection.
#[derive(Debug)]
pub struct Player {
    /// Where it listens.
    pub address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Player {
    /// Starts it.
    ///
    /// # Panics
    /// When there is no port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            axum::serve(listener, Router::new().fallback(play)).await.expect("an application");
        });
        Self { address, _tasks: tasks }
    }
}

async fn play(request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let asked = format!("{} {}", parts.uri.path(), String::from_utf8_lossy(&body));
    if asked.contains(SILENT) {
        std::future::pending::<()>().await;
    }
    let Some(found) = Recorded::all().into_iter().find(|recorded| asked.contains(&recorded.name)) else {
        return Response::builder().status(404).body(Body::empty()).expect("an answer");
    };
    let cut = ["~between", "~inside"].into_iter().find(|cut| asked.contains(cut));
    let body = match cut {
        None => Body::from_stream(stream::iter([Ok::<_, std::io::Error>(found.bytes)])),
        Some(cut) => {
            let gone = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
            let rest = stream::once(async { Err(gone) });
            // What was sent before has left when the connection breaks.
            let sent = stream::iter([Ok(found.cut(cut == "~inside"))]);
            let turn = stream::once(async {
                tokio::task::yield_now().await;
                Ok(Bytes::new())
            });
            Body::from_stream(futures::StreamExt::chain(futures::StreamExt::chain(sent, turn), rest))
        }
    };
    Response::builder().header("content-type", found.content_type).body(body).expect("an answer")
}
