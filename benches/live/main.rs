//! `penstock-bench-live`: does a mesh of real processes do what the simulator says, and what does another router do with the same?
//!
//! ```text
//!                    ┌► caller's sidecar 1 ═╗                ╔═► sidecar ──► engine 1
//!   this, at a rate ─┼► …                   ╠═ mutual TLS ═══╬═► …
//!                    └► caller's sidecar N ═╝                ╚═► sidecar ──► engine 8
//!   this, at a rate ──► another router ──────────────────────────► the same engines, begun anew
//! ```
//!
//! A trace is replayed in open loop, with the arrivals, the sidecar of each request, the prompts' shared blocks and the promise that the
//! simulator has for the same seed; the engines are the same scheduler with a clock. So live and simulated figures are of the same
//! requests, and a difference is the mesh's. How to read the figures: `benches/README.md`.

mod ask;
mod flags;
mod lag;
mod plan;
mod replay;
mod result;
mod rival;
mod run;
mod stand;
mod stream;

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
