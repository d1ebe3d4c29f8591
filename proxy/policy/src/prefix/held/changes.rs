//! What came and went, so that each subscriber can be told what it does not know.
//!
//! Changes are numbered. Blocks that are there are listed by the change that added them, those that went by the change that removed
//! them; a subscriber's [`Cursor`] is how far it knows each list. Removals are told first and additions only when no removal is left to tell,
//! so that a block that went and came back ends as held. The list of removals is bounded: who lags behind it begins anew.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use crate::prefix::digest::FINGERPRINTS_MAX;
use crate::prefix::{Digest, ENTRIES_MAX, PrefixKey};

/// Removals that are remembered: with more, beginning anew is as short.
const REMOVALS_MAX: usize = ENTRIES_MAX;

/// The changes of one server.
#[derive(Clone, Debug, Default)]
pub(super) struct Changes {
    count: u64,
    additions: BTreeMap<u64, u64>,
    removals: VecDeque<(u64, u64)>,
    /// Number of the last removal that is not remembered any more.
    lost: u64,
}

/// What one subscriber was told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// Number of the next digest.
    number: u32,
    key: u32,
    additions: u64,
    removals: u64,
}

impl Changes {
    /// Returns the number of the change.
    pub(super) fn added(&mut self, hash: u64) -> u64 {
        self.count += 1;
        self.additions.insert(self.count, hash);
        self.count
    }

    /// `added`: the number that its addition had.
    pub(super) fn removed(&mut self, hash: u64, added: u64) {
        self.count += 1;
        self.additions.remove(&added);
        self.removals.push_back((self.count, hash));
        if self.removals.len() > REMOVALS_MAX
            && let Some((number, _)) = self.removals.pop_front()
        {
            self.lost = number;
        }
    }

    pub(super) fn digest(&self, cursor: &mut Cursor, key: &PrefixKey) -> Option<Digest> {
        if cursor.number == 0 || cursor.key != key.id() || cursor.removals < self.lost {
            *cursor = Cursor { number: 0, key: key.id(), additions: 0, removals: self.count };
        }
        let mut digest =
            Digest { key: key.id(), number: cursor.number, removed: Vec::new(), added: Vec::new() };
        let from = self.removals.partition_point(|(number, _)| *number <= cursor.removals);
        for (number, hash) in self.removals.range(from..).take(FINGERPRINTS_MAX) {
            cursor.removals = *number;
            digest.removed.push(key.fingerprint(*hash));
        }
        if self.removals.back().is_none_or(|(number, _)| *number <= cursor.removals) {
            let room = FINGERPRINTS_MAX - digest.removed.len();
            let untold = (Bound::Excluded(cursor.additions), Bound::Unbounded);
            for (number, hash) in self.additions.range(untold).take(room) {
                cursor.additions = *number;
                digest.added.push(key.fingerprint(*hash));
            }
        }
        if cursor.number > 0 && digest.removed.is_empty() && digest.added.is_empty() {
            return None;
        }
        cursor.number = cursor.number.saturating_add(1);
        Some(digest)
    }
}
