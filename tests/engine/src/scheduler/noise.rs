//! The only randomness of the scheduler: a seeded generator inside its state, so a run can be repeated.

/// Multiplies step times by a lognormal factor with median 1.
#[derive(Clone, Debug)]
pub(crate) struct Noise {
    state: u64,
    sigma: f64,
}

impl Noise {
    pub(crate) fn seeded(seed: u64, sigma: f64) -> Self {
        Self { state: seed, sigma }
    }

    /// The next factor; exactly 1, and no draw, when sigma is 0.
    pub(crate) fn factor(&mut self) -> f64 {
        if self.sigma == 0.0 {
            return 1.0;
        }
        (self.sigma * self.normal()).exp()
    }

    /// A standard normal draw by the polar form of Box and Muller's method, one half of each pair.
    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * self.unit().ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// Uniform in (0, 1].
    fn unit(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        crate::mix::scramble(self.state)
    }
}
