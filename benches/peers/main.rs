//! `penstock-bench-peers`: what a request, an event of a stream and an open stream cost through our sidecars, beside Envoy,
//! HAProxy and nginx, measured in one run.
//!
//! ```text
//!   client ──► backend                                        direct
//!   client ──► proxy ──► backend                              one hop, plaintext
//!   client ──► proxy ══ mutual TLS, HTTP/2 ══► proxy ──► backend   two hops
//!   └ core B ┘ └─────────── core A ─────────┘ └ core B ┘
//! ```
//!
//! Every measurement has fresh processes. Rounds are interleaved, so that what the machine does besides befalls all alike.
//! How to read the figures: `benches/README.md`.

mod certs;
mod chain;
mod envoy;
mod flags;
mod haproxy;
mod measure;
mod nginx;
mod ratios;
mod results;
mod run;
mod scenario;
mod tables;

use std::process::ExitCode;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use flags::{Command, Flags};
use penstock_benches::tether;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<ExitCode> {
    let flags = Flags::parse();
    if let Some(Command::Tether(tethered)) = flags.command {
        return Err(tether::tether(&tethered));
    }
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    // What is dropped ends its processes and removes its files.
    tokio::select! {
        ran = run::run(&flags.asked) => ran.map(|()| ExitCode::SUCCESS),
        _ = interrupt.recv() => Ok(ExitCode::from(130)),
        _ = terminate.recv() => Ok(ExitCode::from(143)),
    }
}
