//! Steady traffic beside a test, of which every request counts.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::client::{Connection, Version};
use crate::engine::chat;
use crate::wait::{eventually, within};

/// Callers at the same time: as many as two cores can serve without waiting.
const CALLERS: usize = 6;

/// Callers that ask without pause, half of them for streams, over both versions of HTTP.
#[derive(Debug)]
pub struct Load {
    answered: Arc<AtomicU64>,
    stop: watch::Sender<bool>,
    callers: JoinSet<Vec<String>>,
}

impl Load {
    /// Starts to ask the default backend at `outbound`.
    pub fn start(outbound: SocketAddr) -> Self {
        let (stop, stopped) = watch::channel(false);
        let answered = Arc::default();
        let mut callers = JoinSet::new();
        for number in 0..CALLERS {
            callers.spawn(call(number, outbound, Arc::clone(&answered), stopped.clone()));
        }
        Self { answered, stop, callers }
    }

    /// How many requests were answered so far, well or badly.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Waits until so many more have been answered.
    pub async fn more(&self, requests: u64) {
        let wanted = self.answered() + requests;
        eventually("traffic goes on", async || {
            if self.answered() >= wanted { Ok(()) } else { Err(format!("{} of {wanted}", self.answered())) }
        })
        .await;
    }

    /// Lets every request end; gives what went wrong.
    ///
    /// # Panics
    /// When a caller hangs.
    pub async fn end(self) -> Vec<String> {
        self.stop.send_replace(true);
        within("every caller ends", self.callers.join_all()).await.concat()
    }
}

async fn call(
    number: usize,
    outbound: SocketAddr,
    answered: Arc<AtomicU64>,
    stop: watch::Receiver<bool>,
) -> Vec<String> {
    let version = Version::BOTH[number % 2];
    let stream = number % 4 < 2;
    let mut faults = Vec::new();
    let mut turn = 0;
    let mut kept = Connection::open(version, outbound).await;
    while !*stop.borrow() {
        turn += 1;
        let id = format!("load-{number}-{turn}");
        let body = chat(&id, json!({"stream": stream, "max_tokens": 20, "ignore_eos": true}));
        if let Err(fault) = ask(&mut kept, &id, &body).await {
            faults.push(format!("{id} ({version}): {fault}"));
            kept = Connection::open(version, outbound).await;
        }
        answered.fetch_add(1, Ordering::Relaxed);
    }
    faults
}

/// One whole answer, or why it is none.
async fn ask(connection: &mut Connection, id: &str, body: &Value) -> Result<(), String> {
    let mut request = connection.post("/v1/chat/completions", body);
    request.headers_mut().insert("x-request-id", id.parse().expect("an id"));
    let answer =
        within("an answer", connection.try_send(request)).await.map_err(|error| format!("{error:?}"))?;
    let status = answer.status();
    let whole = within("the end of an answer", answer.into_body().collect()).await;
    let text = String::from_utf8_lossy(&whole.map_err(|error| format!("{error:?}"))?.to_bytes()).into_owned();
    let ends = if body["stream"] == true { text.ends_with("data: [DONE]\n\n") } else { text.ends_with('}') };
    if status == 200 && ends && !text.contains("\"error\"") {
        Ok(())
    } else {
        Err(format!("{status} {text}"))
    }
}
