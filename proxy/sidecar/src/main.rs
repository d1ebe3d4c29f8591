//! `penstock-proxy`: flags, run, exit code.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use penstock_proxy::app::{self, App};
use penstock_proxy::lifecycle::{self, Drained};
use penstock_proxy::log::Log;

/// The data path allocates and frees small blocks on every request; `proxy/README.md` has the figures.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The Penstock sidecar.
#[derive(Parser)]
#[command(name = "penstock-proxy", version)]
struct Flags {
    /// File with a ProxyConfig.
    #[arg(long, env = "PENSTOCK_PROXY_CONFIG")]
    config: PathBuf,
    /// What is logged to standard error unless the ProxyConfig says otherwise: error, warn, info, debug, or a filter such as
    /// `info,h2=debug`.
    #[arg(long, env = "PENSTOCK_LOG_LEVEL", default_value = "info")]
    log_level: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    let flags = Flags::parse();
    let log = match Log::start(&flags.log_level) {
        Ok(log) => log,
        Err(error) => {
            // There is no log to tell it.
            drop(writeln!(std::io::stderr(), "penstock-proxy: {error:#}"));
            return ExitCode::FAILURE;
        }
    };
    match run(&flags, log).await {
        Ok(Drained::All) => ExitCode::SUCCESS,
        Ok(Drained::Cut(streams)) => {
            tracing::warn!(streams, "connections were cut at the drain deadline");
            ExitCode::from(3)
        }
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(flags: &Flags, log: Log) -> anyhow::Result<Drained> {
    let settings = app::settings(&flags.config)?;
    log.set(settings.log_level.as_deref())?;
    let app = App::build(settings).await?;
    app.announce()?;
    app.count_panics();
    app.follow(flags.config.clone(), log);
    app.run(async {
        match lifecycle::stop_signal().await {
            Ok(signal) => tracing::info!(signal, "stopping"),
            Err(error) => tracing::error!(%error, "signals cannot be handled"),
        }
    })
    .await
}
