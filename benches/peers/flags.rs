//! What is asked for on the command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use penstock_benches::route::Hops;
use penstock_benches::tether::Tethered;

use crate::scenario::{Contender, Scenario};

/// Measures Penstock's sidecars beside other proxies, in one run.
#[derive(Debug, Parser)]
#[command(name = "penstock-bench-peers", version)]
pub(crate) struct Flags {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) asked: Asked,
}

/// What else this program does.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Command {
    /// Becomes another program, on one core
    #[command(hide = true)]
    Tether(Tethered),
}

/// A run.
#[derive(Clone, Debug, Args)]
pub(crate) struct Asked {
    /// Only these scenarios
    #[arg(long = "scenario", value_enum, value_delimiter = ',')]
    pub(crate) scenarios: Vec<Scenario>,
    /// Only these paths
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(crate) hops: Vec<Hops>,
    /// Only these proxies; ours is always among them
    #[arg(long = "peers", value_enum, value_delimiter = ',')]
    pub(crate) contenders: Vec<Contender>,
    /// Rounds of each; without it what the scenario needs
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) rounds: Option<u32>,
    /// Seconds that are measured in each round
    #[arg(long = "for", value_name = "SECONDS", default_value = "3", value_parser = seconds)]
    pub(crate) measured: Duration,
    /// Open streams in the scenario `idle`; fewer if the limit of descriptors is lower
    #[arg(long, default_value_t = 9_000)]
    pub(crate) idle_streams: u64,
    /// Where envoy, haproxy and nginx are
    #[arg(long, value_name = "DIR", default_value = ".tools/peers/bin")]
    pub(crate) peers_dir: PathBuf,
    /// Writes all figures to a file
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds @ 1..=600) => Ok(Duration::from_secs(seconds)),
        _ => Err("it must be a whole number from 1 to 600".to_owned()),
    }
}
