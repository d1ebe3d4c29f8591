//! The program itself: what it prints, and what it says to bad input.

#![allow(clippy::unwrap_used, reason = "a test says so by failing")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Ten requests a second from the moment at which the clock begins.
fn lines(begin_ms: u64, count: u64) -> String {
    let line = |number: u64| {
        let (at_ms, length) = (begin_ms + number * 100, 400 + 37 * (number % 60));
        format!(r#"{{"timestamp":{at_ms},"input_length":{length},"output_length":8}}"#)
    };
    (0..count).map(line).collect::<Vec<_>>().join("\n")
}

fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn write_trace(folder: &Path) -> PathBuf {
    write(folder, "even.jsonl", &lines(0, 2_000))
}

fn simulate(trace: &Path, arguments: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_simulate"))
        .arg("--trace")
        .arg(trace)
        .args(arguments.split_whitespace())
        .output()
        .unwrap()
}

#[test]
fn json_has_one_object_a_line_for_each_policy_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let trace = write_trace(folder.path());
    let arguments = "--policy random,oracle --backends 2 --sidecars 4 --age 1s --load 0.85 --seed 7 --json";
    let output = simulate(&trace, arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    for (line, policy) in lines.iter().zip(["random", "oracle"]) {
        assert_eq!(line["policy"], policy);
        assert_eq!(line["trace"], "even");
        assert_eq!((&line["seed"], &line["backends"]), (&7.into(), &2.into()));
        assert_eq!((&line["profile"], &line["noise"]), (&"8b-h100".into(), &0.05.into()));
        assert_eq!((&line["prefix"], &line["account"]), (&"precise".into(), &"exact".into()));
        assert_eq!(line["slo"], "deadline");
        assert!(line["attainment"].as_f64().unwrap() > 0.5, "{line}");
        for path in ["/ttft_ms/p50", "/ttft_ms/p90", "/ttft_ms/p99", "/tpot_ms/p50", "/tpot_ms/p99"] {
            assert!(line.pointer(path).unwrap().as_f64().unwrap() > 0.0, "{path}: {line}");
        }
        for field in [
            "refusals_per_request",
            "questions_per_request",
            "prefix_hit",
            "sidecars",
            "age_ms",
            "capacity",
            "slow",
        ] {
            assert!(line.get(field).is_some(), "{field}: {line}");
        }
    }
    assert!(lines[1]["reference"].is_string());
    // It ran at a share of what was searched before.
    for line in &lines {
        let (capacity, rate) = (line["capacity"].as_f64().unwrap(), line["rate"].as_f64().unwrap());
        assert!((rate / capacity - 0.85).abs() < 1e-3, "{line}");
    }
    assert_eq!(simulate(&trace, arguments).stdout, output.stdout, "a seed repeats");
}

#[test]
fn capacity_is_in_requests_a_second() {
    let folder = tempfile::tempdir().unwrap();
    let trace = write_trace(folder.path());
    let output = simulate(&trace, "--policy round-robin --backends 1 --sidecars 1 --capacity --json");
    let line: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    // 1.5k prompt tokens take 33 ms alone; together, and with what the steps cost, 20 to 30 a second.
    assert!((15.0..30.0).contains(&line["capacity"].as_f64().unwrap()), "{line}");
}

#[test]
fn a_trace_whose_clock_begins_an_hour_later_gives_the_same() {
    let results = |begin_ms: u64, asked: &str| {
        let folder = tempfile::tempdir().unwrap();
        let trace = write(folder.path(), "even.jsonl", &lines(begin_ms, 2_000));
        let arguments = format!("--policy round-robin --backends 1 --sidecars 1 --json {asked}");
        let output = simulate(&trace, &arguments);
        let mut line: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(line["trace_xxh3"].take().is_string(), "{line}");
        line
    };
    for asked in ["--capacity", "--scale 2"] {
        assert_eq!(results(3_600_000, asked), results(0, asked), "{asked}");
    }
}

#[test]
fn a_trace_of_less_than_a_minute_has_figures_and_a_capacity() {
    let folder = tempfile::tempdir().unwrap();
    for count in [600, 250] {
        let trace = write(folder.path(), "short.jsonl", &lines(0, count));
        let value = |asked: &str, field: &str| {
            let arguments = format!("--policy round-robin --backends 1 --sidecars 1 --json {asked}");
            let output = simulate(&trace, &arguments);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let line: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            line[field].as_f64().unwrap()
        };
        assert!(value("--scale 1", "attainment") > 0.95, "{count}");
        let capacity = value("--capacity", "capacity");
        assert!((15.0..40.0).contains(&capacity), "{count}: {capacity}");
    }
}

#[test]
fn a_trace_whose_requests_all_come_at_once_has_no_rate() {
    let folder = tempfile::tempdir().unwrap();
    let line = r#"{"timestamp":7,"input_length":9,"output_length":1}"#;
    let turn = |turn: u64| {
        format!(r#"{{"timestamp":{turn},"input_length":9,"output_length":1,"session_id":"a","turn":{turn}}}"#)
    };
    for (text, what) in [
        (line.to_owned(), "requests come"),
        (format!("{line}\n{line}"), "requests come"),
        (format!("{}\n{}", turn(1), turn(2)), "sessions begin"),
    ] {
        let trace = write(folder.path(), "once.jsonl", &text);
        for asked in ["--capacity", "--scale 1"] {
            let output = simulate(&trace, &format!("--policy random {asked}"));
            let said = String::from_utf8(output.stderr).unwrap();
            let complaint = format!("once.jsonl: all its {what} at the same moment, so it has no rate: give");
            assert!(!output.status.success() && said.contains(&complaint), "{said}");
        }
    }
}

#[test]
fn a_slow_trace_fills_many_servers_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let text = lines(0, 300).replace("00,\"input", "0000,\"input");
    let capacity = |backends: u64| {
        let trace = write(folder.path(), "slow.jsonl", &text);
        let asked = format!("--policy p2c --backends {backends} --sidecars 1 --capacity --json");
        let output = simulate(&trace, &asked);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let line: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        line["capacity"].as_f64().unwrap()
    };
    // One request in ten seconds: the capacity of one server is 200 times as much, that of eight is 2,000 times.
    let (one, eight) = (capacity(1), capacity(8));
    assert!((15.0..40.0).contains(&one) && (6.0..11.0).contains(&(eight / one)), "{one} {eight}");
}

/// Prompts that fit into no memory.
fn hopeless(fields: fn(u64) -> String) -> String {
    let line = |number: u64| {
        format!(
            r#"{{"timestamp":{},"input_length":10000000,"output_length":1{}}}"#,
            number * 6_000,
            fields(number)
        )
    };
    [line(0), line(1)].join("\n")
}

#[test]
fn where_no_load_is_carried_the_capacity_is_0_and_the_lowest_load_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    let trace = write(folder.path(), "hopeless.jsonl", &hopeless(|_| String::new()));
    let output = simulate(&trace, "--policy random,oracle --backends 2 --sidecars 1 --capacity --json");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), 2, "{text}");
    for line in text.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(
            (&line["capacity"], &line["attainment"], &line["rejected"]),
            (&0.0.into(), &0.0.into(), &1.0.into()),
            "{line}"
        );
        let rate = line["rate"].as_f64().unwrap();
        assert!(rate > 0.0 && rate < 1.0 / 6.0 / 50.0, "{line}");
    }
}

#[test]
fn what_finds_no_result_is_named_and_the_others_are_written() {
    let folder = tempfile::tempdir().unwrap();
    // At a low load the second session comes too late to count, so nothing can be said of that.
    let sessions = hopeless(|number| format!(r#","session_id":"{number}""#));
    let sessions = write(folder.path(), "sessions.jsonl", &sessions);
    let requests = write(folder.path(), "requests.jsonl", &hopeless(|_| String::new()));
    let even = write_trace(folder.path());
    let matrix = folder.path().join("matrix.jsonl");
    let matrix_asked = format!("--matrix {} --seeds 1", matrix.display());
    for (hopeless, asked, names) in [
        (
            &sessions,
            "--capacity --json",
            vec!["round-robin on sessions: at 0.364 times", "p2c on sessions: at 0.364"],
        ),
        (
            &requests,
            "--load 0.5 --json",
            vec![
                "searching the oracle's capacity on requests: the promise is kept for fewer than 95 % at any load",
            ],
        ),
        (&sessions, &matrix_asked, vec!["round-robin on sessions", "p2c on sessions"]),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_simulate"))
            .arg("--trace")
            .args([hopeless, &even])
            .args("--policy round-robin,p2c --backends 1 --sidecars 1".split_whitespace())
            .args(asked.split_whitespace())
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        for name in names {
            assert!(said.contains(&format!("simulate: {name}")), "{name}: {said}");
        }
        assert!(said.trim_end().lines().last().unwrap().contains("named above"), "{said}");
        let written = String::from_utf8(output.stdout).unwrap();
        let lines =
            if asked == matrix_asked { std::fs::read_to_string(&matrix).unwrap() } else { written.clone() };
        let expected = if asked == matrix_asked { 24 } else { 2 };
        assert_eq!(
            lines.lines().filter(|line| line.contains(r#""trace":"even""#)).count(),
            expected,
            "{asked}: {lines}"
        );
        assert_eq!(asked == matrix_asked, written.starts_with("| policy"), "{written}");
    }
}

#[test]
fn the_search_for_constants_starts_where_they_are_and_takes_only_what_gains() {
    let folder = tempfile::tempdir().unwrap();
    let trace = write_trace(folder.path());
    let output = simulate(&trace, "--search --backends 1 --sidecars 1");
    let text = String::from_utf8(output.stdout).unwrap();
    let points: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(points.len() > 20 && points[0]["taken"] == true, "{text}");
    let mut best = 0.0;
    for point in &points {
        let mean = point["mean"].as_f64().unwrap();
        assert_eq!(point["taken"] == true, mean > best * 1.005, "{point}");
        best = if point["taken"] == true { mean } else { best };
    }
}

#[test]
fn a_matrix_goes_on_where_it_ended_and_shows_what_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let trace = write_trace(folder.path());
    let file = folder.path().join("matrix.jsonl");
    let fill = |policies: &str| {
        let arguments = format!("--policy {policies} --backends 1 --seeds 1 --matrix {}", file.display());
        let output = simulate(&trace, &arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        (String::from_utf8(output.stdout).unwrap(), std::fs::read_to_string(&file).unwrap())
    };
    let (table, first) = fill("round-robin");
    assert_eq!((first.lines().count(), table.lines().count()), (12, 14), "{table}");
    let (table, both) = fill("round-robin,central-lmetric");
    assert!(both.starts_with(&first) && both.lines().count() == 13, "{both}");
    assert!(table.contains("| central-lmetric | 1 | 50 ms |"), "{table}");
    for wrong in ["nonsense", r#"{"policy":"p2c"}"#] {
        std::fs::write(&file, format!("{first}{wrong}\n")).unwrap();
        let output = simulate(&trace, &format!("--matrix {}", file.display()));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(
            !output.status.success() && said.contains("matrix.jsonl:13: not a line of results"),
            "{said}"
        );
    }
}

#[test]
fn a_matrix_under_other_conditions_adds_lines_and_one_of_before_these_were_written_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let trace = write_trace(folder.path());
    let file = folder.path().join("matrix.jsonl");
    let fill = |asked: &str| {
        let output = simulate(&trace, &format!("--backends 1 --seeds 1 --matrix {} {asked}", file.display()));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let lines = std::fs::read_to_string(&file).unwrap();
        (String::from_utf8(output.stdout).unwrap(), lines)
    };
    let both = "--policy round-robin,least-cost";
    let (_, first) = fill(both);
    assert_eq!(first.lines().count(), 24);
    let without_conditions = |line: &str| {
        let mut line: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line).unwrap();
        for field in ["profile", "slow", "prefix", "account", "slo", "noise"] {
            assert!(line.remove(field).is_some(), "{field}");
        }
        format!("{}\n", serde_json::to_string(&line).unwrap())
    };
    let before: String = first.lines().map(without_conditions).collect();
    std::fs::write(&file, &before).unwrap();
    assert_eq!(fill(both).1, before, "nothing is searched again");
    // Round robin does not ask what its servers' sidecars know.
    let (table, more) = fill(&format!("{both} --account ledger"));
    assert!(more.starts_with(&before) && more.lines().count() == 36, "{more}");
    assert!(more.lines().skip(24).all(|line| line.contains(r#""account":"ledger""#)), "{more}");
    for row in
        ["| least-cost | 1 | 0 ms", "| least-cost (account ledger) | 1 | 0 ms", "| round-robin | 1 | 0 ms"]
    {
        assert!(table.contains(row), "{row}: {table}");
    }
    let (table, all) = fill("--policy round-robin --slow 1:0.5");
    assert!(all.starts_with(&more) && all.lines().count() == 48, "{all}");
    assert!(table.contains("| round-robin (slow 1:0.5) | 64 | 5000 ms |"), "{table}");
}

/// The program with a `valgrind` that says this and writes down how it was called; `None` is no valgrind at all.
fn counted(folder: &Path, said: Option<&str>) -> Output {
    use std::os::unix::fs::PermissionsExt as _;

    if let Some(said) = said {
        let path = folder.join("valgrind");
        let script = format!("#!/bin/sh\necho \"$@\" >> {}/calls\necho '{said}' >&2\n", folder.display());
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    Command::new(env!("CARGO_BIN_EXE_simulate"))
        .args(["--decision", "--instructions", "--seed", "3"])
        .env("PATH", folder)
        .output()
        .unwrap()
}

#[test]
fn instructions_are_counted_by_valgrind_and_who_has_none_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let none = counted(folder.path(), None);
    let said = String::from_utf8(none.stderr).unwrap();
    assert!(!none.status.success() && said.contains("apt-get install valgrind"), "{said}");

    let output = counted(folder.path(), Some("==1== Collected : 4000001"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let calls = std::fs::read_to_string(folder.path().join("calls")).unwrap();
    let cases = [(64, "off"), (64, "on"), (1_024, "off"), (1_024, "on")];
    assert_eq!((lines.len(), calls.lines().count()), (4, 4), "{text}{calls}");
    for ((line, call), (endpoints, notes)) in lines.iter().zip(calls.lines()).zip(cases) {
        assert_eq!((&line["endpoints"], &line["notes"]), (&endpoints.into(), &notes.into()), "{line}");
        assert_eq!(line["instructions"], 10_001, "{line}");
        let asked = format!("--decision --seed 3 --counted {endpoints}:{notes}");
        assert!(call.starts_with("--tool=callgrind ") && call.ends_with(&asked), "{call}");
    }

    let silent = counted(folder.path(), Some("==1== nothing"));
    let said = String::from_utf8(silent.stderr).unwrap();
    assert!(!silent.status.success() && said.contains("valgrind says no count"), "{said}");
}

#[test]
fn what_is_counted_is_a_decision() {
    let decided = |case: &str| {
        Command::new(env!("CARGO_BIN_EXE_simulate")).args(["--decision", "--counted", case]).output().unwrap()
    };
    let output = decided("64:on");
    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
    let said = String::from_utf8(decided("63:on").stderr).unwrap();
    assert!(said.contains("as `64:on`"), "{said}");
}

#[test]
fn bad_input_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let trace = write_trace(folder.path());
    let missing = folder.path().join("missing.jsonl");
    let bad = lines(0, 2).replacen("}\n", ",\"delay\":null}\n", 1).replace(":100,", ":\"100\",");
    let bad = write(folder.path(), "bad.jsonl", &bad);
    for (trace, arguments, complaint) in [
        (&trace, "--policy best --capacity", "there is no policy `best`; there are random"),
        (&trace, "--policy random", "--load"),
        (&trace, "--policy random --capacity --load 1", "cannot be used with"),
        (&trace, "--policy random --load 0", "--load must be a number above 0"),
        (&trace, "--policy random --capacity --profile big", "there are 8b-h100"),
        (&trace, "--policy random --capacity --backends 0", "--backends must be at least 1"),
        (&trace, "--policy random --capacity --slow 4", "N:SPEED"),
        (&trace, "--policy random --capacity --age 1", "a duration"),
        (
            &trace,
            "--policy random --capacity --weights best=1",
            "there is no constant `best`; there are others",
        ),
        (&trace, "--policy random --capacity --weights others=-1", "at least 0"),
        (&missing, "--policy random --capacity", "missing.jsonl"),
        (&bad, "--policy random --capacity", r#"bad.jsonl:2: timestamp is "100": write whole milliseconds"#),
    ] {
        let output = simulate(trace, arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.contains(complaint), "{arguments}: {said}");
        assert!(output.stdout.is_empty(), "{arguments}");
    }
}
