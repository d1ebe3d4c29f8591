//! The shapes of error bodies and error events.

use super::{Reply, ReplyBody};

/// The family of clients that must understand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Words {
    /// `{"error": {"message", "type", "param", "code"}}` with all four keys; `code` is our [`ErrorCode`](super::ErrorCode).
    OpenAi,
    /// The message as text; no events.
    Plain,
}

impl Words {
    /// The body of an answer that has not begun.
    pub(super) fn body(self, reply: &Reply) -> ReplyBody {
        match self {
            Words::OpenAi => json(openai(reply)),
            Words::Plain => ReplyBody {
                content_type: "text/plain; charset=utf-8",
                bytes: format!("{}\n", reply.message).into_bytes(),
            },
        }
    }

    /// The last event of a stream that has begun.
    pub(super) fn event(self, reply: &Reply) -> Option<Vec<u8>> {
        match self {
            Words::OpenAi => Some(format!("data: {}\n\n", openai(reply)).into_bytes()),
            Words::Plain => None,
        }
    }
}

fn json(text: String) -> ReplyBody {
    ReplyBody { content_type: "application/json", bytes: text.into_bytes() }
}

fn openai(reply: &Reply) -> String {
    let kind = match reply.status() {
        403 => "permission_error",
        404 => "not_found_error",
        429 => "rate_limit_error",
        500.. => "server_error",
        _ => "invalid_request_error",
    };
    let param = reply.param.map_or_else(|| "null".to_owned(), quoted);
    let (message, code) = (quoted(&reply.message), reply.code.as_str());
    format!(r#"{{"error":{{"message":{message},"type":"{kind}","param":{param},"code":"{code}"}}}}"#)
}

/// A JSON string on one line, quotes included.
fn quoted(text: &str) -> String {
    let mut json = String::with_capacity(text.len() + 2);
    json.push('"');
    for character in text.chars() {
        match character {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            '\n' => json.push_str("\\n"),
            '\r' => json.push_str("\\r"),
            '\t' => json.push_str("\\t"),
            control if control.is_control() => json.push_str(&format!("\\u{:04x}", u32::from(control))),
            other => json.push(other),
        }
    }
    json.push('"');
    json
}
