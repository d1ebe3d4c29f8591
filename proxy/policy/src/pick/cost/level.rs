//! Which of several costs to take: the least, unless the others are about to take it too.
//!
//! Between two reports many sidecars see the same figures. If all take the least, they fill it and leave the next one empty. So each
//! takes its place at random, in the proportions in which all of them together would fill up to one level what they expect to send
//! (tidal water filling, Goren et al. 2020):
//!
//! ```text
//!   cost │         ▓▓▓
//!        │ ~~~~~~~~▓▓▓~~~~~ level: so high that Σ (level − cost)⁺ = what is expected
//!        │ ░░░░    ▓▓▓░░░░
//!        │ ▓▓▓░░░░░▓▓▓▓▓▓▓    ░ / all ░ = the probability of a place
//! ```
//!
//! With nothing expected from others the least is taken, and what is nearly as low: costs are known to a few percent, and an endpoint that
//! is believed to be a little slower than it is would otherwise never be asked again, and never show that it is not.

/// Costs within this share of the least are not told apart for certain: half of what the learned speed misses at best.
pub const NEAR: f64 = 0.02;

/// The place drawn, and among whom it was.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// The place.
    pub place: usize,
    /// What others are expected to place, in milliseconds of work.
    pub expected_ms: f64,
    /// Costs below it could be drawn, with a chance in proportion to what they lack to it.
    pub level_ms: f64,
    /// What all of them lack together: above `expected_ms` where nearness alone spread the choice.
    pub filled_ms: f64,
}

impl Choice {
    /// The chance that a place of this cost had; `None` where the least cost was drawn by lot, however many had it.
    pub fn chance(&self, cost_ms: f64) -> Option<f64> {
        (self.filled_ms > 0.0).then(|| (self.level_ms - cost_ms).max(0.0) / self.filled_ms)
    }

    /// Whether it was spread for no other reason than that costs so near to each other are not told apart.
    pub fn is_near(&self) -> bool {
        self.filled_ms > self.expected_ms
    }
}

/// Draws the place to take; `None` where no cost is finite.
///
/// `expected_ms`: work that others will place before anything new is reported, at least 0. `draw` is uniform over all values.
pub fn choose(costs_ms: &[f64], expected_ms: f64, draw: u64) -> Option<Choice> {
    let least_ms = costs_ms.iter().copied().fold(f64::INFINITY, f64::min);
    if !least_ms.is_finite() {
        return None;
    }
    let filled_ms = expected_ms.max(NEAR * least_ms);
    let level_ms = level(costs_ms, least_ms, filled_ms);
    let choice = |place| Choice { place, expected_ms, level_ms, filled_ms };
    let share = |cost_ms: f64| {
        if level_ms > least_ms { (level_ms - cost_ms).max(0.0) } else { tie(cost_ms, least_ms) }
    };
    let all: f64 = costs_ms.iter().map(|cost| share(*cost)).sum();
    let mut left = (draw >> 11) as f64 / (1u64 << 53) as f64 * all;
    let mut last = None;
    for (place, cost_ms) in costs_ms.iter().enumerate() {
        let share = share(*cost_ms);
        if share > 0.0 {
            last = Some(choice(place));
            if left < share {
                return last;
            }
            left -= share;
        }
    }
    last
}

fn tie(cost_ms: f64, least_ms: f64) -> f64 {
    if cost_ms <= least_ms { 1.0 } else { 0.0 }
}

/// The level that holds `expected_ms`. Starts as if all were below it and leaves out those that are not, until none is left out.
fn level(costs_ms: &[f64], least_ms: f64, expected_ms: f64) -> f64 {
    let mut level_ms = f64::INFINITY;
    loop {
        let below = costs_ms.iter().filter(|cost| cost.is_finite() && **cost < level_ms);
        let (count, sum) = below.fold((0.0, 0.0), |(count, sum), cost| (count + 1.0, sum + cost));
        let lower_ms = if count == 0.0 { least_ms } else { (sum + expected_ms) / count };
        if lower_ms >= level_ms || count <= 1.0 {
            return lower_ms.min(level_ms).max(least_ms);
        }
        level_ms = lower_ms;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(costs_ms: &[f64], expected_ms: f64, shares: &[u32]) {
        let mut taken = vec![0u32; costs_ms.len()];
        for step in 0..1_000u64 {
            let draw = step * (u64::MAX / 1_000) + u64::MAX / 2_000;
            taken[choose(costs_ms, expected_ms, draw).expect("a finite cost").place] += 1;
        }
        for (taken, share) in taken.iter().zip(shares) {
            assert!(
                taken.abs_diff(*share) <= 2,
                "{costs_ms:?} with {expected_ms}: {taken:?}, expected {shares:?}"
            );
        }
    }

    #[test]
    fn with_nothing_expected_the_least_is_taken_and_ties_are_drawn() {
        check(&[3.0, 1.0, 2.0], 0.0, &[0, 1_000, 0]);
        check(&[100.0, 101.0, 104.0], 0.0, &[750, 250, 0]); // level 101.5
        check(&[1.0, 1.0, 2.0, 1.0, 1.0], 0.0, &[250, 250, 0, 250, 250]);
    }

    #[test]
    fn what_is_expected_fills_the_lowest_up_to_one_level() {
        check(&[0.0, 10.0, 50.0], 30.0, &[667, 333, 0]); // level 20
        check(&[0.0, 10.0, 50.0], 5.0, &[1_000, 0, 0]); // level 5
        check(&[0.0, 0.0], 10.0, &[500, 500]);
        check(&[0.0, 10.0, f64::INFINITY], 1e9, &[500, 500, 0]);
    }

    #[test]
    fn a_choice_tells_the_chances_and_what_spread_them() {
        let choice = |costs_ms: &[f64], expected_ms| choose(costs_ms, expected_ms, 0).unwrap();
        let told = |costs_ms: &[f64], expected_ms| {
            let choice = choice(costs_ms, expected_ms);
            let chances: Vec<_> = costs_ms.iter().map(|cost_ms| choice.chance(*cost_ms)).collect();
            (choice.level_ms, chances, choice.is_near())
        };
        assert_eq!(
            told(&[0.0, 10.0, 50.0], 30.0),
            (20.0, vec![Some(2.0 / 3.0), Some(1.0 / 3.0), Some(0.0)], false)
        );
        assert_eq!(told(&[100.0, 101.0, 104.0], 0.0), (101.5, vec![Some(0.75), Some(0.25), Some(0.0)], true));
        assert_eq!(told(&[0.0, 0.0], 0.0), (0.0, vec![None, None], false));
    }

    #[test]
    fn where_nothing_can_be_taken_nothing_is() {
        assert_eq!(choose(&[], 1.0, 0), None);
        assert_eq!(choose(&[f64::INFINITY], 1.0, u64::MAX), None);
    }

    proptest! {
        #[test]
        fn a_dearer_place_is_never_likelier(
            costs in prop::collection::vec(0.0..100.0f64, 2..20),
            expected in 0.0..500.0f64,
        ) {
            let least = costs.iter().copied().fold(f64::INFINITY, f64::min);
            let level = level(&costs, least, expected);
            let filled: f64 = costs.iter().map(|cost| (level - cost).max(0.0)).sum();
            prop_assert!((filled - expected).abs() <= 1e-6 * expected.max(1.0), "{filled} of {expected}");
        }
    }
}
