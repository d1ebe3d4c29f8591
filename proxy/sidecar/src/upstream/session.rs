//! One logical request, whatever it takes: pick, connect, send, and once more elsewhere if nothing was processed.
//!
//! It is the endpoint's half of a request: one task polls it and the caller's half beside each other, so that a caller that leaves is
//! noticed whatever is waited for here. Both are dropped then, and with them streams, leases and tickets.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use penstock_dialect::reply::{Border, ErrorCode, Framing, Reply};
use penstock_model::units::Moment;
use penstock_policy::gate::{Patience, REFUSALS_MAX, Refusal};
use penstock_policy::pick::cost::{Told, Weights, is_worth_asking, lacks_memory};
use penstock_policy::pick::{Considered, NoPick, State};
use penstock_policy::retry::{self, AnswerState, Body, Fault, Kind, Progress, Sent, Side, Stop, Verdict};
use penstock_policy::why::{self, Ended, Questions, Story};
use tokio::sync::watch;
use tokio::time::{Sleep, sleep_until};

use super::attempt::{self, Answer, Failed, Head, Part};
use super::call::{Call, Failure, Target};
use super::place::{Carrier, Place};
use super::pool::{Pool, Terms};
use crate::clock;
use crate::fleet::{EndpointState, Ticket};
use crate::http::headers::{self, UNPROCESSED};
use crate::http::reply;
use crate::load::ask;
use crate::load::follow::Follower;
use crate::load::wire::{self, REFUSED};
use crate::telemetry::Telemetry;

/// How the application beside the sidecar is reached: it is on the same host.
const LOCAL_TERMS: Terms = Terms { connect_timeout: Duration::from_secs(1), streams_max: 1_000 };

/// A body of at most so many bytes travels with its head; a longer one is not sent in vain, and waits until it is let in.
pub const WITH_HEAD_BYTES_MAX: u64 = 64 << 10;

/// Longest time after which a refused caller is asked to come again.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// An endpoint whose sidecar says that the application has seen nothing of the request.
const TURNED_AWAY: &str = "the sidecar of the endpoint refused it";

/// What all logical requests share.
#[derive(Debug)]
pub struct Means {
    /// Connections to endpoints.
    pub pool: Arc<Pool>,
    /// Hears how endpoints stand.
    pub follower: Follower,
    /// Where retries are told.
    pub telemetry: Arc<Telemetry>,
    /// Turns true when what still runs must end.
    pub over: watch::Receiver<bool>,
}

/// One logical request.
pub struct LogicalRequest {
    call: Call,
    head: Head,
    means: Arc<Means>,
    tried: Vec<Arc<EndpointState>>,
    /// Those of them that did not let it in.
    refused: Vec<Arc<EndpointState>>,
    /// Why there was another attempt, if there was.
    retried: Option<Kind>,
    running: Option<Running>,
    /// Where the answer stands, if it is a stream into which an error can be written.
    border: Option<Border>,
    is_grpc: bool,
    /// Ready when what still runs must end.
    over: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// The attempt whose answer is being passed on.
struct Running {
    answer: Answer,
    place: Place,
    /// When it must be complete, and whose limit that is.
    limit: Option<(Pin<Box<Sleep>>, Moment)>,
    _ticket: Option<Ticket>,
}

impl LogicalRequest {
    /// A request that has not been sent.
    pub fn new(call: Call, head: Head, means: &Arc<Means>) -> Self {
        Self {
            call,
            head,
            means: Arc::clone(means),
            tried: Vec::new(),
            refused: Vec::new(),
            retried: None,
            running: None,
            border: None,
            is_grpc: false,
            over: Box::pin(is_over(means.over.clone())),
        }
    }

    /// The head of the answer.
    ///
    /// # Errors
    /// When no endpoint gives one; the trail says why.
    pub async fn answer(&mut self) -> Result<Response<()>, Failure> {
        let mut over = std::mem::replace(&mut self.over, Box::pin(std::future::pending()));
        let answered = tokio::select! {
            biased;
            () = &mut over => Err(drained()),
            answered = self.attempts() => answered,
        };
        self.over = over;
        if let Some(reason) = self.retried {
            self.count_retry(reason, if answered.is_ok() { "success" } else { "failure" });
        }
        if let Err(failure) = &answered {
            self.call.trail.fail(failure.clone());
        }
        answered
    }

    async fn attempts(&mut self) -> Result<Response<()>, Failure> {
        let mut retries = 0;
        let mut refusals = 0;
        let mut has_lacked_memory = false;
        let mut last = None;
        loop {
            let (place, terms, ticket) = match self.next_place() {
                Ok(next) => next,
                Err(none) => return Err(last.unwrap_or(none)),
            };
            let endpoint = ticket.as_ref().map(|ticket| ticket.endpoint().endpoint.id.address);
            self.call.trail.attempt(endpoint.unwrap_or(place.address));
            let attempt_deadline = self.call.attempt_timeout.map(|span| clock::now() + span);
            let deadline = earlier(self.call.deadline, attempt_deadline);
            let head = self.head_for(ticket.as_ref(), retries + u32::from(refusals) + 1, refusals);
            let sent = attempt::attempt(&self.means.pool, &place, terms, head, &self.call);
            let sent = bounded(deadline, sent).await;
            let fields = mesh_fields(&sent, &place);
            let load = fields.and_then(wire::read_load);
            let waited = fields.and_then(wire::read_waited);
            if let (Some(told), Some(ticket)) = (load, &ticket) {
                ticket.endpoint().told(told);
            }
            self.tell(|story| story.attempt_ends(clock::now(), ended(&sent, &place, load), waited));
            let failed = match sent {
                Ok(Ok((response, _))) if place.carrier == Carrier::Mesh && is_refused(&response) => {
                    last = Some(self.refused(&place, &response));
                    refusals += 1;
                    has_lacked_memory |= lacks_memory(reason_of(&response));
                    // The last word is had with all patience: also those that refused may be asked, who have said how they are.
                    self.refused.extend(ticket.as_ref().map(|ticket| Arc::clone(ticket.endpoint())));
                    if refusals == REFUSALS_MAX {
                        let refused = std::mem::take(&mut self.refused);
                        self.tried.retain(|tried| !refused.iter().any(|other| Arc::ptr_eq(other, tried)));
                    }
                    // What comes next has nothing of the refused attempt: no retry is made of it, and none is taken from the budget.
                    if refusals > REFUSALS_MAX || !self.call.upload.rewind() {
                        return Err(last.unwrap_or_else(drained));
                    }
                    drop(ticket);
                    if let Target::Backend(state) = &self.call.target {
                        state.margin().lock().refused(&Weights::CHOSEN);
                    }
                    if is_worth_asking(refusals, has_lacked_memory) {
                        self.ask().await;
                    }
                    continue;
                }
                Ok(Ok((response, answer))) if !is_unprocessed(&response, &place) => {
                    self.running = Some(Running::new(answer, place, deadline, ticket));
                    return Ok(self.accept(response));
                }
                Ok(Ok((response, answer))) => {
                    let fault = busy();
                    if self.verdict(&fault, retries) != Verdict::Retry {
                        self.running = Some(Running::new(answer, place, deadline, ticket));
                        return Ok(self.accept(response));
                    }
                    Failed { fault, message: TURNED_AWAY.to_owned() }
                }
                Ok(Err(failed)) => match self.verdict(&failed.fault, retries) {
                    Verdict::Retry => failed,
                    Verdict::Stop(Stop::BudgetSpent) => {
                        let message =
                            format!("the budget of retries is spent; the last attempt: {}", failed.message);
                        return Err(Failure::new(ErrorCode::RetryBudget, message));
                    }
                    Verdict::Stop(_) => return Err(self.failure(&failed, deadline)),
                },
                Err(Elapsed) => return Err(self.failure(&timed_out(), deadline)),
            };
            retries += 1;
            last = Some(self.failure(&failed, deadline));
            tracing::debug!(address = %place.address, fault = %failed.fault, error = failed.message, "another attempt");
        }
    }

    /// What comes next of the answer, as soon as the caller has room for it. Sends meanwhile what can be sent of the request.
    ///
    /// # Errors
    /// When the answer breaks off in a way that cannot be told in the stream.
    pub fn poll_part(&mut self, context: &mut Context<'_>) -> Poll<Result<Part, Failure>> {
        let Some(running) = &mut self.running else { return Poll::Ready(Ok(Part::End(None))) };
        if self.over.as_mut().poll(context).is_ready() {
            return Poll::Ready(self.break_off(drained()));
        }
        running.answer.poll_sending(context);
        if self.call.line.poll_outlet(context).is_ready()
            && let Poll::Ready(part) = running.answer.poll_part(context)
        {
            return Poll::Ready(match part {
                Ok(part) => {
                    if let (Some(border), Part::Chunk { bytes, .. }) = (&mut self.border, &part) {
                        border.passed(bytes);
                    }
                    Ok(part)
                }
                Err(failed) => {
                    let failure = self.failure(&failed, None);
                    self.break_off(failure)
                }
            });
        }
        if let Some((sleep, deadline)) = &mut running.limit
            && sleep.as_mut().poll(context).is_ready()
        {
            let deadline = Some(*deadline);
            let failure = self.failure(&timed_out(), deadline);
            return Poll::Ready(self.break_off(failure));
        }
        Poll::Pending
    }

    /// Tells in the stream why it ends here, if that can be told.
    fn break_off(&mut self, failure: Failure) -> Result<Part, Failure> {
        self.running = None;
        self.call.trail.fail(failure.clone());
        let reply = Reply::new(failure.code, failure.message.as_str());
        let framing = self.border.filter(Border::is_here).map(|border| border.framing());
        let event = framing.and_then(|framing| reply.stream_event(self.call.error_dialect, framing));
        match event {
            Some(event) => Ok(Part::Chunk { bytes: event.into(), is_last: true }),
            None if self.is_grpc => {
                let fields = reply::grpc_status(&failure).into_iter();
                Ok(Part::End(Some(
                    fields.map(|(name, value)| (HeaderName::from_static(name), value)).collect(),
                )))
            }
            None => Err(failure),
        }
    }

    /// Whether nothing follows the head of the answer.
    pub fn is_over(&self) -> bool {
        self.running.as_ref().is_none_or(|running| running.answer.is_over())
    }

    /// Gives back what can be used again.
    pub fn release(mut self) {
        if let Some(running) = self.running.take() {
            running.answer.release(&self.means.pool, &running.place, &self.call.upload);
        }
    }

    /// Where the next attempt goes.
    fn next_place(&self) -> Result<(Place, Terms, Option<Ticket>), Failure> {
        match &self.call.target {
            Target::Nowhere => Err(Failure::new(ErrorCode::Internal, "a redirect was sent on")),
            Target::Application(application) => Ok((Place::of_application(application), LOCAL_TERMS, None)),
            Target::Backend(state) => {
                let tell = |considered: Considered| {
                    if considered.count(State::Draining) > 0 {
                        self.means.follower.watch_for_return(state);
                    }
                    self.tell(|story| story.considers(clock::now(), considered));
                };
                let ticket = state.pick(&self.tried, &self.call.needs, tell).map_err(|none| {
                    let code = match none {
                        NoPick::NoEndpoints => ErrorCode::NoEndpoints,
                        NoPick::AllFull => ErrorCode::Overloaded,
                        NoPick::AllTried => ErrorCode::Connect,
                        NoPick::NoModel => ErrorCode::NoRoute,
                    };
                    let why = match none {
                        NoPick::NoEndpoints => state.absence(),
                        NoPick::AllFull | NoPick::AllTried => none.to_string(),
                        NoPick::NoModel => state.not_served(self.call.needs.model.as_deref()),
                    };
                    Failure::new(code, format!("Backend {}: {why}", state.backend.id))
                })?;
                let id = &state.backend.id.0;
                let labels = [&*id.namespace, &*id.name, ticket.reason.as_str()];
                self.means.telemetry.metrics.picks.with_label_values(&labels).inc();
                let endpoint = &ticket.endpoint().endpoint;
                let place = Place::of_endpoint(state, endpoint);
                let place = if self.call.upgrade.is_some() { place.to_switch() } else { place };
                let terms = Terms {
                    connect_timeout: state.policy.connect_timeout,
                    streams_max: state.policy.streams_per_connection_max,
                };
                if ticket.believed.is_some() {
                    self.means.follower.want(state, ticket.endpoint());
                }
                Ok((place, terms, Some(ticket)))
            }
        }
    }

    /// Before the last word: those of whom nobody has heard for a while are asked how they stand.
    async fn ask(&mut self) {
        let Target::Backend(state) = &self.call.target else { return };
        let whom = state.whom_to_ask(&self.tried, &self.call.needs);
        if whom.is_empty() {
            return;
        }
        let begun = clock::now();
        // Who has no time left is told so by the attempt that follows.
        let answered = bounded(self.call.deadline, ask::ask(&self.means.pool, state, &whom)).await;
        let asked = u32::try_from(whom.len()).unwrap_or(u32::MAX);
        let answered = answered.unwrap_or(0);
        let questions = Questions { asked, answered, took: clock::now().since(begun) };
        self.tell(|story| story.asks(questions));
        let id = &state.backend.id.0;
        let metrics = &self.means.telemetry.metrics;
        for (result, count) in [("answered", answered), ("unanswered", asked - answered)] {
            let labels = [&*id.namespace, &*id.name, result];
            metrics.load_questions.with_label_values(&labels).inc_by(count.into());
        }
    }

    /// The head with what only the chosen endpoint's sidecar is told.
    fn head_for(&mut self, ticket: Option<&Ticket>, attempt: u32, refusals: u8) -> Head {
        let mut head = self.head.clone();
        if let Some(ticket) = ticket {
            self.tried.push(Arc::clone(ticket.endpoint()));
            let endpoint = &ticket.endpoint().endpoint;
            if endpoint.sidecar.is_some() {
                head.address(&endpoint.id, attempt);
                if let Some(call) = ticket.call {
                    wire::write_call(&mut head.headers, call);
                }
                if let Some(demand) = ticket.demand {
                    let promise = self.call.promise;
                    // Only who was promised a first token has something that others could break.
                    let token = promise.first_token.and(promise.token);
                    let patience = self.patience(ticket, refusals);
                    if let Some(patience) = patience {
                        self.tell(|story| story.waits(patience));
                    }
                    wire::write_demand(&mut head.headers, demand, patience, token);
                    let whole_bytes = self.call.upload.whole_bytes();
                    let is_short = whole_bytes.is_some_and(|bytes| bytes <= WITH_HEAD_BYTES_MAX);
                    // Only a sidecar that speaks of load is known to answer to this.
                    if !is_short && ticket.endpoint().last_told().is_some() {
                        head.headers.insert(wire::BODY, HeaderValue::from_static("awaits"));
                    }
                }
            }
        }
        head
    }

    /// For whoever asks later why it went where it went.
    fn tell(&self, add: impl FnOnce(&mut Story)) {
        if let Some(story) = self.call.story {
            self.means.telemetry.why.tell(story, add);
        }
    }

    /// How long the endpoint chosen may take; `None` where costs did not decide, and any time is as good.
    fn patience(&self, ticket: &Ticket, refusals: u8) -> Option<Patience> {
        let Target::Backend(state) = &self.call.target else { return None };
        let believed = ticket.believed?;
        let now = clock::now();
        let left =
            self.call.deadline.map_or(f64::INFINITY, |deadline| deadline.since(now).as_secs_f64() * 1e3);
        let promised_ms = self.call.promise.left_ms(believed.terms.own_ms, now).min(left).max(0.0);
        let is_last = refusals >= REFUSALS_MAX || believed.next_best_ms.is_infinite();
        Some(if is_last {
            Patience::at_last(promised_ms)
        } else {
            let (believed_ms, next_best_ms) = (believed.terms.first_token_ms(), believed.next_best_ms);
            let asked_ms = self.call.promise.first_token.map(|_| promised_ms);
            let mut margin = state.margin().lock();
            if refusals == 0 {
                margin.placed(&Weights::CHOSEN);
            }
            let margin_ms = margin.ms(asked_ms, &Weights::CHOSEN);
            Patience::while_others(believed_ms, next_best_ms, margin_ms, promised_ms)
        })
    }

    /// A refusal is counted; gives the answer, should it have been the last.
    fn refused(&self, place: &Place, response: &Response<()>) -> Failure {
        let (reason, first_token_ms) = wire::read_refusal(response.headers()).unwrap_or_default();
        let mut whose = String::new();
        if let Target::Backend(state) = &self.call.target {
            let id = &state.backend.id;
            whose = format!("Backend {id}: ");
            let reason = reason.map_or("other", Refusal::as_str);
            self.means.telemetry.metrics.refused("outbound", Some(id), reason);
        }
        let after = first_token_ms.map(|ms| Duration::from_millis(ms.into()).min(RETRY_AFTER_MAX));
        let when = after.map_or_else(String::new, |after| {
            format!("; first token there after {:.1} s", after.as_secs_f64())
        });
        let message = format!(
            "{whose}no endpoint can answer in time; at the last one asked, {}, {}{when}",
            place.address,
            reason.map_or("it is not let in", Refusal::why)
        );
        let failure = Failure::new(ErrorCode::Overloaded, message);
        after.map_or(failure.clone(), |after| failure.after(after))
    }

    /// Whether another attempt follows a fault. Takes it from the budget if so.
    fn verdict(&mut self, fault: &Fault, retries: u32) -> Verdict {
        let Target::Backend(state) = &self.call.target else { return Verdict::Stop(Stop::Unsafe) };
        let body = if self.call.upload.rewind() { Body::Held } else { Body::Gone };
        let progress = Progress { retries, answer: AnswerState::NotBegun, body };
        let verdict = retry::verdict(fault, &progress, &mut state.retries().lock(), clock::now());
        match verdict {
            Verdict::Retry => self.retried = Some(fault.kind),
            Verdict::Stop(stop @ (Stop::BudgetSpent | Stop::BodyGone)) => {
                self.count_retry(fault.kind, stop.as_str());
            }
            Verdict::Stop(_) => {}
        }
        verdict
    }

    /// One that was made, with what became of it; or one that was safe and could not be made.
    fn count_retry(&self, reason: Kind, outcome: &str) {
        if let Target::Backend(state) = &self.call.target {
            let id = &state.backend.id.0;
            let labels = ["outbound", &*id.namespace, &*id.name, reason.as_str(), outcome];
            self.means.telemetry.metrics.retries.with_label_values(&labels).inc();
        }
    }

    /// An answer is passed on: there will be no other attempt.
    fn accept(&mut self, mut response: Response<()>) -> Response<()> {
        // There will be no other attempt: an open stream needs not hold what was sent.
        self.head.headers = HeaderMap::new();
        let is_from_sidecar =
            self.running.as_ref().is_some_and(|running| running.place.carrier == Carrier::Mesh);
        if !is_from_sidecar {
            for name in headers::ours(response.headers()) {
                response.headers_mut().remove(name);
            }
        }
        let status = response.status();
        let is_refused = status.as_u16() >= 400 || self.is_over();
        let goes_on = self.call.upgrade.is_none() || status == StatusCode::SWITCHING_PROTOCOLS;
        if is_refused || !goes_on {
            self.call.upload.sink_unless_whole();
        } else {
            self.call.upload.settle();
        }
        let content_type = headers::text(response.headers(), &CONTENT_TYPE);
        // Nothing can be added to what is compressed or has a length.
        let is_open = !response.headers().contains_key(CONTENT_ENCODING)
            && !response.headers().contains_key(CONTENT_LENGTH);
        self.border = content_type.and_then(Framing::of).filter(|_| is_open).map(Border::new);
        self.is_grpc = content_type.is_some_and(|text| text.starts_with("application/grpc"));
        response
    }

    /// A fault in the words of the answer.
    fn failure(&self, failed: &Failed, deadline: Option<Moment>) -> Failure {
        if failed.fault.kind == Kind::Timeout {
            let whose = if deadline == self.call.deadline { "request" } else { "backendRequest" };
            return Failure::new(
                ErrorCode::Deadline,
                format!("the route's `timeouts.{whose}` passed before the answer was complete"),
            );
        }
        if self.call.upload.has_stalled() {
            let message = "the endpoint took nothing of the request body for 60 s";
            return Failure::new(ErrorCode::Deadline, message);
        }
        if failed.fault.sent == Sent::Nothing {
            self.call.trail.is_unprocessed();
        }
        let code = match failed.fault.kind {
            Kind::Connect | Kind::Tls => ErrorCode::Connect,
            _ if failed.fault.side == Side::Caller => ErrorCode::BadRequest,
            _ => ErrorCode::UpstreamReset,
        };
        Failure::new(code, failed.message.clone())
    }
}

/// An upload that an endpoint did not want must not keep its connection waiting.
impl Drop for LogicalRequest {
    fn drop(&mut self) {
        if !self.call.upload.is_whole() {
            self.call.upload.abort();
        }
    }
}

impl Running {
    fn new(answer: Answer, place: Place, deadline: Option<Moment>, ticket: Option<Ticket>) -> Self {
        let limit = deadline.map(|deadline| (Box::pin(sleep_until(clock::instant(deadline))), deadline));
        Self { answer, place, limit, _ticket: ticket }
    }
}

impl fmt::Debug for LogicalRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogicalRequest").field("call", &self.call).finish_non_exhaustive()
    }
}

fn timed_out() -> Failed {
    let fault = Fault { side: Side::Upstream, kind: Kind::Timeout, sent: Sent::Something };
    Failed { fault, message: String::new() }
}

fn busy() -> Fault {
    Fault { side: Side::Upstream, kind: Kind::Busy, sent: Sent::Something }
}

/// Fields of an answer in which the endpoint's sidecar tells of itself.
fn mesh_fields<'a>(sent: &'a Attempted, place: &Place) -> Option<&'a HeaderMap> {
    let (response, _) = sent.as_ref().ok()?.as_ref().ok().filter(|_| place.carrier == Carrier::Mesh)?;
    Some(response.headers())
}

/// An attempt's end in the words of its story.
fn ended(sent: &Attempted, place: &Place, load: Option<Told>) -> Ended {
    let failed = |kind, message| Ended::Failed { kind, message: why::text(message) };
    match sent {
        Ok(Ok((response, _))) if place.carrier == Carrier::Mesh && is_refused(response) => {
            let (reason, first_token_ms) = wire::read_refusal(response.headers()).unwrap_or_default();
            Ended::Refused { reason, first_token_ms, load: load.map(|told| Box::new(told.report)) }
        }
        Ok(Ok((response, _))) if is_unprocessed(response, place) => failed(busy().kind, TURNED_AWAY),
        Ok(Ok((response, _))) => Ended::Answered { status: response.status().as_u16() },
        Ok(Err(Failed { fault, message })) => failed(fault.kind, message),
        Err(Elapsed) => failed(Kind::Timeout, "its time was over"),
    }
}

/// Why the endpoint's sidecar does not let the request in, as far as it says so in words that are known.
fn reason_of(response: &Response<()>) -> Option<Refusal> {
    wire::read_refusal(response.headers()).and_then(|(reason, _)| reason)
}

/// The endpoint's sidecar does not let the request in.
fn is_refused(response: &Response<()>) -> bool {
    response.headers().contains_key(REFUSED) && response.headers().contains_key(UNPROCESSED)
}

/// Only another sidecar is believed.
fn is_unprocessed(response: &Response<()>, place: &Place) -> bool {
    place.carrier == Carrier::Mesh && response.headers().contains_key(UNPROCESSED)
}

fn earlier(one: Option<Moment>, other: Option<Moment>) -> Option<Moment> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// The deadline passed.
struct Elapsed;

/// What came of one attempt.
type Attempted = Result<Result<(Response<()>, Answer), Failed>, Elapsed>;

/// Ends when the drain deadline has passed.
pub(crate) async fn is_over(mut over: watch::Receiver<bool>) {
    if over.wait_for(|over| *over).await.is_err() {
        // Nobody is left to say so.
        std::future::pending::<()>().await;
    }
}

/// What a request is told that is not over by then.
pub(crate) fn drained() -> Failure {
    Failure::new(ErrorCode::Draining, "the sidecar is shutting down, and its drain deadline has passed")
}

async fn bounded<T>(deadline: Option<Moment>, work: impl Future<Output = T>) -> Result<T, Elapsed> {
    match deadline {
        None => Ok(work.await),
        Some(deadline) => tokio::time::timeout_at(clock::instant(deadline), work).await.map_err(|_| Elapsed),
    }
}
