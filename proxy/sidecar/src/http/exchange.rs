//! One request and its answer, from the first byte to the closed account.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use penstock_dialect::Dialect;
use penstock_dialect::detect::family;
use penstock_dialect::meter::{Ending as Told, Meter, Reading};
use penstock_dialect::reply::ErrorCode;
use penstock_dialect::scan::Scanner;
use penstock_model::names::{BackendId, ParentId};
use penstock_model::units::Moment;
use penstock_policy::judge::{self, Answer, Class, Ending, Grpc, Outcome};
use penstock_policy::ledger::{Shape, Told as Said};
use penstock_policy::objective::{self, Count, Finished};
use penstock_policy::route::Matched;
use penstock_policy::speed::Size;
use penstock_policy::why::{self, Number};
use prometheus::Histogram;

use super::Shared;
use super::admit;
use super::headers;
use crate::clock;
use crate::fleet::Fleet;
use crate::listen::conn::{Arrival, Direction};
use crate::listen::line::Line;
use crate::load::calls::Answered::{Computed, Failed};
use crate::load::calls::CallStay;
use crate::load::engines::{Engine, Refused, Stay};
use crate::load::wire;
use crate::scrape::Serving;
use crate::seed;
use crate::telemetry::access_log::Entry;
use crate::upstream::call::{Failure, Target, Trail, Upgrade};
use crate::upstream::upload::{Held, Upload};

/// What is known of one request.
#[derive(Debug)]
pub struct Exchange {
    /// What all requests share.
    pub shared: Arc<Shared>,
    /// The configuration that it began with and keeps.
    pub fleet: Arc<Fleet>,
    /// When its headers had been read.
    pub started: Moment,
    /// What was asked.
    pub asked: Option<Arc<Asked>>,
    /// Where it goes.
    pub chosen: Option<Chosen>,
    /// What its body says so far.
    pub scanner: Option<Body>,
    /// A rule asked for the model: from then on the body must not name another.
    pub is_model_decisive: bool,
    /// Body bytes read before it was routed.
    pub held: VecDeque<Bytes>,
    /// Their memory.
    pub held_memory: Held,
    /// The whole body is in `held`.
    pub is_held_whole: bool,
    /// It asks to go on in WebSocket.
    pub upgrade: Option<Upgrade>,
    /// It goes on in WebSocket.
    pub is_switched: bool,
    /// Its end of the connection.
    pub line: Arc<Line>,
    /// The body on its way.
    pub upload: Option<Arc<Upload>>,
    /// The session's story.
    pub trail: Arc<Trail>,
    /// Where it is told what was decided for it.
    pub story: Option<Number>,
    /// Why we answer ourselves.
    pub failure: Option<Failure>,
    /// Bytes of the request's body.
    pub request_bytes: u64,
    /// Inbound: the application has it, and is looked at while it has.
    pub serving: Option<Serving>,
    /// Inbound: the application's account.
    pub engine: Option<Arc<Engine>>,
    /// Its place in it.
    pub stay: Option<Stay>,
    /// The same of a call.
    pub call: Option<CallStay>,
    /// Why it was not given one.
    pub refusal: Option<Refused>,
    /// Inbound: how long it waited before it was let in or refused; `None` where it did not.
    pub waited: Option<Duration>,
    answered: Answered,
    account: Option<Account>,
}

/// What was asked, kept for the log after the header has been changed.
#[derive(Debug)]
pub struct Asked {
    /// What the accept loop learned.
    pub arrival: Arc<Arrival>,
    /// Method.
    pub method: String,
    /// Host and port as the caller writes them; empty where HTTP/1.0 names none.
    pub authority: String,
    /// Host of the authority, without port, lower case.
    pub host: String,
    /// Port of the authority.
    pub port: Option<u16>,
    /// Path without query.
    pub path: String,
    /// What stands after the `?`.
    pub query: Option<String>,
    /// `HTTP/1.1` or `HTTP/2`.
    pub protocol: &'static str,
    /// From the caller, or ours.
    pub request_id: String,
    /// From `traceparent`.
    pub trace_id: Option<String>,
    /// What is spoken.
    pub dialect: Dialect,
    /// It is gRPC.
    pub is_grpc: bool,
    /// It came from another sidecar with the name of a backend.
    pub backend: Option<BackendId>,
}

/// Where a request goes.
#[derive(Debug)]
pub struct Chosen {
    /// Service or Backend that the authority named.
    pub parent: Option<ParentId>,
    /// The rule; none where no route is attached.
    pub rule: Option<Matched>,
    /// Which of the rule's backends was drawn.
    pub split_index: Option<usize>,
    /// What is dialled.
    pub target: Target,
    /// For labels.
    pub backend: Option<BackendId>,
}

/// The scan of a request body. (The scanner prints nothing of it.)
pub struct Body(pub Scanner);

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Body").field(self.0.facts()).finish()
    }
}

/// What has been seen of the answer.
#[derive(Default)]
struct Answered {
    status: u16,
    error: Option<ErrorCode>,
    is_busy: bool,
    grpc_status: Option<u32>,
    bytes: u64,
    longest_gap_ns: u64,
    /// Where they are counted.
    gaps: Option<Histogram>,
    meter: Option<Meter>,
    first_byte: Option<Moment>,
}

impl std::fmt::Debug for Answered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answered").field("status", &self.status).field("bytes", &self.bytes).finish()
    }
}

/// Counts one request in flight.
#[derive(Debug)]
struct Account {
    shared: Arc<Shared>,
    direction: &'static str,
}

impl Drop for Account {
    fn drop(&mut self) {
        self.shared.telemetry.metrics.inflight.with_label_values(&[self.direction]).dec();
    }
}

impl Exchange {
    /// A request of which nothing is known.
    pub fn new(shared: &Arc<Shared>) -> Self {
        Self {
            fleet: shared.live.load(),
            started: clock::now(),
            asked: None,
            chosen: None,
            scanner: None,
            is_model_decisive: false,
            held: VecDeque::new(),
            held_memory: Held::none(&shared.body_budget),
            is_held_whole: false,
            upgrade: None,
            is_switched: false,
            line: Arc::default(),
            upload: None,
            trail: Arc::default(),
            story: None,
            failure: None,
            request_bytes: 0,
            serving: None,
            engine: None,
            stay: None,
            call: None,
            refusal: None,
            waited: None,
            answered: Answered::default(),
            account: None,
            shared: Arc::clone(shared),
        }
    }

    /// Opens the account.
    pub fn open(&mut self, asked: Asked) {
        let direction = asked.arrival.direction.as_str();
        self.shared.telemetry.metrics.inflight.with_label_values(&[direction]).inc();
        self.account = Some(Account { shared: Arc::clone(&self.shared), direction });
        self.asked = Some(Arc::new(asked));
    }

    /// Which way it goes; outbound while nothing is known.
    pub fn direction(&self) -> Direction {
        self.asked.as_ref().map_or(Direction::Outbound, |asked| asked.arrival.direction)
    }

    /// What it speaks.
    pub fn dialect(&self) -> Dialect {
        self.asked.as_ref().map_or(Dialect::Http, |asked| asked.dialect)
    }

    /// In whose words an error is told: also on a path that asks nothing of a model, a client reads those of its family.
    pub fn error_dialect(&self) -> Dialect {
        match &self.asked {
            Some(asked) if asked.dialect == Dialect::Http => family(&asked.path),
            _ => self.dialect(),
        }
    }

    /// Whether the caller's connection is still read for its body.
    pub fn is_body_awaited(&self) -> bool {
        self.upload.as_ref().is_some_and(|upload| !upload.is_ended())
    }

    /// Hands a part of the body on.
    pub fn upload_more(&self, bytes: Bytes) {
        if let Some(upload) = &self.upload {
            upload.push(bytes);
        }
    }

    /// The body has ended.
    pub fn upload_ends(&mut self) {
        admit::prompt_is_whole(self);
        if let Some(upload) = &self.upload {
            upload.finish(self.line.take_trailers());
        }
    }

    /// The head of the answer is known, whoever made it.
    pub fn answer_began(&mut self, status: u16, fields: &HeaderMap) {
        let text = |name: &str| fields.get(name).and_then(|value| value.to_str().ok());
        self.answered.status = status;
        self.answered.error = headers::text(fields, &headers::ERROR)
            .and_then(|code| ErrorCode::ALL.into_iter().find(|known| known.as_str() == code));
        self.answered.is_busy = fields.contains_key(http::header::RETRY_AFTER)
            || fields.contains_key("x-llm-d-request-dropped-reason")
            || fields.contains_key(&wire::REFUSED)
            || self.refusal.is_some();
        self.trailers_came(fields);
        let head = penstock_dialect::meter::Head {
            content_type: text("content-type"),
            content_encoding: text("content-encoding"),
        };
        let meter = Meter::new(self.dialect(), head);
        if let Some(stay) = &self.stay {
            stay.answered(if meter.is_stream() { Shape::Stream } else { Shape::Whole }, clock::now());
        }
        // Whoever answers has computed, but for a stream: that is computed while it comes.
        if !meter.is_stream() {
            self.call_is_answered();
        }
        self.answered.meter = Some(meter);
    }

    /// A part of the answer passes.
    pub fn answer_passes(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let now = clock::now();
        self.answered.bytes += bytes.len() as u64;
        self.answered.first_byte.get_or_insert(now);
        let before = self.content_events();
        self.read_answer(|meter, on_gap| meter.chunk(bytes, now.0, on_gap));
        let tokens = self.content_events() - before;
        if let Some(stay) = self.stay.as_mut().filter(|_| tokens > 0) {
            stay.tokens(u32::try_from(tokens).unwrap_or(u32::MAX), now);
        }
    }

    fn content_events(&self) -> u64 {
        self.answered.meter.as_ref().map_or(0, |meter| meter.reading().content_events)
    }

    /// Inbound: tells the caller's sidecar how loaded the application is.
    pub fn tell_load(&self, fields: &mut HeaderMap) {
        if let Some(engine) = &self.engine {
            let unit = self.call.as_ref().map(CallStay::unit);
            fields.insert(wire::LOAD, wire::write_load(&engine.report(clock::now()), unit));
        }
        if let Some(waited) = self.waited {
            wire::write_waited(fields, waited);
        }
        if let Some(Refused { refusal, terms }) = self.refusal {
            fields.insert(wire::REFUSED, wire::write_refusal(refusal, terms.first_token_ms()));
        }
    }

    /// The application's account of it is closed, with what was told of its size.
    fn leave_engine(&mut self) {
        let Some(stay) = self.stay.take() else { return };
        let reading = self.answered.meter.as_ref().map(|meter| *meter.reading()).unwrap_or_default();
        let usage = reading.usage.unwrap_or_default();
        let small = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        let size = usage.input.map(|tokens| Size { tokens: small(tokens), cached_tokens: 0 });
        let output_tokens = small(usage.output.unwrap_or(reading.content_events));
        stay.end(Said { size, output_tokens }, usage.cached.map(small), clock::now());
    }

    fn call_is_answered(&mut self) {
        let is_good = (200..300).contains(&self.answered.status)
            && self.answered.grpc_status.is_none_or(|status| status == 0);
        let how = if is_good { Computed } else { Failed };
        if let Some(call) = &mut self.call {
            call.answered(how, clock::now());
        }
    }

    fn read_answer(&mut self, read: impl FnOnce(&mut Meter, &mut dyn FnMut(u64))) {
        let Self { answered, chosen, scanner, shared, asked, .. } = self;
        let Some(meter) = &mut answered.meter else { return };
        read(meter, &mut |gap_ns| {
            answered.longest_gap_ns = answered.longest_gap_ns.max(gap_ns);
            // Looked up once: a long stream has thousands of them.
            let gaps = answered.gaps.get_or_insert_with(|| {
                let direction = asked.as_ref().map_or(Direction::Outbound, |asked| asked.arrival.direction);
                let backend = chosen.as_ref().and_then(|chosen| chosen.backend.as_ref());
                let model = scanner.as_ref().and_then(|body| body.0.facts().model.as_deref());
                shared.telemetry.metrics.gaps_of(direction.as_str(), backend, model)
            });
            gaps.observe(Duration::from_nanos(gap_ns).as_secs_f64());
        });
    }

    /// Fields at the answer's end, or at its head where a gRPC answer has no body.
    pub fn trailers_came(&mut self, fields: &HeaderMap) {
        let status = fields.get("grpc-status").map(HeaderValue::as_bytes);
        let status = status.and_then(|value| std::str::from_utf8(value).ok()?.parse().ok());
        self.answered.grpc_status = status.or(self.answered.grpc_status);
    }

    /// Whether the caller got an answer that we made.
    pub fn was_answered_by_us(&self) -> bool {
        self.failure.is_some() && self.answered.status != 0
            || self.trail.read().failure.is_some() && self.answered.status >= 400
    }

    /// Closes the account once; later calls do nothing.
    pub fn end(&mut self, ending: Ending) {
        let Some(account) = self.account.take() else { return };
        self.read_answer(|meter, on_gap| meter.end(clock::now().0, on_gap));
        self.leave_engine();
        if ending == Ending::Complete {
            self.call_is_answered();
        }
        self.call = None;
        let Some(asked) = self.asked.take() else { return };
        asked.arrival.head.request_ended();
        asked.arrival.line.close();
        drop(account);
        let trail = self.trail.read();
        let broken = ending == Ending::Complete && trail.failure.is_some() && self.failure.is_none();
        let ending = if broken && self.answered.status < 400 { Ending::Broken } else { ending };
        self.tell(&asked, ending, &trail);
    }

    fn tell(&self, asked: &Asked, ending: Ending, trail: &crate::upstream::call::TrailState) {
        let answered = &self.answered;
        let class = self.class(asked, ending);
        let reading = answered.meter.as_ref().map(|meter| *meter.reading()).unwrap_or_default();
        let pace = reading.pace();
        let since_start = |ns: Option<u64>| ns.map(|ns| Moment(ns).since(self.started));
        let usage = reading.usage.unwrap_or_default();
        let facts = self.scanner.as_ref().map(|body| body.0.facts());
        let failure = self.failure.as_ref().or(trail.failure.as_ref());
        let chosen = self.chosen.as_ref();
        let matched = chosen.and_then(|chosen| chosen.rule.as_ref());
        let peer = asked.arrival.peer.as_ref();
        let entry = Entry {
            direction: asked.arrival.direction.as_str(),
            request_id: &asked.request_id,
            trace_id: asked.trace_id.as_deref(),
            source: Some(asked.arrival.source),
            peer: peer.map(|id| id.as_str()),
            tls: if peer.is_some() { "true" } else { "false" },
            method: &asked.method,
            authority: &asked.authority,
            path: &asked.path,
            protocol: asked.protocol,
            parent: chosen.and_then(|chosen| chosen.parent.as_ref()),
            route: matched.map(|matched| (&matched.route().id, &*matched.rule().name)),
            backend: chosen.and_then(|chosen| chosen.backend.as_ref()),
            endpoint: trail.endpoint,
            attempts: trail.attempts,
            dialect: asked.dialect.as_str(),
            model: facts.and_then(|facts| facts.model.as_deref()),
            streaming: facts.is_some_and(|facts| facts.streaming),
            status: answered.status,
            grpc_status: answered.grpc_status,
            classification: class.as_str(),
            error: failure.map(|failure| failure.code.as_str()).or(answered.error.map(ErrorCode::as_str)),
            reason: failure.map(|failure| failure.message.as_str()),
            request_bytes: self.request_bytes,
            response_bytes: answered.bytes,
            duration: clock::now().since(self.started),
            time_to_first_byte: since_start(answered.first_byte.map(|moment| moment.0)),
            time_to_first_token: since_start(reading.first_content_ns),
            time_per_output_token: pace.map(|pace| Duration::from_nanos(pace.token_ns)),
            tokens_estimated: pace.is_some_and(|pace| pace.estimated),
            input_tokens: usage.input,
            output_tokens: usage.output,
            cached_tokens: usage.cached,
            reasoning_tokens: usage.reasoning,
        };
        if let Some(story) = self.story {
            self.shared.telemetry.why.tell(story, |story| story.outcome = Some(self.outcome(&entry, class)));
        }
        self.shared.telemetry.request_ended(&entry);
        if asked.arrival.direction == Direction::Outbound {
            self.count_objectives(&entry, class, &reading);
        }
    }

    /// What came of the request, for its story.
    fn outcome(&self, entry: &Entry<'_>, class: Class) -> why::Outcome {
        let since_start = |span: Option<Duration>| span.map(|span| self.started + span);
        why::Outcome {
            at: clock::now(),
            status: entry.status,
            class,
            error: entry.error,
            message: why::text(entry.reason.unwrap_or_default()),
            first_byte: self.answered.first_byte,
            first_token: since_start(entry.time_to_first_token),
            input_tokens: entry.input_tokens,
            cached_tokens: entry.cached_tokens,
            output_tokens: entry.output_tokens,
        }
    }

    fn class(&self, asked: &Asked, ending: Ending) -> Class {
        let answered = &self.answered;
        let grpc = match (asked.is_grpc, answered.grpc_status) {
            (false, _) => Grpc::None,
            (true, Some(status)) => Grpc::Status(status),
            (true, None) => Grpc::Missing,
        };
        let told = answered.meter.as_ref().map(|meter| meter.reading().ending);
        let ending = match (ending, told) {
            // Clients close as soon as they have read an error, and some the end mark, before the last empty chunk.
            (Ending::Complete | Ending::CallerLeft, Some(Told::Error)) => Ending::Broken,
            (Ending::CallerLeft, Some(Told::Done)) => Ending::Complete,
            (ending, _) => ending,
        };
        let answer = (answered.status != 0).then_some(Answer {
            status: answered.status,
            grpc,
            is_busy: answered.is_busy,
        });
        judge::judge(&Outcome { answer, ending })
    }

    fn count_objectives(&self, entry: &Entry<'_>, class: Class, reading: &Reading) {
        let finished = Finished {
            class,
            duration: entry.duration,
            ttft: entry.time_to_first_token,
            tpot: entry.time_per_output_token,
            gap_longest: reading.first_content_ns.map(|_| Duration::from_nanos(self.answered.longest_gap_ns)),
            model: entry.model,
            is_streaming: entry.streaming,
        };
        for slo in self.fleet.snapshot.parts().slos.values() {
            if !objective::is_about(&slo.target, entry.backend, entry.route) {
                continue;
            }
            for target in &slo.objectives {
                let result = match objective::count(target, &finished) {
                    Count::Good => "good",
                    Count::Bad => "bad",
                    Count::NotCounted => continue,
                };
                let labels = [&*slo.id.to_string(), &*target.name, result];
                self.shared.telemetry.metrics.slo_events.with_label_values(&labels).inc();
            }
        }
    }
}

/// Runs also when the task is cut or panics.
impl Drop for Exchange {
    fn drop(&mut self) {
        self.end(Ending::Abandoned);
    }
}

/// The caller's request id, or a new one.
pub fn request_id(fields: &HeaderMap) -> String {
    let given = headers::text(fields, &headers::REQUEST_ID).filter(|id| (1..=200).contains(&id.len()));
    given.map_or_else(seed::uuid, ToOwned::to_owned)
}

/// The trace id in a `traceparent` of version 00.
pub fn trace_id(fields: &HeaderMap) -> Option<String> {
    let mut parts = headers::text(fields, &headers::TRACEPARENT)?.split('-');
    let (_version, trace) = (parts.next()?, parts.next()?);
    (trace.len() == 32 && trace.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| trace.to_owned())
}
