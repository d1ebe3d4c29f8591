//! Documents arrive: from files today.

mod files;
mod watch;

pub(crate) use files::{ReadFault, Reading, read};
pub(crate) use watch::{Changes, Signal, watch};
