//! One reading of all documents from a file or a directory.
//!
//! A directory is read recursively in the order of names; what is not `*.yaml` or `*.yml` and whatever is hidden is passed
//! over, which hides Kubernetes' `..data` and its time-stamped siblings while the links to them are followed. A reading
//! counts only when nothing changed between its beginning and its end: a set that is half old and half new is never compiled.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use penstock_model::Source;
use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

/// Deeper than any layout by hand, and the end of a loop of links.
const DEPTH_MAX: usize = 16;
/// Larger than an etcd object may be, by ten.
const FILE_BYTES_MAX: u64 = 16 << 20;
const TOTAL_BYTES_MAX: u64 = 256 << 20;

/// How a reading ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// Everything, as it stood at one moment.
    Complete(Vec<Source>),
    /// Something changed meanwhile; read again.
    Moving,
    /// Something cannot be read.
    Unreadable(Vec<ReadFault>),
}

/// A file or directory that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReadFault {
    /// The path as it was reached from the one that was given.
    pub(crate) file: String,
    /// What is wrong.
    pub(crate) message: String,
    /// How to mend it.
    pub(crate) help: &'static str,
}

impl std::fmt::Display for ReadFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "error: {}: {}\n  = help: {}", self.file, self.message, self.help)
    }
}

/// The fields of a finding, so that readers need not tell the two apart.
impl Serialize for ReadFault {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("ReadFault", 11)?;
        fields.serialize_field("code", "unreadable")?;
        fields.serialize_field("level", "Error")?;
        fields.serialize_field("document", "")?;
        fields.serialize_field("file", &self.file)?;
        fields.serialize_field("line", &1)?;
        fields.serialize_field("column", &1)?;
        fields.serialize_field("path", "")?;
        fields.serialize_field("text", "")?;
        fields.serialize_field("excerpt", "")?;
        fields.serialize_field("message", &self.message)?;
        fields.serialize_field("help", self.help)?;
        fields.end()
    }
}

/// Reads `root`, a file or a directory. Blocks.
pub(crate) fn read(root: &Path) -> Reading {
    let before = match list(root) {
        Ok(files) => files,
        // What is gone between two looks was being replaced.
        Err(faults) if list(root).as_ref() == Err(&faults) => return Reading::Unreadable(faults),
        Err(_) => return Reading::Moving,
    };
    let mut sources = Vec::with_capacity(before.len());
    let mut faults = Vec::new();
    for file in &before {
        match std::fs::read(&file.path) {
            Ok(bytes) => match String::from_utf8(bytes) {
                Ok(text) => sources.push(Source { file: name(&file.path), text }),
                Err(error) => faults.push(not_utf8(&file.path, error.utf8_error().valid_up_to())),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Reading::Moving,
            Err(error) => faults.push(fault(&file.path, &error)),
        }
    }
    match list(root) {
        Ok(after) if after == before => {}
        _ => return Reading::Moving,
    }
    if !faults.is_empty() {
        return Reading::Unreadable(faults);
    }
    if sources.is_empty() {
        return Reading::Unreadable(vec![ReadFault {
            file: name(root),
            message: "it holds no *.yaml or *.yml file".to_owned(),
            help: "put documents there; to have none on purpose, put a file there that holds only a comment",
        }]);
    }
    Reading::Complete(sources)
}

/// One file, with what changes when its content does.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Listed {
    path: PathBuf,
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Listed {
    fn new(path: PathBuf, facts: &Metadata) -> Self {
        Self {
            path,
            device: facts.dev(),
            inode: facts.ino(),
            bytes: facts.len(),
            modified: (facts.mtime(), facts.mtime_nsec()),
            changed: (facts.ctime(), facts.ctime_nsec()),
        }
    }
}

fn list(root: &Path) -> Result<Vec<Listed>, Vec<ReadFault>> {
    let mut walk = Walk::default();
    match std::fs::metadata(root) {
        Ok(facts) if facts.is_dir() => walk.directory(root, 0),
        Ok(facts) => walk.file(root.to_owned(), &facts),
        Err(error) => walk.faults.push(fault(root, &error)),
    }
    let total: u64 = walk.files.iter().map(|file| file.bytes).sum();
    if total > TOTAL_BYTES_MAX {
        walk.faults.push(ReadFault {
            file: name(root),
            message: format!("it holds {total} bytes of documents, more than {TOTAL_BYTES_MAX}"),
            help: "is this the right directory?",
        });
    }
    if walk.faults.is_empty() { Ok(walk.files) } else { Err(walk.faults) }
}

#[derive(Default)]
struct Walk {
    files: Vec<Listed>,
    faults: Vec<ReadFault>,
}

impl Walk {
    fn directory(&mut self, dir: &Path, depth: usize) {
        if depth > DEPTH_MAX {
            self.faults.push(ReadFault {
                file: name(dir),
                message: format!("it is more than {DEPTH_MAX} directories deep"),
                help: "does a link lead back to a directory above it?",
            });
            return;
        }
        let entries = match std::fs::read_dir(dir).and_then(Iterator::collect::<io::Result<Vec<_>>>) {
            Ok(entries) => entries,
            Err(error) => return self.faults.push(fault(dir, &error)),
        };
        let mut names: Vec<_> = entries.into_iter().map(|entry| entry.file_name()).collect();
        names.sort();
        for name in names.into_iter().filter(|name| !name.as_encoded_bytes().starts_with(b".")) {
            let path = dir.join(name);
            match std::fs::metadata(&path) {
                Ok(facts) if facts.is_dir() => self.directory(&path, depth + 1),
                Ok(facts) if is_document(&path) => self.file(path, &facts),
                // Gone since the directory was listed, or a link to nothing: the latter matters for documents alone.
                Err(error) if is_document(&path) => self.faults.push(fault(&path, &error)),
                Ok(_) | Err(_) => {}
            }
        }
    }

    fn file(&mut self, path: PathBuf, facts: &Metadata) {
        if facts.is_file() && facts.len() <= FILE_BYTES_MAX {
            self.files.push(Listed::new(path, facts));
            return;
        }
        let message = if facts.is_file() {
            format!("it has {} bytes, more than {FILE_BYTES_MAX}", facts.len())
        } else {
            "it is neither a file nor a directory".to_owned()
        };
        self.faults.push(ReadFault { file: name(&path), message, help: "is this a file of documents?" });
    }
}

fn is_document(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml")
}

fn name(path: &Path) -> String {
    path.display().to_string()
}

fn fault(path: &Path, error: &io::Error) -> ReadFault {
    let help = match error.kind() {
        io::ErrorKind::NotFound => "check --config, or create it; it is taken up as soon as it is there",
        io::ErrorKind::PermissionDenied => "let the control plane's user read it",
        _ => "check the file system",
    };
    ReadFault { file: name(path), message: error.to_string(), help }
}

fn not_utf8(path: &Path, valid_bytes: usize) -> ReadFault {
    ReadFault {
        file: name(path),
        message: format!("it is not UTF-8: byte {} begins no character", valid_bytes + 1),
        help: "save it as UTF-8",
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn write(dir: &Path, files: &[(&str, &str)]) {
        for (name, text) in files {
            let path = dir.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
    }

    fn texts(root: &Path) -> Vec<String> {
        match read(root) {
            Reading::Complete(sources) => sources.into_iter().map(|source| source.text).collect(),
            other => panic!("{other:?}"),
        }
    }

    fn check_fault(root: &Path, expected: &str) {
        match read(root) {
            Reading::Unreadable(faults) => {
                assert!(faults.iter().any(|fault| fault.to_string().contains(expected)), "{faults:?}");
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_directory_is_read_in_the_order_of_names_without_what_is_hidden() {
        let dir = tempfile::tempdir().unwrap();
        write(
            dir.path(),
            &[
                ("b.yml", "3"),
                ("a.yaml", "1"),
                ("ab/c.yaml", "2"),
                (".d.yaml", "x"),
                ("e.txt", "x"),
                (".f/g.yaml", "x"),
            ],
        );
        assert_eq!(texts(dir.path()), ["1", "2", "3"]);
        assert_eq!(texts(&dir.path().join("e.txt")), ["x"]);
    }

    #[test]
    fn the_links_of_a_kubernetes_volume_are_followed() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &[("..one/a.yaml", "old"), ("..two/a.yaml", "new")]);
        symlink("..one", dir.path().join("..data")).unwrap();
        symlink("..data/a.yaml", dir.path().join("a.yaml")).unwrap();
        assert_eq!(texts(dir.path()), ["old"]);
        symlink("..two", dir.path().join("..new")).unwrap();
        std::fs::rename(dir.path().join("..new"), dir.path().join("..data")).unwrap();
        assert_eq!(texts(dir.path()), ["new"]);
    }

    #[test]
    fn what_cannot_be_read_is_told_with_its_path() {
        let dir = tempfile::tempdir().unwrap();
        check_fault(dir.path(), "holds no *.yaml");
        check_fault(&dir.path().join("missing"), "check --config");
        std::fs::write(dir.path().join("a.yaml"), b"ok: \xff").unwrap();
        check_fault(dir.path(), "byte 5 begins no character");
        std::fs::remove_file(dir.path().join("a.yaml")).unwrap();
        symlink("nowhere", dir.path().join("b.yaml")).unwrap();
        check_fault(dir.path(), "b.yaml");
        std::fs::remove_file(dir.path().join("b.yaml")).unwrap();
        symlink(".", dir.path().join("loop")).unwrap();
        check_fault(dir.path(), "does a link lead back");
    }

    #[test]
    fn an_oversized_file_is_refused_before_it_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = std::fs::File::create(dir.path().join("a.yaml")).unwrap();
        file.set_len(FILE_BYTES_MAX + 1).unwrap();
        check_fault(dir.path(), "more than 16777216");
    }
}
