//! Paths and regular expressions as routes write them.

use crate::finding::Code;
use crate::snapshot::Pattern;
use crate::source::FieldPath;

use super::Review;

/// Longest regular expression, in bytes: as long as the Gateway API lets a path be.
const PATTERN_BYTES_MAX: usize = 1_024;

/// What keeps `path` from being one that a normalised request can have.
pub(super) fn problem(path: &str) -> Option<String> {
    if !path.starts_with('/') {
        return Some("it does not start with `/`".to_owned());
    }
    for part in ["//", "/./", "/../", "%2f", "%2F", "#", "?"] {
        if path.contains(part) {
            return Some(format!("it has `{part}`"));
        }
    }
    if path.ends_with("/.") || path.ends_with("/..") {
        return Some("it ends with a dot segment".to_owned());
    }
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        let plain = byte.is_ascii_alphanumeric() || b"-/._~!$&'()*+,;=:@".contains(&byte);
        let encoded = byte == b'%'
            && [bytes.next(), bytes.next()].iter().flatten().filter(|b| b.is_ascii_hexdigit()).count() == 2;
        if !plain && !encoded {
            return Some("it has characters that must be percent-encoded".to_owned());
        }
    }
    None
}

/// A prefix as snapshots keep it: without trailing slash, `/` as the empty text.
pub(super) fn prefix(path: &str) -> &str {
    path.strip_suffix('/').unwrap_or(path)
}

/// The expression, compiled; notes what is wrong with it.
pub(super) fn pattern(source: &str, path: &FieldPath, review: &mut Review<'_>) -> Option<Pattern> {
    if source.len() > PATTERN_BYTES_MAX {
        let message =
            format!("the expression has {} bytes, and {PATTERN_BYTES_MAX} is the most", source.len());
        review.note_with_help(Code::PatternInvalid, path, message, "shorten it, or write several matches");
        return None;
    }
    match Pattern::new(source) {
        Ok(pattern) => Some(pattern),
        Err(error) => {
            // The library draws a picture over several lines; its last line says what is wrong.
            let why = error.lines().last().unwrap_or_default().trim().trim_start_matches("error: ");
            review.note(Code::PatternInvalid, path, format!("`{source}` is not usable: {why}"));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_normalised_requests() {
        for path in [
            "/",
            "/v1",
            "/v1/",
            "/a/b.c",
            "/a%20b",
            "/~u/(x)",
            "/v1/models/a:predict",
            "/.../x",
            "/.well-known",
        ] {
            assert_eq!(problem(path), None, "{path}");
        }
        for path in [
            "", "v1", "//", "/a//b", "/a/./b", "/a/../b", "/a/..", "/a/.", "/a%2Fb", "/a#b", "/a?b", "/a b",
            "/é", "/%", "/%2", "/%zz",
        ] {
            assert!(problem(path).is_some(), "{path}");
        }
    }

    #[test]
    fn prefixes_lose_their_trailing_slash() {
        for (path, kept) in [("/", ""), ("/v1", "/v1"), ("/v1/", "/v1"), ("", "")] {
            assert_eq!(prefix(path), kept);
        }
    }
}
