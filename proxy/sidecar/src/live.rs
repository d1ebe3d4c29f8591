//! The current fleet: published by whoever receives snapshots or looks names up, loaded once by each request.

use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use penstock_model::snapshot::Snapshot;
use tokio::sync::watch;

use crate::fleet::Fleet;
use crate::fleet::names::{Known, Names};

/// Where a snapshot came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Nowhere yet.
    None,
    /// The last good one, from disk.
    Cache,
    /// The control plane.
    Push,
    /// Documents, compiled here.
    Files,
}

impl Source {
    /// Value in status pages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Cache => "cache",
            Self::Push => "push",
            Self::Files => "files",
        }
    }
}

/// The cell that holds the current fleet.
#[derive(Debug)]
pub struct Live {
    fleet: ArcSwap<Fleet>,
    source: watch::Sender<Source>,
    /// What is known of names. Whoever makes a fleet holds it: snapshots and look-ups come from different tasks.
    names: Mutex<Names>,
}

impl Default for Live {
    fn default() -> Self {
        Self { fleet: ArcSwap::default(), source: watch::Sender::new(Source::None), names: Mutex::default() }
    }
}

impl Live {
    /// The fleet as of now.
    pub fn load(&self) -> Arc<Fleet> {
        self.fleet.load_full()
    }

    /// Makes `snapshot` the current one. Requests that have begun keep theirs.
    pub fn publish(&self, snapshot: Snapshot, source: Source) {
        let names = self.names.lock();
        self.advance(Arc::new(snapshot), &names);
        drop(names);
        self.source.send_replace(source);
    }

    /// Uses what is now known of a name; nothing is known of it any more where absent.
    pub fn learn(&self, name: &Arc<str>, known: Option<Arc<Known>>) {
        let mut names = self.names.lock();
        match known {
            Some(known) => drop(names.insert(Arc::clone(name), known)),
            None => drop(names.remove(name)),
        }
        let snapshot = Arc::clone(&self.fleet.load().snapshot);
        self.advance(snapshot, &names);
        drop(names);
        self.source.send_modify(|_| {});
    }

    /// What is known of a name.
    pub fn known(&self, name: &str) -> Option<Arc<Known>> {
        self.names.lock().get(name).cloned()
    }

    fn advance(&self, snapshot: Arc<Snapshot>, names: &Names) {
        let fleet = self.fleet.load().advance(snapshot, names);
        self.fleet.store(Arc::new(fleet));
    }

    /// Where the current snapshot came from.
    pub fn source(&self) -> Source {
        *self.source.borrow()
    }

    /// Tells of every publication, and of every change of addresses.
    pub fn watch(&self) -> watch::Receiver<Source> {
        self.source.subscribe()
    }
}
