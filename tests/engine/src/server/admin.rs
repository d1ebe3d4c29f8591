//! Pages for operators and tests.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::Service;
use super::account::Left;
use super::faults::FaultOrder;
use super::live::{Survey, Turned};
use super::reply::{Body, Refusal};
use crate::scheduler::Phase;

/// `GET /v1/models`.
pub(crate) async fn models(State(service): State<Arc<Service>>) -> Response {
    let context_max = service.options.context_max();
    let root = service.options.model();
    let created = service.live.created_unix_s();
    let model = |name: &String| {
        json!({
            "id": name, "object": "model", "created": created, "owned_by": "penstock",
            "root": root, "parent": null, "max_model_len": context_max,
        })
    };
    let models: Vec<Value> = service.options.models.iter().map(model).collect();
    service.json(&json!({"object": "list", "data": models}))
}

/// `GET /metrics`.
pub(crate) async fn metrics(State(service): State<Arc<Service>>) -> Response {
    let page = service
        .live
        .survey(|survey| super::metrics::render(service.options.model(), survey, &service.traffic));
    ([(header::CONTENT_TYPE, super::metrics::CONTENT_TYPE)], page).into_response()
}

/// `GET /admin/stats`: the same facts as the metrics, exact, with the last aborts one by one.
pub(crate) async fn stats(State(service): State<Arc<Service>>) -> Response {
    let traffic = &service.traffic;
    let stats = service.live.survey(|survey| {
        let (gauges, totals, account) = (&survey.gauges, &survey.totals, survey.account);
        let aborts: Vec<Value> = account.recently_left.iter().map(|left| abort(left, survey)).collect();
        json!({
            "now_unix_ms": survey.clock.unix_ms(survey.now),
            "running": gauges.running,
            "waiting": gauges.waiting,
            "kv_blocks_used": gauges.blocks_pinned,
            "kv_blocks_cached": gauges.blocks_idle,
            "kv_blocks_total": gauges.blocks_total,
            "accepted_requests": totals.accepted,
            "refused_requests": totals.refused,
            "unavailable_requests": account.rejected_unavailable,
            "finished_requests": account.ended_stop + account.ended_length,
            "aborted_requests": account.ended_abort,
            "torn_responses": account.torn,
            "preemptions": totals.preemptions,
            "steps": totals.steps,
            "sequence_steps": totals.sequence_steps,
            "prompt_tokens": account.prompt_tokens,
            "prompt_tokens_cached": account.prompt_tokens_cached,
            "generation_tokens": account.generation_tokens,
            "wasted_steps": totals.wasted_steps,
            "saved_tokens": totals.saved_output_tokens,
            "saved_prompt_tokens": totals.saved_prompt_tokens,
            "last_slot_freed_unix_ms": account.last_slot_freed.map(|at| survey.clock.unix_ms(at)),
            "aborts": aborts,
            "requests_received": traffic.requests(),
            "request_body_bytes": traffic.request_bytes(),
            "response_body_bytes": traffic.response_bytes(),
        })
    });
    service.json(&stats)
}

fn abort(left: &Left, survey: &Survey<'_>) -> Value {
    let aborted = &left.aborted;
    let phase = match aborted.phase {
        Phase::Waiting => "waiting",
        Phase::Prefill => "prefill",
        Phase::Decode => "decode",
        Phase::Finishing => "finishing",
    };
    json!({
        "request_id": left.request_id,
        "phase": phase,
        "noticed_unix_ms": survey.clock.unix_ms(left.noticed),
        "freed_unix_ms": survey.clock.unix_ms(aborted.free_at),
        "slot_free_ms": aborted.free_at.since(left.noticed) as f64 / 1e6,
        "output_tokens": aborted.output_tokens,
        "saved_tokens": aborted.saved_output_tokens,
        "saved_prompt_tokens": aborted.saved_prompt_tokens,
        "wasted_steps": aborted.wasted_steps,
    })
}

/// `/health` and `/ping`: whether it can work.
pub(crate) async fn health(State(service): State<Arc<Service>>) -> Result<(), Refusal> {
    if service.live.survey(|survey| survey.faults.loading_at(survey.now)) {
        return Err(Turned::Loading.into());
    }
    Ok(())
}

/// `GET /admin/faults`: what goes wrong at present.
pub(crate) async fn faults(State(service): State<Arc<Service>>) -> Response {
    service.json(&service.live.survey(|survey| survey.faults.report(survey.now)))
}

/// `POST /admin/faults`: makes things go wrong; answers as the `GET` would afterwards.
pub(crate) async fn order_faults(
    State(service): State<Arc<Service>>,
    body: Body,
) -> Result<Response, Refusal> {
    let order: FaultOrder = service.read(body)?;
    service
        .live
        .order_faults(&order)
        .map_err(|fault| Refusal::new(StatusCode::BAD_REQUEST, fault.to_string()))?;
    tracing::info!(?order, "faults ordered");
    Ok(service.json(&service.live.survey(|survey| survey.faults.report(survey.now))))
}
