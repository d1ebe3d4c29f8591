//! The engines: by what their names begin, and which metric says what, under the names of late 2026 and, where they were others, of
//! releases that still run.

use super::Engine;
use super::page;

/// Labels that tell series of different ranks or models apart.
pub(super) const RANK_LABELS_MAX: usize = 2;

/// One engine.
pub(super) struct Table {
    /// Which.
    pub(super) engine: Engine,
    /// How names of its metrics begin, and of nobody else's.
    prefixes: &'static [&'static str],
    /// Series that differ in one of these labels stand for different requests and memory; series that differ in others alone
    /// (`tp_rank`, `pp_rank`) tell the same again.
    pub(super) ranks: [&'static str; RANK_LABELS_MAX],
    /// A series that has this label is a part of another one, which has not.
    pub(super) part: Option<&'static str>,
    /// What is read. Of rows about the same, the first that the page has counts.
    pub(super) rows: &'static [Row],
}

/// What one metric says.
pub(super) struct Row {
    /// About what.
    pub(super) signal: Signal,
    /// `name{label=value,...}`.
    pub(super) spec: &'static str,
    /// Where in it.
    pub(super) place: Place,
}

/// What a metric can be about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// Requests in the batch.
    Running,
    /// Requests that wait for it.
    Waiting,
    /// Share of the KV cache in use.
    KvUse,
    /// Tokens of it in use.
    KvTokensUsed,
    /// Tokens it has room for.
    KvTokensTotal,
    /// Tokens in a block of it.
    BlockTokens,
    /// Blocks it has.
    Blocks,
    /// Prompt tokens found in the prefix cache so far.
    PrefixHits,
    /// Prompt tokens looked up there so far.
    PrefixQueries,
    /// Share of prompt tokens found there.
    PrefixHitShare,
    /// Adapters in use, as three labels; the newest series counts.
    Lora,
    /// Adapters that one batch has room for.
    LoraMax,
}

impl Signal {
    /// Whether it is a share of one; a count otherwise.
    pub(super) fn is_share(self) -> bool {
        matches!(self, Signal::KvUse | Signal::PrefixHitShare)
    }
}

/// Where in a series a number is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Its value.
    Value,
    /// A label of it; `None` and nothing mean that it is not known yet.
    Label(&'static str),
}

const fn value(signal: Signal, spec: &'static str) -> Row {
    Row { signal, spec, place: Place::Value }
}

const fn label(signal: Signal, spec: &'static str, label: &'static str) -> Row {
    Row { signal, spec, place: Place::Label(label) }
}

/// Those first whose prefix begins with another's.
static TABLES: [Table; 7] = [
    Table {
        engine: Engine::Vllm,
        prefixes: &["vllm:"],
        // `engine` is the data-parallel rank.
        ranks: ["model_name", "engine"],
        part: None,
        rows: &[
            value(Signal::Running, "vllm:num_requests_running"),
            value(Signal::Waiting, "vllm:num_requests_waiting"),
            value(Signal::KvUse, "vllm:kv_cache_usage_perc"),
            value(Signal::KvUse, "vllm:gpu_cache_usage_perc"),
            // Models with several kinds of attention have blocks of several sizes; newer ones say the sum.
            label(Signal::KvTokensTotal, "vllm:cache_config_info", "kv_cache_size_tokens"),
            label(Signal::BlockTokens, "vllm:cache_config_info", "block_size"),
            label(Signal::Blocks, "vllm:cache_config_info", "num_gpu_blocks"),
            value(Signal::PrefixHits, "vllm:prefix_cache_hits_total"),
            value(Signal::PrefixHits, "vllm:gpu_prefix_cache_hits_total"),
            value(Signal::PrefixQueries, "vllm:prefix_cache_queries_total"),
            value(Signal::PrefixQueries, "vllm:gpu_prefix_cache_queries_total"),
            value(Signal::PrefixHitShare, "vllm:gpu_prefix_cache_hit_rate"),
            value(Signal::Lora, "vllm:lora_requests_info"),
        ],
    },
    Table {
        engine: Engine::Sglang,
        prefixes: &["sglang:", "sglang_"],
        ranks: ["model_name", "dp_rank"],
        part: Some("priority"),
        rows: &[
            value(Signal::Running, "sglang:num_running_reqs"),
            value(Signal::Waiting, "sglang:num_queue_reqs"),
            // The fullest of its pools; the tokens are those of the pool for full attention.
            value(Signal::KvUse, "sglang:token_usage"),
            value(Signal::KvTokensUsed, "sglang:num_used_tokens"),
            value(Signal::KvTokensTotal, "sglang:max_total_num_tokens"),
            value(Signal::BlockTokens, "sglang:page_size"),
            label(Signal::BlockTokens, "sglang:cache_config_info", "page_size"),
            value(Signal::Blocks, "sglang:num_pages"),
            label(Signal::Blocks, "sglang:cache_config_info", "num_pages"),
            value(Signal::PrefixHitShare, "sglang:cache_hit_rate"),
            value(Signal::LoraMax, "sglang:lora_pool_slots_total"),
        ],
    },
    Table {
        engine: Engine::Trtllm,
        prefixes: &["trtllm_"],
        // With attention data parallelism only rank 0 is told.
        ranks: ["model_name", ""],
        part: None,
        rows: &[
            value(Signal::Running, "trtllm_num_requests_running"),
            value(Signal::Waiting, "trtllm_num_requests_waiting"),
            value(Signal::KvUse, "trtllm_kv_cache_utilization"),
            value(Signal::BlockTokens, "trtllm_kv_cache_tokens_per_block"),
            value(Signal::Blocks, "trtllm_kv_cache_max_blocks"),
            value(Signal::PrefixHitShare, "trtllm_kv_cache_hit_rate"),
        ],
    },
    Table {
        engine: Engine::TritonTrtllm,
        prefixes: &["nv_trt_llm_"],
        ranks: ["model", "version"],
        part: None,
        rows: &[
            value(Signal::Running, "nv_trt_llm_request_metrics{request_type=scheduled}"),
            value(Signal::Waiting, "nv_trt_llm_request_metrics{request_type=waiting}"),
            value(Signal::KvUse, "nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=fraction}"),
            value(Signal::BlockTokens, "nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=tokens_per}"),
            value(Signal::Blocks, "nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=max}"),
        ],
    },
    Table {
        engine: Engine::Triton,
        prefixes: &["nv_inference_"],
        ranks: ["model", "version"],
        part: None,
        // `nv_inference_exec_count` counts executions so far: it is not what runs now.
        rows: &[value(Signal::Waiting, "nv_inference_pending_request_count")],
    },
    Table {
        engine: Engine::LlamaCpp,
        prefixes: &["llamacpp:"],
        ranks: ["model", ""],
        part: None,
        // `kv_cache_usage_ratio` of older builds is left out: some of them said 0 whatever there was.
        rows: &[
            value(Signal::Running, "llamacpp:requests_processing"),
            value(Signal::Waiting, "llamacpp:requests_deferred"),
        ],
    },
    Table {
        engine: Engine::Tgi,
        prefixes: &["tgi_"],
        ranks: ["", ""],
        part: None,
        rows: &[value(Signal::Running, "tgi_batch_current_size"), value(Signal::Waiting, "tgi_queue_size")],
    },
];

/// The engine that a page is of: the first in the table of which it has a name, be it only in a comment.
pub(super) fn of(page: &[u8]) -> Option<&'static Table> {
    let place = |name: &[u8]| {
        let is_of = |table: &Table| table.prefixes.iter().any(|prefix| name.starts_with(prefix.as_bytes()));
        TABLES.iter().position(is_of)
    };
    let places = page::lines(page).filter_map(|(_, line)| place(page::name_or_family(line)));
    places.min().and_then(|place| TABLES.get(place))
}

#[cfg(test)]
mod tests {
    use super::super::spec::Spec;
    use super::*;

    #[test]
    fn every_row_is_a_metric_of_its_engine() {
        for table in &TABLES {
            for row in table.rows {
                let spec = Spec::parse(row.spec).unwrap();
                assert!(table.prefixes.iter().any(|prefix| spec.name.starts_with(prefix)), "{}", row.spec);
            }
        }
    }

    #[test]
    fn every_engine_has_one_table_and_every_table_a_queue() {
        let mut names = TABLES.each_ref().map(|table| table.engine.as_str()).to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), TABLES.len());
        for Table { engine, rows, .. } in &TABLES {
            assert!(rows.iter().any(|row| row.signal == Signal::Waiting), "{engine:?}");
        }
    }
}
