//! What cannot be tested here is said and counted; in CI it is a failure.

use std::fs::OpenOptions;
use std::io::Write;

/// Notes that a test is skipped for want of `needs`.
///
/// # Panics
/// With `CI=true`: there, a skip that looks like a pass would go unnoticed.
pub fn skip(needs: &str) {
    let line = format!("skipped: needs {needs}");
    println!("{line}");
    if let Some(path) = std::env::var_os("PENSTOCK_SKIPPED") {
        let mut file = OpenOptions::new().create(true).append(true).open(path).expect("the list of skips");
        writeln!(file, "{line}").expect("the list of skips can be written");
    }
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{line}, and CI must not skip");
}
