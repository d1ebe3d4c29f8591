//! The less loaded of two drawn at random.
//!
//! Two choices are nearly as good as looking at all, and with many sidecars better: all of them going to the one that seems
//! least loaded would fill it at once. Up to four endpoints two draws leave too much to chance, so all are compared; there too a
//! tie is drawn, never given to the first.

use super::{Draws, Open, chosen};

/// Most endpoints of which all are compared (as Envoy's notes on small clusters advise).
const SCANNED_MAX: usize = 4;

/// The one chosen, and where two were drawn the other. `count` is the number of open candidates, at least 1; `load` is that of one of them.
pub(super) fn choose<'a>(
    open: Open<'a>,
    count: usize,
    draws: Draws,
    load: fn(Open<'a>, usize) -> f64,
) -> (usize, Option<usize>) {
    if count <= SCANNED_MAX {
        (least_of_all(open, draws.first, load), None)
    } else {
        less_of_two(open, count, draws, load)
    }
}

/// The least loaded of all, ties by lot.
pub(super) fn least_of_all<'a>(open: Open<'a>, draw: u64, load: fn(Open<'a>, usize) -> f64) -> usize {
    let least = open.iter().map(|(index, _)| load(open, index)).fold(f64::INFINITY, f64::min);
    let tied = || open.iter().filter(|(index, _)| load(open, *index) <= least);
    let count = tied().count();
    tied().nth(chosen(draw, count)).map_or(0, |(index, _)| index)
}

fn less_of_two<'a>(
    open: Open<'a>,
    count: usize,
    draws: Draws,
    load: fn(Open<'a>, usize) -> f64,
) -> (usize, Option<usize>) {
    let one = chosen(draws.first, count);
    // Drawn from the others, so that the two always differ.
    let other = chosen(draws.second, count - 1);
    let other = if other >= one { other + 1 } else { other };
    let (one, other) = (open.nth(one), open.nth(other));
    if load(open, other) < load(open, one) { (other, Some(one)) } else { (one, Some(other)) }
}
