//! Errors, in the shape that vLLM gives them: OpenAI's, with the HTTP status as `code`.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::live::Turned;
use crate::scheduler::Refused;

/// A body as it arrived, or why it did not.
pub(crate) type Body = Result<Bytes, BytesRejection>;

/// An answer that is an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    status: StatusCode,
    message: String,
    param: Option<&'static str>,
    retry_after_s: Option<u32>,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, message: String) -> Self {
        Self { status, message, param: None, retry_after_s: None }
    }

    pub(crate) fn bad(param: &'static str, message: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, format!("{param}: {message}")).about(param)
    }

    pub(crate) fn about(self, param: &'static str) -> Self {
        Self { param: Some(param), ..self }
    }

    fn kind(&self) -> &'static str {
        match self.status {
            StatusCode::BAD_REQUEST => "BadRequestError",
            StatusCode::NOT_FOUND => "NotFoundError",
            StatusCode::METHOD_NOT_ALLOWED => "MethodNotAllowedError",
            StatusCode::PAYLOAD_TOO_LARGE => "RequestTooLargeError",
            StatusCode::SERVICE_UNAVAILABLE => "ServiceUnavailableError",
            _ => "InternalServerError",
        }
    }
}

impl From<Turned> for Refusal {
    fn from(turned: Turned) -> Self {
        match turned {
            Turned::Unavailable { retry_after_s } => {
                Self { retry_after_s, ..Self::new(StatusCode::SERVICE_UNAVAILABLE, turned.to_string()) }
            }
            Turned::Loading => Self::new(StatusCode::SERVICE_UNAVAILABLE, turned.to_string()),
            Turned::Refused(Refused::QueueFull { .. }) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, format!("{turned}; try another instance"))
            }
            Turned::Refused(Refused::TooLong { .. } | Refused::Empty | Refused::DuplicateId(_)) => {
                Self::new(StatusCode::BAD_REQUEST, turned.to_string())
            }
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let error = json!({"error": {
            "message": self.message,
            "type": self.kind(),
            "param": self.param,
            "code": self.status.as_u16(),
        }});
        let mut response = (self.status, Json(error)).into_response();
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
