//! Whole meshes in one process, in virtual time, with every fault that a test can think of.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on fails there, and says why"
)]

mod accounts;
mod between;
mod caller;
mod calls;
mod cuts;
mod digests;
mod drains;
mod exact;
mod follows;
mod leaves;
mod load;
mod meta;
mod parity;
mod prefixes;
mod promises;
mod questions;
mod scrape;
mod why;
mod world;
