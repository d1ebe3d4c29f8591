//! Server-sent events cut out of a byte stream.
//!
//! The framing is WHATWG's: lines end with LF, CRLF or CR, `data:` lines join with LF, a blank line sends the event, a byte
//! order mark may open the stream, what no blank line closes is dropped. A CR ends its line at once, also as the last byte of a
//! chunk; an LF that opens the next chunk then belongs to it. Events that lie in one chunk are handed out where they lie; only
//! what a chunk cuts is copied, and never more than the bound of one event.
//!
//! One thing is added: a field `error` sends an event of that name, since older builds of llama.cpp report failures in the middle of
//! a stream that way and a reader true to the standard would miss them.

use memchr::memchr2;

/// Largest event that the sidecar looks into: far above any delta (under 1 KiB; with the log-probabilities of 20 candidates
/// about 2 KiB). The last event of OpenAI's Responses repeats the request's instructions and tools and the whole answer, which is
/// some hundred KiB in long sessions. A longer event is known by its name alone.
pub const EVENT_BYTES_MAX: usize = 1024 * 1024;

/// Buffers larger than this are given back after the event that needed them: streams are many and idle.
const BUFFER_BYTES_KEPT: usize = 4 * 1024;

/// Longest part of a line before its value: `error: ` or `event: ` after a byte order mark.
const FIELD_BYTES_MAX: usize = 10;

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Something complete in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// An event.
    Message {
        /// Its `event:` field, if it has one that is not empty.
        name: Option<&'a [u8]>,
        /// Its `data:` lines, joined with LF.
        data: &'a [u8],
    },
    /// An event whose name and data are longer than the bound; the data was not kept.
    Oversized {
        /// Its `event:` field, if it has one that was kept.
        name: Option<&'a [u8]>,
        /// Their length.
        bytes: usize,
    },
    /// A comment line, the usual keep-alive. Told when it is read, also inside an event.
    Comment,
}

/// Cuts one stream. Any cut between pushes gives the same events.
#[derive(Debug)]
pub struct Splitter {
    event_bytes_max: usize,
    /// The beginning of a line that the last chunk cut, at most as much as an event may hold.
    line: Vec<u8>,
    /// All of that line's bytes, those not kept included.
    line_bytes: usize,
    name: Vec<u8>,
    /// Data of an event that the last chunk cut.
    data: Vec<u8>,
    draft: Draft,
    /// Whether the last byte was a CR: an LF belongs to it.
    after_cr: bool,
    /// Whether no line is complete yet: a byte order mark may open it.
    first_line: bool,
}

/// What is known of the event being read.
#[derive(Clone, Copy, Debug, Default)]
struct Draft {
    has_data: bool,
    data_bytes: usize,
    name_bytes: usize,
}

/// Where the data of the event being read lies: in the chunk, as long as that is one line, or in the splitter's buffer.
enum Data<'a> {
    Here(&'a [u8]),
    Kept,
}

impl Splitter {
    /// Begins a stream. `event_bytes_max` bounds the name and data of one event; [`EVENT_BYTES_MAX`] suits most.
    #[must_use]
    pub fn new(event_bytes_max: usize) -> Splitter {
        Splitter {
            event_bytes_max,
            line: Vec::new(),
            line_bytes: 0,
            name: Vec::new(),
            data: Vec::new(),
            draft: Draft::default(),
            after_cr: false,
            first_line: true,
        }
    }

    /// Reads the next bytes and tells of everything that they complete, in order.
    pub fn push(&mut self, chunk: &[u8], mut on_event: impl FnMut(Event<'_>)) {
        let mut data = Data::Kept;
        let mut rest = chunk;
        if let Some((&first, after)) = chunk.split_first() {
            if self.after_cr && first == b'\n' {
                rest = after;
            }
            self.after_cr = false;
        }
        while let Some(end) = memchr2(b'\n', b'\r', rest) {
            let (line, ending) = rest.split_at(end);
            self.after_cr = ending == b"\r";
            rest = ending.strip_prefix(b"\r\n").or(ending.get(1..)).unwrap_or_default();
            if self.line_bytes == 0 {
                self.read_line(line, line.len(), &mut data, &mut on_event);
            } else {
                self.hold(line);
                let held = std::mem::take(&mut self.line);
                let mut kept = Data::Kept;
                self.settle(&mut data);
                self.read_line(&held, self.line_bytes, &mut kept, &mut on_event);
                self.settle(&mut kept);
                self.line = held;
                self.line_bytes = 0;
                empty(&mut self.line);
            }
        }
        self.hold(rest);
        self.settle(&mut data);
    }

    /// Reads one line. `line` may be cut, `bytes` is how long it was.
    fn read_line<'a>(
        &mut self,
        line: &'a [u8],
        bytes: usize,
        data: &mut Data<'a>,
        on_event: &mut impl FnMut(Event<'_>),
    ) {
        let opened = line.strip_prefix(BYTE_ORDER_MARK).filter(|_| self.first_line);
        self.first_line = false;
        let whole = opened.unwrap_or(line);
        let bytes = bytes - (line.len() - whole.len());
        if whole.is_empty() {
            return self.send(data, on_event);
        }
        let (field, value) = match whole.iter().take(FIELD_BYTES_MAX).position(|&byte| byte == b':') {
            Some(0) => return on_event(Event::Comment),
            Some(colon) => whole.split_at(colon),
            None => (whole, &[][..]),
        };
        let value = value.strip_prefix(b":").unwrap_or(value);
        let value = value.strip_prefix(b" ").unwrap_or(value);
        let value_bytes = bytes - (whole.len() - value.len());
        match field {
            b"data" => self.add_data(value, value_bytes, data),
            b"event" => self.set_name(value, value_bytes),
            b"error" => {
                self.set_name(b"error", b"error".len());
                self.add_data(value, value_bytes, data);
            }
            _ => {}
        }
    }

    fn set_name(&mut self, name: &[u8], bytes: usize) {
        self.draft.name_bytes = bytes;
        self.name.clear();
        if bytes <= self.event_bytes_max {
            self.name.extend_from_slice(name);
        }
    }

    fn add_data<'a>(&mut self, value: &'a [u8], bytes: usize, data: &mut Data<'a>) {
        let joined = self.draft.has_data;
        self.draft.data_bytes += bytes + usize::from(joined);
        if !joined {
            self.draft.has_data = true;
            *data = Data::Here(value);
            return;
        }
        self.settle(data);
        self.keep(b"\n");
        self.keep(value);
    }

    /// Copies what lies in the chunk, before the chunk goes.
    fn settle(&mut self, data: &mut Data<'_>) {
        if let Data::Here(value) = std::mem::replace(data, Data::Kept) {
            self.data.clear();
            self.keep(value);
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.draft.data_bytes <= self.event_bytes_max {
            self.data.extend_from_slice(bytes);
        } else {
            empty(&mut self.data);
        }
    }

    /// A blank line: the event is complete, if there is one.
    fn send(&mut self, data: &mut Data<'_>, on_event: &mut impl FnMut(Event<'_>)) {
        let draft = std::mem::take(&mut self.draft);
        let bytes = draft.data_bytes + draft.name_bytes;
        let data = match std::mem::replace(data, Data::Kept) {
            Data::Here(value) => value,
            Data::Kept => &self.data,
        };
        let name = Some(self.name.as_slice()).filter(|name| !name.is_empty());
        if draft.has_data && bytes > self.event_bytes_max {
            on_event(Event::Oversized { name, bytes });
        } else if draft.has_data {
            on_event(Event::Message { name, data });
        }
        empty(&mut self.data);
        empty(&mut self.name);
    }

    /// Keeps the beginning of a line whose end has not arrived.
    fn hold(&mut self, part: &[u8]) {
        self.line_bytes += part.len();
        let room = (self.event_bytes_max + FIELD_BYTES_MAX).saturating_sub(self.line.len());
        self.line.extend_from_slice(part.get(..room).unwrap_or(part));
    }
}

fn empty(buffer: &mut Vec<u8>) {
    if buffer.capacity() > BUFFER_BYTES_KEPT {
        *buffer = Vec::new();
    } else {
        buffer.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Events as text: `name|data`, `:` for a comment, `name|oversized N`.
    fn events(chunks: &[&[u8]], event_bytes_max: usize) -> Vec<String> {
        let mut splitter = Splitter::new(event_bytes_max);
        let mut told = Vec::new();
        for chunk in chunks {
            splitter.push(chunk, |event| {
                told.push(match event {
                    Event::Message { name, data } => {
                        let name = name.unwrap_or_default().escape_ascii();
                        format!("{name}|{}", data.escape_ascii())
                    }
                    Event::Oversized { name, bytes } => {
                        format!("{}|oversized {bytes}", name.unwrap_or_default().escape_ascii())
                    }
                    Event::Comment => ":".to_owned(),
                });
            });
            let held = splitter.line.len() + splitter.data.len() + splitter.name.len();
            assert!(held <= 3 * (event_bytes_max + FIELD_BYTES_MAX), "{held} bytes held");
        }
        told
    }

    fn check(stream: &str, expected: &[&str]) {
        check_bounded(stream, EVENT_BYTES_MAX, expected);
    }

    fn check_bounded(stream: &str, event_bytes_max: usize, expected: &[&str]) {
        let bytes = stream.as_bytes();
        for chunk_bytes in [1, 2, 3, 5, 1024] {
            let chunks: Vec<_> = bytes.chunks(chunk_bytes).collect();
            assert_eq!(events(&chunks, event_bytes_max), expected, "{stream:?} in chunks of {chunk_bytes}");
        }
        for cut in 0..bytes.len() {
            let (head, tail) = bytes.split_at(cut);
            assert_eq!(events(&[head, &[], tail], event_bytes_max), expected, "{stream:?} cut at {cut}");
        }
    }

    #[test]
    fn a_blank_line_sends_the_event_whatever_ends_the_lines() {
        check("data: a\n\ndata: b\n\n", &["|a", "|b"]);
        check("data: a\r\n\r\ndata: b\r\n\r\n", &["|a", "|b"]);
        check("data: a\r\rdata: b\r\r", &["|a", "|b"]);
        check("data: a\r\n\ndata: b\n\r\ndata: c\n\r", &["|a", "|b", "|c"]);
    }

    #[test]
    fn data_lines_join_and_lose_one_space() {
        check("data: a\ndata:b\ndata:  c\n\n", &["|a\\nb\\n c"]);
        check("data\n\n", &["|"]);
        check("data:\n\n", &["|"]);
        check("data\ndata\n\n", &["|\\n"]);
        check("data: x: y\n\n", &["|x: y"]);
    }

    #[test]
    fn names_belong_to_one_event() {
        check("event: add\ndata: 1\n\ndata: 2\n\n", &["add|1", "|2"]);
        check("data: 1\nevent: a\nevent: b\n\n", &["b|1"]);
        check("event: lonely\n\ndata: 2\n\n", &["|2"]);
        check("event:\ndata: 2\n\n", &["|2"]);
    }

    #[test]
    fn comments_are_told_apart_from_events() {
        check(": keep-alive\n\n:\n\ndata: a\n\n", &[":", ":", "|a"]);
        check("data: a\n: inside\ndata: b\n\n", &[":", "|a\\nb"]);
    }

    #[test]
    fn other_fields_and_unknown_lines_are_passed_over() {
        check("id: 7\nretry: 100\nfoo\ndatax: 1\nData: 2\n data: 3\ndata: 4\n\n", &["|4"]);
        check("an unusually long line without any colon: early on\ndata: 4\n\n", &["|4"]);
    }

    #[test]
    fn a_byte_order_mark_opens_only_the_stream() {
        check("\u{feff}data: a\n\n\u{feff}data: b\n\ndata: c\n\n", &["|a", "|c"]);
        check("\u{feff}: hi\n", &[":"]);
        check("\u{feff}\n\ndata: a\n\n", &["|a"]);
    }

    #[test]
    fn what_no_blank_line_closes_is_dropped() {
        check("data: a\n\ndata: b\n", &["|a"]);
        check("data: b", &[]);
        check("", &[]);
    }

    #[test]
    fn an_error_field_is_an_event_of_that_name() {
        check("data: a\n\nerror: {\"code\":500}\n\ndata: b\n\n", &["|a", "error|{\\\"code\\\":500}", "|b"]);
    }

    #[test]
    fn an_event_over_the_bound_is_told_but_not_kept() {
        check_bounded("data: 12345\n\n", 5, &["|12345"]);
        check_bounded("data: 123456\n\n", 5, &["|oversized 6"]);
        check_bounded("event: e\ndata: 1234\n\nevent: e\ndata: 12345\n\n", 5, &["e|1234", "e|oversized 6"]);
        check_bounded("data: 123\ndata: 4\n\ndata: 123\ndata: 45\n\n", 5, &["|123\\n4", "|oversized 6"]);
        check_bounded(
            "event: abcdefghijklmnopqrstuvwxyz\ndata: 1\n\ndata: 2\n\n",
            5,
            &["|oversized 27", "|2"],
        );
        check_bounded(": a comment may be longer than any event\ndata: 2\n\n", 5, &[":", "|2"]);
        check_bounded("data: 12345678901234567890\ndata: 1\n\n", 5, &["|oversized 22"]);
    }

    #[test]
    fn an_event_in_one_chunk_is_not_copied() {
        let chunk = b"event: e\ndata: where it lies\n\n";
        let mut seen = 0;
        Splitter::new(EVENT_BYTES_MAX).push(chunk, |event| {
            let Event::Message { data, .. } = event else { panic!("{event:?}") };
            assert!(chunk.as_ptr_range().contains(&data.as_ptr()));
            seen += 1;
        });
        assert_eq!(seen, 1);
    }

    #[test]
    fn a_large_event_leaves_no_large_buffer() {
        let mut splitter = Splitter::new(EVENT_BYTES_MAX);
        let value = "x".repeat(100_000);
        for part in [b"data: ", value.as_bytes(), b"\ndata: ", value.as_bytes(), b"\n\n"] {
            splitter.push(part, |_| {});
        }
        assert!(splitter.line.capacity() + splitter.data.capacity() <= 2 * BUFFER_BYTES_KEPT);
    }

    /// Streams dense in the bytes that matter.
    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let part = prop_oneof![
            Just("data: "),
            Just("data:"),
            Just("data"),
            Just("event: e"),
            Just("id: 1"),
            Just("error: x"),
            Just(":"),
            Just("\n"),
            Just("\r"),
            Just("\r\n"),
            Just("\n\n"),
            Just("\r\n\r\n"),
            Just(" "),
            Just("a"),
            Just("[DONE]"),
            Just("\u{feff}"),
            Just("0123456789"),
            Just("é"),
        ];
        prop::collection::vec(part, 0..40).prop_map(|parts| parts.concat().into_bytes())
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_events(
            stream in stream(),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
            event_bytes_max in prop_oneof![0_usize..24, Just(EVENT_BYTES_MAX)],
        ) {
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.sort_unstable();
            let mut chunks = Vec::new();
            let mut from = 0;
            for cut in cuts.into_iter().chain([stream.len()]) {
                chunks.push(&stream[from..cut]);
                from = cut;
            }
            let whole = events(&[&stream], event_bytes_max);
            prop_assert_eq!(&events(&chunks, event_bytes_max), &whole);
            let bytes: Vec<_> = stream.chunks(1).collect();
            prop_assert_eq!(&events(&bytes, event_bytes_max), &whole);
        }
    }
}
