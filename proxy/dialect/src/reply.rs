//! Errors made by us, in the words that the caller's client parses.
//!
//! `words.rs` has the shapes, one for each family of clients; a dialect's table names its own. Plain HTTP gets the message as
//! text. In a stream that has begun an error is one event ([`Border`] says where), after which the stream is closed without its end
//! mark. gRPC callers get a
//! status and `grpc-message`, which the sidecar writes as trailers.

mod border;
mod code;
pub(crate) mod words;

pub use self::border::Border;
pub use self::code::{ErrorCode, grpc_code};

use crate::Dialect;
use crate::defect::ScanError;
use crate::media::Media;

/// An error to tell the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Why.
    pub code: ErrorCode,
    /// What happened and what to do, for a person.
    pub message: String,
    /// The key of the request's body that is to blame, if one is.
    pub param: Option<&'static str>,
}

/// A reply as a response body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplyBody {
    /// The value of `content-type`.
    pub content_type: &'static str,
    /// The body, whole.
    pub bytes: Vec<u8>,
}

impl Reply {
    /// An error with no key to blame.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Reply {
        Reply { code, message: message.into(), param: None }
    }

    /// The answer to a body that cannot be routed safely.
    #[must_use]
    pub fn unreadable(error: &ScanError) -> Reply {
        Reply { param: error.defect.key(), ..Reply::new(ErrorCode::BadRequest, error.to_string()) }
    }

    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.code.status()
    }

    /// The body of an answer that has not begun.
    #[must_use]
    pub fn body(&self, dialect: Dialect) -> ReplyBody {
        dialect.tables().words.body(self)
    }

    /// The last event of a stream that has begun; `None` where the dialect has no such event. Close without an end mark after it.
    #[must_use]
    pub fn stream_event(&self, dialect: Dialect, framing: Framing) -> Option<Vec<u8>> {
        dialect.tables().words.event(self, framing).map(String::into_bytes)
    }
}

/// How a stream is cut into events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Server-sent events.
    Events,
    /// JSON values, one a line.
    Lines,
}

impl Framing {
    /// What a content type announces; `None` if it is no stream into which an error can be written.
    #[must_use]
    pub fn of(content_type: &str) -> Option<Framing> {
        match Media::of(content_type) {
            Media::Events => Some(Framing::Events),
            Media::Lines => Some(Framing::Lines),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::{Piece, judge};
    use crate::defect::Defect;
    use crate::events::{Cutter, Event};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    const OPENAI: [Dialect; 5] = [
        Dialect::OpenAiChat,
        Dialect::OpenAiCompletions,
        Dialect::OpenAiEmbeddings,
        Dialect::OpenAiAudio,
        Dialect::LlamaCpp,
    ];

    fn body(reply: &Reply, dialect: Dialect) -> Value {
        let body = reply.body(dialect);
        assert_eq!(body.content_type, "application/json");
        serde_json::from_slice(&body.bytes).unwrap()
    }

    /// The one event of a stream, with its name; it is an error to our own judge as well.
    fn event(reply: &Reply, dialect: Dialect, framing: Framing) -> (Option<String>, Value) {
        let mut told = Vec::new();
        let bytes = reply.stream_event(dialect, framing).unwrap();
        Cutter::new(framing).push(&bytes, |event| {
            let Event::Message { name, data } = event else { panic!("{event:?}") };
            if dialect != Dialect::Pooling {
                assert_eq!(judge(dialect, name, data).piece, Piece::Error);
            }
            let name = name.map(|name| String::from_utf8_lossy(name).into_owned());
            told.push((name, serde_json::from_slice(data).unwrap()));
        });
        assert_eq!(told.len(), 1);
        told.remove(0)
    }

    fn check(reply: &Reply, expected: &Value) {
        for dialect in OPENAI {
            assert_eq!(&body(reply, dialect), expected);
            assert_eq!(event(reply, dialect, Framing::Events), (None, expected.clone()));
        }
    }

    #[test]
    fn openai_errors_have_all_four_keys() {
        check(
            &Reply::new(ErrorCode::Overloaded, "all 3 endpoints are full; retry in 2 s"),
            &json!({"error": {
                "message": "all 3 endpoints are full; retry in 2 s",
                "type": "rate_limit_error", "param": null, "code": "overloaded",
            }}),
        );
        check(
            &Reply {
                param: Some("model"),
                ..Reply::new(ErrorCode::NoRoute, "no route for \"x\"\r\n\tC:\\\u{1}\u{7f}é")
            },
            &json!({"error": {
                "message": "no route for \"x\"\r\n\tC:\\\u{1}\u{7f}é",
                "type": "not_found_error", "param": "model", "code": "no_route",
            }}),
        );
    }

    #[test]
    fn an_unreadable_body_is_answered_with_place_and_key() {
        let error = ScanError { offset: 12, defect: Defect::Conflict { key: "model" } };
        check(
            &Reply::unreadable(&error),
            &json!({"error": {
                "message": "request body, byte 12: \"model\" is given twice with different values; give the key once",
                "type": "invalid_request_error", "param": "model", "code": "bad_request",
            }}),
        );
    }

    #[test]
    fn plain_http_gets_the_message_as_text_and_no_event() {
        let reply = Reply::new(ErrorCode::Connect, "no endpoint answered");
        let body = reply.body(Dialect::Http);
        assert_eq!(body.content_type, "text/plain; charset=utf-8");
        assert_eq!(body.bytes, b"no endpoint answered\n");
        assert_eq!(reply.stream_event(Dialect::Http, Framing::Events), None);
    }

    #[test]
    fn responses_have_a_typed_event_with_the_object_inside() {
        let reply = Reply { param: Some("model"), ..Reply::new(ErrorCode::Connect, "nobody there") };
        let error =
            json!({"message": "nobody there", "type": "server_error", "param": "model", "code": "connect"});
        assert_eq!(body(&reply, Dialect::OpenAiResponses), json!({"error": error}));
        let told = json!({
            "type": "error", "code": "connect", "message": "nobody there", "param": "model", "error": error,
        });
        let named = Some("error".to_owned());
        assert_eq!(event(&reply, Dialect::OpenAiResponses, Framing::Events), (named, told));
    }

    #[test]
    fn anthropic_errors_have_its_types() {
        for (code, kind) in [
            (ErrorCode::BadRequest, "invalid_request_error"),
            (ErrorCode::Denied, "permission_error"),
            (ErrorCode::NoRoute, "not_found_error"),
            (ErrorCode::BodyTooLarge, "request_too_large"),
            (ErrorCode::Overloaded, "rate_limit_error"),
            (ErrorCode::Internal, "api_error"),
            (ErrorCode::Connect, "api_error"),
            (ErrorCode::NoEndpoints, "overloaded_error"),
            (ErrorCode::Deadline, "timeout_error"),
        ] {
            let reply = Reply::new(code, "why");
            let error = json!({"type": kind, "message": "why", "details": {"error_code": code.as_str()}});
            let expected = json!({"type": "error", "error": error});
            assert_eq!(body(&reply, Dialect::AnthropicMessages), expected, "{code:?}");
            let told = event(&reply, Dialect::AnthropicMessages, Framing::Events);
            assert_eq!(told, (Some("error".to_owned()), expected));
        }
    }

    #[test]
    fn some_clients_want_no_more_than_a_text() {
        let reply = Reply::new(ErrorCode::NoEndpoints, "nobody \"there\"");
        let text = json!({"error": "nobody \"there\""});
        for dialect in [Dialect::OllamaChat, Dialect::OllamaGenerate, Dialect::OllamaEmbed] {
            assert_eq!(body(&reply, dialect), text);
            assert_eq!(event(&reply, dialect, Framing::Lines), (None, text.clone()));
        }
        assert_eq!(body(&reply, Dialect::OipInfer), text);
        let typed = json!({"error": "nobody \"there\"", "error_type": "no_endpoints"});
        assert_eq!(body(&reply, Dialect::Generate), typed);
        assert_eq!(event(&reply, Dialect::Generate, Framing::Events), (None, typed));
    }

    #[test]
    fn an_error_can_be_written_into_events_and_lines() {
        for (content_type, expected) in [
            ("text/event-stream; charset=utf-8", Some(Framing::Events)),
            ("application/x-ndjson", Some(Framing::Lines)),
            ("application/json", None),
            ("application/grpc", None),
            ("text/plain", None),
        ] {
            assert_eq!(Framing::of(content_type), expected, "{content_type}");
        }
    }

    proptest! {
        #[test]
        fn any_message_survives(message in any::<String>()) {
            let body = Reply::new(ErrorCode::Internal, message.clone()).body(Dialect::OpenAiChat);
            let parsed: Value = serde_json::from_slice(&body.bytes).unwrap();
            prop_assert_eq!(parsed["error"]["message"].as_str(), Some(message.as_str()));
            prop_assert!(!body.bytes.contains(&b'\n') && !body.bytes.contains(&b'\r'));
        }
    }
}
