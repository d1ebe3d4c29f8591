//! Outbound: hears from the sidecars of endpoints how they stand.
//!
//! Only of endpoints that requests go to: the stream is opened with the first request that costs decide about, over the connections of
//! requests, and ends when none has gone there for [`IDLE_MAX`]. One that breaks is opened again with the next request.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, StatusCode};
use tokio::time::{sleep, sleep_until, timeout};

use super::wire::{self, SUBSCRIBE};
use crate::clock;
use crate::fleet::EndpointState;
use crate::http::headers::{self, WIRE, WIRE_VERSION};
use crate::tasks::Tasks;
use crate::upstream::attempt::{self, Failed, Head, Part};
use crate::upstream::call::Call;
use crate::upstream::place::{Carrier, Place};
use crate::upstream::pool::Pool;

/// An endpoint to which nothing was sent for so long is not followed any more.
const IDLE_MAX: Duration = Duration::from_secs(10);
/// After a stream that broke, or was refused, the next one is not opened sooner than this.
const PAUSE: Duration = Duration::from_secs(1);
/// For the log of the other side; nothing looks at it.
const PATH: PathAndQuery = PathAndQuery::from_static("/.penstock/load");

/// Follows endpoints.
#[derive(Debug)]
pub struct Follower {
    /// The connections of requests.
    pub pool: Arc<Pool>,
    /// Where its tasks run.
    pub tasks: Tasks,
}

/// Says that nobody follows the endpoint any more.
struct Following(Weak<EndpointState>);

impl Drop for Following {
    fn drop(&mut self) {
        if let Some(state) = self.0.upgrade() {
            state.is_left();
        }
    }
}

impl Follower {
    /// A request goes to the endpoint: from here on it is followed.
    pub fn want(&self, state: &Arc<EndpointState>, place: &Place) {
        if place.carrier != Carrier::Mesh || !state.is_wanted(clock::now()) {
            return;
        }
        let following = Following(Arc::downgrade(state));
        let (pool, place, address) = (Arc::clone(&self.pool), place.clone(), state.endpoint.id.address);
        self.tasks.spawn("load reports", async move {
            if let Err(failed) = follow(&pool, &place, address, &following.0).await {
                tracing::debug!(%address, error = failed.message, "reports have ended");
            }
            sleep(PAUSE).await;
            drop(following);
        });
    }
}

/// What comes of a part of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    GoOn,
    /// A digest is missing: another stream begins with all that there is.
    BeginAnew,
}

fn take(part: wire::Part, state: &EndpointState, address: SocketAddr) -> Then {
    if let Some(told) = part.told {
        state.told(told);
        state.told_adapters(part.adapters);
    }
    match part.digest {
        None => Then::GoOn,
        Some(Ok(digest)) => match state.told_cached(&digest) {
            Ok(()) => Then::GoOn,
            Err(gap) => {
                tracing::debug!(%address, ?gap, "a prefix digest is missing");
                Then::BeginAnew
            }
        },
        // What a later release writes is passed over, and what is damaged is as good as missing: the next one has a gap before it.
        Some(Err(error)) => {
            tracing::debug!(%address, %error, "a prefix digest cannot be read");
            Then::GoOn
        }
    }
}

async fn follow(
    pool: &Pool,
    place: &Place,
    address: SocketAddr,
    state: &Weak<EndpointState>,
) -> Result<(), Failed> {
    let mut headers = HeaderMap::from_iter([(WIRE, WIRE_VERSION)]);
    headers::insert_text(&mut headers, SUBSCRIBE, &address.to_string());
    let head = Head { method: Method::GET, target: PATH, authority: address.to_string(), headers };
    // Nothing is dialled for this: where requests find no way, neither does it.
    let Ok(lease) = timeout(IDLE_MAX, pool.companion(place)).await else { return Ok(()) };
    let (response, mut answer) = attempt::beside(lease, head, &Call::of_our_own()).await?;
    if response.status() != StatusCode::OK {
        return Ok(());
    }
    answer.step_aside();
    let mut bytes = BytesMut::new();
    loop {
        let Some(until) = state.upgrade().map(|state| state.wanted() + IDLE_MAX) else { return Ok(()) };
        if until <= clock::now() {
            return Ok(());
        }
        tokio::select! {
            biased;
            part = poll_fn(|context| answer.poll_part(context)) => match part? {
                Part::Chunk { bytes: more, is_last } => {
                    bytes.extend_from_slice(&more);
                    while let Some(part) = wire::read_report(&bytes) {
                        bytes.advance(part.bytes);
                        let Some(state) = state.upgrade() else { return Ok(()) };
                        if take(part, &state, address) == Then::BeginAnew {
                            return Ok(());
                        }
                    }
                    if is_last || bytes.len() > wire::REPORT_BYTES_MAX {
                        return Ok(());
                    }
                }
                Part::End(_) => return Ok(()),
            },
            () = sleep_until(clock::instant(until)) => {}
        }
    }
}
