//! The steps of a request, in the order in which they are taken.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, SEC_WEBSOCKET_ACCEPT, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version, request, response};
use penstock_dialect::detect::detect;
use penstock_dialect::reply::ErrorCode;
use penstock_model::names::{BackendId, ParentId};
use penstock_policy::retry::Arrival as RetryArrival;
use penstock_policy::rewrite;
use penstock_policy::why::{self, Number, Story};

use super::exchange::{self, Asked, Chosen, Exchange};
use super::headers::{self, BACKEND, REQUEST_ID, SDK_RETRIES, SWITCHED, TARGET, WIRE, WIRE_VERSION};
use super::inspect::{self, Held};
use super::{Stop, admit, hygiene, reply, route};
use crate::clock;
use crate::fleet::Needs;
use crate::listen::caller::Caller;
use crate::listen::conn::Direction;
use crate::live::Source;
use crate::upstream::attempt::{Head, WEBSOCKET};
use crate::upstream::call::{Call, Failure, Promise, Target, Upgrade};
use crate::upstream::session;
use crate::upstream::upload::{self, Upload};

/// Bytes of a Backend's namespace, and of its name, as another sidecar tells them: what Kubernetes allows.
const NAME_BYTES_MAX: usize = 253;

/// Notes what was asked and opens the account.
pub(super) fn open_account(caller: &mut Caller, exchange: &mut Exchange) {
    let arrival = Arc::clone(caller.arrival());
    arrival.head.head_is_read();
    exchange.line = Arc::clone(caller.line());
    let direction = arrival.direction;
    exchange.upgrade = upgrade(caller);
    let request = caller.head();
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
        for name in headers::ours(&caller.head().headers) {
            caller.remove_field(&name);
        }
    }
    exchange.open(asked);
}

/// Refuses a head that is too long or can be read in two ways. Of HTTP/1.1 the gate below the parser has refused all that it could
/// see; HTTP/2 is judged where its streams become requests.
pub(super) fn refuse_ambiguity(caller: &Caller, exchange: &Exchange) -> Result<(), Stop> {
    let Some(head) = caller.raw_head() else { return Ok(()) };
    let bytes_max = exchange.shared.settings.load().limits.header_bytes_max;
    if head.len() > usize::try_from(bytes_max).unwrap_or(usize::MAX) {
        let message =
            format!("the request head has {} bytes; `limits.headerBytesMax` is {bytes_max}", head.len());
        return Err(Stop::Refused(Failure::new(ErrorCode::HeaderTooLarge, message)));
    }
    hygiene::head(head.trim_ascii_start()).map(drop).map_err(|why| {
        caller.arrival().head.refuse(why);
        Stop::Refused(Failure::new(ErrorCode::BadRequest, why.to_string()))
    })
}

/// Inbound: which application, by the target that the other sidecar names.
pub(super) async fn choose_application(caller: &mut Caller, exchange: &mut Exchange) -> Result<(), Stop> {
    let fields = &caller.head().headers;
    let named = headers::text(fields, &TARGET).and_then(|text| text.parse::<SocketAddr>().ok());
    let found = named.and_then(|address| exchange.shared.application(address));
    let Some(application) = found else {
        let message = match headers::text(fields, &TARGET) {
            Some(target) => format!("this sidecar serves no application at `{}`", target.escape_debug()),
            None => "the request names no application in `x-penstock-target`".to_owned(),
        };
        return Err(Stop::Refused(Failure::new(ErrorCode::Misdirected, message)));
    };
    let backend = exchange.asked.as_ref().and_then(|asked| asked.backend.clone());
    // Whoever asks for readiness or lists gives the engine no work.
    if !caller.head().method.is_safe() || exchange.upgrade.is_some() {
        exchange.serving = exchange.shared.scrapes.serve(application.endpoint);
    }
    let engine = exchange.shared.engines.of(&application);
    let target = Target::Application(application);
    exchange.chosen = Some(Chosen { parent: None, rule: None, split_index: None, target, backend });
    inspect::begin(exchange, fields);
    admit::let_in(caller, exchange, &engine).await
}

/// Outbound: parent, then the model if a rule asks for it, then the rule.
pub(super) async fn choose_backend(caller: &mut Caller, exchange: &mut Exchange) -> Result<(), Stop> {
    if exchange.shared.live.source() == Source::None {
        let message = "this sidecar has received no configuration yet; see its /ready page";
        return Err(Stop::Refused(Failure::new(ErrorCode::NoBackend, message)));
    }
    let Some(asked) = exchange.asked.clone() else { return Ok(()) };
    let parent = route::parent(exchange, &asked).map_err(Stop::Refused)?;
    let fields = &caller.head().headers;
    inspect::begin(exchange, fields);
    if inspect::is_model_awaited(exchange) && route::needs_model(exchange, &asked, &parent, fields) {
        hold_for_model(caller, exchange, &parent).await?;
    }
    let fields = &caller.head().headers;
    let chosen = route::choose(exchange, &asked, parent, fields).map_err(Stop::Refused)?;
    if let Target::Backend(state) = &chosen.target {
        state.retries().lock().arrived(arrival_of(fields), clock::now());
    }
    let parent = chosen.parent.clone().filter(|_| admit::needs_model(&chosen.target));
    exchange.chosen = Some(chosen);
    if let Some(parent) = parent.filter(|_| inspect::is_model_awaited(exchange)) {
        hold_for_model(caller, exchange, &parent).await?;
    }
    if admit::needs_body(exchange) {
        invite_body(caller).await?;
        inspect::hold_prompt(caller, exchange).await?;
    }
    Ok(())
}

/// Who gets the request depends on its model.
async fn hold_for_model(caller: &mut Caller, exchange: &mut Exchange, parent: &ParentId) -> Result<(), Stop> {
    exchange.is_model_decisive = true;
    invite_body(caller).await?;
    let over = session::is_over(exchange.shared.means.over.clone());
    let held = tokio::select! {
        biased;
        held = inspect::hold_until_model_known(caller, exchange, parent) => held?,
        () = over => Held::Refused(session::drained()),
    };
    match held {
        Held::Known | Held::Unknown => Ok(()),
        Held::Refused(failure) => Err(Stop::Refused(failure)),
    }
}

/// Answers with the rule's redirect, if it has one.
pub(super) async fn redirect(caller: &mut Caller, exchange: &mut Exchange) -> Result<bool, Stop> {
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
    reply::redirect(caller, exchange, redirect.status, &location).await?;
    Ok(true)
}

/// A client that waits to be asked for its body is asked, because its model is looked for. Otherwise that is left to the application.
async fn invite_body(caller: &mut Caller) -> Result<(), Stop> {
    let expects = headers::text(&caller.head().headers, &EXPECT)
        .is_some_and(|value| value.eq_ignore_ascii_case("100-continue"));
    if expects {
        caller.remove_field(&EXPECT);
        caller.invite_body().await?;
    }
    Ok(())
}

/// Makes the request that is sent on: what it is, and its body as far as it is there.
pub(super) fn pack(caller: &mut Caller, exchange: &mut Exchange) -> Result<(Call, Head), Stop> {
    let (Some(asked), Some(chosen)) = (&exchange.asked, &exchange.chosen) else {
        return Err(Stop::Refused(Failure::new(ErrorCode::Internal, "the request was not routed")));
    };
    let is_body_done = caller.is_body_done();
    let needs = admit::needs(exchange, &caller.head().headers);
    let promise = admit::promise(exchange, &caller.head().headers).map_err(Stop::Refused)?;
    let head = head(caller, asked, chosen).map_err(Stop::Refused)?;
    let rule = chosen.rule.as_ref().map(|matched| matched.rule());
    let deadline = rule.and_then(|rule| rule.timeout_request).filter(|span| !span.is_zero());
    let attempt_timeout = rule.and_then(|rule| rule.timeout_backend_request).filter(|span| !span.is_zero());
    let is_whole = exchange.upgrade.is_none() && (exchange.is_held_whole || is_body_done);
    let held = std::mem::replace(&mut exchange.held_memory, upload::Held::none(&exchange.shared.body_budget));
    let chunks = std::mem::take(&mut exchange.held);
    let upload = if is_whole {
        Upload::whole(chunks, held, exchange.line.take_trailers())
    } else {
        Upload::new(chunks, held)
    };
    exchange.line.open(&upload);
    exchange.upload = Some(Arc::clone(&upload));
    let story = story(exchange, asked, &chosen.target, &needs, promise);
    let call = Call {
        target: chosen.target.clone(),
        upload,
        line: Arc::clone(&exchange.line),
        trail: Arc::clone(&exchange.trail),
        upgrade: exchange.upgrade,
        error_dialect: exchange.error_dialect(),
        deadline: deadline.map(|span| exchange.started + span),
        needs,
        promise,
        attempt_timeout,
        story,
    };
    exchange.story = story;
    Ok((call, head))
}

/// Outbound: begins to tell what is decided for the request.
fn story(
    exchange: &Exchange,
    asked: &Asked,
    target: &Target,
    needs: &Needs,
    promise: Promise,
) -> Option<Number> {
    let Target::Backend(state) = target else { return None };
    let millis = |span: Option<Duration>| span.map(|span| span.as_secs_f64() * 1e3);
    let wanted = why::Asked {
        prompt_tokens: needs.demand.map(|demand| demand.size.tokens),
        call: needs.call,
        first_token_ms: millis(promise.first_token),
        token_ms: millis(promise.token),
        wait_ms: millis(promise.wait),
    };
    let story = Story::new(&asked.request_id, exchange.started, state.backend.id.clone(), wanted);
    Some(exchange.shared.telemetry.why.begin(story))
}

fn head(caller: &mut Caller, asked: &Asked, chosen: &Chosen) -> Result<Head, Failure> {
    let mut fields = caller.take_fields();
    let request = caller.head();
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
    let target = target
        .ok_or_else(|| Failure::new(ErrorCode::BadRequest, "the request has no path that can be sent on"))?;
    Ok(Head { method: request.method.clone(), target, authority, headers: fields })
}

/// What the request asks the connection to become. Other protocols than WebSocket are not offered: their `upgrade` field is taken off,
/// and the request is an ordinary one (RFC 9110 section 7.8); so is one with a body, which would come before the 101.
fn upgrade(caller: &Caller) -> Option<Upgrade> {
    let head = caller.head();
    if caller.asks_for_tunnel() {
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
fn switch(caller: &mut Caller, head: &mut response::Parts, exchange: &mut Exchange) {
    exchange.is_switched = true;
    caller.switch();
    if exchange.upgrade == Some(Upgrade::Http1) {
        head.headers.insert(UPGRADE, HeaderValue::from_static(WEBSOCKET));
        head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        return;
    }
    head.status = StatusCode::OK;
    match exchange.direction() {
        Direction::Inbound => head.headers.insert(SWITCHED, HeaderValue::from_static("1")),
        Direction::Outbound => head.headers.remove(SEC_WEBSOCKET_ACCEPT),
    };
}

/// The head of an answer passes.
pub(super) fn answer_passes(caller: &mut Caller, head: &mut response::Parts, exchange: &mut Exchange) {
    let status = head.status;
    let fields = &mut head.headers;
    headers::clean_response(status, fields);
    if let Some(chosen) = &exchange.chosen
        && let Some(matched) = &chosen.rule
    {
        let split = chosen.split_index.and_then(|index| matched.rule().backends.get(index));
        headers::edit(fields, rewrite::response_edits(matched.rule(), split));
    }
    let is_switched = status == StatusCode::SWITCHING_PROTOCOLS;
    let is_final = !status.is_informational() || is_switched;
    if let Some(asked) = &exchange.asked
        && is_final
        && !fields.contains_key(REQUEST_ID)
    {
        headers::insert_text(fields, REQUEST_ID, &asked.request_id);
    }
    if is_final {
        exchange.answer_began(status.as_u16(), fields);
    }
    if exchange.direction() == Direction::Inbound {
        fields.insert(WIRE, WIRE_VERSION);
        if is_final {
            exchange.tell_load(fields);
        }
    }
    if is_switched {
        switch(caller, head, exchange);
    }
}

fn authority(request: &request::Parts) -> String {
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
    let is_name = |part: &str| (1..=NAME_BYTES_MAX).contains(&part.len());
    (is_name(namespace) && is_name(name)).then(|| BackendId::new(namespace, name))
}

fn arrival_of(fields: &HeaderMap) -> RetryArrival {
    let retries = fields.get(SDK_RETRIES).map(HeaderValue::as_bytes);
    if retries.is_some_and(|count| count != b"0") { RetryArrival::Repeat } else { RetryArrival::First }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_has_the_name_that_another_sidecar_gives_it_unless_that_is_absurd() {
        let read = |text: &str| {
            let named = backend_of(&HeaderMap::from_iter([(BACKEND, HeaderValue::from_str(text).unwrap())]));
            named.map(|id| id.to_string())
        };
        let long = "n".repeat(NAME_BYTES_MAX);
        for text in ["default/chat".to_owned(), format!("{long}/{long}")] {
            assert_eq!(read(&text), Some(text));
        }
        for text in ["chat", "/chat", "default/", &format!("{long}n/chat"), &format!("default/{long}n")] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
