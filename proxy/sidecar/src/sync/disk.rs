//! The last good snapshot on disk, checksummed, so that a sidecar starts without its control plane.
//!
//! Writing waits for the disk, so it happens beside the data path: the newest snapshot is kept, those that come while an older one is
//! being written replace each other.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::Path;

use penstock_delivery::cache;
use penstock_model::settings::ProxySettings;
use penstock_model::snapshot::Parts;

use super::Sync;
use crate::tasks::Tasks;

const FILE: &str = "snapshot.bin";

/// What is there, if anything is.
///
/// # Errors
/// Why what is there cannot be used. It is left alone.
pub(super) fn load(settings: &ProxySettings) -> Result<Option<Parts>, String> {
    let Some(dir) = &settings.state_dir else { return Ok(None) };
    let path = dir.join(FILE);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("{} cannot be read: {error}", path.display())),
    };
    cache::decode(&bytes).map(Some).map_err(|error| format!("{} {error}", path.display()))
}

/// Keeps the newest of what is published, where the settings name a place. A disk that refuses never stops the data path.
pub(super) async fn keep(sync: Sync) {
    let (mut published, mut settings) = (sync.newest.subscribe(), sync.settings.watch());
    let mut dir = settings.borrow_and_update().state_dir.clone();
    loop {
        tokio::select! {
            biased;
            Ok(()) = published.changed() => {}
            Ok(()) = settings.changed() => {
                let named = settings.borrow_and_update().state_dir.clone();
                if std::mem::replace(&mut dir, named) == dir {
                    continue;
                }
            }
            else => return,
        }
        let (Some(dir), Some(parts)) = (&dir, published.borrow_and_update().clone()) else { continue };
        let path = dir.join(FILE);
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
