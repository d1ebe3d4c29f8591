//! A sidecar without a control plane's snapshots: it watches documents and compiles them itself, with the same compiler.

use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{RecursiveMode, Watcher};
use penstock_model::Source as Document;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::Sync;
use crate::live::Source;

/// A change is waited out for so long, and at most so long in all.
const QUIET: Duration = Duration::from_millis(100);
const QUIET_MAX: Duration = Duration::from_secs(1);
/// Where the kernel tells of no changes, they are looked for so often.
const POLL: Duration = Duration::from_secs(2);

pub(super) async fn run(sync: Sync, path: PathBuf) {
    let (tell, mut told) = mpsc::channel(1);
    let watcher = watch(&path, tell);
    if let Err(error) = &watcher {
        tracing::warn!(path = %path.display(), %error, "changes are looked for every 2 s: the documents cannot be watched");
    }
    let mut last = None;
    loop {
        reload(&sync, &path, &mut last);
        let change = timeout(POLL, told.recv()).await;
        if change == Ok(None) {
            // Nobody watches.
            sleep(POLL).await;
        } else if change.is_ok() {
            let latest = Instant::now() + QUIET_MAX;
            while timeout_at(latest.min(Instant::now() + QUIET), told.recv())
                .await
                .is_ok_and(|more| more.is_some())
            {}
        }
    }
}

fn watch(path: &Path, tell: mpsc::Sender<()>) -> notify::Result<notify::RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| !event.kind.is_access()) {
            // Full means that a change is already told of.
            let _told = tell.try_send(());
        }
    })?;
    // The directory, not the file: Kubernetes swaps a symbolic link in it.
    let dir = if path.is_dir() { path } else { path.parent().unwrap_or(path) };
    watcher.watch(dir, RecursiveMode::Recursive)?;
    Ok(watcher)
}

fn reload(sync: &Sync, path: &Path, last: &mut Option<Vec<Document>>) {
    let documents = match read(path) {
        Ok(documents) => documents,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the documents cannot be read, the last good snapshot stays");
            return sync.failed(error.to_string());
        }
    };
    if last.as_ref() == Some(&documents) {
        return;
    }
    let compiled = penstock_model::compile(&documents);
    *last = Some(documents);
    let result = match compiled {
        Ok(compiled) => {
            sync.publish(compiled.snapshot.parts(), Source::Files);
            "success"
        }
        Err(findings) => {
            sync.telemetry.metrics.config_valid.set(0);
            for finding in &findings {
                tracing::warn!("{finding}");
            }
            sync.failed(findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
            "failure"
        }
    };
    sync.telemetry.metrics.config_reloads.with_label_values(&[result]).inc();
}

/// All documents below a directory in the order of their names, or one file.
fn read(path: &Path) -> std::io::Result<Vec<Document>> {
    let mut documents = Vec::new();
    read_into(path, &mut documents)?;
    Ok(documents)
}

fn read_into(path: &Path, documents: &mut Vec<Document>) -> std::io::Result<()> {
    if path.is_dir() {
        let entries: std::io::Result<Vec<_>> =
            std::fs::read_dir(path)?.map(|entry| entry.map(|e| e.path())).collect();
        let mut entries = entries?;
        entries.sort();
        for entry in entries {
            let hidden = entry.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
            let yaml = entry.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
            if !hidden && (yaml || entry.is_dir()) {
                read_into(&entry, documents)?;
            }
        }
        return Ok(());
    }
    documents.push(Document { file: path.display().to_string(), text: std::fs::read_to_string(path)? });
    Ok(())
}
