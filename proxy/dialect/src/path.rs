//! The path as the model server will read it.

use std::borrow::Cow;

/// What a path of the Open Inference Protocol asks of which model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Named<'p> {
    pub(crate) model: &'p str,
    /// None where the path ends with the model or its version: that asks for a description.
    pub(crate) verb: Option<&'p str>,
}

/// `…/v2/models/{model}[/versions/{version}][/{verb}]`.
pub(crate) fn named(decoded: &[u8]) -> Option<Named<'_>> {
    let path = std::str::from_utf8(decoded).ok()?;
    let (_, rest) = path.rsplit_once("/v2/models/")?;
    let segments: Vec<&str> = rest.splitn(5, '/').collect();
    let (model, verb) = match *segments.as_slice() {
        [model] | [model, "versions", _] => (model, None),
        [model, verb] | [model, "versions", _, verb] => (model, Some(verb)),
        _ => return None,
    };
    (!model.is_empty()).then_some(Named { model, verb })
}

/// What follows a segment, each time that it stands in the path: nothing, or something that begins with a slash.
pub(crate) fn after<'p>(decoded: &'p [u8], segment: &'p str) -> impl Iterator<Item = &'p [u8]> {
    let rests =
        memchr::memmem::find_iter(decoded, segment).filter_map(|at| decoded.get(at + segment.len()..));
    rests.filter(|rest| matches!(rest.first(), None | Some(b'/')))
}

/// Whether a path begins with this segment; with none, whether it is over.
pub(crate) fn begins(decoded: &[u8], segment: &str) -> bool {
    let rest = decoded.strip_prefix(segment.as_bytes());
    rest.is_some_and(|rest| rest.is_empty() || (!segment.is_empty() && rest.starts_with(b"/")))
}

/// Without its query, percent-escapes undone once; an escape that is not two hex digits stays as it is.
pub(crate) fn decoded(path: &str) -> Cow<'_, [u8]> {
    let path = path.split('?').next().unwrap_or_default();
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

    #[test]
    fn the_model_of_an_inference_path_is_one_segment() {
        for (path, expected) in [
            ("/v2/models/bert/infer", Some(("bert", Some("infer")))),
            ("/v2/models/bert/versions/3/infer", Some(("bert", Some("infer")))),
            (
                "/team/v2/models/bert%2Dlarge/generate_stream?x=1",
                Some(("bert-large", Some("generate_stream"))),
            ),
            ("/v2/models/a/v2/models/b/infer", Some(("b", Some("infer")))),
            ("/v2/models/bert", Some(("bert", None))),
            ("/v2/models/bert/versions/3", Some(("bert", None))),
            ("/v2/models/a%2Fb/infer", None),
            ("/v2/models//infer", None),
            ("/v2/models/", None),
            ("/v2/models", None),
            ("/v2/models/bert/versions/3/x/infer", None),
            ("/v2/models/%ff/infer", None),
        ] {
            let decoded = decoded(path);
            let found = named(&decoded).map(|named| (named.model, named.verb));
            assert_eq!(found, expected, "{path}");
        }
    }

    #[test]
    fn segments_are_found_whole() {
        for (path, found) in [
            ("/v1/models", vec!["/models"]),
            ("/v1x/v1", vec![""]),
            ("/a/v1/b/v1/c", vec!["/b/v1/c", "/c"]),
            ("/v11", vec![]),
        ] {
            let rests: Vec<_> = after(path.as_bytes(), "/v1").collect();
            assert_eq!(rests, found.iter().map(|rest| rest.as_bytes()).collect::<Vec<_>>(), "{path}");
        }
        for (path, segment, found) in [
            ("/a", "/a", true),
            ("/a/b", "/a", true),
            ("/ab", "/a", false),
            ("", "", true),
            ("/a", "", false),
        ] {
            assert_eq!(begins(path.as_bytes(), segment), found, "{path} {segment}");
        }
    }
}
