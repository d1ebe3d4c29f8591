//! JSON read while it passes: one pass, any chunking, constant memory, no tree and no recursion.
//!
//! A [`Walker`] checks the grammar of RFC 8259 byte by byte and follows a [`Shape`], a static table of the paths somebody wants
//! to read. Where the document leaves the table the walker keeps only one bit per open container (object or array), so a
//! megabyte of nested values costs the bytes and nothing else.
//!
//! ```text
//!            ┌───────────── , ─────────────┐
//! Start → Value → Text | Number | Literal → After → End     (After: depth 0 ends the document)
//!            └→ FirstKey → Text → Colon → Value             FirstItem, Key: the same without the closing bracket
//! ```
//!
//! Strings are where the bytes are: `text.rs` skips through them with `memchr`.

mod number;
mod shape;
mod text;

pub(crate) use shape::Shape;

use self::number::{Digits, Step};
use self::shape::Slot;
use self::text::Text;
use crate::defect::{Defect, ScanError};
use crate::{JSON_DEPTH_MAX, MODEL_BYTES_MAX};

/// Containers in which a shape can still be followed; deeper ones only inherit its text mark. A test holds all shapes to it.
pub(crate) const FRAMES_MAX: usize = 8;

/// What a walker tells about the values its shape marks.
pub(crate) trait Sink<M> {
    /// A marked value: a scalar when it is complete, an array or object when it begins.
    fn value(&mut self, mark: M, value: Value<'_>) -> Result<(), Defect>;

    /// A piece of a document at or below a path marked as text.
    fn leaf(&mut self, mark: M, leaf: Leaf<'_>);
}

/// A marked value.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Value<'a> {
    Null,
    Bool(bool),
    Number(Clip<'a>),
    Text(Clip<'a>),
    Array,
    Object,
}

impl Value<'_> {
    /// The number if it is written as a whole, non-negative one and fits.
    pub(crate) fn whole_number(self) -> Option<u64> {
        let Value::Number(Clip { bytes, whole: true }) = self else { return None };
        std::str::from_utf8(bytes).ok()?.parse().ok()
    }
}

/// The beginning of a string (escapes undone) or number, at most [`MODEL_BYTES_MAX`] bytes of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clip<'a> {
    pub(crate) bytes: &'a [u8],
    /// Whether `bytes` is all of it.
    pub(crate) whole: bool,
}

/// A piece of marked text.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Leaf<'a> {
    /// Bytes of a string value, as written. A string comes in any number of pieces.
    Text(&'a [u8]),
    /// The string is complete; how it began.
    TextEnd(Clip<'a>),
    /// This many bytes of a key, as written, in any number of pieces, under the mark of the object.
    Key(usize),
    /// Such a key is complete; told under the mark of its value.
    KeyEnd(Clip<'a>),
    /// A number.
    Number(Clip<'a>),
    /// `null`, `true` or `false`: how it is spelt.
    Literal(&'static [u8]),
}

/// Where a walker stands between two bytes.
#[derive(Clone, Copy, Debug)]
enum State {
    /// Before the first byte: a byte order mark may come.
    Start,
    /// Inside the byte order mark, after so many of its bytes.
    Mark(u8),
    Value,
    FirstItem,
    FirstKey,
    Key,
    Colon,
    After,
    Text,
    Number(Digits),
    /// Inside `null`, `true` or `false`, after so many of its bytes.
    Literal(Literal, u8),
    End,
}

#[derive(Clone, Copy, Debug)]
enum Literal {
    Null,
    True,
    False,
}

impl Literal {
    fn spelling(self) -> &'static [u8] {
        match self {
            Literal::Null => b"null",
            Literal::True => b"true",
            Literal::False => b"false",
        }
    }

    fn value(self) -> Value<'static> {
        match self {
            Literal::Null => Value::Null,
            Literal::True => Value::Bool(true),
            Literal::False => Value::Bool(false),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Container {
    Object,
    Array,
}

/// Follows one document.
///
/// After an error it must not be pushed to again; its owner keeps the error.
pub(crate) struct Walker<M: Copy + 'static> {
    state: State,
    /// Of the first byte of the next chunk.
    offset: u64,
    /// Of the first byte of the value or key being read.
    began: u64,
    /// What the shape says of the next value.
    slot: Slot<M>,
    frames: [Slot<M>; FRAMES_MAX],
    depth: usize,
    /// One bit per open container: set for an object.
    objects: [u64; JSON_DEPTH_MAX.div_ceil(64)],
    text: Text,
    capture: Capture,
}

impl<M: Copy + 'static> Walker<M> {
    pub(crate) fn new(shape: &'static Shape<M>) -> Self {
        Walker {
            state: State::Start,
            offset: 0,
            began: 0,
            slot: Slot { shape: Some(shape), text: shape.text },
            frames: [Slot { shape: None, text: None }; FRAMES_MAX],
            depth: 0,
            objects: [0; JSON_DEPTH_MAX.div_ceil(64)],
            text: Text::default(),
            capture: Capture::default(),
        }
    }

    /// Whether the document is complete.
    pub(crate) fn is_complete(&self) -> bool {
        matches!(self.state, State::End)
    }

    /// Reads the next bytes of the document.
    pub(crate) fn push(&mut self, bytes: &[u8], sink: &mut impl Sink<M>) -> Result<(), ScanError> {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..)
            && let Some(&byte) = rest.first()
        {
            let here = self.offset + at as u64;
            at += match self.state {
                State::Text => self.text(rest, here, sink)?,
                State::Number(digits) => self.number(digits, rest, here, sink)?,
                State::Literal(literal, read) => self.literal(literal, read, byte, here, sink)?,
                _ => self.structure(byte, here, sink)?,
            };
        }
        self.offset += bytes.len() as u64;
        Ok(())
    }

    /// Says whether the document ended where the bytes did.
    pub(crate) fn finish(&self) -> Result<(), ScanError> {
        let defect = match self.state {
            State::End => return Ok(()),
            State::Start => Defect::Empty,
            State::Value if self.depth == 0 => Defect::Empty,
            _ => Defect::Truncated,
        };
        Err(ScanError { offset: self.offset, defect })
    }

    /// Takes one byte between tokens; returns how many bytes it used, 0 to have the byte read again in the new state.
    fn structure(&mut self, byte: u8, here: u64, sink: &mut impl Sink<M>) -> Result<usize, ScanError> {
        let blank = matches!(byte, b' ' | b'\n' | b'\r' | b'\t');
        match (self.state, byte) {
            (State::Start, 0xEF) => self.state = State::Mark(1),
            (State::Start, _) => {
                self.state = State::Value;
                return Ok(0);
            }
            (State::Mark(1), 0xBB) => self.state = State::Mark(2),
            (State::Mark(2), 0xBF) => self.state = State::Value,
            (State::Mark(_), _) => return Err(unexpected(here, byte, "a JSON object")),
            _ if blank => {}
            (State::FirstItem, b']') | (State::FirstKey, b'}') => self.close(),
            (State::Value | State::FirstItem, _) => self.begin_value(byte, here, sink)?,
            (State::FirstKey | State::Key, b'"') => self.begin_key(here),
            (State::FirstKey | State::Key, _) => return Err(unexpected(here, byte, "a key in quotes")),
            (State::Colon, b':') => self.state = State::Value,
            (State::Colon, _) => return Err(unexpected(here, byte, "a colon")),
            (State::After, _) => self.after_value(byte, here)?,
            (State::End, _) => return Err(ScanError { offset: here, defect: Defect::Trailing }),
            (State::Text | State::Number(_) | State::Literal(..), _) => {}
        }
        Ok(1)
    }

    fn begin_value(&mut self, byte: u8, here: u64, sink: &mut impl Sink<M>) -> Result<(), ScanError> {
        self.began = here;
        if self.depth == 0 && matches!(byte, b'[' | b'"' | b't' | b'f' | b'n' | b'-' | b'0'..=b'9') {
            return Err(ScanError { offset: here, defect: Defect::NotAnObject });
        }
        match byte {
            b'{' => self.open(Container::Object, sink)?,
            b'[' => self.open(Container::Array, sink)?,
            b'"' => {
                let counted = self.slot.text.is_some();
                self.begin_text(Text::of_value(self.is_marked() || counted, counted));
            }
            b't' => self.state = State::Literal(Literal::True, 1),
            b'f' => self.state = State::Literal(Literal::False, 1),
            b'n' => self.state = State::Literal(Literal::Null, 1),
            _ => {
                let digits = Digits::first(byte).ok_or_else(|| unexpected(here, byte, "a JSON value"))?;
                self.state = State::Number(digits);
                self.capture.restart();
                self.capture.push(&[byte]);
            }
        }
        Ok(())
    }

    fn begin_key(&mut self, here: u64) {
        self.began = here;
        let frame = self.frame();
        let followed = frame.shape.is_some_and(|shape| !shape.keys.is_empty());
        let counted = frame.text.is_some();
        self.begin_text(Text::of_key(followed || counted, counted));
    }

    fn begin_text(&mut self, text: Text) {
        self.text = text;
        self.capture.restart();
        self.state = State::Text;
    }

    fn open(&mut self, container: Container, sink: &mut impl Sink<M>) -> Result<(), ScanError> {
        let value = if container == Container::Object { Value::Object } else { Value::Array };
        self.tell(value, sink)?;
        if self.depth == JSON_DEPTH_MAX {
            return Err(ScanError { offset: self.began, defect: Defect::TooDeep });
        }
        if let Some(frame) = self.frames.get_mut(self.depth) {
            *frame = self.slot;
        }
        if let Some(word) = self.objects.get_mut(self.depth / 64) {
            let bit = 1 << (self.depth % 64);
            *word = if container == Container::Object { *word | bit } else { *word & !bit };
        }
        self.depth += 1;
        match container {
            Container::Object => self.state = State::FirstKey,
            Container::Array => {
                self.slot = self.frame().item();
                self.state = State::FirstItem;
            }
        }
        Ok(())
    }

    fn close(&mut self) {
        self.depth -= 1;
        self.end_value();
    }

    fn end_value(&mut self) {
        self.state = if self.depth == 0 { State::End } else { State::After };
    }

    fn after_value(&mut self, byte: u8, here: u64) -> Result<(), ScanError> {
        match (self.container(), byte) {
            (Container::Object, b'}') | (Container::Array, b']') => self.close(),
            (Container::Object, b',') => self.state = State::Key,
            (Container::Array, b',') => {
                self.slot = self.frame().item();
                self.state = State::Value;
            }
            (Container::Object, _) => return Err(unexpected(here, byte, "a comma or a closing brace")),
            (Container::Array, _) => return Err(unexpected(here, byte, "a comma or a closing bracket")),
        }
        Ok(())
    }

    /// Reads bytes of a number; returns how many. The byte that ends it is left to the state after it.
    fn number(
        &mut self,
        mut digits: Digits,
        rest: &[u8],
        here: u64,
        sink: &mut impl Sink<M>,
    ) -> Result<usize, ScanError> {
        for (at, &byte) in rest.iter().enumerate() {
            match digits.next(byte) {
                Step::Go(next) => digits = next,
                Step::Wrong => return Err(unexpected(here + at as u64, byte, "a digit of a number")),
                Step::End => {
                    self.keep_digits(rest.get(..at).unwrap_or_default());
                    if let Some(mark) = self.slot.text {
                        sink.leaf(mark, Leaf::Number(self.capture.clip()));
                    }
                    self.tell(Value::Number(self.capture.clip()), sink)?;
                    self.end_value();
                    return Ok(at);
                }
            }
        }
        self.keep_digits(rest);
        self.state = State::Number(digits);
        Ok(rest.len())
    }

    fn keep_digits(&mut self, run: &[u8]) {
        if self.is_marked() || self.slot.text.is_some() {
            self.capture.push(run);
        }
    }

    fn literal(
        &mut self,
        literal: Literal,
        read: u8,
        byte: u8,
        here: u64,
        sink: &mut impl Sink<M>,
    ) -> Result<usize, ScanError> {
        let spelling = literal.spelling();
        if spelling.get(usize::from(read)) != Some(&byte) {
            return Err(unexpected(here, byte, "null, true or false"));
        }
        self.state = State::Literal(literal, read + 1);
        if usize::from(read) + 1 == spelling.len() {
            if let Some(mark) = self.slot.text {
                sink.leaf(mark, Leaf::Literal(spelling));
            }
            self.tell(literal.value(), sink)?;
            self.end_value();
        }
        Ok(1)
    }

    /// A string has ended: a key picks the slot of its value, a value is told.
    fn end_text(&mut self, sink: &mut impl Sink<M>) -> Result<(), ScanError> {
        if self.text.is_key() {
            let key = self.capture.clip();
            self.slot = self.frame().child(key);
            if let Some(mark) = self.slot.text.filter(|_| self.text.is_counted()) {
                sink.leaf(mark, Leaf::KeyEnd(key));
            }
            self.state = State::Colon;
        } else {
            if let Some(mark) = self.slot.text {
                sink.leaf(mark, Leaf::TextEnd(self.capture.clip()));
            }
            self.tell(Value::Text(self.capture.clip()), sink)?;
            self.end_value();
        }
        Ok(())
    }

    fn tell(&self, value: Value<'_>, sink: &mut impl Sink<M>) -> Result<(), ScanError> {
        let Some(mark) = self.slot.shape.and_then(|shape| shape.mark) else { return Ok(()) };
        sink.value(mark, value).map_err(|defect| ScanError { offset: self.began, defect })
    }

    fn is_marked(&self) -> bool {
        self.slot.shape.is_some_and(|shape| shape.mark.is_some())
    }

    /// What the shape says of the innermost open container.
    fn frame(&self) -> Slot<M> {
        let innermost = self.depth.saturating_sub(1);
        match self.frames.get(innermost) {
            Some(frame) => *frame,
            None => Slot { shape: None, text: self.frames.last().and_then(|frame| frame.text) },
        }
    }

    fn container(&self) -> Container {
        let innermost = self.depth.saturating_sub(1);
        let word = self.objects.get(innermost / 64).copied().unwrap_or_default();
        if word >> (innermost % 64) & 1 == 1 { Container::Object } else { Container::Array }
    }
}

/// The beginning of the string or number being read, escapes undone.
struct Capture {
    bytes: [u8; MODEL_BYTES_MAX],
    kept: usize,
    whole: bool,
}

impl Default for Capture {
    fn default() -> Self {
        Capture { bytes: [0; MODEL_BYTES_MAX], kept: 0, whole: true }
    }
}

impl Capture {
    fn restart(&mut self) {
        self.kept = 0;
        self.whole = true;
    }

    fn push(&mut self, more: &[u8]) {
        let room = self.bytes.get_mut(self.kept..).unwrap_or_default();
        let taken = room.len().min(more.len());
        if let (Some(to), Some(from)) = (room.get_mut(..taken), more.get(..taken)) {
            to.copy_from_slice(from);
        }
        self.kept += taken;
        self.whole &= taken == more.len();
    }

    fn clip(&self) -> Clip<'_> {
        Clip { bytes: self.bytes.get(..self.kept).unwrap_or_default(), whole: self.whole }
    }
}

fn unexpected(offset: u64, found: u8, wanted: &'static str) -> ScanError {
    ScanError { offset, defect: Defect::Unexpected { found, wanted } }
}
