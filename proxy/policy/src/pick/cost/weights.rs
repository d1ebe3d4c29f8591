//! The constants of the cost and of the gate: all that was chosen, in one place.
//!
//! They are chosen over the development traces together, none for one of them, by `simulate --search` (`benches/simulate`).

/// What terms weigh against each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weights {
    /// Weight of what a placement costs others against what it costs its own caller.
    pub others: f64,
    /// Sequences that make a placement twice as dear as on an engine without any.
    pub crowd_sequences: f64,
    /// How much of what others are expected to send is spread for.
    pub spread: f64,
    /// Milliseconds of waiting that are no sign of anything.
    pub blocked_from_ms: f64,
    /// Milliseconds that an answer takes, where none has ended yet.
    pub answer_ms: f64,
    /// Share of the KV memory that is to stay free.
    pub kv_free: f64,
    /// Share of what answers give back, when they end, that is not taken by those who go on, at least.
    pub given_back_min: f64,
    /// Weight of what an answer's own steps take from the others against what its prompt takes: they are spread over many steps.
    pub answer: f64,
    /// Weight of each millisecond by which a prompt takes longer than those who are there can bear: it would be refused there, and a
    /// report that says so may be old.
    pub harm: f64,
    /// Milliseconds that those who are there keep to spare, for prompts that come later and steps that take longer than expected.
    pub reserve_ms: f64,
    /// Milliseconds that an endpoint may be worse than it was believed to be before it refuses what would be in time, at most.
    pub margin_ms: f64,
    /// And this share of what its caller has said that the first token may take: who gave much time loses little by waiting.
    pub margin_share: f64,
    /// Share of these two that is left where nearly nobody is refused.
    pub margin_least: f64,
    /// Refusals for each request for which the margin is as long as it is, between its bounds.
    pub refused_share: f64,
}

impl Weights {
    /// Those in use.
    ///
    /// Chosen by sweeps of seed 1 over the development traces together; `simulate --search` goes over them and found nothing that is
    /// better with a second seed as well. The sensitivities of `others` (less than a point of attainment at capacity between 0.5 and 4),
    /// `kv_free` (decode-bound reasoning alone: 0.1 keeps 95.9 %, none 92.3 %) and
    /// `answer` (half of it is a point better than none on chat) were measured before the gate knew [`Promises`](crate::gate::Promises).
    /// `spread` of 1 is what others are expected to send; at 85 % load half of it, 2 and 4 are within 5 % of its times to the first token, and
    /// none is 10 to 80 % above with reports of 1 s.
    /// `given_back_min` keeps a division in bounds and was not searched. `reserve_ms` of 100 carries 1 to 3 % more than 50 on code and
    /// reasoning and 0.8 % less on chat with many callers, on the others the same (seeds 1 and 2); 200 costs 3 % there, and 20 a tenth on
    /// code. It is also what a real machine needs that stands still for some tens of milliseconds now and then. Where requests wait at the
    /// [`Door`](crate::gate::Door), a fixed `margin_ms` of 800 to 1,000 saves a fifth to a third of the refusals and costs 2 to 4 % of the
    /// capacity on reasoning and chat, 100 doubles the refusals; `margin_share` of 0.4 instead of 0.2 costs half a point of attainment at
    /// capacity on reasoning. What is left of both is learned ([`Margin`](crate::gate::Margin)). Of `refused_share` 0.05, 0.15, 0.2 and 0.25 (1 s old reports, 85 % load, three seeds) the
    /// first token's p99 becomes on chat 642, 486, 441 and 424 ms, on chat with many callers 294, 200, 193 and 180 ms, on reasoning 741, 653,
    /// 584 and 556 ms; the others move by less than 5 %, and attainment at capacity by less than half a point. At half load refusals
    /// of 0.25 are above 0.05 a request on chat; `margin_least` of 0.1 instead of 0.15 makes them 0.064 there instead of 0.049.
    pub const CHOSEN: Self = Self {
        others: 2.0,
        crowd_sequences: 16.0,
        spread: 1.0,
        blocked_from_ms: 100.0,
        answer_ms: 6_000.0,
        kv_free: 0.1,
        given_back_min: 0.1,
        answer: 0.5,
        harm: 10.0,
        reserve_ms: 100.0,
        margin_ms: 400.0,
        margin_share: 0.2,
        margin_least: 0.15,
        refused_share: 0.2,
    };
}
