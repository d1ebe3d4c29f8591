//! What a request demands of a model server, and whether it comes in there.

use std::sync::Arc;
use std::time::Duration;

use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use penstock_dialect::reply::ErrorCode;
use penstock_dialect::work::{self, Seen};
use penstock_model::snapshot::{Affinity, LoadBalancer, Zones};
use penstock_policy::ledger::Shape;
use penstock_policy::objective::{self, Promised, is_about};
use penstock_policy::prefix::{Asked, Boundary};
use penstock_policy::speed::{Call, Size, Unit};

use super::Stop;
use super::exchange::Exchange;
use super::headers;
use crate::clock;
use crate::fleet::Needs;
use crate::listen::caller::{Caller, CallerError, Then};
use crate::load::calls::CallStay;
use crate::load::engines::{Engine, Offered, Refused, Stay};
use crate::load::waiting::Waiting;
use crate::load::wire::{self, Demand};
use crate::upstream::call::{Failure, Promise, Target};

/// How long a first token may take, in milliseconds, by the caller's word: llm-d's field, and its older spelling.
const FIRST_TOKEN: [&str; 2] = ["x-llm-d-slo-ttft-ms", "x-slo-ttft-ms"];
/// The same between tokens.
const TOKEN: [&str; 2] = ["x-llm-d-slo-tpot-ms", "x-slo-tpot-ms"];

/// Most milliseconds that a caller can ask for: a day.
const SPAN_MS_MAX: f64 = 86_400_000.0;

/// Where a request names its session, in this order: llm-d's default, and what agents send.
const SESSION: [&str; 5] =
    ["x-session-token", "x-session-affinity", "x-claude-code-session-id", "session-id", "session_id"];

/// Inbound: gives the request a place in the application's account, at once or after it has waited for one. A call always comes in.
///
/// # Errors
/// When it would come too late here: the caller's sidecar chooses again.
pub(super) async fn let_in(
    caller: &mut Caller,
    exchange: &mut Exchange,
    engine: &Arc<Engine>,
) -> Result<(), Stop> {
    let fields = &caller.head().headers;
    let demand = wire::read_demand(fields).filter(|_| exchange.dialect().generates());
    exchange.engine = Some(Arc::clone(engine));
    let now = clock::now();
    let Some(demand) = demand else {
        let call = wire::read_call(fields).filter(|_| !exchange.dialect().generates());
        exchange.call = call.map(|call| CallStay::begin(engine, call, now));
        return Ok(());
    };
    let offered = engine.offer(demand, wire::read_patience(fields), wire::read_promise(fields, now), now);
    let passed = match offered {
        Ok(Offered::In(stay)) => Ok(stay),
        // On the heap: it is rare, and an open stream must not hold its room.
        Ok(Offered::Waits(waiting)) => {
            let passed = Box::pin(wait(caller, exchange, waiting)).await;
            exchange.waited = Some(clock::now().since(now));
            passed?
        }
        Err(refused) => Err(refused),
    };
    match passed {
        Ok(stay) => {
            exchange.stay = Some(stay);
            Ok(())
        }
        Err(refused) => Err(Stop::Refused(refusal(exchange, refused))),
    }
}

/// Until it is let in or refused, or its caller leaves. Who waits while the sidecar drains goes elsewhere at once: nothing was done for it
/// yet, and at the end of the drain it would be cut with all that it has waited for.
async fn wait(
    caller: &mut Caller,
    exchange: &Exchange,
    waiting: Waiting,
) -> Result<Result<Stay, Refused>, Stop> {
    exchange.shared.telemetry.metrics.door_waits.inc();
    let mut draining = exchange.shared.draining.clone();
    tokio::select! {
        biased;
        passed = waiting.end() => Ok(passed),
        gone = caller.body_or_gone(false) => Err(Stop::Caller(match gone {
            Err(gone) => gone,
            Ok(_) => CallerError::Gone("the client went on without an answer".to_owned()),
        })),
        Ok(_) = draining.wait_for(|draining| *draining) => {
            let message = "the sidecar is shutting down, and the request waited to be let in";
            Err(Stop::Refused(Failure::new(ErrorCode::Draining, message)))
        }
    }
}

/// The answer to a request that is not let in, counted.
fn refusal(exchange: &mut Exchange, refused: Refused) -> Failure {
    let reason = refused.refusal.as_str();
    exchange.refusal = Some(refused);
    let backend = exchange.chosen.as_ref().and_then(|chosen| chosen.backend.as_ref());
    exchange.shared.telemetry.metrics.refused("inbound", backend, reason);
    let message = format!(
        "{}; the first token would take {:.0} ms here",
        refused.refusal.why(),
        refused.terms.first_token_ms()
    );
    Failure::new(ErrorCode::Refused, message)
}

/// Inbound: a body that waits for it may come, now that the request has been let in.
///
/// # Errors
/// When the caller is gone.
pub(super) async fn ask_for_body(caller: &mut Caller) -> Result<(), CallerError> {
    if !caller.head().headers.contains_key(&wire::BODY) {
        return Ok(());
    }
    let (mut head, ()) = Response::new(()).into_parts();
    head.status = StatusCode::CONTINUE;
    head.headers.insert(wire::ACCEPTED, HeaderValue::from_static("1"));
    caller.send_head(head, Then::Later).await
}

/// Outbound: whether an endpoint is chosen by what the request demands.
fn is_priced(exchange: &Exchange) -> bool {
    let target = exchange.chosen.as_ref().map(|chosen| &chosen.target);
    let Some(Target::Backend(state)) = target else { return false };
    state.policy.load_balancer == LoadBalancer::LeastCost && exchange.upgrade.is_none()
}

/// Outbound: whether its body is read for that.
pub(super) fn needs_body(exchange: &Exchange) -> bool {
    let dialect = exchange.dialect();
    is_priced(exchange) && (dialect.generates() || dialect.call_unit() == Some(work::Unit::Tokens))
}

/// What is known of its body.
fn seen<'a>(exchange: &'a Exchange, fields: &HeaderMap) -> Seen<'a> {
    let length = headers::text(fields, &CONTENT_LENGTH).and_then(|text| text.parse::<u64>().ok());
    let bytes = exchange.request_bytes;
    Seen {
        facts: exchange.scanner.as_ref().map(|body| body.0.facts()),
        bytes,
        bytes_all: if exchange.is_held_whole { Some(bytes) } else { length },
    }
}

/// Outbound: the call that the request is; `None` where that is not asked, or where it is none.
fn call(exchange: &Exchange, fields: &HeaderMap) -> Option<Call> {
    let asked = exchange.asked.as_ref().filter(|_| is_priced(exchange))?;
    let found = asked.dialect.call(&asked.method, seen(exchange, fields))?;
    let unit = match found.unit {
        work::Unit::Tokens => Unit::Tokens,
        work::Unit::Items => Unit::Items,
        work::Unit::Bytes => Unit::Bytes,
    };
    Some(Call { unit, units: u32::try_from(found.units).unwrap_or(u32::MAX) })
}

/// Outbound: what the request demands, as far as its body has come. `None` where that is not asked or cannot be read.
fn demand(exchange: &Exchange, fields: &HeaderMap) -> Option<Demand> {
    if !is_priced(exchange) || !exchange.dialect().generates() {
        return None;
    }
    let tokens = u32::try_from(seen(exchange, fields).prompt_tokens()).unwrap_or(u32::MAX);
    let shape = if is_streaming(exchange) { Shape::Stream } else { Shape::Whole };
    (tokens > 0).then_some(Demand { size: Size { tokens, cached_tokens: 0 }, shape })
}

/// Outbound: whether the request asks for a stream, as far as its body has come. The flag may stand behind a prompt that is not whole yet;
/// whoever sends such a one mostly streams.
fn is_streaming(exchange: &Exchange) -> bool {
    let is_flagged = exchange.scanner.as_ref().is_some_and(|body| body.0.facts().streaming);
    is_flagged || !exchange.is_held_whole
}

/// Outbound: whether the endpoints differ in the models that they serve.
pub(super) fn needs_model(target: &Target) -> bool {
    matches!(target, Target::Backend(state) if state.needs_model())
}

/// Outbound: what the request needs of an endpoint.
pub(super) fn needs(exchange: &Exchange, fields: &HeaderMap) -> Needs {
    let target = exchange.chosen.as_ref().map(|chosen| &chosen.target);
    let Some(Target::Backend(state)) = target else { return Needs::default() };
    let policy = &state.policy;
    let demand = demand(exchange, fields);
    let keeps_sessions =
        policy.affinity == Affinity::Session || policy.load_balancer == LoadBalancer::ConsistentHash;
    let zone = exchange.shared.settings.load().zone.clone();
    Needs {
        demand,
        call: call(exchange, fields),
        prefix: asked(exchange, demand),
        model: exchange.scanner.as_ref().and_then(|body| body.0.facts().model.as_deref()).map(Box::from),
        session: session(fields).filter(|_| keeps_sessions).map(Box::from),
        zone: zone.filter(|_| policy.zones == Zones::OwnFirst),
    }
}

/// The session that the request belongs to, by its own word.
fn session(fields: &HeaderMap) -> Option<&str> {
    SESSION.iter().find_map(|name| fields.get(*name)?.to_str().ok()).filter(|session| !session.is_empty())
}

/// Outbound: its prompt, to be looked up among what endpoints have cached. `None` where there is nothing to look up, or no key to do it with.
fn asked(exchange: &Exchange, demand: Option<Demand>) -> Option<Asked> {
    let keys = exchange.shared.identity.prefix_keys()?;
    let tokens = demand?.size.tokens;
    let prompt = boundaries(exchange);
    (!prompt.is_empty()).then(|| Asked::new(&prompt, tokens, &keys))
}

/// Inbound: the body has ended, and it is known what the engine will have computed.
pub(super) fn prompt_is_whole(exchange: &mut Exchange) {
    if exchange.stay.is_none() {
        return;
    }
    let prompt = boundaries(exchange);
    let facts = exchange.scanner.as_ref().map(|body| body.0.facts());
    let estimated = facts.map_or(0, |facts| facts.prompt_tokens_estimate());
    if let Some(stay) = exchange.stay.as_mut().filter(|_| !prompt.is_empty()) {
        stay.asked(prompt, u32::try_from(estimated).unwrap_or(u32::MAX));
    }
}

/// Places of the prompt, as far as its body has come.
fn boundaries(exchange: &Exchange) -> Vec<Boundary> {
    let found = exchange.scanner.as_ref().map(|body| body.0.prefix()).unwrap_or_default();
    let boundary = |boundary: penstock_dialect::prefix::Boundary| {
        Some(Boundary { tokens: u32::try_from(boundary.tokens()).ok()?, hash: boundary.hash })
    };
    found.into_iter().map_while(boundary).collect()
}

/// Outbound: how long its first token may take.
///
/// # Errors
/// When the caller says so in a field that is no number.
pub(super) fn promise(exchange: &Exchange, fields: &HeaderMap) -> Result<Promise, Failure> {
    let target = exchange.chosen.as_ref().map(|chosen| &chosen.target);
    let Some(Target::Backend(state)) = target else { return Ok(Promise::default()) };
    let wait = Some(state.policy.queue_wait_max);
    let Promised { first_token, token } = promised(exchange);
    let least = |one: Option<Duration>, other: Option<Duration>| one.into_iter().chain(other).min();
    Ok(Promise {
        since: exchange.started,
        first_token: least(span(fields, FIRST_TOKEN)?, first_token),
        token: least(span(fields, TOKEN)?, token),
        wait,
    })
}

/// What the platform has promised to such requests.
fn promised(exchange: &Exchange) -> Promised {
    let Some(chosen) = &exchange.chosen else { return Promised::default() };
    let rule = chosen.rule.as_ref().map(|matched| (&matched.route().id, &*matched.rule().name));
    let slos = exchange.fleet.snapshot.parts().slos.values().map(|slo| &**slo);
    let about = slos.filter(|slo| slo.sheds && is_about(&slo.target, chosen.backend.as_ref(), rule));
    let facts = exchange.scanner.as_ref().map(|body| body.0.facts());
    let model = facts.as_ref().and_then(|facts| facts.model.as_deref());
    objective::promised(about, model, is_streaming(exchange))
}

/// Milliseconds in the first of these fields that is there.
fn span(fields: &HeaderMap, names: [&str; 2]) -> Result<Option<Duration>, Failure> {
    let Some((name, value)) = names.iter().find_map(|name| Some((name, fields.get(*name)?))) else {
        return Ok(None);
    };
    let ms = value.to_str().ok().and_then(|text| text.trim().parse::<f64>().ok());
    let ms = ms.filter(|ms| (0.0..=SPAN_MS_MAX).contains(ms)).ok_or_else(|| {
        let written = String::from_utf8_lossy(value.as_bytes());
        let shown: String = written.chars().take(40).collect::<String>().escape_debug().collect();
        let message = format!(
            "`{name}` is `{shown}`; write a number of milliseconds, at most {SPAN_MS_MAX}, or leave it out"
        );
        Failure::new(ErrorCode::BadRequest, message)
    })?;
    Ok(Some(Duration::from_secs_f64(ms * 1e-3)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(written: &[(&'static str, &'static str)], expected: Result<Option<u64>, &str>) {
        let fields = written
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_static(value)));
        let found = span(&HeaderMap::from_iter(fields), FIRST_TOKEN);
        let found = found.map(|span| span.map(|span| span.as_micros() as u64));
        match (found, expected) {
            (Err(failure), Err(message)) => {
                assert!(failure.message.starts_with(message), "{}", failure.message);
            }
            (found, expected) => assert_eq!(found.ok(), expected.ok(), "{written:?}"),
        }
    }

    #[test]
    fn a_promise_is_a_number_of_milliseconds_or_is_told_to_be_none() {
        check(&[], Ok(None));
        check(&[("x-llm-d-slo-ttft-ms", "250")], Ok(Some(250_000)));
        check(&[("x-slo-ttft-ms", " 0.5 ")], Ok(Some(500)));
        check(&[("x-slo-ttft-ms", "9"), ("x-llm-d-slo-ttft-ms", "7")], Ok(Some(7_000)));
        for bad in ["", "fast", "-1", "NaN", "inf", "1e12", "250ms"] {
            check(&[("x-llm-d-slo-ttft-ms", bad)], Err("`x-llm-d-slo-ttft-ms` is `"));
        }
        check(&[("x-slo-ttft-ms", "soon")], Err("`x-slo-ttft-ms` is `soon`; write a number of milliseconds"));
    }
}
