//! One after the other.
//!
//! The turn counts over the open candidates alone: skipping from a closed one to its neighbour would give the neighbour two
//! shares.

use super::Open;

/// `count` is the number of open candidates, at least 1.
pub(super) fn choose(open: Open<'_>, count: usize, turn: u64) -> usize {
    let place = turn % count.max(1) as u64;
    open.nth(usize::try_from(place).unwrap_or(0))
}
