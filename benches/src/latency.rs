//! Latencies, and what is said of them.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Nothing measured here takes longer.
const HIGHEST_NS: u64 = 600_000_000_000;
const SIGNIFICANT_DIGITS: u8 = 3;
const NS_PER_US: f64 = 1_000.0;

/// Latencies of one measurement.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

/// Percentiles in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    /// Half are shorter.
    pub p50: f64,
    /// 9 of 10 are shorter.
    pub p90: f64,
    /// 99 of 100 are shorter.
    pub p99: f64,
    /// 999 of 1,000 are shorter.
    pub p999: f64,
    /// The longest.
    pub max: f64,
}

impl Latencies {
    /// None yet.
    ///
    /// # Errors
    /// When a histogram of this range cannot be made.
    pub fn new() -> anyhow::Result<Self> {
        let histogram = Histogram::new_with_bounds(1, HIGHEST_NS, SIGNIFICANT_DIGITS);
        Ok(Self(histogram.map_err(|error| anyhow::anyhow!("no histogram: {error:?}"))?))
    }

    /// Counts one that was due then and has ended now. What waited for its turn has waited: the time counts from when it was
    /// due, not from when it was sent.
    pub fn record(&mut self, due_ns: u64, ended_ns: u64) {
        self.0.saturating_record(ended_ns.saturating_sub(due_ns).max(1));
    }

    /// What is said of them.
    pub fn percentiles(&self) -> Percentiles {
        let at = |quantile: f64| self.0.value_at_quantile(quantile) as f64 / NS_PER_US;
        Percentiles {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: self.0.max() as f64 / NS_PER_US,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_counts_for_every_request_that_was_due_in_it() {
        // Due every millisecond; the server stalls for 100 ms and then answers all at once.
        let mut latencies = Latencies::new().unwrap();
        for due in 0..100_u64 {
            latencies.record(due * 1_000_000, 100_000_000);
        }
        let said = latencies.percentiles();
        assert!((said.p50 - 51_000.0).abs() < 1_000.0, "{said:?}");
        assert!((said.max - 100_000.0).abs() < 100.0, "{said:?}");
    }

    #[test]
    fn an_answer_before_its_time_counts_as_no_time() {
        let mut latencies = Latencies::new().unwrap();
        latencies.record(10, 5);
        assert!(latencies.percentiles().max < 0.01);
    }
}
