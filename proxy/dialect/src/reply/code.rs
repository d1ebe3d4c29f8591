//! Why we answered ourselves, and the statuses that say so.

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
    /// The sidecar of one model server does not let the request in: it would come too late there. Other sidecars choose again.
    Refused,
    /// The sidecar is shutting down.
    Draining,
    /// The request's time is over.
    Deadline,
}

impl ErrorCode {
    /// Every code, ordered by status.
    pub const ALL: [ErrorCode; 18] = [
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
        ErrorCode::Refused,
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
            ErrorCode::Refused => "refused",
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
            ErrorCode::NoBackend
            | ErrorCode::NoEndpoints
            | ErrorCode::RetryBudget
            | ErrorCode::Refused
            | ErrorCode::Draining => 503,
            ErrorCode::Deadline => 504,
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
            | ErrorCode::Refused
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_keep_their_spelling_and_status() {
        let table: Vec<_> = ErrorCode::ALL
            .iter()
            .map(|code| format!("{} {} {}", code.status(), code.as_str(), code.grpc()))
            .collect();
        let expected = [
            "400 bad_request 3",
            "403 denied 7",
            "404 no_route 12",
            "413 body_too_large 8",
            "421 misdirected 14",
            "429 overloaded 8",
            "429 rate_limited 8",
            "431 header_too_large 8",
            "500 internal 13",
            "500 invalid_backend 13",
            "502 connect 14",
            "502 upstream_reset 14",
            "503 no_backend 14",
            "503 no_endpoints 14",
            "503 retry_budget 14",
            "503 refused 14",
            "503 draining 14",
            "504 deadline 4",
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
}
