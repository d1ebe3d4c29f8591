//! The last good snapshot on disk, checksummed, so that a sidecar starts without its control plane.
//!
//! Writing waits for the disk, so it happens beside the data path: the newest snapshot is kept, those that come while an older one is
//! being written replace each other.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use penstock_delivery::cache;
use penstock_model::settings::ProxySettings;
use penstock_model::snapshot::Parts;
use tokio::sync::watch;

use super::Sync;
use crate::tasks::Tasks;

const FILE: &str = "snapshot.bin";

/// What is there, if anything is.
///
/// # Errors
/// Why what is there cannot be used. It is left alone.
pub(super) fn load(settings: &ProxySettings) -> Result<Option<Parts>, String> {
    let Some(path) = path(settings) else { return Ok(None) };
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("{} cannot be read: {error}", path.display())),
    };
    cache::decode(&bytes).map(Some).map_err(|error| format!("{} {error}", path.display()))
}

/// Keeps the newest of what is published. A disk that refuses never stops the data path.
pub(super) async fn keep(sync: Sync, mut published: watch::Receiver<Option<Arc<Parts>>>) {
    let Some(path) = path(&sync.settings) else { return };
    while published.changed().await.is_ok() {
        let Some(parts) = published.borrow_and_update().clone() else { continue };
        let file = path.clone();
        let written = Tasks::block(move || write(&file, &cache::encode(&parts))).await;
        let (result, error) = match written {
            Some(Ok(())) => ("success", None),
            Some(Err(error)) => ("failure", Some(format!("{} cannot be written: {error}", path.display()))),
            None => ("failure", Some("writing it panicked".to_owned())),
        };
        sync.kept(result, error);
    }
}

fn path(settings: &ProxySettings) -> Option<PathBuf> {
    settings.state_dir.as_ref().map(|dir| dir.join(FILE))
}

/// Whole or not at all: written beside, synced, renamed.
fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let beside = path.with_extension("new");
    let mut file = File::create(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)
}
