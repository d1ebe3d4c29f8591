//! One request inside the engine.

use super::blocks::Node;
use super::step::SequenceId;
use super::{Moment, Request};

/// Where a sequence stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// In the front end or the queue; holds no blocks.
    Waiting,
    /// Holds a place; its prompt is being computed.
    Prefill,
    /// Holds a place; one token a step.
    Decode,
    /// Its last token is under way; leaves when the step ends.
    Finishing,
    /// Aborted during a step; leaves when the step ends.
    Leaving,
}

/// The fields that every step touches come first.
#[derive(Clone, Debug)]
pub(super) struct Sequence {
    pub(super) stage: Stage,
    /// Tokens whose KV is in the cache.
    pub(super) computed: u32,
    /// Tokens for which blocks are held.
    pub(super) room: u32,
    /// Output tokens so far.
    pub(super) generated: u32,
    pub(super) output_max: u32,
    pub(super) id: SequenceId,
    /// Tokens that the (re)computation of the prompt covers: the prompt, and after a preemption the output so far.
    pub(super) target: u32,
    pub(super) prompt: u32,
    /// Whether it was sent back before.
    pub(super) again: bool,
    pub(super) ready: Moment,
    /// Shared blocks held.
    pub(super) held: Vec<Node>,
    /// Private blocks held.
    pub(super) private: u32,
    /// Prompt blocks that are in the cache or were offered to it.
    pub(super) published: u32,
    pub(super) hashes: Box<[u64]>,
}

impl Sequence {
    pub(super) fn waiting(request: Request, ready: Moment) -> Self {
        Self {
            stage: Stage::Waiting,
            computed: 0,
            room: 0,
            generated: 0,
            output_max: request.output_tokens_max,
            id: request.id,
            target: request.prompt_tokens,
            prompt: request.prompt_tokens,
            again: false,
            ready,
            held: Vec::new(),
            private: 0,
            published: 0,
            hashes: request.block_hashes,
        }
    }

    pub(super) fn lookup(&self, block_tokens: u32) -> &[u64] {
        lookup(&self.hashes, self.target, block_tokens)
    }

    /// Back to the queue, to compute prompt and output so far again.
    pub(super) fn send_back(&mut self) {
        self.stage = Stage::Waiting;
        self.again = true;
        self.computed = 0;
        self.room = 0;
        self.private = 0;
        self.published = 0;
        self.target = self.prompt + self.generated;
    }
}

/// Hashes that may be looked up for `tokens` to compute: never all of them, so that at least one token is computed.
pub(super) fn lookup(hashes: &[u64], tokens: u32, block_tokens: u32) -> &[u64] {
    let full = (tokens.saturating_sub(1) / block_tokens) as usize;
    &hashes[..hashes.len().min(full)]
}
