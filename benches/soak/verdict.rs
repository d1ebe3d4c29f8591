//! What has to be as it was, or as this program knows that it must be.

use std::fmt::Write as _;
use std::ops::RangeInclusive;

use serde::{Serialize, Serializer};

use super::picture::{One, Picture, WAYS};
use super::tally::Done;

const MIB: f64 = 1_048_576.0;
/// Memory that may be more afterwards: a share, and as much as allocators keep for themselves.
const MEMORY_SHARE_MAX: f64 = 1.05;
const MEMORY_SPARE_BYTES: f64 = 4.0 * MIB;
/// Memory that bodies may take while they pass, however long they are.
const BODY_MEMORY_BYTES_MAX: f64 = 16.0 * MIB;
/// Names of the sidecars of a picture.
const NAMES: [&str; 2] = ["server", "caller"];
/// Things that must not happen.
const MISHAPS: [&str; 4] = [
    "penstock_panics_total",
    "penstock_connections_refused_total",
    "penstock_requests_refused_total",
    "penstock_access_log_dropped_total",
];
/// A gauge that says how old something is, and is no thing that is held.
const AGE: &str = "penstock_load_signal_age_seconds";
/// Gauges that are shown also when they are as they were.
const SHOWN: [&str; 4] =
    ["penstock_inflight_requests", "penstock_open_connections", "penstock_body_held_bytes", "penstock_tasks"];

/// All that is compared.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Compared<'a> {
    /// After the warm-up.
    pub(crate) before: &'a Picture,
    /// When nothing but the bodies was left to be done, and what was done by then.
    pub(crate) before_bodies: (&'a Picture, &'a Done),
    /// Most memory of each sidecar while they passed.
    pub(crate) peaks_bytes: [u64; 2],
    pub(crate) after: &'a Picture,
    /// By this program since `before`.
    pub(crate) done: &'a Done,
}

/// One line.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) what: String,
    unit: Unit,
    before: f64,
    after: f64,
    #[serde(serialize_with = "ends")]
    allowed: RangeInclusive<f64>,
    #[serde(skip)]
    is_shown: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Unit {
    Count,
    Bytes,
}

fn ends<S: Serializer>(range: &RangeInclusive<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    [range.start(), range.end()].serialize(serializer)
}

impl Row {
    /// Whether it is as it must be.
    pub(crate) fn is_kept(&self) -> bool {
        self.allowed.contains(&self.after)
    }

    /// How often something has happened since the picture before.
    fn count(what: String, after: f64, allowed: RangeInclusive<f64>) -> Self {
        Self { what, unit: Unit::Count, before: 0.0, after, allowed, is_shown: true }
    }

    fn of(what: String, unit: Unit, before: f64, after: f64, most: f64) -> Self {
        Self { what, unit, before, after, allowed: 0.0..=most, is_shown: true }
    }
}

/// Everything that is asked.
pub(crate) fn rows(compared: &Compared<'_>) -> Vec<Row> {
    let mut rows = Vec::new();
    for sidecar in 0..NAMES.len() {
        rows.extend(used(compared, sidecar));
        rows.extend(gauges(compared, sidecar));
        rows.extend(counted(compared, sidecar));
    }
    let (before, after, done) = (&compared.before.backend, &compared.after.backend, compared.done);
    rows.push(Row::of("backend: open requests".to_owned(), Unit::Count, 0.0, after.open as f64, 0.0));
    rows.push(exactly("backend: answered".to_owned(), (after.whole - before.whole) as f64, done.answered));
    let left = (after.left - before.left) as f64;
    rows.push(Row::count("backend: left".to_owned(), left, cancels(done)));
    rows.push(exactly("client: failed".to_owned(), done.failed as f64, 0));
    rows
}

fn exactly(what: String, after: f64, wanted: u64) -> Row {
    Row::count(what, after, wanted as f64..=wanted as f64)
}

/// What the far end may have seen of the requests that were given up: at least those whose answers had begun.
fn cancels(done: &Done) -> RangeInclusive<f64> {
    done.cancelled_in_answer as f64..=done.cancelled as f64
}

/// Memory and descriptors.
fn used(compared: &Compared<'_>, sidecar: usize) -> [Row; 3] {
    let what = |what: &str| format!("{}: {what}", NAMES[sidecar]);
    let (before, after) = (&compared.before.sidecars[sidecar], &compared.after.sidecars[sidecar]);
    let (resident, now) = (before.resident_bytes as f64, after.resident_bytes as f64);
    let most = resident * MEMORY_SHARE_MAX + MEMORY_SPARE_BYTES;
    let peak = compared.peaks_bytes[sidecar] as f64;
    let (files, files_now) = (before.descriptors as f64, after.descriptors as f64);
    [
        Row::of(what("memory"), Unit::Bytes, resident, now, most),
        Row::of(what("peak with bodies"), Unit::Bytes, resident, peak, resident + BODY_MEMORY_BYTES_MAX),
        Row::of(what("descriptors"), Unit::Count, files, files_now, files),
    ]
}

/// Whatever the sidecar says that it holds. A gauge that only one of the pages has is zero on the other.
fn gauges(compared: &Compared<'_>, sidecar: usize) -> Vec<Row> {
    let (before, after) =
        (&compared.before.sidecars[sidecar].page.gauges, &compared.after.sidecars[sidecar].page.gauges);
    let mut names: Vec<&String> = before.keys().chain(after.keys()).collect();
    names.sort_unstable();
    names.dedup();
    names.retain(|name| !name.starts_with(AGE));
    let row = |name: &String| {
        let value = |page: &std::collections::BTreeMap<String, f64>| page.get(name).copied().unwrap_or(0.0);
        let (before, after) = (value(before), value(after));
        // Connections that are kept for later may have been closed.
        let least = if name.starts_with("penstock_open_connections") { 0.0 } else { before };
        let is_shown = SHOWN.iter().any(|shown| name.starts_with(shown));
        let what = format!("{}: {name}", NAMES[sidecar]);
        Row { what, unit: Unit::Count, before, after, allowed: least..=before, is_shown }
    };
    names.into_iter().map(row).collect()
}

/// Counters, beside what was done.
fn counted(compared: &Compared<'_>, sidecar: usize) -> Vec<Row> {
    let what = |what: &str| format!("{}: {what}", NAMES[sidecar]);
    let (before, after) = (&compared.before.sidecars[sidecar], &compared.after.sidecars[sidecar]);
    let done = compared.done;
    let ended = |class: &str| after.ended(class) - before.ended(class);
    let cancelled = if WAYS[sidecar] == "outbound" {
        done.cancelled as f64..=done.cancelled as f64
    } else {
        cancels(done)
    };
    let mut rows = vec![
        exactly(what("ended well"), ended("success"), done.answered),
        Row::count(what("cancelled"), ended("cancelled"), cancelled),
        exactly(what("failed"), ended("failure"), 0),
        exactly(what("shed"), ended("shed"), 0),
    ];
    for name in MISHAPS {
        let happened = after.page.count(name, &[]) - before.page.count(name, &[]);
        rows.push(Row { is_shown: false, ..exactly(what(name), happened, 0) });
    }
    let (earlier, done_earlier) = compared.before_bodies;
    let carried = |one: &One, name: &str| one.page.count(name, &[]);
    for (name, bytes) in [
        ("penstock_request_body_bytes_sum", done.bytes_up - done_earlier.bytes_up),
        ("penstock_response_body_bytes_sum", done.bytes_down - done_earlier.bytes_down),
    ] {
        let counted = carried(after, name) - carried(&earlier.sidecars[sidecar], name);
        rows.push(Row { unit: Unit::Bytes, ..exactly(what(name), counted, bytes) });
    }
    rows
}

/// For people: what is always of interest, and whatever is not as it must be.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut text = "| what | before | after | allowed | |\n| --- | --: | --: | --: | --- |\n".to_owned();
    for row in rows.iter().filter(|row| row.is_shown || !row.is_kept()) {
        let shown = |value: f64| match row.unit {
            Unit::Count => format!("{value}"),
            Unit::Bytes => format!("{:.1} MiB", value / MIB),
        };
        let (least, most) = (*row.allowed.start(), *row.allowed.end());
        let allowed = if least == most {
            shown(most)
        } else if least == 0.0 {
            format!("at most {}", shown(most))
        } else {
            format!("{} to {}", shown(least), shown(most))
        };
        let verdict = if row.is_kept() { "" } else { "**not kept**" };
        // Writing to a String cannot fail.
        let _written = writeln!(
            text,
            "| {} | {} | {} | {allowed} | {verdict} |",
            row.what,
            shown(row.before),
            shown(row.after)
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::Seen;
    use penstock_benches::page::Page;

    fn one(resident_mib: u64, descriptors: usize) -> One {
        let bytes = resident_mib << 20;
        One { resident_bytes: bytes, peak_bytes: bytes, descriptors, page: Page::default() }
    }

    fn picture() -> Picture {
        Picture { sidecars: [one(100, 20), one(100, 20)], backend: Seen::default() }
    }

    /// What a change of the picture after breaks, beside a client that did nothing.
    fn check(change: impl FnOnce(&mut Picture), done: &Done, broken: &[&str]) {
        let (before, mut after) = (picture(), picture());
        change(&mut after);
        let compared = Compared {
            before: &before,
            before_bodies: (&before, &Done::default()),
            peaks_bytes: after.sidecars.each_ref().map(|one| one.peak_bytes),
            after: &after,
            done,
        };
        let rows = rows(&compared);
        let found: Vec<&str> =
            rows.iter().filter(|row| !row.is_kept()).map(|row| row.what.as_str()).collect();
        assert_eq!(found, broken);
        assert_eq!(table(&rows).matches("**not kept**").count(), broken.len());
    }

    fn series(page: &mut std::collections::BTreeMap<String, f64>, name: &str, value: f64) {
        page.insert(name.to_owned(), value);
    }

    #[test]
    fn nothing_that_changes_is_nothing_to_tell() {
        check(|_| (), &Done::default(), &[]);
    }

    #[test]
    fn what_is_held_is_told() {
        let nothing = Done::default();
        check(|after| after.sidecars[0].resident_bytes = 109 << 20, &nothing, &[]);
        check(|after| after.sidecars[0].resident_bytes = 110 << 20, &nothing, &["server: memory"]);
        check(|after| after.sidecars[1].peak_bytes = 117 << 20, &nothing, &["caller: peak with bodies"]);
        check(|after| after.sidecars[1].descriptors = 21, &nothing, &["caller: descriptors"]);
        check(|after| after.sidecars[1].descriptors = 19, &nothing, &[]);
        check(|after| after.backend.open = 1, &nothing, &["backend: open requests"]);
        let gauge = "penstock_some{of=\"it\"}";
        check(
            |after| series(&mut after.sidecars[0].page.gauges, gauge, 1.0),
            &nothing,
            &["server: penstock_some{of=\"it\"}"],
        );
    }

    #[test]
    fn counters_must_agree_with_what_was_done() {
        let done =
            Done { answered: 2, cancelled: 3, cancelled_in_answer: 2, bytes_down: 9, ..Done::default() };
        let ended = |page: &mut Page, class: &str, count: f64| {
            let name = format!("penstock_requests_total{{classification=\"{class}\"}}");
            series(&mut page.counters, &name, count);
        };
        let well = |after: &mut Picture| {
            for one in &mut after.sidecars {
                ended(&mut one.page, "success", 2.0);
                ended(&mut one.page, "cancelled", 3.0);
                series(&mut one.page.counters, "penstock_response_body_bytes_sum", 9.0);
            }
            after.backend = Seen { open: 0, whole: 2, left: 2 };
        };
        check(well, &done, &[]);
        let fewer = |after: &mut Picture| {
            well(after);
            after.sidecars.iter_mut().for_each(|one| ended(&mut one.page, "cancelled", 2.0));
        };
        check(fewer, &done, &["caller: cancelled"]);
        let failed = |after: &mut Picture| {
            well(after);
            ended(&mut after.sidecars[0].page, "failure", 1.0);
            series(&mut after.sidecars[1].page.counters, "penstock_panics_total", 1.0);
        };
        check(failed, &done, &["server: failed", "caller: penstock_panics_total"]);
        let forgotten = |after: &mut Picture| {
            well(after);
            after.backend = Seen { open: 0, whole: 1, left: 1 };
        };
        check(forgotten, &done, &["backend: answered", "backend: left"]);
    }
}
