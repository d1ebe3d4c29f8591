//! Least squares that run along, with coefficients that are never negative.
//!
//! What is kept are the normal equations, `Σ w·x·xᵀ` and `Σ w·x·y`, which forget: each observation fades by a constant factor with
//! each that follows. They are solved by coordinate descent from the last solution, a few sweeps for each observation. Against the
//! usual recursive form with an inverse covariance this costs the same and has three properties that matter here: a negative
//! coefficient is impossible and not merely cut off afterwards; a direction that the observations say nothing about stays where it
//! was, instead of drifting off; and the whole can be told that everything has become slower by a factor.
//!
//! Outliers (Huber 1964): beyond 2.5 times the usual error an observation counts in proportion to its distance, not to the square of it.

/// Sweeps for each observation. Few are enough, since each starts from the last solution.
const SWEEPS: u32 = 16;
/// Multiples of the usual error beyond which an observation is an outlier.
const OUTLIER: f64 = 2.5;
/// Weight of the newest observation in the usual error.
const ERROR_GAIN: f64 = 0.05;
/// Squares below this have faded so far that they have no digits left: what they said stays.
const FORGOTTEN: f64 = 1e-280;
/// The usual error before there was any.
const FIRST_ERROR: f64 = 0.3;

/// A coefficient that is at most so many times another one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bound {
    pub(super) of: usize,
    pub(super) by: usize,
    pub(super) ratio: f64,
}

/// A fit of `y ≈ Σ θ·x`.
#[derive(Clone, Debug)]
pub(super) struct Fit<const N: usize> {
    squares: [[f64; N]; N],
    products: [f64; N],
    solution: [f64; N],
    /// What is left of an observation after the next one; below 1.
    keep: f64,
    /// Usual size of a residual, times the root of its weight.
    error: f64,
    bound: Option<Bound>,
}

impl<const N: usize> Fit<N> {
    /// Starts from `prior`, which counts as much as one observation of weight `w` at `x = size` in each coordinate.
    pub(super) fn starting(prior: [f64; N], size: [f64; N], weight: f64, keep: f64) -> Self {
        let mut fit = Self {
            squares: [[0.0; N]; N],
            products: [0.0; N],
            solution: prior,
            keep,
            error: FIRST_ERROR,
            bound: None,
        };
        for at in 0..N {
            fit.squares[at][at] = weight * size[at] * size[at];
            fit.products[at] = fit.squares[at][at] * prior[at];
        }
        fit
    }

    /// The same fit with a coefficient bounded by another.
    pub(super) fn bounded(self, bound: Bound) -> Self {
        Self { bound: Some(bound), ..self }
    }

    /// The coefficients.
    pub(super) fn solution(&self) -> &[f64; N] {
        &self.solution
    }

    /// What the fit expects at `x`.
    pub(super) fn expected(&self, x: &[f64; N]) -> f64 {
        x.iter().zip(&self.solution).map(|(x, theta)| x * theta).sum()
    }

    /// Takes one observation in. `weight` is one over its variance, up to a factor that is the same for all.
    pub(super) fn observe(&mut self, x: &[f64; N], y: f64, weight: f64) {
        let residual = (y - self.expected(x)).abs() * weight.sqrt();
        let bound = OUTLIER * self.error;
        let weight = if residual > bound { weight * bound / residual } else { weight };
        self.error += ERROR_GAIN * (residual.min(2.0 * bound) - self.error);
        for row in 0..N {
            for column in 0..N {
                self.squares[row][column] =
                    self.keep * self.squares[row][column] + weight * x[row] * x[column];
            }
            self.products[row] = self.keep * self.products[row] + weight * x[row] * y;
        }
        (0..SWEEPS).for_each(|_| self.sweep());
    }

    /// Everything has become `factor` times as large, and what is known of it is `trust` times as sure.
    pub(super) fn rescale(&mut self, factor: f64, trust: f64) {
        for row in 0..N {
            for column in 0..N {
                self.squares[row][column] *= trust / (factor * factor);
            }
            self.products[row] *= trust / factor;
            self.solution[row] *= factor;
        }
    }

    fn sweep(&mut self) {
        for row in 0..N {
            let own = self.squares[row][row];
            if own > FORGOTTEN {
                let others: f64 = (0..N)
                    .filter(|column| *column != row)
                    .map(|at| self.squares[row][at] * self.solution[at])
                    .sum();
                let most = match self.bound {
                    Some(bound) if bound.of == row => bound.ratio * self.solution[bound.by],
                    _ => f64::INFINITY,
                };
                self.solution[row] = ((self.products[row] - others) / own).min(most).max(0.0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 500 observations of `2 + 3·x` and, on average every `outliers` of them, one of ten times as much.
    fn line(outliers: Option<u32>) -> Fit<2> {
        let mut fit = Fit::starting([1.0, 1.0], [1.0, 1.0], 1.0, 0.99);
        for at in 0..500u32 {
            let x = [1.0, f64::from(at * 7 % 10)];
            let wobble = 0.02 * f64::from(at * 13 % 11) - 0.1;
            let factor = if outliers.is_some_and(|every| at % every == every - 1) { 10.0 } else { 1.0 };
            fit.observe(&x, (2.0 + 3.0 * x[1] + wobble) * factor, 1.0);
        }
        fit
    }

    #[track_caller]
    fn check(fit: &Fit<2>, expected: [f64; 2], within: f64) {
        let found = fit.solution();
        let is_near = found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() <= within);
        assert!(is_near, "{found:?}, expected {expected:?} within {within}");
    }

    #[test]
    fn a_line_is_found() {
        check(&line(None), [2.0, 3.0], 0.05);
    }

    #[test]
    fn outliers_hardly_move_it() {
        check(&line(Some(25)), [2.0, 3.0], 0.25);
    }

    #[test]
    fn a_coefficient_that_would_be_negative_is_nothing_and_the_others_make_the_best_of_it() {
        let mut fit = Fit::starting([1.0, 1.0], [1.0, 1.0], 1.0, 0.99);
        (0..1_000u32).for_each(|at| fit.observe(&[1.0, f64::from(at % 3)], 5.0 - f64::from(at % 3), 1.0));
        check(&fit, [4.0, 0.0], 0.1);
    }

    #[test]
    fn a_bound_coefficient_stays_within_its_ratio() {
        let bound = Bound { of: 1, by: 0, ratio: 0.5 };
        let mut fit = Fit::starting([1.0, 0.1], [1.0, 1.0], 1.0, 0.99).bounded(bound);
        (0..1_000u32)
            .for_each(|at| fit.observe(&[1.0, f64::from(at % 3)], 1.0 + 9.0 * f64::from(at % 3), 1.0));
        let [first, second] = *fit.solution();
        assert!(second <= 0.5 * first + 1e-9 && second > 0.4 * first, "{first} {second}");
    }

    #[test]
    fn what_is_never_observed_stays_where_it_was() {
        let mut fit = Fit::starting([1.0, 7.0], [1.0, 1.0], 1.0, 0.9);
        (0..10_000).for_each(|_| fit.observe(&[1.0, 0.0], 3.0, 1.0));
        check(&fit, [3.0, 7.0], 1e-6);
    }

    #[test]
    fn being_told_of_a_factor_is_as_good_as_having_seen_it_all() {
        let mut fit = line(None);
        fit.rescale(2.0, 0.2);
        check(&fit, [4.0, 6.0], 0.1);
        fit.observe(&[1.0, 2.0], 16.0, 1.0);
        check(&fit, [4.0, 6.0], 0.1);
    }
}
