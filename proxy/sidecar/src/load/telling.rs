//! Inbound: what subscribers are told of one engine, written once for all who are told the same.
//!
//! A thousand of them hear of each change within a second; what a report takes (the ledger, its encoding, the names of adapters) is paid
//! for each change and not for each of them. Digests are apart: each subscriber knows something else.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use penstock_model::units::Moment;
use penstock_policy::pick::cost::Told;

use super::wire::{self, Written};

/// Also without a change a report gets old: how long somebody has waited is in it.
const SHARED_MAX: Duration = Duration::from_millis(10);

/// See the module.
#[derive(Debug, Default)]
pub struct Telling {
    last: Mutex<Option<Last>>,
    adapters: Mutex<Adapters>,
}

/// The last report, and what it is of.
#[derive(Debug)]
struct Last {
    at: Moment,
    changes: u64,
    draining: bool,
    written: Written,
}

/// LoRA adapters as reports name them, and by which names.
#[derive(Debug, Default)]
struct Adapters {
    names: Vec<String>,
    hashes: Arc<[u32]>,
}

impl Telling {
    /// The report of an engine that has changed so often: the last one, or what `report` says now. Something that changes after the count was
    /// read may be in it already, and then makes another one: told twice, and never not at all.
    pub fn written(
        &self,
        (changes, draining): (u64, bool),
        now: Moment,
        report: impl FnOnce() -> (Told, Arc<[u32]>),
    ) -> Written {
        let mut last = self.last.lock();
        let is_same = |last: &&Last| {
            (last.changes, last.draining) == (changes, draining) && now.since(last.at) < SHARED_MAX
        };
        if let Some(last) = last.as_ref().filter(is_same) {
            return last.written.clone();
        }
        let (told, adapters) = report();
        let written = Written::new(&told, &adapters);
        *last = Some(Last { at: now, changes, draining, written: written.clone() });
        written
    }

    /// Adapters of these names, which seldom change.
    pub fn adapters(&self, names: &[String]) -> Arc<[u32]> {
        let mut known = self.adapters.lock();
        if known.names != names {
            let hashes = names.iter().map(|name| wire::adapter(name)).collect();
            *known = Adapters { names: names.to_vec(), hashes };
        }
        Arc::clone(&known.hashes)
    }
}

#[cfg(test)]
mod tests {
    use penstock_policy::pick::cost::Report;

    use super::*;

    fn told(sequence: u64) -> Told {
        Told {
            instance: 1,
            sequence,
            draining: false,
            report: Report::default(),
            speed: None,
            calls: [None; 3],
        }
    }

    #[test]
    fn a_report_is_for_all_until_something_changes_or_it_is_old() {
        let telling = Telling::default();
        let mut sequence = 0;
        let mut check = |changes, draining, at_ms: u64, expected| {
            let now = Moment(at_ms * 1_000_000);
            let written = telling.written((changes, draining), now, || {
                sequence += 1;
                (told(sequence), Arc::default())
            });
            let read = wire::read_report(&written.with(None)).and_then(|part| part.told);
            assert_eq!(read.map(|told| told.sequence), Some(expected), "{changes} {draining} {at_ms}");
        };
        check(0, false, 0, 1);
        check(0, false, 9, 1);
        check(0, false, 10, 2);
        check(1, false, 10, 3);
        check(1, false, 11, 3);
        check(1, true, 11, 4);
    }

    #[test]
    fn adapters_are_hashed_again_only_when_others_are_loaded() {
        let telling = Telling::default();
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let first = telling.adapters(&names(&["a", "b"]));
        assert_eq!(*first, [wire::adapter("a"), wire::adapter("b")]);
        assert!(Arc::ptr_eq(&first, &telling.adapters(&names(&["a", "b"]))));
        assert_eq!(*telling.adapters(&names(&["b"])), [wire::adapter("b")]);
        assert!(telling.adapters(&[]).is_empty());
    }
}
