//! The constants of our cost and gate by name, so that they can be searched and tried.

use anyhow::{Context as _, Result};
use penstock_policy::pick::cost::Weights;

/// One constant.
pub struct Weight {
    /// As in the code.
    pub name: &'static str,
    /// Where it stands.
    pub place: fn(&mut Weights) -> &mut f64,
}

macro_rules! weights {
    ($($name:ident),* $(,)?) => {
        &[$(Weight { name: stringify!($name), place: |weights| &mut weights.$name }),*]
    };
}

/// All of them.
pub const WEIGHTS: &[Weight] = weights![
    others,
    crowd_sequences,
    spread,
    blocked_from_ms,
    answer_ms,
    kv_free,
    given_back_min,
    answer,
    harm,
    reserve_ms,
    margin_ms,
    margin_share,
    margin_least,
    refused_share
];

/// The place of a name among [`WEIGHTS`].
///
/// # Errors
/// A name that none has.
pub fn named(name: &str) -> Result<usize> {
    let names = || WEIGHTS.iter().map(|weight| weight.name).collect::<Vec<_>>().join(", ");
    WEIGHTS
        .iter()
        .position(|weight| weight.name == name)
        .with_context(|| format!("there is no constant `{name}`; there are {}", names()))
}

/// The chosen ones with others in some places.
pub fn with(others: &[(usize, f64)]) -> Weights {
    let mut weights = Weights::CHOSEN;
    for (place, value) in others {
        if let Some(weight) = WEIGHTS.get(*place) {
            *(weight.place)(&mut weights) = *value;
        }
    }
    weights
}
