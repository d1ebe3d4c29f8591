//! The shapes of error bodies and error events.

use super::{Framing, Reply, ReplyBody};

/// The family of clients that must understand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Words {
    /// `{"error": {"message", "type", "param", "code"}}` with all four keys; `code` is our [`ErrorCode`](super::ErrorCode).
    OpenAi,
    /// The same as a body; the event is typed and has the fields at its top, beside the object that the SDKs look for.
    Responses,
    /// `{"type": "error", "error": {"type", "message", "details": {"error_code"}}}`; its clients give the last as `error_code`.
    Anthropic,
    /// `{"error": "message"}`.
    Text,
    /// `{"error": "message", "error_type": "code"}`: Triton's clients read the first, TGI's both.
    TypedText,
    /// The message as text; no events.
    Plain,
}

impl Words {
    /// The body of an answer that has not begun.
    pub(super) fn body(self, reply: &Reply) -> ReplyBody {
        let text = match self {
            Words::OpenAi | Words::Responses => openai(reply),
            Words::Anthropic => anthropic(reply),
            Words::Text => text(reply),
            Words::TypedText => typed_text(reply),
            Words::Plain => {
                let bytes = format!("{}\n", reply.message).into_bytes();
                return ReplyBody { content_type: "text/plain; charset=utf-8", bytes };
            }
        };
        ReplyBody { content_type: "application/json", bytes: text.into_bytes() }
    }

    /// The last event of a stream that has begun.
    pub(super) fn event(self, reply: &Reply, framing: Framing) -> Option<String> {
        let (name, json) = match self {
            Words::OpenAi => (None, openai(reply)),
            Words::Responses => (Some("error"), responses_event(reply)),
            Words::Anthropic => (Some("error"), anthropic(reply)),
            Words::Text => (None, text(reply)),
            Words::TypedText => (None, typed_text(reply)),
            Words::Plain => return None,
        };
        Some(match (framing, name) {
            (Framing::Lines, _) => format!("{json}\n"),
            (Framing::Events, None) => format!("data: {json}\n\n"),
            (Framing::Events, Some(name)) => format!("event: {name}\ndata: {json}\n\n"),
        })
    }
}

fn openai(reply: &Reply) -> String {
    format!(r#"{{"error":{}}}"#, openai_object(reply))
}

fn openai_object(reply: &Reply) -> String {
    let kind = match reply.status() {
        403 => "permission_error",
        404 => "not_found_error",
        429 => "rate_limit_error",
        500.. => "server_error",
        _ => "invalid_request_error",
    };
    let (message, param, code) = openai_fields(reply);
    format!(r#"{{"message":{message},"type":"{kind}","param":{param},"code":"{code}"}}"#)
}

fn openai_fields(reply: &Reply) -> (String, String, &'static str) {
    let param = reply.param.map_or_else(|| "null".to_owned(), quoted);
    (quoted(&reply.message), param, reply.code.as_str())
}

/// Without the `sequence_number` that the engine gives its events: we do not count them.
fn responses_event(reply: &Reply) -> String {
    let (message, param, code) = openai_fields(reply);
    let error = openai_object(reply);
    format!(r#"{{"type":"error","code":"{code}","message":{message},"param":{param},"error":{error}}}"#)
}

fn anthropic(reply: &Reply) -> String {
    let kind = match reply.status() {
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 => "overloaded_error",
        504 => "timeout_error",
        500.. => "api_error",
        _ => "invalid_request_error",
    };
    let (message, code) = (quoted(&reply.message), reply.code.as_str());
    let error = format!(r#"{{"type":"{kind}","message":{message},"details":{{"error_code":"{code}"}}}}"#);
    format!(r#"{{"type":"error","error":{error}}}"#)
}

fn text(reply: &Reply) -> String {
    format!(r#"{{"error":{}}}"#, quoted(&reply.message))
}

fn typed_text(reply: &Reply) -> String {
    format!(r#"{{"error":{},"error_type":"{}"}}"#, quoted(&reply.message), reply.code.as_str())
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
