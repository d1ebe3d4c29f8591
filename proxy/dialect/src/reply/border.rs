//! Whether a stream stands between two events, so that one of ours may follow.
//!
//! What has been passed on cannot be taken back: behind half an event ours would be read as its other half, and the client would report
//! nonsense instead of a failure. There the connection is broken instead, which clients report as such.

use super::Framing;

/// As much as tells a blank line: `\r\n` and the end of the line before.
const TAIL_BYTES: usize = 3;

/// Follows one stream.
#[derive(Clone, Copy, Debug)]
pub struct Border {
    framing: Framing,
    /// The last bytes. A stream begins as if after a blank line.
    tail: [u8; TAIL_BYTES],
}

impl Border {
    /// Begins a stream.
    #[must_use]
    pub fn new(framing: Framing) -> Border {
        Border { framing, tail: [b'\n'; TAIL_BYTES] }
    }

    /// How the stream is cut.
    #[must_use]
    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// These bytes pass.
    pub fn passed(&mut self, bytes: &[u8]) {
        let new = bytes.get(bytes.len().saturating_sub(TAIL_BYTES)..).unwrap_or_default();
        self.tail.rotate_left(new.len());
        let kept = TAIL_BYTES - new.len();
        for (to, from) in self.tail.iter_mut().skip(kept).zip(new) {
            *to = *from;
        }
    }

    /// Whether it stands between events now.
    #[must_use]
    pub fn is_here(&self) -> bool {
        let is_end = |byte: u8| matches!(byte, b'\n' | b'\r');
        match (self.framing, self.tail) {
            (Framing::Lines, [.., last]) => last == b'\n',
            (Framing::Events, [before, b'\r', b'\n']) => is_end(before),
            (Framing::Events, [_, before, last]) => is_end(before) && is_end(last),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_may_follow_a_blank_line_and_a_line_another() {
        for (framing, stream, expected) in [
            (Framing::Events, "", true),
            (Framing::Events, "data: a\n\n", true),
            (Framing::Events, "data: a\r\n\r\n", true),
            (Framing::Events, "data: a\r\r", true),
            (Framing::Events, "data: a\n\r\n", true),
            (Framing::Events, "data: a\r\n\r", true),
            (Framing::Events, ": keep-alive\n\n", true),
            (Framing::Events, "d", false),
            (Framing::Events, "data: a\n", false),
            (Framing::Events, "data: a\r\n", false),
            (Framing::Events, "data: a\r", false),
            (Framing::Events, "data: a\n\ndata: b", false),
            (Framing::Events, "data: a\n\nevent: x\n", false),
            (Framing::Lines, "", true),
            (Framing::Lines, "{}\n", true),
            (Framing::Lines, "{}", false),
            (Framing::Lines, "{}\n{", false),
        ] {
            for chunk_bytes in [1, 2, 3, 4, 100] {
                let mut border = Border::new(framing);
                for chunk in stream.as_bytes().chunks(chunk_bytes) {
                    border.passed(chunk);
                    border.passed(b"");
                }
                assert_eq!(border.is_here(), expected, "{framing:?} {stream:?} in chunks of {chunk_bytes}");
            }
        }
    }
}
