//! gRPC: messages behind a prefix of five bytes (compressed or not, and the length), cut anywhere.
//!
//! [`Messages`] reads requests of the Open Inference Protocol: of each message field 1, `model_name`, wherever it stands; all other
//! fields are stepped over by their lengths. [`Frames`] tells answers apart, by how each message begins; [`fields`] reads that.
//!
//! ```text
//! Prefix ─► Tag ─► Varint · Skip · Length ─► Skip · Name ─► Tag … ─► end of the message ─► Prefix
//! ```
//!
//! A compressed message is not read. If the first of a request is, the request has no model that we know. If a later one is, it could
//! name another model than the one that all were routed by, and the request ends.

use crate::MODEL_BYTES_MAX;
use crate::defect::{Defect, ScanError};

const PREFIX_BYTES: usize = 5;

/// Bytes kept of an answer's message: enough for one that carries nothing generated, whose fields are names, ids and flags.
const BEGINNING_BYTES: usize = 512;

/// The prefix of a message.
#[derive(Clone, Copy, Debug, Default)]
struct Prefix {
    bytes: [u8; PREFIX_BYTES],
    read: usize,
}

impl Prefix {
    /// Takes a byte; with the last one, whether the message is compressed and how long it is.
    fn push(&mut self, byte: u8) -> Option<(u8, u32)> {
        if let Some(to) = self.bytes.get_mut(self.read) {
            *to = byte;
        }
        self.read += 1;
        let [flag, length @ ..] = self.bytes;
        let complete = (self.read == PREFIX_BYTES).then(|| (flag, u32::from_be_bytes(length)));
        if complete.is_some() {
            self.read = 0;
        }
        complete
    }
}

/// Messages of a request.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    offset: u64,
    prefix: Prefix,
    state: State,
    /// Bytes of the message to come.
    left: u32,
    /// The field's tag or length, as far as it has come.
    varint: u64,
    varint_bits: u32,
    name: Vec<u8>,
    /// Whether the name of the current message was seen.
    is_named: bool,
    progress: Progress,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Progress {
    /// No message is complete.
    #[default]
    First,
    Later,
    /// The first message is compressed: nothing is read any more.
    Unread,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Prefix,
    Tag,
    /// A number that nobody wants.
    Varint,
    /// How long a field is; whether it is the name.
    Length {
        is_name: bool,
    },
    /// So many bytes that nobody wants.
    Skip(u64),
    /// So many bytes of the name.
    Name(u64),
}

impl Messages {
    /// Reads the next bytes. `on_name` is told the model of each message, at once, or empty at its end if it has none.
    pub(crate) fn push(
        &mut self,
        bytes: &[u8],
        mut on_name: impl FnMut(&[u8]) -> Result<(), Defect>,
    ) -> Result<(), ScanError> {
        let mut rest = bytes;
        while !rest.is_empty() && self.progress != Progress::Unread {
            let taken = self.take(rest, &mut on_name);
            let taken = taken.map_err(|defect| ScanError { offset: self.offset, defect })?;
            self.offset += taken as u64;
            rest = rest.get(taken..).unwrap_or_default();
        }
        Ok(())
    }

    /// Whether the model cannot be read.
    pub(crate) fn is_unread(&self) -> bool {
        self.progress == Progress::Unread
    }

    /// Whether the request may end here.
    pub(crate) fn finish(&self) -> Result<(), ScanError> {
        if self.is_unread() || (self.state == State::Prefix && self.prefix.read == 0) {
            return Ok(());
        }
        Err(ScanError { offset: self.offset, defect: Defect::Message("the body ends inside it") })
    }

    /// Takes some bytes; returns how many.
    fn take(
        &mut self,
        rest: &[u8],
        on_name: &mut impl FnMut(&[u8]) -> Result<(), Defect>,
    ) -> Result<usize, Defect> {
        let byte = rest.first().copied().unwrap_or_default();
        let taken = match self.state {
            State::Prefix => {
                if let Some((flag, length)) = self.prefix.push(byte) {
                    self.begin(flag, length, on_name)?;
                }
                return Ok(1);
            }
            State::Tag => {
                if let Some(tag) = self.varint(byte)? {
                    self.state = field(tag)?;
                    // The last byte of the tag is still among those that are left.
                    if matches!(self.state, State::Skip(bytes) if bytes >= u64::from(self.left)) {
                        return Err(OVERRUN);
                    }
                }
                1
            }
            State::Varint => {
                if self.varint(byte)?.is_some() {
                    self.state = State::Tag;
                }
                1
            }
            State::Length { is_name } => {
                if let Some(length) = self.varint(byte)? {
                    self.begin_bytes(length, is_name, on_name)?;
                }
                1
            }
            State::Skip(wanted) => {
                let taken = shorter(rest, wanted);
                let left = wanted - taken as u64;
                self.state = if left == 0 { State::Tag } else { State::Skip(left) };
                taken
            }
            State::Name(wanted) => {
                self.name.push(byte);
                self.state = State::Name(wanted - 1);
                if wanted == 1 {
                    self.named(on_name)?;
                }
                1
            }
        };
        self.left =
            u32::try_from(taken).ok().and_then(|taken| self.left.checked_sub(taken)).ok_or(OVERRUN)?;
        if self.left == 0 {
            self.end(on_name)?;
        }
        Ok(taken)
    }

    fn begin(
        &mut self,
        flag: u8,
        length: u32,
        on_name: &mut impl FnMut(&[u8]) -> Result<(), Defect>,
    ) -> Result<(), Defect> {
        match (flag, self.progress) {
            (0, _) => {}
            (1, Progress::First) => {
                self.progress = Progress::Unread;
                return Ok(());
            }
            (1, _) => return Err(Defect::CompressedLater),
            _ => return Err(Defect::Message("its first byte must be 0 or 1")),
        }
        self.state = State::Tag;
        self.left = length;
        self.is_named = false;
        if length == 0 { self.end(on_name) } else { Ok(()) }
    }

    fn begin_bytes(
        &mut self,
        length: u64,
        is_name: bool,
        on_name: &mut impl FnMut(&[u8]) -> Result<(), Defect>,
    ) -> Result<(), Defect> {
        // So is the last byte of a length.
        if length >= u64::from(self.left) && length > 0 {
            return Err(OVERRUN);
        }
        self.name.clear();
        self.state = match (is_name, length) {
            (true, 0) => {
                self.state = State::Name(0);
                return self.named(on_name);
            }
            (true, _) if length > MODEL_BYTES_MAX as u64 => return Err(Defect::ModelTooLong),
            (true, _) => State::Name(length),
            (false, 0) => State::Tag,
            (false, _) => State::Skip(length),
        };
        Ok(())
    }

    fn named(&mut self, on_name: &mut impl FnMut(&[u8]) -> Result<(), Defect>) -> Result<(), Defect> {
        self.state = State::Tag;
        self.is_named = true;
        on_name(&self.name)
    }

    fn end(&mut self, on_name: &mut impl FnMut(&[u8]) -> Result<(), Defect>) -> Result<(), Defect> {
        if self.state != State::Tag || self.varint_bits != 0 {
            return Err(Defect::Message("a field is longer than its message"));
        }
        self.state = State::Prefix;
        self.progress = Progress::Later;
        if self.is_named { Ok(()) } else { on_name(&[]) }
    }

    fn varint(&mut self, byte: u8) -> Result<Option<u64>, Defect> {
        if self.varint_bits > 63 {
            return Err(Defect::Message("a number has more than ten bytes"));
        }
        self.varint |= u64::from(byte & 0x7F) << self.varint_bits;
        self.varint_bits += 7;
        if byte & 0x80 != 0 {
            return Ok(None);
        }
        self.varint_bits = 0;
        Ok(Some(std::mem::take(&mut self.varint)))
    }
}

const OVERRUN: Defect = Defect::Message("a field is longer than its message");

/// What follows a tag.
fn field(tag: u64) -> Result<State, Defect> {
    const MODEL_NAME: u64 = 1;
    match (tag >> 3, tag & 7) {
        (0, _) => Err(Defect::Message("a field has the number 0")),
        (MODEL_NAME, 2) => Ok(State::Length { is_name: true }),
        (MODEL_NAME, _) => Err(Defect::Message("field 1, `model_name`, is no string")),
        (_, 0) => Ok(State::Varint),
        (_, 1) => Ok(State::Skip(8)),
        (_, 2) => Ok(State::Length { is_name: false }),
        (_, 5) => Ok(State::Skip(4)),
        _ => Err(Defect::Message("a field has an unknown type")),
    }
}

fn shorter(rest: &[u8], wanted: u64) -> usize {
    usize::try_from(wanted).map_or(rest.len(), |wanted| wanted.min(rest.len()))
}

/// The fields of a message that is at hand: numbers, with the value of those that have a length. Ends with `None` where the rest cannot be
/// read, also because it is not all here.
pub(crate) fn fields(message: &[u8]) -> impl Iterator<Item = Option<(u64, &[u8])>> {
    let mut rest = Some(message);
    std::iter::from_fn(move || {
        let bytes = rest.filter(|rest| !rest.is_empty())?;
        let read = field_at(bytes);
        rest = read.map(|(_, after)| after);
        Some(read.map(|(field, _)| field))
    })
}

type Field<'m> = (u64, &'m [u8]);

fn field_at(bytes: &[u8]) -> Option<(Field<'_>, &[u8])> {
    let (tag, after) = varint_at(bytes)?;
    let (value_bytes, after) = match tag & 7 {
        0 => (0, varint_at(after)?.1),
        1 => (8, after),
        2 => {
            let (length, after) = varint_at(after)?;
            (usize::try_from(length).ok()?, after)
        }
        5 => (4, after),
        _ => return None,
    };
    let (value, after) = after.split_at_checked(value_bytes)?;
    Some(((tag >> 3, value), after))
}

fn varint_at(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let end = bytes.iter().take(10).position(|byte| byte & 0x80 == 0)?;
    let (number, after) = bytes.split_at_checked(end + 1)?;
    let value = number.iter().rev().fold(0_u64, |value, byte| value << 7 | u64::from(byte & 0x7F));
    Some((value, after))
}

/// Messages of an answer.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    prefix: Prefix,
    /// Bytes of the message to come; `None` between messages.
    left: Option<u32>,
    is_compressed: bool,
    beginning: Vec<u8>,
}

impl Frames {
    /// Reads the next bytes; `on_message` is told how each message begins when it is complete, nothing of one that is compressed.
    pub(crate) fn push(&mut self, bytes: &[u8], mut on_message: impl FnMut(&[u8])) {
        let mut rest = bytes;
        while let Some((&byte, after)) = rest.split_first() {
            let Some(left) = self.left else {
                rest = after;
                if let Some((flag, length)) = self.prefix.push(byte) {
                    self.is_compressed = flag != 0;
                    self.beginning.clear();
                    self.left = Some(length);
                    self.end_if_complete(&mut on_message);
                }
                continue;
            };
            let taken = shorter(rest, u64::from(left));
            let (part, after) = rest.split_at(taken);
            rest = after;
            if !self.is_compressed {
                let room = BEGINNING_BYTES.saturating_sub(self.beginning.len());
                self.beginning.extend_from_slice(part.get(..room).unwrap_or(part));
            }
            self.left = Some(left - u32::try_from(taken).unwrap_or(left));
            self.end_if_complete(&mut on_message);
        }
    }

    fn end_if_complete(&mut self, on_message: &mut impl FnMut(&[u8])) {
        if self.left == Some(0) {
            self.left = None;
            on_message(&self.beginning);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(flag: u8, message: &[u8]) -> Vec<u8> {
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        [&[flag], &length[..], message].concat()
    }

    /// A field of bytes.
    fn field_of(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut field = vec![number << 3 | 2];
        let mut left = bytes.len();
        while left >= 0x80 {
            field.push(left as u8 | 0x80);
            left >>= 7;
        }
        field.push(left as u8);
        field.extend_from_slice(bytes);
        field
    }

    /// Names in order, and how it ended.
    fn read(body: &[u8], chunk_bytes: usize) -> (Vec<String>, Result<(), ScanError>) {
        let mut messages = Messages::default();
        let mut names = Vec::new();
        for chunk in body.chunks(chunk_bytes) {
            let pushed = messages.push(chunk, |name| {
                names.push(String::from_utf8_lossy(name).into_owned());
                Ok(())
            });
            if pushed.is_err() {
                return (names, pushed);
            }
        }
        (names, messages.finish())
    }

    fn check(body: &[u8], names: &[&str], expected: &Result<(), ScanError>) {
        for chunk_bytes in [1, 2, 3, 7, usize::MAX] {
            let (found, ended) = read(body, chunk_bytes);
            assert_eq!((found, &ended), (names.iter().map(ToString::to_string).collect(), expected));
        }
    }

    fn wrong(offset: u64, defect: Defect) -> Result<(), ScanError> {
        Err(ScanError { offset, defect })
    }

    #[test]
    fn the_name_is_found_among_fields_of_every_type() {
        let others = [
            &field_of(3, b"id")[..],
            &[4 << 3, 0x80, 0x01],
            &[5 << 3 | 1, 1, 2, 3, 4, 5, 6, 7, 8],
            &[6 << 3 | 5, 1, 2, 3, 4],
        ]
        .concat();
        let tensor = field_of(7, &[0x0A; 300]);
        let message = [&others[..], &tensor, &field_of(1, b"bert"), &others, &tensor].concat();
        check(&frame(0, &message), &["bert"], &Ok(()));
        check(&[frame(0, &message), frame(0, &field_of(1, b"gpt"))].concat(), &["bert", "gpt"], &Ok(()));
    }

    #[test]
    fn a_message_without_a_name_is_told_at_its_end() {
        check(&frame(0, &field_of(3, b"x")), &[""], &Ok(()));
        check(&frame(0, b""), &[""], &Ok(()));
        check(&frame(0, &field_of(1, b"")), &[""], &Ok(()));
        check(b"", &[], &Ok(()));
    }

    #[test]
    fn a_name_twice_is_told_twice() {
        check(&frame(0, &[field_of(1, b"a"), field_of(1, b"b")].concat()), &["a", "b"], &Ok(()));
    }

    #[test]
    fn compressed_messages_are_not_read_and_not_passed_over() {
        let named = frame(0, &field_of(1, b"a"));
        let zipped = frame(1, b"\x1f\x8b");
        check(&[zipped.clone(), named.clone(), zipped.clone()].concat(), &[], &Ok(()));
        check(&[named, zipped].concat(), &["a"], &wrong(8 + 4, Defect::CompressedLater));
    }

    #[test]
    fn what_cannot_be_read_is_refused_with_its_place() {
        let overrun = || OVERRUN;
        check(&frame(2, b""), &[], &wrong(4, Defect::Message("its first byte must be 0 or 1")));
        check(&frame(0, &[0x0A, 5, b'a']), &[], &wrong(6, overrun()));
        check(&frame(0, &[0x1A, 5, b'a']), &[], &wrong(6, overrun()));
        check(&frame(0, &[0x80]), &[], &wrong(5, overrun()));
        check(&frame(0, &[0x08, 1]), &[], &wrong(5, Defect::Message("field 1, `model_name`, is no string")));
        check(&frame(0, &[0x13]), &[], &wrong(5, Defect::Message("a field has an unknown type")));
        check(&frame(0, &[0x02, 0]), &[], &wrong(5, Defect::Message("a field has the number 0")));
        check(&frame(0, &[0x80; 11]), &[], &wrong(15, Defect::Message("a number has more than ten bytes")));
        check(&frame(0, &field_of(1, &[b'm'; 257])), &[], &wrong(7, Defect::ModelTooLong));
        check(
            &frame(0, &field_of(1, b"abc"))[..9],
            &[],
            &wrong(9, Defect::Message("the body ends inside it")),
        );
        check(&[0, 0], &[], &wrong(2, Defect::Message("the body ends inside it")));
    }

    #[test]
    fn answers_are_told_by_how_they_begin() {
        let stream =
            [frame(0, &field_of(2, &[7; 600])), frame(0, b""), frame(1, b"zip"), frame(0, b"\x0A\x01x")]
                .concat();
        for chunk_bytes in [1, 2, 5, 13, 1_000] {
            let mut told = Vec::new();
            let mut frames = Frames::default();
            for chunk in stream.chunks(chunk_bytes) {
                frames.push(chunk, |beginning| told.push(beginning.to_vec()));
            }
            let long = [&[0x12, 0xD8, 0x04][..], &[7; BEGINNING_BYTES - 3]].concat();
            let expected: [&[u8]; 4] = [&long, b"", b"", b"\x0A\x01x"];
            assert_eq!(told, expected, "in chunks of {chunk_bytes}");
        }
    }

    #[test]
    fn fields_at_hand_are_told_until_one_is_not_all_here() {
        let message = [&field_of(1, b"a")[..], &[4 << 3, 0x80, 0x01], &[5 << 3 | 5, 1, 2, 3, 4]].concat();
        let all = [Some((1, &b"a"[..])), Some((4, &b""[..])), Some((5, &[1, 2, 3, 4][..]))];
        assert_eq!(fields(&message).collect::<Vec<_>>(), all);
        for cut in [1, 2, 4, 5, 7, 10] {
            assert_eq!(fields(&message[..cut]).last(), Some(None), "{cut}");
        }
        assert_eq!(fields(&[0x13]).collect::<Vec<_>>(), [None]);
        assert_eq!(fields(&[0xFF; 11]).collect::<Vec<_>>(), [None]);
        assert_eq!(fields(b"").next(), None);
    }

    proptest! {
        #[test]
        fn any_bytes_read_the_same_however_they_are_cut(
            body in prop::collection::vec(prop_oneof![Just(0_u8), Just(1), Just(10), Just(18), any::<u8>()], 0..60),
        ) {
            let body = frame(0, &body);
            prop_assert_eq!(read(&body, 1), read(&body, usize::MAX));
            prop_assert_eq!(read(&body, 3), read(&body, usize::MAX));
        }
    }
}
