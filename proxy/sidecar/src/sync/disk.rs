//! The last good snapshot on disk, checksummed, so that a sidecar starts without its control plane.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use penstock_delivery::cache;
use penstock_model::settings::ProxySettings;
use penstock_model::snapshot::Parts;

const FILE: &str = "snapshot.bin";

/// What is there, if it is whole. What is not is reported and left alone.
pub(super) fn load(settings: &ProxySettings) -> Option<Parts> {
    let path = path(settings)?;
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the last good snapshot cannot be read");
            return None;
        }
    };
    match cache::decode(&bytes) {
        Ok(parts) => Some(parts),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the last good snapshot is refused");
            None
        }
    }
}

/// Replaces what is there. A disk that refuses never stops the data path.
pub(super) fn store(settings: &ProxySettings, parts: &Parts) {
    let Some(path) = path(settings) else { return };
    if let Err(error) = write(&path, &cache::encode(parts)) {
        tracing::warn!(path = %path.display(), %error, "the snapshot cannot be kept on disk");
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
