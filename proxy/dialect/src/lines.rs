//! JSON values, one a line, cut out of a byte stream. Blank lines are nobody's; the last line may lack its end, which only the end
//! of the stream tells.

use memchr::memchr;

/// Buffers larger than this are given back after the line that needed them: streams are many and idle.
const BUFFER_BYTES_KEPT: usize = 4 * 1024;

/// Cuts one stream. Any cut between pushes gives the same lines.
#[derive(Debug)]
pub(crate) struct Lines {
    line_bytes_max: usize,
    /// The beginning of a line that the last chunk cut.
    held: Vec<u8>,
    /// All of that line's bytes, those not kept included.
    held_bytes: usize,
}

/// A line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line<'a> {
    Whole(&'a [u8]),
    /// Longer than the bound, by its length; it was not kept.
    Oversized(usize),
}

impl Lines {
    pub(crate) fn new(line_bytes_max: usize) -> Lines {
        Lines { line_bytes_max, held: Vec::new(), held_bytes: 0 }
    }

    /// Reads the next bytes and tells of every line that they complete.
    pub(crate) fn push(&mut self, chunk: &[u8], mut on_line: impl FnMut(Line<'_>)) {
        let mut rest = chunk;
        while let Some(end) = memchr(b'\n', rest) {
            let (line, ending) = rest.split_at(end);
            rest = ending.get(1..).unwrap_or_default();
            if self.held_bytes == 0 {
                self.tell(line, line.len(), &mut on_line);
                continue;
            }
            self.hold(line);
            let held = std::mem::take(&mut self.held);
            self.tell(&held, self.held_bytes, &mut on_line);
            self.held_bytes = 0;
            if held.capacity() <= BUFFER_BYTES_KEPT {
                self.held = held;
                self.held.clear();
            }
        }
        self.hold(rest);
    }

    /// The stream has ended: tells of a last line without an end.
    pub(crate) fn end(&mut self, mut on_line: impl FnMut(Line<'_>)) {
        let held = std::mem::take(&mut self.held);
        self.tell(&held, self.held_bytes, &mut on_line);
        self.held_bytes = 0;
    }

    fn tell(&self, line: &[u8], bytes: usize, on_line: &mut impl FnMut(Line<'_>)) {
        if bytes > self.line_bytes_max {
            on_line(Line::Oversized(bytes));
        } else if !line.trim_ascii().is_empty() {
            on_line(Line::Whole(line));
        }
    }

    fn hold(&mut self, part: &[u8]) {
        self.held_bytes += part.len();
        let room = self.line_bytes_max.saturating_sub(self.held.len());
        self.held.extend_from_slice(part.get(..room).unwrap_or(part));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(stream: &str, expected: &[&str]) {
        for chunk_bytes in [1, 2, 3, 5, 1024] {
            let mut lines = Lines::new(8);
            let mut told = Vec::new();
            for chunk in stream.as_bytes().chunks(chunk_bytes) {
                lines.push(chunk, |line| {
                    told.push(match line {
                        Line::Whole(line) => line.escape_ascii().to_string(),
                        Line::Oversized(bytes) => format!("oversized {bytes}"),
                    });
                });
                assert!(lines.held.len() <= 8);
            }
            lines.end(|line| told.push(format!("last {line:?}")));
            assert_eq!(told, expected, "{stream:?} in chunks of {chunk_bytes}");
        }
    }

    #[test]
    fn lines_are_told_whole_and_blank_ones_not() {
        check("{}\n{\"a\":1}\n\n \r\n{}\r\n", &["{}", "{\\\"a\\\":1}", "{}\\r"]);
        check("", &[]);
    }

    #[test]
    fn a_last_line_without_an_end_is_told_at_the_end() {
        check("{}", &["last Whole([123, 125])"]);
        check("{}\n{}", &["{}", "last Whole([123, 125])"]);
        check("{}\n \r", &["{}"]);
        check("123456789", &["last Oversized(9)"]);
    }

    #[test]
    fn a_line_over_the_bound_is_told_but_not_kept() {
        check("12345678\n123456789\n1\n", &["12345678", "oversized 9", "1"]);
    }
}
