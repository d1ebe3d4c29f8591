//! `penstock demo --compare`: the same requests by three ways to choose an engine, one after the other, side by side at the end.
//!
//! Nothing is restarted between them: the mesh is given changed documents and follows. What one run leaves behind must not help the
//! next one, so each has a salt of its own, under which no engine has anything cached. Connections and what sidecars have learned of
//! their engines' speed do stay; a warm-up that is not counted makes both, so that the first run has them too.

use std::time::Duration;

use serde::Serialize;

use super::mesh::{Mesh, Places};
use super::tally::Quantiles;
use super::traffic::{
    self, DOCUMENT_EVERY, DOCUMENT_TOKENS, Mix, PROMISED, PROMISED_PER_TOKEN, Plan, Shown, TIMES_FASTER,
};
use super::written::Balance;
use crate::fetch::HttpClient;
use crate::output::{self, Cell, Colour, Ink};

/// What is in force when the mesh comes up.
pub(super) const FIRST: Balance = Balance::RoundRobin;
/// With the salt of its runs.
const RUNS: [(Balance, &str); 3] =
    [(FIRST, "run-1"), (Balance::LeastRequest, "run-2"), (Balance::LeastCost, "run-3")];
const WARM_UP: Duration = Duration::from_secs(3);

/// The result. Names and units of its fields are a promise to scripts.
#[derive(Debug, Serialize)]
pub(super) struct Comparison {
    #[serde(rename = "apiVersion")]
    api_version: &'static str,
    kind: &'static str,
    /// How long requests were sent in each run.
    planned_s: f64,
    /// In the order in which they ran.
    policies: Vec<Run>,
    /// With mutual TLS, over all runs.
    connections: u64,
}

/// What one policy came to.
#[derive(Debug, Serialize)]
struct Run {
    /// As a BackendPolicy has it.
    policy: &'static str,
    /// Of the documents that said so.
    version: String,
    requests: u64,
    answered: u64,
    /// Answers that a caller sees as failed, those that did not end in time included.
    errors: u64,
    /// Refused for load.
    shed: u64,
    /// Share of all requests whose first token came within the promise, 0 to 1.
    in_time: f64,
    ttft_ms: Quantiles,
    tpot_ms: Quantiles,
    /// From the first request to the last byte.
    duration_s: f64,
    backends: Vec<Taken>,
    /// The first few different reasons of errors.
    error_reasons: Vec<String>,
}

/// What one engine did in a run.
#[derive(Debug, Serialize)]
struct Taken {
    name: String,
    profile: &'static str,
    /// Requests that it took, answered to the end or not.
    requests: u64,
    /// Output tokens.
    tokens: u64,
}

/// Runs all policies. [`FIRST`] is in force, as the version that `sent` has beside the time of each run.
///
/// # Errors
/// When a child ends, or the mesh does not follow.
pub(super) async fn run(
    client: &HttpClient,
    mesh: &mut Mesh,
    places: &Places,
    sent: (Duration, String),
    told: impl Fn(&str),
) -> anyhow::Result<Comparison> {
    let (planned, mut version) = sent;
    told(&format!("warming up for {} s, which is not counted", WARM_UP.as_secs()));
    let warm_up = Plan { mix: Mix::HeavyTail { salt: "warm-up" }, planned: WARM_UP, version: &version };
    traffic::run(client, mesh, places, warm_up).await?;
    let mut runs = Vec::new();
    let mut connections = 0;
    for (balance, salt) in RUNS {
        if balance != FIRST {
            version = mesh.publish(client, places, balance).await?;
        }
        told(&format!("{}: {}; version {version}", balance.name(), balance.words()));
        let plan = Plan { mix: Mix::HeavyTail { salt }, planned, version: &version };
        let shown = traffic::run(client, mesh, places, plan).await?;
        connections = shown.survey.tls.connections;
        runs.push(Run::new(balance, &version, shown, places));
    }
    Ok(Comparison::new(planned, runs, connections))
}

impl Run {
    fn new(balance: Balance, version: &str, shown: Shown, places: &Places) -> Self {
        let Shown { tally, survey, duration } = shown;
        let backends = places.engines.iter().zip(&survey.engines).map(|(engine, did)| Taken {
            name: engine.name.clone(),
            profile: engine.profile,
            requests: did.finished + did.aborted,
            tokens: did.tokens,
        });
        let share = tally.in_time as f64 / tally.ended().max(1) as f64;
        Self {
            policy: balance.name(),
            version: version.to_owned(),
            requests: tally.ended(),
            answered: tally.answered,
            errors: tally.errors,
            shed: tally.shed,
            in_time: (share * 1e4).round() / 1e4,
            ttft_ms: tally.first_token_ms(),
            tpot_ms: tally.per_token_ms(),
            duration_s: (duration.as_secs_f64() * 100.0).round() / 100.0,
            backends: backends.collect(),
            error_reasons: tally.reasons,
        }
    }

    fn row(&self) -> Vec<Cell> {
        let plain = |text: String| Cell::new(Ink::Plain, text);
        let count =
            |number: u64, ink| Cell::new(if number > 0 { ink } else { Ink::Plain }, number.to_string());
        let ms = |value: Option<f64>| plain(value.map_or_else(|| "–".to_owned(), |ms| format!("{ms:.1} ms")));
        let taken: Vec<String> = self.backends.iter().map(|taken| taken.requests.to_string()).collect();
        vec![
            Cell::new(Ink::Bold, self.policy),
            plain(self.requests.to_string()),
            plain(self.answered.to_string()),
            count(self.shed, Ink::Yellow),
            count(self.errors, Ink::Red),
            plain(format!("{:.1}%", self.in_time * 100.0)),
            ms(self.ttft_ms.p50),
            ms(self.ttft_ms.p99),
            ms(self.tpot_ms.p50),
            ms(self.tpot_ms.p99),
            plain(taken.join(" ")),
        ]
    }
}

const HEAD: [&str; 11] = [
    "POLICY",
    "REQUESTS",
    "ANSWERED",
    "REFUSED",
    "FAILED",
    "IN TIME",
    "TTFT P50",
    "TTFT P99",
    "TPOT P50",
    "TPOT P99",
    "BY ENGINE",
];

impl Comparison {
    fn new(planned: Duration, policies: Vec<Run>, connections: u64) -> Self {
        let (api_version, kind) = ("penstock.dev/v1alpha1", "DemoComparison");
        Self { api_version, kind, planned_s: planned.as_secs_f64(), policies, connections }
    }

    /// One line.
    ///
    /// # Errors
    /// A build defect.
    pub(super) fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string(self)
    }

    /// What is not as it should be; nothing when all is well. Who was best is no fault.
    pub(super) fn fault(&self) -> Option<String> {
        let failed = self.policies.iter().find(|run| run.errors > 0).map(|run| {
            let reasons = run.error_reasons.join("\n  ");
            format!("{}: {} of {} requests failed:\n  {reasons}", run.policy, run.errors, run.requests)
        });
        let unanswered = || {
            let run = self.policies.iter().find(|run| run.answered == 0)?;
            Some(format!("{}: no request was answered; give it longer with --for", run.policy))
        };
        let in_clear = || {
            let fault = "no connection between sidecars had mutual TLS";
            (self.connections == 0).then(|| fault.to_owned())
        };
        failed.or_else(unanswered).or_else(in_clear)
    }

    /// The table, what it means and how it came about.
    pub(super) fn words(&self, colour: Colour) -> String {
        let rows: Vec<_> = self.policies.iter().map(Run::row).collect();
        format!(
            "\nSide by side\n\n{}\n\
             \x20 In time: of all requests, those whose first token came within {} ms and {} ms more for each token of the prompt.\n\
             \x20 By engine: requests that each took; the last one is like an A100, the others like an H100. A 99th percentile of\n\
             \x20 few requests is nearly the worst of them: repeat with a longer --for before you believe a small difference.\n\n\
             {}\n\
             What was sent\n\
             \x20 Each time the same requests at the same moments, for {} s: arrivals and lengths of a real service (Azure's public\n\
             \x20 trace), {TIMES_FASTER} times as fast; one prompt in {DOCUMENT_EVERY} has a document of {DOCUMENT_TOKENS} tokens with it. Callers come whether or\n\
             \x20 not others have been answered. The A100 reads a prompt in three times the time of an H100; no document says so.\n\
             \x20 One mesh, given other documents between the runs. Prompts were in no cache when a run began. Sidecars keep what\n\
             \x20 they have learned of engines' speed, and {} s of traffic went before that are not counted.\n\
             \nNo GPU was used: the engines simulate one, on published figures. All processes and files are gone again.\n",
            output::table(colour, &HEAD, &rows),
            PROMISED.as_millis(),
            PROMISED_PER_TOKEN.as_secs_f64() * 1_000.0,
            self.verdict(),
            self.planned_s,
            WARM_UP.as_secs(),
        )
    }

    /// Who was best in what, as it was measured.
    fn verdict(&self) -> String {
        let late = |run: &Run| Some(1.0 - run.in_time);
        let most_in_time = self.lowest(late);
        let ttft = self.lowest(|run| run.ttft_ms.p99);
        let tpot = self.lowest(|run| run.tpot_ms.p99);
        let mut text = String::from("Best on this run\n");
        let mut lost = Vec::new();
        for (what, best) in
            [("most in time", most_in_time), ("lowest TTFT p99", ttft), ("lowest TPOT p99", tpot)]
        {
            if !best.contains(&Balance::LeastCost.name()) {
                lost.push(what);
            }
            let best = if best.is_empty() { "nobody".to_owned() } else { best.join(", ") };
            text.push_str(&format!("  {:<16}  {best}\n", format!("{what}:")));
        }
        if !lost.is_empty() {
            let name = Balance::LeastCost.name();
            text.push_str(&format!("  {name} was not best in: {}.\n", lost.join(", ")));
        }
        text
    }

    /// Those with the lowest figure; several when it is the same.
    fn lowest(&self, figure: impl Fn(&Run) -> Option<f64>) -> Vec<&'static str> {
        let lowest = self.policies.iter().filter_map(&figure).min_by(f64::total_cmp);
        let is_lowest = |run: &&Run| lowest.is_some() && figure(run) == lowest;
        self.policies.iter().filter(is_lowest).map(|run| run.policy).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::request::{Ending, Outcome};
    use super::super::survey::{EngineNow, Survey};
    use super::super::tally::Tally;
    use super::*;

    const PROMISE: Duration = Duration::from_millis(600);

    fn run(balance: Balance, endings: &[(Ending, u64)]) -> Run {
        let mut tally = Tally::new().unwrap();
        for (ending, first_ms) in endings {
            let first_token = Some(Duration::from_millis(*first_ms)).filter(|_| *ending == Ending::Answered);
            let per_token = first_token.map(|first| first / 10);
            tally.record(Outcome { ending: ending.clone(), tokens: 5, first_token, per_token }, PROMISE);
        }
        let did = |finished, aborted| EngineNow { finished, aborted, tokens: 90, ..EngineNow::default() };
        let survey = Survey { engines: vec![did(2, 0), did(30, 1)], ..Survey::default() };
        let places = Places::of_engines(&["engine-1", "engine-2"]);
        Run::new(
            balance,
            "3f2a91bc",
            Shown { tally, survey, duration: Duration::from_millis(20_456) },
            &places,
        )
    }

    fn three(last: &[(Ending, u64)]) -> Comparison {
        let runs = vec![
            run(Balance::RoundRobin, &[(Ending::Answered, 90), (Ending::Answered, 1_700)]),
            run(Balance::LeastRequest, &[(Ending::Answered, 80), (Ending::Answered, 400)]),
            run(Balance::LeastCost, last),
        ];
        Comparison::new(Duration::from_secs(20), runs, 8)
    }

    #[test]
    fn three_rows_and_what_they_mean() {
        let comparison = three(&[(Ending::Answered, 70), (Ending::Answered, 300), (Ending::Shed, 0)]);
        output::golden("demo-compare.txt", &comparison.words(Colour::Off));
        assert_eq!(comparison.fault(), None);
    }

    #[test]
    fn the_verdict_is_what_was_measured_whoever_it_is() {
        let check = |last: &[u64], expected: [&str; 3], is_lost: bool| {
            let last: Vec<_> = last.iter().map(|ms| (Ending::Answered, *ms)).collect();
            let verdict = three(&last).verdict();
            let lines: Vec<_> = verdict.lines().collect();
            for (line, expected) in lines[1..4].iter().zip(expected) {
                assert_eq!(line.split_once(':').unwrap().1.trim(), expected, "{verdict}");
            }
            assert_eq!(lines.len() == 5, is_lost, "{verdict}");
        };
        check(&[70, 300], ["LeastRequest, LeastCost", "LeastCost", "LeastCost"], false);
        check(&[70, 800], ["LeastRequest"; 3], true);
        check(&[], ["LeastRequest"; 3], true);
    }

    #[test]
    fn the_object_has_the_fields_that_scripts_read() {
        let comparison = three(&[(Ending::Answered, 70), (Ending::Shed, 0)]);
        let object: Value = serde_json::from_str(&comparison.json().unwrap()).unwrap();
        let last = &object["policies"][2];
        let counts = ["requests", "answered", "errors", "shed"].map(|name| last[name].as_u64());
        assert_eq!(counts, [2, 1, 0, 1].map(Some));
        assert_eq!((&last["policy"], &last["in_time"]), (&json!("LeastCost"), &json!(0.5)));
        assert!((last["ttft_ms"]["p99"].as_f64().unwrap() - 70.0).abs() < 0.1);
        let taken = json!({"name": "engine-2", "profile": "8b-h100", "requests": 31, "tokens": 90});
        assert_eq!(last["backends"][1], taken);
        assert_eq!((&object["kind"], &object["planned_s"]), (&json!("DemoComparison"), &json!(20.0)));
    }

    #[test]
    fn all_is_well_only_with_answers_by_every_policy_mutual_tls_and_no_errors() {
        let fault = |last: &[(Ending, u64)]| three(last).fault();
        let failed = fault(&[(Ending::Answered, 70), (Ending::Failed("502: why".to_owned()), 0)]);
        assert_eq!(failed.unwrap(), "LeastCost: 1 of 2 requests failed:\n  502: why");
        assert!(fault(&[(Ending::Shed, 0)]).unwrap().contains("LeastCost: no request was answered"));
        let in_clear = Comparison { connections: 0, ..three(&[(Ending::Answered, 70)]) };
        assert!(in_clear.fault().unwrap().contains("mutual TLS"));
    }
}
