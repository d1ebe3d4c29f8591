//! What is particular to a dialect, as one table: its file fills it in, [`Dialect`](crate::Dialect) names it, everything else
//! reads it.

use crate::answer::{Judged, Mark};
use crate::json::Shape;
use crate::reply::words::Words;
use crate::scan::Wanted;

/// A dialect.
pub(crate) struct Tables {
    /// Metric label and name in logs.
    pub(crate) label: &'static str,
    /// `gen_ai.operation.name`; `None` where no model answers.
    pub(crate) operation: Option<&'static str>,
    pub(crate) streams: Streams,
    pub(crate) request: Request,
    pub(crate) answer: Answer,
    /// How errors that we make are written.
    pub(crate) words: Words,
}

/// When an answer is a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Streams {
    Never,
    Always,
    /// Where `stream` is true.
    IfAsked,
    /// Where `stream` is not false.
    UnlessRefused,
    /// Where the path says so, or `stream` is true.
    ByPath,
}

/// How a request is read.
pub(crate) enum Request {
    /// Not at all.
    Unread,
    /// The path has the model; the body is not read.
    Path,
    /// A JSON object. The path may have the model.
    Json(&'static Shape<Wanted>),
    /// `multipart/form-data`.
    Form,
    /// gRPC messages of the Open Inference Protocol.
    Messages,
}

/// How an answer is read.
pub(crate) struct Answer {
    /// Of a stream: one event.
    pub(crate) event: Option<Events>,
    /// Of a stream in gRPC: one message, by how it begins.
    pub(crate) message: Option<fn(&[u8]) -> Judged>,
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
    pub(crate) const UNREAD: Answer = Answer { event: None, message: None, whole: None };
}
