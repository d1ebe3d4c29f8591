//! What an answer is read for: the words that the tables of all dialects share, and how one event is judged by them.
//!
//! A stream begins with events that announce somebody's turn and generate nothing; those are no tokens. Text, reasoning and tool
//! calls are. Events that are typed carry their type in the data (`type`), in the name of the event, or in both; the data counts.

use crate::defect::Defect;
use crate::json::{Clip, Leaf, Sink, Value, Walker};
use crate::tables::Events;
use crate::usage::{Count, Tally};
use crate::{Dialect, Usage};

/// What a dialect's tables of answer paths may ask for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mark {
    /// Whose turn it is.
    Role,
    /// Generated text: content unless empty.
    Text,
    /// A tool call or a part of one: content when it is an object.
    Call,
    /// A generated token, given as a number.
    Token,
    Error,
    /// The type of the event.
    Kind,
    /// The stream is complete where this is `true` or a text.
    Last,
    Count(Count),
}

/// What one event carries, the first of these that applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// The engine failed after it had begun to answer; the HTTP status says nothing of it.
    Error,
    /// Generated text, reasoning or tool calls.
    Content {
        /// How many deltas of the event are not empty: more than one with several choices, or text beside a tool call. Tokens given
        /// as numbers are one each.
        deltas: u32,
    },
    /// Token counts and nothing generated.
    Usage,
    /// The opening delta: a role, nothing generated.
    Role,
    /// An empty delta, a finish reason, a ping, an end mark, or nothing of this dialect.
    Other,
}

/// An event as judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    /// What it carries.
    pub piece: Piece,
    /// Its token counts: some engines can send them along with content.
    pub usage: Option<Usage>,
    /// The stream is complete with this event. Some dialects have a mark for it, others say so in the last event that carries something.
    pub is_last: bool,
}

impl Judged {
    /// Nothing of the dialect.
    pub(crate) const OTHER: Judged = Judged { piece: Piece::Other, usage: None, is_last: false };
}

/// Judges one event of an answer by its name, if it has one, and its data.
///
/// Allocates nothing. What cannot be read is [`Piece::Other`]: the stream belongs to the caller, we only watch it.
#[must_use]
pub fn judge(dialect: Dialect, name: Option<&[u8]>, data: &[u8]) -> Judged {
    let answer = &dialect.tables().answer;
    match (answer.event, answer.message) {
        (Some(events), _) => events.judge(name, data),
        (None, Some(judge)) => judge(data),
        (None, None) => Judged::OTHER,
    }
}

impl Events {
    fn judge(self, name: Option<&[u8]>, data: &[u8]) -> Judged {
        if data.trim_ascii() == b"[DONE]" {
            return Judged { is_last: true, ..Judged::OTHER };
        }
        let mut event = Event::new(self);
        let mut walker = Walker::new(self.shape);
        if walker.push(data, &mut event).is_err() || !walker.is_complete() {
            event = Event::new(self);
        }
        if let (Kind::Untold, Some(name)) = (event.kind, name) {
            event.kind = self.kind(name);
        }
        event.judged()
    }

    fn kind(self, name: &[u8]) -> Kind {
        let is_in = |names: &[&str]| names.iter().any(|known| known.as_bytes() == name);
        if is_in(self.last) {
            Kind::Last
        } else if is_in(self.error) {
            Kind::Error
        } else {
            Kind::Other
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Untold,
    Last,
    Error,
    Other,
}

struct Event {
    kinds: Events,
    kind: Kind,
    deltas: u32,
    has_role: bool,
    has_error: bool,
    is_last: bool,
    tally: Tally,
}

impl Event {
    fn new(kinds: Events) -> Event {
        Event {
            kinds,
            kind: Kind::Untold,
            deltas: 0,
            has_role: false,
            has_error: false,
            is_last: false,
            tally: Tally::default(),
        }
    }

    fn judged(&self) -> Judged {
        let usage = self.tally.usage();
        let piece = match self {
            Event { has_error: true, .. } | Event { kind: Kind::Error, .. } => Piece::Error,
            Event { deltas: 1.., .. } => Piece::Content { deltas: self.deltas },
            _ if usage.is_some() => Piece::Usage,
            Event { has_role: true, .. } => Piece::Role,
            _ => Piece::Other,
        };
        Judged { piece, usage, is_last: self.is_last || self.kind == Kind::Last }
    }
}

impl Sink<Mark> for Event {
    fn value(&mut self, mark: Mark, value: Value<'_>) -> Result<(), Defect> {
        match (mark, value) {
            (Mark::Text, Value::Text(clip)) if !clip.bytes.is_empty() => self.deltas += 1,
            (Mark::Call, Value::Object) | (Mark::Token, Value::Number(_)) => self.deltas += 1,
            (Mark::Role, Value::Text(_)) => self.has_role = true,
            (Mark::Error, Value::Object | Value::Text(_)) => self.has_error = true,
            (Mark::Last, Value::Bool(true) | Value::Text(_)) => self.is_last = true,
            (Mark::Kind, Value::Text(Clip { bytes, whole: true })) => self.kind = self.kinds.kind(bytes),
            (Mark::Count(count), _) => self.tally.note(count, value),
            _ => {}
        }
        Ok(())
    }

    fn leaf(&mut self, _: Mark, _: Leaf<'_>) {}
}
