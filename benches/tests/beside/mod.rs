//! What the tests of the programs share.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test says so by failing, and what it leaves out on its output"
)]

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;

/// Whether all of these are built beside `bench`. If not, the test is skipped, which `make test` counts and CI does not allow.
///
/// # Panics
/// In CI, if one is missing.
pub(crate) fn are_built(bench: &Path, programs: &[&str]) -> bool {
    let beside = bench.parent().unwrap();
    let Some(missing) = programs.iter().find(|name| !beside.join(name).is_file()) else { return true };
    let line = format!("skipped: needs {missing}: make build");
    println!("{line}");
    if let Some(path) = std::env::var_os("PENSTOCK_SKIPPED") {
        let mut list = OpenOptions::new().create(true).append(true).open(path).unwrap();
        writeln!(list, "{line}").unwrap();
    }
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{line}, and CI must not skip");
    false
}
