//! Prometheus' text format, version 0.0.4, read strictly: what it refuses, a scraper may refuse too.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use crate::client;

/// What `/metrics` said once.
#[derive(Clone, Debug, Default)]
pub struct Exposition {
    /// Families by name.
    pub families: BTreeMap<String, Family>,
}

/// A metric with its samples.
#[derive(Clone, Debug, Default)]
pub struct Family {
    /// `counter`, `gauge`, `histogram`.
    pub kind: String,
    /// What it says of itself.
    pub help: String,
    /// Lines.
    pub samples: Vec<Sample>,
}

/// One line.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The family's name, or for histograms that with `_bucket`, `_sum` or `_count`.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Value.
    pub value: f64,
}

impl Exposition {
    /// Reads the page of a program.
    ///
    /// # Panics
    /// When it is not as Prometheus 3 wants it.
    pub async fn of(admin: SocketAddr) -> Self {
        let page = client::get(admin, "/metrics").await;
        assert_eq!(page.status, 200, "{page:?}");
        let kind = page.header("content-type").unwrap_or_default();
        assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
        Self::parse(&page.text).unwrap_or_else(|why| panic!("{why}\n{}", page.text))
    }

    /// Reads a page.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut page = Self::default();
        let mut current = String::new();
        if !text.is_empty() && !text.ends_with('\n') {
            return Err("the last line has no end".to_owned());
        }
        for line in text.lines() {
            let note = |what: &str| format!("{what}: {line}");
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').ok_or_else(|| note("no help"))?;
                let family = Family { help: help.to_owned(), ..Family::default() };
                if page.families.insert(name.to_owned(), family).is_some() {
                    return Err(note("a family twice"));
                }
                name.clone_into(&mut current);
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').ok_or_else(|| note("no type"))?;
                if name != current || !["counter", "gauge", "histogram"].contains(&kind) {
                    return Err(note("a type out of place"));
                }
                page.families.entry(current.clone()).or_default().kind = kind.to_owned();
            } else {
                let sample = Sample::parse(line).ok_or_else(|| note("no sample"))?;
                let family = page.families.get_mut(&current).ok_or_else(|| note("no family yet"))?;
                family.admit(&current, &sample).map_err(|why| note(&why))?;
                family.samples.push(sample);
            }
        }
        page.families.values().try_for_each(Family::check)?;
        Ok(page)
    }

    /// Sum of the samples with this name and at least these labels; 0 if there are none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.samples(name, labels).map(|sample| sample.value).sum()
    }

    /// The samples with this name and at least these labels.
    pub fn samples<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&'a str, &'a str)],
    ) -> impl Iterator<Item = &'a Sample> {
        let all = self.families.values().flat_map(|family| &family.samples);
        all.filter(move |sample| {
            let has =
                |(key, value): &(&str, &str)| sample.labels.get(*key).is_some_and(|found| found == value);
            sample.name == name && labels.iter().all(has)
        })
    }
}

impl Family {
    /// Names of labels, without the `le` of histograms.
    pub fn labels(&self) -> BTreeSet<&str> {
        let names = self.samples.iter().flat_map(|sample| sample.labels.keys());
        names.map(String::as_str).filter(|name| *name != "le").collect()
    }

    /// Adds what another program of the same kind said of the same metric.
    pub fn absorb(&mut self, other: Self) {
        (self.kind, self.help) = (other.kind, other.help);
        self.samples.extend(other.samples);
    }

    fn admit(&self, name: &str, sample: &Sample) -> Result<(), String> {
        let suffix = sample.name.strip_prefix(name).unwrap_or("?");
        let fits = match self.kind.as_str() {
            "histogram" => ["_bucket", "_sum", "_count"].contains(&suffix),
            "counter" => suffix.is_empty() && sample.value >= 0.0,
            _ => suffix.is_empty(),
        };
        let twice = self.samples.iter().any(|old| old.name == sample.name && old.labels == sample.labels);
        match (fits, twice) {
            (false, _) => Err(format!("no sample of the {} {name}", self.kind)),
            (true, true) => Err("a sample twice".to_owned()),
            (true, false) => Ok(()),
        }
    }

    /// Histograms: buckets only grow, and the last is the count.
    fn check(&self) -> Result<(), String> {
        let mut series: BTreeMap<BTreeMap<String, String>, (f64, f64)> = BTreeMap::new();
        for sample in &self.samples {
            let mut labels = sample.labels.clone();
            let bound = labels.remove("le");
            let (last, infinite) = series.entry(labels).or_insert((0.0, f64::NAN));
            if sample.name.ends_with("_bucket") {
                if sample.value < *last {
                    return Err(format!("a bucket below the one before it: {sample:?}"));
                }
                *last = sample.value;
                if bound.as_deref() == Some("+Inf") {
                    *infinite = sample.value;
                }
            } else if sample.name.ends_with("_count")
                && self.kind == "histogram"
                && (*infinite - sample.value).abs() > 0.0
            {
                return Err(format!("the last bucket is not the count: {sample:?}"));
            }
        }
        Ok(())
    }
}

impl Sample {
    fn parse(line: &str) -> Option<Self> {
        let (head, value) = line.rsplit_once(' ')?;
        let value = match value {
            "+Inf" => f64::INFINITY,
            "-Inf" => f64::NEG_INFINITY,
            number => number.parse().ok()?,
        };
        let (name, labels) = match head.split_once('{') {
            Some((name, rest)) => (name, parse_labels(rest.strip_suffix('}')?)?),
            None => (head, BTreeMap::new()),
        };
        is_name(name).then(|| Self { name: name.to_owned(), labels, value })
    }
}

fn parse_labels(mut text: &str) -> Option<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    while !text.is_empty() {
        let (name, rest) = text.split_once("=\"")?;
        let (mut value, mut end, mut escaped) = (String::new(), None, false);
        for (at, letter) in rest.char_indices() {
            match (escaped, letter) {
                (false, '\\') => escaped = true,
                (false, '"') => {
                    end = Some(at);
                    break;
                }
                (true, 'n') => (escaped, _) = (false, value.push('\n')),
                (_, letter) => (escaped, _) = (false, value.push(letter)),
            }
        }
        if !is_name(name) || labels.insert(name.to_owned(), value).is_some() {
            return None;
        }
        text = &rest[end? + 1..];
        text = text.strip_prefix(',').unwrap_or(text);
    }
    Some(labels)
}

fn is_name(name: &str) -> bool {
    let mut letters = name.chars();
    letters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && letters.all(|letter| letter.is_ascii_alphanumeric() || letter == '_' || letter == ':')
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "# HELP a_total What.\n# TYPE a_total counter\na_total{x=\"1,\\\"}\",y=\"\"} 2\na_total 3\n\
        # HELP h_seconds Time.\n# TYPE h_seconds histogram\nh_seconds_bucket{le=\"1\"} 1\nh_seconds_bucket{le=\"+Inf\"} 2\n\
        h_seconds_sum 3.5\nh_seconds_count 2\n";

    #[test]
    fn a_page_is_read_with_its_labels() {
        let page = Exposition::parse(GOOD).unwrap();
        assert_eq!(page.sum("a_total", &[]), 5.0);
        assert_eq!(page.sum("a_total", &[("x", "1,\"}")]), 2.0);
        assert_eq!(page.sum("a_total", &[("x", "2")]), 0.0);
        assert_eq!(page.families["h_seconds"].labels(), BTreeSet::new());
    }

    #[test]
    fn a_page_that_a_scraper_may_refuse_is_refused() {
        for (from, to) in [
            ("h_seconds_count 2\n", "h_seconds_count 2"),
            ("a_total 3", "a_total -3"),
            ("a_total 3", "b_total 3"),
            ("a_total 3", "a-total 3"),
            ("a_total 3", "a_total{x=\"1,\\\"}\",y=\"\"} 3"),
            ("h_seconds_count 2", "h_seconds_count 3"),
            ("le=\"1\"} 1", "le=\"1\"} 3"),
            ("TYPE a_total counter", "TYPE a_total number"),
            ("# HELP h_seconds", "# HELP a_total"),
        ] {
            assert!(Exposition::parse(&GOOD.replace(from, to)).is_err(), "{from} → {to}");
        }
    }
}
