//! The command `penstock`: what people and scripts type.

mod clock;
mod demo;
mod diff;
mod documents;
mod fetch;
mod output;
mod status;
mod validate;
mod why;

use std::process::ExitCode;

use clap::Parser;

/// Penstock, the service mesh for AI traffic.
#[derive(Debug, Parser)]
#[command(name = "penstock", version, max_term_width = 100)]
enum Verb {
    Demo(demo::Flags),
    Validate(validate::Flags),
    Diff(diff::Flags),
    Status(status::Flags),
    Why(why::Flags),
    Tether(demo::TetherFlags),
}

#[tokio::main]
async fn main() -> ExitCode {
    let ended = match Verb::parse() {
        Verb::Demo(flags) => demo::run(&flags).await,
        Verb::Validate(flags) => validate::run(&flags),
        Verb::Diff(flags) => diff::run(&flags).await,
        Verb::Status(flags) => status::run(&flags).await,
        Verb::Why(flags) => why::run(&flags).await,
        Verb::Tether(flags) => demo::tether(&flags),
    };
    ended.unwrap_or_else(output::Fault::tell)
}
