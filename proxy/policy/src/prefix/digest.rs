//! What changed of what a server holds, as bytes.
//!
//! ```text
//!   version  key id  number  removed  added  fingerprints
//!   u8 = 1   u32     u32     u16      u16    u32 each: those removed, then those added          little-endian
//! ```
//!
//! Digests of one stream are numbered; number 0 begins anew, whatever was known before. Fingerprints are random numbers, so
//! nothing much would be won by packing them.

use std::fmt;

/// Bytes of the longest digest: what a stream of load reports can carry without anything else waiting for long.
pub const DIGEST_BYTES_MAX: usize = 16 * 1024;

/// Fingerprints of the longest digest.
pub(super) const FINGERPRINTS_MAX: usize = (DIGEST_BYTES_MAX - HEAD_BYTES) / 4;

const VERSION: u8 = 1;
const HEAD_BYTES: usize = 13;

/// One message of what a server holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    /// Under which key the fingerprints are.
    pub key: u32,
    /// Place in its stream; 0 begins anew.
    pub number: u32,
    /// What is held no more.
    pub removed: Vec<u32>,
    /// What is held now; some may be removed ones.
    pub added: Vec<u32>,
}

/// Bytes that are no digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Garbled {
    /// Made by a later release: to be passed over.
    Version(u8),
    /// Not as long as it says, or longer than any.
    Length {
        /// Bytes that came.
        came: usize,
        /// Bytes that a digest with this head has; [`DIGEST_BYTES_MAX`] if it has too many.
        wanted: usize,
    },
}

impl fmt::Display for Garbled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(version) => {
                write!(f, "prefix digest of version {version}, this release reads version {VERSION}")
            }
            Self::Length { came, wanted } => write!(f, "prefix digest of {came} bytes, expected {wanted}"),
        }
    }
}

impl std::error::Error for Garbled {}

impl Digest {
    /// As bytes, at most [`DIGEST_BYTES_MAX`]. One with more fingerprints than fit, which [`Held`](super::Held) does not make, is cut.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let removed = self.removed.len().min(FINGERPRINTS_MAX);
        let added = self.added.len().min(FINGERPRINTS_MAX - removed);
        let mut bytes = Vec::with_capacity(HEAD_BYTES + (removed + added) * 4);
        bytes.push(VERSION);
        bytes.extend(self.key.to_le_bytes());
        bytes.extend(self.number.to_le_bytes());
        bytes.extend((removed as u16).to_le_bytes());
        bytes.extend((added as u16).to_le_bytes());
        for fingerprint in self.removed.iter().take(removed).chain(self.added.iter().take(added)) {
            bytes.extend(fingerprint.to_le_bytes());
        }
        bytes
    }

    /// Whether there may be more to tell at once.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.removed.len() + self.added.len() >= FINGERPRINTS_MAX
    }

    /// From bytes of another sidecar.
    ///
    /// # Errors
    /// A version that this release does not read, or another length than the head says. Bytes whose length fits are taken for what they
    /// are: wrong fingerprints make a wrong forecast, and nothing else.
    pub fn decode(bytes: &[u8]) -> Result<Self, Garbled> {
        let version = bytes.first().copied().unwrap_or_default();
        if !bytes.is_empty() && version != VERSION {
            return Err(Garbled::Version(version));
        }
        let short = Garbled::Length { came: bytes.len(), wanted: HEAD_BYTES };
        let (head, rest) = bytes.split_first_chunk::<HEAD_BYTES>().ok_or(short)?;
        let &[_, k0, k1, k2, k3, n0, n1, n2, n3, r0, r1, a0, a1] = head;
        let removed = usize::from(u16::from_le_bytes([r0, r1]));
        let added = usize::from(u16::from_le_bytes([a0, a1]));
        let wanted = (HEAD_BYTES + (removed + added) * 4).min(DIGEST_BYTES_MAX);
        if bytes.len() != wanted || removed + added > FINGERPRINTS_MAX {
            return Err(Garbled::Length { came: bytes.len(), wanted });
        }
        let (fingerprints, _) = rest.as_chunks::<4>();
        let mut fingerprints = fingerprints.iter().map(|bytes| u32::from_le_bytes(*bytes));
        Ok(Self {
            key: u32::from_le_bytes([k0, k1, k2, k3]),
            number: u32::from_le_bytes([n0, n1, n2, n3]),
            removed: fingerprints.by_ref().take(removed).collect(),
            added: fingerprints.collect(),
        })
    }
}
