//! Long bodies whose every byte is known, so that one that is lost, doubled, changed or out of its place is seen where it arrives.
//!
//! Noise of a length that no buffer has is repeated, and each time all bytes are turned by the number of the repetition.

use bytes::Bytes;

/// A prime, so that repetitions do not fall together with anybody's buffers.
const NOISE_BYTES: usize = 65_521;
const NOISE_BYTES_U64: u64 = NOISE_BYTES as u64;
/// Different repetitions, before the first comes again.
const TURNS: u8 = 16;

/// Writes and judges bodies.
#[derive(Clone, Debug)]
pub struct Pattern {
    /// One repetition for each turn.
    turns: Vec<Bytes>,
}

impl Default for Pattern {
    fn default() -> Self {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let noise: Vec<u8> = (0..NOISE_BYTES)
            .map(|_| {
                // Xorshift: noise enough, and the same everywhere.
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()[3]
            })
            .collect();
        let turned = |turn: u8| noise.iter().map(|byte| byte.wrapping_add(turn)).collect();
        Self { turns: (0..TURNS).map(turned).collect() }
    }
}

impl Pattern {
    /// What stands at `offset`: as much as is known in one piece, and no more than `length_max`.
    pub fn at(&self, offset: u64, length_max: u64) -> Bytes {
        let turn = usize::try_from(offset / NOISE_BYTES_U64 % u64::from(TURNS)).unwrap_or_default();
        let from = usize::try_from(offset % NOISE_BYTES_U64).unwrap_or_default();
        let length = (NOISE_BYTES - from).min(usize::try_from(length_max).unwrap_or(usize::MAX));
        self.turns[turn].slice(from..from + length)
    }
}

/// A body as it arrives.
#[derive(Clone, Debug, Default)]
pub struct Arrived {
    /// Bytes so far.
    pub bytes: u64,
    /// Where the first piece began that was not as it should be.
    pub wrong_at: Option<u64>,
}

impl Arrived {
    /// More of it.
    pub fn more(&mut self, pattern: &Pattern, mut piece: &[u8]) {
        while !piece.is_empty() {
            let expected = pattern.at(self.bytes, piece.len() as u64);
            let (here, rest) = piece.split_at(expected.len());
            if here != expected && self.wrong_at.is_none() {
                self.wrong_at = Some(self.bytes);
            }
            self.bytes += here.len() as u64;
            piece = rest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: u64 = 3 * NOISE_BYTES_U64 + 7;

    fn body(pattern: &Pattern) -> Vec<u8> {
        let mut body = Vec::new();
        while (body.len() as u64) < LENGTH {
            let offset = body.len() as u64;
            body.extend_from_slice(&pattern.at(offset, LENGTH - offset));
        }
        body
    }

    fn arrived(pattern: &Pattern, body: &[u8], piece: usize) -> (u64, bool) {
        let mut arrived = Arrived::default();
        body.chunks(piece).for_each(|piece| arrived.more(pattern, piece));
        (arrived.bytes, arrived.wrong_at.is_none())
    }

    #[test]
    fn a_body_is_known_in_whatever_pieces_it_comes() {
        let pattern = Pattern::default();
        let body = body(&pattern);
        for piece in [1, 4_096, 65_521, 65_536, body.len()] {
            assert_eq!(arrived(&pattern, &body, piece), (LENGTH, true), "{piece}");
        }
    }

    #[test]
    fn what_is_lost_doubled_changed_or_moved_is_seen() {
        let pattern = Pattern::default();
        let whole = body(&pattern);
        let mut changed = whole.clone();
        changed[100_000] ^= 1;
        let lost = [&whole[..50_000], &whole[50_000 + NOISE_BYTES..]].concat();
        let doubled = [&whole[..2 * NOISE_BYTES], &whole[NOISE_BYTES..]].concat();
        let moved = [&whole[NOISE_BYTES..2 * NOISE_BYTES], &whole[..NOISE_BYTES]].concat();
        for (what, body) in [("changed", changed), ("lost", lost), ("doubled", doubled), ("moved", moved)] {
            assert!(!arrived(&pattern, &body, 4_096).1, "{what}");
        }
    }
}
