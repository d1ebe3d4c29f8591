//! What is asked for on the command line.

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

/// Sends load to one server, and says how long it took.
#[derive(Debug, Parser)]
#[command(name = "penstock-load", version)]
pub(crate) struct Flags {
    /// Where requests go, as IP:PORT
    #[arg(long)]
    pub(crate) target: SocketAddr,
    /// How long before anything counts
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = duration)]
    pub(crate) warm_up: Duration,
    /// How long what counts takes
    #[arg(long = "for", value_name = "DURATION", default_value = "3s", value_parser = duration)]
    pub(crate) measured: Duration,
    #[command(subcommand)]
    pub(crate) kind: Kind,
}

/// Kinds of load.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Kind {
    /// Small GETs over HTTP/1.1
    H1(Small),
    /// Unary calls over HTTP/2 without TLS, as gRPC makes them
    H2(Unary),
    /// Streams of events, all begun at once, over HTTP/1.1
    Sse(Streams),
    /// Streams that stay open without an event
    Idle(Idle),
}

/// Small GETs.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Small {
    /// Connections
    #[arg(long, default_value_t = 64)]
    pub(crate) connections: usize,
    /// Requests a second that are due; without it each connection sends when it has its last answer
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(crate) rate: Option<u64>,
}

/// Unary calls.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Unary {
    /// Connections
    #[arg(long, default_value_t = 8)]
    pub(crate) connections: usize,
    /// Calls at once on each
    #[arg(long, default_value_t = 32)]
    pub(crate) calls: usize,
    /// Calls a second that are due; without it each is sent when another has ended
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(crate) rate: Option<u64>,
}

/// Streams of events.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Streams {
    /// Streams at once
    #[arg(long, default_value_t = 64)]
    pub(crate) streams: usize,
    /// Events of each
    #[arg(long, default_value_t = 200)]
    pub(crate) chunks: u64,
    /// From one event to the next
    #[arg(long, value_name = "DURATION", default_value = "20ms", value_parser = duration)]
    pub(crate) interval: Duration,
}

/// Open streams.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Idle {
    /// Streams
    #[arg(long, default_value_t = 9_000)]
    pub(crate) streams: usize,
}

/// A number and its unit: `us`, `ms` or `s`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u32 = number.parse().map_err(|_| format!("`{text}` is no duration such as 20ms or 3s"))?;
    match unit {
        "us" => Ok(Duration::from_micros(number.into())),
        "ms" => Ok(Duration::from_millis(number.into())),
        "s" => Ok(Duration::from_secs(number.into())),
        _ => Err(format!("`{text}` needs a unit: us, ms or s")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_number_and_a_unit() {
        assert_eq!(duration("20ms"), Ok(Duration::from_millis(20)));
        assert_eq!(duration("3s"), Ok(Duration::from_secs(3)));
        assert_eq!(duration("250us"), Ok(Duration::from_micros(250)));
        for text in ["", "3", "s", "1.5s", "3m"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
