//! The live bench in small: whole requests through a mesh of real processes, and the same figures live and simulated.

mod beside;

use std::path::Path;
use std::process::Command;

use serde_json::Value;

const PROGRAMS: [&str; 3] = ["penstock-proxy", "penstock-control-plane", "penstock-engine"];
/// At 30 times the trace's rate; the first minute of it does not count.
const ARGUMENTS: &str = "--sidecars 3 --backends 2 --scale 30 --seconds 5 --lag-max 60000";
const REQUESTS: u64 = 150;
const COUNTED: u64 = 90;

/// A request a second; every prompt shares its first half with every fourth other.
fn trace() -> String {
    let line = |number: u64| {
        let (at_ms, shared) = (number * 1_000, number % 4);
        let blocks = [shared, shared + 10, number + 1_000, number + 2_000];
        format!(r#"{{"timestamp":{at_ms},"input_length":2048,"output_length":6,"hash_ids":{blocks:?}}}"#)
    };
    (0..REQUESTS).map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn every_request_is_answered_in_full_and_compared_with_the_simulator() {
    let bench = Path::new(env!("CARGO_BIN_EXE_penstock-bench-live"));
    if !beside::are_built(bench, &PROGRAMS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("shared.jsonl");
    std::fs::write(&path, trace()).unwrap();
    let ran =
        Command::new(bench).arg("--trace").arg(&path).args(ARGUMENTS.split_whitespace()).output().unwrap();
    let table = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{}\n{table}", ran.status);
    let result: Value = serde_json::from_slice(&ran.stdout).unwrap();
    let ours = &result["routers"][0];
    let (live, simulated) = (&ours["live"], &ours["simulated"]);
    assert_eq!((&live["failed"], &live["first_error"]), (&0.into(), &Value::Null), "{result:#}");
    assert_eq!((&live["requests"], &simulated["requests"]), (&COUNTED.into(), &COUNTED.into()), "{result:#}");
    // Half of a prompt is cached where one like it was before, of which there are four.
    let by_ledger = &ours["simulated_by_ledger"];
    for (side, name) in [(live, "live"), (simulated, "simulated"), (by_ledger, "by the ledger")] {
        assert!((0.3..=0.5).contains(&side["prefix_hit"].as_f64().unwrap()), "{name}: {result:#}");
        assert!(side["ttft_ms"]["p50"].as_f64().unwrap() > 0.0, "{name}: {result:#}");
    }
    for group in ["callers_sidecars", "engines_sidecars", "engines", "control_plane", "load"] {
        assert!(live["cores"][group].as_f64().unwrap() > 0.0, "{group}: {result:#}");
    }
    for words in ["penstock (simulated)", "penstock (by the ledger)", "timer lag p99", "live by simulated"] {
        assert!(table.contains(words), "{words}: {table}");
    }
}
