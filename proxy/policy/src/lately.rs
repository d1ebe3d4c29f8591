//! How much comes of something, from what came of late: each amount has less weight the longer it is past.

use penstock_model::units::Moment;

/// Milliseconds over which it is averaged. Bursts of a few seconds are in it, and what was a minute ago is not.
pub(crate) const MEAN_MS: f64 = 10_000.0;

/// Amounts of late.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Lately {
    at: Moment,
    sum: f64,
}

impl Lately {
    /// So much has come.
    pub(crate) fn add(&mut self, amount: f64, now: Moment) {
        self.sum = self.sum * self.faded(now) + amount;
        self.at = now;
    }

    /// How much comes in a millisecond.
    pub(crate) fn rate(&self, now: Moment) -> f64 {
        self.sum * self.faded(now) / MEAN_MS
    }

    fn faded(&self, now: Moment) -> f64 {
        (-now.since(self.at).as_secs_f64() * 1e3 / MEAN_MS).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_on_is_found_and_what_has_stopped_fades() {
        let mut lately = Lately::default();
        assert_eq!(lately.rate(Moment(5)), 0.0);
        // 3 in each 10 ms.
        let at = |ms: u64| Moment(ms * 1_000_000);
        (0..10_000).for_each(|step| lately.add(3.0, at(step * 10)));
        let end = 99_990;
        assert!((lately.rate(at(end)) - 0.3).abs() < 1e-3, "{lately:?}");
        assert!((lately.rate(at(end + 10_000)) - 0.3 / 1f64.exp()).abs() < 1e-3, "{lately:?}");
    }
}
