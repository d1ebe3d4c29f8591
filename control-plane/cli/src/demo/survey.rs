//! What engines and sidecars say about themselves at one moment.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::mesh::Places;
use crate::fetch::HttpClient;

/// The counter of connections with mutual TLS, on a sidecar's metrics page.
const TLS_CONNECTIONS: &str = "penstock_tls_connections_total{";

/// All of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Survey {
    /// In the order of the engines.
    pub(super) engines: Vec<EngineNow>,
    pub(super) tls: Tls,
}

/// One engine, and what the callers' sidecars have sent there.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct EngineNow {
    /// Attempts that callers' sidecars sent there.
    pub(super) requests: u64,
    /// Those of them that have not ended.
    pub(super) in_flight: u64,
    /// Sequences in the batch.
    pub(super) running: u64,
    /// Sequences in the queue.
    pub(super) waiting: u64,
    /// Share of the KV cache that running sequences hold.
    pub(super) kv_share: f64,
    /// Of the requests that it has taken so far.
    pub(super) prompt_tokens: u64,
    /// Those of them that came from the prefix cache.
    pub(super) prompt_tokens_cached: u64,
    /// Output tokens so far.
    pub(super) tokens: u64,
    /// Requests that the engine answered to the end.
    pub(super) finished: u64,
    /// Requests that the engine gave up because their caller had left.
    pub(super) aborted: u64,
}

impl Survey {
    /// What engines have done since `before`; what they hold, and connections, are those of this moment.
    pub(super) fn since(&self, before: &Self) -> Self {
        let engines = self.engines.iter().enumerate().map(|(index, now)| match before.engines.get(index) {
            Some(before) => now.since(before),
            None => now.clone(),
        });
        Self { engines: engines.collect(), tls: self.tls.clone() }
    }
}

impl EngineNow {
    /// Share of prompt tokens that came from the prefix cache.
    pub(super) fn cached_share(&self) -> Option<f64> {
        share(self.prompt_tokens_cached, self.prompt_tokens)
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(before.requests),
            prompt_tokens: self.prompt_tokens.saturating_sub(before.prompt_tokens),
            prompt_tokens_cached: self.prompt_tokens_cached.saturating_sub(before.prompt_tokens_cached),
            tokens: self.tokens.saturating_sub(before.tokens),
            finished: self.finished.saturating_sub(before.finished),
            aborted: self.aborted.saturating_sub(before.aborted),
            ..*self
        }
    }
}

fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// Connections between sidecars, as the callers' ends count them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tls {
    pub(super) connections: u64,
    pub(super) versions: BTreeSet<String>,
    pub(super) key_exchanges: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Stats {
    running: u64,
    waiting: u64,
    kv_blocks_used: u64,
    kv_blocks_total: u64,
    prompt_tokens: u64,
    prompt_tokens_cached: u64,
    generation_tokens: u64,
    finished_requests: u64,
    aborted_requests: u64,
}

#[derive(Deserialize)]
struct Clusters {
    backends: Vec<Cluster>,
}

#[derive(Deserialize)]
struct Cluster {
    endpoints: Vec<Endpoint>,
}

#[derive(Deserialize)]
struct Endpoint {
    endpoint: String,
    inflight: u64,
    requests: u64,
}

/// Asks everybody.
///
/// # Errors
/// When somebody does not answer.
pub(super) async fn survey(client: &HttpClient, places: &Places) -> anyhow::Result<Survey> {
    let mut sent: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    let mut tls = Tls::default();
    for caller in &places.callers {
        let clusters: Clusters = caller.admin.get(client, "/clusters").await?;
        for endpoint in clusters.backends.into_iter().flat_map(|backend| backend.endpoints) {
            let (requests, in_flight) = sent.entry(endpoint.endpoint).or_default();
            *requests += endpoint.requests;
            *in_flight += endpoint.inflight;
        }
        let (_, page) = caller.admin.page(client, "/metrics").await?;
        tls.add(&String::from_utf8_lossy(&page));
    }
    let mut engines = Vec::new();
    for engine in &places.engines {
        let stats: Stats = engine.site.get(client, "/admin/stats").await?;
        let (requests, in_flight) = sent.get(&engine.address).copied().unwrap_or_default();
        engines.push(stats.now(requests, in_flight));
    }
    Ok(Survey { engines, tls })
}

impl Stats {
    fn now(&self, requests: u64, in_flight: u64) -> EngineNow {
        EngineNow {
            requests,
            in_flight,
            running: self.running,
            waiting: self.waiting,
            kv_share: share(self.kv_blocks_used, self.kv_blocks_total).unwrap_or_default(),
            prompt_tokens: self.prompt_tokens,
            prompt_tokens_cached: self.prompt_tokens_cached,
            tokens: self.generation_tokens,
            finished: self.finished_requests,
            aborted: self.aborted_requests,
        }
    }
}

impl Tls {
    /// Adds what the metrics page of one caller's sidecar says of the connections that it has opened.
    fn add(&mut self, page: &str) {
        for line in page.lines() {
            let Some((labels, value)) =
                line.strip_prefix(TLS_CONNECTIONS).and_then(|rest| rest.rsplit_once('}'))
            else {
                continue;
            };
            let label = |name: &str| {
                labels
                    .split(',')
                    .find_map(|pair| pair.strip_prefix(name)?.strip_prefix("=\"")?.strip_suffix('"'))
            };
            if label("direction") != Some("outbound") {
                continue;
            }
            self.connections += value.trim().parse::<u64>().unwrap_or_default();
            self.versions.extend(label("version").map(str::to_owned));
            self.key_exchanges.extend(label("key_exchange").map(str::to_owned));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_counted_on_the_callers_side_alone() {
        let page = "# TYPE penstock_tls_connections_total counter\n\
            penstock_tls_connections_total{direction=\"outbound\",key_exchange=\"X25519MLKEM768\",version=\"TLSv1.3\"} 4\n\
            penstock_tls_connections_total{direction=\"outbound\",key_exchange=\"X25519\",version=\"TLSv1.3\"} 1\n\
            penstock_tls_connections_total{direction=\"inbound\",key_exchange=\"X25519\",version=\"TLSv1.2\"} 9\n\
            penstock_tls_refusals_total{direction=\"outbound\",reason=\"expired\"} 7\n";
        let mut tls = Tls::default();
        tls.add(page);
        tls.add(page);
        assert_eq!(tls.connections, 10);
        assert_eq!(tls.versions, ["TLSv1.3".to_owned()].into());
        assert_eq!(tls.key_exchanges, ["X25519".to_owned(), "X25519MLKEM768".to_owned()].into());
    }

    #[test]
    fn shares_are_absent_where_there_is_nothing_to_share() {
        let stats = |prompt_tokens| Stats {
            running: 2,
            waiting: 1,
            kv_blocks_used: 5,
            kv_blocks_total: 20,
            prompt_tokens,
            prompt_tokens_cached: 25,
            generation_tokens: 7,
            finished_requests: 6,
            aborted_requests: 0,
        };
        let now = stats(100).now(9, 3);
        assert_eq!((now.requests, now.in_flight, now.kv_share, now.cached_share()), (9, 3, 0.25, Some(0.25)));
        assert_eq!(stats(0).now(0, 0).cached_share(), None);
    }

    #[test]
    fn a_difference_counts_what_was_done_and_keeps_what_is_held() {
        let engine = |done: u64, held: u64| EngineNow {
            requests: done,
            prompt_tokens: 10 * done,
            prompt_tokens_cached: 5 * done - held,
            tokens: 3 * done,
            finished: done,
            aborted: done,
            running: held,
            waiting: held,
            in_flight: held,
            kv_share: 0.5,
        };
        let survey = |done, held| Survey { engines: vec![engine(done, held)], tls: Tls::default() };
        let mut expected = survey(40, 2);
        expected.engines[0].prompt_tokens_cached = 5 * 40 + 4 - 2;
        assert_eq!(survey(50, 2).since(&survey(10, 4)), expected);
        assert_eq!(survey(50, 2).since(&Survey::default()), survey(50, 2));
    }
}
