//! Tells when files may have changed: the kernel says so, or a little time has passed.

use std::path::Path;
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// A change is waited out for so long, and at most so long in all.
const QUIET: Duration = Duration::from_millis(100);
const QUIET_MAX: Duration = Duration::from_secs(1);
/// Where the kernel tells of no changes, they are looked for so often.
const POLL: Duration = Duration::from_secs(2);

/// Changes below some paths.
#[derive(Debug)]
pub(crate) struct Changes {
    told: mpsc::Receiver<()>,
    _watcher: Option<RecommendedWatcher>,
}

impl Changes {
    /// Of directories, and of files by way of the directories that hold them: Kubernetes swaps a symbolic link there.
    pub(crate) fn of(paths: &[&Path]) -> Self {
        let (tell, told) = mpsc::channel(1);
        match watch(paths, tell) {
            Ok(watcher) => Self { told, _watcher: Some(watcher) },
            Err(error) => {
                tracing::warn!(?paths, %error, "changes are looked for every 2 s: the files cannot be watched");
                Self { told, _watcher: None }
            }
        }
    }

    /// Returns when it is time to look.
    pub(crate) async fn next(&mut self) {
        let change = timeout(POLL, self.told.recv()).await;
        if change == Ok(None) {
            // Nobody watches.
            sleep(POLL).await;
        } else if change.is_ok() {
            let latest = Instant::now() + QUIET_MAX;
            while timeout_at(latest.min(Instant::now() + QUIET), self.told.recv())
                .await
                .is_ok_and(|more| more.is_some())
            {}
        }
    }
}

fn watch(paths: &[&Path], tell: mpsc::Sender<()>) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| !event.kind.is_access()) {
            // Full means that a change is already told of.
            let _told = tell.try_send(());
        }
    })?;
    for path in paths {
        if path.is_dir() {
            watcher.watch(path, RecursiveMode::Recursive)?;
        } else {
            let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
            watcher.watch(dir, RecursiveMode::NonRecursive)?;
        }
    }
    Ok(watcher)
}
