//! Fields about load between sidecars, as `proxy/README.md` writes them down. No protobuf type leaves this file.

use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::{Bytes, BytesMut};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use penstock_delivery::proto::penstock::load::v1;
use penstock_model::units::Moment;
use penstock_policy::gate::{Patience, Promise, Refusal};
use penstock_policy::ledger::Shape;
use penstock_policy::pick::cost::{CallReport, Report, Speed, Told};
use penstock_policy::prefix::{DIGEST_BYTES_MAX, Digest, Garbled};
use penstock_policy::speed::{Call, CallSpeed, Size, Unit};
use prost::encoding::encode_varint;
use prost::{Message, decode_length_delimiter, length_delimiter_len};
use sha2::{Digest as _, Sha256};

use crate::http::headers::{self, WIRE, WIRE_VERSION};
use crate::upstream::attempt::Head;

/// How a model server stands: on every answer of its sidecar.
pub const LOAD: HeaderName = HeaderName::from_static("x-penstock-load");
/// The request was not let in, for this reason.
pub const REFUSED: HeaderName = HeaderName::from_static("x-penstock-refused");
/// On the answer to a request that waited before it was let in or refused: milliseconds.
pub const WAITED: HeaderName = HeaderName::from_static("x-penstock-waited-ms");
/// What a request demands of a model server.
pub const PROMPT: HeaderName = HeaderName::from_static("x-penstock-prompt");
/// What a call demands of a server: `tokens=N`, `items=N` or `bytes=N`.
pub const CALL: HeaderName = HeaderName::from_static("x-penstock-call");
/// How long it may take until the first token.
pub const PATIENCE: HeaderName = HeaderName::from_static("x-penstock-patience");

/// The body of a request follows when it has been let in (`awaits`): it is long, and would be sent in vain to who refuses.
pub const BODY: HeaderName = HeaderName::from_static("x-penstock-body");
/// On a 100: the request has been let in.
pub const ACCEPTED: HeaderName = HeaderName::from_static("x-penstock-accepted");
/// Asks for reports of an application instead of for the application: in place of `x-penstock-target`, so that a sidecar that does not
/// know it answers 421. By `HEAD` it asks for one, in the head of the answer.
pub const SUBSCRIBE: HeaderName = HeaderName::from_static("x-penstock-subscribe");
/// With it: how many milliseconds must lie between two reports at least, by the wish of who asks.
pub const INTERVAL: HeaderName = HeaderName::from_static("x-penstock-interval-ms");
/// Whatever is asked for, it is no more than this: nobody would choose by older reports.
pub(super) const INTERVAL_MAX: Duration = Duration::from_secs(5);
/// Path of such requests, for the log of the other side; nothing looks at it.
pub const PATH: PathAndQuery = PathAndQuery::from_static("/.penstock/load");
/// Content type of a stream of reports: each with its length before it, as a varint.
pub const REPORTS: &str = "application/vnd.penstock.load-reports";
/// Longest report of a stream that is read, with its length and a digest.
pub const REPORT_BYTES_MAX: usize = 1_024 + DIGEST_BYTES_MAX;

/// LoRA adapters that one report names.
const ADAPTERS_MAX: usize = 64;

/// Longest value that is read: a report has less than 200 bytes.
const LOAD_BYTES_MAX: usize = 1_024;

/// Asks the sidecar in front of `application` how that stands: by `GET` for reports from now on, by `HEAD` for one.
pub fn question(method: Method, application: SocketAddr) -> Head {
    let address = application.to_string();
    let mut headers = HeaderMap::from_iter([(WIRE, WIRE_VERSION)]);
    headers::insert_text(&mut headers, SUBSCRIBE, &address);
    Head { method, target: PATH, authority: address, headers }
}

/// Why a request is not let in, and what the first token would have taken.
pub fn write_refusal(refusal: Refusal, first_token_ms: f64) -> HeaderValue {
    let text = format!("{}, first-token={}", refusal.as_str(), first_token_ms.clamp(0.0, 1e9).round());
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("late"))
}

/// The same, read: `None` where the request is not refused. A reason that is not known is `None` within.
pub fn read_refusal(fields: &HeaderMap) -> Option<(Option<Refusal>, Option<u32>)> {
    let text = headers::text(fields, &REFUSED)?;
    let named = text.split(',').next().unwrap_or_default().trim();
    let refusal = Refusal::ALL.into_iter().find(|refusal| refusal.as_str() == named);
    Some((refusal, parameter(text, "first-token")))
}

/// How long a request waited before it was let in or refused.
pub fn write_waited(fields: &mut HeaderMap, waited: Duration) {
    headers::insert_text(fields, WAITED, &waited.as_millis().to_string());
}

/// The same, read; `None` where it did not wait.
pub fn read_waited(fields: &HeaderMap) -> Option<Duration> {
    headers::text(fields, &WAITED)?.parse().ok().map(Duration::from_millis)
}

/// What a request demands of a model server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand {
    /// Its prompt.
    pub size: Size,
    /// How it is answered.
    pub shape: Shape,
}

/// A report as the value of [`LOAD`]. Of calls it tells those in `unit` alone, so that it stays short.
pub fn write_load(told: &Told, unit: Option<Unit>) -> HeaderValue {
    let mut message = message(told);
    message.calls.retain(|calls| unit.is_some_and(|unit| calls.unit() == unit_told(unit)));
    let text = STANDARD_NO_PAD.encode(message.encode_to_vec());
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static(""))
}

/// The report in the fields of an answer; `None` where there is none that can be read.
pub fn read_load(fields: &HeaderMap) -> Option<Told> {
    let text = fields.get(LOAD)?.as_bytes();
    if text.len() > LOAD_BYTES_MAX {
        return None;
    }
    told_by(&v1::LoadReport::decode(&*STANDARD_NO_PAD.decode(text).ok()?).ok()?)
}

/// A LoRA adapter's name, as reports tell it.
pub fn adapter(name: &str) -> u32 {
    let hash = Sha256::digest(name.as_bytes());
    hash.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

/// A report as a part of a stream, with the LoRA adapters that are loaded. It is written once, for whoever is told it.
#[derive(Clone, Debug)]
pub struct Written {
    message: Bytes,
    /// With its length, for who is told nothing else.
    alone: Bytes,
}

impl Written {
    /// Writes it.
    pub fn new(told: &Told, adapters: &[u32]) -> Self {
        let adapters = adapters.iter().copied().take(ADAPTERS_MAX).collect();
        let message = Bytes::from(v1::LoadReport { adapters, ..message(told) }.encode_to_vec());
        let alone = with_length(&message, &[]);
        Self { message, alone }
    }

    /// As it is sent, with what changed of the prompts that are cached.
    pub fn with(&self, digest: Option<&Digest>) -> Bytes {
        let Some(digest) = digest else { return self.alone.clone() };
        // Fields of one message may come one after the other, from several writers.
        let more = v1::LoadReport { prefix_digest: digest.encode(), ..v1::LoadReport::default() };
        with_length(&self.message, &more.encode_to_vec())
    }
}

fn with_length(message: &[u8], more: &[u8]) -> Bytes {
    let bytes = message.len() + more.len();
    let mut part = BytesMut::with_capacity(length_delimiter_len(bytes) + bytes);
    encode_varint(bytes as u64, &mut part);
    part.extend_from_slice(message);
    part.extend_from_slice(more);
    part.freeze()
}

/// What one part of a stream says.
#[derive(Debug, PartialEq)]
pub struct Part {
    /// How the server stands; `None` where that cannot be read.
    pub told: Option<Told>,
    /// What changed of the prompts that it has cached, if it says.
    pub digest: Option<Result<Digest, Garbled>>,
    /// Which LoRA adapters it has loaded, at most [`ADAPTERS_MAX`].
    pub adapters: Vec<u32>,
    /// Bytes that it takes.
    pub bytes: usize,
}

/// The first report in `bytes`: nothing while it is not whole.
pub fn read_report(bytes: &[u8]) -> Option<Part> {
    let mut rest = bytes;
    let length = decode_length_delimiter(&mut rest).ok()?;
    let report = rest.get(..length)?;
    let read = v1::LoadReport::decode(report).ok();
    let digest = read.as_ref().map(|read| &*read.prefix_digest).filter(|digest| !digest.is_empty());
    Some(Part {
        told: read.as_ref().and_then(told_by),
        digest: digest.map(Digest::decode),
        adapters: read.iter().flat_map(|read| &read.adapters).copied().take(ADAPTERS_MAX).collect(),
        bytes: bytes.len() - rest.len() + length,
    })
}

/// Tells the receiver what is demanded, how patient the caller's sidecar is, and what the caller was promised between tokens.
pub fn write_demand(
    fields: &mut HeaderMap,
    demand: Demand,
    patience: Option<Patience>,
    token: Option<Duration>,
) {
    let Size { tokens, cached_tokens } = demand.size;
    let stream = u8::from(demand.shape == Shape::Stream);
    let text = format!("tokens={tokens}, cached={cached_tokens}, stream={stream}");
    headers::insert_text(fields, PROMPT, &text);
    if let Some(patience) = patience {
        let millis = |ms: f64| ms.clamp(0.0, 1e9).round();
        let mut text = format!(
            "first-token={}, promised={}",
            millis(patience.first_token_ms),
            millis(patience.promised_ms)
        );
        if let Some(token) = token {
            text.push_str(&format!(", token={}", token.as_millis().max(1)));
        }
        headers::insert_text(fields, PATIENCE, &text);
    }
}

/// What the caller was promised, as of `now`; `None` where nothing was, or nothing that lasts beyond the first token.
pub fn read_promise(fields: &HeaderMap, now: Moment) -> Option<Promise> {
    let text = headers::text(fields, &PATIENCE)?;
    let millis = |name| parameter(text, name).map(|ms| Duration::from_millis(ms.into()));
    Some(Promise { first_due: now + millis("promised")?, span: millis("token")? })
}

/// Most prompt tokens that a request may tell: more than any model takes. A false length must not keep everybody else out.
const PROMPT_TOKENS_MAX: u32 = 1 << 24;

/// What is demanded, where it is told.
pub fn read_demand(fields: &HeaderMap) -> Option<Demand> {
    let text = headers::text(fields, &PROMPT)?;
    let tokens = parameter(text, "tokens")?.min(PROMPT_TOKENS_MAX);
    let cached_tokens = parameter(text, "cached").unwrap_or(0).min(tokens);
    let shape = if parameter(text, "stream") == Some(1) { Shape::Stream } else { Shape::Whole };
    Some(Demand { size: Size { tokens, cached_tokens }, shape })
}

/// How patient the caller is; without bounds where it is not told.
pub fn read_patience(fields: &HeaderMap) -> Option<Patience> {
    let text = headers::text(fields, &PATIENCE)?;
    let first_token_ms = f64::from(parameter(text, "first-token")?);
    let promised_ms = parameter(text, "promised").map_or(f64::INFINITY, f64::from);
    Some(Patience { first_token_ms, promised_ms })
}

/// Asks for reports at most this often.
pub fn write_interval(fields: &mut HeaderMap, interval: Duration) {
    fields.insert(INTERVAL, HeaderValue::from(interval.min(INTERVAL_MAX).as_millis() as u64));
}

/// How far apart reports are asked to be; none where that is not told.
pub fn read_interval(fields: &HeaderMap) -> Duration {
    let asked = headers::text(fields, &INTERVAL).and_then(|text| text.parse().ok());
    asked.map_or(Duration::ZERO, Duration::from_millis).min(INTERVAL_MAX)
}

/// Tells the receiver what a call demands.
pub fn write_call(fields: &mut HeaderMap, call: Call) {
    headers::insert_text(fields, CALL, &format!("{}={}", call.unit.as_str(), call.units));
}

/// The same, read; `None` where the request is no call, or is counted in a unit that is not known here.
pub fn read_call(fields: &HeaderMap) -> Option<Call> {
    let text = headers::text(fields, &CALL)?;
    let counted = |unit: Unit| Some(Call { unit, units: parameter(text, unit.as_str())?.max(1) });
    Unit::ALL.into_iter().find_map(counted)
}

/// `name=NUMBER` among others, divided by commas; what is not known is left out.
fn parameter(text: &str, name: &str) -> Option<u32> {
    let pairs = text.split(',').filter_map(|pair| pair.trim().split_once('='));
    pairs.filter(|(key, _)| *key == name).find_map(|(_, value)| value.parse().ok())
}

fn message(told: &Told) -> v1::LoadReport {
    let Told { instance, sequence, draining, report, speed, calls } = *told;
    v1::LoadReport {
        instance,
        sequence,
        draining,
        prompt_tokens_pending: whole(report.prompt_tokens_pending),
        attention_doubled_pending: whole(report.attention_doubled_pending),
        sequences_running: report.sequences_running,
        sequences_waiting: report.sequences_waiting,
        sequences_max: report.sequences_max,
        longest_waiting_ms: small(report.longest_waiting_ms),
        output_tokens_mean: small(report.output_tokens_mean),
        kv_tokens_used: report.kv_tokens_used,
        kv_tokens_total: report.kv_tokens_total,
        arriving_permille: small(report.arriving * 1e3),
        bearable_ms: report.bearable_ms.map(|ms| ms as f32),
        prefix_digest: Vec::new(),
        adapters: Vec::new(),
        calls: Unit::ALL
            .into_iter()
            .zip(calls)
            .filter_map(|(unit, calls)| Some(calls_told(unit, calls?)))
            .collect(),
        speed: speed.map(|speed| v1::Speed {
            front_end_ms: speed.front_end_ms as f32,
            step_ms: speed.step_ms as f32,
            sequence_us: speed.sequence_us as f32,
            token_us: speed.token_us as f32,
            context_us: speed.context_us as f32,
            attention_ns: speed.attention_ns as f32,
            step_tokens_max: speed.step_tokens_max as f32,
        }),
    }
}

fn unit_told(unit: Unit) -> v1::CallUnit {
    match unit {
        Unit::Tokens => v1::CallUnit::Tokens,
        Unit::Items => v1::CallUnit::Items,
        Unit::Bytes => v1::CallUnit::Bytes,
    }
}

fn calls_told(unit: Unit, report: CallReport) -> v1::Calls {
    v1::Calls {
        unit: unit_told(unit).into(),
        units_ahead: whole(report.units_ahead),
        arriving_permille: small(report.arriving * 1e3),
        speed: report.speed.map(|speed| v1::CallSpeed {
            fixed_ms: speed.fixed_ms as f32,
            unit_us: speed.unit_us as f32,
            ahead_us: speed.ahead_us as f32,
        }),
    }
}

/// What is told of calls in this unit. An entry with which one cannot reckon is passed over.
fn calls_of(message: &v1::LoadReport, unit: Unit) -> Option<CallReport> {
    let told = message.calls.iter().find(|calls| calls.unit() == unit_told(unit))?;
    Some(CallReport {
        units_ahead: told.units_ahead as f64,
        arriving: f64::from(told.arriving_permille) * 1e-3,
        speed: match told.speed {
            None => None,
            Some(speed) => Some(CallSpeed {
                fixed_ms: constant(speed.fixed_ms)?,
                unit_us: constant(speed.unit_us)?,
                ahead_us: constant(speed.ahead_us)?,
            }),
        },
    })
}

/// A constant with which one can reckon.
fn constant(value: f32) -> Option<f64> {
    (value.is_finite() && value >= 0.0).then_some(f64::from(value))
}

/// `None` where it has no number, as an empty one, or a constant is none with which one can reckon.
fn told_by(message: &v1::LoadReport) -> Option<Told> {
    if message.sequence == 0 {
        return None;
    }
    Some(Told {
        instance: message.instance,
        sequence: message.sequence,
        draining: message.draining,
        report: Report {
            prompt_tokens_pending: message.prompt_tokens_pending as f64,
            attention_doubled_pending: message.attention_doubled_pending as f64,
            sequences_running: message.sequences_running,
            sequences_waiting: message.sequences_waiting,
            sequences_max: message.sequences_max,
            longest_waiting_ms: f64::from(message.longest_waiting_ms),
            output_tokens_mean: f64::from(message.output_tokens_mean),
            kv_tokens_used: message.kv_tokens_used,
            kv_tokens_total: message.kv_tokens_total,
            arriving: f64::from(message.arriving_permille) * 1e-3,
            bearable_ms: message.bearable_ms.filter(|ms| ms.is_finite()).map(f64::from),
        },
        speed: match message.speed {
            None => None,
            Some(speed) => Some(Speed {
                front_end_ms: constant(speed.front_end_ms)?,
                step_ms: constant(speed.step_ms)?,
                sequence_us: constant(speed.sequence_us)?,
                token_us: constant(speed.token_us)?,
                context_us: constant(speed.context_us)?,
                attention_ns: constant(speed.attention_ns)?,
                step_tokens_max: constant(speed.step_tokens_max)?.max(1.0),
            }),
        },
        calls: Unit::ALL.map(|unit| calls_of(message, unit)),
    })
}

fn whole(number: f64) -> u64 {
    number.max(0.0).round() as u64
}

fn small(number: f64) -> u32 {
    number.max(0.0).round() as u32
}

#[cfg(test)]
mod tests {
    use penstock_policy::speed;

    use super::*;

    /// What is sent as 32 bits comes back as such.
    fn speed() -> Speed {
        let speed = Speed::from(speed::Speed::default());
        let short = |constant: f64| f64::from(constant as f32);
        Speed {
            step_ms: short(speed.step_ms),
            sequence_us: short(speed.sequence_us),
            token_us: short(speed.token_us),
            context_us: short(speed.context_us),
            ..speed
        }
    }

    fn full() -> Told {
        Told {
            instance: u32::MAX,
            sequence: 1 << 40,
            draining: true,
            report: Report {
                prompt_tokens_pending: 1e7,
                attention_doubled_pending: 1e14,
                sequences_running: 4_096,
                sequences_waiting: 100_000,
                sequences_max: 4_096,
                longest_waiting_ms: 600_000.0,
                output_tokens_mean: 100_000.0,
                // A thousand times what a large engine has.
                kv_tokens_used: 1 << 34,
                kv_tokens_total: 1 << 34,
                arriving: 20.0,
                bearable_ms: Some(-250.5),
            },
            speed: Some(speed()),
            calls: [Some(calls()), None, Some(CallReport { units_ahead: 1e12, ..calls() })],
        }
    }

    fn calls() -> CallReport {
        let speed = CallSpeed { fixed_ms: 5.5, unit_us: 20.25, ahead_us: 1e6 };
        CallReport { units_ahead: 1e12, arriving: 20.0, speed: Some(speed) }
    }

    #[test]
    fn a_report_survives_and_has_less_than_200_bytes_with_the_calls_of_one_unit() {
        let told = full();
        for (unit, expected) in [
            (None, [None; 3]),
            (Some(Unit::Tokens), [told.calls[0], None, None]),
            (Some(Unit::Items), [None; 3]),
            (Some(Unit::Bytes), [None, None, told.calls[2]]),
        ] {
            let mut fields = HeaderMap::new();
            fields.insert(LOAD, write_load(&told, unit));
            assert_eq!(read_load(&fields), Some(Told { calls: expected, ..told }), "{unit:?}");
            let bytes = LOAD.as_str().len() + fields[LOAD].len();
            assert!(bytes < 200, "{bytes}");
        }
    }

    #[test]
    fn calls_that_cannot_be_reckoned_with_or_are_counted_in_something_unknown_are_passed_over() {
        let read = |entries: Vec<v1::Calls>| {
            let message = v1::LoadReport { calls: entries, ..message(&full()) };
            let part = read_report(&message.encode_length_delimited_to_vec());
            part.and_then(|part| part.told).map(|told| told.calls)
        };
        let good = calls_told(Unit::Items, calls());
        let endless = v1::CallSpeed { fixed_ms: f32::NAN, ..good.speed.unwrap() };
        let broken = v1::Calls { unit: v1::CallUnit::Tokens.into(), speed: Some(endless), ..good };
        let later = v1::Calls { unit: 99, ..good };
        assert_eq!(read(vec![later, broken, good]), Some([None, Some(calls()), None]));
        assert_eq!(read(vec![]), Some([None; 3]), "as one of a release before it is");
    }

    #[test]
    fn a_report_that_cannot_be_read_is_none() {
        let long = "A".repeat(LOAD_BYTES_MAX + 1);
        let broken = STANDARD_NO_PAD.encode([0xff, 0xff]);
        let mut endless = message(&full());
        endless.speed = endless.speed.map(|speed| v1::Speed { step_ms: f32::INFINITY, ..speed });
        let encoded = |message: &v1::LoadReport| STANDARD_NO_PAD.encode(message.encode_to_vec());
        for text in ["", "?", &long, &broken, &encoded(&endless)] {
            let fields = HeaderMap::from_iter([(LOAD, HeaderValue::from_str(text).unwrap())]);
            assert_eq!(read_load(&fields), None, "{text:.40}");
        }
    }

    fn write_report(told: &Told, digest: Option<&Digest>, adapters: &[u32]) -> Bytes {
        Written::new(told, adapters).with(digest)
    }

    #[test]
    fn reports_are_read_from_a_stream_wherever_it_is_cut() {
        let one = Told { sequence: 1, ..full() };
        let two = Told { sequence: 2, ..full() };
        let digest = Digest { key: 7, number: 0, removed: vec![], added: (1..=4_000).collect() };
        let all = [write_report(&one, Some(&digest), &[7, 9]), write_report(&two, None, &[])].concat();
        let first = write_report(&one, Some(&digest), &[7, 9]).len();
        assert!((16_000..=REPORT_BYTES_MAX).contains(&first), "{first}");
        for cut in 0..all.len() {
            let read = read_report(&all[..cut]);
            let whole = Part {
                told: Some(one),
                digest: Some(Ok(digest.clone())),
                adapters: vec![7, 9],
                bytes: first,
            };
            assert_eq!(read, (cut >= first).then_some(whole), "{cut}");
        }
        let rest = Part { told: Some(two), digest: None, adapters: vec![], bytes: all.len() - first };
        assert_eq!(read_report(&all[first..]), Some(rest));
        let nothing = Part { told: None, digest: None, adapters: vec![], bytes: 3 };
        assert_eq!(read_report(&[2, 0xff, 0xff]), Some(nothing), "what cannot be read is passed over");
    }

    #[test]
    fn a_digest_that_cannot_be_read_is_told_apart_from_none() {
        let check = |prefix_digest: &[u8], expected| {
            let message = v1::LoadReport { prefix_digest: prefix_digest.to_vec(), ..message(&full()) };
            let part = read_report(&message.encode_length_delimited_to_vec()).unwrap();
            assert_eq!((part.told, part.digest), (Some(full()), expected), "{prefix_digest:?}");
        };
        check(&[], None);
        check(&[9, 1], Some(Err(Garbled::Version(9))));
        check(&[1, 1], Some(Err(Garbled::Length { came: 2, wanted: 13 })));
    }

    #[test]
    fn a_demand_survives_and_what_is_not_known_in_it_is_left_out() {
        let demand = Demand { size: Size { tokens: 1_000, cached_tokens: 10 }, shape: Shape::Stream };
        let patience = Patience { first_token_ms: 120.4, promised_ms: 5_000.0 };
        let mut fields = HeaderMap::new();
        write_demand(&mut fields, demand, Some(patience), Some(Duration::from_millis(50)));
        assert_eq!(read_demand(&fields), Some(demand));
        let read = read_patience(&fields).unwrap();
        assert_eq!((read.first_token_ms, read.promised_ms), (120.0, 5_000.0));
        let promise = Promise { first_due: Moment(7 + 5_000_000_000), span: Duration::from_millis(50) };
        assert_eq!(read_promise(&fields, Moment(7)), Some(promise));

        let check = |text, expected| {
            let fields = HeaderMap::from_iter([(PROMPT, HeaderValue::from_static(text))]);
            assert_eq!(read_demand(&fields).map(|demand| demand.size.tokens), expected, "{text}");
        };
        check("tokens=5", Some(5));
        check("later=x, tokens=5,cached=9", Some(5));
        check("cached=9", None);
        check("tokens=-5", None);
        check("tokens=99999999999", None);
        check("tokens=4294967295", Some(PROMPT_TOKENS_MAX));
    }

    #[test]
    fn a_call_survives_and_one_of_a_unit_that_is_not_known_is_none() {
        for unit in Unit::ALL {
            let mut fields = HeaderMap::new();
            write_call(&mut fields, Call { unit, units: 70 });
            assert_eq!(read_call(&fields), Some(Call { unit, units: 70 }));
        }
        let check = |text, expected| {
            let fields = HeaderMap::from_iter([(CALL, HeaderValue::from_static(text))]);
            assert_eq!(read_call(&fields).map(|call| (call.unit, call.units)), expected, "{text}");
        };
        check("later=x, bytes=5", Some((Unit::Bytes, 5)));
        check("items=0", Some((Unit::Items, 1)));
        check("pages=5", None);
        check("tokens=many", None);
        assert_eq!(read_call(&HeaderMap::new()), None);
    }

    #[test]
    fn a_refusal_survives_and_a_reason_of_later_is_one_all_the_same() {
        let read = |value: HeaderValue| read_refusal(&HeaderMap::from_iter([(REFUSED, value)]));
        assert_eq!(read(write_refusal(Refusal::Late, 120.4)), Some((Some(Refusal::Late), Some(120))));
        assert_eq!(read(HeaderValue::from_static("tired, x=5")), Some((None, None)));
        assert_eq!(read_refusal(&HeaderMap::new()), None);
    }

    #[test]
    fn an_interval_survives_and_one_that_is_none_or_absurd_does_no_harm() {
        let read = |value: &str| {
            let value = HeaderValue::from_str(value).unwrap();
            read_interval(&HeaderMap::from_iter([(INTERVAL, value)])).as_millis()
        };
        let mut fields = HeaderMap::new();
        write_interval(&mut fields, Duration::from_micros(128_600));
        assert_eq!(read_interval(&fields), Duration::from_millis(128));
        assert_eq!([read("50"), read("-1"), read("soon"), read("99999999999999999999")], [50, 0, 0, 0]);
        assert_eq!([read("5001"), read("18446744073709551615")], [5_000, 5_000]);
        assert_eq!(read_interval(&HeaderMap::new()), Duration::ZERO);
    }

    #[test]
    fn the_last_word_has_no_bound_that_is_no_number() {
        let demand = Demand { size: Size { tokens: 1, cached_tokens: 0 }, shape: Shape::Whole };
        let mut fields = HeaderMap::new();
        write_demand(&mut fields, demand, Some(Patience::at_last(f64::INFINITY)), None);
        assert_eq!(read_promise(&fields, Moment(0)), None);
        assert_eq!(read_patience(&fields).map(|patience| patience.promised_ms), Some(1e9));
    }
}
