//! One after the other, each as often as its weight says.
//!
//! The turn counts over the open candidates alone: skipping from a closed one to its neighbour would give the neighbour two
//! shares. Of unequal weights the turns step by the golden section of all weights (Weyl, 1916): any number of turns in a row is shared
//! as the weights say, but for one or two, and those of a heavy endpoint do not follow each other.

use crate::place;

use super::Open;

/// 2^64 divided by the golden ratio, odd.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// One of `count` open candidates, at least 1.
pub(super) fn choose(open: Open<'_>, count: usize, turn: u64) -> usize {
    let mut weights = open.iter().map(|(_, candidate)| candidate.weight);
    let first = weights.next();
    if weights.all(|weight| Some(weight) == first) {
        open.nth(usize::try_from(turn % count.max(1) as u64).unwrap_or(0))
    } else {
        open.at(place(turn.wrapping_mul(GOLDEN), open.weight()))
    }
}
