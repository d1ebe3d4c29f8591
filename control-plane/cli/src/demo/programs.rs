//! The sibling programs: they stand beside this one, wherever it was started from.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// Where the programs are that the demo starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Programs {
    /// This one.
    pub(super) own: PathBuf,
    pub(super) plane: PathBuf,
    pub(super) proxy: PathBuf,
    pub(super) engine: PathBuf,
}

impl Programs {
    /// # Errors
    /// Which are missing, and how to build them.
    pub(super) fn find() -> anyhow::Result<Self> {
        let own = std::env::current_exe().context("this program cannot tell where it is")?;
        let dir = own.parent().unwrap_or(Path::new(".")).to_owned();
        Self::beside(own, &dir)
    }

    fn beside(own: PathBuf, dir: &Path) -> anyhow::Result<Self> {
        let place = |name: &str| dir.join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
        let programs = Self {
            own,
            plane: place("penstock-control-plane"),
            proxy: place("penstock-proxy"),
            engine: place("penstock-engine"),
        };
        let all = [&programs.plane, &programs.proxy, &programs.engine];
        let missing: Vec<String> = all
            .into_iter()
            .filter(|path| !path.is_file())
            .map(|path| path.file_name().unwrap_or_default().to_string_lossy().into_owned())
            .collect();
        if !missing.is_empty() {
            bail!(
                "the demo needs {} beside it in {}; build them in a checkout with `make build`, or `cargo build --workspace --bins`",
                missing.join(" and "),
                dir.display()
            );
        }
        Ok(programs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_the_way_to_build_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("penstock-engine"), "").unwrap();
        let find = || Programs::beside(dir.path().join("penstock"), dir.path());
        let fault = find().unwrap_err().to_string();
        assert!(fault.contains("penstock-control-plane and penstock-proxy beside it"), "{fault}");
        assert!(fault.contains("make build"), "{fault}");
        std::fs::write(dir.path().join("penstock-control-plane"), "").unwrap();
        std::fs::write(dir.path().join("penstock-proxy"), "").unwrap();
        assert_eq!(find().unwrap().engine, dir.path().join("penstock-engine"));
    }
}
