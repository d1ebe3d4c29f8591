//! Where does this request go? Asked once with the headers, and once more when the model is known.

use std::net::IpAddr;

use http::HeaderMap;
use penstock_dialect::reply::ErrorCode;
use penstock_model::names::{BackendId, ParentId};
use penstock_policy::route::{self as policy, Authority, Choice};
use penstock_policy::split::{self, NoBackend};

use super::exchange::{Asked, Chosen, Exchange};
use super::headers::Fields;
use crate::listen::conn::Arrival;
use crate::seed;
use crate::upstream::call::{Failure, Target};

/// The parent that the authority names.
///
/// # Errors
/// 404 `no_route`, with the names that would have worked.
pub(super) fn parent(exchange: &Exchange, asked: &Asked) -> Result<ParentId, Failure> {
    let namespace = &exchange.shared.workload.namespace;
    let found = policy::parent(&exchange.fleet.snapshot, &asked.host, whose(asked), namespace);
    found.map_err(|none| Failure::new(ErrorCode::NoRoute, none.to_string()))
}

/// Whether the model decides where the request goes.
pub(super) fn needs_model(exchange: &Exchange, asked: &Asked, parent: &ParentId, fields: &HeaderMap) -> bool {
    let fields = Fields(fields);
    exchange.fleet.routes.needs_model(parent, &question(exchange, asked, &fields, None))
}

/// The backend, by the rule that matches.
///
/// # Errors
/// 404 where no rule matches, 500 or 503 where the rule leads nowhere.
pub(super) fn choose(
    exchange: &Exchange,
    asked: &Asked,
    parent: ParentId,
    fields: &HeaderMap,
) -> Result<Chosen, Failure> {
    let fields = Fields(fields);
    let model = exchange.scanner.as_ref().and_then(|body| body.0.facts().model.as_deref());
    let choice = exchange.fleet.routes.find(&parent, &question(exchange, asked, &fields, model));
    let choice = choice.map_err(|none| Failure::new(ErrorCode::NoRoute, none.to_string()))?;
    let (rule, split_index, backend) = match choice {
        Choice::Implicit(backend) => (None, None, Some(backend)),
        Choice::Rule(matched) if penstock_policy::rewrite::redirect(matched.rule()).is_some() => {
            (Some(matched), None, None)
        }
        Choice::Rule(matched) => {
            let drawn = split::split(&exchange.fleet.snapshot, matched.rule(), seed::draw());
            let drawn = drawn.map_err(|none| no_backend(&none))?;
            let backend = drawn.backend.clone();
            let index = matched.rule().backends.iter().position(|candidate| std::ptr::eq(candidate, drawn));
            (Some(matched), index, Some(backend))
        }
    };
    let target = match &backend {
        Some(id) => Target::Backend(state(exchange, id)?),
        None => Target::Nowhere,
    };
    Ok(Chosen { parent: Some(parent), rule, split_index, target, backend })
}

fn state(exchange: &Exchange, id: &BackendId) -> Result<std::sync::Arc<crate::fleet::BackendState>, Failure> {
    let known = exchange.fleet.backend(id).map(std::sync::Arc::clone);
    known.ok_or_else(|| no_backend(&NoBackend::Unknown(id.clone())))
}

fn no_backend(none: &NoBackend) -> Failure {
    let code = match none {
        NoBackend::Weightless => ErrorCode::InvalidBackend,
        NoBackend::Unknown(_) => ErrorCode::NoBackend,
    };
    Failure::new(code, none.to_string())
}

fn question<'a>(
    exchange: &'a Exchange,
    asked: &'a Asked,
    fields: &'a Fields<'a>,
    model: Option<&'a str>,
) -> policy::Asked<'a> {
    let port = match whose(asked) {
        Authority::Sidecar => None,
        Authority::Other => asked.port.or(Some(80)),
    };
    policy::Asked {
        namespace: &exchange.shared.workload.namespace,
        host: &asked.host,
        port,
        method: &asked.method,
        path: &asked.path,
        query: asked.query.as_deref(),
        model,
        headers: fields,
    }
}

/// An SDK whose base URL is the sidecar sends the sidecar's own address as authority.
fn whose(asked: &Asked) -> Authority {
    if asked.host.is_empty() || is_own_address(asked, &asked.arrival) {
        Authority::Sidecar
    } else {
        Authority::Other
    }
}

fn is_own_address(asked: &Asked, arrival: &Arrival) -> bool {
    if asked.port != Some(arrival.local.port()) {
        return false;
    }
    let host = asked.host.trim_start_matches('[').trim_end_matches(']');
    let by_name = host == "localhost" && arrival.local.ip().is_loopback();
    by_name || host.parse::<IpAddr>().is_ok_and(|ip| ip == arrival.local.ip() || ip.is_loopback())
}
