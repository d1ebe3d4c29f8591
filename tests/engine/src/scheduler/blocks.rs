//! The KV cache: blocks that running sequences hold, and blocks that stay behind to be found again.
//!
//! Blocks are counted, not numbered: nothing here depends on which physical block is which.
//!
//! ```text
//!   total = pinned (held by sequences: private ones, and shared ones with a count)
//!         + idle   (shared ones that nobody holds, in order of their last use; evicted from the old end)
//!         + empty
//! ```
//!
//! A shared block is known by the hash of all tokens up to its end, so that a match of block i implies a match of
//! all blocks before it.

use crate::mix::NumberMap;

/// Index of a shared block.
pub(crate) type Node = u32;

const NONE: Node = Node::MAX;

#[derive(Clone, Debug)]
struct Shared {
    hash: u64,
    holders: u32,
    older: Node,
    newer: Node,
}

/// How much of a prompt is here already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Match {
    /// Leading blocks found.
    pub(crate) blocks: u32,
    /// Those of them that nobody holds: holding them takes room from the idle ones.
    pub(crate) idle: u32,
}

#[derive(Clone, Debug)]
pub(crate) struct Blocks {
    total: u32,
    pinned: u32,
    idle: u32,
    by_hash: NumberMap<u64, Node>,
    shared: Vec<Shared>,
    vacant: Vec<Node>,
    oldest: Node,
    newest: Node,
}

impl Blocks {
    pub(crate) fn empty(total: u32) -> Self {
        Self {
            total,
            pinned: 0,
            idle: 0,
            by_hash: NumberMap::default(),
            shared: Vec::new(),
            vacant: Vec::new(),
            oldest: NONE,
            newest: NONE,
        }
    }

    pub(crate) fn total(&self) -> u32 {
        self.total
    }

    pub(crate) fn pinned(&self) -> u32 {
        self.pinned
    }

    pub(crate) fn idle(&self) -> u32 {
        self.idle
    }

    /// Blocks that can be had: the empty ones and, by eviction, the idle ones.
    pub(crate) fn available(&self) -> u32 {
        self.total - self.pinned
    }

    /// The longest run of leading `hashes` that is here.
    pub(crate) fn find(&self, hashes: &[u64]) -> Match {
        let mut found = Match::default();
        for hash in hashes {
            let Some(node) = self.by_hash.get(hash) else { break };
            found.blocks += 1;
            found.idle += u32::from(self.shared[*node as usize].holders == 0);
        }
        found
    }

    /// Holds every block of `hashes`, all of which [`find`](Self::find) has just found.
    pub(crate) fn hold(&mut self, hashes: &[u64], held: &mut Vec<Node>) {
        for hash in hashes {
            let Some(&node) = self.by_hash.get(hash) else { break };
            if self.shared[node as usize].holders == 0 {
                self.unlink(node);
                self.idle -= 1;
                self.pinned += 1;
            }
            self.shared[node as usize].holders += 1;
            held.push(node);
        }
    }

    /// Takes `count` private blocks, evicting idle ones from the old end if need be; false if there is no room.
    pub(crate) fn take(&mut self, count: u32) -> bool {
        if count > self.available() {
            return false;
        }
        self.pinned += count;
        while self.pinned + self.idle > self.total {
            self.evict_oldest();
        }
        true
    }

    /// Makes one private block findable under `hash`. `None`, and the block stays private, if a twin is there.
    pub(crate) fn publish(&mut self, hash: u64) -> Option<Node> {
        if self.by_hash.contains_key(&hash) {
            return None;
        }
        let block = Shared { hash, holders: 1, older: NONE, newer: NONE };
        let node = if let Some(node) = self.vacant.pop() {
            self.shared[node as usize] = block;
            node
        } else {
            self.shared.push(block);
            (self.shared.len() - 1) as Node
        };
        self.by_hash.insert(hash, node);
        Some(node)
    }

    /// Lets go of blocks held: later ones become older, so that a prefix outlives what followed it.
    pub(crate) fn release(&mut self, held: &mut Vec<Node>, private: u32) {
        self.pinned -= private;
        while let Some(node) = held.pop() {
            let block = &mut self.shared[node as usize];
            block.holders -= 1;
            if block.holders == 0 {
                self.pinned -= 1;
                self.idle += 1;
                self.link_newest(node);
            }
        }
    }

    fn evict_oldest(&mut self) {
        let node = self.oldest;
        self.unlink(node);
        self.idle -= 1;
        self.by_hash.remove(&self.shared[node as usize].hash);
        self.vacant.push(node);
    }

    fn link_newest(&mut self, node: Node) {
        let before = self.newest;
        self.shared[node as usize].older = before;
        self.shared[node as usize].newer = NONE;
        match before {
            NONE => self.oldest = node,
            before => self.shared[before as usize].newer = node,
        }
        self.newest = node;
    }

    fn unlink(&mut self, node: Node) {
        let Shared { older, newer, .. } = self.shared[node as usize];
        match older {
            NONE => self.oldest = newer,
            older => self.shared[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => self.shared[newer as usize].older = older,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Holds blocks for `hashes` as a sequence would that computes all of them, then lets go.
    fn pass(blocks: &mut Blocks, hashes: &[u64]) -> Match {
        let (found, mut held, private) = enter(blocks, hashes);
        blocks.release(&mut held, private);
        found
    }

    fn enter(blocks: &mut Blocks, hashes: &[u64]) -> (Match, Vec<Node>, u32) {
        let found = blocks.find(hashes);
        let (hits, misses) = hashes.split_at(found.blocks as usize);
        let mut held = Vec::new();
        blocks.hold(hits, &mut held);
        assert!(blocks.take(misses.len() as u32), "no room for {misses:?}");
        let mut private = 0;
        for hash in misses {
            match blocks.publish(*hash) {
                Some(node) => held.push(node),
                None => private += 1,
            }
        }
        (found, held, private)
    }

    #[test]
    fn what_one_sequence_leaves_the_next_one_finds() {
        let mut blocks = Blocks::empty(8);
        assert_eq!(pass(&mut blocks, &[1, 2, 3]), Match::default());
        assert_eq!(pass(&mut blocks, &[1, 2, 9]), Match { blocks: 2, idle: 2 });
        assert_eq!((blocks.pinned(), blocks.idle()), (0, 4));
    }

    #[test]
    fn the_least_recently_used_block_goes_first_and_tails_before_their_prefix() {
        let mut blocks = Blocks::empty(5);
        pass(&mut blocks, &[1, 2, 3]);
        pass(&mut blocks, &[7, 8]);
        pass(&mut blocks, &[20]);
        assert_eq!(blocks.find(&[1, 2, 3]).blocks, 2, "3 is the tail of the oldest prompt");
        assert_eq!(blocks.find(&[7, 8]).blocks, 2);
    }

    #[test]
    fn blocks_that_somebody_holds_are_never_evicted() {
        let mut blocks = Blocks::empty(4);
        let (_, mut held, private) = enter(&mut blocks, &[1, 2]);
        pass(&mut blocks, &[5, 6]);
        pass(&mut blocks, &[7, 8]);
        assert_eq!(blocks.find(&[1, 2]).blocks, 2);
        assert_eq!(blocks.find(&[5, 6]).blocks, 0);
        assert!(!blocks.take(3), "two blocks are held");
        blocks.release(&mut held, private);
        assert!(blocks.take(4));
        assert_eq!(blocks.find(&[1, 2]).blocks, 0);
    }

    #[test]
    fn a_block_shared_by_two_counts_once_and_stays_until_both_let_go() {
        let mut blocks = Blocks::empty(4);
        let (_, mut first, first_private) = enter(&mut blocks, &[1, 2]);
        let (found, mut second, second_private) = enter(&mut blocks, &[1, 2]);
        assert_eq!(found, Match { blocks: 2, idle: 0 });
        assert_eq!(blocks.pinned(), 2);
        blocks.release(&mut first, first_private);
        assert_eq!(blocks.pinned(), 2);
        blocks.release(&mut second, second_private);
        assert_eq!((blocks.pinned(), blocks.idle()), (0, 2));
    }
}
