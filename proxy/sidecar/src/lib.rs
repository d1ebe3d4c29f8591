//! The Penstock sidecar: sockets, clocks, TLS and HTTP around the pure packages.

pub mod admin;
pub mod app;
pub mod clock;
pub mod control;
pub mod fleet;
pub mod http;
pub mod identity;
pub mod lifecycle;
pub mod listen;
pub mod live;
pub mod load;
pub mod log;
pub mod network;
pub mod scrape;
pub mod seed;
pub mod settings;
pub mod sync;
pub mod tasks;
pub mod telemetry;
mod turn;
pub mod upstream;
pub mod vitals;
mod watch;
