//! What is measured: load, path, and who is on the path.

use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

use penstock_benches::route::{Hops, Protocol};

/// A load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Scenario {
    /// Small GETs over HTTP/1.1, 64 connections, closed loop
    H1Sat,
    /// The same at a rate: 2,000 a second through two hops, 4,000 otherwise
    H1Rate,
    /// Unary calls over HTTP/2, 8 connections with 32 at once, closed loop
    H2Sat,
    /// 64 streams of 200 events, one every 20 ms each
    SsePaced,
    /// 64 streams of 200 events, one every 2 ms each
    #[value(name = "sse-2ms")]
    #[serde(rename = "sse-2ms")]
    Sse2ms,
    /// Many open streams with nothing to send
    Idle,
}

/// Who is on the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Contender {
    /// Nobody
    #[value(skip)]
    Direct,
    /// Penstock's sidecars
    Ours,
    /// Envoy
    Envoy,
    /// HAProxy
    Haproxy,
    /// nginx
    Nginx,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Requests,
    Chunks,
    Streams,
}

impl Scenario {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::H1Sat => "h1-sat",
            Self::H1Rate => "h1-rate",
            Self::H2Sat => "h2-sat",
            Self::SsePaced => "sse-paced",
            Self::Sse2ms => "sse-2ms",
            Self::Idle => "idle",
        }
    }

    pub(crate) fn protocol(self) -> Protocol {
        if self == Self::H2Sat { Protocol::Http2 } else { Protocol::Http1 }
    }

    pub(crate) fn unit(self) -> Unit {
        match self {
            Self::H1Sat | Self::H1Rate | Self::H2Sat => Unit::Requests,
            Self::SsePaced | Self::Sse2ms => Unit::Chunks,
            Self::Idle => Unit::Streams,
        }
    }

    pub(crate) fn rounds(self, hops: Hops) -> u32 {
        match (self, hops) {
            (Self::Idle, _) | (_, Hops::Direct) => 1,
            _ => 3,
        }
    }

    /// Whether the path is measured: memory of no proxy is nothing.
    pub(crate) fn takes(self, hops: Hops) -> bool {
        (self, hops) != (Self::Idle, Hops::Direct)
    }

    /// The command line of the load generator after its target.
    pub(crate) fn load(self, hops: Hops, measured: Duration, idle_streams: u64) -> Vec<String> {
        let seconds = measured.as_secs();
        let words = match (self, hops) {
            (Self::H1Sat, _) => "h1 --connections 64".to_owned(),
            (Self::H1Rate, Hops::Two) => "h1 --connections 64 --rate 2000".to_owned(),
            (Self::H1Rate, _) => "h1 --connections 64 --rate 4000".to_owned(),
            (Self::H2Sat, _) => "h2 --connections 8 --calls 32".to_owned(),
            (Self::SsePaced, _) => "sse --streams 64 --chunks 200 --interval 20ms".to_owned(),
            (Self::Sse2ms, _) => "sse --streams 64 --chunks 200 --interval 2ms".to_owned(),
            (Self::Idle, _) => format!("idle --streams {idle_streams}"),
        };
        format!("--warm-up 1s --for {seconds}s {words}").split(' ').map(str::to_owned).collect()
    }
}

impl Contender {
    /// Those that are compared with ours.
    pub(crate) const PEERS: [Self; 3] = [Self::Envoy, Self::Haproxy, Self::Nginx];

    /// Also the name of its program.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Ours => "ours",
            Self::Envoy => "envoy",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
        }
    }
}
