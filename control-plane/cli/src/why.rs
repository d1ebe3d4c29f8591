//! `penstock why`: why a request went where it went.

mod words;

use std::io::stdout;
use std::process::ExitCode;

use anyhow::{Context, bail};
use hyper::StatusCode;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::fetch::{self, HttpClient, Site};
use crate::output::{self, Colour, Fault, Form};

/// Tells why a request went where it went: what each endpoint would have cost, who could not be chosen, who refused, what came of it.
///
/// Each sidecar remembers the last requests that it was to send to a Backend, at most 4,096. Exit codes: 0; 1 when no sidecar that
/// was asked knows the request; 2 when one that could know it cannot be asked.
#[derive(Debug, clap::Args)]
pub(crate) struct Flags {
    /// Its x-request-id, as the answer and the access log have it
    #[arg(value_name = "REQUEST_ID")]
    request_id: String,
    /// Admin address of the sidecar beside its caller; several may be asked
    #[arg(
        long,
        value_name = "URL",
        env = "PENSTOCK_SIDECAR",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:4791",
        value_parser = Site::parse
    )]
    sidecar: Vec<Site>,
    /// Form of the answer: sentences and tables, or JSON
    #[arg(short, long, value_enum, default_value_t = Form::Text)]
    output: Form,
    /// The same as `--output json`
    #[arg(long, conflicts_with = "output")]
    json: bool,
}

/// What a sidecar knows.
#[derive(Clone, Debug, Deserialize)]
struct Page {
    requests: Vec<Request>,
}

/// One request.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    request_id: Plain,
    ago_ms: f64,
    backend: Plain,
    prompt_tokens: Option<u64>,
    call: Option<Call>,
    promised: Promised,
    attempts: Vec<Attempt>,
    outcome: Option<Outcome>,
}

impl Request {
    fn is_priced(&self) -> bool {
        self.attempts.iter().flat_map(|attempt| &attempt.endpoints).any(|row| row.cost.is_some())
    }
}

/// What it demanded where it generates no text.
#[derive(Clone, Debug, Deserialize)]
struct Call {
    unit: Plain,
    units: u64,
}

/// What its caller was promised.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Promised {
    first_token_ms: Option<f64>,
    token_ms: Option<f64>,
    wait_ms: Option<f64>,
}

/// One choice of an endpoint.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Attempt {
    at_ms: f64,
    policy: Plain,
    reason: Option<Plain>,
    nobody: Option<Plain>,
    level: Option<Level>,
    counts: Counts,
    endpoints: Vec<Row>,
    patience: Option<Patience>,
    ended: Option<Ended>,
    /// At the door of the server.
    waited_ms: Option<f64>,
    questions: Option<Questions>,
}

/// Who was asked how they stand, before another choice.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Questions {
    asked: u64,
    answered: u64,
    took_ms: f64,
}

/// Among which costs it was drawn.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Level {
    level_ms: f64,
    expected_ms: f64,
    near: bool,
    near_share: f64,
}

/// Endpoints by what kept them from being chosen.
#[derive(Clone, Debug, Deserialize)]
struct Counts {
    open: u64,
    full: u64,
    spare: u64,
    tried: u64,
    ejected: u64,
    unready: u64,
    draining: u64,
    other_model: u64,
}

/// One endpoint.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    endpoint: Plain,
    role: Plain,
    state: Plain,
    inflight: u64,
    tokens_inflight: u64,
    cost: Option<Cost>,
}

/// What placing the request there would have cost.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cost {
    total_ms: f64,
    first_token_ms: f64,
    wait_ms: f64,
    prompt_ms: f64,
    room_ms: f64,
    others_ms: f64,
    harm_ms: f64,
    more_ms: f64,
    report_age_ms: Option<f64>,
    own_since: u64,
    cached_tokens: u64,
    chance: Option<f64>,
}

/// How long the endpoint was told that it may take.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Patience {
    first_token_ms: Option<f64>,
}

/// How an attempt ended.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "how", rename_all = "lowercase", rename_all_fields = "camelCase")]
enum Ended {
    Answered { at_ms: f64, status: u16 },
    Failed { at_ms: f64, fault: Plain, message: Plain },
    Refused { at_ms: f64, reason: Plain, first_token_ms: Option<f64>, load: Option<Load> },
}

/// How an endpoint stood that refused.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Load {
    prompt_tokens_pending: f64,
    sequences_running: u64,
    sequences_waiting: u64,
    kv_tokens_used: u64,
    kv_tokens_total: u64,
}

/// How a request ended.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Outcome {
    at_ms: f64,
    status: u16,
    classification: Plain,
    error: Option<Plain>,
    message: Option<Plain>,
    first_byte_ms: Option<f64>,
    first_token_ms: Option<f64>,
    input_tokens: Option<u64>,
    cached_tokens: Option<u64>,
    output_tokens: Option<u64>,
}

/// Text that callers and endpoints may have had a hand in.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Plain(String);

impl<'de> Deserialize<'de> for Plain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(output::plain(&text)))
    }
}

/// Asks and prints.
///
/// # Errors
/// When nobody knows the request, or one who might cannot be asked.
pub(crate) async fn run(flags: &Flags) -> Result<ExitCode, Fault> {
    let client = fetch::client();
    let mut faults = Vec::new();
    let mut text = String::new();
    let colour = Colour::of(&stdout());
    for site in &flags.sidecar {
        match ask(site, &client, &flags.request_id).await {
            Ok(page) if flags.json || flags.output == Form::Json => {
                text.push_str(&output::json(&page).map_err(|error| Fault::new(2, error))?);
            }
            Ok(page) => {
                let page = Page::read(page).map_err(|error| Fault::new(2, error))?;
                text.push_str(&words::page(&page, site, colour));
            }
            Err(fault) => faults.push(fault),
        }
    }
    if text.is_empty() {
        // Who cannot be asked might have known it.
        faults.sort_by_key(|fault| matches!(fault, Unanswered::Unknown(_)));
        let told: Vec<String> = faults.iter().map(ToString::to_string).collect();
        let exit = if matches!(faults.first(), Some(Unanswered::Unknown(_))) { 1 } else { 2 };
        return Err(Fault::new(exit, anyhow::anyhow!("{}", told.join("\n"))));
    }
    output::print(&text).map_err(|error| Fault::new(2, error))?;
    for fault in faults {
        output::talk(fault);
    }
    Ok(ExitCode::SUCCESS)
}

/// Why a sidecar tells nothing.
#[derive(Debug)]
enum Unanswered {
    /// It knows of no such request.
    Unknown(String),
    /// It cannot be asked.
    Unreachable(anyhow::Error),
}

impl std::fmt::Display for Unanswered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unknown(said) => f.write_str(said),
            Self::Unreachable(error) => write!(f, "{error:#}"),
        }
    }
}

async fn ask(site: &Site, client: &HttpClient, request_id: &str) -> Result<Value, Unanswered> {
    let id: String = form_urlencoded::byte_serialize(request_id.as_bytes()).collect();
    let path = format!("/why?request-id={id}");
    let asked = site.page(client, &path).await.map_err(|error| {
        let advice = "Is a sidecar running there? Name its admin address with --sidecar.";
        Unanswered::Unreachable(anyhow::anyhow!("{error:#}\n       {advice}"))
    });
    let (status, body) = asked?;
    let said = || output::plain(String::from_utf8_lossy(&body).trim());
    match status {
        StatusCode::OK => {
            let page = serde_json::from_slice(&body).context(NO_PAGE).map_err(Unanswered::Unreachable)?;
            Ok(page)
        }
        StatusCode::NOT_FOUND => Err(Unanswered::Unknown(format!("{}: {}", site.url(""), said()))),
        _ => {
            Err(Unanswered::Unreachable(anyhow::anyhow!("{} answered {status}: {}", site.url(&path), said())))
        }
    }
}

const NO_PAGE: &str = "the answer is not that of a sidecar of this version";

impl Page {
    fn read(page: Value) -> anyhow::Result<Self> {
        let page: Self = serde_json::from_value(page).context(NO_PAGE)?;
        if page.requests.is_empty() {
            bail!(NO_PAGE);
        }
        Ok(page)
    }
}
