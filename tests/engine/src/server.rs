//! The live model server: OpenAI's API over the scheduler.
//!
//! ```text
//! socket ─► accept ─► router ─► chat · completion · embedding ─► live (scheduler + clock)
//!                                    ▲ words (prompt in, text out)      │ tokens
//!                                    ╰──────────── answer ◄─────────────╯
//! ```

mod account;
mod admin;
mod answer;
mod ask;
mod chat;
mod completion;
mod embedding;
mod faults;
mod infer;
mod live;
mod metrics;
mod options;
mod prompt;
mod reply;
mod rerank;
mod tools;
mod traffic;
mod vector;

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::{Listener, ListenerExt};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::clock::Clock;
use crate::scheduler::Engine;
use crate::tasks::{Task, spawn};
use crate::text::Prose;
use live::Live;
pub use options::Options;
use reply::Refusal;
use traffic::Traffic;

/// Largest request body, in bytes; longer ones are refused with 413.
const BODY_BYTES_MAX: usize = 64 << 20;

/// Requests at the same time on one HTTP/2 connection.
const STREAMS_MAX: u32 = 4_096;

/// Header that names a request from end to end.
const REQUEST_ID: &str = "x-request-id";

/// What an engine does and has done, without asking over a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Sequences in the batch.
    pub running: usize,
    /// Sequences that wait for a place.
    pub waiting: usize,
    /// Prompt tokens that no step has taken yet.
    pub prompt_tokens_pending: u64,
    /// Requests accepted so far.
    pub accepted: u64,
    /// Of these, the ones whose caller left.
    pub aborted: u64,
}

/// A running engine. Dropping it closes every connection and frees the port.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    live: Arc<Live>,
    _accepting: Task,
    _stepping: Task,
}

impl Server {
    /// Starts to listen and to serve.
    ///
    /// # Errors
    /// The options contradict each other, or the address cannot be bound.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(options.listen)
            .await
            .with_context(|| format!("cannot listen on {}", options.listen))?;
        let listener = listener.tap_io(|stream| {
            // A token is small: it must not wait for the next one.
            let _refused = stream.set_nodelay(true);
        });
        Self::start_on(options, listener, Clock::start())
    }

    /// Serves what `listener` accepts, of whatever transport.
    ///
    /// # Errors
    /// The options contradict each other.
    pub fn start_on(
        options: Options,
        listener: impl Listener<Addr = SocketAddr>,
        clock: Clock,
    ) -> anyhow::Result<Self> {
        let engine = Engine::new(options.profile, options.limits(), options.pace(), options.seed)?;
        let live = Live::new(engine, options.speed, clock);
        let address = listener.local_addr()?;
        let prose = Prose::shipped()?;
        let service =
            Arc::new(Service { live: Arc::clone(&live), prose, options, traffic: Traffic::default() });
        let stepping = spawn(Arc::clone(&live).run());
        let accepting = spawn(accept(listener, router(service)));
        Ok(Self { address, live, _accepting: accepting, _stepping: stepping })
    }

    /// Where it listens; the port is real even if 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it does at this moment.
    pub fn load(&self) -> Load {
        self.live.survey(|survey| Load {
            running: survey.gauges.running as usize,
            waiting: survey.gauges.waiting as usize,
            prompt_tokens_pending: survey.prompt_tokens_pending,
            accepted: survey.totals.accepted,
            aborted: survey.account.ended_abort,
        })
    }

    /// Makes things go wrong, in the JSON of `POST /admin/faults`.
    ///
    /// # Errors
    /// The order cannot be understood or contradicts itself.
    pub fn order_faults(&self, order: &serde_json::Value) -> anyhow::Result<()> {
        let order = serde_json::from_value(order.clone())?;
        Ok(self.live.order_faults(&order)?)
    }
}

/// What every request needs.
#[derive(Debug)]
struct Service {
    live: Arc<Live>,
    prose: Prose,
    options: Options,
    traffic: Traffic,
}

/// The name of the request at hand: the caller's, or one of ours.
#[derive(Clone, Debug)]
struct RequestId(String);

fn router(service: Arc<Service>) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat::serve))
        .route("/v1/completions", post(completion::serve))
        .route("/v1/embeddings", post(embedding::serve))
        .route("/rerank", post(rerank::serve))
        .route("/v1/rerank", post(rerank::serve))
        .route("/v2/rerank", post(rerank::serve))
        .route("/v2/models/{model}/infer", post(infer::serve))
        .route("/v2/models/{model}/versions/{version}/infer", post(infer::serve_version))
        .route("/v1/models", get(admin::models))
        .route("/tokenize", post(prompt::tokenize))
        .route("/detokenize", post(prompt::detokenize))
        .route("/health", get(admin::health))
        .route("/ping", get(admin::health).post(admin::health))
        .route("/metrics", get(admin::metrics))
        .route("/admin/stats", get(admin::stats))
        .route("/admin/faults", get(admin::faults).post(admin::order_faults))
        .fallback(unknown_path)
        .method_not_allowed_fallback(unknown_method)
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&service), name_request))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(service)
}

async fn unknown_path(uri: Uri) -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, format!("there is nothing at {}", uri.path()))
}

async fn unknown_method(request: Request) -> Refusal {
    let message = format!("{} does not answer {}", request.uri().path(), request.method());
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, message)
}

/// Counts the request, names it, and says the name in the response.
async fn name_request(State(service): State<Arc<Service>>, mut request: Request, next: Next) -> Response {
    let number = service.traffic.request();
    let given = request.headers().get(REQUEST_ID).cloned();
    let id = match given.as_ref().and_then(|value| value.to_str().ok()) {
        Some(given) => given.to_owned(),
        None => format!("{:016x}", crate::mix::roll(service.options.seed, number)),
    };
    let echo = given.or_else(|| HeaderValue::from_str(&id).ok());
    request.extensions_mut().insert(RequestId(id));
    let mut response = next.run(request).await;
    if let Some(echo) = echo {
        response.headers_mut().insert(REQUEST_ID, echo);
    }
    response
}

/// Serves HTTP/1.1 and HTTP/2 on each connection; all of them end with this future.
async fn accept(mut listener: impl Listener, router: Router) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            Some(_) = connections.join_next() => {}
            (stream, _) = listener.accept() => {
                let service = TowerToHyperService::new(router.clone());
                connections.spawn(async move {
                    let mut server = auto::Builder::new(TokioExecutor::new());
                    server.http2().max_concurrent_streams(STREAMS_MAX);
                    // Callers that vanish are no error here: their tickets have been dropped.
                    let _gone = server.serve_connection(TokioIo::new(stream), service).await;
                });
            },
        }
    }
}

impl Service {
    /// The name of the model to answer as.
    ///
    /// # Errors
    /// Nobody serves under that name here.
    fn model(&self, asked: Option<&str>) -> Result<String, Refusal> {
        let models = &self.options.models;
        match asked {
            None => Ok(self.options.model().to_owned()),
            Some(asked) if models.iter().any(|model| model == asked) => Ok(asked.to_owned()),
            Some(asked) => {
                let message = format!("the model {asked:?} is not here; served: {}", models.join(", "));
                Err(Refusal::new(StatusCode::NOT_FOUND, message).about("model"))
            }
        }
    }

    /// How many output tokens a prompt of that length may have.
    ///
    /// # Errors
    /// The prompt leaves no room for any.
    fn output_room(&self, prompt_tokens: usize) -> Result<u32, Refusal> {
        let context_max = self.options.context_max();
        match context_max.checked_sub(prompt_tokens as u32) {
            Some(room) if room > 0 => Ok(room),
            _ => Err(Refusal::new(
                StatusCode::BAD_REQUEST,
                format!(
                    "the prompt has {prompt_tokens} tokens, and prompt and output together may have {context_max}"
                ),
            )),
        }
    }

    fn json(&self, body: &impl serde::Serialize) -> Response {
        match serde_json::to_vec(body) {
            Ok(body) => {
                self.traffic.sent(body.len());
                let kind = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
                (kind, body).into_response()
            }
            Err(error) => Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        }
    }

    /// Reads a JSON body.
    ///
    /// # Errors
    /// It could not be read to its end, or is not the JSON that is expected.
    fn read<T: serde::de::DeserializeOwned>(&self, body: reply::Body) -> Result<T, Refusal> {
        let body: Bytes =
            body.map_err(|rejection| Refusal::new(rejection.status(), rejection.body_text()))?;
        self.traffic.received(body.len());
        serde_json::from_slice(&body).map_err(|error| {
            Refusal::new(StatusCode::BAD_REQUEST, format!("the body cannot be read: {error}"))
        })
    }
}
