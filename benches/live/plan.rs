//! What will arrive when and where, and what the simulator says will come of it.

use anyhow::Context;
use penstock_benches::clock;
use penstock_engine::scheduler::{PROFILES, Profile};
use penstock_simulate::account::Account;
use penstock_simulate::capacity::capacity;
use penstock_simulate::outcome::Outcome;
use penstock_simulate::policy::Policy;
use penstock_simulate::prefix::Knowledge;
use penstock_simulate::slo::{Form, Slo};
use penstock_simulate::trace::{Schedule, Trace, arrivals, read};
use penstock_simulate::weights;
use penstock_simulate::world::{Setting, callers, run};

use crate::flags::Asked;

/// Sigma of the noise on step times, of the engines and of the simulated ones.
pub(crate) const NOISE: f64 = 0.05;

/// See the module.
pub(crate) struct Plan {
    pub(crate) trace: Trace,
    pub(crate) setting: Setting,
    pub(crate) schedule: Schedule,
    /// Which sidecar each arrival comes through.
    pub(crate) callers: Vec<u32>,
    /// Requests, or session starts, a second that the simulator's mesh carries, if that was asked.
    pub(crate) capacity: Option<f64>,
}

impl Plan {
    /// The plan of what was asked. Searching a capacity takes some seconds.
    ///
    /// # Errors
    /// A trace that cannot be read, a profile that does not exist, a trace that fills these servers at no load.
    pub(crate) fn of(asked: &Asked) -> anyhow::Result<Self> {
        let trace = read(asked.trace.as_deref().context("--trace is missing")?)?;
        let setting = setting(asked)?;
        let (scale, capacity) = match (asked.scale, asked.load) {
            (Some(scale), _) => (scale, None),
            (None, load) => {
                let found = capacity(&trace, setting, Policy::LeastCost)?;
                (found.scale * load.unwrap_or(1.0), Some(found.outcome.rate))
            }
        };
        let schedule = arrivals(&trace, scale, asked.seed).until(clock::nanos(asked.seconds));
        let callers = callers(&schedule, setting.sidecars, asked.seed);
        Ok(Self { trace, setting, schedule, callers, capacity })
    }

    /// What the simulator makes of it, where the sidecars beside the servers know them so.
    ///
    /// # Errors
    /// A setting with which no engine can be made.
    pub(crate) fn simulated(&self, policy: Policy, account: Account) -> anyhow::Result<Outcome> {
        // Another router is one.
        let sidecars = if policy == Policy::LeastCost { self.setting.sidecars } else { 1 };
        run(&self.schedule, Setting { sidecars, account, ..self.setting }, policy)
    }
}

fn setting(asked: &Asked) -> anyhow::Result<Setting> {
    let names = || PROFILES.iter().map(|profile| profile.name).collect::<Vec<_>>().join(", ");
    let profile = Profile::named(&asked.profile)
        .with_context(|| format!("--profile {}: there are {}", asked.profile, names()))?;
    Ok(Setting {
        profile,
        backends: asked.backends.into(),
        sidecars: asked.sidecars.into(),
        age_ns: asked.age,
        prefix: Knowledge::Digest,
        account: Account::Exact,
        slow: None,
        noise: NOISE,
        slo: Slo::standard(Form::Deadline),
        weights: weights::with(&[]),
        seed: asked.seed,
        attainment_min: 0.0,
    })
}
