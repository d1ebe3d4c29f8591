//! What stands between client and server, and what they speak.

use clap::ValueEnum;
use serde::Serialize;

/// A path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hops {
    /// No proxy
    Direct,
    /// One proxy, plaintext
    One,
    /// Two proxies with mutual TLS and HTTP/2 between them
    Two,
}

/// What the client and the backend speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 without TLS.
    Http2,
}

impl Hops {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::One => "one hop, plaintext",
            Self::Two => "two hops, mutual TLS",
        }
    }
}
