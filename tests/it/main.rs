//! The promises, one file each: real programs, real sockets, real clients.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on fails there, and says why"
)]

mod cancellation;
mod cli;
mod conformance;
mod dialects;
mod drain;
mod first_light;
mod grpc;
mod identity;
mod metrics;
mod openai_sdk;
mod outside;
mod placement;
mod plane_loss;
mod push;
mod reload;
mod smuggling;
mod streaming;
mod trust;
