//! What a server's own sidecar believes its engine to have in its prefix cache.
//!
//! Engines keep the blocks of prompts and forget those first that were used the longest time ago, of one prompt the end before the
//! beginning. The same is done here, in tokens against the room that the engine has for blocks that nobody computes with.
//!
//! ```text
//!   sent ── believed ──► computed ── corrected (if the engine counts), uses ──► ended ── uses
//! ```
//!
//! Where the engine found less of a prompt than was believed, all that was used less lately than the first block that is missing must be
//! gone as well, and the engine has room for no more than what is left; it had some for the prompt itself, but that is believed only
//! half the next time. Where it found as much or more, there is more room.

mod changes;

use std::collections::BTreeMap;
use std::ops::Bound;

use self::changes::Changes;
pub use self::changes::Cursor;
use super::{Boundary, Digest, ENTRIES_MAX, Keys};

/// A belief may be too high by this share of it, or by so many tokens, and be no error: tokens are estimated from bytes, and engines
/// cache whole blocks only.
const SLACK_SHARE: u32 = 8;
const SLACK_TOKENS: u32 = 256;
/// By this share the room grows with each belief that was right.
const REGROWTH: u64 = 64;

/// What an engine holds.
#[derive(Clone, Debug)]
pub struct Held {
    entries: BTreeMap<u64, Entry>,
    /// Hashes by last use, the oldest first.
    by_use: BTreeMap<Use, u64>,
    uses: u64,
    tokens: u64,
    /// Tokens that the engine is known to have room for.
    room: u64,
    /// The same, as far as was learned from what it found.
    room_learned: u64,
    changes: Changes,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    tokens: u32,
    used: Use,
    /// Number of the change that added it.
    added: u64,
}

/// When a block was used last: uses are counted, and of one use the later block is the older one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Use {
    count: u64,
    nearness: u32,
}

/// What was believed of a prompt when it was sent, to be compared with what the engine found.
#[derive(Clone, Debug, Default)]
pub struct Belief {
    /// Tokens before the end of each block believed held, and its last use.
    blocks: Vec<(u32, Use)>,
    /// Tokens of the prompt that are among those held since it used them.
    used_tokens: u32,
}

impl Belief {
    /// The prompt has used its blocks before the engine said what it found of it.
    pub fn is_used(&mut self, prompt: &[Boundary]) {
        self.used_tokens = prompt.last().map_or(0, |last| last.tokens);
    }

    /// Tokens that were believed cached.
    #[must_use]
    pub fn tokens(&self) -> u32 {
        self.blocks.last().map_or(0, |(tokens, _)| *tokens)
    }
}

/// What an engine says of a prompt that it computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// Tokens of the prompt as estimated when it was sent: boundaries count in these.
    pub estimated: u32,
    /// Tokens of the prompt by the engine's count.
    pub input: u32,
    /// Those of them that it had cached.
    pub cached: u32,
}

impl Counted {
    /// Cached tokens on the scale of the boundaries.
    fn cached_estimated(self) -> u32 {
        let scaled = u64::from(self.cached) * u64::from(self.estimated) / u64::from(self.input.max(1));
        u32::try_from(scaled).unwrap_or(u32::MAX)
    }
}

impl Default for Held {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
            by_use: BTreeMap::new(),
            uses: 0,
            tokens: 0,
            room: u64::MAX,
            room_learned: u64::MAX,
            changes: Changes::default(),
        }
    }
}

impl Held {
    /// How much of a prompt is there: a request that comes now would find so much.
    #[must_use]
    pub fn believed(&self, prompt: &[Boundary]) -> Belief {
        let found = |boundary: &Boundary| Some((boundary.tokens, self.entries.get(&boundary.hash)?.used));
        Belief { blocks: prompt.iter().map_while(found).collect(), used_tokens: 0 }
    }

    /// A prompt was computed, or its answer has ended: all its blocks are there, and none was used later.
    pub fn uses(&mut self, prompt: &[Boundary]) {
        self.uses += 1;
        let mut before = 0;
        for (boundary, depth) in prompt.iter().zip(0..) {
            let used = Use { count: self.uses, nearness: u32::MAX - depth };
            let tokens = boundary.tokens.saturating_sub(before);
            before = boundary.tokens;
            match self.entries.get_mut(&boundary.hash) {
                Some(entry) => {
                    self.by_use.remove(&entry.used);
                    entry.used = used;
                }
                None => {
                    let added = self.changes.added(boundary.hash);
                    self.entries.insert(boundary.hash, Entry { tokens, used, added });
                    self.tokens += u64::from(tokens);
                }
            }
            self.by_use.insert(used, boundary.hash);
        }
        self.shrink();
    }

    /// The engine has room for so many tokens of prompts: its KV memory less what answers take.
    pub fn has_room(&mut self, tokens: u64) {
        self.room = tokens;
        self.shrink();
    }

    /// The engine said what it found of a prompt. To be called before the prompt [`uses`](Self::uses) its blocks, or
    /// with a belief that knows that it has.
    pub fn corrected(&mut self, belief: &Belief, counted: Counted) {
        let (believed, found) = (belief.tokens(), counted.cached_estimated());
        let enough = found.saturating_add(SLACK_TOKENS.max(believed / SLACK_SHARE));
        let missing = belief.blocks.iter().find(|(tokens, _)| *tokens > found);
        match missing {
            Some((_, used)) if enough < believed => {
                self.forget_until(*used);
                let doubted = u64::from(counted.estimated).min(self.room_learned / 2);
                let others = self.tokens.saturating_sub(u64::from(belief.used_tokens));
                self.room_learned = others.max(doubted);
            }
            _ => {
                let more = u64::from(found.saturating_sub(believed));
                self.room_learned = self.room_learned.saturating_add(self.room_learned / REGROWTH + more);
            }
        }
    }

    /// The engine began anew: nothing is there.
    pub fn forget(&mut self) {
        while self.forget_oldest() {}
        self.room_learned = u64::MAX;
    }

    /// Blocks that are believed to be there, at most [`ENTRIES_MAX`].
    #[must_use]
    pub fn entries(&self) -> usize {
        self.entries.len()
    }

    /// Tokens in them.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// What a subscriber has not been told yet, or as much of it as one digest takes; `None` if it knows everything.
    #[must_use]
    pub fn digest(&self, cursor: &mut Cursor, keys: &Keys) -> Option<Digest> {
        self.changes.digest(cursor, &keys.sending)
    }

    fn shrink(&mut self) {
        while (self.tokens > self.room.min(self.room_learned) || self.entries.len() > ENTRIES_MAX)
            && self.forget_oldest()
        {}
    }

    fn forget_until(&mut self, last: Use) {
        while self.by_use.range((Bound::Unbounded, Bound::Included(last))).next().is_some() {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) -> bool {
        let Some((_, hash)) = self.by_use.pop_first() else { return false };
        if let Some(entry) = self.entries.remove(&hash) {
            self.tokens -= u64::from(entry.tokens);
            self.changes.removed(hash, entry.added);
        }
        true
    }
}
