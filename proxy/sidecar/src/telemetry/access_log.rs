//! One JSON object a line for each request. Never a body, never a credential.

use std::fs::OpenOptions;
use std::io::{BufWriter, Write, stdout};
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::Mutex;
use penstock_model::names::{BackendId, ParentId, RouteId};
use penstock_model::settings::AccessLog;
use serde::Serialize;

use crate::clock;

/// Everything about one request that has ended.
#[derive(Debug)]
pub struct Entry<'a> {
    /// `outbound` or `inbound`.
    pub direction: &'static str,
    /// From `x-request-id`.
    pub request_id: &'a str,
    /// From `traceparent`.
    pub trace_id: Option<&'a str>,
    /// Who connected.
    pub source: Option<SocketAddr>,
    /// The peer's SPIFFE ID.
    pub peer: Option<&'a str>,
    /// `true`, `false` or `no_identity`.
    pub tls: &'static str,
    /// Method.
    pub method: &'a str,
    /// Host and port as asked for.
    pub authority: &'a str,
    /// Path without query.
    pub path: &'a str,
    /// `HTTP/1.1` or `HTTP/2`.
    pub protocol: &'static str,
    /// Service or Backend that the authority named.
    pub parent: Option<&'a ParentId>,
    /// Route and rule that matched.
    pub route: Option<(&'a RouteId, &'a str)>,
    /// Where it was sent.
    pub backend: Option<&'a BackendId>,
    /// The endpoint that answered, or was tried last.
    pub endpoint: Option<SocketAddr>,
    /// How many endpoints were tried.
    pub attempts: u32,
    /// `openai_chat`, `http`, …
    pub dialect: &'static str,
    /// Model asked for.
    pub model: Option<&'a str>,
    /// Whether a stream was asked for.
    pub streaming: bool,
    /// Status that the caller received; 0 if none.
    pub status: u16,
    /// From the trailers or headers of a gRPC answer.
    pub grpc_status: Option<u32>,
    /// `success`, `failure`, `shed` or `cancelled`.
    pub classification: &'static str,
    /// Code of an answer made by a sidecar.
    pub error: Option<&'static str>,
    /// More on it, for people.
    pub reason: Option<&'a str>,
    /// Bytes of the request's body.
    pub request_bytes: u64,
    /// Bytes of the answer's body.
    pub response_bytes: u64,
    /// From the request's headers to its end.
    pub duration: Duration,
    /// … to the answer's first byte.
    pub time_to_first_byte: Option<Duration>,
    /// … to the first event with content.
    pub time_to_first_token: Option<Duration>,
    /// Mean time of each token after the first.
    pub time_per_output_token: Option<Duration>,
    /// Whether that was computed from events because no usage was reported.
    pub tokens_estimated: bool,
    /// Token counts as reported by the engine.
    pub input_tokens: Option<u64>,
    /// See above.
    pub output_tokens: Option<u64>,
    /// See above.
    pub cached_tokens: Option<u64>,
    /// See above.
    pub reasoning_tokens: Option<u64>,
}

#[derive(Serialize)]
struct Line<'a> {
    time_unix_ms: u128,
    direction: &'a str,
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<&'a str>,
    source: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<&'a str>,
    tls: &'a str,
    method: &'a str,
    authority: &'a str,
    path: &'a str,
    protocol: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backend: Option<String>,
    endpoint: Option<SocketAddr>,
    attempts: u32,
    dialect: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
    streaming: bool,
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    grpc_status: Option<u32>,
    classification: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    request_bytes: u64,
    response_bytes: u64,
    duration_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttfb_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttft_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tpot_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    input_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cached_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_tokens: Option<u64>,
}

/// Writes lines from a thread of its own: a log that cannot be written never holds up a request.
#[derive(Debug)]
pub struct AccessLogWriter {
    lines: Option<SyncSender<Vec<u8>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Lines that may wait for the disk; more are dropped and counted.
const LINES_MAX: usize = 8_192;
/// How long a line may wait for others.
const GATHER_TIME: Duration = Duration::from_millis(20);

impl AccessLogWriter {
    /// Opens what the settings name.
    ///
    /// # Errors
    /// When the file cannot be opened for appending, or no thread can be had.
    pub fn open(settings: &AccessLog) -> anyhow::Result<Self> {
        let out: Box<dyn Write + Send> = match settings {
            AccessLog::Off => return Ok(Self { lines: None, thread: Mutex::default() }),
            AccessLog::Stdout => Box::new(stdout()),
            AccessLog::File(path) => {
                let file = OpenOptions::new().create(true).append(true).open(path);
                let file = file.map_err(|e| {
                    anyhow::anyhow!("the access log {} cannot be opened for appending: {e}", path.display())
                })?;
                Box::new(file)
            }
        };
        let (lines, taken) = sync_channel(LINES_MAX);
        let thread =
            thread::Builder::new().name("access-log".to_owned()).spawn(move || write(out, &taken))?;
        Ok(Self { lines: Some(lines), thread: Mutex::new(Some(thread)) })
    }

    /// Writes one line; false when it had to be dropped.
    #[must_use]
    pub fn write(&self, entry: &Entry<'_>) -> bool {
        let Some(lines) = &self.lines else { return true };
        let Ok(mut line) = serde_json::to_vec(&Line::from(entry)) else { return false };
        line.push(b'\n');
        lines.try_send(line).is_ok()
    }

    /// Returns when whatever was taken is written; nothing is written after that.
    pub fn close(&self) {
        let (Some(lines), Some(thread)) = (&self.lines, self.thread.lock().take()) else { return };
        // An empty line is the end.
        if lines.send(Vec::new()).is_ok() {
            thread.thread().unpark();
        }
        // A writer that panicked has nothing more to write.
        drop(thread.join());
    }
}

impl Drop for AccessLogWriter {
    fn drop(&mut self) {
        self.close();
    }
}

/// Wakes for the first line and writes all that have come a little later: waking for each would cost as much as its request.
fn write(out: Box<dyn Write + Send>, taken: &Receiver<Vec<u8>>) {
    let mut out = BufWriter::new(out);
    let mut is_open = true;
    while is_open && let Ok(first) = taken.recv() {
        is_open = !first.is_empty();
        if is_open {
            thread::park_timeout(GATHER_TIME);
        }
        let mut written = out.write_all(&first);
        while let Ok(line) = taken.try_recv() {
            is_open &= !line.is_empty();
            written = written.and_then(|()| out.write_all(&line));
        }
        if let Err(error) = written.and_then(|()| out.flush()) {
            tracing::debug!(%error, "the access log cannot be written");
        }
    }
}

impl<'a> From<&Entry<'a>> for Line<'a> {
    fn from(entry: &Entry<'a>) -> Self {
        let ms = |span: Duration| (span.as_secs_f64() * 1_000_000.0).round() / 1_000.0;
        Self {
            time_unix_ms: clock::unix_time().as_millis(),
            direction: entry.direction,
            request_id: entry.request_id,
            trace_id: entry.trace_id,
            source: entry.source,
            peer: entry.peer,
            tls: entry.tls,
            method: entry.method,
            authority: entry.authority,
            path: entry.path,
            protocol: entry.protocol,
            parent: entry.parent.map(ToString::to_string),
            route: entry.route.map(|(route, rule)| format!("{route}#{rule}")),
            backend: entry.backend.map(ToString::to_string),
            endpoint: entry.endpoint,
            attempts: entry.attempts,
            dialect: entry.dialect,
            model: entry.model,
            streaming: entry.streaming,
            status: entry.status,
            grpc_status: entry.grpc_status,
            classification: entry.classification,
            error: entry.error,
            reason: entry.reason,
            request_bytes: entry.request_bytes,
            response_bytes: entry.response_bytes,
            duration_ms: ms(entry.duration),
            ttfb_ms: entry.time_to_first_byte.map(ms),
            ttft_ms: entry.time_to_first_token.map(ms),
            tpot_ms: entry.time_per_output_token.map(ms),
            input_tokens: entry.input_tokens,
            output_tokens: entry.output_tokens,
            cached_tokens: entry.cached_tokens,
            reasoning_tokens: entry.reasoning_tokens,
        }
    }
}
