//! `multipart/form-data` (RFC 7578) while it passes: the fields `model`, `stream` and `prompt`, and how large the files are.
//!
//! ```text
//! Start ─► Delimited ─CRLF─► Header … ─blank line─► Body ─delimiter─► Delimited ─"--"─► End
//! ```
//!
//! The `model` decides where the request goes, so wherever two parsers could see different fields the form is refused: something
//! before the first delimiter or after the last, a delimiter after a bare CR or LF or straight after a header, folded headers, two
//! names, names with escapes or in RFC 2231's spelling. No client in use writes such.

use memchr::memchr2;

use crate::MODEL_BYTES_MAX;
use crate::defect::{Defect, ScanError};

/// Longest header line of a part. A disposition has the name of a file, which file systems bound at 255 bytes (thrice that when
/// percent-encoded).
const LINE_BYTES_MAX: usize = 4 * 1024;

/// Header lines of one part; three are usual.
const LINES_MAX: u32 = 16;

/// What is told of a form.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Field<'a> {
    Model(&'a [u8]),
    Stream(&'a [u8]),
    /// So many bytes of the prompt.
    Text(u64),
    /// So many bytes of a file.
    File(u64),
}

/// Reads one form.
#[derive(Debug)]
pub(crate) struct Form {
    /// Two dashes and the boundary.
    dashes: Vec<u8>,
    state: State,
    offset: u64,
    /// The header line being read, or the beginning of a value.
    kept: Vec<u8>,
    lines: u32,
    part: Part,
    /// Bytes of the part's body, the delimiter after it included as far as it has come.
    body_bytes: u64,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// At the start of a line, so many bytes of the delimiter matched.
    Line {
        after: Break,
        matched: usize,
    },
    /// In a part's body, anywhere but at the start of a line.
    Body {
        after_cr: bool,
    },
    /// After a delimiter, and its first byte if there was one.
    Delimited {
        first: Option<u8>,
    },
    Header {
        after_cr: bool,
    },
    /// After the last delimiter.
    End,
}

/// What the line that is being read comes after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Break {
    /// Nothing: it opens the form.
    Start,
    /// The blank line after a part's headers.
    Headers,
    CrLf,
    /// A CR or an LF alone.
    Bare,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Part {
    name: Name,
    is_named: bool,
    is_file: bool,
    is_encoded: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Name {
    Model,
    Stream,
    Prompt,
    #[default]
    Other,
}

impl Form {
    pub(crate) fn new(boundary: &str) -> Form {
        Form {
            dashes: format!("--{boundary}").into_bytes(),
            state: State::Line { after: Break::Start, matched: 0 },
            offset: 0,
            kept: Vec::new(),
            lines: 0,
            part: Part::default(),
            body_bytes: 0,
        }
    }

    /// Whether the last delimiter has come.
    pub(crate) fn is_complete(&self) -> bool {
        matches!(self.state, State::End)
    }

    /// Whether the form may end here.
    pub(crate) fn finish(&self) -> Result<(), ScanError> {
        let what = match self.state {
            State::End => return Ok(()),
            State::Line { after: Break::Start, matched: 0 } => {
                return self.wrong(Defect::Form("it is empty"));
            }
            _ => "it ends before its last delimiter",
        };
        self.wrong(Defect::Form(what))
    }

    fn wrong<T>(&self, defect: Defect) -> Result<T, ScanError> {
        Err(ScanError { offset: self.offset, defect })
    }

    /// Reads the next bytes.
    pub(crate) fn push(
        &mut self,
        bytes: &[u8],
        mut on_field: impl FnMut(Field<'_>) -> Result<(), Defect>,
    ) -> Result<(), ScanError> {
        let mut rest = bytes;
        while let Some(&byte) = rest.first() {
            // The inside of lines of a body, which is nearly everything.
            let run = match self.state {
                State::Body { after_cr: false } => memchr2(b'\r', b'\n', rest).unwrap_or(rest.len()),
                _ => 0,
            };
            if run > 0 {
                self.keep(rest.get(..run).unwrap_or_default());
                self.offset += run as u64;
                rest = rest.get(run..).unwrap_or_default();
                continue;
            }
            if let Err(defect) = self.take(byte, &mut on_field) {
                return self.wrong(defect);
            }
            self.offset += 1;
            rest = rest.get(1..).unwrap_or_default();
        }
        Ok(())
    }

    fn take(
        &mut self,
        byte: u8,
        on_field: &mut impl FnMut(Field<'_>) -> Result<(), Defect>,
    ) -> Result<(), Defect> {
        match self.state {
            State::Line { after, matched } => self.line(after, matched, byte, on_field)?,
            State::Body { after_cr } => self.body(after_cr, byte),
            State::Delimited { first } => self.delimited(first, byte)?,
            State::Header { after_cr } => self.header(after_cr, byte)?,
            State::End if matches!(byte, b'\r' | b'\n') => {}
            State::End => return Err(Defect::Form("something follows its last delimiter")),
        }
        Ok(())
    }

    fn line(
        &mut self,
        after: Break,
        matched: usize,
        byte: u8,
        on_field: &mut impl FnMut(Field<'_>) -> Result<(), Defect>,
    ) -> Result<(), Defect> {
        if self.dashes.get(matched) != Some(&byte) {
            if after == Break::Start {
                return Err(Defect::Form("it does not begin with the boundary of its content-type"));
            }
            self.state = State::Body { after_cr: false };
            self.body(false, byte);
            return Ok(());
        }
        self.keep(&[byte]);
        if matched + 1 < self.dashes.len() {
            self.state = State::Line { after, matched: matched + 1 };
            return Ok(());
        }
        match after {
            Break::Start => {}
            Break::CrLf => self.end_part(on_field)?,
            Break::Headers => return Err(Defect::Form("a delimiter follows headers with no line between")),
            Break::Bare => return Err(Defect::Form("a delimiter follows a bare CR or LF")),
        }
        self.state = State::Delimited { first: None };
        Ok(())
    }

    fn body(&mut self, after_cr: bool, byte: u8) {
        self.keep(&[byte]);
        self.state = match (after_cr, byte) {
            (true, b'\n') => State::Line { after: Break::CrLf, matched: 0 },
            (false, b'\n') => State::Line { after: Break::Bare, matched: 0 },
            (_, b'\r') => State::Body { after_cr: true },
            // After a bare CR: the byte may open a delimiter for parsers that end lines there.
            (true, _) if self.dashes.first() == Some(&byte) => State::Line { after: Break::Bare, matched: 1 },
            _ => State::Body { after_cr: false },
        };
    }

    fn delimited(&mut self, first: Option<u8>, byte: u8) -> Result<(), Defect> {
        self.state = match (first, byte) {
            (None, b'\r' | b'-') => State::Delimited { first: Some(byte) },
            (Some(b'\r'), b'\n') => {
                self.part = Part::default();
                self.lines = 0;
                self.kept.clear();
                State::Header { after_cr: false }
            }
            (Some(b'-'), b'-') => State::End,
            _ => return Err(Defect::Form("a delimiter is followed by neither CR LF nor two dashes")),
        };
        Ok(())
    }

    fn header(&mut self, after_cr: bool, byte: u8) -> Result<(), Defect> {
        match (after_cr, byte) {
            (true, b'\n') => {
                let line = std::mem::take(&mut self.kept);
                self.header_line(&line)?;
                self.kept = line;
                self.kept.clear();
                Ok(())
            }
            (true, _) | (false, b'\n') => Err(Defect::Form("a header has a bare CR or LF")),
            (false, b'\r') => {
                self.state = State::Header { after_cr: true };
                Ok(())
            }
            (false, _) if self.kept.len() == LINE_BYTES_MAX => {
                Err(Defect::Form("a header is longer than 4096 bytes"))
            }
            (false, _) => {
                self.kept.push(byte);
                Ok(())
            }
        }
    }

    fn header_line(&mut self, line: &[u8]) -> Result<(), Defect> {
        self.state = State::Header { after_cr: false };
        if line.is_empty() {
            if !self.part.is_named {
                return Err(Defect::Form("a part has no name"));
            }
            if self.part.name != Name::Other && self.part.is_encoded {
                return Err(Defect::Form("a field that we read has a content-transfer-encoding"));
            }
            if self.part.name == Name::Model && self.part.is_file {
                return Err(Defect::WrongType { key: "model", wanted: "a field of the form, not a file" });
            }
            self.body_bytes = 0;
            self.state = State::Line { after: Break::Headers, matched: 0 };
            return Ok(());
        }
        self.lines += 1;
        if self.lines > LINES_MAX {
            return Err(Defect::Form("a part has more than 16 headers"));
        }
        if line.first().is_some_and(|byte| matches!(byte, b' ' | b'\t')) {
            return Err(Defect::Form("a header is folded"));
        }
        let colon =
            line.iter().position(|&byte| byte == b':').ok_or(Defect::Form("a header has no colon"))?;
        let (name, value) = line.split_at(colon);
        if !name.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')) {
            return Err(Defect::Form("the name of a header has a blank or a special character"));
        }
        let value = value.get(1..).unwrap_or_default();
        if name.eq_ignore_ascii_case(b"content-disposition") {
            self.disposition(value)
        } else if name.eq_ignore_ascii_case(b"content-transfer-encoding") {
            let plain: [&[u8]; 3] = [b"7bit", b"8bit", b"binary"];
            self.part.is_encoded = !plain.iter().any(|plain| value.trim_ascii().eq_ignore_ascii_case(plain));
            Ok(())
        } else {
            Ok(())
        }
    }

    fn disposition(&mut self, value: &[u8]) -> Result<(), Defect> {
        if self.part.is_named {
            return Err(Defect::Form("a part has two dispositions"));
        }
        for parameter in parameters(value)?.iter().skip(1) {
            let equals = parameter.iter().position(|&byte| byte == b'=').unwrap_or(parameter.len());
            let (key, value) = parameter.split_at(equals);
            let key = key.trim_ascii().to_ascii_lowercase();
            match key.as_slice() {
                b"name" if self.part.is_named => return Err(Defect::Form("a part has two names")),
                b"name" => {
                    self.part.is_named = true;
                    self.part.name = name_of(value.strip_prefix(b"=").unwrap_or_default().trim_ascii())?;
                }
                key if key.starts_with(b"name") => {
                    return Err(Defect::Form("a name is written in RFC 2231's spelling"));
                }
                key if key.starts_with(b"filename") => self.part.is_file = true,
                _ => {}
            }
        }
        Ok(())
    }

    /// Counts bytes of a body, and keeps those of a value, its delimiter included.
    fn keep(&mut self, bytes: &[u8]) {
        self.body_bytes += bytes.len() as u64;
        if matches!(self.part.name, Name::Model | Name::Stream) {
            let room = (MODEL_BYTES_MAX + 1).saturating_sub(self.kept.len());
            self.kept.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
        }
    }

    fn end_part(&mut self, on_field: &mut impl FnMut(Field<'_>) -> Result<(), Defect>) -> Result<(), Defect> {
        let bytes = self.body_bytes.saturating_sub((self.dashes.len() + b"\r\n".len()) as u64);
        let kept = usize::try_from(bytes).map_or(self.kept.len(), |bytes| bytes.min(self.kept.len()));
        let value = self.kept.get(..kept).unwrap_or_default();
        match self.part.name {
            Name::Model => on_field(Field::Model(value)),
            Name::Stream => on_field(Field::Stream(value)),
            Name::Prompt => on_field(Field::Text(bytes)),
            Name::Other if self.part.is_file => on_field(Field::File(bytes)),
            Name::Other => Ok(()),
        }
    }
}

/// The parts of a header's value between semicolons that stand outside quotes.
fn parameters(value: &[u8]) -> Result<Vec<&[u8]>, Defect> {
    let mut parameters = Vec::new();
    let mut is_quoted = false;
    let mut from = 0;
    for (at, &byte) in value.iter().enumerate() {
        match byte {
            b'"' if at > 0 && value.get(at - 1) == Some(&b'\\') => {
                return Err(Defect::Form("a disposition has a quote after a backslash; percent-encode it"));
            }
            b'"' => is_quoted = !is_quoted,
            b';' if !is_quoted => {
                parameters.push(value.get(from..at).unwrap_or_default());
                from = at + 1;
            }
            _ => {}
        }
    }
    if is_quoted {
        return Err(Defect::Form("a quote in a disposition is not closed"));
    }
    parameters.push(value.get(from..).unwrap_or_default());
    Ok(parameters)
}

fn name_of(value: &[u8]) -> Result<Name, Defect> {
    let name = value.strip_prefix(b"\"").and_then(|open| open.strip_suffix(b"\"")).unwrap_or(value);
    if name.iter().any(|&byte| matches!(byte, b'"' | b'\\' | b'%')) {
        return Err(Defect::Form("a name has an escape"));
    }
    let read = [("model", Name::Model), ("stream", Name::Stream), ("prompt", Name::Prompt)];
    let found = read.iter().find(|(known, _)| name.eq_ignore_ascii_case(known.as_bytes()));
    Ok(found.map_or(Name::Other, |&(_, name)| name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Fields in order, and how it ended; `~` stands for CR LF and `#` for the boundary.
    fn read(form: &[u8], chunk_bytes: usize) -> (Vec<String>, Result<(), ScanError>) {
        let mut reader = Form::new("b-1");
        let mut told = Vec::new();
        for chunk in form.chunks(chunk_bytes) {
            let pushed = reader.push(chunk, |field| {
                told.push(match field {
                    Field::Model(value) => format!("model {}", value.escape_ascii()),
                    Field::Stream(value) => format!("stream {}", value.escape_ascii()),
                    Field::Text(bytes) => format!("text {bytes}"),
                    Field::File(bytes) => format!("file {bytes}"),
                });
                Ok(())
            });
            if pushed.is_err() {
                return (told, pushed);
            }
        }
        (told, reader.finish())
    }

    fn written(form: &str) -> Vec<u8> {
        form.replace('~', "\r\n").replace('#', "--b-1").into_bytes()
    }

    fn check(form: &str, fields: &[&str], what: Option<&str>) {
        let form = written(form);
        for chunk_bytes in [1, 2, 3, 7, usize::MAX] {
            let (told, ended) = read(&form, chunk_bytes);
            assert_eq!(told, fields, "{} in chunks of {chunk_bytes}", form.escape_ascii());
            let said = ended.err().map(|error| error.defect.to_string());
            match (what, &said) {
                (None, None) => {}
                (Some(what), Some(said)) if said.contains(what) => {}
                _ => panic!("{said:?} instead of {what:?}: {}", form.escape_ascii()),
            }
        }
    }

    fn part(name: &str, value: &str) -> String {
        format!("#~Content-Disposition: form-data; name=\"{name}\"~~{value}~")
    }

    #[test]
    fn fields_are_read_wherever_they_stand() {
        let file = "#~Content-Disposition: form-data; name=\"file\"; filename=\"a;b.wav\"~Content-Type: audio/wav~~RIFF\r\n\r\n--b~";
        check(
            &format!(
                "{file}{}{}{}{}#--~",
                part("prompt", "hello"),
                part("model", "whisper-1"),
                part("stream", "true"),
                part("x", "y")
            ),
            &["file 11", "text 5", "model whisper-1", "stream true"],
            None,
        );
        check("#~content-disposition:form-data;name=model~~m~#--", &["model m"], None);
        check(&format!("{}#--", part("model", "")), &["model "], None);
        check(&format!("{}#--", part("model", "a~b")), &["model a\\r\\nb"], None);
        check("#--~", &[], None);
    }

    #[test]
    fn bytes_like_a_delimiter_are_content() {
        for (content, bytes) in
            [("~--b-", 6), ("~--b-x", 7), ("~---b-1", 8), ("x#", 6), ("\r\r", 2), ("~~", 4), ("~-\r", 4)]
        {
            let form = format!("#~Content-Disposition: form-data; name=f; filename=f~~{content}~#--");
            check(&form, &[&format!("file {bytes}")], None);
        }
    }

    #[test]
    fn a_value_longer_than_a_model_is_told_as_such() {
        let long = "m".repeat(MODEL_BYTES_MAX + 1);
        check(&format!("{}#--", part("model", &long)), &[&format!("model {long}")], None);
        check(&format!("{}#--", part("model", &"m".repeat(10_000))), &[&format!("model {long}")], None);
    }

    #[test]
    fn what_two_parsers_could_read_differently_is_refused() {
        let with = |headers: &str| format!("#~{headers}~~v~#--");
        for (form, what) in [
            (String::new(), "it is empty"),
            ("preamble~#--".to_owned(), "does not begin with the boundary"),
            ("~#--".to_owned(), "does not begin with the boundary"),
            ("#--~epilogue".to_owned(), "something follows"),
            ("# ~".to_owned(), "neither CR LF nor two dashes"),
            ("#\n".to_owned(), "neither CR LF nor two dashes"),
            (part("a", "b"), "ends before its last delimiter"),
            ("#~Content-Disposition: form-data; name=a~~x\n#--".to_owned(), "bare CR or LF"),
            ("#~Content-Disposition: form-data; name=a~~x\r#--".to_owned(), "bare CR or LF"),
            ("#~Content-Disposition: form-data; name=a~~#--".to_owned(), "no line between"),
            ("#~Content-Disposition: form-data; name=a\n\n".to_owned(), "a header has a bare CR or LF"),
            (with("Content-Type: text/plain"), "a part has no name"),
            (with("Content-Disposition : form-data; name=model"), "the name of a header"),
            (with("Content-Disposition: form-data;~ name=model"), "a header is folded"),
            (with("Content-Disposition: form-data~"), "a part has no name"),
            (with("no colon"), "no colon"),
            (with("Content-Disposition: form-data; name=x; name=model"), "two names"),
            (
                with("Content-Disposition: form-data; name=x~Content-Disposition: form-data; name=model"),
                "two dispositions",
            ),
            (with("Content-Disposition: form-data; name*=utf-8''model"), "RFC 2231"),
            (with("Content-Disposition: form-data; name*0=mod; name*1=el"), "RFC 2231"),
            (with("Content-Disposition: form-data; name=\"mo\\del\""), "an escape"),
            (with("Content-Disposition: form-data; name=\"mod%65l\""), "an escape"),
            (with("Content-Disposition: form-data; name=x; filename=\"a\\\"; name=model"), "backslash"),
            (with("Content-Disposition: form-data; name=\"model"), "not closed"),
            (
                with("Content-Disposition: form-data; name=model~Content-Transfer-Encoding: base64"),
                "content-transfer-encoding",
            ),
            (with("Content-Disposition: form-data; name=model; filename=m"), "not a file"),
            (with(&format!("X: {}", "x".repeat(LINE_BYTES_MAX))), "longer than 4096"),
            (with(&"X: y~".repeat(17)), "more than 16"),
        ] {
            check(&form, &[], Some(what));
        }
    }

    proptest! {
        #[test]
        fn any_split_reads_the_same(
            pieces in prop::collection::vec(
                prop::sample::select(vec!["#", "~", "\r", "\n", "-", "--", "a", "Content-Disposition: form-data; name=model", "\"", ";"]),
                0..24,
            ),
        ) {
            let form = written(&format!("#~{}", pieces.concat()));
            let whole = read(&form, usize::MAX);
            prop_assert_eq!(&read(&form, 1), &whole);
            prop_assert_eq!(&read(&form, 3), &whole);
        }
    }
}
