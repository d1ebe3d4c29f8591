//! The promises, one file each: real programs, real sockets, real clients.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails there, and says why"
)]

mod cancellation;
mod first_light;
mod grpc;
mod identity;
mod openai_sdk;
mod plane_loss;
mod push;
