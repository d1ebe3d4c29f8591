//! The hooks, in the order in which pingora calls them. Each is a table of contents; what happens is in the files below.

pub mod exchange;
pub mod headers;
pub(crate) mod hygiene;
mod inspect;
pub(crate) mod prepare;
pub(crate) mod reply;
mod route;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use penstock_model::names::ObjectName;
use penstock_policy::judge::Ending;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorSource, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, Session};

use self::exchange::Exchange;
use self::reply::Connection;
use crate::listen::conn::Direction;
use crate::live::Live;
use crate::settings::Settings;
use crate::telemetry::Telemetry;
use crate::upstream::call::Failure;
use crate::upstream::seam;
use crate::upstream::upload::BodyBudget;

/// What all requests share.
#[derive(Debug)]
pub struct Shared {
    /// Whose sidecar this is.
    pub workload: ObjectName,
    /// The process's settings.
    pub settings: Arc<Settings>,
    /// The current configuration.
    pub live: Arc<Live>,
    /// Metrics and logs.
    pub telemetry: Arc<Telemetry>,
    /// Memory for request bodies.
    pub body_budget: Arc<BodyBudget>,
}

/// Our half of pingora's proxy.
pub struct Hooks(pub Arc<Shared>);

#[async_trait::async_trait]
impl ProxyHttp for Hooks {
    /// pingora moves it several times.
    type CTX = Box<Exchange>;

    fn new_ctx(&self) -> Self::CTX {
        Box::new(Exchange::new(&self.0))
    }

    fn init_downstream_modules(&self, _modules: &mut pingora_core::modules::http::HttpModules) {
        // pingora would add compression of answers, which delays tokens.
    }

    async fn early_request_filter(&self, session: &mut Session, exchange: &mut Self::CTX) -> Result<()> {
        prepare::set_limits(session);
        prepare::open_account(session, exchange)?;
        prepare::refuse_ambiguity(session, exchange)
    }

    async fn request_filter(&self, session: &mut Session, exchange: &mut Self::CTX) -> Result<bool> {
        match exchange.direction() {
            Direction::Inbound => prepare::choose_application(session, exchange)?,
            Direction::Outbound => prepare::choose_backend(session, exchange).await?,
        }
        if prepare::redirect(session, exchange).await? {
            return Ok(true);
        }
        Ok(false)
    }

    async fn upstream_peer(
        &self,
        _session: &mut Session,
        _exchange: &mut Self::CTX,
    ) -> Result<Box<HttpPeer>> {
        Ok(seam::peer())
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        exchange: &mut Self::CTX,
    ) -> Result<()> {
        prepare::pack(session, request, exchange)
    }

    async fn request_body_filter(
        &self,
        _session: &mut Session,
        chunk: &mut Option<Bytes>,
        _end: bool,
        exchange: &mut Self::CTX,
    ) -> Result<()> {
        prepare::body_passes(chunk.as_ref(), exchange)
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        exchange: &mut Self::CTX,
    ) -> Result<()> {
        prepare::answer_passes(session, response, exchange)
    }

    fn response_body_filter(
        &self,
        _session: &mut Session,
        chunk: &mut Option<Bytes>,
        _end: bool,
        exchange: &mut Self::CTX,
    ) -> Result<Option<Duration>> {
        if let Some(bytes) = chunk {
            exchange.answer_passes(bytes);
        }
        Ok(None)
    }

    async fn response_trailer_filter(
        &self,
        _session: &mut Session,
        trailers: &mut HeaderMap,
        exchange: &mut Self::CTX,
    ) -> Result<Option<Bytes>> {
        exchange.trailers_came(trailers);
        headers::clean_trailers(trailers);
        Ok(None)
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        _session: &mut Session,
        mut error: Box<Error>,
        _exchange: &mut Self::CTX,
        _reused: bool,
    ) -> Box<Error> {
        // Other attempts were the session's to make.
        error.set_retry(false);
        error
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        exchange: &mut Self::CTX,
    ) -> FailToProxy {
        let mut ended = FailToProxy { error_code: 0, can_reuse_downstream: false };
        if exchange.is_switched {
            session.downstream_session.shutdown().await;
            return ended;
        }
        // Our own `100 Continue` is no answer.
        if session.response_written().is_some_and(|written| !written.status.is_informational()) {
            return ended;
        }
        prepare::note_broken_body(exchange);
        if let Some(failure) = reply::failure_of(exchange, error) {
            let sent = reply::send(session, exchange, &failure).await;
            ended.error_code = failure.code.status();
            ended.can_reuse_downstream = matches!(sent, Ok(Connection::Kept));
        }
        ended
    }

    fn suppress_error_log(&self, _session: &Session, _exchange: &Self::CTX, _error: &Error) -> bool {
        true // the access log tells, from the account
    }

    async fn logging(&self, _session: &mut Session, error: Option<&Error>, exchange: &mut Self::CTX) {
        exchange.end(match error {
            None => Ending::Complete,
            // The end of a tunnel is always an error to pingora; one of ours is in the trail.
            Some(_) if exchange.is_switched => Ending::Complete,
            Some(error) if is_client_gone(error) => Ending::CallerLeft,
            Some(_) if exchange.was_answered_by_us() => Ending::Complete,
            Some(_) => Ending::Broken,
        });
    }
}

/// Notes why the request is refused and makes pingora's error, which only says that it is.
fn refuse(exchange: &mut Exchange, failure: Failure) -> Box<Error> {
    let error = Error::explain(ErrorType::HTTPStatus(failure.code.status()), failure.message.clone());
    exchange.failure = Some(failure);
    error
}

fn is_client_gone(error: &Error) -> bool {
    *error.esource() == ErrorSource::Downstream
        && !matches!(error.etype(), ErrorType::InvalidHTTPHeader | ErrorType::HTTPStatus(_))
}
