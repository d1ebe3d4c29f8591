//! What an answer is read for: the words that the judges of all dialects share.

use crate::usage::Count;
use crate::{Dialect, Usage, openai};

/// What a dialect's tables of answer paths may ask for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mark {
    Role,
    /// Generated text: content unless empty.
    Text,
    /// A tool call or a part of one: content when it is an object.
    Call,
    Error,
    Count(Count),
}

/// What one event carries, the first of these that applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// The stream is complete: `[DONE]`.
    Done,
    /// The engine failed after it had begun to answer; the HTTP status says nothing of it.
    Error,
    /// Generated text, reasoning or tool calls.
    Content {
        /// How many deltas of the event are not empty: more than one with several choices, or text beside a tool call.
        deltas: u32,
    },
    /// Token counts and nothing generated.
    Usage,
    /// The opening delta: a role, nothing generated.
    Role,
    /// An empty delta, a finish reason, or nothing of this dialect.
    Other,
}

/// An event as judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    /// What it carries.
    pub piece: Piece,
    /// Its token counts: vLLM and llama.cpp can send them along with content.
    pub usage: Option<Usage>,
}

/// Judges one event of an answer by its name, if it has one, and its data.
///
/// Allocates nothing. What cannot be read is [`Piece::Other`]: the stream belongs to the caller, we only watch it.
#[must_use]
pub fn judge(dialect: Dialect, name: Option<&[u8]>, data: &[u8]) -> Judged {
    match dialect {
        Dialect::OpenAiChat | Dialect::OpenAiCompletions | Dialect::OpenAiEmbeddings => {
            openai::judge(name, data)
        }
        Dialect::Http => Judged { piece: Piece::Other, usage: None },
    }
}
