//! The current fleet: published by whoever receives snapshots, loaded once by each request.

use std::sync::Arc;

use arc_swap::ArcSwap;
use penstock_model::snapshot::Snapshot;
use tokio::sync::watch;

use crate::fleet::Fleet;

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
}

impl Default for Live {
    fn default() -> Self {
        Self { fleet: ArcSwap::default(), source: watch::Sender::new(Source::None) }
    }
}

impl Live {
    /// The fleet as of now.
    pub fn load(&self) -> Arc<Fleet> {
        self.fleet.load_full()
    }

    /// Makes `snapshot` the current one. Requests that have begun keep theirs.
    pub fn publish(&self, snapshot: Snapshot, source: Source) {
        let fleet = self.fleet.load().advance(Arc::new(snapshot));
        self.fleet.store(Arc::new(fleet));
        self.source.send_replace(source);
    }

    /// Where the current snapshot came from.
    pub fn source(&self) -> Source {
        *self.source.borrow()
    }

    /// Tells of every publication.
    pub fn watch(&self) -> watch::Receiver<Source> {
        self.source.subscribe()
    }
}
