//! What is particular to a dialect, as one table: its file fills it in, [`Dialect`](crate::Dialect) names it, everything else
//! reads it.

use crate::answer::Mark;
use crate::json::Shape;
use crate::reply::words::Words;
use crate::scan::Wanted;

/// A dialect.
pub(crate) struct Tables {
    /// Metric label and name in logs.
    pub(crate) label: &'static str,
    /// `gen_ai.operation.name`; `None` for plain HTTP.
    pub(crate) operation: Option<&'static str>,
    pub(crate) request: Request,
    pub(crate) answer: Answer,
    /// How errors that we make are written.
    pub(crate) words: Words,
}

/// How a request's body is read.
pub(crate) enum Request {
    /// Not at all.
    Unread,
    Json(&'static Shape<Wanted>),
}

/// How an answer is read.
pub(crate) struct Answer {
    /// Of a stream: one event.
    pub(crate) event: Option<Events>,
    /// Of an answer that is not a stream: the whole of it.
    pub(crate) whole: Option<&'static Shape<Mark>>,
}

/// The events of a streamed answer.
#[derive(Clone, Copy)]
pub(crate) struct Events {
    pub(crate) shape: &'static Shape<Mark>,
    /// Types of events that end the stream.
    pub(crate) last: &'static [&'static str],
    /// Types of events that report a failure.
    pub(crate) error: &'static [&'static str],
}

impl Answer {
    /// Nothing is read.
    pub(crate) const UNREAD: Answer = Answer { event: None, whole: None };
}
