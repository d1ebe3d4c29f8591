//! The fingerprints of one server, as a caller's sidecar knows them.
//!
//! A table of 32-bit numbers with open addressing: where a fingerprint belongs follows from its value, which is random already; the next
//! free place is taken. It is at most four fifths full. Since a server forgets the end of a prompt before its beginning, how much of a
//! prompt is held is found by halving.

use super::{Asked, Digest, ENTRIES_MAX};

/// Bytes of one index at most, its own fields included.
pub const INDEX_BYTES_MAX: usize = PLACES_MAX * 4 + size_of::<Index>();

const PLACES_MIN: usize = 480;
/// Five doublings of the smallest table.
const PLACES_MAX: usize = 15_360;
const _: () = assert!(ENTRIES_MAX * 5 == PLACES_MAX * 4 && PLACES_MIN << 5 == PLACES_MAX);

const EMPTY: u32 = 0;

/// What a server holds, by its digests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Index {
    places: Vec<u32>,
    entries: usize,
    key: u32,
    /// Number of the digest that must come next; 0 before the first.
    next: u32,
}

/// A digest is missing before this one. What is known stays as it is, until one with number 0 comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The number that was due.
    pub expected: u32,
    /// The number that came.
    pub came: u32,
}

impl Index {
    /// Takes over what a server says.
    ///
    /// # Errors
    /// One before it is missing, or its key changed without beginning anew: it was not taken.
    pub fn apply(&mut self, digest: &Digest) -> Result<(), Gap> {
        if digest.number == 0 {
            *self = Self { key: digest.key, ..Self::default() };
        } else if digest.number != self.next || digest.key != self.key {
            return Err(Gap { expected: self.next, came: digest.number });
        }
        self.next = digest.number.saturating_add(1);
        for fingerprint in &digest.removed {
            self.remove(*fingerprint);
        }
        for fingerprint in &digest.added {
            self.add(*fingerprint);
        }
        Ok(())
    }

    /// Prompt tokens that the server has computed, as far as is known; fewer than the prompt has. A digest under a key that is not valid
    /// any more answers 0.
    #[must_use]
    pub fn cached_tokens(&self, asked: &Asked) -> u32 {
        let blocks = asked.under(self.key).partition_point(|fingerprint| self.contains(*fingerprint));
        asked.tokens(blocks)
    }

    /// Blocks that are known.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.entries
    }

    /// Bytes that it takes, at most [`INDEX_BYTES_MAX`].
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.places.capacity() * size_of::<u32>() + size_of::<Self>()
    }

    pub(super) fn contains(&self, fingerprint: u32) -> bool {
        self.find(fingerprint).is_ok()
    }

    /// Where it is, or where it would be put; in an empty table nowhere.
    fn find(&self, fingerprint: u32) -> Result<usize, usize> {
        let mut place = self.home(fingerprint);
        loop {
            match self.places.get(place) {
                Some(&EMPTY) | None => return Err(place),
                Some(&found) if found == fingerprint => return Ok(place),
                Some(_) => place = self.after(place),
            }
        }
    }

    fn home(&self, fingerprint: u32) -> usize {
        ((u64::from(fingerprint) * self.places.len() as u64) >> 32) as usize
    }

    fn after(&self, place: usize) -> usize {
        if place + 1 == self.places.len() { 0 } else { place + 1 }
    }

    fn add(&mut self, fingerprint: u32) {
        if fingerprint == EMPTY || self.entries == ENTRIES_MAX {
            return;
        }
        if self.entries * 5 >= self.places.len() * 4 {
            self.grow();
        }
        if let Err(place) = self.find(fingerprint)
            && let Some(free) = self.places.get_mut(place)
        {
            *free = fingerprint;
            self.entries += 1;
        }
    }

    fn grow(&mut self) {
        let count = (self.places.len() * 2).clamp(PLACES_MIN, PLACES_MAX);
        let before = std::mem::replace(&mut self.places, vec![EMPTY; count]);
        for fingerprint in before.into_iter().filter(|fingerprint| *fingerprint != EMPTY) {
            if let Err(place) = self.find(fingerprint)
                && let Some(free) = self.places.get_mut(place)
            {
                *free = fingerprint;
            }
        }
    }

    /// Takes one out and moves up those behind it that would not be found any more.
    fn remove(&mut self, fingerprint: u32) {
        if fingerprint == EMPTY {
            return;
        }
        let Ok(mut hole) = self.find(fingerprint) else { return };
        self.entries -= 1;
        let mut place = self.after(hole);
        while let Some(&other) = self.places.get(place)
            && other != EMPTY
        {
            let home = self.home(other);
            // Not beyond its home: going round from there, the hole comes no later than where it is now.
            if self.steps(home, hole) <= self.steps(home, place) {
                self.places.swap(hole, place);
                hole = place;
            }
            place = self.after(place);
        }
        if let Some(freed) = self.places.get_mut(hole) {
            *freed = EMPTY;
        }
    }

    fn steps(&self, from: usize, to: usize) -> usize {
        if to >= from { to - from } else { to + self.places.len() - from }
    }
}
