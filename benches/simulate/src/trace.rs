//! Recorded requests, and their arrival at a given load.
//!
//! A trace is a file of JSON lines, plain or gzipped, one request a line:
//!
//! | field | meaning |
//! |---|---|
//! | `timestamp` | arrival in whole milliseconds from any moment, the first one is the trace's begin; lines are sorted by it |
//! | `input_length`, `output_length` | tokens of the prompt and of the answer, at least 1 |
//! | `hash_ids` | optional: one number for each block of 512 prompt tokens; equal leading numbers are equal leading tokens |
//! | `session_id`, `turn`, `delay` | optional: turns of a session, and the milliseconds between an answer's end and the next turn |
//!
//! Other fields are passed over. [`arrivals`] turns a trace into arrivals at a load.

mod arrivals;
mod read;
mod synthetic;

pub use arrivals::{Arrival, Schedule, arrivals};
pub use read::read;
pub use synthetic::{Mix, synthetic};

/// Prompt tokens that one entry of `hash_ids` stands for.
pub const BLOCK_TOKENS: u32 = 512;

/// One recorded request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Milliseconds from the trace's first arrival.
    pub at_ms: u64,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens of the answer.
    pub output_tokens: u32,
    /// Prefix blocks of the prompt.
    pub blocks: Vec<u64>,
}

/// The turns of one session, in order; the first with its arrival, each later one with the pause before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The turns. `at_ms` of all but the first is not used.
    pub turns: Vec<Record>,
    /// Milliseconds between the end of the answer before and each turn; 0 for the first.
    pub pauses_ms: Vec<u64>,
}

/// What was recorded: requests that come when they come, or sessions whose turns wait for answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Load {
    /// Requests in the order of their arrival.
    Open(Vec<Record>),
    /// Sessions in the order of their start.
    Sessions(Vec<Session>),
}

/// A trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// File name without folder and endings.
    pub name: String,
    /// XXH3 of the uncompressed bytes, in hexadecimal: says which trace a result is of.
    pub checksum: String,
    /// The requests.
    pub load: Load,
}

impl Trace {
    /// Requests, or starts of sessions, a second as recorded.
    pub fn rate(&self) -> f64 {
        let count = match &self.load {
            Load::Open(records) => records.len(),
            Load::Sessions(sessions) => sessions.len(),
        };
        // So many gaps lie between the first and the last.
        count.saturating_sub(1).max(1) as f64 / (self.span_ms().max(1) as f64 / 1e3)
    }

    /// Milliseconds between the first and the last arrival, or start of a session.
    pub fn span_ms(&self) -> u64 {
        let (first, last) = match &self.load {
            Load::Open(records) => (records.first(), records.last()),
            Load::Sessions(sessions) => {
                (sessions.first().map(|first| &first.turns[0]), sessions.last().map(|last| &last.turns[0]))
            }
        };
        let at_ms = |record: Option<&Record>| record.map_or(0, |record| record.at_ms);
        at_ms(last).saturating_sub(at_ms(first))
    }
}
