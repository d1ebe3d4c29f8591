//! Keys of a trust domain, and fingerprints under them.

use std::fmt;
use std::hash::Hasher as _;

use siphasher::sip::SipHasher24;

use super::Boundary;

/// A key under which fingerprints are made and compared.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PrefixKey {
    id: u32,
    secret: [u8; 16],
}

impl PrefixKey {
    /// A key; `id` tells the keys of a trust domain apart and is no secret.
    #[must_use]
    pub const fn new(id: u32, secret: [u8; 16]) -> Self {
        Self { id, secret }
    }

    /// Which key it is.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Of a hash. Never 0, which [`Index`](super::Index) needs for empty places.
    pub(super) fn fingerprint(&self, hash: u64) -> u32 {
        let mut hasher = SipHasher24::new_with_key(&self.secret);
        hasher.write(&hash.to_le_bytes());
        ((hasher.finish() >> 32) as u32).max(1)
    }
}

impl fmt::Debug for PrefixKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrefixKey({})", self.id)
    }
}

/// The keys that are valid at a time.
///
/// A key comes as `also` everywhere before any sidecar sends under it, and stays as `also` until none sends under it any more: then a
/// sidecar that heard of the change early and one that heard late understand each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keys {
    /// Own digests are made under this one.
    pub sending: PrefixKey,
    /// Digests of others may be under this one as well.
    pub also: Option<PrefixKey>,
}

impl Keys {
    /// One key alone.
    #[must_use]
    pub fn only(key: PrefixKey) -> Self {
        Self { sending: key, also: None }
    }

    /// Which keys they are, the one that is sent under first.
    pub fn ids(&self) -> impl Iterator<Item = u32> {
        [Some(self.sending), self.also].into_iter().flatten().map(|key| key.id)
    }
}

/// A prompt as it is looked up: made once for a request, asked of every server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    tokens_max: u32,
    tokens: Vec<u32>,
    fingerprints: [Option<(u32, Vec<u32>)>; 2],
}

impl Asked {
    /// A prompt of so many tokens. Of no server are all of them found: the last one must be computed.
    #[must_use]
    pub fn new(prompt: &[Boundary], tokens: u32, keys: &Keys) -> Self {
        let under = |key: PrefixKey| {
            (key.id, prompt.iter().map(|boundary| key.fingerprint(boundary.hash)).collect::<Vec<_>>())
        };
        Self {
            tokens_max: tokens.saturating_sub(1),
            tokens: prompt.iter().map(|boundary| boundary.tokens).collect(),
            fingerprints: [Some(under(keys.sending)), keys.also.map(under)],
        }
    }

    /// Fingerprints under a key; none if it is not valid here.
    pub(super) fn under(&self, key: u32) -> &[u32] {
        let found = self.fingerprints.iter().flatten().find(|(id, _)| *id == key);
        found.map_or(&[], |(_, fingerprints)| fingerprints)
    }

    /// Tokens before the end of so many blocks.
    pub(super) fn tokens(&self, blocks: usize) -> u32 {
        let end = blocks.checked_sub(1).and_then(|last| self.tokens.get(last));
        end.copied().unwrap_or_default().min(self.tokens_max)
    }
}
