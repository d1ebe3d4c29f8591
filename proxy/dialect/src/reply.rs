//! Errors made by us, in the words that the caller's client parses.
//!
//! OpenAI's clients want `{"error": {"message", "type", "param", "code"}}` with all four keys; `code` is our [`ErrorCode`]. Plain
//! HTTP gets the message as text. In a stream that has begun an error is one event, after which the stream is closed without
//! its end mark. gRPC callers get a status and `grpc-message`, which the sidecar writes as trailers.

use crate::Dialect;
use crate::defect::ScanError;

/// Why we, and not the model server, answered with an error. Sent in the body and as `x-penstock-error`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ErrorCode {
    /// The request cannot be read: framing or body.
    BadRequest,
    /// The peer's identity, or a policy, refuses the request.
    Denied,
    /// Nothing matches the request.
    NoRoute,
    /// The body is larger than may be held or passed.
    BodyTooLarge,
    /// The connection is not for this authority.
    Misdirected,
    /// The capacity is there, but taken.
    Overloaded,
    /// The caller's own limit is reached.
    RateLimited,
    /// The header block is larger than the bound.
    HeaderTooLarge,
    /// A fault of the sidecar itself.
    Internal,
    /// The route sends this share of requests to a backend that is not valid.
    InvalidBackend,
    /// The route has no backend to send to.
    NoBackend,
    /// No endpoint could be connected to.
    Connect,
    /// The model server broke off before it had answered.
    UpstreamReset,
    /// The backend has no ready endpoint.
    NoEndpoints,
    /// Retries are spent and no attempt has answered.
    RetryBudget,
    /// The sidecar is shutting down.
    Draining,
    /// The request's time is over.
    Deadline,
}

impl ErrorCode {
    /// Every code, ordered by status.
    pub const ALL: [ErrorCode; 17] = [
        ErrorCode::BadRequest,
        ErrorCode::Denied,
        ErrorCode::NoRoute,
        ErrorCode::BodyTooLarge,
        ErrorCode::Misdirected,
        ErrorCode::Overloaded,
        ErrorCode::RateLimited,
        ErrorCode::HeaderTooLarge,
        ErrorCode::Internal,
        ErrorCode::InvalidBackend,
        ErrorCode::Connect,
        ErrorCode::UpstreamReset,
        ErrorCode::NoBackend,
        ErrorCode::NoEndpoints,
        ErrorCode::RetryBudget,
        ErrorCode::Draining,
        ErrorCode::Deadline,
    ];

    /// The code as written in bodies, headers, metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            ErrorCode::BadRequest => "bad_request",
            ErrorCode::Denied => "denied",
            ErrorCode::NoRoute => "no_route",
            ErrorCode::BodyTooLarge => "body_too_large",
            ErrorCode::Misdirected => "misdirected",
            ErrorCode::Overloaded => "overloaded",
            ErrorCode::RateLimited => "rate_limited",
            ErrorCode::HeaderTooLarge => "header_too_large",
            ErrorCode::Internal => "internal",
            ErrorCode::InvalidBackend => "invalid_backend",
            ErrorCode::NoBackend => "no_backend",
            ErrorCode::Connect => "connect",
            ErrorCode::UpstreamReset => "upstream_reset",
            ErrorCode::NoEndpoints => "no_endpoints",
            ErrorCode::RetryBudget => "retry_budget",
            ErrorCode::Draining => "draining",
            ErrorCode::Deadline => "deadline",
        }
    }

    /// The HTTP status.
    ///
    /// 429 says that capacity exists but is taken, 503 that there is none; clients and gateways behave differently on the two.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            ErrorCode::BadRequest => 400,
            ErrorCode::Denied => 403,
            ErrorCode::NoRoute => 404,
            ErrorCode::BodyTooLarge => 413,
            ErrorCode::Misdirected => 421,
            ErrorCode::Overloaded | ErrorCode::RateLimited => 429,
            ErrorCode::HeaderTooLarge => 431,
            ErrorCode::Internal | ErrorCode::InvalidBackend => 500,
            ErrorCode::Connect | ErrorCode::UpstreamReset => 502,
            ErrorCode::NoBackend | ErrorCode::NoEndpoints | ErrorCode::RetryBudget | ErrorCode::Draining => {
                503
            }
            ErrorCode::Deadline => 504,
        }
    }

    /// The `type` of OpenAI's error object.
    #[must_use]
    pub fn openai_type(self) -> &'static str {
        match self.status() {
            403 => "permission_error",
            404 => "not_found_error",
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// The gRPC status. Finer than [`grpc_code`]: we know why we answer.
    #[must_use]
    pub fn grpc(self) -> u8 {
        match self {
            ErrorCode::BadRequest => grpc::INVALID_ARGUMENT,
            ErrorCode::Denied => grpc::PERMISSION_DENIED,
            ErrorCode::NoRoute => grpc::UNIMPLEMENTED,
            ErrorCode::BodyTooLarge
            | ErrorCode::HeaderTooLarge
            | ErrorCode::Overloaded
            | ErrorCode::RateLimited => grpc::RESOURCE_EXHAUSTED,
            ErrorCode::Internal | ErrorCode::InvalidBackend => grpc::INTERNAL,
            ErrorCode::Misdirected
            | ErrorCode::NoBackend
            | ErrorCode::Connect
            | ErrorCode::UpstreamReset
            | ErrorCode::NoEndpoints
            | ErrorCode::RetryBudget
            | ErrorCode::Draining => grpc::UNAVAILABLE,
            ErrorCode::Deadline => grpc::DEADLINE_EXCEEDED,
        }
    }
}

/// Status codes of gRPC that errors map to.
mod grpc {
    pub(super) const UNKNOWN: u8 = 2;
    pub(super) const INVALID_ARGUMENT: u8 = 3;
    pub(super) const DEADLINE_EXCEEDED: u8 = 4;
    pub(super) const PERMISSION_DENIED: u8 = 7;
    pub(super) const RESOURCE_EXHAUSTED: u8 = 8;
    pub(super) const UNIMPLEMENTED: u8 = 12;
    pub(super) const INTERNAL: u8 = 13;
    pub(super) const UNAVAILABLE: u8 = 14;
    pub(super) const UNAUTHENTICATED: u8 = 16;
}

/// The gRPC status for an answer that has an HTTP status but none of gRPC's: the mapping of gRPC's own document on it.
#[must_use]
pub fn grpc_code(http_status: u16) -> u8 {
    match http_status {
        400 => grpc::INTERNAL,
        401 => grpc::UNAUTHENTICATED,
        403 => grpc::PERMISSION_DENIED,
        404 => grpc::UNIMPLEMENTED,
        429 | 502 | 503 | 504 => grpc::UNAVAILABLE,
        _ => grpc::UNKNOWN,
    }
}

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
        match dialect {
            Dialect::OpenAiChat | Dialect::OpenAiCompletions | Dialect::OpenAiEmbeddings => {
                ReplyBody { content_type: "application/json", bytes: self.openai_json().into_bytes() }
            }
            Dialect::Http => ReplyBody {
                content_type: "text/plain; charset=utf-8",
                bytes: format!("{}\n", self.message).into_bytes(),
            },
        }
    }

    /// The last event of a stream that has begun; `None` where the dialect has no such event. Close without an end mark after it.
    #[must_use]
    pub fn stream_event(&self, dialect: Dialect) -> Option<Vec<u8>> {
        match dialect {
            Dialect::OpenAiChat | Dialect::OpenAiCompletions | Dialect::OpenAiEmbeddings => {
                Some(format!("data: {}\n\n", self.openai_json()).into_bytes())
            }
            Dialect::Http => None,
        }
    }

    fn openai_json(&self) -> String {
        let param = self.param.map_or_else(|| "null".to_owned(), json_string);
        format!(
            r#"{{"error":{{"message":{},"type":"{}","param":{param},"code":"{}"}}}}"#,
            json_string(&self.message),
            self.code.openai_type(),
            self.code.as_str(),
        )
    }
}

/// A JSON string on one line, quotes included.
fn json_string(text: &str) -> String {
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

    #[test]
    fn codes_keep_their_spelling_and_status() {
        let table: Vec<_> = ErrorCode::ALL
            .iter()
            .map(|code| format!("{} {} {} {}", code.status(), code.as_str(), code.openai_type(), code.grpc()))
            .collect();
        let expected = [
            "400 bad_request invalid_request_error 3",
            "403 denied permission_error 7",
            "404 no_route not_found_error 12",
            "413 body_too_large invalid_request_error 8",
            "421 misdirected invalid_request_error 14",
            "429 overloaded rate_limit_error 8",
            "429 rate_limited rate_limit_error 8",
            "431 header_too_large invalid_request_error 8",
            "500 internal server_error 13",
            "500 invalid_backend server_error 13",
            "502 connect server_error 14",
            "502 upstream_reset server_error 14",
            "503 no_backend server_error 14",
            "503 no_endpoints server_error 14",
            "503 retry_budget server_error 14",
            "503 draining server_error 14",
            "504 deadline server_error 4",
        ];
        assert_eq!(table, expected);
    }

    #[test]
    fn http_statuses_map_as_grpc_says() {
        for (status, code) in [
            (400, 13),
            (401, 16),
            (403, 7),
            (404, 12),
            (429, 14),
            (502, 14),
            (503, 14),
            (504, 14),
            (500, 2),
            (418, 2),
        ] {
            assert_eq!(grpc_code(status), code, "{status}");
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
