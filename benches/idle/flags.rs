//! What is asked for on the command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use penstock_benches::tether::Tethered;

/// Measures what a sidecar costs that knows of many backends and gets no requests, and what it costs another to tell many how loaded
/// its model server is. A table on stdout.
#[derive(Debug, Parser)]
#[command(name = "penstock-bench-idle", version)]
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

/// Which sidecar is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Side {
    /// The caller's, with many backends
    Caller,
    /// The server's, with many subscribers
    Server,
}

/// A run.
#[derive(Clone, Debug, Args)]
pub(crate) struct Asked {
    /// One of both alone
    #[arg(long, value_enum, value_name = "SIDE")]
    pub(crate) only: Option<Side>,
    /// Backends that the caller's sidecar knows, each with an endpoint behind a sidecar of its own
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u8).range(1..=250))]
    pub(crate) backends: u8,
    /// Subscribers of the server's sidecar, each on a connection of its own
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=8_000))]
    pub(crate) subscribers: u32,
    /// Requests a second at the server's sidecar, each answered with 64 tokens
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=200))]
    pub(crate) rate: u32,
    /// How long each state is measured; the one that lasts a minute by itself, at most 30 s
    #[arg(long, value_name = "SECONDS", default_value = "20", value_parser = seconds)]
    pub(crate) seconds: Duration,
    /// How often few and many subscribers take turns
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=20))]
    pub(crate) rounds: u32,
    /// Does not wait the minute until the caller's sidecar hears nobody's reports any more
    #[arg(long)]
    pub(crate) brief: bool,
    /// Writes all figures to a file
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

impl Asked {
    /// Whether this side is measured.
    pub(crate) fn is_asked(&self, side: Side) -> bool {
        self.only.is_none_or(|only| only == side)
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds @ 1..=3_600) => Ok(Duration::from_secs(seconds)),
        _ => Err("it must be a whole number from 1 to 3600".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn nothing_has_to_be_said_and_nonsense_is_refused() {
        Flags::command().debug_assert();
        let asked = |words: &str| Flags::try_parse_from(format!("x {words}").split_whitespace()).is_ok();
        for (words, usable) in [
            ("", true),
            ("--backends 4 --subscribers 20 --seconds 1 --rounds 1 --only server --brief", true),
            ("--backends 0", false),
            ("--subscribers 0", false),
            ("--rate 0", false),
            ("--seconds 0", false),
            ("--only neither", false),
            ("tether 1 0 true", true),
        ] {
            assert_eq!(asked(words), usable, "{words}");
        }
    }
}
