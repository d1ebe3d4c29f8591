//! Follows one answer as its bytes pass: when the first came, when the first token came, how far apart tokens are, what was
//! counted, how it ended.
//!
//! Times are nanoseconds of the caller's clock, monotonic, with any origin. Nothing is delayed: forward a chunk first, then
//! show it here. An event counts at the time of the chunk that completes it.

use crate::answer::{Piece, judge};
use crate::events::{Cutter, Event};
use crate::media::Media;
use crate::reply::Framing;
use crate::usage::UsageScanner;
use crate::{Dialect, Usage};

/// What the head of an answer says about its body.
#[derive(Clone, Copy, Debug, Default)]
pub struct Head<'a> {
    /// The `content-type` header.
    pub content_type: Option<&'a str>,
    /// The `content-encoding` header. A body with one is timed but not read.
    pub content_encoding: Option<&'a str>,
}

/// What is known of an answer so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// When the first byte of the body came.
    pub first_byte_ns: Option<u64>,
    /// When the first event with content came. Only streams have it.
    pub first_content_ns: Option<u64>,
    /// When the last event with content came.
    pub last_content_ns: Option<u64>,
    /// Events with content. One event is not one token: engines may put several into one.
    pub content_events: u64,
    /// Token counts, if reported.
    pub usage: Option<Usage>,
    /// How the answer ended.
    pub ending: Ending,
}

/// How an answer ended, as its bytes tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ending {
    /// No end seen. When the body is over, it was cut, or it is of a kind that we do not read.
    #[default]
    Unseen,
    /// With the dialect's end mark, or a whole JSON object.
    Done,
    /// With an error event, whatever followed.
    Error,
}

/// Time per output token after the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Nanoseconds per token.
    pub token_ns: u64,
    /// Whether content events stood in for tokens, since the engine did not count.
    pub estimated: bool,
}

impl Reading {
    /// From the first content to the last, divided by the tokens after the first. `None` for fewer than two content events.
    #[must_use]
    pub fn pace(&self) -> Option<Pace> {
        let span_ns = self.last_content_ns?.saturating_sub(self.first_content_ns?);
        if self.content_events < 2 {
            return None;
        }
        let counted = self.usage.and_then(|usage| usage.output).filter(|&tokens| tokens > 1);
        let tokens = counted.unwrap_or(self.content_events);
        Some(Pace { token_ns: span_ns / (tokens - 1), estimated: counted.is_none() })
    }

    /// An event with content came; returns the gap since the one before.
    fn content(&mut self, now_ns: u64) -> Option<u64> {
        let gap_ns = self.last_content_ns.map(|last_ns| now_ns.saturating_sub(last_ns));
        self.first_content_ns.get_or_insert(now_ns);
        self.last_content_ns = Some(now_ns);
        self.content_events += 1;
        gap_ns
    }
}

/// Follows one answer.
pub struct Meter {
    dialect: Dialect,
    body: Body,
    reading: Reading,
}

enum Body {
    Stream(Cutter),
    Json(Box<UsageScanner>),
    Opaque,
}

impl Meter {
    /// Begins an answer. Its bytes are read if the dialect has tokens and the head announces a kind of body that carries them.
    #[must_use]
    pub fn new(dialect: Dialect, head: Head<'_>) -> Meter {
        let encoding = head.content_encoding.unwrap_or_default().trim();
        let plain = encoding.is_empty() || encoding.eq_ignore_ascii_case("identity");
        let is_read = dialect.is_ai() && plain;
        let answer = &dialect.tables().answer;
        let body = match head.content_type.map(Media::of).filter(|_| is_read) {
            Some(Media::Events) if answer.event.is_some() => Body::Stream(Cutter::new(Framing::Events)),
            Some(Media::Lines) if answer.event.is_some() => Body::Stream(Cutter::new(Framing::Lines)),
            Some(Media::Grpc) if answer.message.is_some() => Body::Stream(Cutter::grpc()),
            Some(Media::Json) => Body::Json(Box::new(UsageScanner::new(dialect))),
            _ => Body::Opaque,
        };
        Meter { dialect, body, reading: Reading::default() }
    }

    /// A chunk came at `now_ns`. `on_gap` gets the nanoseconds between each content event and the one before; of several events
    /// in one chunk the later ones have gap 0.
    pub fn chunk(&mut self, bytes: &[u8], now_ns: u64, mut on_gap: impl FnMut(u64)) {
        if bytes.is_empty() {
            return;
        }
        let Meter { dialect, body, reading } = self;
        reading.first_byte_ns.get_or_insert(now_ns);
        match body {
            Body::Opaque => {}
            Body::Stream(cutter) => cutter.push(bytes, |event| {
                if let Some(gap_ns) = take_event(reading, *dialect, event, now_ns) {
                    on_gap(gap_ns);
                }
            }),
            Body::Json(scanner) => {
                scanner.push(bytes);
                reading.usage = scanner.usage();
                reading.ending = if scanner.is_complete() { Ending::Done } else { Ending::Unseen };
            }
        }
    }

    /// The answer is over at `now_ns`: its last line may lack an end.
    pub fn end(&mut self, now_ns: u64, mut on_gap: impl FnMut(u64)) {
        let Meter { dialect, body, reading } = self;
        if let Body::Stream(cutter) = body {
            cutter.end(|event| {
                if let Some(gap_ns) = take_event(reading, *dialect, event, now_ns) {
                    on_gap(gap_ns);
                }
            });
        }
    }

    /// What is known so far; after the last chunk, what is known at all.
    #[must_use]
    pub fn reading(&self) -> &Reading {
        &self.reading
    }

    /// Whether the answer is a stream of events that we read.
    #[must_use]
    pub fn is_stream(&self) -> bool {
        matches!(self.body, Body::Stream(_))
    }
}

fn take_event(reading: &mut Reading, dialect: Dialect, event: Event<'_>, now_ns: u64) -> Option<u64> {
    let judged = match event {
        Event::Message { name, data } => judge(dialect, name, data),
        Event::Oversized { name, .. } => judge(dialect, name, &[]),
        Event::Comment => return None,
    };
    if let Some(usage) = judged.usage {
        reading.usage.get_or_insert_default().absorb(usage);
    }
    if judged.piece == Piece::Error {
        reading.ending = Ending::Error;
    } else if judged.is_last && reading.ending == Ending::Unseen {
        reading.ending = Ending::Done;
    }
    match judged.piece {
        Piece::Content { .. } => reading.content(now_ns),
        Piece::Error | Piece::Usage | Piece::Role | Piece::Other => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: Head<'_> =
        Head { content_type: Some("text/event-stream; charset=utf-8"), content_encoding: None };
    const ROLE: &str = "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n";
    const TOKEN: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";
    const USAGE: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":5}}\n\n";
    const ERROR: &str = "data: {\"error\":{\"message\":\"lost\",\"code\":500}}\n\n";
    const DONE: &str = "data: [DONE]\n\n";

    fn metered(head: Head<'_>, chunks: &[(u64, &str)]) -> (Reading, Vec<u64>) {
        let mut meter = Meter::new(Dialect::OpenAiChat, head);
        let mut gaps = Vec::new();
        for &(now_ns, chunk) in chunks {
            meter.chunk(chunk.as_bytes(), now_ns, |gap_ns| gaps.push(gap_ns));
        }
        (*meter.reading(), gaps)
    }

    #[test]
    fn the_first_token_is_neither_a_comment_nor_a_role() {
        let chunks = [
            (5, ""),
            (10, ": keep-alive\n\n"),
            (20, ROLE),
            (70, TOKEN),
            (90, TOKEN),
            (95, USAGE),
            (96, DONE),
        ];
        let (reading, gaps) = metered(STREAM, &chunks);
        assert_eq!(gaps, [20]);
        let expected = Reading {
            first_byte_ns: Some(10),
            first_content_ns: Some(70),
            last_content_ns: Some(90),
            content_events: 2,
            usage: Some(Usage { input: Some(9), output: Some(5), ..Usage::default() }),
            ending: Ending::Done,
        };
        assert_eq!(reading, expected);
        assert_eq!(reading.pace(), Some(Pace { token_ns: 5, estimated: false }));
    }

    #[test]
    fn an_event_counts_when_its_last_byte_comes() {
        let (head, tail) = TOKEN.split_at(TOKEN.len() - 1);
        let (reading, gaps) = metered(STREAM, &[(1, TOKEN), (10, head), (30, tail), (31, TOKEN)]);
        assert_eq!(gaps, [29, 1]);
        assert_eq!(reading.pace(), Some(Pace { token_ns: 15, estimated: true }));
    }

    #[test]
    fn events_in_one_chunk_have_no_gap_between_them() {
        let three = TOKEN.repeat(3);
        assert_eq!(metered(STREAM, &[(7, &three)]).1, [0, 0]);
    }

    #[test]
    fn the_ending_tells_cut_failed_and_complete_streams_apart() {
        for (chunks, expected) in [
            (vec![TOKEN], Ending::Unseen),
            (vec![TOKEN, DONE], Ending::Done),
            (vec![TOKEN, ERROR], Ending::Error),
            (vec![TOKEN, ERROR, DONE], Ending::Error),
            (vec![TOKEN, "data: [DONE]"], Ending::Unseen),
        ] {
            let timed: Vec<_> = chunks.iter().map(|&chunk| (1, chunk)).collect();
            assert_eq!(metered(STREAM, &timed).0.ending, expected, "{chunks:?}");
        }
    }

    #[test]
    fn one_content_event_has_no_pace() {
        assert_eq!(metered(STREAM, &[(1, TOKEN), (9, USAGE), (9, DONE)]).0.pace(), None);
    }

    #[test]
    fn a_json_answer_gives_usage_and_its_end() {
        let head = Head { content_type: Some("application/json"), content_encoding: Some("identity") };
        let (begin, rest) = ("{\"choices\":[],\"usage\":{\"prompt_tokens\":9,", "\"completion_tokens\":5}}");
        let (reading, _) = metered(head, &[(3, begin)]);
        assert_eq!((reading.first_byte_ns, reading.ending), (Some(3), Ending::Unseen));
        let (reading, _) = metered(head, &[(3, begin), (4, rest)]);
        assert_eq!(reading.usage, Some(Usage { input: Some(9), output: Some(5), ..Usage::default() }));
        assert_eq!((reading.first_content_ns, reading.ending), (None, Ending::Done));
    }

    #[test]
    fn a_last_line_may_lack_its_end_and_an_event_may_not() {
        let lines = Head { content_type: Some("application/x-ndjson"), content_encoding: None };
        let line = "{\"message\":{\"content\":\"a\"},\"done\":true,\"eval_count\":1}";
        for (dialect, head, stream, expected) in [
            (Dialect::OllamaChat, lines, line, (Some(9), Ending::Done)),
            (Dialect::OpenAiChat, STREAM, "data: [DONE]\n", (None, Ending::Unseen)),
        ] {
            let mut meter = Meter::new(dialect, head);
            meter.chunk(stream.as_bytes(), 4, |_| {});
            assert_eq!((meter.reading().first_content_ns, meter.reading().ending), (None, Ending::Unseen));
            meter.end(9, |_| {});
            meter.end(10, |_| {});
            assert_eq!((meter.reading().first_content_ns, meter.reading().ending), expected);
        }
    }

    #[test]
    fn what_cannot_be_read_is_only_timed() {
        let gzip = Head { content_encoding: Some("gzip"), ..STREAM };
        let text = Head { content_type: Some("text/plain"), content_encoding: None };
        for head in [gzip, text, Head::default()] {
            let (reading, gaps) = metered(head, &[(4, TOKEN), (5, TOKEN), (6, DONE)]);
            assert_eq!(reading, Reading { first_byte_ns: Some(4), ..Reading::default() }, "{head:?}");
            assert!(gaps.is_empty());
        }
    }

    #[test]
    fn a_meter_is_small_while_its_stream_is_idle() {
        assert!(size_of::<Meter>() <= 384, "{}", size_of::<Meter>());
    }
}
