//! What a model on a machine costs, as data.
//!
//! ```text
//! T_step = fixed + sequence·R + max(weights, compute + token·n) + context·K + attention·S
//! ```
//!
//! R: sequences in the step. n: tokens computed in it. K: sum of the context lengths of the decoding sequences.
//! S: sum over prefill chunks of chunk length × (context before the chunk + half of the chunk).
//!
//! The constants come from published kernel measurements (Vidur's profiles of Llama-2 and Llama-3 on H100 and
//! A100, llm-d's measurements of Qwen3-32B); the README of this package lists where each row is from.

/// Cost constants of one model on one machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Profile {
    /// The name by which `--profile` finds it.
    pub name: &'static str,
    /// Milliseconds that every step costs, whatever is in it.
    pub fixed_ms: f64,
    /// Microseconds per sequence in the step.
    pub sequence_us: f64,
    /// Milliseconds to read the weights once: the floor under the compute time of a step.
    pub weights_ms: f64,
    /// Milliseconds of compute that do not depend on the number of tokens.
    pub compute_ms: f64,
    /// Microseconds of compute per token in the step.
    pub token_us: f64,
    /// Microseconds per token of context that a decoding sequence reads back.
    pub context_us: f64,
    /// Nanoseconds per pair of (prefill token, context token).
    pub attention_ns: f64,
    /// Tokens that fit into the KV cache.
    pub kv_tokens: u32,
    /// Milliseconds between the arrival of a request and the moment at which a step may take it.
    pub front_end_ms: f64,
    /// Microseconds of front-end work per output token, outside the step, one token after the other.
    pub front_end_token_us: f64,
}

/// Every profile, in the order in which `--help` lists them.
pub const PROFILES: [Profile; 8] = [
    row("8b-h100", [1.15, 6.5, 2.9, 22.0, 0.070, 1.3], 410_000),
    row("8b-a100", [1.15, 9.8, 6.4, 67.0, 0.12, 3.7], 410_000),
    row("32b-h100-tp2", [3.2, 14.5, 6.0, 40.0, 0.065, 2.0], 307_328),
    row("70b-h100-tp4", [6.7, 11.6, 10.1, 53.5, 0.042, 1.6], 412_000),
    row("70b-h100-tp8", [6.7, 8.4, 8.4, 29.0, 0.023, 0.8], 1_250_000),
    row("70b-a100-tp4", [6.7, 25.0, 17.7, 161.0, 0.076, 4.6], 412_000),
    row("70b-a100-tp8", [6.7, 14.4, 4.2, 90.0, 0.038, 2.3], 1_250_000),
    // Solved from the four figures that Splitwise published for a 2023 stack (70B, H100, TP8): 137 ms for a prompt
    // of 2,048 tokens, 845 ms for 8,192, 30 ms a token alone and 50 ms with 64 others at about 1,100 tokens each.
    row("slow", [10.0, 19.7, 19.0, 37.1, 0.25, 15.3], 1_250_000),
];

/// The columns of the table in the order of the formula: fixed ms, weights ms, compute ms, token us, context us,
/// attention ns. The other three are the same for all rows: 10 us a sequence, and BLIS's front end (5 ms, 46 us).
const fn row(name: &'static str, columns: [f64; 6], kv_tokens: u32) -> Profile {
    let [fixed_ms, weights_ms, compute_ms, token_us, context_us, attention_ns] = columns;
    Profile {
        name,
        fixed_ms,
        sequence_us: 10.0,
        weights_ms,
        compute_ms,
        token_us,
        context_us,
        attention_ns,
        kv_tokens,
        front_end_ms: 5.0,
        front_end_token_us: 46.0,
    }
}

/// What one step has to compute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// R: sequences in the step.
    pub sequences: u32,
    /// n: tokens computed, prefill chunks plus one per decoding sequence.
    pub tokens: u32,
    /// K: sum of the context lengths of the decoding sequences, in tokens.
    pub context: u64,
    /// 2·S: twice the sum over chunks of chunk × (context before + chunk / 2), doubled so that it stays whole.
    pub attention_doubled: u64,
}

impl Profile {
    /// The profile of that name.
    pub fn named(name: &str) -> Option<Profile> {
        PROFILES.into_iter().find(|profile| profile.name == name)
    }

    /// How long a step with this batch takes on undisturbed hardware, in nanoseconds.
    pub fn step_ns(&self, batch: &Batch) -> f64 {
        let tokens = f64::from(batch.tokens);
        let dense = (self.compute_ms * 1e6 + self.token_us * 1e3 * tokens).max(self.weights_ms * 1e6);
        self.fixed_ms * 1e6
            + self.sequence_us * 1e3 * f64::from(batch.sequences)
            + dense
            + self.context_us * 1e3 * batch.context as f64
            + self.attention_ns * 0.5 * batch.attention_doubled as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A profile, prompt tokens or decoding sequences at a context, and the milliseconds that were published.
    #[track_caller]
    fn check(name: &str, batch: Batch, published_ms: f64) {
        let profile = Profile::named(name).expect("a profile of the table");
        let ms = profile.step_ns(&batch) / 1e6;
        assert!((ms / published_ms - 1.0).abs() < 0.03, "{name}: {ms:.2} ms, published {published_ms} ms");
    }

    fn prefill(tokens: u32) -> Batch {
        let square = u64::from(tokens) * u64::from(tokens);
        Batch { sequences: 1, tokens, context: 0, attention_doubled: square }
    }

    fn decode(sequences: u32, context_each: u64) -> Batch {
        Batch {
            sequences,
            tokens: sequences,
            context: u64::from(sequences) * context_each,
            attention_doubled: 0,
        }
    }

    #[test]
    fn the_slow_stack_gives_back_the_figures_it_was_solved_from() {
        check("slow", prefill(2_048), 137.0);
        check("slow", prefill(8_192), 845.0);
        check("slow", decode(1, 1_100), 30.0);
        check("slow", decode(64, 1_100), 50.0);
    }

    #[test]
    fn a_small_model_reads_8192_tokens_in_225_ms_and_writes_one_in_8() {
        check("8b-h100", prefill(8_192), 0.225e3);
        check("8b-h100", decode(1, 600), 7.7);
    }

    #[test]
    fn names_are_unique_and_unknown_ones_find_nothing() {
        for (at, profile) in PROFILES.iter().enumerate() {
            assert_eq!(PROFILES.iter().position(|other| other.name == profile.name), Some(at));
        }
        assert_eq!(Profile::named("8B-H100"), None);
    }
}
