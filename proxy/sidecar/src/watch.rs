//! Tells when files may have changed: the kernel says so, or a little time has passed.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher};
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
    let watched = Watched::of(paths);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        if event.is_ok_and(|event| watched.may_have_changed(&event)) {
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

/// What is watched. The kernel tells of all that happens in a directory, and beside a file there may be others that are written all the
/// time, such as the log of this very process.
#[derive(Debug, Default)]
struct Watched {
    dirs: Vec<PathBuf>,
    files: Vec<OsString>,
}

impl Watched {
    fn of(paths: &[&Path]) -> Self {
        let mut watched = Self::default();
        for path in paths {
            match path.file_name() {
                Some(name) if !path.is_dir() => watched.files.push(name.to_owned()),
                _ => watched.dirs.push(path.to_path_buf()),
            }
        }
        watched
    }

    /// An event without paths says that some were lost.
    fn may_have_changed(&self, event: &Event) -> bool {
        !event.kind.is_access() && (event.paths.is_empty() || event.paths.iter().any(|path| self.has(path)))
    }

    fn has(&self, path: &Path) -> bool {
        let is_file = |name| self.files.iter().any(|file| file == name) || is_swapped_by_kubernetes(name);
        path.file_name().is_some_and(is_file) || self.dirs.iter().any(|dir| path.starts_with(dir))
    }
}

/// A volume's files are symbolic links through `..data`, which is what is swapped.
fn is_swapped_by_kubernetes(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b"..")
}

#[cfg(test)]
mod tests {
    use notify::EventKind;
    use notify::event::{AccessKind, CreateKind, ModifyKind};

    use super::*;

    const MODIFIED: EventKind = EventKind::Modify(ModifyKind::Any);

    fn concerns(kind: EventKind, path: &str) -> bool {
        let watched = Watched { dirs: vec!["/documents".into()], files: vec!["proxy.yaml".into()] };
        watched.may_have_changed(&Event::new(kind).add_path(path.into()))
    }

    #[test]
    fn a_file_is_watched_and_not_what_stands_beside_it() {
        assert!(concerns(MODIFIED, "/etc/penstock/proxy.yaml"));
        assert!(concerns(EventKind::Create(CreateKind::Any), "./proxy.yaml"));
        assert!(!concerns(MODIFIED, "/etc/penstock/proxy.log"));
        assert!(!concerns(EventKind::Access(AccessKind::Any), "/etc/penstock/proxy.yaml"));
    }

    #[test]
    fn all_of_a_directory_is_watched() {
        assert!(concerns(MODIFIED, "/documents/deep/mesh.yaml"));
        assert!(!concerns(MODIFIED, "/other/mesh.yaml"));
    }

    #[test]
    fn a_swapped_volume_and_lost_events_may_be_anything() {
        assert!(concerns(EventKind::Create(CreateKind::Any), "/etc/penstock/..data"));
        assert!(Watched::default().may_have_changed(&Event::new(EventKind::Other)));
    }

    #[test]
    fn what_is_no_directory_is_a_file_also_before_it_exists() {
        let dir = tempfile::tempdir().unwrap();
        let watched = Watched::of(&[dir.path(), &dir.path().join("proxy.yaml"), Path::new("proxy.yaml")]);
        assert_eq!(watched.dirs, [dir.path()]);
        assert_eq!(watched.files, ["proxy.yaml"; 2]);
    }
}
