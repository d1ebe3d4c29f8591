//! What is asked for on the command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, Parser, Subcommand};

use penstock_benches::tether::Tethered;

use crate::rival::Rival;

/// Replays a trace through real sidecars to simulated model servers, and compares what comes of it with the simulator and with another
/// router. One JSON object on stdout, a table on stderr.
#[derive(Debug, Parser)]
#[command(name = "penstock-bench-live", version, subcommand_negates_reqs = true)]
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
#[command(group(ArgGroup::new("rate").required(true).args(["load", "scale"])))]
pub(crate) struct Asked {
    /// The trace: JSON lines, plain or gzipped, as `simulate` reads them
    #[arg(long, value_name = "FILE", required = true)]
    pub(crate) trace: Option<PathBuf>,
    /// Sidecars of callers
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=512))]
    pub(crate) sidecars: u16,
    /// Model servers, each with a sidecar
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) backends: u16,
    /// Share of the capacity that the simulator finds for these sidecars
    #[arg(long, value_name = "SHARE", value_parser = above_zero)]
    pub(crate) load: Option<f64>,
    /// Or the trace's time compressed by this factor
    #[arg(long, value_name = "FACTOR", value_parser = above_zero)]
    pub(crate) scale: Option<f64>,
    /// Seconds that are replayed, from the trace's begin; what the simulator drops at the begin is dropped, a minute of trace time mostly
    #[arg(long, value_name = "SECONDS", default_value = "300", value_parser = seconds)]
    pub(crate) seconds: Duration,
    /// Seed of everything that is drawn
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Model and machine of the servers
    #[arg(long, value_name = "NAME", default_value = "8b-h100")]
    pub(crate) profile: String,
    /// Age of the simulator's reports; live they come 50 to 100 ms apart
    #[arg(long, value_name = "DURATION", default_value = "100ms", value_parser = penstock_simulate::flags::age_ns)]
    pub(crate) age: u64,
    /// Other routers that get the same
    #[arg(long = "rival", value_enum, value_delimiter = ',', value_name = "NAME")]
    pub(crate) rivals: Vec<Rival>,
    /// Where the programs of other routers are
    #[arg(long, value_name = "DIR", default_value = ".tools/peers/bin")]
    pub(crate) peers_dir: PathBuf,
    /// A run in which 1 of 100 timers is later than this is discarded
    #[arg(long, value_name = "MS", default_value = "5", value_parser = above_zero)]
    pub(crate) lag_max: f64,
    /// How often a run is tried until one is not discarded
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=20))]
    pub(crate) tries: u32,
}

fn above_zero(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number > 0.0 => Ok(number),
        _ => Err("it must be a number above 0".to_owned()),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds @ 1..=86_400) => Ok(Duration::from_secs(seconds)),
        _ => Err("it must be a whole number from 1 to 86400".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn a_run_needs_a_trace_and_one_way_to_say_how_fast() {
        Flags::command().debug_assert();
        let asked = |words: &str| Flags::try_parse_from(format!("x {words}").split_whitespace()).is_ok();
        for (words, usable) in [
            ("--trace t --load 0.85", true),
            ("--trace t --scale 2", true),
            ("--load 0.85", false),
            ("--trace t", false),
            ("--trace t --load 0.85 --scale 2", false),
            ("--trace t --load 0", false),
            ("--trace t --load 1 --sidecars 0", false),
            ("--trace t --load 1 --seconds 0", false),
            ("--trace t --load 1 --rival nobody", false),
            ("tether 1 0 true", true),
        ] {
            assert_eq!(asked(words), usable, "{words}");
        }
    }
}
