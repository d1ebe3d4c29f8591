//! The last good snapshot as bytes, for a sidecar that starts while the control plane is gone.
//!
//! ```text
//!   offset  0        8              12             20               36
//!           magic    schema, u32    length, u64    checksum, 16 B   payload: penstock.push.v1.SnapshotCache
//! ```
//!
//! Numbers are little-endian. The checksum (xxh3, 128 bit) is over the payload: it finds a torn write or a bad disk, not an
//! attacker, who would need write access to the sidecar's own directory. A field that is added to a resource needs no new
//! schema number; the number grows when older sidecars could not read the payload any more.

use penstock_model::snapshot::Parts;
use prost::Message;
use xxhash_rust::xxh3::xxh3_128;

use crate::proto::penstock::push::v1::SnapshotCache;
use crate::wire::{self, Flaw};

/// What the file begins with.
const MAGIC: [u8; 8] = *b"PENSTOCK";

/// The schema that is written, and the only one that there is yet.
pub const SCHEMA: u32 = 1;

const HEADER_BYTES: usize = 36;

/// Why bytes are not a usable snapshot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CacheError {
    /// The file is something else.
    #[error("does not begin as a snapshot does")]
    Foreign,
    /// Written by a version of Penstock that this one cannot read.
    #[error("has schema {found}, newer than {SCHEMA}, the newest that this version reads")]
    Newer {
        /// Schema of the file.
        found: u32,
    },
    /// Written by a version of Penstock so old that this one cannot read it any more.
    #[error("has schema {found}, older than {SCHEMA}, the oldest that this version reads")]
    Older {
        /// Schema of the file.
        found: u32,
    },
    /// The end is missing, as after a crash while it was written.
    #[error("ends after {found} bytes of {expected}")]
    Truncated {
        /// Length that the file should have, or the header's where that is cut too.
        expected: u64,
        /// Length that it has.
        found: u64,
    },
    /// Something follows the end.
    #[error("goes on after its {expected} bytes to {found}")]
    Overlong {
        /// Length that the file should have.
        expected: u64,
        /// Length that it has.
        found: u64,
    },
    /// The bytes are not those that were written.
    #[error("is corrupt: the checksum does not fit the content")]
    Corrupt,
    /// The bytes are those that were written, but not by a sound version of Penstock.
    #[error("holds no protobuf message of the kind: {0}")]
    Undecodable(String),
    /// A resource that this version refuses, such as one of a kind that a newer version knows.
    #[error("holds a resource that is refused: {0}")]
    Refused(#[from] Flaw),
}

/// The file's bytes.
pub fn encode(parts: &Parts) -> Vec<u8> {
    let payload = wire::write_all(parts).encode_to_vec();
    let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&SCHEMA.to_le_bytes());
    bytes.extend_from_slice(&(payload.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&xxh3_128(&payload).to_le_bytes());
    bytes.extend_from_slice(&payload);
    bytes
}

/// Reads the file's bytes.
///
/// # Errors
/// Why they cannot be used. The sidecar then starts as if there were no file.
pub fn decode(bytes: &[u8]) -> Result<Parts, CacheError> {
    let Some((magic, rest)) = bytes.split_first_chunk() else { return Err(cut_header(bytes)) };
    if *magic != MAGIC {
        return Err(CacheError::Foreign);
    }
    let Some((schema, rest)) = rest.split_first_chunk() else { return Err(cut_header(bytes)) };
    match u32::from_le_bytes(*schema) {
        SCHEMA => {}
        found if found > SCHEMA => return Err(CacheError::Newer { found }),
        found => return Err(CacheError::Older { found }),
    }
    let Some((length, rest)) = rest.split_first_chunk() else { return Err(cut_header(bytes)) };
    let Some((checksum, payload)) = rest.split_first_chunk() else { return Err(cut_header(bytes)) };
    let expected = u64::from_le_bytes(*length).saturating_add(HEADER_BYTES as u64);
    let found = bytes.len() as u64;
    if found < expected {
        return Err(CacheError::Truncated { expected, found });
    }
    if found > expected {
        return Err(CacheError::Overlong { expected, found });
    }
    if xxh3_128(payload) != u128::from_le_bytes(*checksum) {
        return Err(CacheError::Corrupt);
    }
    let messages = SnapshotCache::decode(payload).map_err(|e| CacheError::Undecodable(e.to_string()))?;
    Ok(wire::read_all(messages)?)
}

fn cut_header(bytes: &[u8]) -> CacheError {
    CacheError::Truncated { expected: HEADER_BYTES as u64, found: bytes.len() as u64 }
}
