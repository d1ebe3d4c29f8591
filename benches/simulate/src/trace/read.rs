//! From a file to a [`Trace`]. What is wrong with a line is said with its number; nothing is guessed.

use std::collections::HashMap;
use std::fs;
use std::io::Read as _;
use std::ops::RangeInclusive;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

use super::{BLOCK_TOKENS, Load, Record, Session, Trace};

/// What a line may be in its shortest form.
const EXAMPLE: &str = r#"{"timestamp":0,"input_length":600,"output_length":40}"#;
/// How values are to be written.
const MILLISECONDS: &str = "write whole milliseconds, at least 0";
const TOKENS: &str = "write a whole number of tokens, from 1 to 4294967295";
const TURN: &str = "write a whole number, from 1, or leave it out";
const TEXT: &str = "write it as text";
const BLOCKS: &str = "write a list of whole numbers of at least 0, or leave it out";
/// As much of a value that is wrong as is shown.
const SHOWN_MAX: usize = 40;

/// The fields of a line, whatever they hold; null is as good as missing.
#[derive(Deserialize)]
struct Fields {
    timestamp: Option<Value>,
    input_length: Option<Value>,
    output_length: Option<Value>,
    hash_ids: Option<Value>,
    session_id: Option<Value>,
    turn: Option<Value>,
    delay: Option<Value>,
}

/// A line that is a request by itself.
struct Line {
    /// Of the file, from 1.
    number: usize,
    timestamp: u64,
    input_length: u32,
    output_length: u32,
    hash_ids: Vec<u64>,
    session_id: Option<String>,
    turn: Option<u64>,
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
    let load = parse(&path.display().to_string(), text)?;
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
pub(super) fn parse(file: &str, text: &str) -> Result<Load> {
    let mut lines: Vec<Line> = Vec::new();
    for (at, text) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let place = || format!("{file}:{}", at + 1);
        let line = line(at + 1, text).with_context(place)?;
        if let Some(before) = lines.last() {
            fits(&line, before).with_context(place)?;
        }
        lines.push(line);
    }
    let Some(first) = lines.first() else {
        bail!("{file}: there is no request in it: write one JSON object a line, as {EXAMPLE}")
    };
    let (begin_ms, has_sessions) = (first.timestamp, first.session_id.is_some());
    for line in &mut lines {
        // Lines are sorted, and a clock may begin anywhere.
        line.timestamp -= begin_ms;
    }
    if has_sessions { sessions(file, lines) } else { Ok(Load::Open(lines.into_iter().map(record).collect())) }
}

fn line(number: usize, text: &str) -> Result<Line> {
    let fields = fields(text)?;
    let missing = |field: &str, how: &str| anyhow!("{field} is missing: {how}");
    let tokens = |field: &str, value: Option<Value>| {
        let tokens = whole(field, value, 1..=u32::MAX.into(), TOKENS)?;
        Ok::<_, anyhow::Error>(u32::try_from(tokens.ok_or_else(|| missing(field, TOKENS))?)?)
    };
    let timestamp = whole("timestamp", fields.timestamp, 0..=u64::MAX, MILLISECONDS)?;
    let input_length = tokens("input_length", fields.input_length)?;
    let hash_ids = blocks(fields.hash_ids)?;
    let blocks_max = input_length.div_ceil(BLOCK_TOKENS) as usize;
    ensure!(
        hash_ids.len() <= blocks_max,
        "hash_ids has {} numbers for {input_length} tokens, at most {blocks_max}: give one for each {BLOCK_TOKENS}",
        hash_ids.len()
    );
    Ok(Line {
        number,
        timestamp: timestamp.ok_or_else(|| missing("timestamp", MILLISECONDS))?,
        input_length,
        output_length: tokens("output_length", fields.output_length)?,
        hash_ids,
        session_id: session_id(fields.session_id)?,
        turn: whole("turn", fields.turn, 1..=u64::MAX, TURN)?,
        delay: whole("delay", fields.delay, 0..=u64::MAX, MILLISECONDS)?.unwrap_or(0),
    })
}

fn fields(text: &str) -> Result<Fields> {
    // A list would be taken for the fields in their order.
    ensure!(text.trim_start().starts_with('{'), "this line is no JSON object: write one, as {EXAMPLE}");
    serde_json::from_str(text).map_err(|error| {
        let said = error.to_string();
        // The position that it says is within this line, and calls it line 1.
        let what = said.split(" at line ").next().unwrap_or_default();
        anyhow!("this line cannot be read, {what}: write a JSON object, as {EXAMPLE}")
    })
}

fn whole(field: &str, value: Option<Value>, allowed: RangeInclusive<u64>, how: &str) -> Result<Option<u64>> {
    let Some(value) = value else { return Ok(None) };
    match value.as_u64().filter(|number| allowed.contains(number)) {
        Some(number) => Ok(Some(number)),
        None => bail!("{field} is {}: {how}", shown(&value)),
    }
}

fn blocks(value: Option<Value>) -> Result<Vec<u64>> {
    let blocks = match value {
        None => return Ok(Vec::new()),
        Some(Value::Array(blocks)) => blocks,
        Some(other) => bail!("hash_ids is {}: {BLOCKS}", shown(&other)),
    };
    let number = |(place, block): (usize, &Value)| {
        block.as_u64().with_context(|| format!("hash_ids[{place}] is {}: {BLOCKS}", shown(block)))
    };
    blocks.iter().enumerate().map(number).collect()
}

fn session_id(value: Option<Value>) -> Result<Option<String>> {
    match value {
        None => Ok(None),
        Some(Value::String(id)) => Ok(Some(id)),
        Some(Value::Number(number)) => bail!("session_id is {number}: {TEXT}, as \"{number}\""),
        Some(other) => bail!("session_id is {}: {TEXT}", shown(&other)),
    }
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Whether a line can stand behind another.
fn fits(line: &Line, before: &Line) -> Result<()> {
    let (number, above) = (before.number, before.timestamp);
    ensure!(
        above <= line.timestamp,
        "timestamp is {}, and {above} in line {number}: sort the lines by it, as `jq -sc 'sort_by(.timestamp)[]'` does",
        line.timestamp
    );
    let (here, there) = match (&line.session_id, &before.session_id) {
        (Some(_), None) => ("there", "missing"),
        (None, Some(_)) => ("missing", "there"),
        _ => return Ok(()),
    };
    bail!("session_id is {here}, and {there} in line {number}: give all lines one, or none")
}

fn record(line: Line) -> Record {
    Record {
        at_ms: line.timestamp,
        prompt_tokens: line.input_length,
        output_tokens: line.output_length,
        blocks: line.hash_ids,
    }
}

fn sessions(file: &str, lines: Vec<Line>) -> Result<Load> {
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut sessions: Vec<Session> = Vec::new();
    for mut line in lines {
        let id = line.session_id.take().unwrap_or_default();
        let place = *places.entry(id.clone()).or_insert_with(|| {
            sessions.push(Session { turns: Vec::new(), pauses_ms: Vec::new() });
            sessions.len() - 1
        });
        let session = &mut sessions[place];
        let expected = session.turns.len() as u64 + 1;
        if let Some(turn) = line.turn.filter(|turn| *turn != expected) {
            bail!(
                "{file}:{}: turn is {turn} where turn {expected} of session {id} should be: number the lines of a session from 1, \
                 without a gap, or leave turn out",
                line.number
            );
        }
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
        let error = parse("t.jsonl", text).unwrap_err();
        let all = format!("{error:#}");
        assert!(all.starts_with("t.jsonl:") && all.contains(complaint), "{all}");
        // How to mend it stands there, and the position within the line, which has no line 1, does not.
        let mending = ["write ", "give ", "sort ", "number ", "leave "];
        assert!(mending.iter().any(|how| all.contains(how)) && !all.contains("at line"), "{all}");
    }

    /// A line whose field has this value, or has none.
    fn with(field: &str, value: &str) -> String {
        let fields = [("timestamp", "5"), ("input_length", "512"), ("output_length", "1"), (field, value)];
        let others = fields[..3].iter().filter(|(name, _)| *name != field);
        let fields = others.chain(fields[3..].iter().filter(|(_, value)| !value.is_empty()));
        let fields: Vec<_> = fields.map(|(name, value)| format!(r#""{name}":{value}"#)).collect();
        format!("{{{}}}", fields.join(","))
    }

    #[test]
    fn a_bad_line_is_named_with_what_is_wrong_in_it() {
        check("", "t.jsonl: there is no request in it");
        for (line, complaint) in [
            ("{", "1: this line cannot be read, EOF while parsing an object"),
            ("[5,512,1]", "1: this line is no JSON object"),
            (r#"{"timestamp":1,"timestamp":2}"#, "1: this line cannot be read, duplicate field `timestamp`"),
        ] {
            check(line, complaint);
        }
        for (field, value, complaint) in [
            ("timestamp", "", "timestamp is missing"),
            ("timestamp", "null", "timestamp is missing"),
            ("timestamp", "1.5", "timestamp is 1.5: write whole milliseconds"),
            ("timestamp", "-1", "timestamp is -1"),
            ("timestamp", r#""7""#, r#"timestamp is "7""#),
            ("input_length", "0", "input_length is 0: write"),
            ("input_length", "4294967296", "input_length is 4294967296: write"),
            ("output_length", "0", "output_length is 0"),
            ("output_length", "", "output_length is missing: write"),
            ("hash_ids", "7", "hash_ids is 7: write a list"),
            ("hash_ids", "[-1]", "hash_ids[0] is -1: write"),
            ("hash_ids", "[1,2]", "hash_ids has 2 numbers for 512 tokens, at most 1: give one"),
            ("session_id", "7", r#"session_id is 7: write it as text, as "7""#),
            ("session_id", "[]", r#"session_id is []: write it as text"#),
            ("turn", r#""a""#, r#"turn is "a": write"#),
            ("turn", "0", "turn is 0"),
            ("delay", "0.5", "delay is 0.5: write whole milliseconds"),
        ] {
            check(&with(field, value), &format!("1: {complaint}"));
            // Blank lines count as lines.
            check(&format!("{}\n\n{}", with("", ""), with(field, value)), &format!("3: {complaint}"));
        }
        let long = format!("[{}]", "1".repeat(1_000));
        let error = parse("t.jsonl", &with("timestamp", &long)).unwrap_err();
        assert!(format!("{error:#}").len() < 200, "{error:#}");
    }

    #[test]
    fn lines_that_do_not_go_together_are_named_both() {
        let two = |second: &str| format!("{}\n\n{second}", with("", ""));
        check(&two(&with("timestamp", "4")), "3: timestamp is 4, and 5 in line 1: sort the lines");
        check(&two(&with("session_id", r#""a""#)), "3: session_id is there, and missing in line 1: give all");
        let session = |fields: &str| with("session_id", &format!(r#""a"{fields}"#));
        check(&format!("{}\n{}", session(""), with("", "")), "2: session_id is missing, and there in line 1");
        check(&session(r#","turn":2"#), "1: turn is 2 where turn 1 of session a should be: number");
        let turns = [session(r#","turn":1"#), session(""), session(r#","turn":2"#)].join("\n");
        check(&turns, "3: turn is 2 where turn 3 of session a should be");
    }

    #[test]
    fn null_is_as_good_as_missing_where_a_field_may_be_missing() {
        for field in ["hash_ids", "session_id", "turn", "delay"] {
            let [null, missing] =
                [with(field, "null"), with(field, "")].map(|line| parse("t.jsonl", &line).unwrap());
            assert_eq!(null, missing, "{field}");
        }
    }

    #[test]
    fn a_trace_begins_with_its_first_request_whatever_its_clock_says() {
        let lines = |begin: u64, session: &str| {
            let line = |at: u64| {
                format!(r#"{{"timestamp":{},"input_length":9,"output_length":1{session}}}"#, begin + at)
            };
            parse("t.jsonl", &[line(0), line(5), line(900)].join("\n")).unwrap()
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
        let Load::Sessions(sessions) = parse("t.jsonl", &text).unwrap() else { panic!("sessions expected") };
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
