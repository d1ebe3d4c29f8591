//! Small traces made from a seed, for tests: Poisson arrivals, long-tailed prompts, some of them with a prefix in common.

use crate::draw::{Draws, Purpose};

use super::{BLOCK_TOKENS, Load, Record, Trace};

/// What a synthetic trace is like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mix {
    /// Requests in it.
    pub requests: usize,
    /// Requests a second.
    pub rate: f64,
    /// Mean tokens of a prompt.
    pub prompt_tokens_mean: f64,
    /// Mean tokens of an answer.
    pub output_tokens_mean: f64,
    /// How many prefixes of eight blocks the prompts share; 0 for none.
    pub prefixes: usize,
}

/// The trace of a mix and a seed.
pub fn synthetic(mix: &Mix, seed: u64) -> Trace {
    let mut draws = Draws::new(seed, Purpose::Traces);
    let mut at_s = 0.0;
    let records = (0..mix.requests as u64)
        .map(|number| {
            at_s += draws.exponential() / mix.rate;
            let prompt_tokens = size(&mut draws, mix.prompt_tokens_mean);
            let output_tokens = size(&mut draws, mix.output_tokens_mean);
            let prefix = draws.below(mix.prefixes) as u64;
            let count = if mix.prefixes == 0 { 0 } else { u64::from(prompt_tokens / BLOCK_TOKENS) };
            let blocks = (0..count)
                .map(|at| if at < 8 { prefix * 8 + at } else { 1_000_000 + number * 1_000 + at })
                .collect();
            Record { at_ms: (at_s * 1e3) as u64, prompt_tokens, output_tokens, blocks }
        })
        .collect();
    Trace { name: "synthetic".to_owned(), checksum: String::new(), load: Load::Open(records) }
}

/// The square of an exponential has a tail as prompts have; half its mean is its scale.
fn size(draws: &mut Draws, mean: f64) -> u32 {
    let drawn = draws.exponential();
    (mean * drawn * drawn / 2.0).clamp(1.0, 100_000.0) as u32
}
