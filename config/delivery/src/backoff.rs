//! How long to wait before the next attempt to reach the control plane.

use std::time::Duration;

/// Bound of the first wait.
const FIRST: Duration = Duration::from_millis(500);

/// Bound of every later wait: the longest that a sidecar can be behind once the control plane is back.
const MAX: Duration = Duration::from_secs(30);

/// The wait after `failures` failed attempts in a row (0 is taken as 1).
///
/// The bound doubles from 0.5 s to 30 s; `draw`, uniform in 0 to 1, decides how much of it is waited ("full jitter"), so that the
/// sidecars of a restarted control plane do not return together.
pub fn wait(failures: u32, draw: f64) -> Duration {
    let doublings = failures.saturating_sub(1).min(6); // 0.5 s · 2^6 is past the bound
    let bound = FIRST.saturating_mul(1 << doublings).min(MAX);
    let share = if draw.is_nan() { 1.0 } else { draw.clamp(0.0, 1.0) };
    bound.mul_f64(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_doubles_from_half_a_second_to_thirty() {
        let bounds: Vec<_> = (0..9).map(|failures| wait(failures, 1.0).as_millis()).collect();
        assert_eq!(bounds, [500, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
        assert_eq!(wait(u32::MAX, 1.0), MAX);
    }

    #[test]
    fn the_draw_decides_how_much_of_the_bound_is_waited() {
        for (draw, ms) in
            [(0.0, 0), (0.25, 1_000), (0.5, 2_000), (1.0, 4_000), (-1.0, 0), (7.0, 4_000), (f64::NAN, 4_000)]
        {
            assert_eq!(wait(4, draw).as_millis(), ms, "{draw}");
        }
    }
}
