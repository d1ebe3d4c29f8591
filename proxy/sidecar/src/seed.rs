//! The door to randomness.

use rand::{Rng, RngCore};

/// 64 random bits, from a generator of this thread.
pub(crate) fn draw() -> u64 {
    rand::rng().next_u64()
}

/// A number from 0 up to, not including, 1.
pub(crate) fn share() -> f64 {
    rand::rng().random()
}

/// A UUID of version 4 as text.
pub(crate) fn uuid() -> String {
    let bits = rand::rng().random::<u128>();
    let bits = (bits & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_says_its_version_and_variant() {
        for _ in 0..100 {
            let id = uuid();
            let bytes = id.as_bytes();
            assert_eq!((id.len(), bytes[14]), (36, b'4'), "{id}");
            assert!(matches!(bytes[19], b'8' | b'9' | b'a' | b'b'), "{id}");
        }
    }
}
