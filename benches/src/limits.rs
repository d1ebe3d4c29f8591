//! How many descriptors a process may have.

use anyhow::Context;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit to the hardest that is allowed; says which that is.
///
/// # Errors
/// When the system refuses.
pub fn raise_descriptors() -> anyhow::Result<u64> {
    let hard = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: hard, maximum: hard })
        .context("the limit of open files cannot be raised")?;
    Ok(hard.unwrap_or(u64::MAX))
}
