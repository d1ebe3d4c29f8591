//! The command `penstock`, as people and scripts type it.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use penstock_tests::client::{Version, get};
use penstock_tests::documents::{backend, file};
use penstock_tests::engine::chat;
use penstock_tests::mesh::Mesh;
use penstock_tests::programs::{Ended, built, run, signal, with_tmpdir};
use penstock_tests::wait::eventually;
use serde_json::{Value, json};

const BAD: &str =
    "apiVersion: penstock.dev/v1alpha1\nkind: Backend\nmetadata: {name: chat}\nspec:\n  edpoints: []\n";

async fn penstock(words: &[&str]) -> Ended {
    let mut command = built("penstock");
    command.args(words);
    run(command).await
}

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/examples")
}

#[tokio::test]
async fn validate_tells_good_documents_from_bad_ones_by_its_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let good =
        at("good.yaml", &file(&[backend("chat", &[])]).replace("[]", "[{address: 10.0.0.1, port: 8000}]"));
    let bad = at("bad.yaml", BAD);
    let missing = dir.path().join("missing.yaml").to_str().unwrap().to_owned();
    for (paths, code, told) in [
        (&[&good][..], 0, ""),
        (&[&bad], 1, "bad.yaml:5:3"),
        (&[&good, &bad], 1, "bad.yaml:5:3"),
        (&[&missing], 2, ""),
    ] {
        let words: Vec<&str> =
            ["validate"].into_iter().chain(paths.iter().map(|path| path.as_str())).collect();
        let ended = penstock(&words).await;
        assert_eq!(ended.code, Some(code), "{paths:?} {ended:?}");
        assert!(ended.stdout.contains(told), "{ended:?}");
        assert!(code != 2 || ended.stderr.contains("missing.yaml"), "{ended:?}");
    }
    let json = penstock(&["validate", "--output", "json", &bad]).await;
    let json: Value = serde_json::from_str(&json.stdout).unwrap();
    let found = json["findings"].as_array().unwrap().iter().find(|finding| finding["column"] == 3).unwrap();
    assert_eq!((&json["valid"], &found["line"]), (&json!(false), &json!(5)), "{json:#}");
}

#[tokio::test]
async fn every_example_is_valid_without_a_remark() {
    let mut examples: Vec<_> =
        std::fs::read_dir(examples()).unwrap().map(|entry| entry.unwrap().path()).collect();
    examples.sort();
    assert!(examples.len() >= 5, "{examples:?}");
    for path in examples {
        let ended = penstock(&["validate", "--strict", path.to_str().unwrap()]).await;
        assert_eq!(ended.code, Some(0), "{}: {ended:?}", path.display());
    }
}

#[tokio::test]
async fn status_and_diff_ask_the_control_plane() {
    let mesh = Mesh::start().await;
    let served = mesh.serve("chat", "--speed 50").await;
    let web = mesh.caller("web").await;
    let documents = [backend("chat", &[served.endpoint()]).with("default", true)];
    mesh.publish(&documents, &[&served.sidecar, &web]).await;
    let url = format!("http://{}", mesh.plane.admin());
    let version = mesh.plane.status().await["config"]["version"].as_str().unwrap().to_owned();

    let table = penstock(&["status", "--control-plane", &url]).await;
    assert_eq!(table.code, Some(0), "{table:?}");
    assert!(table.stdout.contains(&version), "{}", table.stdout);
    for name in ["web.default", "chat.default"] {
        let row =
            table.stdout.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{table:?}"));
        assert!(row.contains(&version[..8]) && row.matches("SYNCED").count() == 5, "{row}");
        assert!(row.contains("spiffe://cluster.local/ns/default/sa/"), "{row}");
    }
    let json = penstock(&["status", "--output", "json", "--control-plane", &url]).await;
    let json: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(json["config"]["version"], *version, "{json:#}");

    let next = mesh.dir().join("next.yaml");
    let path = next.to_str().unwrap();
    let hostnames = json!(["chat.example"]);
    let changed =
        file(&[backend("chat", &[served.endpoint()]).with("default", true).with("hostnames", hostnames)]);
    for (text, code, told) in
        [(file(&documents).as_str(), 0, ""), (&changed, 1, "Backend default/chat"), (BAD, 2, "next.yaml:5:3")]
    {
        std::fs::write(&next, text).unwrap();
        let ended = penstock(&["diff", "--against", &url, path]).await;
        assert_eq!(ended.code, Some(code), "{text} {ended:?}");
        let said = ended.stdout.clone() + &ended.stderr;
        assert!(said.contains(told), "{ended:?}");
    }
    assert_eq!(mesh.plane.status().await["config"]["version"], *version, "asking changes nothing");

    drop(mesh);
    let nobody = penstock(&["status", "--control-plane", &url]).await;
    assert_eq!(nobody.code, Some(1), "{nobody:?}");
    assert!(nobody.stderr.contains(url.trim_start_matches("http://")), "{nobody:?}");
}

#[tokio::test]
async fn why_asks_the_sidecar_where_a_request_went() {
    let mesh = Mesh::start().await;
    let served = mesh.serve("chat", "--speed 50").await;
    let web = mesh.caller("web").await;
    mesh.publish(&[backend("chat", &[served.endpoint()]).with("default", true)], &[&served.sidecar, &web])
        .await;
    // An id is its caller's choice.
    let field = "a&request-id=b c%20d/?";
    let mut connection = web.connect(Version::Http1).await;
    let mut request = connection.post("/v1/chat/completions", &chat("why here?", json!({"max_tokens": 2})));
    request.headers_mut().insert("x-request-id", field.parse().unwrap());
    assert_eq!(connection.ask(request).await.status, 200);
    web.logged(field).await;

    let url = format!("http://{}", web.admin());
    let text = penstock(&["why", field, "--sidecar", &url]).await;
    assert_eq!(text.code, Some(0), "{text:?}");
    let chosen = format!("{}, the only one that could be chosen", served.endpoint().address);
    for told in [field, "Backend default/chat", &chosen, "COST", "Answered 200"] {
        assert!(text.stdout.contains(told), "{told}: {}", text.stdout);
    }
    for words in
        [&["why", field, "--sidecar", &url, "--json"][..], &["why", field, "--sidecar", &url, "-o", "json"]]
    {
        let json = penstock(words).await;
        let json: Value = serde_json::from_str(&json.stdout).unwrap();
        assert_eq!(json["requests"][0]["requestId"], *field, "{json:#}");
    }

    let unknown = penstock(&["why", "nobody", "--sidecar", &url]).await;
    assert_eq!((unknown.code, &*unknown.stdout), (Some(1), ""), "{unknown:?}");
    assert!(unknown.stderr.contains("the last 1 (at most 4096)"), "{unknown:?}");
    let senseless = penstock(&["why", &"x".repeat(201), "--sidecar", &url]).await;
    assert_eq!(senseless.code, Some(2), "{senseless:?}");
    assert!(senseless.stderr.contains("at most 200 bytes"), "{senseless:?}");
    // The one that is not there is told of, and the other answers.
    let served_by = format!("{url},http://127.0.0.1:1");
    let one_of_two = penstock(&["why", field, "--sidecar", &served_by]).await;
    assert_eq!(one_of_two.code, Some(0), "{one_of_two:?}");
    assert!(one_of_two.stderr.contains("Is a sidecar running there?"), "{one_of_two:?}");
    for (query, status) in [("", 400), ("?request-id=", 400), ("?id=x", 400), ("?request-id=x", 404)] {
        assert_eq!(get(web.admin(), &format!("/why{query}")).await.status, status, "{query}");
    }
    let nobody = penstock(&["why", field, "--sidecar", "http://127.0.0.1:1"]).await;
    assert_eq!((nobody.code, &*nobody.stdout), (Some(2), ""), "{nobody:?}");
}

/// Neither a process nor a file.
async fn nothing_is_left(dir: &Path) {
    eventually("every process of the demo has gone", async || match with_tmpdir(dir) {
        left if left.is_empty() => Ok(()),
        left => Err(format!("{left:?}")),
    })
    .await;
    let files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.is_empty(), "left behind: {files:?}");
}

#[tokio::test]
async fn the_demo_shows_a_mesh_without_a_lost_request_and_leaves_nothing_behind() {
    let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let report = elsewhere.path().join("report.json");
    let mut command = built("penstock");
    command.args(["demo", "--for", "5s", "--json", "--json-file"]).arg(&report);
    command.env("TMPDIR", dir.path()).current_dir(elsewhere.path());
    let ended = run(command).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let last = ended.stdout.lines().last().expect("a report");
    let last: Value = serde_json::from_str(last).unwrap();
    assert_eq!(last, serde_json::from_str::<Value>(&std::fs::read_to_string(report).unwrap()).unwrap());
    assert_eq!((&last["errors"], &last["shed"]), (&json!(0), &json!(0)), "{last:#}");
    assert!(last["requests"].as_u64().is_some_and(|requests| requests > 10), "{last:#}");
    for quantile in ["p50", "p99"] {
        for metric in ["ttft_ms", "tpot_ms"] {
            assert!(
                last[metric][quantile].as_f64().is_some_and(|ms| ms > 0.0),
                "{metric} {quantile}: {last:#}"
            );
        }
    }
    assert_eq!(last["backends"].as_array().map(Vec::len), Some(4), "{last:#}");
    assert_eq!(last["mtls"]["version"], "TLSv1.3");
    assert_eq!(last["mtls"]["key_exchange"], "X25519MLKEM768");
    assert!(last["mtls"]["connections"].as_u64().is_some_and(|connections| connections >= 4), "{last:#}");
    nothing_is_left(dir.path()).await;
}

#[tokio::test]
async fn a_comparison_shows_three_policies_without_a_lost_request_and_leaves_nothing_behind() {
    let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut command = built("penstock");
    command.args(["demo", "--compare", "--for", "3s", "--json"]);
    command.env("TMPDIR", dir.path()).current_dir(elsewhere.path());
    let ended = run(command).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let last: Value = serde_json::from_str(ended.stdout.lines().last().expect("a comparison")).unwrap();
    let runs = last["policies"].as_array().expect("policies");
    let names: Vec<_> = runs.iter().filter_map(|run| run["policy"].as_str()).collect();
    assert_eq!(names, ["RoundRobin", "LeastRequest", "LeastCost"], "{last:#}");
    for run in runs {
        let count = |name: &str| run[name].as_u64().unwrap_or_else(|| panic!("{name}: {run:#}"));
        assert!(count("requests") > 10 && count("answered") > 10, "{run:#}");
        assert_eq!(count("answered") + count("shed"), count("requests"), "nothing is lost: {run:#}");
        assert_eq!(run["requests"], runs[0]["requests"], "the same requests: {last:#}");
        let taken: u64 =
            run["backends"].as_array().unwrap().iter().filter_map(|taken| taken["requests"].as_u64()).sum();
        assert!(taken >= count("answered"), "each run has its own counts: {run:#}");
        assert!(taken <= count("requests"), "each run has its own counts: {run:#}");
        for metric in ["ttft_ms", "tpot_ms"] {
            assert!(run[metric]["p99"].as_f64().is_some_and(|ms| ms > 0.0), "{metric}: {run:#}");
        }
    }
    let versions: std::collections::BTreeSet<_> = runs.iter().map(|run| run["version"].to_string()).collect();
    assert_eq!(versions.len(), 3, "{last:#}");
    for name in names {
        assert!(ended.stderr.contains(name), "{name}: {ended:?}");
    }
    nothing_is_left(dir.path()).await;
}

#[tokio::test]
async fn an_interrupted_demo_leaves_nothing_behind() {
    for (name, code) in [("INT", Some(130)), ("TERM", Some(143)), ("KILL", None)] {
        let dir = tempfile::tempdir().unwrap();
        let mut command = tokio::process::Command::from(built("penstock"));
        command.args(["demo", "--for", "10m", "--json"]).env("TMPDIR", dir.path()).kill_on_drop(true);
        let mut demo =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        eventually("a control plane, four engines, six sidecars and the demo itself", async || {
            let number = with_tmpdir(dir.path()).len();
            if number >= 12 { Ok(()) } else { Err(number.to_string()) }
        })
        .await;
        signal(name, demo.id().unwrap());
        let ended = penstock_tests::wait::within("the demo ends", demo.wait()).await.unwrap();
        assert_eq!(ended.code(), code, "{name}");
        if name == "KILL" {
            // Nobody can remove files then; processes end all the same.
            eventually("every process of the demo has gone", async || match with_tmpdir(dir.path()) {
                left if left.is_empty() => Ok(()),
                left => Err(format!("{left:?}")),
            })
            .await;
        } else {
            nothing_is_left(dir.path()).await;
        }
    }
}
