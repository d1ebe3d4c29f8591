//! `simulate`: see the README.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use penstock_simulate::flags::Flags;
use penstock_simulate::session;

fn main() -> ExitCode {
    let flags = Flags::parse();
    match session::run(&flags, &mut std::io::stdout().lock(), &mut std::io::stderr()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let said = writeln!(std::io::stderr(), "simulate: {error:#}");
            debug_assert!(said.is_ok());
            ExitCode::FAILURE
        }
    }
}
