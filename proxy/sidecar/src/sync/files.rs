//! A sidecar without a control plane's snapshots: it watches documents and compiles them itself, with the same compiler.

use std::path::{Path, PathBuf};

use penstock_model::Source as Document;

use super::Sync;
use crate::live::Source;
use crate::watch::Changes;

pub(super) async fn run(sync: Sync, path: PathBuf) {
    let mut changes = Changes::of(&[&path]);
    let mut last = None;
    loop {
        reload(&sync, &path, &mut last);
        changes.next().await;
    }
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
