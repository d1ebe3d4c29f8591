//! Content types, reduced to what the data path asks of them.

/// What kind of body a content type announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Media {
    /// `application/json` and `application/*+json`.
    Json,
    /// `text/event-stream`.
    Events,
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
        } else if starts(essence, "multipart/") {
            Media::Multipart
        } else {
            Media::Other
        }
    }
}

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
            ("multipart/form-data; boundary=x", Media::Multipart),
            ("text/json", Media::Other),
            ("+json", Media::Other),
            ("größe", Media::Other),
            ("", Media::Other),
        ] {
            assert_eq!(Media::of(content_type), expected, "{content_type:?}");
        }
    }
}
