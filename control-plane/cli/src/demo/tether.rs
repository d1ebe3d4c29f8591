//! `penstock tether PARENT PROGRAM …`: becomes PROGRAM, which the kernel ends when its parent ends.
//!
//! The demo starts its children through this, so that none is left behind even when the demo itself is killed. The wish is
//! the kernel's "parent death signal"; it outlives `exec`, and is asked for here since nothing may run between `fork` and
//! `exec` in safe Rust. The parent is the *thread* that forked: the demo starts its children from its main thread.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use crate::output::Fault;

/// Becomes another program, which ends when its parent does.
#[derive(Debug, clap::Args)]
#[command(hide = true)]
pub(crate) struct TetherFlags {
    /// Process that must still be the parent
    parent: i32,
    program: OsString,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Becomes the program.
///
/// # Errors
/// When it cannot.
pub(crate) fn tether(flags: &TetherFlags) -> Result<ExitCode, Fault> {
    #[cfg(target_os = "linux")]
    {
        let wish = Some(rustix::process::Signal::KILL);
        rustix::process::set_parent_process_death_signal(wish).map_err(|error| Fault::new(1, error))?;
    }
    let parent = rustix::process::getppid().map(rustix::process::Pid::as_raw_nonzero);
    if parent.is_none_or(|parent| parent.get() != flags.parent) {
        return Err(Fault::new(1, anyhow::anyhow!("the parent has ended")));
    }
    let error = Command::new(&flags.program).args(&flags.arguments).exec();
    Err(Fault::new(1, anyhow::anyhow!("{}: {error}", flags.program.display())))
}
