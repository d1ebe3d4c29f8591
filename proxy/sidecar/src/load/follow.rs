//! Outbound: hears from the sidecars of endpoints how they stand.
//!
//! Of all whose costs are compared, since a choice between one that is known and others that are not is none: streams are opened with the
//! first request that costs decide about, over the connections of requests, and end when there was none for [`IDLE_MAX`]. One that breaks
//! is opened again with the next request. An endpoint that no request has a connection to gets one after a moment, drawn so that not all
//! are dialled at once.
//!
//! Whoever listens to many asks each for fewer reports, so that all together are about [`REPORTS_PER_SECOND`]. How many they are changes
//! while a stream is open: one that was asked for at a pace that has become a wrong one is begun anew.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use http::{Method, StatusCode};
use tokio::time::{sleep, sleep_until, timeout};

use super::{push, wire};
use crate::fleet::{BackendState, EndpointState};
use crate::tasks::Tasks;
use crate::upstream::attempt::{self, Failed, Part};
use crate::upstream::call::Call;
use crate::upstream::place::Place;
use crate::upstream::pool::{ConnectError, Lease, Link, Pool, Terms};
use crate::{clock, seed};

/// An endpoint whose cost was not asked for so long is not followed any more.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// So long one may wait for a request to make a connection before it is made for the reports.
const DIAL_AFTER_MAX: Duration = Duration::from_secs(1);
/// Reports that one sidecar hears in a second from all that it follows, about: each costs it some 15 us.
const REPORTS_PER_SECOND: u32 = 500;
/// Most streams that reports may share a connection with; it is none of requests' places.
const STREAMS_MAX: u32 = u32::MAX;
/// A stream is not begun anew at another pace before it is so old: each begins with all that is cached.
const PACE_KEPT_MIN: Duration = Duration::from_secs(10);
/// After a stream that broke, or was refused, the next one is not opened sooner than this.
const PAUSE: Duration = Duration::from_secs(1);

/// Follows endpoints.
#[derive(Debug)]
pub struct Follower {
    pool: Arc<Pool>,
    tasks: Tasks,
    followed: Arc<AtomicU32>,
}

/// One endpoint that is followed; says when nobody does any more.
struct Following {
    state: Weak<EndpointState>,
    followed: Arc<AtomicU32>,
}

impl Following {
    fn begin(state: &Arc<EndpointState>, followed: &Arc<AtomicU32>) -> Self {
        followed.fetch_add(1, Ordering::Relaxed);
        Self { state: Arc::downgrade(state), followed: Arc::clone(followed) }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.followed.fetch_sub(1, Ordering::Relaxed);
        if let Some(state) = self.state.upgrade() {
            state.is_left();
        }
    }
}

impl Follower {
    /// Follows over the connections of requests, in tasks of its own.
    pub fn new(pool: Arc<Pool>, tasks: Tasks) -> Self {
        Self { pool, tasks, followed: Arc::default() }
    }

    /// A request goes to `chosen` by its cost: from here on all that were compared with it are followed.
    pub fn want(&self, backend: &BackendState, chosen: &Arc<EndpointState>) {
        let now = clock::now();
        // It may be one of those that are only used when no other can be.
        for state in backend.priced().chain([chosen]) {
            if state.endpoint.sidecar.is_some() && state.is_wanted(now) {
                self.follow(backend, state);
            }
        }
    }

    /// Some of the backend's endpoints take nothing new: those are listened to as well, however endpoints are chosen. No request goes
    /// there that could hear of whoever stands there next.
    pub fn watch_for_return(&self, backend: &BackendState) {
        let now = clock::now();
        for state in &backend.endpoints {
            if state.is_draining() && state.is_wanted(now) {
                self.follow(backend, state);
            }
        }
    }

    fn follow(&self, backend: &BackendState, state: &Arc<EndpointState>) {
        let following = Following::begin(state, &self.followed);
        let way = Way {
            pool: Arc::clone(&self.pool),
            place: Place::of_endpoint(backend, &state.endpoint),
            terms: Terms { connect_timeout: backend.policy.connect_timeout, streams_max: STREAMS_MAX },
            address: state.endpoint.id.address,
            followed: Arc::clone(&self.followed),
        };
        self.tasks.spawn("load reports", async move {
            if let Err(failed) = way.follow(&following.state).await {
                tracing::debug!(address = %way.address, error = failed.message, "reports have ended");
            }
            sleep(PAUSE).await;
            drop(following);
        });
    }
}

/// Shortest time between reports to ask for, where so many are followed.
fn interval(followed: u32) -> Duration {
    (Duration::from_secs(1) * followed / REPORTS_PER_SECOND).min(wire::INTERVAL_MAX)
}

/// Whether reports asked for at one interval come far too often, or too seldom, where another one is due.
fn is_off_pace(asked: Duration, due: Duration) -> bool {
    let [asked, due] = [asked, due].map(|interval| interval.max(push::INTERVAL_MIN));
    due >= asked * 2 || asked >= due * 2
}

/// How a stream of reports has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// Nobody needs to know any more, or the other side has ended it.
    Over,
    /// It has become too fast or too slow.
    OffPace,
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

/// How an endpoint's sidecar is reached.
struct Way {
    pool: Arc<Pool>,
    place: Place,
    terms: Terms,
    address: SocketAddr,
    /// How many are followed, this one included.
    followed: Arc<AtomicU32>,
}

impl Way {
    /// A connection that a request makes meanwhile, or else one that is made for this.
    async fn lease(&self) -> Result<Option<Lease>, ConnectError> {
        let patience = DIAL_AFTER_MAX.mul_f64(seed::share());
        if let Ok(lease) = timeout(patience, self.pool.companion(&self.place)).await {
            return Ok(Some(lease));
        }
        Ok(match self.pool.link(&self.place, self.terms).await? {
            Link::Shared(lease) => Some(lease),
            Link::Single(_) => None,
        })
    }

    fn interval(&self) -> Duration {
        interval(self.followed.load(Ordering::Relaxed))
    }

    async fn follow(&self, state: &Weak<EndpointState>) -> Result<(), Failed> {
        while self.listen(state).await? == Ended::OffPace {}
        Ok(())
    }

    /// One stream of reports, to its end.
    async fn listen(&self, state: &Weak<EndpointState>) -> Result<Ended, Failed> {
        let Some(mut lease) = self.lease().await? else { return Ok(Ended::Over) };
        // It is no request, and must not keep requests out.
        lease.step_aside();
        let (begun, asked) = (clock::now(), self.interval());
        let mut head = wire::question(Method::GET, self.address);
        wire::write_interval(&mut head.headers, asked);
        let call = Call::of_our_own();
        let answering = attempt::beside(&self.pool, &self.place, lease, head, &call);
        // The head comes at once, unless the peer takes no more streams or has hung: this one is not worth waiting for.
        let Ok(answered) = timeout(self.terms.connect_timeout, answering).await else {
            tracing::debug!(address = %self.address, "a sidecar does not answer who wants to listen");
            return Ok(Ended::Over);
        };
        let (response, mut answer) = answered?;
        if response.status() != StatusCode::OK {
            return Ok(Ended::Over);
        }
        let mut bytes = BytesMut::new();
        loop {
            let Some(until) = state.upgrade().map(|state| state.wanted() + IDLE_MAX) else {
                return Ok(Ended::Over);
            };
            if until <= clock::now() {
                return Ok(Ended::Over);
            }
            tokio::select! {
                biased;
                part = poll_fn(|context| answer.poll_part(context)) => match part? {
                    Part::Chunk { bytes: more, is_last } => {
                        bytes.extend_from_slice(&more);
                        while let Some(part) = wire::read_report(&bytes) {
                            bytes.advance(part.bytes);
                            let Some(state) = state.upgrade() else { return Ok(Ended::Over) };
                            if take(part, &state, self.address) == Then::BeginAnew {
                                return Ok(Ended::Over);
                            }
                        }
                        if is_last || bytes.len() > wire::REPORT_BYTES_MAX {
                            return Ok(Ended::Over);
                        }
                        let is_old = clock::now().since(begun) >= PACE_KEPT_MIN;
                        if is_old && is_off_pace(asked, self.interval()) {
                            return Ok(Ended::OffPace);
                        }
                    }
                    Part::End(_) => return Ok(Ended::Over),
                },
                () = sleep_until(clock::instant(until)) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_listens_to_many_hears_each_less_often() {
        for (followed, expected_ms) in [(0, 0), (1, 2), (8, 16), (64, 128), (800, 1_600), (5_000, 5_000)] {
            assert_eq!(interval(followed), Duration::from_millis(expected_ms), "{followed}");
        }
    }

    #[test]
    fn a_pace_is_kept_until_it_is_twice_or_half_of_what_is_due() {
        for (asked_ms, due_ms, expected) in [
            (2, 2, false),
            // Nobody is told more often than every 50 ms.
            (2, 99, false),
            (2, 100, true),
            (99, 0, false),
            (100, 0, true),
            (300, 599, false),
            (300, 600, true),
            (300, 151, false),
            (300, 150, true),
        ] {
            let [asked, due] = [asked_ms, due_ms].map(Duration::from_millis);
            assert_eq!(is_off_pace(asked, due), expected, "{asked_ms} {due_ms}");
        }
    }
}
