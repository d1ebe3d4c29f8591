//! Every file of `corpus/`, whole, byte by byte, in other chunkings, cut in two at every byte and cut anywhere, against the result
//! written in the file; and the times of streams against those of their bytes.
//!
//! A file is a head (`key: value` lines), a line of dashes, the input, a line of dashes, the result. In the input `«0D»` stands
//! for the byte 0x0D; the head `lines: crlf` or `lines: cr` changes its line ends, `lines: joined` takes them away. `UPDATE_GOLDEN=1` rewrites the results.

#![expect(clippy::expect_used, clippy::panic, reason = "a broken corpus ends the test")]

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use penstock_dialect::answer::{Piece, judge};
use penstock_dialect::events::{Cutter, Event};
use penstock_dialect::meter::{Head, Meter, Reading};
use penstock_dialect::reply::{Border, ErrorCode, Framing, Reply};
use penstock_dialect::scan::{self, Scanner};
use penstock_dialect::{Dialect, Usage};

const DASHES: &str = "\n----\n";
const CHUNKINGS: [usize; 6] = [usize::MAX, 64, 7, 3, 2, 1];
/// Random cuts of each file.
const SPLITS: u64 = 64;

struct Case {
    path: PathBuf,
    head: String,
    source: String,
    expected: String,
}

impl Case {
    fn read(path: PathBuf) -> Case {
        let text = fs::read_to_string(&path).expect("the corpus is readable UTF-8");
        let (head, rest) = text.split_once(DASHES).expect("dashes end the head");
        let (source, expected) = rest.split_once(DASHES).expect("dashes end the input");
        Case { head: head.to_owned(), source: format!("{source}\n"), expected: expected.to_owned(), path }
    }

    fn head(&self, key: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "))
    }

    fn dialect(&self) -> Dialect {
        let label = self.head("dialect").expect("the head names a dialect");
        *Dialect::ALL.iter().find(|dialect| dialect.as_str() == label).expect("the dialect is known")
    }

    fn scanner(&self) -> Scanner {
        let head = scan::Head {
            path: self.head("path").unwrap_or_default(),
            content_type: self.head("content-type"),
            content_encoding: self.head("content-encoding"),
        };
        Scanner::new(self.dialect(), head)
    }

    /// What cuts the answer into events, as the meter chooses it.
    fn cutter(&self) -> Cutter {
        let framing = self.head("content-type").and_then(Framing::of);
        framing.map_or_else(Cutter::grpc, Cutter::new)
    }

    fn input(&self) -> Vec<u8> {
        let source = match self.head("lines") {
            None => self.source.clone(),
            Some("crlf") => self.source.replace('\n', "\r\n"),
            Some("cr") => self.source.replace('\n', "\r"),
            Some("joined") => self.source.replace('\n', ""),
            Some(other) => panic!("lines: {other}: must be crlf, cr or joined"),
        };
        let mut parts = source.split('«');
        let mut input = parts.next().unwrap_or_default().as_bytes().to_vec();
        for part in parts {
            let (digits, rest) = part.split_once('»').expect("« is closed by »");
            input.push(u8::from_str_radix(digits, 16).expect("two hexadecimal digits in «»"));
            input.extend_from_slice(rest.as_bytes());
        }
        input
    }
}

/// Cuts at random places, empty chunks among them; the same seed cuts at the same places.
fn split(input: &[u8], seed: u64) -> Vec<&[u8]> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut draw = |below: usize| {
        // xorshift64.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 33).expect("31 bits") % below
    };
    let mut cuts: Vec<usize> = (0..draw(24)).map(|_| draw(input.len() + 1)).collect();
    cuts.sort_unstable();
    cuts.push(input.len());
    let mut from = 0;
    cuts.into_iter().map(|to| &input[std::mem::replace(&mut from, to)..to]).collect()
}

/// The files of a folder, in order.
fn cases(folder: &str) -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(folder);
    let files = fs::read_dir(folder).expect("the folder exists");
    let mut paths: Vec<_> = files.map(|file| file.expect("the folder is readable").path()).collect();
    paths.sort();
    paths.into_iter().map(Case::read).collect()
}

/// Checks each file of one folder: `result` is asked for the input in chunks, `before` for what stands above that.
fn check(
    folder: &str,
    at_least: usize,
    before: impl Fn(&Case) -> String,
    result: impl Fn(&Case, &mut dyn Iterator<Item = &[u8]>) -> String,
) {
    let cases = cases(folder);
    assert!(cases.len() >= at_least, "only {} cases", cases.len());
    for case in cases {
        let input = case.input();
        let results = CHUNKINGS.map(|bytes| {
            let mut chunks = input.chunks(bytes.min(input.len().max(1)));
            result(&case, &mut chunks)
        });
        for (chunking, other) in CHUNKINGS.iter().zip(&results) {
            assert_eq!(*other, results[0], "{} in chunks of {chunking}", case.path.display());
        }
        for cut in 0..input.len() {
            let (head, tail) = input.split_at(cut);
            let other = result(&case, &mut [head, tail].into_iter());
            assert_eq!(other, results[0], "{} cut at {cut}", case.path.display());
        }
        for seed in 0..SPLITS {
            let mut chunks = split(&input, seed).into_iter();
            assert_eq!(result(&case, &mut chunks), results[0], "{} at seed {seed}", case.path.display());
        }
        let found = before(&case) + &results[0];
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            let text = format!("{}{DASHES}{}----\n{found}", case.head, case.source);
            fs::write(&case.path, text).expect("the corpus is writable");
        } else {
            assert_eq!(found, case.expected, "{}", case.path.display());
        }
    }
}

#[test]
fn requests_read_as_written() {
    check("requests", 70, timeline, |case, chunks| {
        let mut scanner = case.scanner();
        for chunk in chunks {
            let _progress = scanner.push(chunk);
        }
        match scanner.finish() {
            Err(error) => format!("error: {error}\n"),
            Ok(facts) => format!(
                "model: {:?}\nstreaming: {}\noutput_tokens_max: {:?}\nprompt_bytes: {}\nmedia_bytes: {}\nprompt_token_ids: {}\n\
                 prompt_tokens_estimate: {}\nrepeated_keys: {}\n",
                facts.model,
                facts.streaming,
                facts.output_tokens_max,
                facts.prompt_bytes,
                facts.media_bytes,
                facts.prompt_token_ids,
                facts.prompt_tokens_estimate(),
                facts.repeated_keys,
            ),
        }
    });
}

/// After how many bytes the scan says something new.
fn timeline(case: &Case) -> String {
    let mut scanner = case.scanner();
    let mut last = scanner.progress();
    let mut line = format!("progress: {last:?}");
    for (byte, bytes) in case.input().chunks(1).zip(1..) {
        let progress = scanner.push(byte);
        if progress != last {
            write!(line, ", {progress:?} after {bytes}").expect("memory is writable");
            last = progress;
        }
    }
    line + "\n"
}

#[test]
fn answers_read_as_written() {
    check(
        "streams",
        60,
        |_| String::new(),
        |case, chunks| {
            let head = Head { content_type: case.head("content-type"), content_encoding: None };
            let mut meter = Meter::new(case.dialect(), head);
            let mut cutter = case.cutter();
            let mut told = String::new();
            for (now_ns, chunk) in (0..).zip(chunks) {
                meter.chunk(chunk, now_ns, |_| {});
                if meter.is_stream() {
                    cutter.push(chunk, |event| {
                        told.push_str(&event_line(case.dialect(), event));
                    });
                }
            }
            told + &summary(meter.reading())
        },
    );
}

/// Content counts at the time of the chunk that completes its event, whatever that chunk has besides.
#[test]
fn times_are_those_of_the_chunk_that_completes_an_event() {
    let mut streams = 0;
    for case in cases("streams") {
        let input = case.input();
        let (by_byte, ends) = times(&case, input.chunks(1));
        if ends.is_empty() {
            assert_eq!(by_byte.first_content_ns, None, "{}", case.path.display());
            continue;
        }
        streams += 1;
        for seed in 0..SPLITS {
            let chunks = split(&input, seed);
            let mut passed = 0;
            let passed: Vec<u64> = chunks
                .iter()
                .map(|chunk| {
                    passed += chunk.len() as u64;
                    passed
                })
                .collect();
            let complete =
                |end: &u64| passed.iter().copied().find(|passed| passed >= end).expect("in one chunk");
            let expected: Vec<u64> = ends.iter().map(complete).collect();
            let (reading, found) = times(&case, chunks.into_iter());
            assert_eq!(found, expected, "{} at seed {seed}", case.path.display());
            let span = (expected.first().copied(), expected.last().copied());
            assert_eq!((reading.first_content_ns, reading.last_content_ns), span, "{}", case.path.display());
            assert_eq!(reading.content_events, expected.len() as u64, "{}", case.path.display());
        }
    }
    assert!(streams >= 40, "only {streams} streams with content");
}

/// An error of ours after any byte: either the stream says that there is no place for it, or the client reads what had come and then
/// the error. Behind every event there is a place.
#[test]
fn an_error_after_any_byte_is_read_as_one_or_not_written() {
    let reply = Reply::new(ErrorCode::UpstreamReset, "gone");
    for case in cases("streams") {
        let Some(framing) = case.head("content-type").and_then(Framing::of) else { continue };
        let error = reply.stream_event(case.dialect(), framing).expect("an event");
        let (input, mut border) = (case.input(), Border::new(framing));
        let (mut cutter, mut came) = (Cutter::new(framing), String::new());
        for at in 0..=input.len() {
            let what = format!("{} after {at} bytes", case.path.display());
            if border.is_here() {
                let mut told = String::new();
                let mut whole = Cutter::new(framing);
                for bytes in [&input[..at], &error] {
                    whole.push(bytes, |event| told.push_str(&event_line(case.dialect(), event)));
                }
                assert_eq!(told, format!("{came}error\n"), "{what}");
            }
            let Some(byte) = input.get(at..=at) else { break };
            border.passed(byte);
            let before = came.len();
            cutter.push(byte, |event| came.push_str(&event_line(case.dialect(), event)));
            let is_event = came.len() > before && !came.ends_with("comment\n");
            assert!(border.is_here() || !is_event, "{what}: an event is over");
        }
    }
}

/// Follows an answer whose clock is the number of bytes that have come; the times of its content, from the first and the gaps.
fn times<'a>(case: &Case, chunks: impl Iterator<Item = &'a [u8]>) -> (Reading, Vec<u64>) {
    let head = Head { content_type: case.head("content-type"), content_encoding: None };
    let mut meter = Meter::new(case.dialect(), head);
    let (mut now, mut gaps) = (0, Vec::new());
    for chunk in chunks {
        now += chunk.len() as u64;
        meter.chunk(chunk, now, |gap_ns| gaps.push(gap_ns));
    }
    let reading = *meter.reading();
    let first = reading.first_content_ns;
    let later = first.into_iter().flat_map(|first| {
        gaps.iter().scan(first, |at, gap| {
            *at += gap;
            Some(*at)
        })
    });
    (reading, first.into_iter().chain(later).collect())
}

fn event_line(dialect: Dialect, event: Event<'_>) -> String {
    let (name, data) = match event {
        Event::Comment => return "comment\n".to_owned(),
        Event::Oversized { bytes, .. } => return format!("oversized {bytes}\n"),
        Event::Message { name, data } => (name, data),
    };
    let judged = judge(dialect, name, data);
    let mut line = match judged.piece {
        Piece::Content { deltas } => format!("content {deltas}"),
        Piece::Other if judged.is_last => String::new(),
        other => format!("{other:?}").to_lowercase(),
    };
    if judged.is_last {
        line.push_str(if line.is_empty() { "last" } else { ", last" });
    }
    if let Some(usage) = judged.usage {
        line.push_str(&counts(usage));
    }
    line + "\n"
}

fn counts(usage: Usage) -> String {
    let mut counts = String::new();
    let named = [
        ("input", usage.input),
        ("output", usage.output),
        ("cached", usage.cached),
        ("reasoning", usage.reasoning),
    ];
    for (name, count) in named {
        if let Some(count) = count {
            write!(counts, " {name}={count}").expect("memory is writable");
        }
    }
    counts
}

fn summary(reading: &Reading) -> String {
    format!(
        "= content events {}, usage{}, ending {:?}\n",
        reading.content_events,
        reading.usage.map_or_else(|| " none".to_owned(), counts),
        reading.ending,
    )
}
