//! What the demo came to: one object for programs, a few plain words for people.

use std::time::Duration;

use serde::Serialize;

use super::mesh::{self, Places};
use super::survey::Tls;
use super::tally::Quantiles;
use super::traffic::Shown;
use super::view;
use crate::status::Status;

/// The result. Names and units of its fields are a promise to scripts.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    #[serde(rename = "apiVersion")]
    api_version: &'static str,
    kind: &'static str,
    /// Sent by callers.
    requests: u64,
    /// Answered to the end.
    answered: u64,
    /// Answers that a caller sees as failed, those that did not end in time included.
    errors: u64,
    /// Refused for load; the caller is told to come again.
    shed: u64,
    /// Callers that left in the middle of an answer, as they meant to.
    cancelled: u64,
    /// Those whose place in an engine was given free before the answer was over.
    freed: u64,
    /// From the intended start to the first generated text, as the caller sees it.
    ttft_ms: Quantiles,
    /// Mean of each answer's further tokens.
    tpot_ms: Quantiles,
    duration_s: f64,
    backends: Vec<Backend>,
    mtls: MutualTls,
    config: Config,
    /// The first few different reasons of errors.
    error_reasons: Vec<String>,
    #[serde(skip)]
    is_post_quantum: bool,
}

#[derive(Debug, Serialize)]
struct Backend {
    name: String,
    profile: &'static str,
    /// Attempts that callers' sidecars sent there.
    requests: u64,
    /// Output tokens.
    tokens: u64,
    /// Share of prompt tokens that came from the prefix cache, 0 to 1.
    prefix_hit: Option<f64>,
}

#[derive(Debug, Serialize)]
struct MutualTls {
    /// Opened by the callers' sidecars.
    connections: u64,
    version: String,
    key_exchange: String,
}

#[derive(Debug, Serialize)]
struct Config {
    version: String,
    sidecars: usize,
    sidecars_in_sync: usize,
}

impl Report {
    pub(super) fn new(shown: Shown, places: &Places, status: &Status) -> Self {
        let Shown { tally, survey, duration } = shown;
        let backends = places.engines.iter().zip(&survey.engines).map(|(engine, now)| Backend {
            name: engine.name.clone(),
            profile: engine.profile,
            requests: now.requests,
            tokens: now.tokens,
            prefix_hit: now.cached_share().map(|share| rounded(share, 4)),
        });
        Self {
            api_version: "penstock.dev/v1alpha1",
            kind: "DemoReport",
            requests: tally.ended(),
            answered: tally.answered,
            errors: tally.errors,
            shed: tally.shed,
            cancelled: tally.left,
            freed: survey.engines.iter().map(|engine| engine.aborted).sum(),
            ttft_ms: tally.first_token_ms(),
            tpot_ms: tally.per_token_ms(),
            duration_s: seconds(duration),
            backends: backends.collect(),
            is_post_quantum: view::is_post_quantum(&survey),
            mtls: MutualTls::of(&survey.tls),
            config: Config {
                version: status.config.version.clone().unwrap_or_default(),
                sidecars: places.sidecars(),
                sidecars_in_sync: mesh::in_sync(status),
            },
            error_reasons: tally.reasons,
        }
    }

    /// What is not as it should be; nothing when all is well.
    pub(super) fn fault(&self) -> Option<String> {
        if self.errors > 0 {
            let reasons = self.error_reasons.join("\n  ");
            return Some(format!("{} of {} requests failed:\n  {reasons}", self.errors, self.requests));
        }
        if self.answered == 0 {
            return Some("no request was answered; give it longer with --for".to_owned());
        }
        (self.mtls.connections == 0).then(|| "no connection between sidecars had mutual TLS".to_owned())
    }

    /// One line.
    ///
    /// # Errors
    /// A build defect.
    pub(super) fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string(self)
    }

    /// What was seen, in plain words.
    pub(super) fn words(&self) -> String {
        let ms = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |value| format!("{value:.1} ms"));
        let tokens: u64 = self.backends.iter().map(|backend| backend.tokens).sum();
        let shares: Vec<String> = self.backends.iter().map(|backend| backend.requests.to_string()).collect();
        let quantum = if self.is_post_quantum { " (post-quantum)" } else { "" };
        let left = format!(
            "  Of the callers {} left in the middle of an answer; {} places in engines were given free for it.\n",
            self.cancelled, self.freed
        );
        let left = if self.cancelled > 0 { left } else { String::new() };
        let Self { requests, answered, shed, errors, mtls, config, .. } = self;
        format!(
            "\nWhat you saw\n\
             \x20 {requests} chat completions of two callers, with the arrivals and lengths of a real service (Azure's public trace).\n\
             \x20 {answered} were answered, {shed} refused for load, {errors} failed. {tokens} tokens in {:.0} s.\n\
             {left}\
             \x20 First token after {} (median), {} (99th percentile); a further one every {}.\n\
             \x20 The engines got {} requests: the last one is a slower machine.\n\
             \x20 All between sidecars went through {} connections with mutual {}, keys agreed by {}{quantum}.\n\
             \x20 One YAML file, compiled to version {} and pushed: {} of {} sidecars have accepted it.\n\
             \nNo GPU was used: the engines simulate one, on published figures. All processes and files are gone again.\n\
             \nWhere to look next\n\
             \x20 README.md                 what it is, and a route in ten lines of YAML\n\
             \x20 penstock validate FILE…   what is wrong with documents, and how to mend it\n\
             \x20 penstock diff FILE…       what they would change\n\
             \x20 penstock status           which sidecar has accepted which version; try it while the demo runs\n",
            self.duration_s,
            ms(self.ttft_ms.p50),
            ms(self.ttft_ms.p99),
            ms(self.tpot_ms.p50),
            shares.join(", "),
            mtls.connections,
            mtls.version,
            mtls.key_exchange,
            config.version,
            config.sidecars_in_sync,
            config.sidecars,
        )
    }
}

impl MutualTls {
    fn of(tls: &Tls) -> Self {
        let joined =
            |set: &std::collections::BTreeSet<String>| set.iter().cloned().collect::<Vec<_>>().join(", ");
        Self {
            connections: tls.connections,
            version: joined(&tls.versions),
            key_exchange: joined(&tls.key_exchanges),
        }
    }
}

fn seconds(duration: Duration) -> f64 {
    rounded(duration.as_secs_f64(), 2)
}

fn rounded(value: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (value * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::request::{Ending, Outcome};
    use super::super::survey::{EngineNow, Survey};
    use super::super::tally::Tally;
    use super::*;
    use crate::output;

    fn report(endings: &[Ending], connections: u64) -> Report {
        let mut tally = Tally::new().unwrap();
        for ending in endings {
            let first_token = Some(Duration::from_millis(60));
            let per_token = Some(Duration::from_millis(9));
            let outcome = Outcome { ending: ending.clone(), tokens: 5, first_token, per_token };
            tally.record(outcome, Duration::ZERO);
        }
        let engine = EngineNow {
            requests: 61,
            tokens: 9_000,
            prompt_tokens: 1_000_000,
            prompt_tokens_cached: 123_456,
            aborted: 1,
            ..EngineNow::default()
        };
        let tls = Tls {
            connections,
            versions: ["TLSv1.3".to_owned()].into(),
            key_exchanges: ["X25519MLKEM768".to_owned()].into(),
        };
        let survey = Survey { engines: vec![engine.clone(), engine], tls };
        let status: Status = serde_json::from_value(json!({
            "config": {"version": "3f2a91bc00112233", "valid": true, "since": null, "findings": []},
            "sidecars": [
                {"node": "caller-1.demo", "identity": null, "connected": true, "in_sync": true, "version": null, "types": {}},
                {"node": "other.team", "identity": null, "connected": true, "in_sync": true, "version": null, "types": {}},
            ],
        }))
        .unwrap();
        let places = Places::of_engines(&["engine-1", "engine-2"]);
        Report::new(Shown { tally, survey, duration: Duration::from_millis(20_456) }, &places, &status)
    }

    #[test]
    fn the_object_has_the_fields_that_scripts_read() {
        let endings =
            [Ending::Answered, Ending::Answered, Ending::Left, Ending::Shed, Ending::Failed("x".to_owned())];
        let object: Value = serde_json::from_str(&report(&endings, 8).json().unwrap()).unwrap();
        let counts =
            ["requests", "answered", "errors", "shed", "cancelled"].map(|name| object[name].as_u64());
        assert_eq!(counts, [5, 2, 1, 1, 1].map(Some));
        assert!((object["ttft_ms"]["p99"].as_f64().unwrap() - 60.0).abs() < 0.1);
        assert!((object["tpot_ms"]["p50"].as_f64().unwrap() - 9.0).abs() < 0.1);
        assert_eq!(object["duration_s"], 20.46);
        assert_eq!(
            object["backends"][1],
            json!({"name": "engine-2", "profile": "8b-h100", "requests": 61, "tokens": 9_000, "prefix_hit": 0.1235})
        );
        assert_eq!(
            object["mtls"],
            json!({"connections": 8, "version": "TLSv1.3", "key_exchange": "X25519MLKEM768"})
        );
        assert_eq!(
            object["config"],
            json!({"version": "3f2a91bc00112233", "sidecars": 0, "sidecars_in_sync": 1})
        );
    }

    #[test]
    fn all_is_well_only_with_answers_mutual_tls_and_no_errors() {
        let fault = |endings: &[Ending], connections| report(endings, connections).fault();
        assert_eq!(fault(&[Ending::Answered, Ending::Shed, Ending::Left], 8), None);
        let failed = fault(&[Ending::Answered, Ending::Failed("502: why".to_owned())], 8).unwrap();
        assert_eq!(failed, "1 of 2 requests failed:\n  502: why");
        assert!(fault(&[Ending::Shed], 8).unwrap().contains("no request was answered"));
        assert!(fault(&[Ending::Answered], 0).unwrap().contains("mutual TLS"));
    }

    #[test]
    fn the_last_words_are_plain() {
        let endings = [Ending::Answered, Ending::Left, Ending::Left];
        output::golden("demo-words.txt", &report(&endings, 8).words());
    }
}
