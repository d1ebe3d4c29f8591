//! What a request hands to its endpoint's half, one logical request, and what that tells it back.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use penstock_dialect::Dialect;
use penstock_dialect::reply::ErrorCode;
use penstock_model::settings::Application;
use penstock_model::units::Moment;
use penstock_policy::why::Number;

use super::upload::{BodyBudget, Held, Upload};
use crate::fleet::{BackendState, Needs};
use crate::listen::line::Line;

/// One logical request on its way to an endpoint.
#[derive(Debug)]
pub struct Call {
    /// Where it goes.
    pub target: Target,
    /// Its body.
    pub upload: Arc<Upload>,
    /// Its end of the caller's connection.
    pub line: Arc<Line>,
    /// Where its story is told.
    pub trail: Arc<Trail>,
    /// The caller wants to speak WebSocket on the connection from here on.
    pub upgrade: Option<Upgrade>,
    /// In whose words an error is told in a stream that has begun.
    pub error_dialect: Dialect,
    /// When all of it must be over.
    pub deadline: Option<Moment>,
    /// What it needs of an endpoint.
    pub needs: Needs,
    /// When its first token was promised, or is worth waiting for.
    pub promise: Promise,
    /// Longest time of one attempt, from its start to the end of its answer.
    pub attempt_timeout: Option<Duration>,
    /// Where it is told what was decided for it.
    pub story: Option<Number>,
}

impl Call {
    /// A request of our own, without a body.
    pub fn of_our_own() -> Self {
        let held = Held::none(&BodyBudget::new(0));
        Self {
            target: Target::Nowhere,
            upload: Upload::whole(VecDeque::new(), held, None),
            line: Arc::default(),
            trail: Arc::default(),
            upgrade: None,
            error_dialect: Dialect::Http,
            deadline: None,
            needs: Needs::default(),
            promise: Promise::default(),
            attempt_timeout: None,
            story: None,
        }
    }
}

/// How long a first token may take.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Promise {
    /// When the request came.
    pub since: Moment,
    /// From then on, by the caller's own word or the platform's.
    pub first_token: Option<Duration>,
    /// From each token to the next, by the same.
    pub token: Option<Duration>,
    /// Waiting alone, before the prompt is computed.
    pub wait: Option<Duration>,
}

impl Promise {
    /// Milliseconds until the first token that are left at `now`, where the prompt itself takes `own_ms`: who has waited at one endpoint
    /// has less at the next. Infinity without bounds, and below 0 when it is over.
    pub fn left_ms(&self, own_ms: f64, now: Moment) -> f64 {
        let millis = |span: Duration| span.as_secs_f64() * 1e3;
        let bounds = [self.first_token.map(millis), self.wait.map(|wait| millis(wait) + own_ms)];
        bounds.into_iter().flatten().fold(f64::INFINITY, f64::min) - millis(now.since(self.since))
    }
}

/// How the caller asks for WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upgrade {
    /// By `Upgrade: websocket`; the answer is 101.
    Http1,
    /// By an extended CONNECT (RFC 8441); the answer is 200.
    Http2,
}

/// Where a request goes.
#[derive(Clone, Debug)]
pub enum Target {
    /// To one endpoint of a backend, picked for each attempt.
    Backend(Arc<BackendState>),
    /// To the application beside an inbound sidecar.
    Application(Application),
    /// Nowhere: we answer ourselves.
    Nowhere,
}

/// The story of a logical request, for its account and its answer.
#[derive(Debug, Default)]
pub struct Trail {
    state: Mutex<TrailState>,
}

/// See [`Trail`].
#[derive(Clone, Debug, Default)]
pub struct TrailState {
    /// The endpoint tried last.
    pub endpoint: Option<SocketAddr>,
    /// Attempts made.
    pub attempts: u32,
    /// Why there is no answer, or why it broke off.
    pub failure: Option<Failure>,
    /// The application has seen nothing of the request.
    pub is_unprocessed: bool,
}

/// Why a request failed, in the words of the answer that we make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The code.
    pub code: ErrorCode,
    /// The message for people.
    pub message: String,
    /// When the caller should come again, where that can be told.
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// A failure.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after: None }
    }

    /// The same, to be tried again after `span`.
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        Self { retry_after: Some(span), ..self }
    }
}

impl Trail {
    /// An attempt begins.
    pub fn attempt(&self, endpoint: SocketAddr) {
        let mut state = self.state.lock();
        state.endpoint = Some(endpoint);
        state.attempts += 1;
    }

    /// It has failed for good. The first reason counts: others follow from it.
    pub fn fail(&self, failure: Failure) {
        self.state.lock().failure.get_or_insert(failure);
    }

    /// The application has seen nothing of the request.
    pub fn is_unprocessed(&self) {
        self.state.lock().is_unprocessed = true;
    }

    /// How it stands.
    pub fn read(&self) -> TrailState {
        self.state.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_waited_has_less_left() {
        let ms = |ms| Some(Duration::from_millis(ms));
        let since = Moment(7_000_000);
        for (first_token, wait, passed_ms, expected) in [
            (ms(500), None, 0, 500.0),
            (ms(500), None, 300, 200.0),
            (ms(500), None, 600, -100.0),
            (ms(500), ms(100), 40, 80.0),
            (None, ms(100), 40, 80.0),
            (None, None, 40, f64::INFINITY),
        ] {
            let promise = Promise { since, first_token, token: None, wait };
            let left_ms = promise.left_ms(20.0, since + Duration::from_millis(passed_ms));
            assert_eq!(left_ms, expected, "{first_token:?} {wait:?} {passed_ms}");
        }
    }
}
