//! The less loaded of two drawn at random.
//!
//! Two choices are nearly as good as looking at all, and with many sidecars better: all of them going to the one that seems
//! least loaded would fill it at once. Up to four endpoints two draws leave too much to chance, so all are compared; there too a
//! tie is drawn, never given to the first.

use super::{Draws, Open};
use crate::place;

/// Most endpoints of which all are compared (as Envoy's notes on small clusters advise).
const SCANNED_MAX: usize = 4;

/// `count` is the number of open candidates, at least 1.
pub(super) fn choose(open: Open<'_>, count: usize, draws: Draws) -> usize {
    if count <= SCANNED_MAX { least_of_all(open, draws.first) } else { less_of_two(open, count, draws) }
}

fn least_of_all(open: Open<'_>, draw: u64) -> usize {
    let least = open.iter().map(|(_, candidate)| candidate.in_flight).min().unwrap_or(0);
    let tied = || open.iter().filter(|(_, candidate)| candidate.in_flight == least);
    tied().nth(position(draw, tied().count())).map_or(0, |(index, _)| index)
}

fn less_of_two(open: Open<'_>, count: usize, draws: Draws) -> usize {
    let one = position(draws.first, count);
    // Drawn from the others, so that the two always differ.
    let other = position(draws.second, count - 1);
    let other = if other >= one { other + 1 } else { other };
    let (one, other) = (open.nth(one), open.nth(other));
    if open.in_flight(other) < open.in_flight(one) { other } else { one }
}

fn position(draw: u64, count: usize) -> usize {
    usize::try_from(place(draw, count as u64)).unwrap_or(0)
}
