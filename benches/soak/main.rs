//! `penstock-soak`: a million requests, a hundred thousand that their callers give up, and bodies of 1 GiB through two sidecars, and
//! then the question whether everything is back to where it was.
//!
//! ```text
//!   this ──► caller's sidecar ══ mutual TLS, HTTP/2 ══► server's sidecar ──► backend, HTTP/1.1 and HTTP/2
//! ```
//!
//! The sidecars say of themselves what they hold and have counted (`/metrics`), the kernel what they use (`/proc`), the backend what it
//! has seen, and this program knows what it did. Whatever does not fit together fails the run. How to read the table:
//! `benches/README.md`.

mod bodies;
mod cancels;
mod client;
mod flags;
mod picture;
mod requests;
mod run;
mod tally;
mod verdict;

use std::process::ExitCode;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;

use flags::{Command, Flags};
use penstock_benches::tether;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<ExitCode> {
    let flags = Flags::parse();
    if let Some(Command::Tether(tethered)) = flags.command {
        return Err(tether::tether(&tethered));
    }
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let local = LocalSet::new();
    // What is dropped ends its processes and removes its files.
    tokio::select! {
        ran = local.run_until(run::run(&flags.asked)) => ran,
        _ = interrupt.recv() => Ok(ExitCode::from(130)),
        _ = terminate.recv() => Ok(ExitCode::from(143)),
    }
}
