//! The control plane: reads documents, compiles them, pushes the snapshot to every sidecar, and issues their identities.
//!
//! ```text
//!   files ──► source ──► planner ──► push ──► sidecars          Sign ──► identity ──► leaf
//!                           └──────► admin (what is in force, and who has it)
//! ```

mod admin;
mod app;
mod clock;
mod disk;
mod flags;
mod grpc;
mod identity;
mod lifecycle;
mod listen;
mod planner;
mod push;
mod seed;
mod source;
mod tasks;
mod telemetry;

pub use app::{Addresses, App, Listening, start};
pub use clock::simulate as simulate_time;
pub use flags::{Flags, LogFormat};
pub use lifecycle::termination;
pub use seed::simulate as simulate_draws;
pub use telemetry::log_to_stderr;
