//! Asks endpoints whether they are ready: those of Backends with a `healthCheck` that nobody else reports readiness of.
//!
//! Each endpoint has a task. It sends a GET over the same connections and the same TLS as requests, so an endpoint that cannot be
//! trusted is not ready either. What an answer, or none, means is decided in `penstock_policy::health`.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;

use http::header::{ACCEPT, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method};
use penstock_model::names::EndpointId;
use penstock_model::snapshot::{HealthCheck, Protocol};
use penstock_policy::health::{Belief, Seen};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{sleep, timeout};

use super::{BackendState, EndpointState, Fleet};
use crate::http::headers;
use crate::live::Live;
use crate::seed;
use crate::tasks::Tasks;
use crate::telemetry::Telemetry;
use crate::upstream::attempt::{self, Failed, Head, Part};
use crate::upstream::call::Call;
use crate::upstream::place::{Carrier, Place};
use crate::upstream::pool::{Pool, Terms};

/// So much of an answer is read, so that its connection can be used again; only its status counts.
const ANSWER_BYTES_MAX: usize = 64 << 10;
const WHO_ASKS: HeaderValue =
    HeaderValue::from_static(concat!("penstock-proxy/", env!("CARGO_PKG_VERSION"), " health-check"));

/// So many endpoints are asked at once: a new snapshot may bring thousands.
const ASKED_MAX: usize = 256;

/// Asks endpoints; cheap to clone.
#[derive(Clone, Debug)]
pub struct Prober {
    live: Arc<Live>,
    pool: Arc<Pool>,
    telemetry: Arc<Telemetry>,
    tasks: Tasks,
    turns: Arc<Semaphore>,
}

/// What one endpoint is asked. Equal ones are the same task.
#[derive(Clone, Debug)]
struct Question {
    state: Arc<EndpointState>,
    check: Arc<HealthCheck>,
    place: Place,
    authority: String,
}

impl PartialEq for Question {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.state, &other.state)
            && self.check == other.check
            && self.place == other.place
            && self.authority == other.authority
    }
}

/// Where an endpoint is asked; the connection is kept with those of its requests.
pub fn place(backend: &BackendState, state: &EndpointState, check: &HealthCheck) -> Place {
    let endpoint = &state.endpoint;
    match check.port {
        Some(port) if endpoint.sidecar.is_none() => {
            Place::outside(backend, SocketAddr::new(endpoint.id.address.ip(), port), Protocol::Http)
        }
        _ => Place::of_endpoint(backend, endpoint),
    }
}

impl Prober {
    /// Asks the endpoints of `live` over the connections of `pool`.
    pub fn new(live: Arc<Live>, pool: Arc<Pool>, telemetry: Arc<Telemetry>, tasks: Tasks) -> Self {
        Self { live, pool, telemetry, tasks, turns: Arc::new(Semaphore::new(ASKED_MAX)) }
    }

    /// Asks the endpoints of the current fleet, for ever.
    pub async fn run(self) {
        let mut published = self.live.watch();
        let mut asked: BTreeMap<EndpointId, (Question, oneshot::Sender<Infallible>)> = BTreeMap::new();
        loop {
            let mut wanted = questions(&self.live.load());
            asked.retain(|id, (question, _)| wanted.get(id) == Some(question));
            wanted.retain(|id, _| !asked.contains_key(id));
            for (id, question) in wanted {
                let (keep, dropped) = oneshot::channel();
                asked.insert(id, (question.clone(), keep));
                let prober = self.clone();
                self.tasks.spawn("health check", async move {
                    tokio::select! {
                        biased;
                        _ = dropped => {}
                        never = prober.keep_asking(&question) => match never {},
                    }
                });
            }
            if published.changed().await.is_err() {
                return;
            }
        }
    }

    async fn keep_asking(&self, question: &Question) -> Infallible {
        loop {
            let turn = self.turns.acquire().await;
            let (seen, note) = self.ask(question).await;
            drop(turn);
            self.tell(question, seen, &note);
            let jitter = 0.9 + 0.2 * seed::share();
            sleep(question.check.interval.mul_f64(jitter)).await;
        }
    }

    async fn ask(&self, question: &Question) -> (Seen, String) {
        let limit = question.check.timeout;
        match timeout(limit, self.exchange(question)).await {
            Ok(Ok(answered)) => answered,
            Ok(Err(failed)) => (Seen::Silence, format!("could not be asked ({})", failed.message)),
            Err(_) => (Seen::Silence, format!("did not answer within {limit:?}")),
        }
    }

    async fn exchange(&self, question: &Question) -> Result<(Seen, String), Failed> {
        let Question { check, place, .. } = question;
        let Some(head) = head(question) else {
            return Ok((Seen::Silence, format!("cannot be asked: `{}` is no path", check.path)));
        };
        let terms = Terms { connect_timeout: check.timeout, streams_max: u32::MAX };
        let call = Call::of_our_own();
        let (response, mut answer) = attempt::attempt(&self.pool, place, terms, head, &call).await?;
        let (mut read, mut is_over) = (0, answer.is_over());
        while !is_over && read <= ANSWER_BYTES_MAX {
            match poll_fn(|context| answer.poll_part(context)).await? {
                Part::Chunk { bytes, is_last } => {
                    read += bytes.len();
                    is_over = is_last;
                }
                Part::End(_) => is_over = true,
            }
        }
        answer.release(&self.pool, place, &call.upload);
        let status = response.status();
        let made_by_sidecar =
            place.carrier == Carrier::Mesh && response.headers().contains_key(headers::ERROR);
        let note = format!("answered {} to GET {}", status.as_u16(), check.path);
        Ok(if made_by_sidecar {
            (Seen::Silence, format!("did not answer its sidecar, which {note}"))
        } else if status.is_success() {
            (Seen::Ready, note)
        } else {
            (Seen::Refusal, note)
        })
    }

    fn tell(&self, Question { state, check, .. }: &Question, seen: Seen, note: &str) {
        let id = &state.endpoint.id.backend.0;
        let result = match seen {
            Seen::Ready => "ready",
            Seen::Refusal => "refusal",
            Seen::Silence => "silence",
        };
        self.telemetry.metrics.health_checks.with_label_values(&[&*id.namespace, &*id.name, result]).inc();
        let address = state.endpoint.id.address;
        match state.probed.observe(seen, note, check) {
            Some(Belief::Ready) => tracing::info!(backend = %id, %address, "the endpoint is ready"),
            Some(_) => {
                tracing::warn!(backend = %id, %address, why = note, "the endpoint is not ready any more");
            }
            None => tracing::debug!(backend = %id, %address, note, "asked for readiness"),
        }
    }
}

fn questions(fleet: &Fleet) -> BTreeMap<EndpointId, Question> {
    let mut questions = BTreeMap::new();
    for backend in fleet.backends() {
        for state in &backend.endpoints {
            if let Some(check) = backend.health_check_of(&state.endpoint) {
                let place = place(backend, state, check);
                let authority = match backend.origin() {
                    Some(origin) => origin.tls().hostname.to_string(),
                    None => place_of_application(state, check).to_string(),
                };
                let question =
                    Question { state: Arc::clone(state), check: Arc::clone(check), place, authority };
                questions.insert(state.endpoint.id.clone(), question);
            }
        }
    }
    questions
}

fn place_of_application(state: &EndpointState, check: &HealthCheck) -> SocketAddr {
    let address = state.endpoint.id.address;
    SocketAddr::new(address.ip(), check.port.unwrap_or(address.port()))
}

fn head(Question { state, check, place, authority }: &Question) -> Option<Head> {
    let headers = HeaderMap::from_iter([(USER_AGENT, WHO_ASKS), (ACCEPT, HeaderValue::from_static("*/*"))]);
    let target = check.path.parse().ok()?;
    let mut head = Head { method: Method::GET, target, authority: authority.clone(), headers };
    if place.carrier == Carrier::Mesh {
        head.address(&state.endpoint.id, 1);
    }
    Some(head)
}
