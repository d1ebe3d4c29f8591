//! Texts that are pinned: a change is read by a person before it is accepted.

use std::path::Path;

/// Compares a text with `tests/golden/NAME`; with `UPDATE_GOLDEN=1` it is written there instead.
///
/// # Panics
/// When they differ.
pub fn check(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        return std::fs::write(&path, text).expect("a golden file that can be written");
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    let (wanted, found): (Vec<_>, Vec<_>) = (golden.lines().collect(), text.lines().collect());
    let gone = wanted.iter().filter(|line| !found.contains(line)).map(|line| format!("- {line}"));
    let new = found.iter().filter(|line| !wanted.contains(line)).map(|line| format!("+ {line}"));
    let differences: Vec<_> = gone.chain(new).collect();
    assert!(
        golden == text,
        "{name} differs (UPDATE_GOLDEN=1 accepts it, a reviewer reads the difference):\n{}",
        differences.join("\n")
    );
}
