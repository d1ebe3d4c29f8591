//! `/metrics`, `/live`, `/ready` and the status pages. Read-only.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use penstock_policy::health::Belief;
use penstock_policy::pick::cost::{CallReport, Told};
use penstock_policy::speed::{CallSpeed, Unit};
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use crate::clock;
use crate::http::Shared;
use crate::identity::Identity;
use crate::lifecycle::Readiness;
use crate::listen;
use crate::load::engines::Engine;
use crate::network::Accept;
use crate::sync::Sync;
use crate::tasks::Tasks;

/// What the pages show.
pub struct Admin {
    /// The data path's state.
    pub shared: Arc<Shared>,
    /// Whether to say ready.
    pub readiness: Readiness,
    /// How receiving snapshots stands.
    pub sync: Sync,
    /// Who the sidecar is.
    pub identity: Arc<Identity>,
}

const PAGES: &str = "/live /ready /metrics /clusters /config_dump /config/sync /settings /identity /latency /why?request-id=ID";

impl Admin {
    /// Serves the pages until `stop` turns true.
    pub async fn run(self, mut socket: Box<dyn Accept>, tasks: Tasks, mut stop: watch::Receiver<bool>) {
        let admin = Arc::new(self);
        while let Some(accepted) = listen::next(&mut *socket, "admin", &mut stop).await {
            let admin = Arc::clone(&admin);
            tasks.spawn("admin connection", async move {
                let service = service_fn(move |request: Request<Incoming>| {
                    let answer = admin.answer(request.method(), request.uri());
                    async move { Ok::<_, Infallible>(answer) }
                });
                let mut server = auto::Builder::new(TokioExecutor::new());
                server.http1().timer(TokioTimer::new());
                let served = server.serve_connection(TokioIo::new(accepted.wire), service).await;
                if let Err(error) = served {
                    tracing::debug!(error, "admin connection ended");
                }
            });
        }
    }

    fn answer(&self, method: &Method, uri: &Uri) -> Response<Full<Bytes>> {
        if *method != Method::GET && *method != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "these pages are read-only\n".to_owned());
        }
        match uri.path() {
            "/live" => text(StatusCode::OK, "live\n".to_owned()),
            "/ready" => match self.readiness.missing()[..] {
                [] => text(StatusCode::OK, "ready\n".to_owned()),
                ref missing => text(StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", missing.join("\n"))),
            },
            "/metrics" => self.metrics(),
            "/clusters" => page(&self.clusters()),
            "/config_dump" => page(&self.config_dump()),
            "/config/sync" => page(&self.sync.status()),
            "/settings" => page(&self.shared.settings.status()),
            "/identity" => page(&self.identity.status()),
            "/latency" => page(&json!({
                "apiVersion": "penstock.dev/v1alpha1",
                "kind": "Latency",
                "backends": self.shared.telemetry.latencies.rows(),
            })),
            "/why" => match self.shared.telemetry.why.page(uri.query().unwrap_or_default()) {
                Ok(found) => page(&found),
                Err(none) => text(none.status(), format!("{none}\n")),
            },
            _ => text(StatusCode::NOT_FOUND, format!("there is no such page; there are {PAGES}\n")),
        }
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        let metrics = &self.shared.telemetry.metrics;
        metrics.body_held_bytes.set(i64::try_from(self.shared.body_budget.held_bytes()).unwrap_or(i64::MAX));
        metrics.tasks.set(i64::try_from(Tasks::alive()).unwrap_or(i64::MAX));
        metrics.load_signal_age.reset();
        for (endpoint, scraped) in self.shared.scrapes.all() {
            if let Some(age) = scraped.age(clock::now()) {
                let labels = [&*endpoint.to_string(), "scrape"];
                metrics.load_signal_age.with_label_values(&labels).set(age.as_secs_f64());
            }
        }
        metrics.call_speed_error.reset();
        for (endpoint, engine) in self.shared.engines.all() {
            for (unit, error) in engine.call_errors() {
                let labels = [&*endpoint.to_string(), unit.as_str()];
                metrics.call_speed_error.with_label_values(&labels).set(error);
            }
        }
        for gauges in
            [&metrics.endpoint_load, &metrics.endpoint_capacity, &metrics.endpoint_state, &metrics.dns_stale]
        {
            gauges.reset();
        }
        metrics.patience_margin.reset();
        for backend in self.shared.live.load().backends() {
            let id = &backend.backend.id.0;
            let share = backend.margin().lock().share();
            metrics.patience_margin.with_label_values(&[&*id.namespace, &*id.name]).set(share);
            for state in &backend.endpoints {
                let endpoint = state.endpoint.id.address.to_string();
                let load = |signal, value| {
                    let labels = [&*id.namespace, &*id.name, &endpoint, signal];
                    metrics.endpoint_load.with_label_values(&labels).set(value);
                };
                load("inflight", i64::from(state.in_flight()));
                if let Some((Told { report, calls, .. }, age)) = state.last_told() {
                    load("prompt_tokens_pending", report.prompt_tokens_pending as i64);
                    load("running", report.sequences_running.into());
                    load("queued", report.sequences_waiting.into());
                    for (unit, calls) in Unit::ALL.into_iter().zip(calls) {
                        let pending = match unit {
                            Unit::Tokens => "call_tokens_pending",
                            Unit::Items => "call_items_pending",
                            Unit::Bytes => "call_bytes_pending",
                        };
                        calls.into_iter().for_each(|calls| load(pending, calls.units_ahead as i64));
                    }
                    load("kv_tokens_used", i64::try_from(report.kv_tokens_used).unwrap_or(i64::MAX));
                    let room = [
                        ("running", i64::from(report.sequences_max)),
                        ("kv_tokens", i64::try_from(report.kv_tokens_total).unwrap_or(i64::MAX)),
                    ];
                    for (signal, most) in room.into_iter().filter(|(_, most)| *most > 0) {
                        let labels = [&*id.namespace, &*id.name, &endpoint, signal];
                        metrics.endpoint_capacity.with_label_values(&labels).set(most);
                    }
                    let labels = [&*endpoint, "report"];
                    metrics.load_signal_age.with_label_values(&labels).set(age.as_secs_f64());
                }
                let now = backend.readiness(state);
                for belief in [Belief::Ready, Belief::Unready, Belief::Waiting] {
                    let labels = [&*id.namespace, &*id.name, &endpoint, readiness(belief)];
                    metrics.endpoint_state.with_label_values(&labels).set(i64::from(belief == now));
                }
            }
            for (host, known) in &backend.hosts {
                let is_stale = known.as_ref().is_some_and(|known| known.resolution.is_stale());
                metrics.dns_stale.with_label_values(&[&*host.name]).set(i64::from(is_stale));
            }
        }
        match metrics.text() {
            Ok(page) => answer(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", page),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        }
    }

    fn clusters(&self) -> Value {
        let fleet = self.shared.live.load();
        let backends = fleet.backends().map(|backend| {
            let endpoints = backend.endpoints.iter().map(|state| {
                json!({
                    "endpoint": state.endpoint.id.address,
                    "sidecar": state.endpoint.sidecar,
                    "weight": state.endpoint.attributes.weight,
                    "zone": state.endpoint.attributes.zone,
                    "state": readiness(backend.readiness(state)),
                    "lastHealthCheck": backend.health_check_of(&state.endpoint).map(|_| state.probed.note()),
                    "inflight": state.in_flight(),
                    "requests": state.requests(),
                    "load": state.last_told().map(|(told, age)| load(&told, Some(age))),
                })
            });
            let hosts = backend.hosts.iter().map(|(host, known)| {
                json!({
                    "host": host.to_string(),
                    "addresses": known.iter().flat_map(|known| known.resolution.addresses()).collect::<Vec<_>>(),
                    "lastError": known.as_ref().and_then(|known| known.error.clone()),
                })
            });
            json!({
                "backend": backend.backend.id.to_string(),
                "loadBalancer": backend.policy.load_balancer,
                "hosts": hosts.collect::<Vec<_>>(),
                "tls": backend.origin().map(|origin| &origin.tls().hostname),
                "endpoints": endpoints.collect::<Vec<_>>(),
            })
        });
        let now = clock::now();
        let applications = self.shared.scrapes.all();
        let applications = applications.iter().map(|(endpoint, scraped)| {
            let engine = self.shared.engines.known(*endpoint);
            json!({
                "endpoint": endpoint,
                "metrics": scraped.status(now),
                "load": engine.as_ref().map(|engine| load(&engine.report(now), None)),
                "speedErrors": engine.as_ref().map(|engine| engine.errors()),
                "callSpeedErrors": engine.map(|engine| call_errors(&engine)),
            })
        });
        json!({
            "apiVersion": "penstock.dev/v1alpha1",
            "kind": "Clusters",
            "backends": backends.collect::<Vec<_>>(),
            "applications": applications.collect::<Vec<_>>(),
        })
    }

    fn config_dump(&self) -> Value {
        let fleet = self.shared.live.load();
        json!({
            "apiVersion": "penstock.dev/v1alpha1",
            "kind": "ConfigDump",
            "source": self.shared.live.source().as_str(),
            "version": fleet.snapshot.version(),
            "snapshot": fleet.snapshot.parts(),
        })
    }
}

/// How a model server stands, for a page: at the sidecar that knows, or as it was told so long ago.
fn load(told: &Told, age: Option<Duration>) -> Value {
    let Told { draining, report, speed, calls, .. } = told;
    json!({
        "ageMs": age.map(|age| age.as_millis() as u64),
        "draining": draining,
        "promptTokensPending": report.prompt_tokens_pending.round(),
        "sequencesRunning": report.sequences_running,
        "sequencesWaiting": report.sequences_waiting,
        "sequencesMax": (report.sequences_max > 0).then_some(report.sequences_max),
        "longestWaitingMs": report.longest_waiting_ms.round(),
        "outputTokensMean": report.output_tokens_mean.round(),
        "kvTokensUsed": report.kv_tokens_used,
        "kvTokensTotal": report.kv_tokens_total,
        "bearableMs": report.bearable_ms.map(f64::round),
        "speed": speed.map(|speed| json!({
            "frontEndMs": speed.front_end_ms,
            "stepMs": speed.step_ms,
            "tokenUs": speed.token_us,
            "contextUs": speed.context_us,
            "attentionNs": speed.attention_ns,
            "stepTokensMax": speed.step_tokens_max,
        })),
        "calls": by_unit(Unit::ALL.into_iter().zip(calls).filter_map(|(unit, calls)| {
            let CallReport { units_ahead, speed, .. } = (*calls)?;
            let speed = speed.map(|CallSpeed { fixed_ms, unit_us, ahead_us }| {
                json!({"fixedMs": fixed_ms, "unitUs": unit_us, "aheadUs": ahead_us})
            });
            Some((unit, json!({"unitsAhead": units_ahead.round(), "speed": speed})))
        })),
    })
}

fn call_errors(engine: &Engine) -> Value {
    by_unit(engine.call_errors().into_iter().map(|(unit, error)| (unit, error.into())))
}

fn by_unit(told: impl Iterator<Item = (Unit, Value)>) -> Value {
    told.map(|(unit, value)| (unit.as_str().to_owned(), value)).collect::<Map<_, _>>().into()
}

/// An endpoint's state in pages and metrics.
fn readiness(belief: Belief) -> &'static str {
    match belief {
        Belief::Ready => "ready",
        Belief::Unready => "unready",
        Belief::Waiting => "pending",
    }
}

fn page(value: &Value) -> Response<Full<Bytes>> {
    let mut bytes = serde_json::to_vec_pretty(value).unwrap_or_default();
    bytes.push(b'\n');
    answer(StatusCode::OK, "application/json", bytes)
}

fn text(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    answer(status, "text/plain; charset=utf-8", text.into_bytes())
}

fn answer(status: StatusCode, content_type: &'static str, bytes: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(bytes)));
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    response
}
