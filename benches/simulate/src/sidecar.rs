//! What a sidecar knows of its own sends, and nobody has to tell it.

use std::collections::{HashMap, VecDeque};

use crate::trace::{Arrival, BLOCK_TOKENS};

/// Blocks of a server that a sidecar remembers to have sent there: twice what a cache of the usual size holds.
const REMEMBERED_BLOCKS_MAX: usize = 1_600;

/// The sends of one sidecar.
pub struct Sidecar {
    /// Requests that have not ended, for each server.
    pub in_flight: Vec<u32>,
    /// Prompt tokens, without those believed cached, of requests without a first token, for each server.
    pub uncached_in_flight: Vec<u64>,
    indexes: Vec<Index>,
}

impl Sidecar {
    /// One that has sent nothing.
    pub fn new(endpoints: usize) -> Self {
        Self {
            in_flight: vec![0; endpoints],
            uncached_in_flight: vec![0; endpoints],
            indexes: (0..endpoints).map(|_| Index::default()).collect(),
        }
    }

    /// Prompt tokens that a server has cached as far as this sidecar's own sends tell.
    pub fn believed_cached(&self, place: usize, arrival: &Arrival) -> u32 {
        let full = ((arrival.prompt_tokens - 1) / BLOCK_TOKENS) as usize;
        let hashes = &arrival.blocks[..arrival.blocks.len().min(full)];
        self.indexes[place].leading(hashes) * BLOCK_TOKENS
    }

    /// Writes down a send; returns the prompt tokens that it is believed to cost.
    pub fn sent(&mut self, place: usize, arrival: &Arrival) -> u64 {
        let uncached = u64::from(arrival.prompt_tokens - self.believed_cached(place, arrival));
        self.in_flight[place] += 1;
        self.uncached_in_flight[place] += uncached;
        self.indexes[place].remember(&arrival.blocks);
        uncached
    }
}

/// Blocks in the order of their last use.
#[derive(Default)]
struct Index {
    last_use: HashMap<u64, u64>,
    uses: VecDeque<(u64, u64)>,
    clock: u64,
}

impl Index {
    fn leading(&self, hashes: &[u64]) -> u32 {
        hashes.iter().take_while(|hash| self.last_use.contains_key(hash)).count() as u32
    }

    fn remember(&mut self, hashes: &[u64]) {
        // Backwards, so that the end of a prompt is forgotten before its beginning.
        for hash in hashes.iter().rev() {
            self.clock += 1;
            self.last_use.insert(*hash, self.clock);
            self.uses.push_back((*hash, self.clock));
        }
        while self.last_use.len() > REMEMBERED_BLOCKS_MAX
            && let Some((hash, used)) = self.uses.pop_front()
        {
            if self.last_use.get(&hash) == Some(&used) {
                self.last_use.remove(&hash);
            }
        }
    }
}
