//! More than the servers can do, and afterwards.

#![allow(clippy::unwrap_used, reason = "a test says so by failing")]

use penstock_engine::scheduler::Profile;
use penstock_policy::pick::cost::Weights;
use penstock_simulate::account::Account;
use penstock_simulate::capacity::capacity;
use penstock_simulate::outcome::Outcome;
use penstock_simulate::policy::Policy;
use penstock_simulate::prefix::Knowledge;
use penstock_simulate::slo::{Form, Slo};
use penstock_simulate::trace::{Load, Mix, Trace, arrivals, synthetic};
use penstock_simulate::world::{Setting, run};

const SECOND_NS: u64 = 1_000_000_000;
/// Seconds of a rate that is carried well, of overload, and of the first rate again.
const PARTS_S: [f64; 3] = [20.0, 60.0, 40.0];

fn setting() -> Setting {
    Setting {
        profile: Profile::named("8b-h100").unwrap(),
        backends: 4,
        sidecars: 64,
        age_ns: SECOND_NS,
        slow: None,
        noise: 0.05,
        slo: Slo::standard(Form::Deadline),
        weights: Weights::CHOSEN,
        seed: 1,
        attainment_min: 0.0,
        prefix: Knowledge::Precise,
        account: Account::Exact,
    }
}

fn mix(rate: f64, requests: usize) -> Mix {
    Mix { requests, rate, prompt_tokens_mean: 2_000.0, output_tokens_mean: 100.0, prefixes: 0 }
}

/// Requests at these rates, one after the other for [`PARTS_S`].
fn stepped(rates: [f64; 3], seed: u64) -> Trace {
    let count: f64 = PARTS_S.iter().zip(rates).map(|(span_s, rate)| span_s * rate).sum();
    let mut trace = synthetic(&mix(1.0, count as usize), seed);
    if let Load::Open(records) = &mut trace.load {
        for record in records {
            record.at_ms = (moment_s(record.at_ms as f64 / 1e3, rates) * 1e3) as u64;
        }
    }
    trace
}

/// When so many requests have come.
fn moment_s(requests: f64, rates: [f64; 3]) -> f64 {
    let (mut left, mut at_s) = (requests, 0.0);
    for (span_s, rate) in PARTS_S.iter().zip(rates) {
        if left <= span_s * rate {
            return at_s + left / rate;
        }
        left -= span_s * rate;
        at_s += span_s;
    }
    at_s + left / rates[2]
}

/// What became of the requests that arrived between these seconds, at the turns of `seed`.
fn between(rates: [f64; 3], from_s: f64, until_s: f64, seed: u64) -> Outcome {
    let mut schedule = arrivals(&stepped(rates, seed), 1.0, seed);
    schedule.from_ns = (from_s * 1e9) as u64;
    schedule.until_ns = (until_s * 1e9) as u64;
    run(&schedule, Setting { seed, ..setting() }, Policy::LeastCost).unwrap()
}

#[test]
fn goodput_holds_through_a_minute_of_overload_and_five_seconds_later_nothing_is_left_of_it() {
    let carried = capacity(&synthetic(&mix(20.0, 2_000), 1), setting(), Policy::LeastCost).unwrap().outcome;
    let calm = carried.rate * 0.7;
    let over = carried.rate * 1.5;
    let surge = between([calm, over, calm], 20.0, 80.0, 1);
    let good = surge.kept as f64 / 60.0;
    assert!(good >= 0.9 * carried.rate, "{good}/s of {over}/s are good, {}/s at capacity", carried.rate);
    // Of some thousand requests of one seed a hundredth more or less is luck.
    let mean = |rates| (1..=4).map(|seed| between(rates, 85.0, 115.0, seed).attainment()).sum::<f64>() / 4.0;
    let [after, never] = [[calm, over, calm], [calm; 3]].map(mean);
    assert!(after >= never - 0.01, "{after} after the overload, {never} without it");
}
