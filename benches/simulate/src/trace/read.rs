//! From a file to a [`Trace`]. What is wrong with a line is said with its number; nothing is guessed.

use std::collections::HashMap;
use std::fs;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;

use super::{BLOCK_TOKENS, Load, Record, Session, Trace};

#[derive(Deserialize)]
struct Line {
    timestamp: u64,
    input_length: u32,
    output_length: u32,
    #[serde(default)]
    hash_ids: Vec<u64>,
    session_id: Option<String>,
    turn: Option<u32>,
    #[serde(default)]
    delay: u64,
}

/// Reads a trace, plain or gzipped: the content says which, not the name.
///
/// # Errors
/// The file cannot be read, is empty, all comes at one moment, or a line is no request; the message names file and line.
pub fn read(path: &Path) -> Result<Trace> {
    let bytes = unpacked(path).with_context(|| format!("reading the trace {}", path.display()))?;
    let text = std::str::from_utf8(&bytes).with_context(|| format!("{} is not UTF-8", path.display()))?;
    let file = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let name = file.trim_end_matches(".gz").trim_end_matches(".jsonl").to_owned();
    let load = parse(text).with_context(|| format!("in the trace {}", path.display()))?;
    let trace = Trace { name, checksum: format!("{:016x}", xxhash_rust::xxh3::xxh3_64(&bytes)), load };
    let what = if let Load::Open(_) = trace.load { "requests come" } else { "sessions begin" };
    ensure!(
        trace.span_ms() > 0,
        "{}: all its {what} at the same moment, so it has no rate: give at least two timestamps that differ",
        path.display()
    );
    Ok(trace)
}

fn unpacked(path: &Path) -> Result<Vec<u8>> {
    let bytes = fs::read(path)?;
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return Ok(bytes);
    }
    let mut plain = Vec::new();
    flate2::read::MultiGzDecoder::new(bytes.as_slice()).read_to_end(&mut plain)?;
    Ok(plain)
}

/// The requests of the text of a trace.
pub(super) fn parse(text: &str) -> Result<Load> {
    let mut lines = Vec::new();
    for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let line = checked(line, lines.last()).with_context(|| format!("line {}", at + 1))?;
        lines.push(line);
    }
    let Some(first) = lines.first() else { bail!("there is no request in it") };
    let (begin_ms, has_sessions) = (first.timestamp, first.session_id.is_some());
    for line in &mut lines {
        // Lines are sorted, and a clock may begin anywhere.
        line.timestamp -= begin_ms;
    }
    if has_sessions { sessions(lines) } else { Ok(Load::Open(lines.into_iter().map(record).collect())) }
}

fn checked(text: &str, before: Option<&Line>) -> Result<Line> {
    let line: Line = serde_json::from_str(text)?;
    ensure!(line.input_length > 0, "input_length must be at least 1");
    ensure!(line.output_length > 0, "output_length must be at least 1");
    let blocks_max = line.input_length.div_ceil(BLOCK_TOKENS) as usize;
    ensure!(
        line.hash_ids.len() <= blocks_max,
        "{} hash_ids for {} tokens: at most {blocks_max}, one for each {BLOCK_TOKENS}",
        line.hash_ids.len(),
        line.input_length
    );
    if let Some(before) = before {
        ensure!(
            before.timestamp <= line.timestamp,
            "timestamp {} lies before the line above",
            line.timestamp
        );
        ensure!(
            before.session_id.is_some() == line.session_id.is_some(),
            "all lines have a session_id, or none"
        );
    }
    Ok(line)
}

fn record(line: Line) -> Record {
    Record {
        at_ms: line.timestamp,
        prompt_tokens: line.input_length,
        output_tokens: line.output_length,
        blocks: line.hash_ids,
    }
}

fn sessions(lines: Vec<Line>) -> Result<Load> {
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut sessions: Vec<Session> = Vec::new();
    for mut line in lines {
        let id = line.session_id.take().unwrap_or_default();
        let place = *places.entry(id.clone()).or_insert_with(|| {
            sessions.push(Session { turns: Vec::new(), pauses_ms: Vec::new() });
            sessions.len() - 1
        });
        let session = &mut sessions[place];
        let expected = session.turns.len() + 1;
        ensure!(
            line.turn.is_none_or(|turn| turn as usize == expected),
            "session {id}: turn {} where turn {expected} should be",
            line.turn.unwrap_or_default()
        );
        session.pauses_ms.push(if expected == 1 { 0 } else { line.delay });
        session.turns.push(record(line));
    }
    Ok(Load::Sessions(sessions))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, complaint: &str) {
        let error = parse(text).unwrap_err();
        let all = format!("{error:#}");
        assert!(all.contains(complaint), "{all}");
    }

    #[test]
    fn a_bad_line_is_named_with_what_is_wrong_in_it() {
        check("", "no request");
        check(r#"{"timestamp":0,"input_length":0,"output_length":1}"#, "line 1: input_length");
        check(r#"{"timestamp":0,"input_length":1,"output_length":0}"#, "output_length");
        check(r#"{"timestamp":0,"input_length":512,"output_length":1,"hash_ids":[1,2]}"#, "at most 1");
        check(r#"{"timestamp":0,"input_length":1}"#, "output_length");
        let two =
            |second: &str| format!("{}\n\n{second}", r#"{"timestamp":5,"input_length":1,"output_length":1}"#);
        check(&two(r#"{"timestamp":4,"input_length":1,"output_length":1}"#), "line 3: timestamp 4");
        check(&two(r#"{"timestamp":5,"input_length":1,"output_length":1,"session_id":"a"}"#), "or none");
        let turn = r#"{"timestamp":0,"input_length":1,"output_length":1,"session_id":"a","turn":2}"#;
        check(turn, "session a: turn 2 where turn 1");
    }

    #[test]
    fn a_trace_begins_with_its_first_request_whatever_its_clock_says() {
        let lines = |begin: u64, session: &str| {
            let line = |at: u64| {
                format!(r#"{{"timestamp":{},"input_length":9,"output_length":1{session}}}"#, begin + at)
            };
            parse(&[line(0), line(5), line(900)].join("\n")).unwrap()
        };
        for session in ["", r#","session_id":"a""#] {
            assert_eq!(lines(3_600_000, session), lines(0, session), "{session}");
        }
    }

    #[test]
    fn turns_are_gathered_into_their_sessions() {
        let line = |id: &str, turn: u32, delay: u64| {
            format!(
                r#"{{"timestamp":{turn},"input_length":9,"output_length":1,"session_id":"{id}","turn":{turn},"delay":{delay}}}"#
            )
        };
        let text = [line("a", 1, 7), line("b", 1, 0), line("a", 2, 70)].join("\n");
        let Load::Sessions(sessions) = parse(&text).unwrap() else { panic!("sessions expected") };
        assert_eq!(sessions.iter().map(|s| s.pauses_ms.clone()).collect::<Vec<_>>(), [vec![0, 70], vec![0]]);
    }

    #[test]
    fn a_gzipped_file_reads_as_the_plain_one_does() {
        use std::io::Write as _;
        let folder = tempfile::tempdir().unwrap();
        let line =
            |at| format!(r#"{{"timestamp":{at},"input_length":600,"output_length":4,"hash_ids":[1,2]}}"#);
        let text = format!("{}\n{}", line(3), line(9));
        let plain = folder.path().join("t.jsonl");
        fs::write(&plain, &text).unwrap();
        let packed = folder.path().join("t.jsonl.gz");
        let mut encoder =
            flate2::write::GzEncoder::new(fs::File::create(&packed).unwrap(), flate2::Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap();
        assert_eq!(read(&plain).unwrap(), read(&packed).unwrap());
        assert_eq!(read(&packed).unwrap().name, "t");
    }
}
