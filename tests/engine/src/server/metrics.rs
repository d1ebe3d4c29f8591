//! The metrics page, under vLLM's names, and ours for what vLLM does not count.

use std::fmt::{Display, Write as _};

use super::account::Histogram;
use super::live::Survey;
use super::traffic::Traffic;

/// What Prometheus wants to be told about the text format.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Renders the page; `model` is the first name that the engine serves under, as in vLLM.
pub(crate) fn render(model: &str, survey: &Survey<'_>, traffic: &Traffic) -> String {
    let model = model.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let mut page = Page { text: String::new(), labels: format!("model_name=\"{model}\",engine=\"0\"") };
    load(&mut page, survey);
    tokens(&mut page, survey);
    requests(&mut page, survey);
    latencies(&mut page, survey);
    own(&mut page, survey, traffic);
    page.text
}

fn load(page: &mut Page, survey: &Survey<'_>) {
    let gauges = &survey.gauges;
    page.gauge("vllm:num_requests_running", "Requests that hold a place in the batch.", gauges.running);
    page.gauge("vllm:num_requests_waiting", "Requests in the front end or the queue.", gauges.waiting);
    let by_reason = "vllm:num_requests_waiting_by_reason";
    page.head(by_reason, "gauge", "Requests that wait, by reason.");
    page.sample(by_reason, "reason=\"capacity\"", gauges.waiting);
    page.sample(by_reason, "reason=\"deferred\"", 0);
    let used = f64::from(gauges.blocks_pinned) / f64::from(gauges.blocks_total.max(1));
    let help = "Share of the KV cache that running requests hold; reusable cached blocks count as free.";
    page.gauge("vllm:kv_cache_usage_perc", help, used);
    let config = "vllm:cache_config_info";
    page.head(config, "gauge", "Shape of the KV cache; the value is always 1.");
    let block = survey.limits.block_tokens;
    let blocks = gauges.blocks_total;
    let shape = format!("block_size=\"{block}\",num_gpu_blocks=\"{blocks}\",enable_prefix_caching=\"True\"");
    page.sample(config, &shape, 1);
}

fn tokens(page: &mut Page, survey: &Survey<'_>) {
    let (totals, account) = (&survey.totals, survey.account);
    let queries = "Prompt tokens looked up in the prefix cache.";
    page.counter("vllm:prefix_cache_queries_total", queries, totals.prefix_queries);
    page.counter(
        "vllm:prefix_cache_hits_total",
        "Prompt tokens found in the prefix cache.",
        totals.prefix_hits,
    );
    page.counter("vllm:prompt_tokens_total", "Prompt tokens taken in.", account.prompt_tokens);
    let cached = "Prompt tokens that need not be computed.";
    page.counter("vllm:prompt_tokens_cached_total", cached, account.prompt_tokens_cached);
    page.counter("vllm:generation_tokens_total", "Output tokens sent.", account.generation_tokens);
    page.histogram("vllm:iteration_tokens_total", "Tokens computed in one step.", &account.step_tokens);
}

fn requests(page: &mut Page, survey: &Survey<'_>) {
    let (totals, account) = (&survey.totals, survey.account);
    let preemptions = "Requests sent back to the queue for want of KV room.";
    page.counter("vllm:num_preemptions_total", preemptions, totals.preemptions);
    let success = "vllm:request_success_total";
    page.head(success, "counter", "Requests that ended, by how.");
    page.sample(success, "finished_reason=\"stop\"", account.ended_stop);
    page.sample(success, "finished_reason=\"length\"", account.ended_length);
    page.sample(success, "finished_reason=\"abort\"", account.ended_abort);
    let rejections = "vllm:admission_rejections_total";
    page.head(rejections, "counter", "Requests answered 503, by reason.");
    page.sample(rejections, "reason=\"queue_full\"", totals.refused);
    page.sample(rejections, "reason=\"unavailable\"", account.rejected_unavailable);
}

fn latencies(page: &mut Page, survey: &Survey<'_>) {
    let account = survey.account;
    let rows = [
        ("vllm:time_to_first_token_seconds", "Arrival to first token.", &account.first_token),
        ("vllm:inter_token_latency_seconds", "From one token to the next.", &account.gap),
        (
            "vllm:request_time_per_output_token_seconds",
            "Mean time per token after the first, per request.",
            &account.per_token,
        ),
        ("vllm:request_queue_time_seconds", "Arrival to the first step.", &account.queue),
        ("vllm:request_prefill_time_seconds", "First step to first token.", &account.prefill),
        ("vllm:request_decode_time_seconds", "First token to last.", &account.decode),
        ("vllm:e2e_request_latency_seconds", "Arrival to last token.", &account.end_to_end),
    ];
    for (name, help, histogram) in rows {
        page.histogram(name, help, histogram);
    }
}

fn own(page: &mut Page, survey: &Survey<'_>, traffic: &Traffic) {
    let (totals, account) = (&survey.totals, survey.account);
    let counters = [
        ("requests_received_total", "Requests of any kind received.", traffic.requests()),
        ("request_body_bytes_total", "Bytes of request bodies received.", traffic.request_bytes()),
        (
            "response_body_bytes_total",
            "Bytes of response bodies handed to the network.",
            traffic.response_bytes(),
        ),
        ("aborted_requests_total", "Requests whose caller left before the end.", account.ended_abort),
        ("torn_responses_total", "Answers that an ordered fault broke off.", account.torn),
        ("steps_total", "Steps that computed something.", totals.steps),
        ("sequence_steps_total", "Sum over steps of the sequences in them.", totals.sequence_steps),
        (
            "wasted_steps_total",
            "Sequence-steps computed for a caller that had already left.",
            totals.wasted_steps,
        ),
        (
            "saved_tokens_total",
            "Output tokens, one sequence-step each, that aborts spared.",
            totals.saved_output_tokens,
        ),
        ("saved_prompt_tokens_total", "Prompt tokens that aborts spared.", totals.saved_prompt_tokens),
    ];
    for (name, help, value) in counters {
        page.counter(&format!("penstock_engine_{name}"), help, value);
    }
    let busy = totals.busy_ns as f64 / 1e9;
    page.counter("penstock_engine_busy_seconds_total", "Time spent in steps.", busy);
    let free = "From noticing that a caller left to its place being free.";
    page.histogram("penstock_engine_slot_free_seconds", free, &account.slot_free);
}

struct Page {
    text: String,
    labels: String,
}

// Writing to a String cannot fail.
impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _written = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, more: &str, value: impl Display) {
        let comma = if more.is_empty() { "" } else { "," };
        let _written = writeln!(self.text, "{name}{{{}{comma}{more}}} {value}", self.labels);
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.head(name, "gauge", help);
        self.sample(name, "", value);
    }

    fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.head(name, "counter", help);
        self.sample(name, "", value);
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.head(name, "histogram", help);
        for (bound, count) in histogram.cumulative() {
            let bound = if bound.is_finite() { format!("{bound:?}") } else { "+Inf".to_owned() };
            self.sample(&format!("{name}_bucket"), &format!("le=\"{bound}\""), count);
        }
        self.sample(&format!("{name}_sum"), "", histogram.sum());
        self.sample(&format!("{name}_count"), "", histogram.count());
    }
}
