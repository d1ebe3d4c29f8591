//! The control plane as its clients meet it: in process, on ports that the system chooses, over real sockets and TLS.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails there")]

mod admin;
mod config;
mod identity;
mod plane;
mod program;
mod push;
