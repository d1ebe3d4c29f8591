//! The only randomness: seeded streams, one for each purpose, so that two policies meet the same arrivals, the same step noise and
//! the same sidecars whatever else they draw.

/// What a stream of draws is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Moments of arrival.
    Arrivals,
    /// Which sidecar a request comes through.
    Callers,
    /// When in its period each sidecar reads the reports.
    Phases,
    /// Noise of the engines' steps.
    Engines,
    /// Choices of the policies.
    Choices,
    /// Synthetic traces.
    Traces,
}

/// A stream of draws (SplitMix64).
#[derive(Clone, Debug)]
pub struct Draws {
    state: u64,
}

impl Draws {
    /// The stream of a seed for a purpose.
    pub fn new(seed: u64, purpose: Purpose) -> Self {
        let mut draws = Self { state: seed };
        let salt = draws.any() ^ (purpose as u64 + 1).wrapping_mul(0xd6e8_feb8_6659_fd93);
        Self { state: salt }
    }

    /// Uniform over all values.
    pub fn any(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.state;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    /// Uniform from 0 to `count` - 1; 0 where `count` is 0.
    pub fn below(&mut self, count: usize) -> usize {
        let wide = (u128::from(self.any()) * count as u128) >> 64;
        usize::try_from(wide).unwrap_or(0)
    }

    /// Uniform in [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.any() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Exponential with mean 1.
    pub fn exponential(&mut self) -> f64 {
        -(1.0 - self.unit()).ln()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_of_one_seed_differ_and_repeat() {
        let first = |seed, purpose| Draws::new(seed, purpose).any();
        assert_eq!(first(1, Purpose::Arrivals), first(1, Purpose::Arrivals));
        assert_ne!(first(1, Purpose::Arrivals), first(1, Purpose::Callers));
        assert_ne!(first(1, Purpose::Arrivals), first(2, Purpose::Arrivals));
    }

    #[test]
    fn every_place_is_drawn_about_as_often() {
        let mut draws = Draws::new(7, Purpose::Choices);
        let mut counts = [0u32; 8];
        for _ in 0..80_000 {
            counts[draws.below(8)] += 1;
        }
        assert!(counts.iter().all(|count| (9_500..10_500).contains(count)), "{counts:?}");
        assert_eq!(draws.below(0), 0);
    }
}
