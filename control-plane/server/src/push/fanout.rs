//! What is published, and how far each sidecar is with it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use penstock_delivery::server::Published;
use penstock_model::names::Version;
use penstock_model::spiffe::SpiffeId;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::watch;

use crate::listen::Peer;

/// Sidecars that have gone are remembered until there are more of them than this.
const GONE_MAX: usize = 1_024;

/// The newest snapshot in its encoded form, and the sidecars that want it.
#[derive(Debug)]
pub(crate) struct Fanout {
    published: watch::Sender<Option<Arc<Published>>>,
    sidecars: Mutex<BTreeMap<SidecarKey, Sidecar>>,
}

/// A sidecar across its streams: the name is its own claim, the identity is proved.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SidecarKey {
    pub(super) node: String,
    pub(super) identity: Option<SpiffeId>,
}

#[derive(Clone, Debug)]
struct Sidecar {
    stream: u64,
    address: SocketAddr,
    connected: bool,
    since: OffsetDateTime,
    progress: Progress,
}

/// How far a stream is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// Version that the sidecar holds whole.
    pub(super) synced: Option<Version>,
    pub(super) types: BTreeMap<&'static str, TypeReport>,
}

/// How far a sidecar is with one type, for people and programs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct TypeReport {
    /// Snapshot version of the last response.
    pub(crate) version: Option<String>,
    /// Snapshot version of the last response that the sidecar accepted.
    pub(crate) acked: Option<String>,
    /// Nonce of the last response.
    pub(crate) nonce: Option<String>,
    /// Why the sidecar refuses what it was sent.
    pub(crate) error: Option<String>,
    /// Number of resources that it holds.
    pub(crate) held: usize,
    /// Number of resources that wait to be sent.
    pub(crate) pending: usize,
}

/// How far a sidecar is, for people and programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct SidecarReport {
    node: String,
    identity: Option<String>,
    address: String,
    connected: bool,
    /// Since when it is connected, or gone.
    since: Option<String>,
    /// It holds the newest snapshot whole.
    in_sync: bool,
    version: Option<String>,
    types: BTreeMap<&'static str, TypeReport>,
}

impl Fanout {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { published: watch::Sender::new(None), sidecars: Mutex::default() })
    }

    /// Hands a snapshot to every stream.
    pub(crate) fn publish(&self, published: Arc<Published>) {
        self.published.send_replace(Some(published));
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Option<Arc<Published>>> {
        self.published.subscribe()
    }

    /// Every sidecar that is connected or has not been gone for long, in the order of names.
    pub(crate) fn report(&self) -> Vec<SidecarReport> {
        let newest = self.published.borrow().as_ref().map(|published| published.version().clone());
        let sidecars = self.sidecars.lock();
        sidecars.iter().map(|(key, sidecar)| sidecar.report(key, newest.as_ref())).collect()
    }

    /// The sidecars that have a push stream, by name and proved identity.
    pub(crate) fn connected(&self) -> Vec<(String, Option<SpiffeId>)> {
        let sidecars = self.sidecars.lock();
        let connected = sidecars.iter().filter(|(_, sidecar)| sidecar.connected);
        connected.map(|(key, _)| (key.node.clone(), key.identity.clone())).collect()
    }

    /// Keeps how far a stream is. A newer stream of the same sidecar takes the place of an older one.
    pub(super) fn progressed(
        &self,
        key: &SidecarKey,
        stream: u64,
        peer: &Peer,
        progress: Progress,
        now: OffsetDateTime,
    ) {
        let mut sidecars = self.sidecars.lock();
        match sidecars.get_mut(key) {
            Some(sidecar) if sidecar.stream == stream => sidecar.progress = progress,
            _ => {
                let address = peer.address;
                let fresh = Sidecar { stream, address, connected: true, since: now, progress };
                sidecars.insert(key.clone(), fresh);
            }
        }
    }

    /// The stream has ended, unless the sidecar has opened another already.
    pub(super) fn gone(&self, key: &SidecarKey, stream: u64, now: OffsetDateTime) {
        let mut sidecars = self.sidecars.lock();
        if let Some(sidecar) = sidecars.get_mut(key).filter(|sidecar| sidecar.stream == stream) {
            (sidecar.connected, sidecar.since) = (false, now);
        }
        let gone = sidecars.iter().filter(|(_, sidecar)| !sidecar.connected);
        if gone.clone().count() > GONE_MAX
            && let Some(oldest) = gone.min_by_key(|(_, sidecar)| sidecar.since).map(|(key, _)| key.clone())
        {
            sidecars.remove(&oldest);
        }
    }
}

impl Sidecar {
    fn report(&self, key: &SidecarKey, newest: Option<&Version>) -> SidecarReport {
        let synced = self.progress.synced.as_ref();
        SidecarReport {
            node: key.node.clone(),
            identity: key.identity.as_ref().map(ToString::to_string),
            address: self.address.to_string(),
            connected: self.connected,
            since: self.since.format(&Rfc3339).ok(),
            in_sync: self.connected && synced.is_some() && synced == newest,
            version: synced.map(ToString::to_string),
            types: self.progress.types.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use penstock_model::snapshot::Snapshot;
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-21 09:00 UTC);

    fn key(node: &str) -> SidecarKey {
        SidecarKey { node: node.to_owned(), identity: None }
    }

    fn progress(fanout: &Fanout, node: &str, stream: u64, synced: Option<&Snapshot>) {
        let peer = Peer { address: ([127, 0, 0, 1], 1).into(), identity: None };
        let progress = Progress { synced: synced.map(|s| s.version().clone()), types: BTreeMap::new() };
        fanout.progressed(&key(node), stream, &peer, progress, NOW);
    }

    #[test]
    fn only_a_connected_sidecar_with_the_newest_version_is_in_sync() {
        let snapshot = Snapshot::default();
        let fanout = Fanout::new();
        fanout.publish(Arc::new(Published::new(&snapshot)));
        progress(&fanout, "even", 1, Some(&snapshot));
        progress(&fanout, "behind", 2, None);
        progress(&fanout, "gone", 3, Some(&snapshot));
        fanout.gone(&key("gone"), 3, NOW);
        let seen: Vec<_> = fanout.report().into_iter().map(|s| (s.node, s.connected, s.in_sync)).collect();
        assert_eq!(
            seen,
            [("behind".into(), true, false), ("even".into(), true, true), ("gone".into(), false, false)]
        );
    }

    #[test]
    fn the_end_of_an_older_stream_does_not_hide_a_newer_one() {
        let fanout = Fanout::new();
        progress(&fanout, "web", 1, None);
        progress(&fanout, "web", 2, None);
        fanout.gone(&key("web"), 1, NOW);
        assert!(fanout.report()[0].connected);
    }

    #[test]
    fn the_memory_of_those_that_have_gone_is_bounded() {
        let fanout = Fanout::new();
        for number in 0..(GONE_MAX as u64 + 10) {
            let node = format!("web-{number:05}");
            progress(&fanout, &node, number, None);
            fanout.gone(&key(&node), number, NOW + time::Duration::seconds(number.cast_signed()));
        }
        let report = fanout.report();
        assert_eq!(report.len(), GONE_MAX);
        assert_eq!(report[0].node, "web-00010");
    }
}
