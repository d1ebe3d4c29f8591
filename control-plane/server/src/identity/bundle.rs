//! Tells sidecars whom to believe and under which keys to send prefix digests, and knows what each of them believes; takes root rotation on
//! when everybody does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use penstock_delivery::proto::penstock::ca::v1::{TrustBundleRequest, TrustBundleResponse};
use penstock_model::spiffe::SpiffeId;
use rustls::pki_types::CertificateDer;
use serde::Serialize;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::{Stream, StreamExt};
use tonic::Status;

use super::prefix_keys;
use super::roots::{self, Held, Roots, Step};
use crate::clock::{Clock, time_of_day};
use crate::listen::Peer;
use crate::tasks::Tasks;
use crate::telemetry::Metrics;

/// As many as there may be connections.
const STREAMS_MAX: usize = 10_000;
/// As on the push stream.
const NODE_CHARS_MAX: usize = 317;
/// Rotation takes hours or days; an operator who asks for it wants to see it begin.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// A sidecar: the name is its own claim, the identity is proved.
pub(crate) type Sidecar = (String, Option<SpiffeId>);

/// Which roots each sidecar uses, as it says.
#[derive(Debug)]
pub(crate) struct Believers {
    versions: Mutex<BTreeMap<Sidecar, (u64, String)>>,
    streams: AtomicU64,
    places: Arc<Semaphore>,
}

impl Believers {
    pub(crate) fn new() -> Arc<Self> {
        let places = Arc::new(Semaphore::new(STREAMS_MAX));
        Arc::new(Self { versions: Mutex::default(), streams: AtomicU64::new(0), places })
    }

    /// The sidecars that do not use this version: those that say so, and those of `connected` that say nothing.
    pub(crate) fn lagging(&self, version: &str, connected: &[Sidecar]) -> Vec<String> {
        let versions = self.versions.lock();
        let behind = versions.iter().filter(|(_, (_, used))| used != version).map(|(sidecar, _)| sidecar);
        let silent = connected.iter().filter(|sidecar| !versions.contains_key(*sidecar));
        behind.chain(silent).map(|(node, _)| node.clone()).collect()
    }

    fn uses(&self, sidecar: &Sidecar, stream: u64, version: String) {
        self.versions.lock().insert(sidecar.clone(), (stream, version));
    }

    /// Its stream has ended, unless it has opened another already.
    fn gone(&self, sidecar: &Sidecar, stream: u64) {
        let mut versions = self.versions.lock();
        if versions.get(sidecar).is_some_and(|(newest, _)| *newest == stream) {
            versions.remove(sidecar);
        }
    }
}

/// What operators see of the roots.
#[derive(Clone, Debug)]
pub(crate) struct Beliefs {
    roots: Arc<Roots>,
    believers: Arc<Believers>,
}

/// The roots, for people and programs.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct TrustReport {
    step: Step,
    /// When the step ends: at the latest for `introduced`, at the earliest for `replaced`.
    until: Option<String>,
    /// Version of what sidecars are told.
    bundle: String,
    /// The one that issues is the first.
    roots: Vec<RootReport>,
    /// Sidecars that are connected and do not use this version, or do not say.
    lagging: Vec<String>,
}

#[derive(Clone, Debug, Serialize)]
struct RootReport {
    sha256: String,
    not_after: Option<String>,
}

impl Beliefs {
    pub(crate) fn new(roots: &Arc<Roots>, believers: &Arc<Believers>) -> Self {
        Self { roots: Arc::clone(roots), believers: Arc::clone(believers) }
    }

    pub(crate) fn report(&self, connected: &[Sidecar]) -> TrustReport {
        let held = self.roots.held();
        let rfc3339 = |at: OffsetDateTime| at.format(&Rfc3339).ok();
        let root = |root: &CertificateDer<'_>| RootReport {
            sha256: Sha256::digest(root).iter().map(|byte| format!("{byte:02x}")).collect(),
            not_after: roots::not_after(root).and_then(rfc3339),
        };
        TrustReport {
            step: held.step,
            until: held.until.and_then(rfc3339),
            bundle: held.bundle.version.clone(),
            roots: held.bundle.roots.iter().map(root).collect(),
            lagging: self.believers.lagging(&held.bundle.version, connected),
        }
    }
}

/// One stream.
pub(super) struct Follower {
    believers: Arc<Believers>,
    roots: Arc<Roots>,
    peer: Peer,
    stream: u64,
    sidecar: Option<Sidecar>,
    _place: OwnedSemaphorePermit,
}

impl Follower {
    pub(super) fn new(believers: &Arc<Believers>, roots: &Arc<Roots>, peer: Peer) -> Result<Self, Status> {
        let place = Arc::clone(&believers.places).try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!("{STREAMS_MAX} streams of roots are open already"))
        })?;
        let stream = believers.streams.fetch_add(1, Ordering::Relaxed);
        let (believers, roots) = (Arc::clone(believers), Arc::clone(roots));
        Ok(Self { believers, roots, peer, stream, sidecar: None, _place: place })
    }

    /// Runs until the stream ends.
    pub(super) async fn run(
        mut self,
        mut requests: impl Stream<Item = Result<TrustBundleRequest, Status>> + Unpin,
        responses: mpsc::Sender<Result<TrustBundleResponse, Status>>,
        tasks: &Tasks,
        clock: Clock,
    ) {
        let mut bundle = self.roots.watch();
        let mut due = time_of_day();
        loop {
            let left = Duration::try_from(due - time_of_day()).unwrap_or_default();
            tokio::select! {
                biased;
                () = tasks.stopped() => {
                    let stopping = Status::unavailable("the control plane is stopping; connect again");
                    let _unread = responses.try_send(Err(stopping));
                    return;
                }
                request = requests.next() => match request {
                    Some(Ok(request)) => {
                        self.note(request);
                        continue;
                    }
                    Some(Err(_)) | None => return,
                },
                Ok(()) = bundle.changed() => {}
                () = clock.sleep(left) => {}
            }
            let now = time_of_day();
            due = now + prefix_keys::lasting(now);
            if responses.send(Ok(response(&self.roots.held(), now))).await.is_err() {
                return;
            }
        }
    }

    fn note(&mut self, request: TrustBundleRequest) {
        let identity = self.peer.identity.clone();
        let first = || (request.node.chars().take(NODE_CHARS_MAX).collect(), identity);
        let sidecar = self.sidecar.get_or_insert_with(first);
        self.believers.uses(sidecar, self.stream, request.version);
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        if let Some(sidecar) = &self.sidecar {
            self.believers.gone(sidecar, self.stream);
        }
    }
}

/// Without keys where none can be derived: digests are a help, roots are needed.
fn response(held: &Held, now: OffsetDateTime) -> TrustBundleResponse {
    TrustBundleResponse {
        version: held.bundle.version.clone(),
        roots: held.bundle.roots.iter().map(|root| root.to_vec()).collect(),
        prefix_keys: held.issuing.prefix_keys(now).unwrap_or_default(),
    }
}

/// Looks for an operator's request and takes a rotation on, until the stop signal. `connected` are the sidecars of the push streams.
pub(crate) async fn rotate_roots(
    roots: Arc<Roots>,
    believers: Arc<Believers>,
    connected: impl Fn() -> Vec<Sidecar> + Send,
    clock: Clock,
    metrics: Arc<Metrics>,
    tasks: Tasks,
) {
    let mut told = None;
    loop {
        tokio::select! {
            biased;
            () = tasks.stopped() => return,
            () = clock.sleep(LOOK_INTERVAL) => {}
        }
        if !roots.is_stirring() {
            continue;
        }
        let lagging = believers.lagging(&roots.held().bundle.version, &connected());
        let (files, now, count) = (Arc::clone(&roots), time_of_day(), lagging.len());
        match Tasks::block(move || files.advance(now, count)).await {
            Some(Ok(Some(step))) => {
                told = None;
                metrics.root_step(step, &roots.held());
            }
            Some(Ok(None)) if roots.held().step == Step::Introduced => {
                if told.as_ref() != Some(&lagging) {
                    metrics.root_waits(&lagging);
                    told = Some(lagging);
                }
            }
            Some(Ok(None)) | None => {}
            Some(Err(error)) => {
                let why = vec![error.to_string()];
                if told.as_ref() != Some(&why) {
                    metrics.root_not_rotated(&error);
                    told = Some(why);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;
    use crate::clock::simulate;

    const NOON: OffsetDateTime = datetime!(2026-11-21 12:00 UTC);
    const HALF_A_LIFE: Duration = Duration::from_secs(12 * 3_600);

    #[tokio::test(start_paused = true)]
    async fn a_sidecar_is_told_at_once_and_whenever_keys_change_whatever_it_says_meanwhile() {
        simulate(Duration::from_secs(NOON.unix_timestamp().unsigned_abs()));
        let (clock, tasks, dir) = (Clock::start(), Tasks::new(), tempfile::tempdir().unwrap());
        let roots = Roots::open(dir.path(), "mesh.test", HALF_A_LIFE, NOON).unwrap();
        let (roots, believers) = (Arc::new(roots), Believers::new());
        let peer = Peer { address: ([127, 0, 0, 1], 0).into(), identity: None };
        let follower = Follower::new(&believers, &roots, peer).unwrap();
        let (says, requests) = mpsc::channel(1);
        let (responses, mut told) = mpsc::channel(1);
        let stopping = tasks.clone();
        tasks.spawn("trust bundle", async move {
            let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
            follower.run(requests, responses, &stopping, clock).await;
        });
        let mut next = async || (clock.now(), told.recv().await.unwrap().unwrap());

        let (began, first) = next().await;
        clock.sleep(HALF_A_LIFE / 3).await;
        says.send(Ok(TrustBundleRequest { node: "web".to_owned(), version: first.version.clone() }))
            .await
            .unwrap();
        let (_, second) = next().await;
        assert_eq!(clock.now().since(began).as_secs(), HALF_A_LIFE.as_secs());
        let (_, third) = next().await;
        assert_eq!(clock.now().since(began).as_secs(), 2 * HALF_A_LIFE.as_secs());
        let ids = |told: &TrustBundleResponse| told.prefix_keys.iter().map(|key| key.id).collect::<Vec<_>>();
        let [afternoon, night, morning] = [&first, &second, &third].map(ids);
        assert_eq!(afternoon.len(), 2);
        assert_eq!(
            night,
            [afternoon[1], afternoon[0]],
            "at midnight the key that was known is the one in use"
        );
        assert_eq!(morning[0], night[0]);
        assert!(!afternoon.contains(&morning[1]), "a new one is known");
        assert_eq!((&first.version, &first.roots), (&third.version, &third.roots));
        assert!(believers.lagging(&first.version, &[]).is_empty());
    }
}
