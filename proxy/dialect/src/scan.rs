//! A request body → [`Facts`], while it passes.
//!
//! The sidecar holds a body back only until [`Scanner::push`] answers [`Progress::ModelKnown`], then routes and lets the bytes
//! through; it keeps pushing what follows. [`Progress::Conflict`] and [`Progress::Malformed`] end the request also then: parsers
//! differ in which of two values they take and in how much beyond JSON they accept (Python reads `NaN`), so past a defect
//! nobody can say what the model server will read.
//!
//! A body with a `content-encoding` is not read: it is routed by path and header.

use crate::defect::{Defect, ScanError};
use crate::grpc::Messages;
use crate::json::{Clip, Leaf, Sink, Value, Walker};
use crate::media;
use crate::multipart::{Field, Form};
use crate::path;
use crate::prefix::{ADAPTER, Boundary, End, Prefix, SALT};
use crate::tables::{Request, Streams};
use crate::{Dialect, Facts, MODEL_BYTES_MAX};

/// What a dialect's table of request paths may ask for. Keys are named where an error must name them; numbers, 0 to 12, tell the
/// prompts of one table apart: the higher one stands before the lower one in what the engine makes of them.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wanted {
    Model,
    /// The same, where the path has none: beside a path that has one the key is the engine's own business.
    ModelUnlessInPath,
    Stream,
    /// The output cap under its first name.
    OutputCap(&'static str),
    /// The output cap under its older name: counts where the first is absent.
    OutputCapFallback(&'static str),
    /// Prompt text in string values.
    Text(u8),
    /// Tool descriptions: templates print them as JSON, so their keys are prompt text as well.
    TextAndKeys(u8),
    /// Prompt text, or token ids as numbers.
    TextOrIds(u8),
    /// Base64, or a data URL. A string that is neither counts as text.
    Media,
    /// A secret that keeps the cache of its callers apart from that of others.
    CacheSalt,
    /// The name of an adapter (LoRA) beside the model's.
    Adapter,
    /// In a prompt, and no part of it.
    Aside,
}

/// What the head of a request says about its body.
#[derive(Clone, Copy, Debug, Default)]
pub struct Head<'a> {
    /// The request target, with or without a query.
    pub path: &'a str,
    /// The `content-type` header.
    pub content_type: Option<&'a str>,
    /// The `content-encoding` header.
    pub content_encoding: Option<&'a str>,
}

/// How far a scan has come. Later answers replace earlier ones; `Conflict` and `Malformed` stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Progress {
    /// No model yet: it may still come.
    Scanning,
    /// The model is known: the request can be routed.
    ModelKnown,
    /// No model will come: the object is complete without one, or the dialect has no body that we read.
    ModelAbsent,
    /// A key that we act on was given twice with different values. See [`Scanner::error`].
    Conflict,
    /// The body cannot be read any further. See [`Scanner::error`].
    Malformed,
}

/// Reads one request body. Holds about a kilobyte, however long the body; with the hashes of its prefix another, and at most four
/// of hashes.
pub struct Scanner {
    source: Source,
    reading: Reading,
    error: Option<ScanError>,
}

/// How the body is read.
enum Source {
    Unread,
    Json(Box<Walker<Wanted>>),
    Form(Box<Form>),
    Messages(Box<Messages>),
}

impl Scanner {
    /// Begins a body of this dialect.
    #[must_use]
    pub fn new(dialect: Dialect, head: Head<'_>) -> Scanner {
        let tables = dialect.tables();
        let mut reading = Reading::default();
        reading.facts.streaming = match tables.streams {
            Streams::Never | Streams::IfAsked => false,
            Streams::Always | Streams::UnlessRefused => true,
            Streams::ByPath => path::decoded(head.path).ends_with(b"_stream"),
        };
        let mut error = None;
        match tables.request {
            Request::Path => error = reading.note_path(head.path, Verb::Any).err(),
            Request::Json(_) => error = reading.note_path(head.path, Verb::Some).err(),
            Request::Unread | Request::Form | Request::Messages => {}
        }
        let source = match tables.request {
            Request::Unread | Request::Path => Source::Unread,
            _ if head.content_encoding.is_some_and(is_compression) => Source::Unread,
            Request::Json(shape) => Source::Json(Box::new(Walker::new(shape))),
            Request::Messages => Source::Messages(Box::default()),
            Request::Form => match media::boundary(head.content_type.unwrap_or_default()) {
                Ok(boundary) => Source::Form(Box::new(Form::new(boundary))),
                Err(defect) => {
                    error = Some(ScanError { offset: 0, defect });
                    Source::Unread
                }
            },
        };
        Scanner { source, reading, error }
    }

    /// The same, where the prompt is hashed as it passes: see [`Scanner::prefix`]. To be said before the first byte.
    #[must_use]
    pub fn with_prefix(mut self) -> Scanner {
        if matches!(self.source, Source::Json(_)) {
            self.reading.prefix = Some(Box::new(Prefix::new()));
        }
        self
    }

    /// Where the prompt that has passed so far can be shared with others, from its beginning on. Final when the body has ended: the
    /// model or a salt may still come, and another order of the sections with them. Empty without [`Scanner::with_prefix`], for
    /// bodies that are not JSON, and for prompts below 512 bytes.
    #[must_use]
    pub fn prefix(&self) -> Vec<Boundary> {
        let model = self.reading.facts.model.as_deref();
        self.reading.prefix.as_ref().map_or_else(Vec::new, |prefix| prefix.boundaries(model))
    }

    /// Reads the next bytes of the body; any cut between pushes gives the same facts.
    pub fn push(&mut self, bytes: &[u8]) -> Progress {
        if self.error.is_none() {
            let Scanner { source, reading, .. } = self;
            self.error = match source {
                Source::Unread => Ok(()),
                Source::Json(walker) => walker.push(bytes, reading),
                Source::Form(form) => form.push(bytes, |field| reading.field(field)),
                Source::Messages(messages) => messages.push(bytes, |name| reading.message(name)),
            }
            .err();
        }
        self.progress()
    }

    /// What the body says so far.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.reading.facts
    }

    /// Why the scan stopped, after [`Progress::Conflict`] or [`Progress::Malformed`].
    #[must_use]
    pub fn error(&self) -> Option<&ScanError> {
        self.error.as_ref()
    }

    /// The body has ended.
    ///
    /// # Errors
    ///
    /// What was wrong with it, [`Defect::Empty`] and [`Defect::Truncated`] included.
    pub fn finish(self) -> Result<Facts, ScanError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        match &self.source {
            Source::Unread => {}
            Source::Json(walker) => walker.finish()?,
            Source::Form(form) => form.finish()?,
            Source::Messages(messages) => messages.finish()?,
        }
        Ok(self.reading.facts)
    }

    /// How far the scan has come.
    pub fn progress(&self) -> Progress {
        match &self.error {
            Some(ScanError { defect: Defect::Conflict { .. } | Defect::AnotherModel, .. }) => {
                Progress::Conflict
            }
            Some(_) => Progress::Malformed,
            None if self.reading.facts.model.is_some() => Progress::ModelKnown,
            None if self.is_over() => Progress::ModelAbsent,
            None => Progress::Scanning,
        }
    }

    /// Whether no model can come any more.
    fn is_over(&self) -> bool {
        match &self.source {
            Source::Unread => true,
            Source::Json(walker) => walker.is_complete(),
            Source::Form(form) => form.is_complete(),
            Source::Messages(messages) => messages.is_unread() || self.reading.model.is_some(),
        }
    }
}

fn is_compression(content_encoding: &str) -> bool {
    let encoding = content_encoding.trim();
    !encoding.is_empty() && !encoding.eq_ignore_ascii_case("identity")
}

/// The facts with what is needed to tell a repeated key.
///
/// Of each key: `None` when not seen, `Some(None)` when `null`.
#[derive(Default)]
struct Reading {
    facts: Facts,
    is_model_in_path: bool,
    model: Option<Option<String>>,
    stream: Option<Option<bool>>,
    output_cap: Option<Option<u64>>,
    output_cap_fallback: Option<Option<u64>>,
    /// One bit for each prompt of the table.
    prompts: u16,
    /// Bytes of the media string being read, counted as media until its beginning is known to be something else.
    media_bytes: u64,
    /// Where the prompt is hashed.
    prefix: Option<Box<Prefix>>,
}

/// What must stand behind the model of a path.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verb {
    Any,
    Some,
}

impl Reading {
    /// A path of the Open Inference Protocol has the model.
    fn note_path(&mut self, path: &str, wanted: Verb) -> Result<(), ScanError> {
        let decoded = path::decoded(path);
        let named = path::named(&decoded).filter(|named| wanted == Verb::Any || named.verb.is_some());
        let Some(named) = named else { return Ok(()) };
        self.is_model_in_path = true;
        let model = model_name(named.model.as_bytes()).map_err(|defect| ScanError { offset: 0, defect })?;
        self.model = Some(Some(model.to_owned()));
        self.facts.model = self.model.clone().flatten();
        Ok(())
    }

    /// A field of a form.
    fn field(&mut self, field: Field<'_>) -> Result<(), Defect> {
        let repeated = &mut self.facts.repeated_keys;
        match field {
            Field::Model(value) => {
                let model = Some(model_name(value)?).filter(|name| !name.is_empty()).map(str::to_owned);
                note(&mut self.model, model, "model", repeated)?;
                self.facts.model = self.model.clone().flatten();
            }
            Field::Stream(value) => {
                let flag = value.eq_ignore_ascii_case(b"true") || value == b"1";
                note(&mut self.stream, Some(flag), "stream", repeated)?;
                self.facts.streaming = flag;
            }
            Field::Text(bytes) => self.facts.prompt_bytes += bytes,
            Field::File(bytes) => self.facts.media_bytes += bytes,
        }
        Ok(())
    }

    /// The model of one message, empty if it names none. All messages of a stream go where the first one goes.
    fn message(&mut self, name: &[u8]) -> Result<(), Defect> {
        let model = Some(model_name(name)?).filter(|name| !name.is_empty()).map(str::to_owned);
        match &self.model {
            None => {
                self.facts.model.clone_from(&model);
                self.model = Some(model);
            }
            Some(first) if *first == model => {}
            Some(_) => return Err(Defect::AnotherModel),
        }
        Ok(())
    }

    fn prompt(&mut self, number: u8) {
        let bit = 1 << number;
        if self.prompts & bit != 0 {
            self.facts.repeated_keys = self.facts.repeated_keys.saturating_add(1);
        }
        self.prompts |= bit;
    }
}

impl Sink<Wanted> for Reading {
    fn value(&mut self, mark: Wanted, value: Value<'_>) -> Result<(), Defect> {
        let repeated = &mut self.facts.repeated_keys;
        match mark {
            Wanted::ModelUnlessInPath if self.is_model_in_path => {}
            Wanted::Model | Wanted::ModelUnlessInPath => {
                note(&mut self.model, model(value)?, "model", repeated)?;
                self.facts.model = self.model.clone().flatten();
            }
            Wanted::Stream => {
                let unsaid = self.facts.streaming;
                note(&mut self.stream, flag(value, "stream")?, "stream", repeated)?;
                self.facts.streaming = self.stream.flatten().unwrap_or(unsaid);
            }
            Wanted::OutputCap(key) => note(&mut self.output_cap, cap(value, key)?, key, repeated)?,
            Wanted::OutputCapFallback(key) => {
                note(&mut self.output_cap_fallback, cap(value, key)?, key, repeated)?;
            }
            Wanted::Text(number) | Wanted::TextAndKeys(number) | Wanted::TextOrIds(number) => {
                self.prompt(number);
            }
            Wanted::Media | Wanted::CacheSalt | Wanted::Adapter | Wanted::Aside => {}
        }
        self.facts.output_tokens_max = self.output_cap.flatten().or(self.output_cap_fallback.flatten());
        Ok(())
    }

    fn leaf(&mut self, mark: Wanted, leaf: Leaf<'_>) {
        if let Some(prefix) = &mut self.prefix {
            hash(prefix, mark, leaf);
        }
        match (mark, leaf) {
            (Wanted::CacheSalt | Wanted::Adapter | Wanted::Aside, _) => {}
            (Wanted::Media, Leaf::Text(bytes)) => {
                self.facts.media_bytes += bytes.len() as u64;
                self.media_bytes += bytes.len() as u64;
            }
            (Wanted::Media, Leaf::TextEnd(beginning)) => {
                let bytes = std::mem::take(&mut self.media_bytes);
                if !is_media(beginning) {
                    self.facts.media_bytes -= bytes;
                    self.facts.prompt_bytes += bytes;
                }
            }
            (_, Leaf::Text(bytes)) => self.facts.prompt_bytes += bytes.len() as u64,
            (Wanted::TextAndKeys(_), Leaf::Key(bytes)) => self.facts.prompt_bytes += bytes as u64,
            (Wanted::TextOrIds(_), Leaf::Number(_)) => self.facts.prompt_token_ids += 1,
            (_, Leaf::Key(_) | Leaf::KeyEnd(_) | Leaf::Number(_) | Leaf::Literal(_) | Leaf::TextEnd(_)) => {}
        }
    }
}

/// Adds a piece of the prompt to its hashes.
fn hash(prefix: &mut Prefix, mark: Wanted, leaf: Leaf<'_>) {
    let number = match mark {
        Wanted::Text(number) | Wanted::TextAndKeys(number) | Wanted::TextOrIds(number) => number,
        Wanted::CacheSalt => SALT,
        Wanted::Adapter => ADAPTER,
        Wanted::Media => return hash_media(prefix, leaf),
        _ => return,
    };
    match (mark, leaf) {
        (Wanted::CacheSalt | Wanted::Adapter, Leaf::Text(bytes)) => prefix.aside(number, bytes),
        (_, Leaf::Text(bytes)) => prefix.text(number, bytes),
        (Wanted::TextOrIds(_), Leaf::Number(clip)) => prefix.token(number, clip.bytes),
        (_, Leaf::Number(clip)) => prefix.piece(number, clip.bytes, End::Number),
        (Wanted::TextAndKeys(_), Leaf::KeyEnd(clip)) => {
            prefix.text(number, clip.bytes);
            prefix.piece(number, &[], End::Key);
        }
        (_, Leaf::KeyEnd(clip)) => prefix.piece(number, clip.bytes, End::Key),
        (_, Leaf::Literal(spelling)) => prefix.piece(number, spelling, End::Literal),
        (_, Leaf::TextEnd(_)) => prefix.piece(number, &[], End::Text),
        (_, Leaf::Key(_)) => {}
    }
}

fn hash_media(prefix: &mut Prefix, leaf: Leaf<'_>) {
    match leaf {
        Leaf::Text(bytes) => prefix.media(bytes),
        Leaf::TextEnd(_) => prefix.media(&[End::Text as u8]),
        _ => {}
    }
}

/// Whether a string is base64 or a data URL, by how it begins. Text has blanks or punctuation within that much.
fn is_media(beginning: Clip<'_>) -> bool {
    let in_base64 =
        |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=' | b'-' | b'_');
    beginning.bytes.starts_with(b"data:") || beginning.bytes.iter().all(in_base64)
}

/// Keeps the first value of a key, counts the same value, refuses another.
fn note<T: PartialEq>(
    seen: &mut Option<T>,
    value: T,
    key: &'static str,
    repeated: &mut u32,
) -> Result<(), Defect> {
    match seen {
        None => *seen = Some(value),
        Some(first) if *first == value => *repeated = repeated.saturating_add(1),
        Some(_) => return Err(Defect::Conflict { key }),
    }
    Ok(())
}

fn model(value: Value<'_>) -> Result<Option<String>, Defect> {
    let clip = match value {
        Value::Null => return Ok(None),
        Value::Text(clip) => clip,
        _ => return Err(Defect::WrongType { key: "model", wanted: "a string" }),
    };
    if !clip.whole {
        return Err(Defect::ModelTooLong);
    }
    Ok(Some(model_name(clip.bytes)?.to_owned()))
}

/// A name that can be a header value and a label.
fn model_name(bytes: &[u8]) -> Result<&str, Defect> {
    if bytes.len() > MODEL_BYTES_MAX {
        return Err(Defect::ModelTooLong);
    }
    let name = std::str::from_utf8(bytes).map_err(|_| Defect::Utf8)?;
    if name.chars().any(char::is_control) {
        return Err(Defect::ModelUnprintable);
    }
    Ok(name)
}

fn flag(value: Value<'_>, key: &'static str) -> Result<Option<bool>, Defect> {
    match value {
        Value::Null => Ok(None),
        Value::Bool(flag) => Ok(Some(flag)),
        _ => Err(Defect::WrongType { key, wanted: "true or false" }),
    }
}

/// A cap; `None` when `null` or negative, which llama.cpp reads as no limit.
fn cap(value: Value<'_>, key: &'static str) -> Result<Option<u64>, Defect> {
    let wrong = Defect::WrongType { key, wanted: "a whole number of tokens" };
    match value {
        Value::Null => Ok(None),
        Value::Number(clip) if clip.bytes.first() == Some(&b'-') => Ok(None),
        Value::Number(_) => value.whole_number().map(Some).ok_or(wrong),
        _ => Err(wrong),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{JSON_DEPTH_MAX, MODEL_BYTES_MAX};

    fn scan(body: &[u8], chunk_bytes: usize) -> Result<Facts, ScanError> {
        let mut scanner = Scanner::new(Dialect::OpenAiChat, Head::default());
        for chunk in body.chunks(chunk_bytes) {
            let _progress = scanner.push(chunk);
        }
        scanner.finish()
    }

    fn check(body: &str, expected: &Result<Facts, ScanError>) {
        for chunk_bytes in [1, 7, 4_093, 16_384, usize::MAX] {
            let result = scan(body.as_bytes(), chunk_bytes);
            assert_eq!(&result, expected, "{body:.80}… in chunks of {chunk_bytes}");
        }
    }

    fn defect(offset: usize, defect: Defect) -> Result<Facts, ScanError> {
        Err(ScanError { offset: offset as u64, defect })
    }

    #[test]
    fn a_model_after_megabytes_of_text_is_found() {
        for piece in ["plain text ", "日本語", r#"a\n\u00e9\""#, "é🙂"] {
            let content = piece.repeat(1_500_000 / piece.len());
            let body = format!(r#"{{"messages":[{{"content":"{content}"}}],"model":"last"}}"#);
            let facts = Facts {
                model: Some("last".to_owned()),
                prompt_bytes: content.len() as u64,
                ..Facts::default()
            };
            assert_eq!(scan(body.as_bytes(), 16_384), Ok(facts.clone()), "{piece}");
            assert_eq!(scan(body.as_bytes(), usize::MAX), Ok(facts), "{piece}");
        }
    }

    /// Strings are checked in windows: a character, or a defect, may lie across the border of two.
    #[test]
    fn every_place_around_the_border_of_a_window_is_checked() {
        for before in 8_180..8_196 {
            let body = |tail: &str| format!(r#"{{"x":"{}{tail}"}}"#, "a".repeat(before));
            check(&body("é日🙂"), &Ok(Facts::default()));
            check(&body("\u{1}"), &defect(6 + before, Defect::Control(1)));
            let mut cut = body("🙂").into_bytes();
            cut.remove(6 + before + 3);
            for chunk_bytes in [1, 4_093, usize::MAX] {
                assert_eq!(scan(&cut, chunk_bytes), defect(6 + before, Defect::Utf8), "{before}");
            }
        }
    }

    #[test]
    fn depth_is_bounded_without_recursion() {
        let nested = |depth: usize| {
            let open = "[{\"k\":".repeat(depth / 2);
            let close = "}]".repeat(depth / 2);
            format!(r#"{{"messages":{open}"t"{close}}}"#)
        };
        let facts = Facts { prompt_bytes: 1, ..Facts::default() };
        check(&nested(JSON_DEPTH_MAX - 2), &Ok(facts));
        check(&nested(JSON_DEPTH_MAX), &defect(12 + 6 * (JSON_DEPTH_MAX / 2) - 5, Defect::TooDeep));
        check(&"{\"a\":".repeat(100_000), &defect(5 * JSON_DEPTH_MAX, Defect::TooDeep));
        check(&format!("{{\"a\":{}", "[".repeat(100_000)), &defect(4 + JSON_DEPTH_MAX, Defect::TooDeep));
    }

    #[test]
    fn brackets_must_match_at_every_depth() {
        for depth in [1, 7, 8, 9, 63, 64, 65, 128, 500, JSON_DEPTH_MAX - 1] {
            let body = format!(r#"{{"a":{}}}"#, "[".repeat(depth));
            let wanted = "a JSON value";
            check(&body, &defect(5 + depth, Defect::Unexpected { found: b'}', wanted }));
            let body = format!(r#"{{"a":{}1}}"#, "[".repeat(depth));
            let wanted = "a comma or a closing bracket";
            check(&body, &defect(6 + depth, Defect::Unexpected { found: b'}', wanted }));
        }
    }

    #[test]
    fn the_model_bound_counts_bytes_after_escapes_are_undone() {
        let named = |name: &str| format!(r#"{{"model":"{name}"}}"#);
        let longest = "\\u00e9".repeat(MODEL_BYTES_MAX / 2);
        let facts = Facts { model: Some("é".repeat(MODEL_BYTES_MAX / 2)), ..Facts::default() };
        check(&named(&longest), &Ok(facts));
        check(&named(&format!("{longest}x")), &defect(9, Defect::ModelTooLong));
        check(&named("a\\u0085b"), &defect(9, Defect::ModelUnprintable));
    }

    #[test]
    fn a_key_longer_than_the_bound_is_nobodys_key() {
        let key = format!("model{}", "x".repeat(MODEL_BYTES_MAX));
        check(&format!(r#"{{"{key}":5}}"#), &Ok(Facts::default()));
    }

    #[test]
    fn a_conflict_is_found_after_the_model_was_told() {
        let mut scanner = Scanner::new(Dialect::OpenAiChat, Head::default());
        assert_eq!(scanner.push(br#"{"stream":true"#), Progress::Scanning);
        assert!(scanner.facts().streaming);
        assert_eq!(scanner.push(br#","model":"a"#), Progress::Scanning);
        assert_eq!(scanner.push(br#"","messages":["hello"#), Progress::ModelKnown);
        assert_eq!(scanner.facts().prompt_bytes, 5);
        assert_eq!(scanner.push(br#" world"],"model":"b"#), Progress::ModelKnown);
        assert_eq!(scanner.push(br#"""#), Progress::Conflict);
        assert_eq!(scanner.push(br#"}"#), Progress::Conflict);
        assert_eq!(scanner.facts().model.as_deref(), Some("a"));
        let error = ScanError { offset: 62, defect: Defect::Conflict { key: "model" } };
        assert_eq!(scanner.error(), Some(&error));
        assert_eq!(scanner.finish(), Err(error));
    }

    #[test]
    fn a_body_may_stop_anywhere_but_at_its_end() {
        let body = r#"{"a":[1.5e3,"\ud83d\ude00é",{"b":null}]}"#;
        for cut in 0..body.len() {
            let expected = defect(cut, if cut == 0 { Defect::Empty } else { Defect::Truncated });
            assert_eq!(scan(&body.as_bytes()[..cut], 5), expected, "cut at {cut}");
        }
        check(body, &Ok(Facts::default()));
        check("\u{feff}", &defect(3, Defect::Empty));
        check("\u{feff}\u{feff}{}", &defect(3, Defect::Unexpected { found: 0xEF, wanted: "a JSON value" }));
    }

    #[test]
    fn a_scanner_takes_less_than_a_kilobyte() {
        assert!(size_of::<Scanner>() <= 1_024, "{}", size_of::<Scanner>());
    }
}
