//! Reads a request body until its model is known, within bounds, and keeps an eye on the rest as it passes.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use penstock_dialect::reply::ErrorCode;
use penstock_dialect::scan::{Head, Progress, Scanner};
use penstock_model::names::{BackendId, ParentId};
use penstock_model::snapshot::BodyOverflow;
use tokio::time::{timeout, timeout_at};

use super::exchange::{Body, Exchange};
use super::{Stop, headers};
use crate::clock;
use crate::listen::caller::{Caller, CallerError};
use crate::listen::line::STALL_MAX;
use crate::upstream::call::Failure;
use crate::upstream::session::WITH_HEAD_BYTES_MAX;

/// Bytes of a request that are held until it is known what it demands: a quarter of a million tokens. What is beyond is guessed.
const PROMPT_HELD_MAX: u64 = 1 << 20;
/// Longest wait for more of them, and for all that does not travel with the head: a caller in the same pod needs a millisecond for it.
const PROMPT_PAUSE_MAX: Duration = Duration::from_millis(100);
/// SGLang's name for `content-encoding`.
const SGLANG_ENCODING: &str = "x-body-compressed";

/// How holding a body ended.
#[derive(Debug)]
pub(super) enum Held {
    /// The model is known, or there is none.
    Known,
    /// A bound was reached first; the request is routed without the model.
    Unknown,
    /// The request must not be sent.
    Refused(Failure),
}

/// Starts reading a request that can name a model: its path, then its body. Plain HTTP is not read, nor is a body that is compressed: we would have to
/// guess.
pub(super) fn begin(exchange: &mut Exchange, fields: &HeaderMap) {
    let Some(asked) = exchange.asked.clone().filter(|asked| asked.dialect.names_model()) else { return };
    let encoding = fields.get(CONTENT_ENCODING).or_else(|| fields.get(SGLANG_ENCODING));
    let head = Head {
        path: &asked.path,
        content_type: headers::text(fields, &CONTENT_TYPE),
        content_encoding: encoding.map(|value| value.to_str().unwrap_or("unknown")),
    };
    let scanner = Scanner::new(asked.dialect, head);
    let is_compared = asked.dialect.generates() && exchange.shared.identity.prefix_keys().is_some();
    exchange.scanner = Some(Body(if is_compared { scanner.with_prefix() } else { scanner }));
}

/// Whether the model may still come with the body.
pub(super) fn is_model_awaited(exchange: &Exchange) -> bool {
    exchange.scanner.as_ref().is_some_and(|body| {
        matches!(body.0.progress(), Progress::Scanning | Progress::Conflict | Progress::Malformed)
    })
}

/// Holds the body until the model is known. Reading it is also how a client that leaves is noticed.
///
/// # Errors
/// When the client leaves or breaks the framing.
pub(super) async fn hold_until_model_known(
    caller: &mut Caller,
    exchange: &mut Exchange,
    parent: &ParentId,
) -> Result<Held, CallerError> {
    let policy = exchange.fleet.snapshot.policy_of(&BackendId(parent.name.clone()));
    let (bytes_max, overflow) = (policy.body_held_bytes_max, policy.body_overflow);
    loop {
        let read = timeout(STALL_MAX, caller.body()).await;
        let Ok(read) = read else {
            let message = "nothing of the request body came for 60 s while its model was looked for";
            return Ok(Held::Refused(Failure::new(ErrorCode::Deadline, message)));
        };
        let Some(chunk) = read? else {
            exchange.is_held_whole = true;
            return Ok(finish(exchange));
        };
        exchange.request_bytes += chunk.len() as u64;
        let progress = scan(exchange, &chunk);
        let bytes = chunk.len();
        exchange.held.push_back(chunk);
        match progress {
            Progress::Conflict | Progress::Malformed => return Ok(Held::Refused(defect(exchange))),
            Progress::Scanning if exchange.request_bytes >= bytes_max => {
                return Ok(overflown(exchange, overflow, "request"));
            }
            Progress::Scanning | Progress::ModelKnown | Progress::ModelAbsent => {}
        }
        if !exchange.held_memory.grow(bytes) {
            return Ok(overflown(exchange, overflow, "total"));
        }
        if progress != Progress::Scanning {
            exchange.is_held_whole = caller.is_body_done();
            return Ok(Held::Known);
        }
    }
}

/// Holds so much of the body as tells how much it demands of a model server and what of it is cached where: all of it, up to
/// [`PROMPT_HELD_MAX`], unless its caller is slow.
///
/// # Errors
/// When the client leaves or breaks the framing.
pub(super) async fn hold_prompt(caller: &mut Caller, exchange: &mut Exchange) -> Result<(), Stop> {
    let mut until = clock::now() + PROMPT_PAUSE_MAX;
    while !exchange.is_held_whole && exchange.request_bytes < PROMPT_HELD_MAX {
        // One that pauses is sent on as far as it is there.
        let Ok(read) = timeout_at(clock::instant(until), caller.body()).await else { return Ok(()) };
        let Some(chunk) = read? else {
            exchange.is_held_whole = true;
            return Ok(());
        };
        let bytes = chunk.len();
        body_passes(&chunk, exchange)?;
        exchange.held.push_back(chunk);
        exchange.is_held_whole = caller.is_body_done();
        if !exchange.held_memory.grow(bytes) {
            return Ok(());
        }
        if exchange.request_bytes <= WITH_HEAD_BYTES_MAX {
            until = clock::now() + PROMPT_PAUSE_MAX;
        }
    }
    Ok(())
}

/// A chunk of the request's body passes.
///
/// # Errors
/// When the request must be broken off.
pub(super) fn body_passes(bytes: &Bytes, exchange: &mut Exchange) -> Result<(), Stop> {
    exchange.request_bytes += bytes.len() as u64;
    refuse_defect(exchange, bytes).map_err(Stop::Refused)
}

/// Looks at a chunk that passes. Where no rule went by the model, a body that is not what the path promises is the application's own
/// business.
///
/// # Errors
/// When the request must be broken off: a rule went by the model, and the body can be read in another way.
fn refuse_defect(exchange: &mut Exchange, chunk: &Bytes) -> Result<(), Failure> {
    let progress = scan(exchange, chunk);
    if exchange.is_model_decisive && matches!(progress, Progress::Conflict | Progress::Malformed) {
        return Err(defect(exchange));
    }
    Ok(())
}

fn scan(exchange: &mut Exchange, chunk: &[u8]) -> Progress {
    exchange.scanner.as_mut().map_or(Progress::ModelAbsent, |body| body.0.push(chunk))
}

/// The body has ended before a model came.
fn finish(exchange: &Exchange) -> Held {
    match exchange.scanner.as_ref().and_then(|body| body.0.error()) {
        Some(error) => Held::Refused(Failure::new(ErrorCode::BadRequest, error.to_string())),
        None => Held::Known,
    }
}

fn defect(exchange: &Exchange) -> Failure {
    let error = exchange.scanner.as_ref().and_then(|body| body.0.error());
    let message = error.map_or_else(|| "the request body cannot be read".to_owned(), ToString::to_string);
    Failure::new(ErrorCode::BadRequest, message)
}

fn overflown(exchange: &Exchange, overflow: BodyOverflow, limit: &'static str) -> Held {
    let (action, held) = match overflow {
        BodyOverflow::Route => ("route", Held::Unknown),
        BodyOverflow::Reject => {
            let message = format!(
                "`model` was not found in the first {} bytes of the body, which is as much as the {limit} limit lets \
                 the sidecar hold; put `model` before the long fields, or name it in `x-gateway-model-name`",
                exchange.request_bytes
            );
            ("reject", Held::Refused(Failure::new(ErrorCode::BodyTooLarge, message)))
        }
    };
    exchange.shared.telemetry.metrics.body_overflows.with_label_values(&[limit, action]).inc();
    held
}
