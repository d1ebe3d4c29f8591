//! The command as scripts see it: exit codes, and what goes to stdout and to stderr.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write;
use std::process::{Command, Stdio};

struct Ran {
    exit: i32,
    stdout: String,
    stderr: String,
}

/// Runs the command where the fixtures are.
fn run(arguments: &[&str], stdin: &str) -> Ran {
    let mut child = Command::new(env!("CARGO_BIN_EXE_penstock"))
        .args(arguments)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Commands that do not read it may have ended before.
    let _written = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { exit: output.status.code().unwrap_or(-1), stdout: text(output.stdout), stderr: text(output.stderr) }
}

#[track_caller]
fn check(arguments: &[&str], exit: i32, stdout: &str, stderr: &str) -> Ran {
    let ran = run(arguments, "");
    let told = format!("{arguments:?}: {}\n--- stdout\n{}\n--- stderr\n{}", ran.exit, ran.stdout, ran.stderr);
    assert_eq!(ran.exit, exit, "{told}");
    assert!(ran.stdout.contains(stdout) && ran.stderr.contains(stderr), "{told}");
    assert_eq!(stdout.is_empty(), ran.stdout.is_empty(), "{told}");
    assert!(
        !ran.stdout.contains('\x1b') && !ran.stderr.contains('\x1b'),
        "no colour without a terminal: {told}"
    );
    ran
}

#[test]
fn validate_tells_good_from_bad_and_from_unreadable() {
    check(&["validate", "good.yaml"], 0, "", "valid: nothing to remark in 1 file");
    check(&["validate", "warned.yaml"], 0, "warning[penstock0404]", "valid: 1 warning");
    check(&["validate", "--strict", "warned.yaml"], 1, "warning[penstock0404]", "not valid");
    check(&["validate", "bad.yaml"], 1, "bad.yaml:19:70", "not valid: 2 errors");
    check(&["validate", "missing.yaml", "none.yaml"], 2, "", "none.yaml: No such file");
    check(&["validate"], 2, "", "Usage");
    check(&["validate", "good.yaml", "-o", "xml"], 2, "", "possible values");
}

#[test]
fn validate_reads_standard_input_and_writes_json() {
    let good = include_str!("fixtures/good.yaml");
    let ran = run(&["validate", "-", "-o", "json"], good);
    let answer: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((ran.exit, &answer["valid"], &answer["kind"]), (0, &true.into(), &"Validation".into()));
    let bad = check(&["validate", "bad.yaml", "-o", "json"], 1, "penstock0106", "not valid");
    let answer: serde_json::Value = serde_json::from_str(&bad.stdout).unwrap();
    assert_eq!(answer["findings"].as_array().map(Vec::len), Some(2));
}

#[test]
fn diff_tells_change_from_none_and_from_refusal() {
    check(&["diff", "good.yaml", "--against", "good.yaml"], 0, "", "no change");
    check(&["diff", "changed.yaml", "--against", "good.yaml"], 1, "1m → 2m", "1 added, 1 changed, 1 removed");
    check(&["diff", "bad.yaml", "--against", "good.yaml"], 2, "unknown field", "refused: 2 findings");
    check(&["diff", "good.yaml", "--against", "bad.yaml"], 2, "", "to compare with are not valid");
    check(&["diff", "good.yaml", "--against", "missing.yaml"], 2, "", "missing.yaml: No such file");
    let ran = check(&["diff", "changed.yaml", "--against", "good.yaml", "-o", "json"], 1, "\"Diff\"", "");
    let answer: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(answer["changes"].as_array().map(Vec::len), Some(3));
}

#[test]
fn a_control_plane_that_is_not_there_is_said_clearly() {
    // A port that was free a moment ago, and that nobody listens on.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}");
    let status = check(&["status", "--control-plane", &url], 1, "", "Is a control plane running there?");
    assert!(status.stderr.contains(&url) && status.stderr.contains("refused"), "{}", status.stderr);
    check(&["diff", "good.yaml", "--against", &url], 2, "", "Is a control plane running there?");
    check(&["status", "--control-plane", "127.0.0.1:8084"], 2, "", "http://127.0.0.1:8084");
    check(&["diff", "good.yaml", "--against", "https://127.0.0.1:1"], 2, "", "plain HTTP");
}

#[test]
fn a_demo_without_its_programs_says_how_to_build_them() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let lonely = dir.path().join("penstock");
    // A copy would be open for writing while other tests fork, and then cannot be run.
    std::fs::hard_link(env!("CARGO_BIN_EXE_penstock"), &lonely).unwrap();
    let output = Command::new(lonely).args(["demo", "--for", "1s"]).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("penstock-engine beside it") && stderr.contains("make build"), "{stderr}");
}
