//! `penstock-bench-idle`: what sidecars cost that have nothing to do but know of each other.
//!
//! ```text
//!   this, now and then ──► caller's sidecar ══ mutual TLS ══╦══► sidecar 1 ──► engine         of this one: configured, followed, left
//!                          ▲ measured                       ╚══► sidecar 100
//!
//!   this, at a rate ──► caller's sidecar ══ mutual TLS ══► sidecar ──► engine                 of this one: told to few, told to many
//!   this, 1,000 subscribers of load reports ═════════════► ▲ measured
//! ```
//!
//! Everything is real: processes, certificates, HTTP/2 over TLS. The subscribers have an identity that the control plane's own authority has
//! signed, and read what they are told. How to read the figures: `benches/README.md`.

mod caller;
mod flags;
mod result;
mod run;
mod server;
mod stand;
mod subscribers;

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
        ran = local.run_until(run::run(&flags.asked)) => ran.map(|()| ExitCode::SUCCESS),
        _ = interrupt.recv() => Ok(ExitCode::from(130)),
        _ = terminate.recv() => Ok(ExitCode::from(143)),
    }
}
