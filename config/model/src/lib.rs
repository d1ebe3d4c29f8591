//! What is written and what is decided.
//!
//! A **document** is what a person writes; a **finding** says what is wrong with it and how to mend it; a **snapshot** is what
//! a set of documents means, compiled once, immutable. Nothing here does I/O or reads a clock.

mod check;
mod compile;
pub mod diff;
pub mod document;
pub mod finding;
pub mod names;
pub mod settings;
pub mod snapshot;
mod source;
pub mod spiffe;
pub mod units;
mod yaml;

pub use compile::{Compiled, compile, compile_proxy};
pub use source::Source;
