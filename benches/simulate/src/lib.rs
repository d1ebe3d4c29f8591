//! Routing policies against simulated model servers, by events. See the README.

pub mod account;
pub mod backend;
pub mod capacity;
pub mod conditions;
pub mod decision;
pub mod draw;
pub mod failures;
pub mod flags;
pub mod matrix;
pub mod outcome;
mod plot;
pub mod policy;
pub mod prefix;
pub mod report;
pub mod search;
pub mod session;
pub mod sidecar;
pub mod slo;
pub mod trace;
pub mod weights;
pub mod world;
