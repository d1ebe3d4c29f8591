//! Says when documents may have changed.
//!
//! The directory is watched, never a file: editors and Kubernetes replace files, and a watch on the old one hears nothing.
//! Watching can fail (no such directory yet, no watches left) or be deaf (network file systems, a path whose own link is
//! moved), so everything is read again now and then as well; an equal text is no change, so that costs little.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

use crate::tasks::Tasks;

/// While nothing watches.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// While the system watches, against what it cannot see.
const BACKSTOP_INTERVAL: Duration = Duration::from_secs(30);

/// Rings when documents may have changed. Rings that nobody has heard yet are one ring.
#[derive(Clone, Debug)]
pub(crate) struct Signal(Arc<Notify>);

/// Hears the signal.
#[derive(Debug)]
pub(crate) struct Changes(Arc<Notify>);

impl Signal {
    pub(crate) fn new() -> (Self, Changes) {
        let ring = Arc::new(Notify::new());
        (Self(Arc::clone(&ring)), Changes(ring))
    }

    pub(crate) fn ring(&self) {
        self.0.notify_one();
    }
}

impl Changes {
    pub(crate) async fn next(&self) {
        self.0.notified().await;
    }
}

/// Rings from now on, until the stop signal.
pub(crate) fn watch(root: PathBuf, signal: Signal, tasks: &Tasks) {
    let stop = tasks.clone();
    tasks.spawn("watch", async move {
        tokio::select! {
            biased;
            () = keep_watching(root, signal) => {}
            () = stop.stopped() => {}
        }
    });
}

async fn keep_watching(root: PathBuf, signal: Signal) {
    let mut watcher = None;
    let mut told = false;
    loop {
        if watcher.is_none() {
            match start(&root, signal.clone()) {
                Ok(started) => {
                    watcher = Some(started);
                    // Whatever happened before the watch began went unheard.
                    signal.ring();
                }
                Err(error) if !told => {
                    told = true;
                    tracing::warn!(%error, path = %root.display(), "cannot watch; reading every second instead");
                }
                Err(_) => {}
            }
        }
        tokio::time::sleep(if watcher.is_some() { BACKSTOP_INTERVAL } else { POLL_INTERVAL }).await;
        signal.ring();
    }
}

fn start(root: &Path, signal: Signal) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        if event.is_ok_and(|event| !may_change_text(&event.kind)) {
            return;
        }
        signal.ring();
    })?;
    if std::fs::metadata(root).is_ok_and(|facts| facts.is_dir()) {
        watcher.watch(root, RecursiveMode::Recursive)?;
    } else {
        let parent = root.parent().filter(|parent| !parent.as_os_str().is_empty());
        watcher.watch(parent.unwrap_or(Path::new(".")), RecursiveMode::NonRecursive)?;
    }
    Ok(watcher)
}

/// Our own reading opens files, which is an event as well.
fn may_change_text(kind: &EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        _ => true,
    }
}
