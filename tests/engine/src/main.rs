//! The command `penstock-engine`: serve, or print the tables that this package ships and claims.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser;
use penstock_engine::server::{Options, Server};
use penstock_engine::{bpe, calibrate};
use tokio::signal::unix::{SignalKind, signal};

/// A simulated model server with continuous batching, OpenAI's API and vLLM's metrics.
///
/// Prints one line of JSON that says where it listens, and serves until SIGTERM or Ctrl-C.
#[derive(Debug, Parser)]
#[command(name = "penstock-engine", version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    options: Options,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Prints time per output token against the published table and the cost model.
    Calibrate,
    /// Trains the byte-pair encoding and prints its merges: the content of src/merges.txt.
    Train,
}

fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_target(false).init();
    let Arguments { command, options } = Arguments::parse();
    let done = match command {
        None => serve(options),
        Some(Command::Calibrate) => calibrate::table().and_then(|table| print(&calibrate::render(&table))),
        Some(Command::Train) => print(&bpe::train(bpe::CORPUS, bpe::MERGES_MAX)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn serve(options: Options) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let server = Server::start(options).await?;
    let listening = serde_json::json!({"listening": {"http": server.address().to_string()}});
    print(&format!("{listening}\n"))?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}
