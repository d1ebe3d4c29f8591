//! The operators' side: probes, metrics, and a JSON API that reads and never changes anything.
//!
//! ```text
//!   GET  /live  /ready  /metrics
//!   GET  /api/v1/status   what is in force, what is wrong with what is not, how far each sidecar is
//!   GET  /api/v1/config   the snapshot in force
//!   POST /api/v1/diff     what documents would change, without changing it
//!   GET  /debug/syncz     the sidecars alone
//! ```
//!
//! Plain HTTP, on loopback unless told otherwise. No answer holds a key or a token.

mod diff;
mod view;

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use parking_lot::RwLock;
use tokio::sync::Semaphore;

use crate::identity::Beliefs;
use crate::planner::Plan;
use crate::push::Fanout;
use crate::telemetry::Metrics;

/// What Prometheus 3 insists on.
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";
/// As much as one file of documents may hold.
const BODY_BYTES_MAX: usize = 16 << 20;
/// Each keeps a core busy.
const COMPILES_MAX: usize = 2;

/// What the answers are made from.
#[derive(Clone, Debug)]
pub(crate) struct Admin {
    plan: Arc<RwLock<Arc<Plan>>>,
    fanout: Arc<Fanout>,
    beliefs: Beliefs,
    metrics: Arc<Metrics>,
    compiles: Arc<Semaphore>,
}

impl Admin {
    pub(crate) fn new(
        plan: Arc<RwLock<Arc<Plan>>>,
        fanout: Arc<Fanout>,
        beliefs: Beliefs,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { plan, fanout, beliefs, metrics, compiles: Arc::new(Semaphore::new(COMPILES_MAX)) }
    }

    pub(crate) fn router(self) -> Router {
        Router::new()
            .route("/live", get(|| async { "live\n" }))
            .route("/ready", get(ready))
            .route("/metrics", get(metrics))
            .route("/api/v1/status", get(status))
            .route("/api/v1/config", get(config))
            .route("/api/v1/diff", post(diff::diff))
            .route("/debug/syncz", get(syncz))
            .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
            .with_state(self)
    }

    fn plan(&self) -> Arc<Plan> {
        Arc::clone(&self.plan.read())
    }
}

async fn ready(State(admin): State<Admin>) -> (StatusCode, String) {
    let plan = admin.plan();
    if plan.snapshot.is_some() {
        return (StatusCode::OK, "ready\n".to_owned());
    }
    let problems: Vec<String> = plan.problems.iter().map(ToString::to_string).collect();
    let why = format!("not ready: there are no good documents to push yet\n\n{}\n", problems.join("\n\n"));
    (StatusCode::SERVICE_UNAVAILABLE, why)
}

async fn metrics(State(admin): State<Admin>) -> Response {
    match admin.metrics.exposition() {
        Ok(text) => ([(header::CONTENT_TYPE, EXPOSITION)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn status(State(admin): State<Admin>) -> Response {
    let trust = admin.beliefs.report(&admin.fanout.connected());
    Json(view::Status::of(&admin.plan(), trust, admin.fanout.report())).into_response()
}

async fn config(State(admin): State<Admin>) -> Response {
    Json(view::Config::of(&admin.plan())).into_response()
}

async fn syncz(State(admin): State<Admin>) -> Response {
    Json(view::Sidecars::of(admin.fanout.report())).into_response()
}
