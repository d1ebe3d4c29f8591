//! May a failed attempt be made once more, on another endpoint?
//!
//! A generation costs GPU seconds and is not idempotent, so only an attempt that provably did nothing is repeated, whatever the
//! method. All of this must hold, and [`verdict`] asks in this order: the fault is the upstream's and nothing was acted on · no
//! byte of an answer has reached the caller · the request's body can be sent again · the request was not retried before · the
//! budget has room.

mod budget;

use std::fmt;

use penstock_model::units::Moment;

pub use budget::{Arrival, RetryBudget};

/// Most retries of one request. Callers' SDKs retry twice themselves, and the factors multiply.
pub const RETRIES_MAX: u32 = 1;

/// Why an attempt failed, in the words that the retry decision needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Whose fault it is.
    pub side: Side,
    /// What happened.
    pub kind: Kind,
    /// How much of the request was sent when it happened.
    pub sent: Sent,
}

impl Fault {
    /// Whether it is certain that nothing acted on the request.
    pub fn is_safe_to_retry(&self) -> bool {
        self.side == Side::Upstream && (self.sent == Sent::Nothing || self.kind.is_unprocessed())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = match self.side {
            Side::Caller => "caller",
            Side::Upstream => "upstream",
        };
        let sent = match self.sent {
            Sent::Nothing => "nothing sent",
            Sent::Something => "request sent, at least in part",
        };
        write!(f, "{side}: {} ({sent})", self.kind.as_str())
    }
}

/// One end of the exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Who asks.
    Caller,
    /// Who answers.
    Upstream,
}

/// What happened to an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No TCP connection, in time or at all.
    Connect,
    /// No TLS session: handshake, identity or time.
    Tls,
    /// The peer reset the stream with `REFUSED_STREAM`.
    RefusedStream,
    /// The peer's GOAWAY named a last stream below this one.
    GoAway,
    /// The endpoint answered that it is too busy, before it did any work.
    Busy,
    /// The stream or connection was reset.
    Reset,
    /// The connection was closed before the answer was whole.
    Closed,
    /// A deadline of the attempt passed.
    Timeout,
    /// What came is not valid HTTP.
    Protocol,
}

impl Kind {
    /// Label value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::RefusedStream => "refused_stream",
            Self::GoAway => "goaway",
            Self::Busy => "busy",
            Self::Reset => "reset",
            Self::Closed => "closed",
            Self::Timeout => "timeout",
            Self::Protocol => "protocol",
        }
    }

    /// Whether it proves by itself that the request was not processed, even if bytes of it were sent.
    fn is_unprocessed(self) -> bool {
        match self {
            Self::Connect | Self::Tls | Self::RefusedStream | Self::GoAway | Self::Busy => true,
            Self::Reset | Self::Closed | Self::Timeout | Self::Protocol => false,
        }
    }
}

/// How much of a request was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// No byte was handed to the connection.
    Nothing,
    /// At least one was, so the upstream may have acted on it.
    Something,
}

/// How far the request had come when the attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Retries made for it before.
    pub retries: u32,
    /// Its answer.
    pub answer: AnswerState,
    /// Its body.
    pub body: Body,
}

/// How much of an answer the caller has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerState {
    /// Nothing.
    NotBegun,
    /// At least the head.
    Begun,
}

/// Whether a request's body can be sent from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// All of it that was read is still held, or there is none.
    Held,
    /// Some of it was let go.
    Gone,
}

/// What to do after a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Try another endpoint. One retry was taken from the budget.
    Retry,
    /// Answer the caller.
    Stop(Stop),
}

/// Why there is no retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The request may have been acted on, or the caller is at fault.
    Unsafe,
    /// The caller has seen part of an answer.
    AnswerBegun,
    /// The body is no longer held.
    BodyGone,
    /// [`RETRIES_MAX`] is reached.
    RetriesSpent,
    /// The budget is spent: 503 `retry_budget`, unless there is an answer of the upstream to pass on.
    BudgetSpent,
}

impl Stop {
    /// Label value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unsafe => "unsafe",
            Self::AnswerBegun => "answer_begun",
            Self::BodyGone => "not_replayable",
            Self::RetriesSpent => "retries_spent",
            Self::BudgetSpent => "budget_exhausted",
        }
    }
}

/// Decides what follows a fault. The budget is charged only where the answer is [`Verdict::Retry`].
pub fn verdict(fault: &Fault, progress: &Progress, budget: &mut RetryBudget, now: Moment) -> Verdict {
    if !fault.is_safe_to_retry() {
        Verdict::Stop(Stop::Unsafe)
    } else if progress.answer == AnswerState::Begun {
        Verdict::Stop(Stop::AnswerBegun)
    } else if progress.body == Body::Gone {
        Verdict::Stop(Stop::BodyGone)
    } else if progress.retries >= RETRIES_MAX {
        Verdict::Stop(Stop::RetriesSpent)
    } else if !budget.take(now) {
        Verdict::Stop(Stop::BudgetSpent)
    } else {
        Verdict::Retry
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRESH: Progress = Progress { retries: 0, answer: AnswerState::NotBegun, body: Body::Held };

    fn check(side: Side, kind: Kind, sent: Sent, progress: Progress, expected: Verdict) {
        let fault = Fault { side, kind, sent };
        let mut budget = RetryBudget::default();
        assert_eq!(verdict(&fault, &progress, &mut budget, Moment(0)), expected, "{fault}, {progress:?}");
    }

    #[test]
    fn what_provably_did_nothing_is_tried_elsewhere() {
        for kind in [Kind::Connect, Kind::Tls, Kind::RefusedStream, Kind::GoAway, Kind::Busy] {
            check(Side::Upstream, kind, Sent::Something, FRESH, Verdict::Retry);
            check(Side::Upstream, kind, Sent::Nothing, FRESH, Verdict::Retry);
        }
        for kind in [Kind::Reset, Kind::Closed, Kind::Timeout, Kind::Protocol] {
            check(Side::Upstream, kind, Sent::Nothing, FRESH, Verdict::Retry);
        }
    }

    #[test]
    fn what_may_have_been_acted_on_is_not_repeated() {
        for kind in [Kind::Reset, Kind::Closed, Kind::Timeout, Kind::Protocol] {
            check(Side::Upstream, kind, Sent::Something, FRESH, Verdict::Stop(Stop::Unsafe));
        }
        check(Side::Caller, Kind::Closed, Sent::Nothing, FRESH, Verdict::Stop(Stop::Unsafe));
    }

    #[test]
    fn a_safe_fault_is_not_enough() {
        let stop = |progress, stop| {
            check(Side::Upstream, Kind::Connect, Sent::Nothing, progress, Verdict::Stop(stop));
        };
        stop(Progress { answer: AnswerState::Begun, ..FRESH }, Stop::AnswerBegun);
        stop(Progress { body: Body::Gone, ..FRESH }, Stop::BodyGone);
        stop(Progress { retries: RETRIES_MAX, ..FRESH }, Stop::RetriesSpent);
    }

    #[test]
    fn a_stop_leaves_the_budget_alone_and_a_spent_budget_stops() {
        let fault = Fault { side: Side::Upstream, kind: Kind::Connect, sent: Sent::Nothing };
        let mut budget = RetryBudget::default();
        for _ in 0..1_000 {
            let gone = Progress { body: Body::Gone, ..FRESH };
            assert_eq!(verdict(&fault, &gone, &mut budget, Moment(0)), Verdict::Stop(Stop::BodyGone));
        }
        let verdicts: Vec<_> = (0..101).map(|_| verdict(&fault, &FRESH, &mut budget, Moment(0))).collect();
        assert!(verdicts[..100].iter().all(|v| *v == Verdict::Retry));
        assert_eq!(verdicts[100], Verdict::Stop(Stop::BudgetSpent));
    }
}
