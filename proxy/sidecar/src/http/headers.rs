//! Fields: what is taken off at each end of a hop, what is added, what a rule changes.

use http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use penstock_policy::rewrite::HeaderEdit;
use penstock_policy::route::{Headers, MODEL_HEADER};

/// Version of the wire between sidecars.
pub const WIRE: HeaderName = HeaderName::from_static("x-penstock-wire");
/// The version that we speak.
pub const WIRE_VERSION: HeaderValue = HeaderValue::from_static("1");
/// Which application of the inbound sidecar.
pub const TARGET: HeaderName = HeaderName::from_static("x-penstock-target");
/// Which backend the request was sent to.
pub const BACKEND: HeaderName = HeaderName::from_static("x-penstock-backend");
/// Which attempt it is.
pub const ATTEMPT: HeaderName = HeaderName::from_static("x-penstock-attempt");
/// A sidecar made this answer, for this reason.
pub const ERROR: HeaderName = HeaderName::from_static("x-penstock-error");
/// The application has seen nothing of the request.
pub const UNPROCESSED: HeaderName = HeaderName::from_static("x-penstock-unprocessed");
/// The application has switched to WebSocket: the stream is a tunnel from here on.
pub const SWITCHED: HeaderName = HeaderName::from_static("x-penstock-switched");
/// Names the request in logs.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// W3C trace context.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// Retries of the official SDKs.
pub const SDK_RETRIES: HeaderName = HeaderName::from_static("x-stainless-retry-count");

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const MODEL: HeaderName = HeaderName::from_static(MODEL_HEADER);
const OURS: &str = "x-penstock-";

/// Fields that are about one connection (RFC 9110 section 7.6.1), beside those that `connection` names.
const HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    TRANSFER_ENCODING,
    UPGRADE,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    HTTP2_SETTINGS,
];

/// Makes a received request's fields ready to be sent on.
pub fn clean_request(headers: &mut HeaderMap) {
    let te_trailers = headers.get(TE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"trailers"));
    remove_hop_by_hop(headers);
    headers.remove(TE);
    if te_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    // `host` travels as the authority; the model header is virtual.
    for name in [HOST, MODEL] {
        headers.remove(name);
    }
    for name in ours(headers) {
        headers.remove(name);
    }
}

/// Makes a received answer's fields ready to be sent back. The error code of another sidecar stays.
pub fn clean_response(status: StatusCode, headers: &mut HeaderMap) {
    remove_hop_by_hop(headers);
    for name in ours(headers).into_iter().filter(|name| *name != ERROR) {
        headers.remove(name);
    }
    if status.is_informational() || status == StatusCode::NO_CONTENT {
        headers.remove(CONTENT_LENGTH);
    }
}

/// Makes received trailers, of a request or an answer, ready to be passed on.
pub fn clean_trailers(trailers: &mut HeaderMap) {
    remove_hop_by_hop(trailers);
    for name in ours(trailers) {
        trailers.remove(name);
    }
    // Framing and addressing are told in the head or not at all (RFC 9110 section 6.5.1).
    for name in [CONTENT_LENGTH, HOST, TE] {
        trailers.remove(name);
    }
}

/// The fields of ours that are there, also those that some servers read as ours.
pub fn ours(headers: &HeaderMap) -> Vec<HeaderName> {
    let is_ours = |name: &&HeaderName| {
        // CGI and its descendants make one name of `x_penstock` and `x-penstock`.
        let start = name.as_str().as_bytes().iter().take(OURS.len());
        start.map(|byte| if *byte == b'_' { b'-' } else { *byte }).eq(OURS.bytes())
    };
    headers.keys().filter(is_ours).cloned().collect()
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
        // Framing and addressing are not a client's to remove.
        .filter(|name| *name != CONTENT_LENGTH && *name != HOST)
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// Applies a rule's changes. Their names and values were checked when the document was compiled; one that still cannot be a field is
/// left out.
pub fn edit<'r>(headers: &mut HeaderMap, edits: impl Iterator<Item = HeaderEdit<'r>>) {
    let pair = |name: &str, value: &str| {
        Some((HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_str(value).ok()?))
    };
    for edit in edits {
        match edit {
            HeaderEdit::Set(name, value) => {
                if let Some((name, value)) = pair(name, value) {
                    headers.insert(name, value);
                }
            }
            HeaderEdit::Add(name, value) => {
                if let Some((name, value)) = pair(name, value) {
                    headers.append(name, value);
                }
            }
            HeaderEdit::Remove(name) => {
                headers.remove(name);
            }
        }
    }
}

/// Sets a field from text that is known to be ASCII; leaves it out otherwise.
pub fn insert_text(headers: &mut HeaderMap, name: HeaderName, text: &str) {
    if let Ok(value) = HeaderValue::from_str(text) {
        headers.insert(name, value);
    }
}

/// The value of a field as text, if it is text.
pub fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

/// Request headers as routing reads them.
pub struct Fields<'a>(pub &'a HeaderMap);

impl Headers for Fields<'_> {
    fn each_value<'h>(&'h self, name: &str, see: &mut dyn FnMut(&'h [u8])) {
        for value in self.0.get_all(name) {
            see(value.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn what_is_about_one_connection_stays_on_it() {
        let mut headers = map(&[
            ("host", "chat"),
            ("connection", "close, X-Secret"),
            ("x-secret", "1"),
            ("keep-alive", "5"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("http2-settings", "x"),
            ("te", "gzip"),
            ("x-penstock-target", "1.2.3.4:5"),
            ("x_penstock-target", "1.2.3.4:5"),
            ("x-gateway-model-name", "m"),
            ("content-type", "application/json"),
            ("cookie", "a"),
            ("cookie", "b"),
        ]);
        clean_request(&mut headers);
        assert_eq!(headers, map(&[("content-type", "application/json"), ("cookie", "a"), ("cookie", "b")]));
    }

    #[test]
    fn trailers_cannot_say_what_only_a_head_may() {
        let mut trailers = map(&[
            ("grpc-status", "0"),
            ("content-length", "5"),
            ("transfer-encoding", "chunked"),
            ("host", "a"),
            ("x-penstock-unprocessed", "1"),
        ]);
        clean_trailers(&mut trailers);
        assert_eq!(trailers, map(&[("grpc-status", "0")]));
    }

    #[test]
    fn grpc_keeps_its_te() {
        let mut headers = map(&[("te", "trailers"), ("connection", "te")]);
        clean_request(&mut headers);
        assert_eq!(headers, map(&[("te", "trailers")]));
    }

    #[test]
    fn connection_cannot_take_away_the_framing() {
        let mut headers = map(&[("connection", "content-length"), ("content-length", "5")]);
        clean_request(&mut headers);
        assert_eq!(headers, map(&[("content-length", "5")]));
    }

    #[test]
    fn an_answer_keeps_the_error_code_and_loses_an_impossible_length() {
        let mut headers =
            map(&[("x-penstock-error", "connect"), ("x-penstock-wire", "1"), ("content-length", "2")]);
        clean_response(StatusCode::NO_CONTENT, &mut headers);
        assert_eq!(headers, map(&[("x-penstock-error", "connect")]));
    }
}
