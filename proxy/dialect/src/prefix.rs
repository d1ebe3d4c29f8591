//! How far two prompts are the same: hashes of a prompt's beginning at fixed places, made while the body passes.
//!
//! Two requests whose hashes agree at a place have the same prompt up to it, so a server that computed the one has that much of the
//! other in its cache. No prompt is kept: one hasher runs over what reaches the model, and its state is read at each place.
//!
//! ```text
//!   a section    512 B  1,024 B …  32 KiB   33 KiB …  64 KiB   66 KiB …        places, in bytes of prompt text
//!   (messages)   ──┴───────┴──────────┴────────┴─────────┴────────┴──►          a hash of everything before it in the section
//!
//!   a prompt     model │ salt │ adapter │ tools │ system │ messages             sections, as engines order them; each hash takes in
//!                                                                               all sections before its own
//! ```
//!
//! **What counts**: text, keys, numbers and literals of the prompt's own fields as they are written, escapes not undone: two
//! spellings of one text do not match, and a client writes its text in one way. Blanks between tokens do not count, nor what never
//! reaches the model: sampling, `stream`, `user`, and Anthropic's `cache_control`, which moves from turn to turn. Media count in
//! the hashes, not in the places.
//!
//! **Sections.** Engines put tools and system texts before the messages, clients write them where they like. So each field is hashed
//! by itself and they are put in order when asked; `model`, `cache_salt` and an adapter's name go before all, wherever they stood.
//!
//! **Places** are 512 bytes (about 128 tokens) apart up to 32 KiB, and then at most a 32nd of what lies before: a long prompt
//! has few, and a match ends at most about 3 % short. A prompt has at most [`BOUNDARIES_MAX`].
//!
//! These hashes are not keyed: they are fast (XXH3) and stay in the process. What leaves it is made from them with a secret key,
//! see `penstock_policy::prefix`; a new key then needs no prompt again.

use xxhash_rust::xxh3::{Xxh3, xxh3_64, xxh3_64_with_seed};

use crate::PROMPT_BYTES_PER_TOKEN;

/// Boundaries of one prompt: enough for 2 MiB of text in one section.
pub const BOUNDARIES_MAX: usize = 256;

/// Distance of the first boundaries. Engines cache in blocks of 16 to 64 tokens; a boundary every 128 loses 64 on average, and
/// what they cost stays small beside the scan.
const BLOCK_BYTES: u64 = 512;

/// Up to here boundaries are [`BLOCK_BYTES`] apart; behind it the distance doubles whenever the place does.
const EVEN_BYTES: u64 = 32 * 1024;

/// The section of `cache_salt`: before all others.
pub(crate) const SALT: u8 = 15;
/// The section of an adapter's name, where it is not the model's.
pub(crate) const ADAPTER: u8 = 14;
/// The section of media outside any prompt field.
const MEDIA: u8 = 13;

/// A place in a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boundary {
    /// Bytes of prompt text before it, of all sections; a token given as a number counts [`PROMPT_BYTES_PER_TOKEN`].
    pub bytes: u64,
    /// Hash of all before it, the model's name, salt and adapter included. Not keyed: it must not leave the process.
    pub hash: u64,
}

impl Boundary {
    /// Tokens before it, as [`Facts::prompt_tokens_estimate`](crate::Facts::prompt_tokens_estimate) counts them.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.bytes / PROMPT_BYTES_PER_TOKEN
    }
}

/// Bytes from a place in a section to the next.
#[must_use]
pub fn distance(bytes: u64) -> u64 {
    let doublings = (bytes / EVEN_BYTES).checked_ilog2().map_or(0, |log| log + 1);
    BLOCK_BYTES << doublings
}

/// Hashes one prompt.
pub(crate) struct Prefix {
    hasher: Xxh3,
    /// Place of the section that `hasher` is in.
    active: Option<usize>,
    sections: Vec<Section>,
    boundaries: usize,
}

/// One field of the prompt.
struct Section {
    number: u8,
    bytes: u64,
    next: u64,
    boundaries: Vec<Boundary>,
    /// Hash of the whole, once the hasher has left.
    end: u64,
}

/// What stands behind a piece, so that no two sequences of pieces give the same bytes. None of these is a byte of UTF-8.
#[derive(Clone, Copy)]
pub(crate) enum End {
    Text = 0xFF,
    Number = 0xFE,
    Key = 0xFD,
    Literal = 0xFC,
}

impl Prefix {
    pub(crate) fn new() -> Self {
        Prefix { hasher: Xxh3::new(), active: None, sections: Vec::new(), boundaries: 0 }
    }

    /// Bytes of prompt text, in any pieces.
    pub(crate) fn text(&mut self, number: u8, mut bytes: &[u8]) {
        let section = self.enter(number);
        while let Some(section) = self.sections.get_mut(section)
            && let Some((piece, rest)) =
                bytes.split_at_checked(usize::try_from(section.next - section.bytes).unwrap_or(usize::MAX))
        {
            self.hasher.update(piece);
            section.bytes = section.next;
            section.mark(&self.hasher, &mut self.boundaries);
            bytes = rest;
        }
        self.hasher.update(bytes);
        if let Some(section) = self.sections.get_mut(section) {
            section.bytes += bytes.len() as u64;
        }
    }

    /// A token given as a number.
    pub(crate) fn token(&mut self, number: u8, digits: &[u8]) {
        let section = self.enter(number);
        self.hasher.update(digits);
        self.hasher.update(&[End::Number as u8]);
        if let Some(section) = self.sections.get_mut(section) {
            section.bytes += PROMPT_BYTES_PER_TOKEN;
            if section.bytes >= section.next {
                section.mark(&self.hasher, &mut self.boundaries);
            }
        }
    }

    /// What counts in the hash and not in the place.
    pub(crate) fn aside(&mut self, number: u8, bytes: &[u8]) {
        self.enter(number);
        self.hasher.update(bytes);
    }

    /// The same, complete, or the last of several.
    pub(crate) fn piece(&mut self, number: u8, bytes: &[u8], end: End) {
        self.aside(number, bytes);
        self.hasher.update(&[end as u8]);
    }

    /// Media, which belong to where they stand.
    pub(crate) fn media(&mut self, bytes: &[u8]) {
        if self.active.is_none() {
            self.enter(MEDIA);
        }
        self.hasher.update(bytes);
    }

    /// The boundaries so far of a prompt to this model.
    pub(crate) fn boundaries(&self, model: Option<&str>) -> Vec<Boundary> {
        let mut order: Vec<usize> = (0..self.sections.len()).collect();
        order.sort_by_key(|place| self.sections.get(*place).map(|section| u8::MAX - section.number));
        let mut all = Vec::with_capacity(self.boundaries + order.len());
        let mut before = Boundary { bytes: 0, hash: xxh3_64(model.unwrap_or_default().as_bytes()) };
        for (rank, place) in order.iter().enumerate() {
            let Some(section) = self.sections.get(*place) else { continue };
            let end = if self.active == Some(*place) { self.hasher.digest() } else { section.end };
            all.extend(section.boundaries.iter().map(|own| before.then(*own)));
            before = before.then(Boundary { bytes: section.bytes, hash: end });
            let is_new = all.last().map_or(0, |last| last.bytes) < before.bytes;
            if rank + 1 < order.len() && is_new {
                all.push(before);
            }
        }
        all.truncate(BOUNDARIES_MAX);
        all
    }

    /// Turns to a section; returns its place. A field that is written again goes on where it ended.
    fn enter(&mut self, number: u8) -> usize {
        if let Some(active) = self.active
            && self.sections.get(active).is_some_and(|section| section.number == number)
        {
            return active;
        }
        if let Some(section) = self.active.and_then(|active| self.sections.get_mut(active)) {
            section.end = self.hasher.digest();
            self.hasher.reset();
        }
        let found = self.sections.iter().position(|section| section.number == number);
        if let Some(section) = found.and_then(|place| self.sections.get(place)) {
            self.hasher.update(&section.end.to_le_bytes());
        }
        let place = found.unwrap_or_else(|| {
            self.sections.push(Section {
                number,
                bytes: 0,
                next: BLOCK_BYTES,
                boundaries: Vec::new(),
                end: 0,
            });
            self.sections.len() - 1
        });
        self.active = Some(place);
        place
    }
}

impl Section {
    /// The hasher is at the next boundary.
    fn mark(&mut self, hasher: &Xxh3, boundaries: &mut usize) {
        if *boundaries < BOUNDARIES_MAX {
            self.boundaries.push(Boundary { bytes: self.next, hash: hasher.digest() });
            *boundaries += 1;
        }
        self.next += distance(self.next);
    }
}

impl Boundary {
    /// `later`, of the section that follows this one.
    fn then(self, later: Boundary) -> Boundary {
        Boundary {
            bytes: self.bytes + later.bytes,
            hash: xxh3_64_with_seed(&later.hash.to_le_bytes(), self.hash),
        }
    }
}
