//! The inside of a string.
//!
//! `memchr` finds the next quote or backslash; the run before it is checked in windows small enough to be still in the
//! first-level cache: one vectorised look for control and non-ASCII bytes, and only if there are some, the exact checks.
//! A character that the chunk cuts is kept (at most three bytes) and completed by the next. Errors are reported at the first
//! wrong byte whatever the chunking, so a run is never judged further than the first of its defects.

use memchr::memchr2;

use super::{Leaf, Sink, Walker};
use crate::defect::{Defect, ScanError};

/// Bytes searched and checked at once: a quarter of the smallest first-level data cache in servers (32 KiB).
const WINDOW_BYTES: usize = 8 * 1024;

/// A string being read.
#[derive(Clone, Copy, Default)]
pub(super) struct Text {
    role: Role,
    /// Whether its bytes are kept for the sink or for the table of keys.
    captured: bool,
    /// Whether its bytes are told as leaves.
    counted: bool,
    escape: Escape,
    /// A character of which the end has not arrived yet.
    partial: [u8; 4],
    partial_bytes: usize,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Role {
    Key,
    #[default]
    Value,
}

/// Where the string stands in an escape. `at` is the offset of its backslash; of a pair, of the first one.
#[derive(Clone, Copy, Default)]
enum Escape {
    /// In none.
    #[default]
    None,
    /// After a backslash.
    Backslash { at: u64 },
    /// In `\uXXXX`, after so many digits; `high` is the first half of a pair, or 0.
    Hex { at: u64, high: u32, code: u32, digits: u8 },
    /// After the first half of a pair: a backslash must come.
    HalfPair { at: u64, high: u32 },
    /// After that backslash: a `u` must come.
    HalfPairBackslash { at: u64, high: u32 },
}

impl Text {
    pub(super) fn of_key(captured: bool, counted: bool) -> Text {
        Text { role: Role::Key, captured, counted, ..Text::default() }
    }

    pub(super) fn of_value(captured: bool, counted: bool) -> Text {
        Text { role: Role::Value, captured, counted, ..Text::default() }
    }

    pub(super) fn is_key(&self) -> bool {
        self.role == Role::Key
    }

    pub(super) fn is_counted(&self) -> bool {
        self.counted
    }
}

impl<M: Copy + 'static> Walker<M> {
    /// Reads bytes of a string; returns how many.
    pub(super) fn text(
        &mut self,
        rest: &[u8],
        here: u64,
        sink: &mut impl Sink<M>,
    ) -> Result<usize, ScanError> {
        let Some(&byte) = rest.first() else { return Ok(0) };
        if !matches!(self.text.escape, Escape::None) {
            self.escape(byte, here)?;
            self.count(&[byte], sink);
            return Ok(1);
        }
        if self.text.partial_bytes > 0 {
            self.complete_character(byte, here)?;
            self.count(&[byte], sink);
            return Ok(1);
        }
        let mut read = 0;
        loop {
            let left = rest.get(read..).unwrap_or_default();
            let window = left.get(..WINDOW_BYTES).unwrap_or(left);
            let stop = memchr2(b'"', b'\\', window);
            let run = window.get(..stop.unwrap_or(window.len())).unwrap_or_default();
            let cut = Cut { by_quote: stop.is_some(), is_last: window.len() == left.len() };
            let taken = self.run(run, here + read as u64, cut)?;
            read += taken;
            match (stop, left.get(taken..)) {
                (Some(_), Some([b'"', ..])) => {
                    self.count(rest.get(..read).unwrap_or_default(), sink);
                    self.end_text(sink)?;
                    return Ok(read + 1);
                }
                (Some(_), Some([_, escaped, ..])) if let Some(meant) = short_escape(*escaped) => {
                    self.keep_character(char::from(meant));
                    read += 2;
                }
                (Some(_), Some([_, b'u', a, b, c, d, ..]))
                    if let Some(meant) = hex_escape([*a, *b, *c, *d]) =>
                {
                    self.keep_character(meant);
                    read += 6;
                }
                (Some(_), _) => {
                    self.text.escape = Escape::Backslash { at: here + read as u64 };
                    read += 1;
                    break;
                }
                (None, _) if read == rest.len() => break,
                (None, _) => {}
            }
        }
        self.count(rest.get(..read).unwrap_or_default(), sink);
        Ok(read)
    }

    /// Checks and keeps a run without quotes and escapes; returns how much of it.
    fn run(&mut self, run: &[u8], here: u64, cut: Cut) -> Result<usize, ScanError> {
        let plain = run.iter().fold(true, |plain, &byte| plain & (0x20..0x80).contains(&byte));
        let mut taken = run.len();
        if !plain {
            let (valid, broken) = match std::str::from_utf8(run) {
                Ok(_) => (run.len(), false),
                Err(error) => (error.valid_up_to(), cut.by_quote || error.error_len().is_some()),
            };
            let good = run.get(..valid).unwrap_or_default();
            if let Some(at) = good.iter().position(|&byte| byte < 0x20) {
                let byte = good.get(at).copied().unwrap_or_default();
                return Err(ScanError { offset: here + at as u64, defect: Defect::Control(byte) });
            }
            if broken {
                return Err(ScanError { offset: here + valid as u64, defect: Defect::Utf8 });
            }
            taken = valid;
            if cut.is_last {
                self.keep_partial(run.get(valid..).unwrap_or_default());
                taken = run.len();
            }
            if self.text.captured {
                self.capture.push(good);
            }
        } else if self.text.captured {
            self.capture.push(run);
        }
        Ok(taken)
    }

    fn keep_partial(&mut self, partial: &[u8]) {
        for (to, from) in self.text.partial.iter_mut().zip(partial) {
            *to = *from;
        }
        self.text.partial_bytes = partial.len().min(self.text.partial.len());
    }

    /// Adds a byte to the character that the last chunk cut.
    fn complete_character(&mut self, byte: u8, here: u64) -> Result<(), ScanError> {
        let before = self.text.partial_bytes;
        if let Some(to) = self.text.partial.get_mut(before) {
            *to = byte;
        }
        let character = self.text.partial.get(..=before).unwrap_or_default();
        match std::str::from_utf8(character) {
            Ok(_) => {
                if self.text.captured {
                    self.capture.push(character);
                }
                self.text.partial_bytes = 0;
                Ok(())
            }
            Err(error) if error.valid_up_to() == 0 && error.error_len().is_none() => {
                self.text.partial_bytes = before + 1;
                Ok(())
            }
            Err(_) => Err(ScanError { offset: here - before as u64, defect: Defect::Utf8 }),
        }
    }

    /// Takes the next byte of an escape.
    fn escape(&mut self, byte: u8, here: u64) -> Result<(), ScanError> {
        let wrong = |offset, defect| Err(ScanError { offset, defect });
        self.text.escape = match (self.text.escape, byte) {
            (Escape::Backslash { at }, b'u') => Escape::Hex { at, high: 0, code: 0, digits: 0 },
            (Escape::Backslash { at }, _) => {
                let Some(meant) = short_escape(byte) else { return wrong(at, Defect::Escape) };
                self.keep_character(char::from(meant));
                Escape::None
            }
            (Escape::Hex { at, high, code, digits }, _) => {
                let Some(digit) = char::from(byte).to_digit(16) else { return wrong(at, Defect::Escape) };
                let code = code * 16 + digit;
                if digits < 3 {
                    Escape::Hex { at, high, code, digits: digits + 1 }
                } else {
                    self.code_unit(at, high, code)?
                }
            }
            (Escape::HalfPair { at, high }, b'\\') => Escape::HalfPairBackslash { at, high },
            (Escape::HalfPairBackslash { at, high }, b'u') => Escape::Hex { at, high, code: 0, digits: 0 },
            (Escape::HalfPair { at, .. } | Escape::HalfPairBackslash { at, .. }, _) => {
                return wrong(at, Defect::Surrogate);
            }
            (Escape::None, _) => return wrong(here, Defect::Escape),
        };
        Ok(())
    }

    /// A `\uXXXX` is complete.
    fn code_unit(&mut self, at: u64, high: u32, code: u32) -> Result<Escape, ScanError> {
        let meant = match (high, code) {
            (0, 0xD800..=0xDBFF) => return Ok(Escape::HalfPair { at, high: code }),
            (0, _) => char::from_u32(code),
            (_, 0xDC00..=0xDFFF) => char::from_u32(0x1_0000 + ((high - 0xD800) << 10) + (code - 0xDC00)),
            _ => None,
        };
        let meant = meant.ok_or(ScanError { offset: at, defect: Defect::Surrogate })?;
        self.keep_character(meant);
        Ok(Escape::None)
    }

    fn keep_character(&mut self, character: char) {
        if self.text.captured {
            self.capture.push(character.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }

    fn count(&mut self, bytes: &[u8], sink: &mut impl Sink<M>) {
        if !self.text.counted || bytes.is_empty() {
            return;
        }
        let (text, leaf) = match self.text.role {
            Role::Key => (self.frame().text, Leaf::Key(bytes.len())),
            Role::Value => (self.slot.text, Leaf::Text(bytes)),
        };
        if let Some(mark) = text {
            sink.leaf(mark, leaf);
        }
    }
}

/// Why a run ends.
#[derive(Clone, Copy)]
struct Cut {
    /// A quote or a backslash follows: no character can go on.
    by_quote: bool,
    /// Nothing follows in this chunk.
    is_last: bool,
}

/// A character in one escape of four digits; the halves of a pair, and what is wrong, are left to the way that goes byte by byte.
fn hex_escape(digits: [u8; 4]) -> Option<char> {
    let mut code = 0;
    for digit in digits {
        code = code * 16 + char::from(digit).to_digit(16)?;
    }
    char::from_u32(code)
}

fn short_escape(byte: u8) -> Option<u8> {
    match byte {
        b'"' | b'\\' | b'/' => Some(byte),
        b'b' => Some(0x08),
        b'f' => Some(0x0C),
        b'n' => Some(b'\n'),
        b'r' => Some(b'\r'),
        b't' => Some(b'\t'),
        _ => None,
    }
}
