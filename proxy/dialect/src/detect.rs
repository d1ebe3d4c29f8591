//! Method, path and content type → [`Dialect`].
//!
//! The path is compared as the model server will read it: without its query, percent-escapes undone, at segment borders and
//! from its end, since many servers stand behind a prefix. Escapes matter because Python's ASGI servers undo them before they
//! route: a `/v1/chat%2Fcompletions` taken for plain HTTP here would pass every rule on models and still be answered.
//!
//! A content type other than JSON does not hide a dialect either: llama.cpp parses the body whatever its type, and the engines
//! which look at the type refuse what is not JSON. Multipart is the exception, its fields are no JSON to anybody.

use std::borrow::Cow;

use crate::Dialect;
use crate::media::Media;

/// Path suffixes that name a dialect. The longest that fits wins.
const SUFFIXES: [(&str, Dialect); 3] = [
    ("/v1/chat/completions", Dialect::OpenAiChat),
    ("/v1/completions", Dialect::OpenAiCompletions),
    ("/v1/embeddings", Dialect::OpenAiEmbeddings),
];

/// Names the dialect of a request from its head.
///
/// `path` is the request target, with or without a query; `content_type` the header's value, if there is one.
#[must_use]
pub fn detect(method: &str, path: &str, content_type: Option<&str>) -> Dialect {
    if method != "POST" || content_type.is_some_and(|value| Media::of(value) == Media::Multipart) {
        return Dialect::Http;
    }
    let path = decoded(path.split('?').next().unwrap_or_default());
    SUFFIXES
        .iter()
        .filter(|(suffix, _)| path.ends_with(suffix.as_bytes()))
        .max_by_key(|(suffix, _)| suffix.len())
        .map_or(Dialect::Http, |&(_, dialect)| dialect)
}

/// Undoes percent-escapes once; an escape that is not two hex digits stays as it is.
fn decoded(path: &str) -> Cow<'_, [u8]> {
    if !path.contains('%') {
        return Cow::Borrowed(path.as_bytes());
    }
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        if let ([high, low, tail @ ..], b'%') = (after, first)
            && let (Some(high), Some(low)) = (hex_digit(*high), hex_digit(*low))
        {
            bytes.push(high * 16 + low);
            rest = tail;
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    Cow::Owned(bytes)
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: Option<&str> = Some("application/json");

    fn check(cases: &[(&str, &str, Option<&str>, Dialect)]) {
        for &(method, path, content_type, expected) in cases {
            assert_eq!(detect(method, path, content_type), expected, "{method} {path} {content_type:?}");
        }
    }

    #[test]
    fn the_end_of_the_path_names_the_dialect() {
        check(&[
            ("POST", "/v1/chat/completions", JSON, Dialect::OpenAiChat),
            ("POST", "/v1/completions", JSON, Dialect::OpenAiCompletions),
            ("POST", "/v1/embeddings", JSON, Dialect::OpenAiEmbeddings),
            ("POST", "/openai/v1/chat/completions", JSON, Dialect::OpenAiChat),
            (
                "POST",
                "/team/a/v1/embeddings?api-version=1&x=/v1/completions",
                JSON,
                Dialect::OpenAiEmbeddings,
            ),
            ("POST", "http://models.example/v1/completions", JSON, Dialect::OpenAiCompletions),
        ]);
    }

    #[test]
    fn anything_else_is_plain_http() {
        check(&[
            ("GET", "/v1/chat/completions", JSON, Dialect::Http),
            ("post", "/v1/chat/completions", JSON, Dialect::Http),
            ("POST", "/xv1/completions/", JSON, Dialect::Http),
            ("POST", "/xv1/completions", JSON, Dialect::Http),
            ("POST", "/v1/chat/completions/control", JSON, Dialect::Http),
            ("POST", "/V1/Chat/Completions", JSON, Dialect::Http),
            ("POST", "/?/v1/completions", JSON, Dialect::Http),
            ("POST", "", JSON, Dialect::Http),
        ]);
    }

    #[test]
    fn the_content_type_hides_a_dialect_only_when_multipart() {
        check(&[
            ("POST", "/v1/completions", None, Dialect::OpenAiCompletions),
            ("POST", "/v1/completions", Some("application/json; charset=utf-8"), Dialect::OpenAiCompletions),
            (
                "POST",
                "/v1/completions",
                Some("application/x-www-form-urlencoded"),
                Dialect::OpenAiCompletions,
            ),
            ("POST", "/v1/completions", Some("Multipart/Form-Data; boundary=b"), Dialect::Http),
        ]);
    }

    #[test]
    fn percent_escapes_do_not_hide_a_dialect() {
        check(&[
            ("POST", "/v1/chat%2fcompletions", JSON, Dialect::OpenAiChat),
            ("POST", "/%761/%63ompletions", JSON, Dialect::OpenAiCompletions),
            ("POST", "/v1/completions%3Fx", JSON, Dialect::Http),
            ("POST", "/v1/%2563ompletions", JSON, Dialect::Http),
            ("POST", "/%zz%/v1/completions", JSON, Dialect::OpenAiCompletions),
            ("POST", "/v1/completions%", JSON, Dialect::Http),
        ]);
    }
}
