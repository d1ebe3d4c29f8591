//! Errors made by us, in the words that the caller's client parses.
//!
//! `words.rs` has the shapes, one for each family of clients; a dialect's table names its own. Plain HTTP gets the message as
//! text. In a stream that has begun an error is one event, after which the stream is closed without its end mark. gRPC callers get a
//! status and `grpc-message`, which the sidecar writes as trailers.

mod code;
pub(crate) mod words;

pub use self::code::{ErrorCode, grpc_code};

use crate::Dialect;
use crate::defect::ScanError;

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
    pub fn stream_event(&self, dialect: Dialect) -> Option<Vec<u8>> {
        dialect.tables().words.event(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::{Piece, judge};
    use crate::defect::Defect;
    use crate::sse::{EVENT_BYTES_MAX, Event, Splitter};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    const OPENAI: [Dialect; 3] = [Dialect::OpenAiChat, Dialect::OpenAiCompletions, Dialect::OpenAiEmbeddings];

    fn check(reply: &Reply, expected: &Value) {
        for dialect in OPENAI {
            let body = reply.body(dialect);
            assert_eq!(body.content_type, "application/json");
            assert_eq!(&serde_json::from_slice::<Value>(&body.bytes).unwrap(), expected);
            let mut told = Vec::new();
            Splitter::new(EVENT_BYTES_MAX).push(&reply.stream_event(dialect).unwrap(), |event| {
                let Event::Message { name: None, data } = event else { panic!("{event:?}") };
                assert_eq!(judge(dialect, None, data).piece, Piece::Error);
                told.push(serde_json::from_slice::<Value>(data).unwrap());
            });
            assert_eq!(told, std::slice::from_ref(expected));
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
        assert_eq!(reply.stream_event(Dialect::Http), None);
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
