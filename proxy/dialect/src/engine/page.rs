//! The text format: lines, and what is in one. Only lines that a table asks for are read; the others are passed over by their name.

use std::borrow::Cow;

use memchr::memchr;

use super::defect::LineDefect;

/// So many characters of a page that is none are shown.
const BEGINNING_CHARS_MAX: usize = 60;

/// The lines of a page with their numbers, without their ends.
pub(super) fn lines(page: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut rest = page;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = memchr(b'\n', rest).unwrap_or(rest.len());
        let line = &rest[..end];
        rest = rest.get(end + 1..).unwrap_or_default();
        Some(line)
    })
    .enumerate()
    .map(|(index, line)| (index + 1, line))
}

/// The name at the beginning of a line, of a sample or of its `# HELP` or `# TYPE`; empty for other lines.
pub(super) fn name_or_family(line: &[u8]) -> &[u8] {
    let family = line.strip_prefix(b"# HELP ").or_else(|| line.strip_prefix(b"# TYPE "));
    name(family.unwrap_or(line))
}

/// The name of a sample; empty for a comment.
pub(super) fn name(line: &[u8]) -> &[u8] {
    let is_of_name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':');
    &line[..line.iter().position(|byte| !is_of_name(byte)).unwrap_or(line.len())]
}

/// A sample without its name.
#[derive(Debug, PartialEq)]
pub(super) struct Sample<'a> {
    /// Labels in their order, with the values as they are written.
    pub(super) labels: Vec<(&'a str, &'a str)>,
    /// The value.
    pub(super) value: f64,
}

impl<'a> Sample<'a> {
    /// Reads what follows the name of a line.
    pub(super) fn parse(rest: &'a [u8]) -> Result<Self, LineDefect> {
        let mut rest = std::str::from_utf8(rest).map_err(|_| LineDefect::Utf8)?.trim_start();
        let mut labels = Vec::new();
        if let Some(inside) = rest.strip_prefix('{') {
            rest = read_labels(inside, &mut labels).ok_or(LineDefect::Labels)?;
        }
        let mut words = rest.split_ascii_whitespace();
        let value = words.next().and_then(|word| word.parse().ok()).ok_or(LineDefect::Value)?;
        // A time, and in OpenMetrics an exemplar behind a hash.
        match words.next() {
            Some(word) if !word.starts_with('#') && word.parse::<f64>().is_err() => Err(LineDefect::Trailing),
            _ => Ok(Self { labels, value }),
        }
    }

    /// The value of a label; empty where it is absent.
    pub(super) fn label(&self, name: &str) -> &'a str {
        self.labels.iter().find(|(label, _)| *label == name).map_or("", |(_, value)| value)
    }
}

/// Reads up to the closing brace; gives what follows it.
fn read_labels<'a>(inside: &'a str, labels: &mut Vec<(&'a str, &'a str)>) -> Option<&'a str> {
    let mut rest = inside.trim_start();
    loop {
        if let Some(after) = rest.strip_prefix('}') {
            return Some(after);
        }
        let (label, value) = rest.split_once('=')?;
        let label = label.trim();
        let is_name =
            !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let value = value.trim_start().strip_prefix('"').filter(|_| is_name)?;
        let end = end_of_value(value)?;
        labels.push((label, &value[..end]));
        rest = value[end + 1..].trim_start();
        rest = match rest.strip_prefix(',') {
            Some(after) => after.trim_start(),
            None if rest.starts_with('}') => rest,
            None => return None,
        };
    }
}

/// Where the closing quote is.
fn end_of_value(text: &str) -> Option<usize> {
    let mut bytes = text.bytes().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'\\' => drop(bytes.next()),
            b'"' => return Some(at),
            _ => {}
        }
    }
    None
}

/// A label's value without escapes.
pub(super) fn unescape(written: &str) -> Cow<'_, str> {
    if !written.contains('\\') {
        return Cow::Borrowed(written);
    }
    let mut text = String::with_capacity(written.len());
    let mut letters = written.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => match letters.next() {
                Some('n') => text.push('\n'),
                Some(other) => text.push(other),
                None => {}
            },
            _ => text.push(letter),
        }
    }
    Cow::Owned(text)
}

/// How a page begins, fit to be shown on one line.
pub(super) fn beginning(page: &[u8]) -> String {
    let text = String::from_utf8_lossy(&page[..page.len().min(4 * BEGINNING_CHARS_MAX)]);
    let shown = text.split_whitespace().flat_map(|word| [" ", word]).skip(1).flat_map(str::chars);
    shown
        .map(|letter| if letter.is_control() { '\u{fffd}' } else { letter })
        .take(BEGINNING_CHARS_MAX)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_labels_and_a_value() {
        for (rest, labels, value) in [
            (" 3", &[][..], 3.0),
            ("{} 3.5e2", &[], 350.0),
            ("\t+Inf 1700000000000", &[], f64::INFINITY),
            ("{a=\"b\"}1", &[("a", "b")], 1.0),
            ("{ a = \"b\" , c=\"d,}\\\"\" , } 2 # {trace=\"x\"} 1", &[("a", "b"), ("c", "d,}\\\"")], 2.0),
            ("{a=\"\"} 4 12.5\r", &[("a", "")], 4.0),
        ] {
            let expected = Sample { labels: labels.to_vec(), value };
            assert_eq!(Sample::parse(rest.as_bytes()), Ok(expected), "{rest}");
        }
    }

    #[test]
    fn what_is_no_sample_is_refused_with_the_reason() {
        for (rest, defect) in [
            (&b""[..], LineDefect::Value),
            (b" ", LineDefect::Value),
            (b" three", LineDefect::Value),
            (b"{a=\"b\"}", LineDefect::Value),
            (b"{a=\"b\" 1", LineDefect::Labels),
            (b"{a=b} 1", LineDefect::Labels),
            (b"{a} 1", LineDefect::Labels),
            (b"{=\"b\"} 1", LineDefect::Labels),
            (b"{,} 1", LineDefect::Labels),
            (b"{a=\"b\"c=\"d\"} 1", LineDefect::Labels),
            (b"{a=\"b} 1", LineDefect::Labels),
            (b"{a=\"b\\\"} 1", LineDefect::Labels),
            (b"{\"utf8\",a=\"b\"} 1", LineDefect::Labels),
            (b" 1 2x", LineDefect::Trailing),
            (b"{a=\"\xff\"} 1", LineDefect::Utf8),
        ] {
            assert_eq!(Sample::parse(rest), Err(defect), "{}", String::from_utf8_lossy(rest));
        }
    }

    #[test]
    fn names_are_those_of_samples_and_families_and_of_nothing_else() {
        for (line, of_sample, of_either) in [
            ("vllm:a{b=\"c\"} 1", "vllm:a", "vllm:a"),
            ("tgi_a 1", "tgi_a", "tgi_a"),
            ("# HELP sglang:a What.", "", "sglang:a"),
            ("# TYPE sglang:a gauge", "", "sglang:a"),
            ("# EOF", "", ""),
            ("<html>", "", ""),
            ("", "", ""),
        ] {
            let bytes = line.as_bytes();
            assert_eq!(
                (name(bytes), name_or_family(bytes)),
                (of_sample.as_bytes(), of_either.as_bytes()),
                "{line}"
            );
        }
    }

    #[test]
    fn escapes_are_undone() {
        for (written, text) in [("a/b", "a/b"), (r#"a\"b\\c\nd"#, "a\"b\\c\nd"), (r"a\", "a")] {
            assert_eq!(unescape(written), text);
        }
    }

    #[test]
    fn a_beginning_is_one_short_line() {
        assert_eq!(beginning(b"<html>\r\n <b>\x07"), "<html> <b>\u{fffd}");
        assert_eq!(beginning(&[b'a'; 1 << 10]).len(), BEGINNING_CHARS_MAX);
        assert_eq!(beginning(b" \n"), "");
    }
}
