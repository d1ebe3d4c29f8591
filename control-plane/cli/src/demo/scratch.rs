//! The one directory that holds everything the demo writes; removed when it is dropped. Only a demo that is killed with SIGKILL
//! leaves it behind.

use std::fs::DirBuilder;
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// A directory of our own, for us alone: it holds a private key and a join token.
#[derive(Debug)]
pub(super) struct Scratch {
    path: PathBuf,
}

/// Names that may be taken by what earlier demos left behind under our process id.
const ATTEMPTS_MAX: u32 = 100;

impl Scratch {
    /// # Errors
    /// When the system's directory for such things cannot be written to.
    pub(super) fn make() -> anyhow::Result<Self> {
        let parent = std::env::temp_dir();
        let process = std::process::id();
        Self::make_in(&parent, process)
            .with_context(|| format!("cannot make a directory in {}", parent.display()))
    }

    fn make_in(parent: &Path, process: u32) -> io::Result<Self> {
        let mut taken = io::Error::from(ErrorKind::AlreadyExists);
        for attempt in 0..ATTEMPTS_MAX {
            let path = parent.join(format!("penstock-demo-{process}-{attempt}"));
            // Not recursive, so that a directory or link that somebody else put there is never taken.
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self { path }),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => taken = error,
                Err(error) => return Err(error),
            }
        }
        Err(taken)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A directory in it.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(super) fn dir(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.path.join(name);
        std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    }

    /// Writes a file in it, whole or not at all.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn write(&self, name: &str, text: &str) -> anyhow::Result<PathBuf> {
        let path = self.path.join(name);
        let new = path.with_extension("new");
        std::fs::write(&new, text)
            .and_then(|()| std::fs::rename(&new, &path))
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            crate::output::talk(format_args!("cannot remove {}: {error}", self.path.display()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn it_is_private_never_shared_and_gone_at_the_end() {
        let parent = tempfile::tempdir().unwrap();
        let one = Scratch::make_in(parent.path(), 7).unwrap();
        let two = Scratch::make_in(parent.path(), 7).unwrap();
        assert_ne!(one.path(), two.path());
        assert_eq!(one.path().metadata().unwrap().permissions().mode() & 0o777, 0o700);
        one.dir("documents").unwrap();
        let file = one.write("documents/a.yaml", "x").unwrap();
        assert_eq!(std::fs::read_to_string(file).unwrap(), "x");
        drop((one, two));
        assert_eq!(parent.path().read_dir().unwrap().count(), 0);
    }
}
