//! The `penstock-control-plane` program.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use penstock_control_plane::{Flags, log_to_stderr, start, termination};

#[tokio::main]
async fn main() -> ExitCode {
    let flags = Flags::parse();
    match run(&flags).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(flags: &Flags) -> anyhow::Result<()> {
    log_to_stderr(flags)?;
    let app = start(flags).await?;
    // Before anybody is told that we are there.
    let stop = termination()?;
    let mut stdout = io::stdout();
    writeln!(stdout, "{}", serde_json::to_string(app.listening())?)?;
    stdout.flush()?;
    app.run(stop).await
}
