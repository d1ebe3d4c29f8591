//! The door to randomness: the system's, or a simulation's own on its thread.

use std::cell::RefCell;

use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};

thread_local! {
    static SIMULATED: RefCell<Option<StdRng>> = const { RefCell::new(None) };
}

/// From here on everything that is drawn on this thread follows from `seed`.
pub fn simulate(seed: u64) {
    SIMULATED.set(Some(StdRng::seed_from_u64(seed)));
}

fn with<T>(draw: impl FnOnce(&mut dyn RngCore) -> T) -> T {
    SIMULATED.with_borrow_mut(|simulated| match simulated {
        Some(simulated) => draw(simulated),
        None => draw(&mut rand::rng()),
    })
}

/// 64 random bits, from a generator of this thread.
pub(crate) fn draw() -> u64 {
    with(|generator| generator.next_u64())
}

/// A number from 0 up to, not including, 1.
pub(crate) fn share() -> f64 {
    with(|generator| generator.random())
}

/// A `sec-websocket-key`: 16 random bytes in base64.
pub(crate) fn websocket_key() -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |bits: u64| char::from(ALPHABET[usize::try_from(bits & 63).unwrap_or_default()]);
    let mut key: String = (0..21).map(|_| digit(draw())).collect();
    // The last digit carries two bits of the last byte.
    key.push(digit((draw() & 3) << 4));
    key + "=="
}

/// A UUID of version 4 as text.
pub(crate) fn uuid() -> String {
    let bits = with(|generator| generator.random::<u128>());
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

    #[test]
    fn a_simulation_draws_the_same_again() {
        let drawn = |seed| {
            simulate(seed);
            (draw(), share(), uuid())
        };
        assert_eq!(drawn(7), drawn(7));
        assert_ne!(drawn(7).0, drawn(8).0);
        SIMULATED.set(None);
    }
}
