//! Follows a chunked body byte by byte, to its last one.
//!
//! ```text
//! size ─► (extension) ─► CR ─► LF ─► data ─► CR ─► LF ─► size …
//!                               ╰─ size 0 ─► trailer lines ─► empty line: the end
//! ```

use super::{Ambiguity, is_control, trailer};

/// Digits of a size that every parser can hold.
const SIZE_DIGITS_MAX: u8 = 15;
/// Longest extension of one chunk, longest trailer line, and most of all trailers together.
const LINE_BYTES_MAX: usize = 4 << 10;
const TRAILER_BYTES_MAX: usize = 16 << 10;

/// Where in the body the next byte stands.
#[derive(Clone, Debug, PartialEq, Eq)]
enum At {
    Size { digits: u8, size: u64 },
    Extension { size: u64, length: usize },
    SizeLf { size: u64 },
    Data { left: u64 },
    DataCr,
    DataLf,
    Trailer,
    TrailerLf,
}

/// The reader of one body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chunks {
    at: At,
    line: Vec<u8>,
    trailers: usize,
}

impl Chunks {
    /// At the beginning of a body.
    pub(super) fn new() -> Self {
        Self { at: At::Size { digits: 0, size: 0 }, line: Vec::new(), trailers: 0 }
    }

    /// Takes the next bytes; gives how many of them belong to the body if it ended among them.
    ///
    /// # Errors
    /// When they can be read in two ways, with how many before that were good.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Result<Option<usize>, (usize, Ambiguity)> {
        let mut at = 0;
        while at < bytes.len() {
            if let At::Data { left } = &mut self.at {
                let there = (bytes.len() - at) as u64;
                let taken = there.min(*left);
                *left -= taken;
                at += usize::try_from(taken).unwrap_or(bytes.len() - at);
                if *left == 0 {
                    self.at = At::DataCr;
                }
                continue;
            }
            let ended = self.step(bytes[at]).map_err(|why| (at, why))?;
            at += 1;
            if ended {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    /// One byte of framing; true after the last one.
    fn step(&mut self, byte: u8) -> Result<bool, Ambiguity> {
        self.at = match (&self.at, byte) {
            (At::Size { digits, size }, _) if byte.is_ascii_hexdigit() && *digits < SIZE_DIGITS_MAX => {
                let digit = char::from(byte).to_digit(16).map_or(0, u64::from);
                At::Size { digits: digits + 1, size: size * 16 + digit }
            }
            (At::Size { digits: 1.., size }, b';') => At::Extension { size: *size, length: 0 },
            (At::Size { digits: 1.., size } | At::Extension { size, .. }, b'\r') => {
                At::SizeLf { size: *size }
            }
            (At::Extension { size, length }, _) if !is_control(byte) && *length < LINE_BYTES_MAX => {
                At::Extension { size: *size, length: length + 1 }
            }
            (At::SizeLf { size: 0 }, b'\n') => At::Trailer,
            (At::SizeLf { size }, b'\n') => At::Data { left: *size },
            (At::DataCr, b'\r') => At::DataLf,
            (At::DataLf, b'\n') => At::Size { digits: 0, size: 0 },
            (At::Trailer, b'\r') => At::TrailerLf,
            (At::Trailer, _) if !is_control(byte) && self.trailers < TRAILER_BYTES_MAX => {
                self.trailers += 1;
                self.line.push(byte);
                At::Trailer
            }
            (At::TrailerLf, b'\n') if self.line.is_empty() => return Ok(true),
            (At::TrailerLf, b'\n') => {
                trailer(&self.line)?;
                self.line.clear();
                At::Trailer
            }
            (At::Trailer | At::TrailerLf, _) => return Err(Ambiguity::Trailer),
            _ => return Err(Ambiguity::Chunk),
        };
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However the bytes are cut, the result is the same.
    fn check(body: &str, expected: Result<Option<usize>, (usize, Ambiguity)>) {
        for cut in 0..=body.len() {
            let mut chunks = Chunks::new();
            let (one, two) = body.as_bytes().split_at(cut);
            let read = match chunks.read(one) {
                Ok(None) => match chunks.read(two) {
                    Ok(end) => Ok(end.map(|end| end + cut)),
                    Err((good, why)) => Err((good + cut, why)),
                },
                ended => ended,
            };
            assert_eq!(read, expected, "{body:?} cut at {cut}");
        }
    }

    #[test]
    fn a_body_ends_with_the_line_after_its_last_chunk() {
        check("0\r\n\r\n", Ok(Some(5)));
        check("5\r\nhello\r\n0\r\n\r\nGET /", Ok(Some(15)));
        check("A;name=\"v\"\r\n0123456789\r\n000\r\nx: y\r\n\r\n", Ok(Some(37)));
        check("5\r\nhel", Ok(None));
        check("5\r\nhello\r\n0\r\n", Ok(None));
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused_at_that_byte() {
        use Ambiguity::{Chunk, Trailer};
        check("5\nhello\r\n0\r\n\r\n", Err((1, Chunk)));
        check("\r\n", Err((0, Chunk)));
        check("5 \r\nhello", Err((1, Chunk)));
        check("+5\r\nhello", Err((0, Chunk)));
        check("0x5\r\nhello", Err((1, Chunk)));
        check("5;a\nb\r\nhello", Err((3, Chunk)));
        check("5\r\nhello0\r\n\r\n", Err((8, Chunk)));
        check("5\r\nhello\n0\r\n\r\n", Err((8, Chunk)));
        check("5\r\rhello", Err((2, Chunk)));
        check("0000000000000005\r\nhello", Err((15, Chunk)));
        check("0\r\nx : y\r\n\r\n", Err((9, Trailer)));
        check("0\r\ncontent-length: 5\r\n\r\n", Err((21, Trailer)));
        check("0\r\nx: y\n\r\n", Err((7, Trailer)));
        check("0\r\n\rG", Err((4, Trailer)));
    }
}
