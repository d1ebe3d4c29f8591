//! The accepted documents on disk, for a start at which the documents themselves are bad or gone.
//!
//! One JSON file with a checksum over the texts, replaced as a whole. Texts are kept rather than what was compiled from them:
//! they outlive any change of the compiled form, and are checked by the compiler that reads them.

use std::io;
use std::path::Path;

use penstock_model::Source;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::disk::{self, Secrecy};

const FILE: &str = "last-good.json";

#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    sha256: String,
    sources: Vec<KeptSource>,
}

#[derive(Debug, Serialize, Deserialize)]
struct KeptSource {
    file: String,
    text: String,
}

/// Replaces what was kept before.
pub(super) fn store(dir: &Path, sources: &[Source]) -> io::Result<()> {
    let kept = Kept {
        sha256: checksum(sources.iter().map(|source| (source.file.as_str(), source.text.as_str()))),
        sources: sources
            .iter()
            .map(|source| KeptSource { file: source.file.clone(), text: source.text.clone() })
            .collect(),
    };
    disk::replace(&dir.join(FILE), &serde_json::to_vec(&kept)?, Secrecy::Private)
}

/// What was kept last.
pub(super) fn load(dir: &Path) -> io::Result<Vec<Source>> {
    let kept: Kept = serde_json::from_slice(&std::fs::read(dir.join(FILE))?)?;
    let found = checksum(kept.sources.iter().map(|source| (source.file.as_str(), source.text.as_str())));
    if found != kept.sha256 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{FILE} is damaged")));
    }
    Ok(kept.sources.into_iter().map(|source| Source { file: source.file, text: source.text }).collect())
}

fn checksum<'a>(sources: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut digest = Sha256::new();
    for part in sources.flat_map(|(file, text)| [file, text]) {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(texts: &[&str]) -> Vec<Source> {
        texts.iter().map(|text| Source { file: "a.yaml".to_owned(), text: (*text).to_owned() }).collect()
    }

    #[test]
    fn what_is_stored_last_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        assert!(load(dir.path()).is_err());
        for texts in [&["one", "two"][..], &["three é"], &[]] {
            store(dir.path(), &sources(texts)).unwrap();
            assert_eq!(load(dir.path()).unwrap(), sources(texts));
        }
    }

    #[test]
    fn a_damaged_file_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        store(dir.path(), &sources(&["good"])).unwrap();
        let path = dir.path().join(FILE);
        let whole = std::fs::read_to_string(&path).unwrap();
        for damaged in [&whole.replace("good", "evil"), &whole[..whole.len() - 1], ""] {
            std::fs::write(&path, damaged).unwrap();
            assert!(load(dir.path()).is_err(), "{damaged}");
        }
    }
}
