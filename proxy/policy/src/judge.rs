//! How an exchange ended, in the four words that metrics and SLOs use.
//!
//! - **success**: a whole answer that does not blame the server; a 4xx is the caller's own.
//! - **failure**: a 5xx, a gRPC status that blames the server, an answer that breaks off, no answer.
//! - **shed**: refused for load (429, 529, a 503 that says so, gRPC `RESOURCE_EXHAUSTED`); says nothing about health.
//! - **cancelled**: the caller left before the end, and nothing had failed until then.
//!
//! A refusal or an error that was already answered keeps its word when the caller leaves while reading it.

/// How an exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Head and trailers of the answer; absent where the caller got none.
    pub answer: Option<Answer>,
    /// What ended it.
    pub ending: Ending,
}

/// What an answer says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status, whoever made the answer.
    pub status: u16,
    /// gRPC's own status.
    pub grpc: Grpc,
    /// Whether it says that it was refused for load: by our own error code, by `retry-after`, or by a header that gives the
    /// reason for dropping it.
    pub is_busy: bool,
}

/// gRPC status of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grpc {
    /// It is not gRPC.
    None,
    /// Value of `grpc-status`, from trailers, or from the head of an answer without a body.
    Status(u32),
    /// It is gRPC, and neither head nor trailers had one.
    Missing,
}

/// What ended an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The last byte of the answer was sent to the caller.
    Complete,
    /// The answer broke off, or none came.
    Broken,
    /// The caller left first.
    CallerLeft,
    /// We gave it up, at the end of a drain or by a fault of our own.
    Abandoned,
}

/// The `classification` of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Answered.
    Success,
    /// Not answered as it should be.
    Failure,
    /// Refused for load.
    Shed,
    /// The caller left.
    Cancelled,
}

impl Class {
    /// Label value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Shed => "shed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Classifies an exchange.
pub fn judge(outcome: &Outcome) -> Class {
    let said = outcome.answer.as_ref().map(said_by);
    match (outcome.ending, said) {
        (_, Some(Class::Failure)) => Class::Failure,
        (_, Some(Class::Shed)) => Class::Shed,
        (Ending::CallerLeft, _) => Class::Cancelled,
        (Ending::Complete, Some(said)) if !is_unfinished(outcome) => said,
        (Ending::Complete | Ending::Broken | Ending::Abandoned, _) => Class::Failure,
    }
}

/// A gRPC answer without a status has not ended, even where HTTP thinks so.
fn is_unfinished(outcome: &Outcome) -> bool {
    outcome.answer.is_some_and(|answer| answer.grpc == Grpc::Missing)
}

/// What the answer says, whatever became of it.
fn said_by(answer: &Answer) -> Class {
    match (answer.status, answer.grpc) {
        (429 | 529, _) => Class::Shed,
        (503, _) if answer.is_busy => Class::Shed,
        (500.., _) => Class::Failure,
        (_, Grpc::Status(status)) => said_by_grpc(status, answer.is_busy),
        (_, Grpc::None | Grpc::Missing) => Class::Success,
    }
}

/// The codes that OpenTelemetry counts as errors of a server are failures; the others are the caller's doing or answers.
fn said_by_grpc(status: u32, is_busy: bool) -> Class {
    match status {
        CANCELLED => Class::Cancelled,
        RESOURCE_EXHAUSTED => Class::Shed,
        UNAVAILABLE if is_busy => Class::Shed,
        UNKNOWN | DEADLINE_EXCEEDED | UNIMPLEMENTED | INTERNAL | UNAVAILABLE | DATA_LOSS => Class::Failure,
        code if code > CODE_MAX => Class::Failure, // not a code: gRPC reads it as UNKNOWN
        _ => Class::Success,
    }
}

const CANCELLED: u32 = 1;
const UNKNOWN: u32 = 2;
const DEADLINE_EXCEEDED: u32 = 4;
const RESOURCE_EXHAUSTED: u32 = 8;
const UNIMPLEMENTED: u32 = 12;
const INTERNAL: u32 = 13;
const UNAVAILABLE: u32 = 14;
const DATA_LOSS: u32 = 15;
const CODE_MAX: u32 = 16; // UNAUTHENTICATED

#[cfg(test)]
mod tests {
    use super::*;

    const BUSY: bool = true;
    const QUIET: bool = false;

    fn check(answer: Option<(u16, Grpc, bool)>, ending: Ending, expected: Class) {
        let answer = answer.map(|(status, grpc, is_busy)| Answer { status, grpc, is_busy });
        assert_eq!(judge(&Outcome { answer, ending }), expected, "{answer:?}, {ending:?}");
    }

    #[test]
    fn a_whole_answer_is_judged_by_its_status() {
        for (status, is_busy, expected) in [
            (200, QUIET, Class::Success),
            (302, QUIET, Class::Success),
            (400, QUIET, Class::Success),
            (404, BUSY, Class::Success),
            (429, QUIET, Class::Shed),
            (500, QUIET, Class::Failure),
            (503, QUIET, Class::Failure),
            (503, BUSY, Class::Shed),
            (502, BUSY, Class::Failure),
            (529, QUIET, Class::Shed),
        ] {
            check(Some((status, Grpc::None, is_busy)), Ending::Complete, expected);
        }
    }

    #[test]
    fn grpc_is_judged_by_its_own_status() {
        use Class::{Cancelled, Failure, Shed, Success};
        let expected = [
            Success, Cancelled, Failure, Success, Failure, Success, Success, Success, Shed, Success, Success,
            Success, Failure, Failure, Failure, Failure, Success, Failure,
        ];
        for (code, expected) in (0..).zip(expected) {
            check(Some((200, Grpc::Status(code), QUIET)), Ending::Complete, expected);
        }
        check(Some((200, Grpc::Status(14), BUSY)), Ending::Complete, Shed);
        check(Some((200, Grpc::Status(u32::MAX), QUIET)), Ending::Complete, Failure);
        check(Some((503, Grpc::Status(0), QUIET)), Ending::Complete, Failure);
    }

    #[test]
    fn an_answer_that_does_not_end_is_a_failure() {
        check(Some((200, Grpc::None, QUIET)), Ending::Broken, Class::Failure);
        check(Some((200, Grpc::None, QUIET)), Ending::Abandoned, Class::Failure);
        check(Some((200, Grpc::Missing, QUIET)), Ending::Complete, Class::Failure);
        check(None, Ending::Complete, Class::Failure);
        check(None, Ending::Broken, Class::Failure);
    }

    #[test]
    fn a_caller_that_leaves_cancels_what_had_not_failed() {
        check(None, Ending::CallerLeft, Class::Cancelled);
        check(Some((200, Grpc::None, QUIET)), Ending::CallerLeft, Class::Cancelled);
        check(Some((200, Grpc::Missing, QUIET)), Ending::CallerLeft, Class::Cancelled);
        check(Some((500, Grpc::None, QUIET)), Ending::CallerLeft, Class::Failure);
        check(Some((429, Grpc::None, QUIET)), Ending::CallerLeft, Class::Shed);
        check(Some((503, Grpc::None, BUSY)), Ending::Broken, Class::Shed);
    }
}
