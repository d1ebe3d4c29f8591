//! `tether PARENT CORE PROGRAM …`, a command of each program here that starts others: becomes PROGRAM, on one core, which the kernel
//! ends when its parent ends.
//!
//! Nothing may run between `fork` and `exec` in safe Rust, so a program is started through this one, which pins itself and
//! asks for the "parent death signal"; both outlive `exec`.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::anyhow;
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use rustix::thread::{CpuSet, sched_setaffinity};

/// Becomes another program.
#[derive(Clone, Debug, clap::Args)]
pub struct Tethered {
    /// Process that must still be the parent
    parent: i32,
    /// Core to run on
    core: usize,
    program: OsString,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Becomes the program; returns only why it cannot.
pub fn tether(tethered: &Tethered) -> anyhow::Error {
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return error.into();
    }
    if getppid().map(Pid::as_raw_nonzero).is_none_or(|parent| parent.get() != tethered.parent) {
        return anyhow!("the parent has ended");
    }
    if let Err(error) = pin(tethered.core) {
        return error.into();
    }
    let error = Command::new(&tethered.program).args(&tethered.arguments).exec();
    anyhow!("{}: {error}", tethered.program.display())
}

/// Keeps this thread, and what it starts, on one core.
///
/// # Errors
/// When the system refuses.
pub fn pin(core: usize) -> std::io::Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core);
    Ok(sched_setaffinity(None, &cores)?)
}
