//! The door to randomness: nothing else in this package draws.

use std::cell::Cell;

use rustls::crypto::aws_lc_rs;

/// Bytes from the system's generator.
///
/// # Errors
/// When the system has no entropy to give.
pub(crate) fn bytes<const N: usize>() -> Result<[u8; N], NoEntropy> {
    let mut drawn = [0; N];
    aws_lc_rs::default_provider().secure_random.fill(&mut drawn).map_err(|_| NoEntropy)?;
    Ok(drawn)
}

thread_local! {
    static SIMULATED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// From here on all jitter on this thread follows from `seed`. Keys, tokens and serial numbers never do.
pub fn simulate(seed: u64) {
    SIMULATED.set(Some(seed));
}

/// A share from 0 (included) to 1 (not included), for jitter; one half when the system has no entropy to give.
pub(crate) fn share() -> f64 {
    let drawn = match SIMULATED.get() {
        Some(state) => {
            SIMULATED.set(Some(state.wrapping_add(GOLDEN)));
            Ok(mixed(state.wrapping_add(GOLDEN)))
        }
        None => bytes().map(u64::from_be_bytes),
    };
    drawn.map_or(0.5, |drawn| (drawn >> 11) as f64 / (1_u64 << 53) as f64)
}

/// SplitMix64, by Steele, Lea and Flood: a counter and this.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

fn mixed(mut state: u64) -> u64 {
    state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

/// The system's generator failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the system's random generator gave nothing")]
pub(crate) struct NoEntropy;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_simulation_draws_the_same_again_and_tokens_stay_secret() {
        let shares = |seed| {
            simulate(seed);
            [(); 4].map(|()| share())
        };
        let (one, again, other) = (shares(7), shares(7), shares(8));
        assert_eq!(one, again);
        assert_ne!(one, other);
        assert!(one.iter().all(|share| (0.0..1.0).contains(share)), "{one:?}");
        assert_ne!(bytes::<32>().unwrap(), bytes::<32>().unwrap());
        SIMULATED.set(None);
    }
}
