//! What a caller sees of an answer.

use std::fmt;

use http::Request;
use http_body_util::BodyExt;
use penstock_tests::client::{Body, Connection};

/// An answer as far as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Status; none if there was no head.
    pub(crate) status: Option<u16>,
    /// Bytes of the body.
    pub(crate) body: Vec<u8>,
    /// It came to its orderly end.
    pub(crate) is_whole: bool,
    /// `x-penstock-error`, if it was made by a sidecar.
    pub(crate) error: Option<String>,
    /// The connection takes no further request: `connection: close`.
    pub(crate) is_last: bool,
    /// What the library said of it.
    pub(crate) fault: Option<String>,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = if self.is_whole { "whole" } else { "broken" };
        let fault = self.fault.as_deref().unwrap_or_default();
        write!(f, "{:?} {} bytes {end} {:?} {fault}", self.status, self.body.len(), self.error)
    }
}

/// Sends a request and reads what comes, until it ends or breaks.
pub(crate) async fn ask(connection: &mut Connection, request: Request<Body>) -> Seen {
    let mut seen = Seen::default();
    let answer = match connection.try_send(request).await {
        Ok(answer) => answer,
        Err(fault) => {
            seen.fault = Some(format!("{fault:?}"));
            return seen;
        }
    };
    seen.status = Some(answer.status().as_u16());
    let error = answer.headers().get("x-penstock-error");
    seen.error = error.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    seen.is_last = answer.headers().get("connection").is_some_and(|value| value == "close");
    let mut body = answer.into_body();
    loop {
        match body.frame().await {
            Some(Ok(frame)) => seen.body.extend_from_slice(frame.data_ref().map_or(&[], |bytes| &bytes[..])),
            Some(Err(fault)) => {
                seen.fault = Some(format!("{fault:?}"));
                return seen;
            }
            None => {
                seen.is_whole = true;
                return seen;
            }
        }
    }
}
