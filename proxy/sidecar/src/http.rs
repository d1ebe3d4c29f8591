//! A request from its head to its closed account. What happens is in the files below; this is their table of contents.

mod admit;
pub mod exchange;
pub mod headers;
pub(crate) mod hygiene;
mod inspect;
pub(crate) mod prepare;
mod relay;
pub(crate) mod reply;
mod route;

use std::net::SocketAddr;
use std::sync::Arc;

use penstock_model::names::ObjectName;
use penstock_model::settings::Application;
use penstock_policy::judge::Ending;
use tokio::sync::watch;

use self::exchange::Exchange;
use crate::identity::Identity;
use crate::listen::caller::{Caller, CallerError};
use crate::listen::conn::Direction;
use crate::live::Live;
use crate::load::engines::Engines;
use crate::load::push;
use crate::scrape::Scrapes;
use crate::settings::Settings;
use crate::telemetry::Telemetry;
use crate::upstream::call::Failure;
use crate::upstream::session::{LogicalRequest, Means};
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
    /// Who this is, and under which keys prompts are compared.
    pub identity: Arc<Identity>,
    /// What applications say of their load.
    pub scrapes: Arc<Scrapes>,
    /// The model servers beside this sidecar.
    pub engines: Engines,
    /// Turns true when nothing new is to be begun.
    pub draining: watch::Receiver<bool>,
    /// How endpoints are reached.
    pub means: Arc<Means>,
}

impl Shared {
    /// The application that callers know under `address`.
    pub fn application(&self, address: SocketAddr) -> Option<Application> {
        let settings = self.settings.load();
        let mut applications = settings.inbound.iter().flat_map(|inbound| &inbound.applications);
        applications.find(|application| application.endpoint == address).cloned()
    }
}

/// Why a request did not go its way to the end.
#[derive(Debug)]
pub(crate) enum Stop {
    /// By its caller's doing.
    Caller(CallerError),
    /// We refuse it, or have broken it off.
    Refused(Failure),
    /// No endpoint gave an answer, or the answer broke off.
    Endpoint(Failure),
}

impl From<CallerError> for Stop {
    fn from(error: CallerError) -> Self {
        Self::Caller(error)
    }
}

/// Whether a connection can take another request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// It can.
    Kept,
    /// It cannot: part of the request is unread, or the framing is in doubt.
    Closed,
}

/// Serves one request.
pub async fn serve(shared: &Arc<Shared>, caller: &mut Caller) -> Connection {
    if push::is_asked(caller) {
        return Box::pin(push::serve(shared, caller)).await;
    }
    // On the heap: it is large, and read by many.
    let mut exchange = Box::new(Exchange::new(shared));
    let (ending, connection) = match pass(caller, &mut exchange).await {
        Ok(()) => (Ending::Complete, Connection::Kept),
        // On the heap: it is rare, and an open stream must not hold its room.
        Err(stop) => Box::pin(stopped(caller, &mut exchange, stop)).await,
    };
    exchange.end(ending);
    connection
}

/// The steps of a request.
async fn pass(caller: &mut Caller, exchange: &mut Exchange) -> Result<(), Stop> {
    prepare::open_account(caller, exchange);
    prepare::refuse_ambiguity(caller, exchange)?;
    match exchange.direction() {
        Direction::Inbound => {
            prepare::choose_application(caller, exchange).await?;
            admit::ask_for_body(caller).await?;
        }
        Direction::Outbound => prepare::choose_backend(caller, exchange).await?,
    }
    if prepare::redirect(caller, exchange).await? {
        return Ok(());
    }
    let (call, head) = prepare::pack(caller, exchange)?;
    let mut request = LogicalRequest::new(call, head, &exchange.shared.means);
    relay::relay(caller, exchange, &mut request).await?;
    request.release();
    caller.linger().await;
    Ok(())
}

/// Tells the caller why, if there is somebody to be told, and how the request ended.
async fn stopped(caller: &mut Caller, exchange: &mut Exchange, stop: Stop) -> (Ending, Connection) {
    if exchange.is_switched {
        // A tunnel has no other end than this; an error of ours is in the trail.
        caller.shut().await;
        return (Ending::Complete, Connection::Closed);
    }
    let is_gone = matches!(stop, Stop::Caller(CallerError::Gone(_)));
    let mut connection = Connection::Closed;
    // Our own `100 Continue` is no answer.
    if caller.answered().is_none_or(|status| status.is_informational())
        && let Some(failure) = reply::failure_of(exchange, stop)
    {
        connection = reply::send(caller, exchange, &failure).await.unwrap_or(Connection::Closed);
    }
    let ending = match exchange.was_answered_by_us() {
        _ if is_gone => Ending::CallerLeft,
        true => Ending::Complete,
        false => Ending::Broken,
    };
    (ending, connection)
}
