//! The bench of idle sidecars in small: everything that is to be heard is heard, and every figure is there.

mod beside;

use std::path::Path;
use std::process::Command;

use serde_json::Value;

const PROGRAMS: [&str; 3] = ["penstock-proxy", "penstock-control-plane", "penstock-engine"];
const ARGUMENTS: &str = "--backends 3 --subscribers 20 --rate 5 --seconds 1 --rounds 1 --brief";

#[test]
fn sidecars_are_measured_while_they_only_know_of_each_other() {
    let bench = Path::new(env!("CARGO_BIN_EXE_penstock-bench-idle"));
    if !beside::are_built(bench, &PROGRAMS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let figures = dir.path().join("idle.json");
    let ran =
        Command::new(bench).args(ARGUMENTS.split_whitespace()).arg("--json").arg(&figures).output().unwrap();
    let table = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{}\n{table}{}", ran.status, String::from_utf8_lossy(&ran.stderr));
    let figures: Value = serde_json::from_slice(&std::fs::read(&figures).unwrap()).unwrap();
    let [caller, server] = [&figures["caller"], &figures["server"]];
    assert_eq!((&caller["backends"], &caller["left"]), (&3.into(), &Value::Null), "{figures:#}");
    // Whom nobody asks for anything may well need nothing for a second.
    for state in ["configured", "followed"] {
        assert!(caller[state]["cores"].as_f64().is_some_and(|cores| cores >= 0.0), "{state}: {figures:#}");
    }
    // A connection and a stream of reports for each.
    let [before, with] = ["configured", "followed"].map(|state| caller[state]["tasks"].as_u64().unwrap());
    assert!(with >= before + 6, "{figures:#}");
    let round = &server["rounds"][0];
    for (state, subscribers) in [("alone", 0), ("few", 10), ("many", 20)] {
        let told = &round[state];
        assert_eq!(told["subscribers"], subscribers, "{state}: {figures:#}");
        assert!(told["requests"].as_u64().unwrap() > 0, "{state}: {figures:#}");
        assert!(told["cores"].as_f64().unwrap() > 0.0, "{state}: {figures:#}");
        assert_eq!(
            told["reports_per_second"].as_f64().unwrap() > 0.0,
            subscribers > 0,
            "{state}: {figures:#}"
        );
    }
    assert!(server["report_us"].is_number() && server["telling_cores"].is_number(), "{figures:#}");
    for words in ["caller's sidecar, 3 backends", "reports of all are heard", "telling 20 takes"] {
        assert!(table.contains(words), "{words}: {table}");
    }
}
