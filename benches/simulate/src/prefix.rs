//! What callers' sidecars know of the servers' prefix caches, by digests: the production code on both sides.
//!
//! A server's sidecar follows the prompts that it sends to its engine, and is corrected by what the engine says it found. Each caller's
//! sidecar reads all digests when it reads the reports, once in its period.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use penstock_dialect::PROMPT_BYTES_PER_TOKEN;
use penstock_dialect::prefix::distance;
use penstock_policy::prefix::{Asked, Belief, Boundary, Counted, Cursor, Held, Index, Keys, PrefixKey};

use crate::trace::{Arrival, BLOCK_TOKENS};

/// How prefix caches are known to policies that look at those of others.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Knowledge {
    /// Exactly, and at once.
    #[default]
    Precise,
    /// By digests, as old as the reports.
    Digest,
}

/// Both sides of all digests.
pub struct Digests {
    keys: Keys,
    age_ns: u64,
    servers: Vec<Server>,
    callers: Vec<Vec<(Cursor, Index)>>,
    due: BinaryHeap<Reverse<(u64, usize)>>,
    beliefs: HashMap<u32, Belief>,
}

#[derive(Clone, Default)]
struct Server {
    held: Held,
    kv_tokens: u64,
    answer_tokens: u64,
}

impl Digests {
    /// Nobody knows anything; each caller's sidecar reads at its phase.
    pub fn new(kv_tokens: &[u64], phases_ns: &[u64], age_ns: u64) -> Self {
        let server = |kv_tokens: &u64| Server { kv_tokens: *kv_tokens, ..Server::default() };
        Self {
            keys: Keys::only(PrefixKey::new(1, *b"of the simulator")),
            age_ns,
            servers: kv_tokens.iter().map(server).collect(),
            callers: vec![vec![<(Cursor, Index)>::default(); kv_tokens.len()]; phases_ns.len()],
            due: phases_ns.iter().copied().zip(0..).map(Reverse).collect(),
            beliefs: HashMap::new(),
        }
    }

    /// All that is read before this moment.
    pub fn advance(&mut self, now_ns: u64) {
        while self.age_ns > 0
            && let Some(Reverse((due_ns, caller))) = self.due.peek().copied()
            && due_ns <= now_ns
        {
            self.due.pop();
            self.due.push(Reverse((due_ns + self.age_ns, caller)));
            self.read(caller);
        }
    }

    /// How much of a prompt each server has, as far as a caller's sidecar knows.
    pub fn known(&mut self, caller: usize, arrival: &Arrival) -> Vec<u32> {
        if self.age_ns == 0 {
            self.read(caller);
        }
        let asked = Asked::new(&boundaries(arrival), arrival.prompt_tokens, &self.keys);
        self.callers[caller].iter().map(|(_, index)| index.cached_tokens(&asked)).collect()
    }

    /// How much of a prompt a server has, as far as its own sidecar knows.
    pub fn believed(&self, place: usize, arrival: &Arrival) -> u32 {
        let believed = self.servers[place].held.believed(&boundaries(arrival)).tokens();
        believed.min(arrival.prompt_tokens - 1)
    }

    /// A request went to its engine.
    pub fn sent(&mut self, place: usize, request: u32, arrival: &Arrival) {
        self.beliefs.insert(request, self.servers[place].held.believed(&boundaries(arrival)));
    }

    /// The engine said what it found.
    pub fn counted(&mut self, place: usize, request: u32, arrival: &Arrival, cached: u32) {
        let counted = Counted { estimated: arrival.prompt_tokens, input: arrival.prompt_tokens, cached };
        if let Some(belief) = self.beliefs.remove(&request) {
            self.servers[place].held.corrected(&belief, counted);
        }
    }

    /// A token came, the `index`th of its answer.
    pub fn token(&mut self, place: usize, arrival: &Arrival, index: u32, last: bool) {
        let server = &mut self.servers[place];
        server.answer_tokens += 1;
        if last {
            server.answer_tokens -= u64::from(index) + 1;
        }
        if index == 0 || last {
            server.held.has_room(server.kv_tokens.saturating_sub(server.answer_tokens));
            server.held.uses(&boundaries(arrival));
        }
    }

    fn read(&mut self, caller: usize) {
        for (server, (cursor, index)) in self.servers.iter().zip(&mut self.callers[caller]) {
            while let Some(digest) = server.held.digest(cursor, &self.keys) {
                let taken = index.apply(&digest);
                debug_assert!(taken.is_ok(), "{taken:?}");
            }
        }
    }
}

/// The boundaries that production would have: those inside a block are shared if the block is.
fn boundaries(arrival: &Arrival) -> Vec<Boundary> {
    let (mut place, mut found) = (0, Vec::new());
    loop {
        place += distance(place);
        let tokens = (place / PROMPT_BYTES_PER_TOKEN) as u32;
        let block = arrival.blocks.get((tokens - 1) as usize / BLOCK_TOKENS as usize);
        let Some(block) = block.filter(|_| tokens <= arrival.prompt_tokens) else { return found };
        let within = u64::from(tokens % BLOCK_TOKENS).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        found.push(Boundary { tokens, hash: block ^ within });
    }
}
