//! Ours divided by the peer's: the only figures that mean something on another machine.

use serde_json::{Map, Value, json};

use crate::measure::{Cell, Figures};
use crate::results::Results;
use crate::scenario::{Contender, Scenario};
use penstock_benches::route::Hops;

/// One ratio: its name, what is measured, and which figure.
type Row = (&'static str, Scenario, Hops, fn(&Figures) -> f64);

const ROWS: [Row; 8] = [
    ("two_hop_small_cpu_per_request", Scenario::H1Sat, Hops::Two, |round| round.cpu_ms_per_thousand),
    ("two_hop_small_rps", Scenario::H1Sat, Hops::Two, |round| round.per_second),
    ("two_hop_sse_cpu_per_chunk", Scenario::SsePaced, Hops::Two, |round| round.cpu_ms_per_thousand),
    ("one_hop_small_cpu_per_request", Scenario::H1Sat, Hops::One, |round| round.cpu_ms_per_thousand),
    ("two_hop_rate_cpu_per_request", Scenario::H1Rate, Hops::Two, |round| round.cpu_ms_per_thousand),
    ("two_hop_sse_2ms_cpu_per_chunk", Scenario::Sse2ms, Hops::Two, |round| round.cpu_ms_per_thousand),
    ("idle_stream_bytes", Scenario::Idle, Hops::Two, stream_bytes),
    ("idle_memory", Scenario::Idle, Hops::Two, |round| round.memory_before.resident as f64),
];

/// Bytes that one open stream adds.
pub(crate) fn stream_bytes(round: &Figures) -> f64 {
    round.memory_after.resident.saturating_sub(round.memory_before.resident) as f64 / round.units
}

/// Ratios by peer and name; null where one of both was not measured.
pub(crate) fn all(results: &Results) -> Value {
    let mut peers = Map::new();
    for peer in Contender::PEERS {
        let ratios: Map<String, Value> =
            ROWS.iter().map(|row| (row.0.to_owned(), json!(ratio(results, peer, row)))).collect();
        peers.insert(peer.name().to_owned(), ratios.into());
    }
    peers.into()
}

fn ratio(results: &Results, peer: Contender, &(_, scenario, hops, figure): &Row) -> Option<f64> {
    let median = |contender| Some(results.spread(Cell { scenario, hops, contender }, figure)?.median);
    divided(median(Contender::Ours)?, median(peer)?)
}

fn divided(ours: f64, peers: f64) -> Option<f64> {
    (peers > 0.0).then(|| (ours / peers * 1_000.0).round() / 1_000.0)
}
