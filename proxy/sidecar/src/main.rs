//! `penstock-proxy`: flags, run, exit code.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use penstock_proxy::app::{self, App};
use penstock_proxy::lifecycle::{self, Drained};
use tracing_subscriber::EnvFilter;

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
    /// What is logged to standard error: error, warn, info, debug, or a filter such as `info,h2=debug`.
    #[arg(long, env = "PENSTOCK_LOG_LEVEL", default_value = "info")]
    log_level: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    let flags = Flags::parse();
    let filter = EnvFilter::try_new(&flags.log_level).unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match run(&flags).await {
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

async fn run(flags: &Flags) -> anyhow::Result<Drained> {
    let app = App::build(app::settings(&flags.config)?).await?;
    app.announce()?;
    app.count_panics();
    app.run(async {
        match lifecycle::stop_signal().await {
            Ok(signal) => tracing::info!(signal, "stopping"),
            Err(error) => tracing::error!(%error, "signals cannot be handled"),
        }
    })
    .await
}
