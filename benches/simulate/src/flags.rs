//! The command line.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use penstock_engine::scheduler::{PROFILES, Profile};

use crate::account::Account;
use crate::decision::Case;
use crate::policy::Policy;
use crate::prefix::Knowledge;
use crate::slo::{Form, Slo};
use crate::weights;
use crate::world::{Setting, Slow};

/// Model and hardware of the servers, if not asked for.
pub const PROFILE: &str = "8b-h100";
/// Sigma of the noise on step times, if not asked for.
pub const NOISE: f64 = 0.05;

/// Routing policies against simulated model servers, by events.
#[derive(Clone, Debug, Parser)]
#[command(name = "simulate")]
#[command(group(clap::ArgGroup::new("what").required(true).args(["load", "capacity", "scale", "search", "decision", "matrix"])))]
pub struct Flags {
    /// Traces: JSON lines, plain or gzipped.
    #[arg(long, required_unless_present = "decision", num_args = 1.., value_name = "FILE")]
    pub trace: Vec<PathBuf>,
    /// Model and hardware of the servers.
    #[arg(long, default_value = PROFILE)]
    pub profile: String,
    /// Servers.
    #[arg(long, default_value_t = 8, value_name = "N")]
    pub backends: usize,
    /// Sidecars of callers.
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub sidecars: usize,
    /// How long a sidecar lives with one reading of the reports, as `50ms`, `1s` or `0s`.
    #[arg(long, default_value = "50ms", value_parser = age_ns, value_name = "DURATION")]
    pub age: u64,
    /// How `least-cost` knows the servers' prefix caches.
    #[arg(long, value_enum, default_value = "precise", value_name = "HOW")]
    pub prefix: Knowledge,
    /// What the sidecars beside the servers know of them, with `least-cost`.
    #[arg(long, value_enum, default_value = "exact", value_name = "HOW")]
    pub account: Account,
    /// Policies.
    #[arg(long, required_unless_present_any = ["search", "decision", "matrix"], value_delimiter = ',', value_name = "NAME")]
    pub policy: Vec<Policy>,
    /// Run at this share of the oracle's capacity.
    #[arg(long, value_name = "SHARE")]
    pub load: Option<f64>,
    /// Search the highest load at which 95 % keep the promise.
    #[arg(long)]
    pub capacity: bool,
    /// Search better constants of our cost and gate over all the traces; one JSON object a line for each point.
    #[arg(long)]
    pub search: bool,
    /// Search the capacities of all policies, or of those named, with 1, 8 and 64 sidecars and reports of all ages; adds to the file what
    /// is not in it, and shows it as a table.
    #[arg(long, value_name = "FILE")]
    pub matrix: Option<PathBuf>,
    /// Seeds of the matrix, from 1.
    #[arg(long, default_value_t = 5, value_name = "N")]
    pub seeds: u64,
    /// Measure how long one decision takes, over 64 and 1,024 endpoints.
    #[arg(long)]
    pub decision: bool,
    /// Count the instructions of one decision instead; needs valgrind.
    #[arg(long, requires = "decision")]
    pub instructions: bool,
    /// Decide without measuring, within valgrind.
    #[arg(
        long,
        hide = true,
        requires = "decision",
        conflicts_with = "instructions",
        value_name = "ENDPOINTS:NOTES"
    )]
    pub counted: Option<Case>,
    /// Run with the trace's time compressed by this factor.
    #[arg(long, value_name = "FACTOR")]
    pub scale: Option<f64>,
    /// Every Nth server runs at this speed, as `4:0.5`.
    #[arg(long, value_parser = slow, value_name = "N:SPEED")]
    pub slow: Option<Slow>,
    /// Sigma of the lognormal noise on step times.
    #[arg(long, default_value_t = NOISE, value_name = "SIGMA")]
    pub noise: f64,
    /// How the time between tokens is promised.
    #[arg(long, value_enum, default_value = "deadline")]
    pub slo: Form,
    /// Seed of everything that is drawn.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
    /// Other constants of our cost and gate, as `others=1,kv_free=0.05`.
    #[arg(long, value_delimiter = ',', value_parser = weight, value_name = "NAME=VALUE")]
    pub weights: Vec<(usize, f64)>,
    /// One JSON object a line instead of a table.
    #[arg(long)]
    pub json: bool,
}

impl Flags {
    /// What the runs happen in.
    ///
    /// # Errors
    /// A value with which nothing can run; the message says which and what is allowed.
    pub fn setting(&self) -> Result<Setting> {
        let names = || PROFILES.iter().map(|profile| profile.name).collect::<Vec<_>>().join(", ");
        let profile = Profile::named(&self.profile)
            .with_context(|| format!("--profile {}: there are {}", self.profile, names()))?;
        ensure!(self.backends > 0, "--backends must be at least 1");
        ensure!(self.sidecars > 0, "--sidecars must be at least 1");
        for (flag, value) in [("--load", self.load), ("--scale", self.scale)] {
            let usable = value.is_none_or(|value| value.is_finite() && value > 0.0);
            ensure!(usable, "{flag} must be a number above 0");
        }
        ensure!(self.noise.is_finite() && self.noise >= 0.0, "--noise must be a number of at least 0");
        Ok(Setting {
            profile,
            backends: self.backends,
            sidecars: self.sidecars,
            age_ns: self.age,
            prefix: self.prefix,
            account: self.account,
            slow: self.slow,
            noise: self.noise,
            slo: Slo::standard(self.slo),
            weights: weights::with(&self.weights),
            seed: self.seed,
            attainment_min: 0.0,
        })
    }
}

/// Nanoseconds of a duration such as `50ms`.
///
/// # Errors
/// When it is none, or longer than 584 years.
pub fn age_ns(text: &str) -> Result<u64> {
    let span: penstock_model::units::Span = text.parse()?;
    Ok(u64::try_from(span.duration().as_nanos())?)
}

fn slow(text: &str) -> Result<Slow> {
    let Some((every, speed)) = text.split_once(':') else { bail!("expected N:SPEED, as `4:0.5`") };
    let (every, speed) = (every.parse().context("N")?, speed.parse::<f64>().context("SPEED")?);
    ensure!(every > 0, "N must be at least 1");
    ensure!(speed.is_finite() && speed > 0.0, "SPEED must be a number above 0");
    Ok(Slow { every, speed })
}

fn weight(text: &str) -> Result<(usize, f64)> {
    let Some((name, value)) = text.split_once('=') else { bail!("expected NAME=VALUE, as `others=1`") };
    let place = weights::named(name)?;
    let value = value.parse::<f64>().context("VALUE")?;
    ensure!(value.is_finite() && value >= 0.0, "VALUE must be a number of at least 0");
    Ok((place, value))
}
