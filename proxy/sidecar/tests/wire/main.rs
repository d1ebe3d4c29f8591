//! One sidecar in process, byte by byte on both of its sides, over real sockets.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there, and says why")]

mod beside;
mod bodies;
mod http1;
mod scrape;
mod streams;
mod websocket;
