//! What this sidecar has sent to an endpoint since that last said how it is.
//!
//! Between two reports a sidecar's own requests are the part of the truth that it knows without being told. Each is added to the
//! report until a report comes that was made after it had arrived, and contains it.

use std::collections::VecDeque;

use penstock_model::units::Moment;

use super::Prompt;

/// Placements that are remembered for one endpoint; with more the oldest is forgotten, and the endpoint looks emptier than it is.
const REMEMBERED_MAX: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq)]
struct Placement<W> {
    at: Moment,
    work: W,
}

/// The placements of one kind of work on one endpoint, oldest first.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Placements<W = Prompt> {
    recent: VecDeque<Placement<W>>,
}

impl<W> Default for Placements<W> {
    fn default() -> Self {
        Self { recent: VecDeque::new() }
    }
}

impl<W: Copy + PartialEq> Placements<W> {
    /// A request was sent.
    pub(super) fn add(&mut self, at: Moment, work: W) {
        if self.recent.len() == REMEMBERED_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(Placement { at, work });
    }

    /// A request that was sent `at` waits no longer: it was refused, has failed, or is over.
    pub(super) fn ended(&mut self, at: Moment, work: W) {
        if let Some(place) = self.recent.iter().rposition(|placement| *placement == Placement { at, work }) {
            self.recent.remove(place);
        }
    }

    /// A report came that contains what arrived up to `made`: earlier placements are in it.
    pub(super) fn reported(&mut self, made: Moment) {
        while self.recent.front().is_some_and(|placement| placement.at <= made) {
            self.recent.pop_front();
        }
    }

    /// How many are not in a report yet.
    pub(super) fn count(&self) -> usize {
        self.recent.len()
    }

    /// Those that are not in a report yet, and when they were sent, oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Moment, W)> {
        self.recent.iter().map(|placement| (placement.at, placement.work))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROMPT: Prompt = Prompt { tokens: 100, cached_tokens: 40 };

    fn pending(placements: &Placements) -> (f64, u32) {
        let tokens = placements.iter().map(|(_, prompt)| prompt.uncached_tokens()).sum();
        (tokens, placements.count() as u32)
    }

    #[test]
    fn a_placement_counts_until_a_report_contains_it() {
        let mut placements = Placements::default();
        placements.add(Moment(10), PROMPT);
        placements.add(Moment(20), PROMPT);
        assert_eq!(pending(&placements), (120.0, 2));
        placements.reported(Moment(9));
        assert_eq!(pending(&placements), (120.0, 2));
        placements.reported(Moment(10));
        assert_eq!(pending(&placements), (60.0, 1));
        placements.reported(Moment(25));
        assert_eq!(pending(&placements), (0.0, 0));
    }

    #[test]
    fn a_placement_that_has_ended_counts_no_longer_and_takes_no_other_with_it() {
        let mut placements = Placements::default();
        let longer = Prompt { tokens: 400, ..PROMPT };
        placements.add(Moment(10), PROMPT);
        placements.add(Moment(10), longer);
        placements.add(Moment(20), PROMPT);
        placements.ended(Moment(10), longer);
        assert_eq!(pending(&placements), (120.0, 2));
        // A report had it already.
        placements.ended(Moment(5), PROMPT);
        assert_eq!(pending(&placements), (120.0, 2));
        placements.ended(Moment(10), PROMPT);
        placements.reported(Moment(15));
        assert_eq!(pending(&placements), (60.0, 1));
    }

    #[test]
    fn however_many_are_placed_memory_is_bounded() {
        let mut placements = Placements::default();
        for at in 0..10_000 {
            placements.add(Moment(at), PROMPT);
        }
        assert_eq!(pending(&placements).1, REMEMBERED_MAX as u32);
    }
}
