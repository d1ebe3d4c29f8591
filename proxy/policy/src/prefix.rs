//! Which beginnings of prompts a model server has in its cache, known to those who choose among servers.
//!
//! ```text
//!   caller's sidecar                                        server's sidecar            model server
//!   Asked: hashes of a prompt, keyed ──► Index ◄── Digest ── Held ◄── prompts computed ── KV cache
//!                     cached_tokens(Asked) │       changes     ▲
//!                                          ▼                   └── cached_tokens of the usage: corrects
//!                                     pick::cost
//! ```
//!
//! A prompt is a list of [`Boundary`]s: hashes of its beginning at fixed places. [`Held`] follows what the engine keeps: the prompts it
//! computed, the least lately used forgotten first, as many tokens as it has room for. A [`Digest`] is what changed since the last one,
//! as 32-bit fingerprints. [`Index`] is the set that results, one for each server.
//!
//! # Secrets
//!
//! Who holds the hash of a prompt can try guesses against it. So nothing of a hash leaves the process but fingerprints under a
//! [`PrefixKey`] of the trust domain (SipHash-2-4, a pseudo-random function: without the key a fingerprint says nothing of its prompt, and
//! two of different keys are unrelated). Who has the key, as every sidecar of the domain does, can still try whole prompts, as could whoever
//! may send them there and time the answer; so digests are for callers that may call the server, and tenants that share one set `cache_salt`, which
//! is part of every hash. Keys are rotated without loss, since hashes are keyed on their way out: [`Keys`].
//!
//! # What it keeps
//!
//! [`ENTRIES_MAX`] blocks of a server, those used last; an [`Index`] takes at most [`INDEX_BYTES_MAX`], so that 64 of them stay below 4 MiB
//! under any traffic. A digest is at most [`DIGEST_BYTES_MAX`] long; what does not fit comes with the next.
//!
//! # How good it is
//!
//! Share of the prompt tokens found in caches, in percent; `benches/simulate`, `least-cost`, 8 servers with room for 410,000 tokens, 64 callers'
//! sidecars, seed 1: Mooncake's conversations at 1.5 times their rate, agentic coding sessions at 0.6 times theirs.
//!
//! | digests and reports are | Mooncake: known exactly | by digest | sessions: known exactly | by digest |
//! |---|---|---|---|---|
//! | of the moment | 14.76 | 14.63 | 91.3 | 90.8 |
//! | up to 1 s old | 13.60 | 13.29 | 91.1 | 91.4 |
//! | up to 5 s old | 11.77 | 11.18 | 91.8 | 90.3 |
//!
//! One scheduler that knows all servers of the moment exactly finds 14.45 and 89.4. By digest it is 99, 98 and 95 % of what the same policy
//! finds that knows the caches exactly; what is lost on Mooncake beyond that is lost to old load reports.
//!
//! Capacity at 95 % attainment, exactly known / by digest: Mooncake with 1 s old reports 5.17 / 5.27 and 5.19 / 5.13 requests a second (seeds 1
//! and 2), with 5 s 4.81 / 4.67 and 4.62 / 4.77; sessions with 1 s 0.0573 / 0.0558 starts a second.
//!
//! A prompt with 64 boundaries is keyed in 0.9 µs and looked up in 64 full indexes in 8 µs, p99 24 µs; with 192 boundaries, a prompt of 128,000
//! tokens, in 13 µs, p99 43 µs (one core of a shared virtual machine). At the server a block that comes and drives out another takes 0.5 to 1 µs.
//!
//! What the sizes were chosen by; 1 s, seeds 1 and 2. Two figures less than half a point (Mooncake) or a point (sessions) apart mean nothing.
//!
//! | | Mooncake | sessions |
//! |---|---|---|
//! | 256, 512, 1,024 blocks of a server | 6.0, 6.5, 8.5 | 55.8, 81.5, 91.5 |
//! | 2,048, 4,096, 12,288 | 13.5, 13.4, 13.4 | 91.5, 91.5, 91.5 |
//! | fingerprints of 8, 10, 12 bits | 7.9, 9.1, 12.4 | 57.7, 75.3, 88.7 |
//! | of 16, 32 bits | 13.5, 13.4 | 91.6, 91.5 |
//! | boundaries 512 bytes apart up to 8, 16, 32, 64 KiB, then stretched | 13.5, 13.6, 13.4, 13.2 | 90.7, 90.8, 91.5, 91.1 |
//! | 512, 2,048, 8,192 bytes apart everywhere | 13.7, 13.4, 13.4 | 91.6, 91.0, 91.5 |
//!
//! So 2,048 blocks are enough for these servers; six times as many leave room for larger ones, and then 16 bits would find one block in six
//! that is not there. Coarse boundaries do for these long prompts; chat of 700 tokens needs close ones.

mod digest;
mod held;
mod index;
mod key;
#[cfg(test)]
mod tests;

pub use digest::{DIGEST_BYTES_MAX, Digest, Garbled};
pub use held::{Belief, Counted, Cursor, Held};
pub use index::{Gap, INDEX_BYTES_MAX, Index};
pub use key::{Asked, Keys, PrefixKey};

/// Blocks that are known of one server.
pub const ENTRIES_MAX: usize = 12_288;

/// A place in a prompt. Those of one prompt come in order, each with more tokens before it than the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boundary {
    /// Tokens before it, estimated.
    pub tokens: u32,
    /// Hash of all that lies before it. Not keyed: it must not leave the process.
    pub hash: u64,
}
