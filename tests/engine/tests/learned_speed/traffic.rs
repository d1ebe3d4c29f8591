//! Requests and their arrivals, drawn from a fixed seed.

use std::collections::VecDeque;

use penstock_engine::scheduler::Request;

use crate::drive::BLOCK_TOKENS;

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mix {
    /// Prompts of some 700 tokens (lognormal, sigma 0.9), answers of 150.
    Chat,
    /// Two thirds chat, a tenth prompts of 16,000 tokens and up to 90,000, and a quarter with one of twelve shared beginnings.
    Mixed,
}

pub(crate) fn requests(count: u64, mix: Mix) -> Vec<Request> {
    let mut draw = Draw { state: 7 };
    (0..count).map(|id| request(id, mix, &mut draw)).collect()
}

fn request(id: u64, mix: Mix, draw: &mut Draw) -> Request {
    let kind = draw.unit();
    // Tokens of prompt and answer, which shared beginning, and its blocks.
    let (prompt, output, shared, blocks) = match mix {
        Mix::Chat => (draw.lognormal(700.0, 0.9), draw.lognormal(150.0, 0.8), 0, 0),
        Mix::Mixed if kind < 0.65 => (draw.lognormal(600.0, 0.9), draw.lognormal(150.0, 0.7), 0, 0),
        Mix::Mixed if kind < 0.75 => (draw.lognormal(16_000.0, 0.9), draw.lognormal(200.0, 0.7), 0, 0),
        Mix::Mixed => {
            let which = draw.next() % 12;
            let own = draw.lognormal(250.0, 0.7);
            let blocks = which + 2;
            (f64::from(BLOCK_TOKENS) * blocks as f64 + own, draw.lognormal(120.0, 0.7), which + 1, blocks)
        }
    };
    let prompt_tokens = (prompt as u32).clamp(8, 90_000);
    let hash = |at: u64| if at < blocks { shared << 32 | at } else { 1 << 60 | id << 20 | at };
    Request {
        id,
        prompt_tokens,
        block_hashes: (0..u64::from(prompt_tokens / BLOCK_TOKENS)).map(hash).collect(),
        output_tokens_max: (output as u32).clamp(2, 2_000),
    }
}

/// Nanoseconds at which the requests come, `rate` a second and independent of each other.
pub(crate) fn arrivals(requests: Vec<Request>, rate: f64) -> VecDeque<(u64, Request)> {
    let (mut draw, mut at) = (Draw { state: 8 }, 0.0);
    requests
        .into_iter()
        .map(|request| {
            at -= draw.unit().ln() * 1e9 / rate;
            (at as u64, request)
        })
        .collect()
}

/// SplitMix64.
struct Draw {
    state: u64,
}

impl Draw {
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Uniform in (0, 1).
    fn unit(&mut self) -> f64 {
        ((self.next() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    fn lognormal(&mut self, median: f64, sigma: f64) -> f64 {
        let normal = (-2.0 * self.unit().ln()).sqrt() * (std::f64::consts::TAU * self.unit()).cos();
        median * (sigma * normal).exp()
    }
}
