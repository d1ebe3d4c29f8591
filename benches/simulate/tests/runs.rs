//! Whole runs on a small synthetic trace.

#![allow(clippy::unwrap_used, reason = "a test says so by failing")]

use penstock_engine::scheduler::Profile;
use penstock_policy::pick::cost::Weights;
use penstock_simulate::account::Account;
use penstock_simulate::capacity::{ATTAINMENT, at, capacity};
use penstock_simulate::policy::Policy;
use penstock_simulate::prefix::Knowledge;
use penstock_simulate::slo::{Form, Slo};
use penstock_simulate::trace::{Mix, Trace, arrivals, synthetic};
use penstock_simulate::world::{Setting, Slow, run};

const SECOND_NS: u64 = 1_000_000_000;

fn trace() -> Trace {
    let mix = Mix {
        requests: 1_500,
        rate: 6.0,
        prompt_tokens_mean: 8_000.0,
        output_tokens_mean: 60.0,
        prefixes: 6,
    };
    synthetic(&mix, 1)
}

fn setting() -> Setting {
    Setting {
        profile: Profile::named("8b-h100").unwrap(),
        backends: 4,
        sidecars: 8,
        age_ns: SECOND_NS / 20,
        prefix: Knowledge::Precise,
        account: Account::Exact,
        slow: None,
        noise: 0.05,
        slo: Slo::standard(Form::Deadline),
        weights: Weights::CHOSEN,
        seed: 1,
        attainment_min: 0.0,
    }
}

fn named(name: &str) -> Policy {
    name.parse().unwrap()
}

/// Its rules are greedy, and a choice that was worse when it was made may turn out better: two of these thousand requests.
const LUCK: f64 = 0.002;

#[test]
fn the_oracle_never_scores_below_any_other_policy() {
    let trace = trace();
    let slow = Some(Slow { every: 4, speed: 0.5 });
    for (scale, setting) in
        [(1.8, setting()), (2.4, setting()), (1.7, Setting { slow, seed: 2, ..setting() })]
    {
        let oracle = at(&trace, setting, Policy::Oracle, scale).unwrap();
        assert!(
            (0.3..0.985).contains(&oracle.outcome.attainment()),
            "{}: a load that tells policies apart",
            oracle.outcome.attainment()
        );
        for policy in Policy::all() {
            let other = at(&trace, setting, policy, scale).unwrap().outcome.attainment();
            let best = oracle.outcome.attainment();
            assert!(
                best >= other - LUCK,
                "{policy} at {scale}: {other}, the oracle ({:?}) {best}",
                oracle.reference
            );
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_one_another() {
    let schedule = arrivals(&trace(), 0.7, 1);
    for policy in Policy::all() {
        let once = |seed| run(&schedule, Setting { seed, ..setting() }, policy).unwrap();
        assert_eq!(once(3), once(3), "{policy}");
        assert_ne!(once(3), once(4), "{policy}");
    }
}

#[test]
fn every_request_is_answered_and_counted_once() {
    let schedule = arrivals(&trace(), 0.7, 1);
    let expected =
        schedule.arrivals.iter().filter(|arrival| arrival.at_ns >= schedule.from_ns).count() as u64;
    for policy in Policy::all() {
        let outcome = run(&schedule, setting(), policy).unwrap();
        assert_eq!(outcome.counted, expected, "{policy}");
        assert_eq!(outcome.rejected + outcome.to_first_ms.len() as u64, expected, "{policy}");
        assert!(outcome.to_first_ms[0] >= 6.0, "front end and network: {}", outcome.to_first_ms[0]);
    }
}

#[test]
fn sidecars_that_learn_how_fast_servers_are_do_nearly_as_well_as_if_they_knew() {
    let slow = Some(Slow { every: 4, speed: 0.5 });
    let kept = |account| {
        let setting = Setting { slow, account, ..setting() };
        at(&trace(), setting, named("least-cost"), 1.5).unwrap().outcome.attainment()
    };
    let [known, learned] = [Account::Exact, Account::Ledger].map(kept);
    assert!(known > 0.9 && learned > known - 0.03, "known {known}, learned {learned}");
}

#[test]
fn capacity_lies_where_the_promise_begins_to_be_broken() {
    let trace = trace();
    for name in ["random", "central-lmetric", "oracle"] {
        let found = capacity(&trace, setting(), named(name)).unwrap();
        assert!(found.outcome.attainment() >= ATTAINMENT);
        let beyond = at(&trace, setting(), named(name), found.scale * 1.2).unwrap();
        assert!(beyond.outcome.attainment() < ATTAINMENT, "{name}");
    }
}

#[test]
fn more_routers_with_older_reports_do_worse_and_central_ones_do_not_care() {
    let trace = trace();
    let attained = |name: &str, sidecars, age_ns| {
        at(&trace, Setting { sidecars, age_ns, ..setting() }, named(name), 0.5).unwrap().outcome.attainment()
    };
    assert!(attained("lmetric", 1, 0) > attained("lmetric", 64, 5 * SECOND_NS) + 0.05);
    assert!(attained("p2c", 1, 0) > attained("p2c", 64, 0) + 0.01);
    let central = attained("central-lmetric", 1, 0);
    assert!((central - attained("central-lmetric", 64, 5 * SECOND_NS)).abs() < f64::EPSILON);
}

#[test]
fn digests_find_nearly_all_that_is_known_exactly() {
    let trace = trace();
    for (sidecars, age_ns) in [(1, 0), (8, SECOND_NS), (64, 5 * SECOND_NS)] {
        let hit = |prefix| {
            let setting = Setting { sidecars, age_ns, prefix, ..setting() };
            let once = at(&trace, setting, named("least-cost"), 0.5).unwrap().outcome;
            assert_eq!(once, at(&trace, setting, named("least-cost"), 0.5).unwrap().outcome);
            once.prefix_hit()
        };
        let (precise, digest) = (hit(Knowledge::Precise), hit(Knowledge::Digest));
        assert!(precise > 0.1, "{precise}");
        assert!(digest >= 0.95 * precise, "{digest} of {precise}, {sidecars} sidecars, {age_ns} ns");
    }
    let others = |prefix| at(&trace, Setting { prefix, ..setting() }, named("lmetric"), 0.5).unwrap().outcome;
    assert_eq!(others(Knowledge::Precise), others(Knowledge::Digest), "only ours reads digests");
}

#[test]
fn a_trace_that_can_never_be_served_has_no_capacity() {
    let mix =
        Mix { requests: 600, rate: 5.0, prompt_tokens_mean: 100.0, output_tokens_mean: 20.0, prefixes: 0 };
    let hopeless = Setting { slo: Slo { first_ns: 1, prompt_token_ns: 0, ..setting().slo }, ..setting() };
    let error = capacity(&synthetic(&mix, 1), hopeless, named("random")).unwrap_err();
    assert!(error.to_string().contains("at any load"), "{error}");
}
