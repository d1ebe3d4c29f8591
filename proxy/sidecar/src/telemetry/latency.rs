//! Latencies with exact quantiles, kept in HDR histograms, for `/latency`: three significant digits, 1 µs to 1 h.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use serde::Serialize;

use super::access_log::Entry;

const LOWEST_US: u64 = 1;
const HIGHEST_US: u64 = 3_600_000_000;
const DIGITS: u8 = 3;
/// Backends that get a row; a histogram takes some 200 KB, and peers name them.
const BACKENDS_MAX: usize = 200;

/// Histograms by direction and backend.
#[derive(Debug, Default)]
pub struct Latencies {
    by_backend: Mutex<BTreeMap<(&'static str, String), Recorder>>,
}

#[derive(Debug)]
struct Recorder {
    first_token: Histogram<u64>,
    per_output_token: Histogram<u64>,
    duration: Histogram<u64>,
}

/// Quantiles of one histogram, in milliseconds.
#[derive(Debug, Serialize)]
pub struct Quantiles {
    count: u64,
    p50: f64,
    p90: f64,
    p99: f64,
    max: f64,
}

/// Latencies of one backend.
#[derive(Debug, Serialize)]
pub struct Row {
    direction: &'static str,
    backend: String,
    time_to_first_token_ms: Quantiles,
    time_per_output_token_ms: Quantiles,
    duration_ms: Quantiles,
}

impl Latencies {
    /// Adds one request.
    pub fn record(&self, entry: &Entry<'_>) {
        let Some(backend) = entry.backend else { return };
        let mut table = self.by_backend.lock();
        let key = (entry.direction, backend.to_string());
        let Some(recorder) = Recorder::of(&mut table, key) else { return };
        let us = |span: std::time::Duration| u64::try_from(span.as_micros()).unwrap_or(HIGHEST_US);
        if let Some(span) = entry.time_to_first_token {
            recorder.first_token.saturating_record(us(span));
        }
        if let Some(span) = entry.time_per_output_token {
            recorder.per_output_token.saturating_record(us(span));
        }
        recorder.duration.saturating_record(us(entry.duration));
    }

    /// One row for each direction and backend.
    pub fn rows(&self) -> Vec<Row> {
        let table = self.by_backend.lock();
        let row = |((direction, backend), recorder): (&(&'static str, String), &Recorder)| Row {
            direction,
            backend: backend.clone(),
            time_to_first_token_ms: quantiles(&recorder.first_token),
            time_per_output_token_ms: quantiles(&recorder.per_output_token),
            duration_ms: quantiles(&recorder.duration),
        };
        table.iter().map(row).collect()
    }
}

impl Recorder {
    fn of<'a>(
        table: &'a mut BTreeMap<(&'static str, String), Self>,
        key: (&'static str, String),
    ) -> Option<&'a mut Self> {
        let is_full = table.len() >= BACKENDS_MAX;
        match table.entry(key) {
            std::collections::btree_map::Entry::Occupied(found) => Some(found.into_mut()),
            std::collections::btree_map::Entry::Vacant(free) => {
                if is_full {
                    return None;
                }
                let histogram = || Histogram::new_with_bounds(LOWEST_US, HIGHEST_US, DIGITS).ok();
                let recorder = Self {
                    first_token: histogram()?,
                    per_output_token: histogram()?,
                    duration: histogram()?,
                };
                Some(free.insert(recorder))
            }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "microseconds up to an hour fit a double exactly")]
fn quantiles(histogram: &Histogram<u64>) -> Quantiles {
    let ms = |us: u64| us as f64 / 1_000.0;
    Quantiles {
        count: histogram.len(),
        p50: ms(histogram.value_at_quantile(0.5)),
        p90: ms(histogram.value_at_quantile(0.9)),
        p99: ms(histogram.value_at_quantile(0.99)),
        max: ms(histogram.max()),
    }
}
