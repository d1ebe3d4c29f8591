//! What a sidecar says of itself: its page `/metrics`.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::Context;
use serde::Serialize;

use crate::h1::{self, Connection};

/// Gauges that tell of time, of what was learned, or of the process, which the kernel is asked about.
const NO_ACCOUNTS: [&str; 6] = [
    "process_",
    "identity_",
    "penstock_build_info",
    "penstock_xds_last_update",
    "penstock_endpoint_capacity",
    "penstock_patience",
];

/// Series by name and labels, as they are written.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Page {
    /// What has to return: how much there is of something.
    pub gauges: BTreeMap<String, f64>,
    /// What only grows.
    pub counters: BTreeMap<String, f64>,
}

impl Page {
    /// The page as it is now.
    pub async fn of(admin: SocketAddr) -> anyhow::Result<Self> {
        let mut text = Vec::new();
        let mut connection = Connection::open(admin).await?;
        connection.exchange(&h1::get(admin, "/metrics"), |bytes| text.extend_from_slice(bytes)).await?;
        Self::read(&String::from_utf8(text)?)
    }

    fn read(text: &str) -> anyhow::Result<Self> {
        let (mut page, mut kind) = (Self::default(), "");
        for line in text.lines() {
            if let Some(family) = line.strip_prefix("# TYPE ") {
                kind = family.rsplit(' ').next().unwrap_or_default();
            } else if !line.starts_with('#') {
                let (series, value) = line.rsplit_once(' ').context("a line without a value")?;
                let value = value.parse().with_context(|| format!("no number: {line}"))?;
                let is_account = !NO_ACCOUNTS.iter().any(|prefix| series.starts_with(prefix));
                match kind {
                    "gauge" if is_account => drop(page.gauges.insert(series.to_owned(), value)),
                    "gauge" => {}
                    _ if series.contains("_bucket{") => {}
                    _ => drop(page.counters.insert(series.to_owned(), value)),
                }
            }
        }
        Ok(page)
    }

    /// Sum of a counter's series that have all these labels, written as `name="value"`.
    pub fn count(&self, name: &str, labels: &[&str]) -> f64 {
        let has = |series: &str| {
            let rest = series.strip_prefix(name);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('{'))
                && labels.iter().all(|label| series.contains(label))
        };
        self.counters.iter().filter(|(series, _)| has(series)).map(|(_, value)| value).sum()
    }

    /// Sum of a gauge's series that have this label.
    pub fn gauge(&self, name: &str, label: &str) -> f64 {
        let has = |series: &&String| series.starts_with(name) && series.contains(label);
        self.gauges.keys().filter(has).map(|series| self.gauges[series]).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP a_total A.\n# TYPE a_total counter\na_total{x=\"1\",y=\"2\"} 3\na_total{x=\"2\"} 4\n\
        # TYPE ab_total counter\nab_total 9\n# TYPE g gauge\ng{way=\"in\"} 5\n# TYPE process_threads gauge\nprocess_threads 7\n\
        # TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_sum 2.5\nh_count 1\n";

    #[test]
    fn counters_and_gauges_are_told_apart() {
        let page = Page::read(TEXT).unwrap();
        assert_eq!(page.gauges, BTreeMap::from([("g{way=\"in\"}".to_owned(), 5.0)]));
        for (name, labels, count) in [
            ("a_total", &[][..], 7.0),
            ("a_total", &["x=\"1\"", "y=\"2\""], 3.0),
            ("ab_total", &[], 9.0),
            ("h_sum", &[], 2.5),
            ("h_bucket", &[], 0.0),
        ] {
            assert!((page.count(name, labels) - count).abs() < 1e-9, "{name} {labels:?}");
        }
        assert!((page.gauge("g", "in") - 5.0).abs() < 1e-9);
        assert!(Page::read("# TYPE g gauge\ng x\n").is_err());
    }
}
