//! What the command line says.

use std::net::SocketAddr;
use std::time::Duration;

use crate::scheduler::{Limits, PROFILES, Pace, Profile};

/// Options of the live server; the defaults are vLLM's where it has them.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Address to listen on; port 0 lets the system choose.
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDRESS")]
    pub listen: SocketAddr,
    /// Model and machine to simulate.
    #[arg(long, default_value = "8b-h100", value_parser = profile, help = profile_help())]
    pub profile: Profile,
    /// How many times faster than life everything goes.
    #[arg(long, default_value_t = 1.0, value_name = "FACTOR")]
    pub speed: f64,
    /// Sigma of the lognormal noise on step times.
    #[arg(long, default_value_t = 0.05, value_name = "SIGMA")]
    pub noise: f64,
    /// Name to serve under; may be given several times, the first one is on the metrics.
    #[arg(long = "model", default_value = "penstock-small", value_name = "NAME")]
    pub models: Vec<String>,
    /// Seed of the text and of the noise.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Sequences that may run at the same time.
    #[arg(long, default_value_t = 256, value_name = "N")]
    pub max_num_seqs: u32,
    /// Tokens that one step may compute.
    #[arg(long, default_value_t = 8_192, value_name = "N")]
    pub max_num_batched_tokens: u32,
    /// Requests that may wait; more are answered 503. Without it any number may.
    #[arg(long, value_name = "N")]
    pub max_num_queued_reqs: Option<u32>,
    /// Longest prompt and output together, in tokens; never more than the KV cache holds.
    #[arg(long, default_value_t = 262_144, value_name = "N")]
    pub max_model_len: u32,
    /// Tokens in a block of the KV cache.
    #[arg(long, default_value_t = 16, value_name = "N")]
    pub block_size: u32,
    /// Seconds of silence after which a stream gets a comment; 0 for never.
    #[arg(long, default_value_t = 0.0, value_parser = seconds, value_name = "SECONDS")]
    pub sse_keep_alive_interval: f64,
}

impl Options {
    /// The model name on the metrics, and of requests that name none.
    pub(crate) fn model(&self) -> &str {
        self.models.first().map_or("penstock-small", String::as_str)
    }

    pub(crate) fn limits(&self) -> Limits {
        Limits {
            batched_tokens_max: self.max_num_batched_tokens,
            sequences_max: self.max_num_seqs,
            queued_max: self.max_num_queued_reqs,
            block_tokens: self.block_size,
        }
    }

    pub(crate) fn pace(&self) -> Pace {
        Pace { speed: self.speed, noise_sigma: self.noise }
    }

    /// Tokens of prompt and output together.
    pub(crate) fn context_max(&self) -> u32 {
        let whole_blocks = self.profile.kv_tokens / self.block_size * self.block_size;
        self.max_model_len.min(whole_blocks)
    }

    pub(crate) fn keep_alive(&self) -> Option<Duration> {
        (self.sse_keep_alive_interval > 0.0).then(|| Duration::from_secs_f64(self.sse_keep_alive_interval))
    }
}

fn profile(name: &str) -> Result<Profile, String> {
    Profile::named(name).ok_or_else(|| format!("there is no such profile; there are {}", names()))
}

fn profile_help() -> String {
    format!("Model and machine to simulate: {}", names())
}

fn names() -> String {
    PROFILES.map(|profile| profile.name).join(", ")
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err("must be a number of seconds from 0 to 86400".to_owned()),
    }
}
