//! Goldens: each file holds an input, a line of dashes, and what becomes of it. `UPDATE_GOLDEN=1` writes the lower part anew.
//!
//! A file whose name starts with `proxy-` is compiled to settings, any other to a snapshot.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use penstock_model::finding::{Code, Finding};
use penstock_model::{Source, compile, compile_proxy};

const DASHES: &str = "----------------------------------------";

#[test]
fn documents_mean_what_the_goldens_say() {
    let mut stale = Vec::new();
    for path in goldens() {
        let text = fs::read_to_string(&path).unwrap();
        let (input, expected) = text.split_once(&format!("{DASHES}\n")).unwrap_or((&text, ""));
        let (actual, _) = outcome(&path, input);
        if actual == expected {
            continue;
        }
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&path, format!("{input}{DASHES}\n{actual}")).unwrap();
        } else {
            stale.push(format!("{}\n--- expected\n{expected}\n--- actual\n{actual}", path.display()));
        }
    }
    assert!(stale.is_empty(), "stale goldens (UPDATE_GOLDEN=1 rewrites them):\n{}", stale.join("\n"));
}

#[test]
fn every_code_has_a_golden() {
    let mut produced = BTreeSet::new();
    for path in goldens() {
        let text = fs::read_to_string(&path).unwrap();
        let input = text.split(DASHES).next().unwrap_or_default();
        produced.extend(outcome(&path, input).1.iter().map(|finding| finding.code));
    }
    let missing: Vec<String> = Code::ALL
        .iter()
        .filter(|code| !produced.contains(*code))
        .map(|code| format!("{code} {code:?}"))
        .collect();
    // A golden of these would have to be megabytes long; `limits.rs` makes them.
    let elsewhere = [Code::FileTooLarge, Code::TooManyValues].map(|code| format!("{code} {code:?}"));
    assert_eq!(missing, elsewhere);
}

#[test]
fn every_finding_has_a_position_and_a_help() {
    for path in goldens() {
        let text = fs::read_to_string(&path).unwrap();
        let input = text.split(DASHES).next().unwrap_or_default();
        for finding in outcome(&path, input).1 {
            assert!(finding.at.line > 0 && finding.at.column > 0, "{finding}");
            assert!(
                !finding.at.file.is_empty() && !finding.help.is_empty() && !finding.message.is_empty(),
                "{finding}"
            );
        }
    }
}

fn goldens() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut paths: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() > 5, "goldens are found");
    paths
}

fn outcome(path: &Path, input: &str) -> (String, Vec<Finding>) {
    let file = path.file_name().unwrap().to_str().unwrap();
    let source = Source { file: file.to_owned(), text: input.to_owned() };
    let result = if file.starts_with("proxy-") {
        compile_proxy(&[source], Path::new("/etc/penstock"))
            .map(|(settings, warnings)| (warnings, format!("{settings:#?}\n")))
    } else {
        compile(&[source]).map(|compiled| {
            let parts = serde_json::to_string_pretty(compiled.snapshot.parts()).unwrap();
            (compiled.warnings, format!("version {}\n{parts}\n", compiled.snapshot.version()))
        })
    };
    let (findings, decided) = match result {
        Ok((warnings, decided)) => (warnings, decided),
        Err(findings) => (findings, String::new()),
    };
    let mut text = String::new();
    for finding in &findings {
        writeln!(text, "{finding}\n").unwrap();
    }
    (text + &decided, findings)
}
