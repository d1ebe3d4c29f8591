//! What goes in and what comes out: requests, refusals, and the account of one step.

use super::Moment;
use super::profile::Batch;

/// The caller's number for a request; unique among the requests that the engine holds at one time.
pub type SequenceId = u64;

/// One prompt and how much to generate for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The caller's number for it.
    pub id: SequenceId,
    /// Length of the prompt in tokens; at least 1.
    pub prompt_tokens: u32,
    /// Hash of each full block of the prompt, each over all tokens up to the end of its block. Fewer hashes than
    /// full blocks leave the rest of the prompt uncached.
    pub block_hashes: Box<[u64]>,
    /// Output tokens after which the sequence ends; at least 1.
    pub output_tokens_max: u32,
}

/// The request waits for its first step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// From this moment on a step may take it: its arrival and the front end.
    pub ready: Moment,
}

/// Why a request was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The bounded queue is full; another engine may have room.
    #[error("the queue is full: {waiting} requests wait, {queued_max} may")]
    QueueFull {
        /// Requests that wait.
        waiting: u32,
        /// Requests that may wait.
        queued_max: u32,
    },
    /// It could never finish, even alone.
    #[error("prompt and output of {tokens} tokens do not fit into a KV cache of {kv_tokens} tokens")]
    TooLong {
        /// Tokens of prompt and output together.
        tokens: u64,
        /// Tokens that the KV cache holds.
        kv_tokens: u64,
    },
    /// A prompt or an output of no tokens.
    #[error("a request needs at least one prompt token and one output token")]
    Empty,
    /// The engine holds a request of that number.
    #[error("request {0} is here already")]
    DuplicateId(SequenceId),
}

/// One output token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Emission {
    /// The sequence that it belongs to.
    pub id: SequenceId,
    /// 0 for the first output token of the sequence.
    pub index: u32,
    /// When it leaves the engine: the end of the step and the front-end work of the tokens before it.
    pub at: Moment,
    /// Whether the sequence ends with it.
    pub last: bool,
}

/// A sequence that a step took from the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// The sequence.
    pub id: SequenceId,
    /// Prompt tokens that the prefix cache spared.
    pub cached_tokens: u32,
    /// Whether it had run before and was preempted.
    pub again: bool,
}

/// The account of one step. Callers keep one and hand it in again, so that steps allocate nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Step {
    /// When it started.
    pub start: Moment,
    /// When it ends; equal to `start` if there was nothing to do.
    pub until: Moment,
    /// What it computed.
    pub batch: Batch,
    /// Tokens in the order in which they leave: decoding sequences by age, then finished prefills.
    pub tokens: Vec<Emission>,
    /// Sequences taken from the queue.
    pub admitted: Vec<Admission>,
    /// Sequences sent back to the queue for want of KV room, youngest first.
    pub preempted: Vec<SequenceId>,
}

impl Step {
    /// Whether the step computed nothing.
    pub fn is_empty(&self) -> bool {
        self.batch.tokens == 0
    }

    /// The sequences that end with this step.
    pub fn finished(&self) -> impl Iterator<Item = SequenceId> + '_ {
        self.tokens.iter().filter(|token| token.last).map(|token| token.id)
    }

    pub(super) fn restart(&mut self, start: Moment) {
        self.start = start;
        self.until = start;
        self.batch = Batch::default();
        self.tokens.clear();
        self.admitted.clear();
        self.preempted.clear();
    }
}

/// Where a sequence was when it was aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// In the front end or the queue.
    Waiting,
    /// Its prompt was being computed.
    Prefill,
    /// It was generating.
    Decode,
    /// Its last token was under way.
    Finishing,
}

/// What an abort gave back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aborted {
    /// Where the sequence was.
    pub phase: Phase,
    /// From when its place and its blocks are free: at once, or at the end of the step that it is part of.
    pub free_at: Moment,
    /// Output tokens computed, that of the step under way included.
    pub output_tokens: u32,
    /// Output tokens that need not be computed any more; each would have been one sequence-step.
    pub saved_output_tokens: u32,
    /// Prompt tokens that need not be computed any more.
    pub saved_prompt_tokens: u32,
    /// Sequence-steps computed for a caller that had left: 1 if a step was under way, else 0.
    pub wasted_steps: u32,
}

/// How full the engine is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Sequences that hold a place.
    pub running: u32,
    /// Requests in the front end or the queue.
    pub waiting: u32,
    /// Blocks that running sequences hold.
    pub blocks_pinned: u32,
    /// Blocks that only the prefix cache holds.
    pub blocks_idle: u32,
    /// Blocks in all.
    pub blocks_total: u32,
}

/// What the engine has done since it was made. Counters only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Requests taken.
    pub accepted: u64,
    /// Requests refused because the queue was full.
    pub refused: u64,
    /// Sequences that ran to their end.
    pub finished: u64,
    /// Sequences aborted.
    pub aborted: u64,
    /// Sequences dropped by a restart.
    pub dropped: u64,
    /// Steps that computed something.
    pub steps: u64,
    /// Sum over steps of the sequences in them.
    pub sequence_steps: u64,
    /// Tokens computed, prompt and output.
    pub computed_tokens: u64,
    /// Output tokens.
    pub output_tokens: u64,
    /// Prompt tokens looked up in the prefix cache.
    pub prefix_queries: u64,
    /// Those of them that it had.
    pub prefix_hits: u64,
    /// Sequences sent back for want of KV room.
    pub preemptions: u64,
    /// Sequence-steps computed for a caller that had left.
    pub wasted_steps: u64,
    /// Output tokens that aborts spared.
    pub saved_output_tokens: u64,
    /// Prompt tokens that aborts spared.
    pub saved_prompt_tokens: u64,
    /// Nanoseconds spent in steps.
    pub busy_ns: u64,
}
