//! Which of a rule's backends takes a request.

use std::fmt;

use penstock_model::names::BackendId;
use penstock_model::snapshot::{Rule, Snapshot, WeightedBackend};

use crate::place;

/// Draws one of the rule's backends in proportion to their weights. `draw` is uniform over all values.
///
/// A backend that the snapshot does not hold keeps its share, and that share is refused: giving it to the others would hide a
/// misspelt name, and send a canary's requests where nobody meant them to go.
///
/// # Errors
/// See [`NoBackend`].
pub fn split<'r>(snapshot: &Snapshot, rule: &'r Rule, draw: u64) -> Result<&'r WeightedBackend, NoBackend> {
    let total = rule.backends.iter().map(|backend| u64::from(backend.weight)).sum();
    let mut point = place(draw, total);
    for backend in &rule.backends {
        let weight = u64::from(backend.weight);
        if point < weight {
            let known = snapshot.backend(&backend.backend).is_some();
            return if known { Ok(backend) } else { Err(NoBackend::Unknown(backend.backend.clone())) };
        }
        point -= weight;
    }
    Err(NoBackend::Weightless)
}

/// Why a matched rule leads to no backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoBackend {
    /// The rule has no backend with a weight above 0: 500 `invalid_backend`.
    Weightless,
    /// The snapshot does not hold it, perhaps not yet: 503 `no_backend`.
    Unknown(BackendId),
}

impl fmt::Display for NoBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Weightless => f.write_str("the rule has no backend with a weight above 0"),
            Self::Unknown(backend) => write!(f, "the rule's Backend {backend} is not known, or not yet"),
        }
    }
}

impl std::error::Error for NoBackend {}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use penstock_model::snapshot::{Backend, Outside, Parts, Protocol};
    use proptest::prelude::*;

    use super::*;

    fn snapshot(names: &[&str]) -> Snapshot {
        let mut parts = Parts::default();
        for name in names {
            let id = BackendId::new("default", *name);
            let backend = Backend {
                id: id.clone(),
                hostnames: vec![],
                is_default: false,
                protocol: Protocol::Http,
                identity: None,
                outside: Outside::default(),
            };
            parts.backends.insert(id, Arc::new(backend));
        }
        Snapshot::assemble(parts)
    }

    fn rule(weights: &[u32]) -> Rule {
        let backends = weights.iter().enumerate().map(|(index, &weight)| WeightedBackend {
            backend: BackendId::new("default", format!("b{index}")),
            weight,
            filters: vec![],
        });
        Rule {
            name: "0".into(),
            matches: vec![],
            filters: vec![],
            backends: backends.collect(),
            timeout_request: None,
            timeout_backend_request: None,
        }
    }

    fn check(weights: &[u32], draw: f64, expected: Result<&str, &NoBackend>) {
        let (snapshot, rule) = (snapshot(&["b0", "b1", "b2"]), rule(weights));
        let drawn = split(&snapshot, &rule, (draw * 2f64.powi(64)) as u64);
        assert_eq!(drawn.as_ref().map(|b| &*b.backend.0.name), expected, "{weights:?} at {draw}");
    }

    #[test]
    fn each_backend_takes_the_share_of_its_weight() {
        check(&[1], 0.999, Ok("b0"));
        check(&[1, 3], 0.249, Ok("b0"));
        check(&[1, 3], 0.251, Ok("b1"));
        check(&[0, 1, 0], 0.0, Ok("b1"));
        check(&[0, 1, 0], 0.999, Ok("b1"));
        check(&[1_000_000, 1_000_000, 1_000_000], 0.67, Ok("b2"));
    }

    #[test]
    fn a_rule_without_weight_leads_nowhere() {
        check(&[], 0.5, Err(&NoBackend::Weightless));
        check(&[0, 0], 0.5, Err(&NoBackend::Weightless));
    }

    #[test]
    fn the_share_of_an_unknown_backend_is_refused_and_not_given_to_others() {
        let unknown = NoBackend::Unknown(BackendId::new("default", "b3"));
        check(&[1, 1, 1, 1], 0.76, Err(&unknown));
        check(&[1, 1, 1, 1], 0.74, Ok("b2"));
    }

    proptest! {
        #[test]
        fn evenly_spaced_draws_give_shares_exact_to_one(weights in prop::collection::vec(0u32..50, 1..4)) {
            let total: u32 = weights.iter().sum();
            prop_assume!(total > 0);
            let (snapshot, rule) = (snapshot(&["b0", "b1", "b2"]), rule(&weights));
            let mut taken = vec![0u32; weights.len()];
            for nth in 0..total {
                // The middle of the nth of `total` equal parts of all draws.
                let draw = ((u128::from(nth) * 2 + 1) << 63) / u128::from(total);
                let backend = split(&snapshot, &rule, u64::try_from(draw).unwrap()).unwrap();
                taken[rule.backends.iter().position(|b| b.backend == backend.backend).unwrap()] += 1;
            }
            prop_assert_eq!(taken, weights);
        }
    }
}
