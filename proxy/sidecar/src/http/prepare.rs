//! What the hooks do, in the order in which they do it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, SEC_WEBSOCKET_ACCEPT, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version};
use penstock_dialect::detect::detect;
use penstock_dialect::reply::ErrorCode;
use penstock_model::names::BackendId;
use penstock_policy::retry::Arrival as RetryArrival;
use penstock_policy::rewrite;
use pingora_error::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;

use super::exchange::{self, Asked, Chosen, Exchange};
use super::headers::{self, BACKEND, REQUEST_ID, SDK_RETRIES, SWITCHED, TARGET, WIRE, WIRE_VERSION};
use super::inspect::{self, Held};
use super::{hygiene, refuse, reply, route};
use crate::clock;
use crate::listen::conn::{self, Direction};
use crate::listen::line::STALL_MAX;
use crate::listen::stream;
use crate::live::Source;
use crate::upstream::attempt::{Head, WEBSOCKET};
use crate::upstream::call::{Call, Failure, Target, Upgrade};
use crate::upstream::seam::Parcel;
use crate::upstream::upload::{self, Upload};

/// Idle time of a client's HTTP/1.1 connection; nginx's `keepalive_timeout`.
const KEEPALIVE_S: u64 = 75;

/// Longest silence of a client in the middle of its body. A little more than an endpoint has: a client that waits for room is not
/// silent by its own fault.
const BODY_SILENCE_MAX: Duration = STALL_MAX.saturating_add(Duration::from_secs(1));

/// Limits that pingora wants anew with every request.
pub(super) fn set_limits(session: &mut Session) {
    if session.get_keepalive().is_some() {
        session.set_keepalive(Some(KEEPALIVE_S));
    }
    // Also lets the watch for a client that leaves tell an early second request from one.
    session.set_pipelining_enabled(true);
    session.set_read_timeout(Some(BODY_SILENCE_MAX));
    session.set_write_timeout(Some(STALL_MAX));
}

/// Notes what was asked and opens the account.
pub(super) fn open_account(session: &mut Session, exchange: &mut Exchange) -> Result<()> {
    let arrival = conn::arrival(session)
        .ok_or_else(|| Error::explain(ErrorType::InternalError, "the connection was not accepted by us"))?;
    arrival.head.head_is_read();
    exchange.line = stream::line(session.req_header()).unwrap_or_else(|| Arc::clone(&arrival.line));
    let direction = arrival.direction;
    exchange.upgrade = upgrade(session);
    let request = session.req_header_mut();
    let authority = authority(request);
    let (host, port) = host_and_port(&authority);
    let path = request.uri.path().to_owned();
    let content_type = headers::text(&request.headers, &CONTENT_TYPE);
    let asked = Asked {
        dialect: detect(request.method.as_str(), &path, content_type),
        is_grpc: content_type.is_some_and(|text| text.starts_with("application/grpc")),
        method: request.method.as_str().to_owned(),
        authority,
        host,
        port,
        query: request.uri.query().map(ToOwned::to_owned),
        path,
        protocol: if request.version == Version::HTTP_2 { "HTTP/2" } else { "HTTP/1.1" },
        request_id: exchange::request_id(&request.headers),
        trace_id: exchange::trace_id(&request.headers),
        backend: match direction {
            Direction::Inbound => backend_of(&request.headers),
            Direction::Outbound => None,
        },
        arrival,
    };
    if direction == Direction::Outbound {
        let request = session.req_header_mut();
        for name in headers::ours(&request.headers) {
            request.remove_header(&name);
        }
    }
    exchange.open(asked);
    Ok(())
}

/// Refuses a head that is too long or can be read in two ways. Of HTTP/1.1 the gate below the parser has refused all that it could
/// see; HTTP/2 is judged where its streams become requests.
pub(super) fn refuse_ambiguity(session: &Session, exchange: &mut Exchange) -> Result<()> {
    let Some(http1) = session.downstream_session.as_http1() else { return Ok(()) };
    let head = http1.get_headers_raw_bytes();
    let bytes_max = exchange.shared.settings.load().limits.header_bytes_max;
    if head.len() > usize::try_from(bytes_max).unwrap_or(usize::MAX) {
        let message =
            format!("the request head has {} bytes; `limits.headerBytesMax` is {bytes_max}", head.len());
        return Err(refuse(exchange, Failure::new(ErrorCode::HeaderTooLarge, message)));
    }
    if let (Err(why), Some(asked)) = (hygiene::head(head.trim_ascii_start()), exchange.asked.clone()) {
        asked.arrival.head.refuse(why);
        return Err(refuse(exchange, Failure::new(ErrorCode::BadRequest, why.to_string())));
    }
    Ok(())
}

/// A body that the gate below the parser has broken off comes as an unreadable stream; the caller is told why.
pub(super) fn note_broken_body(exchange: &mut Exchange) {
    let why = exchange.asked.as_ref().and_then(|asked| asked.arrival.head.broken_by());
    if let (None, Some(why)) = (&exchange.failure, why) {
        exchange.failure = Some(Failure::new(ErrorCode::BadRequest, why.to_string()));
    }
}

/// Inbound: which application, by the target that the other sidecar names.
pub(super) fn choose_application(session: &mut Session, exchange: &mut Exchange) -> Result<()> {
    let fields = &session.req_header().headers;
    let named = headers::text(fields, &TARGET).and_then(|text| text.parse::<SocketAddr>().ok());
    let settings = exchange.shared.settings.load();
    let found = settings
        .inbound
        .iter()
        .flat_map(|inbound| &inbound.applications)
        .find(|application| Some(application.endpoint) == named)
        .cloned();
    let Some(application) = found else {
        let message = match headers::text(fields, &TARGET) {
            Some(target) => format!("this sidecar serves no application at `{}`", target.escape_debug()),
            None => "the request names no application in `x-penstock-target`".to_owned(),
        };
        return Err(refuse(exchange, Failure::new(ErrorCode::Misdirected, message)));
    };
    let backend = exchange.asked.as_ref().and_then(|asked| asked.backend.clone());
    let target = Target::Application(application);
    exchange.chosen = Some(Chosen { parent: None, rule: None, split_index: None, target, backend });
    inspect::begin(exchange, fields);
    Ok(())
}

/// Outbound: parent, then the model if a rule asks for it, then the rule.
pub(super) async fn choose_backend(session: &mut Session, exchange: &mut Exchange) -> Result<()> {
    if exchange.shared.live.source() == Source::None {
        let message = "this sidecar has received no configuration yet; see its /ready page";
        return Err(refuse(exchange, Failure::new(ErrorCode::NoBackend, message)));
    }
    let Some(asked) = exchange.asked.clone() else { return Ok(()) };
    match choose(session, exchange, &asked).await? {
        Ok(chosen) => {
            if let Target::Backend(state) = &chosen.target {
                state.retries().lock().arrived(arrival_of(&session.req_header().headers), clock::now());
            }
            exchange.chosen = Some(chosen);
            Ok(())
        }
        Err(failure) => Err(refuse(exchange, failure)),
    }
}

async fn choose(
    session: &mut Session,
    exchange: &mut Exchange,
    asked: &Asked,
) -> Result<Result<Chosen, Failure>> {
    let parent = match route::parent(exchange, asked) {
        Ok(parent) => parent,
        Err(none) => return Ok(Err(none)),
    };
    let fields = &session.req_header().headers;
    inspect::begin(exchange, fields);
    if inspect::is_model_awaited(exchange) && route::needs_model(exchange, asked, &parent, fields) {
        exchange.is_model_decisive = true;
        invite_body(session).await?;
        match inspect::hold_until_model_known(session, exchange, &parent).await? {
            Held::Known | Held::Unknown => {}
            Held::Refused(failure) => return Ok(Err(failure)),
        }
    }
    Ok(route::choose(exchange, asked, parent, &session.req_header().headers))
}

/// Answers with the rule's redirect, if it has one.
pub(super) async fn redirect(session: &mut Session, exchange: &mut Exchange) -> Result<bool> {
    let matched = exchange.chosen.as_ref().and_then(|chosen| chosen.rule.clone());
    let (Some(matched), Some(asked)) = (matched, &exchange.asked) else { return Ok(false) };
    let Some(redirect) = rewrite::redirect(matched.rule()) else { return Ok(false) };
    let from = rewrite::Target {
        scheme: "http",
        host: &asked.host,
        port: asked.port,
        path: &asked.path,
        query: asked.query.as_deref(),
    };
    let location = rewrite::location(redirect, &from, matched.prefix_len());
    reply::redirect(session, exchange, redirect.status, &location).await?;
    Ok(true)
}

/// A client that waits to be asked for its body is asked, because its model is looked for. Otherwise that is left to the application.
async fn invite_body(session: &mut Session) -> Result<()> {
    let request = session.req_header();
    let expects = headers::text(&request.headers, &EXPECT)
        .is_some_and(|value| value.eq_ignore_ascii_case("100-continue"));
    if expects && request.version != Version::HTTP_10 {
        session.req_header_mut().remove_header(&EXPECT);
        session.set_close_on_response_before_downstream_finish(false);
        session.downstream_session.write_continue_response().await?;
        session.set_close_on_response_before_downstream_finish(true);
    }
    Ok(())
}

/// Packs what the session needs into the request that pingora hands to it.
pub(super) fn pack(
    session: &mut Session,
    request: &mut RequestHeader,
    exchange: &mut Exchange,
) -> Result<()> {
    let (Some(asked), Some(chosen)) = (&exchange.asked, &exchange.chosen) else {
        return Error::e_explain(ErrorType::InternalError, "the request was not routed");
    };
    let head = head(request, asked, chosen)?;
    let rule = chosen.rule.as_ref().map(|matched| matched.rule());
    let deadline = rule.and_then(|rule| rule.timeout_request).filter(|span| !span.is_zero());
    let attempt_timeout = rule.and_then(|rule| rule.timeout_backend_request).filter(|span| !span.is_zero());
    let is_whole = exchange.upgrade.is_none() && (exchange.is_held_whole || session.is_body_done());
    let held = std::mem::replace(&mut exchange.held_memory, upload::Held::none(&exchange.shared.body_budget));
    let chunks = std::mem::take(&mut exchange.held);
    let upload = if is_whole {
        Upload::whole(chunks, held, exchange.line.take_trailers())
    } else {
        Upload::new(chunks, held)
    };
    exchange.line.open(&upload);
    exchange.upload = Some(Arc::clone(&upload));
    let call = Call {
        target: chosen.target.clone(),
        upload,
        line: Arc::clone(&exchange.line),
        trail: Arc::clone(&exchange.trail),
        interim: Arc::default(),
        upgrade: exchange.upgrade,
        error_dialect: exchange.error_dialect(),
        deadline: deadline.map(|span| exchange.started + span),
        attempt_timeout,
    };
    request.extensions_mut().insert(Parcel::new(call, head));
    Ok(())
}

fn head(request: &RequestHeader, asked: &Asked, chosen: &Chosen) -> Result<Head> {
    let mut fields = request.headers.clone();
    headers::clean_request(&mut fields);
    headers::insert_text(&mut fields, REQUEST_ID, &asked.request_id);
    let mut authority =
        if asked.authority.is_empty() { "localhost".to_owned() } else { asked.authority.clone() };
    let mut target = request.uri.path_and_query().cloned();
    if let Some(matched) = &chosen.rule {
        let split = chosen.split_index.and_then(|index| matched.rule().backends.get(index));
        headers::edit(&mut fields, rewrite::request_edits(matched.rule(), split));
        if let Some(change) = rewrite::rewrite(matched.rule()) {
            if let Some(hostname) = &change.hostname {
                authority = hostname.to_string();
            }
            if let Some(path) = &change.path {
                let changed =
                    rewrite::path_and_query(path, &asked.path, asked.query.as_deref(), matched.prefix_len());
                target = changed.parse().ok();
            }
        }
    }
    let target = target.ok_or_else(|| {
        Error::explain(ErrorType::InvalidHTTPHeader, "the request has no path that can be sent on")
    })?;
    Ok(Head { method: request.method.clone(), target, authority, headers: fields })
}

/// A chunk of the request's body passes.
///
/// # Errors
/// When the request must be broken off.
pub(super) fn body_passes(chunk: Option<&Bytes>, exchange: &mut Exchange) -> Result<()> {
    let Some(bytes) = chunk else { return Ok(()) };
    exchange.request_bytes += bytes.len() as u64;
    if inspect::is_defective(exchange, bytes) {
        return Err(break_off(exchange));
    }
    Ok(())
}

/// Tears down what has been sent of the request. An error stops pingora from reading more of it.
fn break_off(exchange: &Exchange) -> Box<Error> {
    if let Some(upload) = &exchange.upload {
        upload.abort();
    }
    Error::explain(ErrorType::InternalError, "the request was broken off")
}

/// What the request asks the connection to become. Other protocols than WebSocket are not offered: their `upgrade` field is taken off,
/// and the request is an ordinary one (RFC 9110 section 7.8); so is one with a body, which would come before the 101.
fn upgrade(session: &Session) -> Option<Upgrade> {
    let head = session.req_header();
    if stream::asks_for_websocket(head) {
        return Some(Upgrade::Http2);
    }
    let names_it = |name: &http::HeaderName, wanted: &str| {
        let values = head.headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|part| part.trim().eq_ignore_ascii_case(wanted))
    };
    let has_body = head.headers.contains_key(TRANSFER_ENCODING)
        || head.headers.get(CONTENT_LENGTH).is_some_and(|length| length.as_bytes() != b"0");
    let asks = head.version == Version::HTTP_11
        && !has_body
        && head.method == Method::GET
        && names_it(&UPGRADE, WEBSOCKET)
        && names_it(&CONNECTION, "upgrade");
    asks.then_some(Upgrade::Http1)
}

/// The connection goes on in WebSocket, in the words of the caller's protocol.
fn switch(session: &mut Session, response: &mut ResponseHeader, exchange: &mut Exchange) -> Result<()> {
    exchange.is_switched = true;
    if exchange.upgrade == Some(Upgrade::Http1) {
        // The tunnel has its own limit; the two ways end one by one.
        session.set_read_timeout(None);
        session.set_abort_on_close(false);
        response.insert_header(UPGRADE, WEBSOCKET)?;
        return response.insert_header(CONNECTION, "upgrade");
    }
    response.set_status(200)?;
    match exchange.direction() {
        Direction::Inbound => response.insert_header(SWITCHED, "1"),
        Direction::Outbound => {
            response.remove_header(&SEC_WEBSOCKET_ACCEPT);
            Ok(())
        }
    }
}

/// The head of the answer passes.
pub(super) fn answer_passes(
    session: &mut Session,
    response: &mut ResponseHeader,
    exchange: &mut Exchange,
) -> Result<()> {
    let status = response.status;
    // An interim answer in the middle of an upload does not cost the connection.
    session.set_close_on_response_before_downstream_finish(!status.is_informational());
    // Taken out to be changed in place. Nothing is lost: a head of ours has no spellings beside its fields.
    let taken = std::mem::replace(response, ResponseHeader::build_no_case(status, Some(0))?);
    let mut parts = http::response::Parts::from(taken);
    let fields = &mut parts.headers;
    headers::clean_response(status, fields);
    if let Some(chosen) = &exchange.chosen
        && let Some(matched) = &chosen.rule
    {
        let split = chosen.split_index.and_then(|index| matched.rule().backends.get(index));
        headers::edit(fields, rewrite::response_edits(matched.rule(), split));
    }
    if let Some(asked) = &exchange.asked
        && (!status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS)
        && !fields.contains_key(REQUEST_ID)
    {
        headers::insert_text(fields, REQUEST_ID, &asked.request_id);
    }
    if exchange.direction() == Direction::Inbound {
        fields.insert(WIRE, WIRE_VERSION);
    }
    let is_switched = status == StatusCode::SWITCHING_PROTOCOLS;
    if !status.is_informational() || is_switched {
        exchange.answer_began(status.as_u16(), fields);
    }
    *response = ResponseHeader::from(parts);
    if is_switched { switch(session, response, exchange) } else { Ok(()) }
}

fn authority(request: &RequestHeader) -> String {
    let from_uri = request.uri.authority().map(ToString::to_string);
    let from_host = || headers::text(&request.headers, &HOST).map(ToOwned::to_owned);
    from_uri.or_else(from_host).unwrap_or_default()
}

fn host_and_port(authority: &str) -> (String, Option<u16>) {
    let text = authority.to_ascii_lowercase();
    match text.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => {
            (host.to_owned(), port.parse().ok())
        }
        _ => (text, None),
    }
}

fn backend_of(fields: &HeaderMap) -> Option<BackendId> {
    let (namespace, name) = headers::text(fields, &BACKEND)?.split_once('/')?;
    (!namespace.is_empty() && !name.is_empty() && name.len() <= 253).then(|| BackendId::new(namespace, name))
}

fn arrival_of(fields: &HeaderMap) -> RetryArrival {
    let retries = fields.get(SDK_RETRIES).map(HeaderValue::as_bytes);
    if retries.is_some_and(|count| count != b"0") { RetryArrival::Repeat } else { RetryArrival::First }
}
