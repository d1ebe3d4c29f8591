//! Decided: what latency was promised.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::names::{BackendId, RouteId, SloId};

/// One LatencySLO.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Slo {
    /// Which SLO.
    pub id: SloId,
    /// What it is about.
    pub target: SloTarget,
    /// Rolling window over which targets are kept.
    pub window: Duration,
    /// In the order written; names are unique.
    pub objectives: Vec<Objective>,
    /// Whether thresholds are promises to each request: one that would break its own or another's is turned away.
    pub sheds: bool,
}

/// What an SLO is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum SloTarget {
    /// Requests that a route, or one rule of it, has matched.
    Route {
        /// The route.
        route: RouteId,
        /// Name of the rule; all rules where absent.
        rule: Option<Arc<str>>,
    },
    /// Requests that were sent to a backend.
    Backend(BackendId),
}

/// One promise: `target` of the requests are good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Objective {
    /// Its name.
    pub name: Arc<str>,
    /// What is measured.
    pub indicator: Indicator,
    /// A request is good up to and including this; absent for `Availability`.
    pub threshold: Option<Duration>,
    /// Share of good requests in millionths.
    pub target_millionths: u32,
    /// Only requests for this model.
    pub model: Option<Arc<str>>,
    /// Only streaming requests, or only others.
    pub streaming: Option<bool>,
}

/// What an objective measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum Indicator {
    /// Time to first token.
    Ttft,
    /// Time per output token.
    Tpot,
    /// Longest gap between tokens.
    Itl,
    /// Whole duration.
    E2e,
    /// Not failed.
    Availability,
}

impl Indicator {
    /// Upper bounds of the buckets of its histogram, ascending; none for `Availability`.
    ///
    /// TTFT: vLLM's, a superset of OpenTelemetry's. TPOT and ITL: OpenTelemetry's with three below and two above, since
    /// decoding has become faster than 10 ms a token. E2E: OpenTelemetry's with five above for long answers.
    pub fn bucket_bounds(self) -> &'static [Duration] {
        match self {
            Self::Ttft => &TTFT_BOUNDS,
            Self::Tpot | Self::Itl => &TOKEN_GAP_BOUNDS,
            Self::E2e => &DURATION_BOUNDS,
            Self::Availability => &[],
        }
    }
}

const TTFT_BOUNDS: [Duration; 22] = millis([
    1, 5, 10, 20, 40, 60, 80, 100, 250, 500, 750, 1_000, 2_500, 5_000, 7_500, 10_000, 20_000, 40_000, 80_000,
    160_000, 640_000, 2_560_000,
]);

const TOKEN_GAP_BOUNDS: [Duration; 18] = [
    Duration::from_millis(1),
    Duration::from_micros(2_500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(75),
    Duration::from_millis(100),
    Duration::from_millis(150),
    Duration::from_millis(200),
    Duration::from_millis(300),
    Duration::from_millis(400),
    Duration::from_millis(500),
    Duration::from_millis(750),
    Duration::from_millis(1_000),
    Duration::from_millis(2_500),
    Duration::from_millis(5_000),
    Duration::from_millis(10_000),
];

const DURATION_BOUNDS: [Duration; 19] = millis([
    10, 20, 40, 80, 160, 320, 640, 1_280, 2_560, 5_120, 10_240, 20_480, 40_960, 81_920, 163_840, 327_680,
    655_360, 1_310_720, 2_621_440,
]);

const fn millis<const N: usize>(numbers: [u64; N]) -> [Duration; N] {
    let mut bounds = [Duration::ZERO; N];
    let mut index = 0;
    while index < N {
        bounds[index] = Duration::from_millis(numbers[index]);
        index += 1;
    }
    bounds
}
