//! Has the speed changed at once? Noise has both signs and a stall is single; a run of large errors on one side is neither.

/// Errors of the logarithm below this are noise: four times what steps of real engines show.
const NOISE: f64 = 0.2;
/// A run is a change once it has this many errors and they add up to [`ENOUGH`]: three or four at half speed, nine at four fifths.
const RUN_MIN: u32 = 3;
const ENOUGH: f64 = 2.0;
/// What a single error adds at most.
const COUNTED_MAX: f64 = 0.7;
/// Beyond this an error tells nothing more of the factor.
const FACTOR_MAX: f64 = 2.3;

/// Watches the logarithm of observed over expected.
#[derive(Clone, Debug, Default)]
pub(super) struct Change {
    run: u32,
    counted: f64,
    /// Of all but the first error, which may have been half old and half new.
    sum: f64,
    is_slower: bool,
}

impl Change {
    /// Sees one more. The factor by which everything has become slower, where this completes a run.
    pub(super) fn see(&mut self, observed: f64, expected: f64) -> Option<f64> {
        let error = (observed.max(1e-6) / expected.max(1e-6)).ln();
        let is_slower = error > 0.0;
        if error.abs() < NOISE {
            *self = Self::default();
            return None;
        }
        if self.run == 0 || is_slower != self.is_slower {
            *self = Self { run: 1, counted: error.abs().min(COUNTED_MAX), sum: 0.0, is_slower };
            return None;
        }
        self.run += 1;
        self.counted += error.abs().min(COUNTED_MAX);
        self.sum += error.clamp(-FACTOR_MAX, FACTOR_MAX);
        if self.run < RUN_MIN || self.counted < ENOUGH {
            return None;
        }
        let factor = (self.sum / f64::from(self.run - 1)).exp();
        *self = Self::default();
        Some(factor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which observation, of those expected to be 1, completes a run first, and with what factor.
    #[track_caller]
    fn check(observed: &[f64], expected: Option<(usize, f64)>) {
        let mut change = Change::default();
        let seen = observed
            .iter()
            .enumerate()
            .find_map(|(at, one)| change.see(*one, 1.0).map(|factor| (at, factor)));
        match (seen, expected) {
            (Some((at, factor)), Some((place, about))) => {
                assert_eq!(at, place, "{observed:?}");
                assert!((factor / about - 1.0).abs() < 0.05, "{factor}, expected {about}");
            }
            (seen, expected) => assert_eq!(seen, expected, "{observed:?}"),
        }
    }

    #[test]
    fn noise_and_single_stalls_are_no_change() {
        check(&[1.1, 1.2, 0.85, 1.15, 1.2, 1.2, 1.2], None);
        check(&[1.0, 50.0, 1.0, 80.0, 90.0, 1.0], None);
        check(&[2.0, 0.5, 2.0, 0.5, 2.0, 0.5, 2.0, 0.5], None);
    }

    #[test]
    fn the_more_it_is_the_sooner_it_is_seen() {
        check(&[2.0, 2.1, 2.0, 2.0], Some((2, 2.05)));
        check(&[3.0, 3.1, 2.9, 3.0], Some((2, 3.0)));
        check(&[0.5, 0.5, 0.5, 0.5], Some((2, 0.5)));
        check(&[1.25; 12], Some((8, 1.25)));
    }

    #[test]
    fn the_first_of_a_run_does_not_count_for_the_factor() {
        check(&[1.4, 2.0, 2.0, 2.0, 2.0], Some((3, 2.0)));
    }
}
