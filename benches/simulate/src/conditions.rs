//! Under which conditions a result was found: what was asked for beside trace, policy, seed and how many of everything.
//!
//! They stand in each line. Lines of before they did so were found under the usual ones, as far as anybody can tell.

use std::collections::BTreeMap;

use penstock_policy::pick::cost::Weights;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::account::Account;
use crate::flags::{NOISE, PROFILE};
use crate::policy::Policy;
use crate::prefix::Knowledge;
use crate::slo::Form;
use crate::weights::WEIGHTS;
use crate::world::Setting;

/// See the module.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Conditions {
    /// Model and hardware of the servers.
    pub profile: String,
    /// Slower servers, as the flag has them.
    pub slow: Option<String>,
    /// How ours knows prefix caches.
    pub prefix: Knowledge,
    /// What the sidecars beside the servers know of them, with ours.
    pub account: Account,
    /// How the time between tokens is promised.
    pub slo: Form,
    /// Sigma of the noise on step times.
    pub noise: f64,
    /// Constants of our cost and gate that are not the chosen ones.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub weights: BTreeMap<String, f64>,
}

impl Default for Conditions {
    fn default() -> Self {
        Self {
            profile: PROFILE.to_owned(),
            slow: None,
            prefix: Knowledge::default(),
            account: Account::default(),
            slo: Form::default(),
            noise: NOISE,
            weights: BTreeMap::new(),
        }
    }
}

impl Conditions {
    /// Those of a setting.
    pub fn of(setting: &Setting) -> Self {
        let (mut asked, mut chosen) = (setting.weights, Weights::CHOSEN);
        let others = WEIGHTS.iter().filter_map(|weight| {
            let value = *(weight.place)(&mut asked);
            (value != *(weight.place)(&mut chosen)).then(|| (weight.name.to_owned(), value))
        });
        Self {
            profile: setting.profile.name.to_owned(),
            slow: setting.slow.map(|slow| slow.to_string()),
            prefix: setting.prefix,
            account: setting.account,
            slo: setting.slo.form,
            noise: setting.noise,
            weights: others.collect(),
        }
    }

    /// Those of them that make a difference to a policy: only ours learns what others just know.
    pub fn that_matter_to(self, policy: &str) -> Self {
        if policy.parse().is_ok_and(Policy::is_ours) {
            return self;
        }
        Self { prefix: Knowledge::default(), account: Account::default(), ..self }
    }

    /// What is not as usual, in words; empty where all is.
    pub fn label(&self) -> String {
        let [asked, usual] =
            [self, &Self::default()].map(|all| serde_json::to_value(all).unwrap_or_default());
        let unusual = |(name, value): (&String, &Value)| {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            (usual.get(name) != Some(value)).then(|| format!("{name} {text}"))
        };
        asked.as_object().into_iter().flatten().filter_map(unusual).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::flags::Flags;

    fn asked(flags: &str) -> Conditions {
        let flags = format!("simulate --trace t --policy random --capacity {flags}");
        Conditions::of(&Flags::parse_from(flags.split_whitespace()).setting().unwrap())
    }

    #[test]
    fn what_is_asked_for_stands_in_the_line_and_only_what_is_unusual_in_its_label() {
        for (flags, label) in [
            ("", ""),
            ("--profile 8b-h100 --noise 0.05 --prefix precise --account exact --slo deadline", ""),
            ("--account ledger --slow 4:0.5", "account ledger, slow 4:0.5"),
            ("--prefix digest --slo mean --noise 0", "noise 0.0, prefix digest, slo mean"),
            ("--weights others=7", r#"weights {"others":7.0}"#),
        ] {
            let conditions = asked(flags);
            assert_eq!(conditions.label(), label, "{flags}");
            let text = serde_json::to_string(&conditions).unwrap();
            assert_eq!(serde_json::from_str::<Conditions>(&text).unwrap(), conditions, "{text}");
        }
    }

    #[test]
    fn a_line_of_before_was_found_under_the_usual_conditions() {
        let line = r#"{"policy":"random","seed":1,"capacity":3.5}"#;
        assert_eq!(serde_json::from_str::<Conditions>(line).unwrap(), asked(""));
    }

    #[test]
    fn what_only_ours_has_to_learn_makes_no_difference_to_others() {
        let learned = asked("--account ledger --prefix digest --slow 2:0.5");
        assert_eq!(learned.clone().that_matter_to("least-cost"), learned);
        for policy in ["random", "oracle"] {
            assert_eq!(learned.clone().that_matter_to(policy).label(), "slow 2:0.5");
        }
    }
}
