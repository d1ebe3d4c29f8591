//! Outbound: asks the sidecars of a few endpoints how they stand at this moment.
//!
//! For a request that was refused twice: it is placed once more, and where reports are old nobody knows who has room. All are asked at
//! once, over connections that are there; whoever has none, or does not answer soon, stays as he was last known.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use http::Method;
use tokio::time::timeout;

use super::wire;
use crate::fleet::{BackendState, EndpointState};
use crate::upstream::attempt;
use crate::upstream::call::Call;
use crate::upstream::place::Place;
use crate::upstream::pool::Pool;

/// Longest time that a request waits for answers. Mostly they take a round trip.
const ANSWER_MAX: Duration = Duration::from_millis(50);

/// Asks those; what they say is known of them from here on. How many have answered.
pub async fn ask(pool: &Pool, backend: &BackendState, asked: &[&Arc<EndpointState>]) -> u32 {
    let questions = asked.iter().map(|state| timeout(ANSWER_MAX, question(pool, backend, state)));
    join_all(questions)
        .await
        .into_iter()
        .map(|answered| u32::from(answered.is_ok_and(|told| told.is_some())))
        .sum()
}

async fn question(pool: &Pool, backend: &BackendState, state: &EndpointState) -> Option<()> {
    let place = Place::of_endpoint(backend, &state.endpoint);
    let mut lease = pool.open(&place)?;
    // It is no request, and must not keep requests out.
    lease.step_aside();
    let head = wire::question(Method::HEAD, state.endpoint.id.address);
    let (response, _) = attempt::beside(pool, &place, lease, head, &Call::of_our_own()).await.ok()?;
    state.told(wire::read_load(response.headers())?);
    Some(())
}
