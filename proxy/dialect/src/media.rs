//! Content types, reduced to what the data path asks of them.

use crate::defect::Defect;

/// What kind of body a content type announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Media {
    /// `application/json` and `application/*+json`.
    Json,
    /// `text/event-stream`.
    Events,
    /// JSON values, one a line: `application/x-ndjson` and its other names.
    Lines,
    /// gRPC with protobuf messages.
    Grpc,
    /// `multipart/*`.
    Multipart,
    /// Any other type.
    Other,
}

impl Media {
    /// Reads the value of a `content-type` header; parameters and letter case do not matter.
    pub(crate) fn of(content_type: &str) -> Media {
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        if is(essence, "application/json") || (starts(essence, "application/") && ends(essence, "+json")) {
            Media::Json
        } else if is(essence, "text/event-stream") {
            Media::Events
        } else if LINES.iter().any(|name| is(essence, name)) {
            Media::Lines
        } else if is(essence, "application/grpc") || is(essence, "application/grpc+proto") {
            Media::Grpc
        } else if starts(essence, "multipart/") {
            Media::Multipart
        } else {
            Media::Other
        }
    }
}

/// The boundary of a multipart form.
///
/// # Errors
/// It is missing, given twice, or cannot be one.
pub(crate) fn boundary(content_type: &str) -> Result<&str, Defect> {
    let mut found = None;
    for parameter in content_type.split(';').skip(1) {
        let Some((name, value)) = parameter.split_once('=') else { continue };
        if !is(name.trim(), "boundary") {
            continue;
        }
        if found.is_some() {
            return Err(Defect::Form("content-type gives the boundary twice"));
        }
        let value = value.trim();
        found = Some(value.strip_prefix('"').and_then(|open| open.strip_suffix('"')).unwrap_or(value));
    }
    let boundary = found.ok_or(Defect::Form("content-type has no boundary"))?;
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(&byte);
    if !(1..=BOUNDARY_BYTES_MAX).contains(&boundary.len()) || !boundary.bytes().all(is_allowed) {
        return Err(Defect::Form(
            "the boundary of content-type is not 1 to 70 characters that may stand in one",
        ));
    }
    Ok(boundary)
}

/// RFC 2046, 5.1.1.
const BOUNDARY_BYTES_MAX: usize = 70;

const LINES: [&str; 5] = [
    "application/x-ndjson",
    "application/ndjson",
    "application/jsonl",
    "application/x-jsonlines",
    "application/jsonlines",
];

fn is(essence: &str, name: &str) -> bool {
    essence.eq_ignore_ascii_case(name)
}

fn starts(essence: &str, prefix: &str) -> bool {
    essence.get(..prefix.len()).is_some_and(|head| is(head, prefix))
}

fn ends(essence: &str, suffix: &str) -> bool {
    let cut = essence.len().checked_sub(suffix.len());
    cut.and_then(|cut| essence.get(cut..)).is_some_and(|tail| is(tail, suffix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_case_and_spaces_do_not_matter() {
        for (content_type, expected) in [
            ("application/json", Media::Json),
            ("Application/JSON; charset=utf-8", Media::Json),
            (" application/vnd.api+json ", Media::Json),
            ("text/event-stream;charset=UTF-8", Media::Events),
            ("application/x-ndjson; charset=utf-8", Media::Lines),
            ("application/grpc", Media::Grpc),
            ("application/grpc+proto", Media::Grpc),
            ("application/grpc-web+proto", Media::Other),
            ("multipart/form-data; boundary=x", Media::Multipart),
            ("text/json", Media::Other),
            ("+json", Media::Other),
            ("größe", Media::Other),
            ("", Media::Other),
        ] {
            assert_eq!(Media::of(content_type), expected, "{content_type:?}");
        }
    }

    #[test]
    fn a_boundary_is_found_or_refused() {
        let form = |parameters: &str| format!("multipart/form-data{parameters}");
        for (parameters, expected) in [
            ("; boundary=abc", Some("abc")),
            (";charset=utf-8;BOUNDARY=\"a b:c\" ", Some("a b:c")),
            ("; boundary=----x-y", Some("----x-y")),
            ("", None),
            ("; boundary=", None),
            ("; boundary=a; boundary=a", None),
            ("; boundary=a\u{e9}", None),
            ("; boundary=\"a", None),
        ] {
            assert_eq!(boundary(&form(parameters)).ok(), expected, "{parameters}");
        }
        assert_eq!(boundary(&form(&format!("; boundary={}", "x".repeat(71)))).ok(), None);
    }
}
