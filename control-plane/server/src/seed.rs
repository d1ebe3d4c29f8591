//! The door to randomness: nothing else in this package draws.

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

/// A share from 0 (included) to 1 (not included), for jitter; one half when the system has no entropy to give.
pub(crate) fn share() -> f64 {
    bytes().map_or(0.5, |drawn| f64::from(u32::from_be_bytes(drawn)) / (f64::from(u32::MAX) + 1.0))
}

/// The system's generator failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the system's random generator gave nothing")]
pub(crate) struct NoEntropy;
