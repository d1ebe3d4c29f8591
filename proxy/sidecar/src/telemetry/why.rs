//! What was decided for the requests of late, as the page `/why` shows it. `penstock why` makes sentences of it.

use std::time::Duration;

use http::StatusCode;
use parking_lot::Mutex;
use penstock_model::units::Moment;
use penstock_policy::gate::Refusal;
use penstock_policy::pick::cost::{Choice, NEAR, Report};
use penstock_policy::pick::{Considered, Role, Row, State};
use penstock_policy::why::{Attempt, Ended, Number, Outcome, STORIES_MAX, Stories, Story};
use serde_json::{Map, Value, json};

use crate::clock;

/// Longest id that a request has: a caller's that is longer is not taken over.
const REQUEST_ID_BYTES_MAX: usize = 200;

/// The stories of the latest requests. Each is told in a few short moments under one lock.
#[derive(Debug, Default)]
pub struct Why {
    stories: Mutex<Stories>,
}

/// Why there is nothing to show.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Nothing {
    /// The question is none.
    #[error(
        "the query of this page is request-id=ID, where ID is the x-request-id of the access log, of at most {REQUEST_ID_BYTES_MAX} bytes: \
         /why?request-id=7f3c2b1a"
    )]
    Question,
    /// No request of this id is kept.
    #[error(
        "nothing is known of this request. Kept are the last {kept} (at most {STORIES_MAX}) that this sidecar was to send to a Backend{since}. \
         It may be older, have come through another sidecar, or have been answered before a Backend was found for it"
    )]
    Unknown {
        /// How many are.
        kept: usize,
        /// Since when.
        since: String,
    },
}

impl Nothing {
    /// The status that says so.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Question => StatusCode::BAD_REQUEST,
            Self::Unknown { .. } => StatusCode::NOT_FOUND,
        }
    }
}

impl Why {
    /// A request that is to be sent has begun.
    pub fn begin(&self, story: Story) -> Number {
        self.stories.lock().begin(story)
    }

    /// Something more is known of it.
    pub fn tell(&self, number: Number, add: impl FnOnce(&mut Story)) {
        self.stories.lock().tell(number, add);
    }

    /// What is known of the requests that `query` asks for.
    ///
    /// # Errors
    /// When it asks for none, or nothing is known.
    pub fn page(&self, query: &str) -> Result<Value, Nothing> {
        let mut pairs = form_urlencoded::parse(query.as_bytes());
        let named = pairs.find(|(name, _)| name == "request-id").map(|(_, id)| id);
        let id =
            named.filter(|id| (1..=REQUEST_ID_BYTES_MAX).contains(&id.len())).ok_or(Nothing::Question)?;
        let now = clock::now();
        let stories = self.stories.lock();
        let found = stories.find(&id);
        let (kept, oldest) = (stories.count(), stories.oldest());
        drop(stories);
        if found.is_empty() {
            let age =
                |begun: Moment| format!(", the oldest from {:.0} s ago", now.since(begun).as_secs_f64());
            return Err(Nothing::Unknown { kept, since: oldest.map(age).unwrap_or_default() });
        }
        Ok(json!({
            "apiVersion": "penstock.dev/v1alpha1",
            "kind": "Why",
            "kept": kept,
            "keptMax": STORIES_MAX,
            "requests": found.iter().map(|found| story(found, now)).collect::<Vec<_>>(),
        }))
    }
}

fn story(story: &Story, now: Moment) -> Value {
    let ago = now.since(story.begun);
    let since = |moment: Moment| millis(moment.since(story.begun));
    json!({
        "requestId": story.request_id(),
        "timeUnixMs": clock::unix_time().saturating_sub(ago).as_millis() as u64,
        "agoMs": millis(ago),
        "backend": story.backend.to_string(),
        "promptTokens": story.asked.prompt_tokens,
        "call": story.asked.call.map(|call| json!({"unit": call.unit.as_str(), "units": call.units})),
        "promised": {
            "firstTokenMs": story.asked.first_token_ms,
            "tokenMs": story.asked.token_ms,
            "waitMs": story.asked.wait_ms,
        },
        "attempts": story.attempts.iter().map(|told| attempt(told, since)).collect::<Vec<_>>(),
        "outcome": story.outcome.as_ref().map(|told| outcome(told, since)),
    })
}

fn attempt(attempt: &Attempt, since: impl Fn(Moment) -> f64) -> Value {
    let Considered { balancer, result, choice, rows, .. } = &attempt.considered;
    let counts = State::ALL.map(|state| (state.as_str().to_owned(), attempt.considered.count(state).into()));
    json!({
        "atMs": since(attempt.at),
        "policy": balancer,
        "reason": result.as_ref().ok().map(|reason| reason.as_str()),
        "nobody": result.as_ref().err().map(ToString::to_string),
        "level": choice.as_ref().map(level),
        "counts": Map::from_iter(counts),
        "endpoints": rows.iter().map(|told| row(told, choice.as_ref())).collect::<Vec<_>>(),
        "patience": attempt.patience.map(|patience| json!({
            "firstTokenMs": bounded(patience.first_token_ms),
            "promisedMs": bounded(patience.promised_ms),
        })),
        "ended": attempt.ended.as_ref().map(|(at, how)| ended(since(*at), how)),
        "waitedMs": attempt.waited.map(millis),
        "questions": attempt.questions.map(|questions| json!({
            "asked": questions.asked,
            "answered": questions.answered,
            "tookMs": millis(questions.took),
        })),
    })
}

fn level(choice: &Choice) -> Value {
    json!({
        "levelMs": tenths(choice.level_ms),
        "expectedMs": tenths(choice.expected_ms),
        "near": choice.is_near(),
        "nearShare": NEAR,
    })
}

fn row(row: &Row, choice: Option<&Choice>) -> Value {
    let chance = || {
        let could = row.state == State::Open;
        choice.filter(|_| could).and_then(|choice| choice.chance(row.cost_ms()?))
    };
    json!({
        "endpoint": row.address,
        "role": match row.role {
            Role::Chosen => "chosen",
            Role::Compared => "compared",
            Role::Beside => "beside",
        },
        "state": row.state.as_str(),
        "inflight": row.in_flight,
        "tokensInflight": row.tokens_in_flight,
        "cost": row.estimate.as_ref().map(|estimate| json!({
            "totalMs": row.cost_ms().map(tenths),
            "firstTokenMs": tenths(estimate.terms.first_token_ms()),
            "waitMs": tenths(estimate.terms.wait_ms),
            "promptMs": tenths(estimate.terms.own_ms),
            "roomMs": tenths(estimate.terms.room_ms),
            "othersMs": tenths(estimate.terms.others_ms),
            "harmMs": tenths(estimate.terms.harm_ms),
            "moreMs": tenths(f64::from(row.more_ms)),
            "reportAgeMs": estimate.age_ms.map(tenths),
            "ownSince": estimate.placements,
            "cachedTokens": estimate.cached_tokens,
            "chance": chance().map(|chance| (chance * 1e3).round() / 1e3),
        })),
    })
}

fn ended(at_ms: f64, ended: &Ended) -> Value {
    match ended {
        Ended::Answered { status } => json!({"how": "answered", "atMs": at_ms, "status": status}),
        Ended::Failed { kind, message } => {
            json!({"how": "failed", "atMs": at_ms, "fault": kind.as_str(), "message": message})
        }
        Ended::Refused { reason, first_token_ms, load } => json!({
            "how": "refused",
            "atMs": at_ms,
            "reason": reason.map_or("other", Refusal::as_str),
            "firstTokenMs": first_token_ms,
            "load": load.as_deref().map(refuser),
        }),
    }
}

fn refuser(report: &Report) -> Value {
    json!({
        "promptTokensPending": report.prompt_tokens_pending.round(),
        "sequencesRunning": report.sequences_running,
        "sequencesWaiting": report.sequences_waiting,
        "kvTokensUsed": report.kv_tokens_used,
        "kvTokensTotal": report.kv_tokens_total,
        "bearableMs": report.bearable_ms.map(f64::round),
    })
}

fn outcome(outcome: &Outcome, since: impl Fn(Moment) -> f64) -> Value {
    json!({
        "atMs": since(outcome.at),
        "status": outcome.status,
        "classification": outcome.class.as_str(),
        "error": outcome.error,
        "message": (!outcome.message.is_empty()).then_some(&outcome.message),
        "firstByteMs": outcome.first_byte.map(&since),
        "firstTokenMs": outcome.first_token.map(&since),
        "inputTokens": outcome.input_tokens,
        "cachedTokens": outcome.cached_tokens,
        "outputTokens": outcome.output_tokens,
    })
}

fn millis(span: Duration) -> f64 {
    tenths(span.as_secs_f64() * 1e3)
}

/// As exact as is of use.
fn tenths(ms: f64) -> f64 {
    (ms * 10.0).round() / 10.0
}

/// `None` where there is no bound; JSON has no infinity.
fn bounded(ms: f64) -> Option<f64> {
    ms.is_finite().then(|| tenths(ms))
}
