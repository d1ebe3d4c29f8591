//! The promises, one file each: real programs, real sockets, real clients.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails there, and says why"
)]

mod first_light;
mod grpc;
mod openai_sdk;
