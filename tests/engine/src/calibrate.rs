//! The check of the cost model against a published table: a closed loop over the scheduler, by events.
//!
//! Oracle Cloud publishes milliseconds per output token for Llama-3.3-70B with prompts of 480 ± 240 tokens and
//! outputs of 300 ± 150, for 1 to 256 callers that each send their next request when the last one is done.

use crate::scheduler::{Engine, Limits, Moment, Pace, Profile, Request, Step, Unusable};

/// Callers at the same time, one column each.
pub const CONCURRENCY: [u32; 9] = [1, 2, 4, 8, 16, 32, 64, 128, 256];
/// What the table says, in milliseconds per output token.
pub const PUBLISHED_MS: [f64; 9] = [17.1, 17.2, 17.6, 18.3, 19.7, 22.6, 28.0, 39.1, 65.5];
/// What the cost model gave when it was first fitted, in milliseconds per output token.
pub const MODEL_MS: [f64; 9] = [18.3, 18.4, 18.7, 19.1, 20.1, 22.3, 28.0, 39.3, 61.7];

/// One column of the table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Column {
    /// Callers at the same time.
    pub concurrency: u32,
    /// Published, milliseconds per output token.
    pub published_ms: f64,
    /// The cost model as first fitted, milliseconds per output token.
    pub model_ms: f64,
    /// This engine, milliseconds per output token.
    pub ours_ms: f64,
    /// Median time to the first token of this engine, in milliseconds.
    pub first_token_ms: f64,
}

impl Column {
    /// How far this engine is from the cost model: 0.01 is one per cent too slow.
    pub fn error(&self) -> f64 {
        self.ours_ms / self.model_ms - 1.0
    }
}

/// Runs every column with the profile `70b-h100-tp4`.
///
/// # Errors
/// The profile is missing or unusable.
pub fn table() -> anyhow::Result<Vec<Column>> {
    let profile = Profile::named("70b-h100-tp4").ok_or_else(|| anyhow::anyhow!("no profile 70b-h100-tp4"))?;
    let mut columns = Vec::new();
    for (at, concurrency) in CONCURRENCY.into_iter().enumerate() {
        let (ours_ms, first_token_ms) = closed_loop(profile, concurrency)?;
        let (published_ms, model_ms) = (PUBLISHED_MS[at], MODEL_MS[at]);
        columns.push(Column { concurrency, published_ms, model_ms, ours_ms, first_token_ms });
    }
    Ok(columns)
}

/// The table as text, one row for each source.
pub fn render(columns: &[Column]) -> String {
    let row = |name: &str, cell: &dyn Fn(&Column) -> String| {
        let cells: String = columns.iter().map(|column| format!("{:>8}", cell(column))).collect();
        format!("{name:<22}{cells}\n")
    };
    let ms = |value: f64| format!("{value:.1}");
    let mut text = String::from("70b-h100-tp4, prompt 480 ± 240, output 300 ± 150, closed loop\n");
    text += &row("concurrency", &|column| column.concurrency.to_string());
    text += &row("published, ms/token", &|column| ms(column.published_ms));
    text += &row("model, ms/token", &|column| ms(column.model_ms));
    text += &row("this engine, ms/token", &|column| ms(column.ours_ms));
    text += &row("  against model", &|column| format!("{:+.1}%", 100.0 * column.error()));
    text += &row("first token p50, ms", &|column| ms(column.first_token_ms));
    text
}

/// Milliseconds per output token after the first (mean over requests of their own mean), and the median time to the
/// first token in milliseconds. The first requests of each caller, which start together, are not counted.
fn closed_loop(profile: Profile, concurrency: u32) -> Result<(f64, f64), Unusable> {
    let mut engine = Engine::new(profile, Limits::default(), Pace::default(), 0)?;
    let mut sizes = Sizes { state: u64::from(concurrency) };
    let mut callers: Vec<Caller> = Vec::new();
    let (warm, counted) = (3 * concurrency, 400 + 12 * concurrency);
    let mut submitted = 0;
    let mut send = |engine: &mut Engine, at: Moment, id: u32| {
        let (prompt_tokens, output_tokens_max) = (sizes.draw(480.0, 240.0), sizes.draw(300.0, 150.0));
        let request =
            Request { id: u64::from(id), prompt_tokens, block_hashes: Box::default(), output_tokens_max };
        engine.submit(at, request).is_ok()
    };
    let mut per_token = Vec::new();
    let mut first_token = Vec::new();
    let mut step = Step::default();
    let mut ended: Vec<(Moment, u32)> = (0..concurrency).map(|_| (Moment::START, 0)).collect();
    while per_token.len() < counted as usize {
        for (at, _) in ended.drain(..) {
            if send(&mut engine, at, submitted) {
                callers.push(Caller { sent: at, first: at });
                submitted += 1;
            }
        }
        let Some(at) = engine.next_step_at() else { break };
        engine.step(at, &mut step);
        for token in &step.tokens {
            let caller = &mut callers[token.id as usize];
            if token.index == 0 {
                caller.first = token.at;
            }
            if token.last {
                ended.push((token.at, token.index));
                if token.id as u32 >= warm && token.index > 0 {
                    per_token.push(token.at.since(caller.first) as f64 / 1e6 / f64::from(token.index));
                    first_token.push(caller.first.since(caller.sent) as f64 / 1e6);
                }
            }
        }
    }
    first_token.sort_by(f64::total_cmp);
    let mean = per_token.iter().sum::<f64>() / per_token.len() as f64;
    Ok((mean, first_token[first_token.len() / 2]))
}

struct Caller {
    sent: Moment,
    first: Moment,
}

/// Sizes of prompts and outputs: normal, but never below 16 tokens.
struct Sizes {
    state: u64,
}

impl Sizes {
    fn draw(&mut self, mean: f64, deviation: f64) -> u32 {
        let radius = (-2.0 * self.unit().ln()).sqrt();
        let normal = radius * (std::f64::consts::TAU * self.unit()).cos();
        (mean + deviation * normal).round().max(16.0) as u32
    }

    fn unit(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        ((crate::mix::scramble(self.state) >> 11) + 1) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_is_within_three_per_cent_of_the_model_row() {
        let columns = table().expect("a table");
        let far: Vec<_> = columns.iter().filter(|column| column.error().abs() > 0.03).collect();
        assert!(far.is_empty(), "{}", render(&columns));
        println!("{}", render(&columns));
    }
}
