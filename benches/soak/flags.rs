//! What is asked for on the command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use serde::Serialize;

use penstock_benches::tether::Tethered;

const WARM_REQUESTS: f64 = 20_000.0;
const WARM_CANCELS: f64 = 2_000.0;
const HTTP1_REQUESTS: f64 = 800_000.0;
const HTTP2_REQUESTS: f64 = 200_000.0;
const CANCELS: f64 = 100_000.0;
const BODY_BYTES: f64 = (1_u64 << 30) as f64;
/// Fewer than this leave pools and allocators below their working size, and the picture before would be too small.
const WARM_REQUESTS_MIN: u64 = 2_000;
const WARM_CANCELS_MIN: u64 = 300;
const WARM_BODY_BYTES_MAX: u64 = 64 << 20;

/// Whether the sidecars are back to where they were after a long time of work.
#[derive(Debug, Parser)]
#[command(name = "penstock-soak", version)]
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
    /// How much of the work is done: 0.01 for a hundredth of all requests, cancels and body bytes
    #[arg(long, value_name = "SHARE", default_value = "1", value_parser = share)]
    pub(crate) scale: f64,
    /// Writes all figures to a file
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0001..=100.0).contains(&share) => Ok(share),
        _ => Err("it must be a number from 0.0001 to 100".to_owned()),
    }
}

/// An amount of work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Work {
    pub(crate) http1_requests: u64,
    pub(crate) http2_requests: u64,
    pub(crate) cancels: u64,
    /// Of each of four bodies.
    pub(crate) body_bytes: u64,
}

impl Work {
    /// What counts.
    pub(crate) fn measured(scale: f64) -> Self {
        Self {
            http1_requests: (HTTP1_REQUESTS * scale) as u64,
            http2_requests: (HTTP2_REQUESTS * scale) as u64,
            cancels: (CANCELS * scale) as u64,
            body_bytes: (BODY_BYTES * scale) as u64,
        }
    }

    /// What goes before it.
    pub(crate) fn warm_up(scale: f64) -> Self {
        let requests = ((WARM_REQUESTS * scale) as u64).max(WARM_REQUESTS_MIN);
        Self {
            http1_requests: requests / 2,
            http2_requests: requests - requests / 2,
            cancels: ((WARM_CANCELS * scale) as u64).max(WARM_CANCELS_MIN),
            body_bytes: Self::measured(scale).body_bytes.min(WARM_BODY_BYTES_MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_run_is_what_was_promised() {
        let work = Work::measured(1.0);
        assert_eq!(work.http1_requests + work.http2_requests, 1_000_000);
        assert_eq!((work.cancels, work.body_bytes), (100_000, 1 << 30));
        assert_eq!(Work::measured(0.01).cancels, 1_000);
    }

    #[test]
    fn a_small_run_warms_up_all_the_same() {
        let warm_up = Work::warm_up(0.001);
        assert_eq!(warm_up.http1_requests + warm_up.http2_requests, WARM_REQUESTS_MIN);
        assert_eq!(warm_up.cancels, WARM_CANCELS_MIN);
    }

    #[test]
    fn a_share_is_a_number_that_means_something() {
        for text in ["0", "-1", "NaN", "inf", "all", "101"] {
            assert!(share(text).is_err(), "{text}");
        }
        assert_eq!(share("0.01"), Ok(0.01));
    }
}
