//! The soak in small: the same work and the same questions as in `make soak`, a five-hundredth of it.

mod beside;

use std::path::Path;
use std::process::Command;

use serde_json::Value;

const SCALE: &str = "0.002";
const PROGRAMS: [&str; 2] = ["penstock-proxy", "penstock-control-plane"];

#[test]
fn after_requests_cancels_and_bodies_everything_is_back() {
    let soak = Path::new(env!("CARGO_BIN_EXE_penstock-soak"));
    if !beside::are_built(soak, &PROGRAMS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let figures = dir.path().join("soak.json");
    let ran = Command::new(soak).args(["--scale", SCALE, "--json"]).arg(&figures).output().unwrap();
    let table = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{}\n{table}{}", ran.status, String::from_utf8_lossy(&ran.stderr));
    let figures: Value = serde_json::from_slice(&std::fs::read(&figures).unwrap()).unwrap();
    // All of the work was done, and all of the questions were asked.
    let done = &figures["done"];
    assert_eq!(done["answered"], 2_000 + 4, "{done:#}");
    assert!(done["cancelled"].as_u64().unwrap() >= 200, "{done:#}");
    assert_eq!(done["bytes_up"], 2 * figures["work"]["body_bytes"].as_u64().unwrap(), "{done:#}");
    for what in ["memory", "peak with bodies", "descriptors", "penstock_tasks", "ended well", "cancelled"] {
        for sidecar in ["server", "caller"] {
            assert!(table.contains(&format!("| {sidecar}: {what} |")), "{sidecar}: {what}\n{table}");
        }
    }
}
