//! What a model server says of itself on its metrics page, in the text format of Prometheus.
//!
//! ```text
//!   page ─► which engine? (prefix of its names) ─► its table ─► readings ─► one set of gauges
//! ```
//!
//! An engine is a table of data (`tables.rs`): which metric says what. What has several series is put together by what they stand
//! for: data-parallel ranks and models each have their own requests and memory, so those are added; the ranks of one tensor-parallel
//! group tell the same thing again, so of those one counts.
//!
//! Counts lag by one step of the engine, 10 to 700 ms under load, and no engine tells the uncached prompt tokens that wait: the caller
//! keeps his own account and corrects it by what is read here.

pub mod defect;

mod page;
mod readings;
mod spec;
mod tables;

use defect::PageDefect;

/// Paths at which engines serve the page, in the order in which they are worth asking. Triton serves it on a port of its own, 8002.
pub const PATHS: [&str; 2] = ["/metrics", "/prometheus/metrics"];

/// What a scrape asks for (`Accept`): the text format, which all of them write, rather than OpenMetrics, which few do.
pub const ACCEPT: &str = "text/plain;version=0.0.4;q=1,*/*;q=0.1";

/// A model server, told from the names of its metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Engine {
    /// vLLM.
    Vllm,
    /// SGLang.
    Sglang,
    /// TensorRT-LLM's `trtllm-serve`.
    Trtllm,
    /// NVIDIA Triton with the TensorRT-LLM backend.
    TritonTrtllm,
    /// NVIDIA Triton with any other backend.
    Triton,
    /// `llama-server` of llama.cpp.
    LlamaCpp,
    /// Hugging Face Text Generation Inference.
    Tgi,
}

impl Engine {
    /// The name on pages and in metrics; for most also the value of the pod label `llm-d.ai/engine-type`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Engine::Vllm => "vllm",
            Engine::Sglang => "sglang",
            Engine::Trtllm => "trtllm-serve",
            Engine::TritonTrtllm => "triton-tensorrt-llm",
            Engine::Triton => "triton",
            Engine::LlamaCpp => "llamacpp",
            Engine::Tgi => "tgi",
        }
    }
}

/// The state of a model server by its own account. What it does not tell, or tells as NaN, is `None`; nothing is guessed.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineGauges {
    /// Which it is.
    pub engine: Engine,
    /// Requests in the batch: the sum over ranks and models.
    pub running: Option<u64>,
    /// Requests that wait for a place in it: the sum over ranks and models.
    pub waiting: Option<u64>,
    /// Share of the KV cache that running requests hold, 0 to 1. Blocks that are kept only because they may be of use again count as
    /// free. With several ranks the mean, weighted by their capacity where that is told: an engine gives the next request to an
    /// emptier rank, so its fullest one does not stand for it.
    pub kv_use: Option<f64>,
    /// Tokens in the KV cache of running requests: the engine's own count where it has one (SGLang), else `kv_use` of
    /// `kv_tokens_total`.
    pub kv_tokens_used: Option<u64>,
    /// Tokens for which the KV cache has room: the sum over ranks and models.
    pub kv_tokens_total: Option<u64>,
    /// Tokens in one block of the KV cache; the prefix cache holds whole blocks.
    pub kv_block_tokens: Option<u64>,
    /// Prompt tokens found in the prefix cache since the engine started.
    pub prefix_hit_tokens: Option<u64>,
    /// Prompt tokens looked up there since the engine started.
    pub prefix_query_tokens: Option<u64>,
    /// Share of prompt tokens found in the prefix cache, 0 to 1: as the engine tells it, which is then of recent requests, else of
    /// all since its start.
    pub prefix_hit_share: Option<f64>,
    /// LoRA adapters of requests in the batch.
    pub lora_running: Option<Vec<String>>,
    /// LoRA adapters of requests that wait.
    pub lora_waiting: Option<Vec<String>>,
    /// Most LoRA adapters that can be in one batch.
    pub lora_max: Option<u64>,
}

/// Reads a page.
///
/// # Errors
/// When it is of no known engine, is not whole, or a line of it that matters says nothing sensible. One such line spoils the page:
/// half an account would be taken for a whole one.
pub fn read(page: &[u8]) -> Result<EngineGauges, PageDefect> {
    let Some(table) = tables::of(page) else {
        return Err(PageDefect::UnknownEngine { begins: page::beginning(page) });
    };
    if page.last() != Some(&b'\n') {
        return Err(PageDefect::Torn { bytes: page.len() });
    }
    Ok(readings::Readings::of(page, table)?.gauges())
}

#[cfg(test)]
mod tests;
