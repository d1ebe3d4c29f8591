//! Where things run: our programs, and a core for the proxies and one for everything else.

use std::path::PathBuf;

use anyhow::{Context, bail};
use rustix::thread::{CpuSet, sched_getaffinity};

use crate::tether;

/// See the module.
#[derive(Clone, Debug)]
pub struct Place {
    /// Of our programs: beside this one.
    pub programs: PathBuf,
    /// Where proxies run.
    pub proxy_core: usize,
    /// Where everything else runs, this program too.
    pub load_core: usize,
}

impl Place {
    /// The place for these programs; this one is pinned from here on.
    ///
    /// # Errors
    /// When one of them is not built, or there are not two cores.
    pub fn here(programs: &[&str]) -> anyhow::Result<Self> {
        let own = std::env::current_exe()?;
        let beside = own.parent().context("a program without a directory")?.to_owned();
        for name in programs {
            if !beside.join(name).is_file() {
                bail!("{name} is missing in {}: build the workspace first", beside.display());
            }
        }
        let allowed = sched_getaffinity(None)?;
        let mut cores = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
        let (Some(proxy_core), Some(load_core)) = (cores.next(), cores.next()) else {
            bail!("two cores are needed: one for the proxies, one for the load");
        };
        tether::pin(load_core)?;
        Ok(Self { programs: beside, proxy_core, load_core })
    }
}
