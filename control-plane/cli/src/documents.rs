//! Documents from files and directories, in the order and with the limits of the control plane: a directory is read
//! recursively by name, without what is hidden, `*.yaml` and `*.yml` alone.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::bail;
use penstock_model::Source;

/// As in the control plane: deeper than any layout by hand, and the end of a loop of links.
const DEPTH_MAX: usize = 16;
/// As in the control plane: larger than an etcd object may be, by ten.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// Names standard input on a command line, and in findings.
const STDIN: &str = "-";

/// Reads all of them; a file that is named twice is read once.
///
/// # Errors
/// Everything that cannot be read, one line each; also when there is no file at all.
pub(crate) fn read(paths: &[PathBuf]) -> anyhow::Result<Vec<Source>> {
    let mut reading = Reading::default();
    for path in paths {
        if path.as_os_str() == STDIN {
            reading.stream(&mut io::stdin().lock());
        } else {
            reading.path(path);
        }
    }
    if !reading.faults.is_empty() {
        bail!("{}", reading.faults.join("\n       "));
    }
    Ok(reading.sources)
}

#[derive(Default)]
struct Reading {
    sources: Vec<Source>,
    seen: BTreeSet<PathBuf>,
    faults: Vec<String>,
}

impl Reading {
    fn path(&mut self, path: &Path) {
        match std::fs::metadata(path) {
            Ok(facts) if facts.is_dir() => {
                let before = self.seen.len();
                let faults = self.faults.len();
                self.directory(path, 0);
                if self.seen.len() == before && self.faults.len() == faults {
                    self.fault(path, "it holds no *.yaml or *.yml file that is not named before");
                }
            }
            Ok(_) => self.file(path),
            Err(error) => self.fault(path, &error.to_string()),
        }
    }

    fn directory(&mut self, dir: &Path, depth: usize) {
        if depth > DEPTH_MAX {
            return self.fault(dir, "it is too deep; does a link lead back to a directory above it?");
        }
        let entries = match std::fs::read_dir(dir).and_then(Iterator::collect::<io::Result<Vec<_>>>) {
            Ok(entries) => entries,
            Err(error) => return self.fault(dir, &error.to_string()),
        };
        let mut names: Vec<_> = entries.into_iter().map(|entry| entry.file_name()).collect();
        names.sort();
        for name in names.into_iter().filter(|name| !name.as_encoded_bytes().starts_with(b".")) {
            let path = dir.join(name);
            if path.is_dir() {
                self.directory(&path, depth + 1);
            } else if path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml") {
                self.file(&path);
            }
        }
    }

    fn file(&mut self, path: &Path) {
        let identity = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        if !self.seen.insert(identity) {
            return;
        }
        match std::fs::File::open(path) {
            Ok(mut file) => self.text(&path.display().to_string(), &mut file),
            Err(error) => self.fault(path, &error.to_string()),
        }
    }

    fn stream(&mut self, stream: &mut impl Read) {
        self.text(STDIN, stream);
    }

    fn text(&mut self, name: &str, from: &mut impl Read) {
        let mut bytes = Vec::new();
        if let Err(error) = from.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes) {
            return self.fault(Path::new(name), &error.to_string());
        }
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return self.fault(Path::new(name), "it has more than 16 MiB; is this a file of documents?");
        }
        match String::from_utf8(bytes) {
            Ok(text) => self.sources.push(Source { file: name.to_owned(), text }),
            Err(error) => {
                let at = error.utf8_error().valid_up_to() + 1;
                self.fault(Path::new(name), &format!("it is not UTF-8: byte {at} begins no character"));
            }
        }
    }

    fn fault(&mut self, path: &Path, message: &str) {
        self.faults.push(format!("{}: {message}", path.display()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(layout: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in layout {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        dir
    }

    fn texts(paths: &[PathBuf]) -> Vec<String> {
        read(paths).unwrap().into_iter().map(|source| source.text).collect()
    }

    #[test]
    fn a_directory_is_read_by_name_without_what_is_hidden() {
        let dir =
            files(&[("b.yml", "3"), ("a.yaml", "1"), ("ab/c.yaml", "2"), (".d.yaml", "x"), ("e.txt", "x")]);
        assert_eq!(texts(&[dir.path().to_owned()]), ["1", "2", "3"]);
        assert_eq!(texts(&[dir.path().join("e.txt")]), ["x"]);
    }

    #[test]
    fn a_file_that_is_named_twice_is_read_once() {
        let dir = files(&[("a.yaml", "1"), ("b.yaml", "2")]);
        assert_eq!(texts(&[dir.path().join("b.yaml"), dir.path().to_owned()]), ["2", "1"]);
    }

    #[test]
    fn everything_that_cannot_be_read_is_told_at_once() {
        let dir = files(&[("empty/notes.txt", ""), ("bad.yaml", "")]);
        std::fs::write(dir.path().join("bad.yaml"), b"ok: \xff").unwrap();
        let paths = ["missing.yaml", "empty", "bad.yaml"].map(|name| dir.path().join(name));
        let faults = read(&paths).unwrap_err().to_string();
        for part in
            ["missing.yaml: No such file", "empty: it holds no *.yaml", "bad.yaml: it is not UTF-8: byte 5"]
        {
            assert!(faults.contains(part), "{part} in {faults}");
        }
    }
}
