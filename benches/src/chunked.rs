//! The `chunked` framing of HTTP/1.1, taken off as bytes arrive.

/// Where in a chunked body the reader is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chunked {
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In the digits of a size.
    Size(usize),
    /// Behind them, until the line ends.
    Extension(usize),
    Data(usize),
    /// In the line end after data.
    DataEnd,
    /// In a line of trailers; whether it is empty so far.
    Trailer(Line),
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Empty,
    Begun,
}

impl Default for State {
    fn default() -> Self {
        Self::Size(0)
    }
}

/// A byte that has no place where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl Chunked {
    /// Whether the whole body was read.
    pub fn is_over(self) -> bool {
        self.state == State::End
    }

    /// Reads what has arrived, hands the data in it to `sink`, and says how many bytes belonged to the body: fewer than all
    /// only when it is over.
    ///
    /// # Errors
    /// When that is not the `chunked` framing.
    pub fn read(&mut self, bytes: &[u8], sink: &mut impl FnMut(&[u8])) -> Result<usize, Malformed> {
        let mut at = 0;
        while at < bytes.len() && !self.is_over() {
            if let State::Data(left) = self.state {
                let end = bytes.len().min(at + left);
                sink(&bytes[at..end]);
                self.state = match left - (end - at) {
                    0 => State::DataEnd,
                    left => State::Data(left),
                };
                at = end;
            } else {
                self.state = self.state.after(bytes[at])?;
                at += 1;
            }
        }
        Ok(at)
    }
}

impl State {
    /// The state after a byte that is no data.
    fn after(self, byte: u8) -> Result<Self, Malformed> {
        Ok(match (self, byte) {
            (Self::Size(size) | Self::Extension(size), b'\n') => match size {
                0 => Self::Trailer(Line::Empty),
                size => Self::Data(size),
            },
            (Self::Size(size), b';' | b'\r' | b' ') => Self::Extension(size),
            (Self::Size(size), digit) => {
                let digit = char::from(digit).to_digit(16).ok_or(Malformed)? as usize;
                Self::Size(size.checked_mul(16).and_then(|size| size.checked_add(digit)).ok_or(Malformed)?)
            }
            (Self::DataEnd, b'\n') => Self::Size(0),
            (Self::DataEnd, b'\r') => Self::DataEnd,
            (Self::DataEnd, _) => return Err(Malformed),
            (Self::Trailer(Line::Empty), b'\n') => Self::End,
            (Self::Trailer(Line::Begun), b'\n') => Self::Trailer(Line::Empty),
            (Self::Trailer(line), b'\r') => Self::Trailer(line),
            (Self::Trailer(_), _) => Self::Trailer(Line::Begun),
            (state @ (Self::Extension(_) | Self::Data(_) | Self::End), _) => state,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(framed: &[u8], data: &str, over: bool) {
        for split in 0..=framed.len() {
            let (mut chunked, mut read, mut used) = (Chunked::default(), Vec::new(), 0);
            for part in [&framed[..split], &framed[split..]] {
                used += chunked.read(part, &mut |bytes| read.extend_from_slice(bytes)).unwrap();
            }
            assert_eq!(
                (String::from_utf8_lossy(&read).as_ref(), chunked.is_over()),
                (data, over),
                "at {split}"
            );
            assert_eq!(used, framed.len(), "at {split}");
        }
    }

    #[test]
    fn data_is_the_same_wherever_the_bytes_are_split() {
        check(b"5\r\nhello\r\n1;x=y\r\n!\r\n0\r\n\r\n", "hello!", true);
        check(b"A\r\n0123456789\r\n0\r\nt: 1\r\nu: 2\r\n\r\n", "0123456789", true);
        check(b"3\r\nabc\r\n", "abc", false);
    }

    #[test]
    fn what_follows_the_body_is_left() {
        let mut chunked = Chunked::default();
        assert_eq!(chunked.read(b"0\r\n\r\nHTTP/1.1", &mut |_| ()), Ok(5));
    }

    #[test]
    fn noise_is_refused() {
        for noise in ["x\r\n", "1\r\nab", "ffffffffffffffffff\r\n"] {
            assert_eq!(Chunked::default().read(noise.as_bytes(), &mut |_| ()), Err(Malformed), "{noise}");
        }
    }
}
