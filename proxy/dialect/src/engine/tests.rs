use super::defect::LineDefect;
use super::*;

fn check(page: &str) -> EngineGauges {
    read(page.as_bytes()).unwrap_or_else(|defect| panic!("{defect}\n{page}"))
}

#[test]
fn an_engine_is_known_by_how_its_names_begin() {
    for (page, engine) in [
        ("python_gc_total 1\nvllm:num_requests_running 0\n", Engine::Vllm),
        ("# HELP sglang:token_usage The token usage.\n", Engine::Sglang),
        ("# TYPE sglang_token_usage gauge\n", Engine::Sglang),
        ("trtllm_num_requests_running 0\n", Engine::Trtllm),
        ("nv_inference_count{model=\"m\"} 1\nnv_trt_llm_general_metrics 1\n", Engine::TritonTrtllm),
        ("nv_gpu_utilization 0\nnv_inference_count{model=\"m\"} 1\n", Engine::Triton),
        ("llamacpp:requests_deferred 0\n", Engine::LlamaCpp),
        ("tgi_queue_size 0\n", Engine::Tgi),
    ] {
        assert_eq!(check(page).engine, engine, "{page}");
    }
}

#[test]
fn requests_of_ranks_and_models_are_added() {
    let gauges = check(
        "vllm:num_requests_running{model_name=\"m\",engine=\"0\"} 3\n\
         vllm:num_requests_running{model_name=\"m\",engine=\"1\"} 4\n\
         vllm:num_requests_waiting{model_name=\"m\",engine=\"0\"} 1\n",
    );
    assert_eq!((gauges.running, gauges.waiting), (Some(7), Some(1)));
}

#[test]
fn what_tensor_parallel_ranks_and_priorities_repeat_counts_once() {
    let gauges = check(
        "sglang:num_queue_reqs{dp_rank=\"0\",tp_rank=\"0\",priority=\"\"} 3\n\
         sglang:num_queue_reqs{dp_rank=\"0\",tp_rank=\"0\",priority=\"1\"} 1\n\
         sglang:num_queue_reqs{dp_rank=\"0\",tp_rank=\"0\",priority=\"2\"} 2\n\
         sglang:num_queue_reqs{dp_rank=\"0\",tp_rank=\"1\",priority=\"\"} 2\n\
         sglang:num_queue_reqs{dp_rank=\"1\",tp_rank=\"0\",priority=\"\"} 5\n",
    );
    assert_eq!(gauges.waiting, Some(8));
}

#[test]
fn kv_use_of_ranks_is_weighted_by_their_room() {
    let uses = "vllm:kv_cache_usage_perc{engine=\"0\"} 0.9\nvllm:kv_cache_usage_perc{engine=\"1\"} 0.3\n";
    for (capacities, share, used, total) in [
        // Three times the room of the first.
        (
            "vllm:cache_config_info{engine=\"0\",block_size=\"16\",num_gpu_blocks=\"100\"} 1\n\
             vllm:cache_config_info{engine=\"1\",block_size=\"16\",num_gpu_blocks=\"300\"} 1\n",
            0.45,
            Some(2_880),
            Some(6_400),
        ),
        // One for all of them: each has that much.
        (
            "vllm:cache_config_info{block_size=\"16\",num_gpu_blocks=\"100\"} 1\n",
            0.6,
            Some(1_920),
            Some(3_200),
        ),
        // One is not told: the plain mean, and no number of tokens.
        (
            "vllm:cache_config_info{engine=\"0\",block_size=\"16\",num_gpu_blocks=\"100\"} 1\n",
            0.6,
            None,
            Some(1_600),
        ),
        ("vllm:cache_config_info{block_size=\"16\",num_gpu_blocks=\"None\"} 1\n", 0.6, None, None),
        ("", 0.6, None, None),
    ] {
        let gauges = check(&format!("{uses}{capacities}"));
        assert!((gauges.kv_use.unwrap() - share).abs() < 1e-9, "{:?} {capacities}", gauges.kv_use);
        assert_eq!((gauges.kv_tokens_used, gauges.kv_tokens_total), (used, total), "{capacities}");
    }
}

#[test]
fn one_use_told_for_ranks_with_rooms_of_their_own_is_of_all_of_them() {
    let gauges = check(
        "vllm:kv_cache_usage_perc 0.5\n\
         vllm:cache_config_info{engine=\"0\",kv_cache_size_tokens=\"1000\"} 1\n\
         vllm:cache_config_info{engine=\"1\",kv_cache_size_tokens=\"1000\"} 1\n",
    );
    assert_eq!((gauges.kv_tokens_used, gauges.kv_tokens_total), (Some(1_000), Some(2_000)));
}

#[test]
fn the_newest_adapters_count() {
    let line = |running: &str, waiting: &str, time: &str| {
        format!(
            "vllm:lora_requests_info{{max_lora=\"4\",running_lora_adapters=\"{running}\",waiting_lora_adapters=\"{waiting}\"}} {time}\n"
        )
    };
    let page = [
        line("old", "", "1.7e9"),
        line("sql, code", "chat", "1.7000000005e9"),
        line("", "", "1.69e9"),
        line("x", "", "NaN"),
    ];
    let gauges = check(&page.concat());
    assert_eq!(gauges.lora_running, Some(vec!["sql".to_owned(), "code".to_owned()]));
    assert_eq!(gauges.lora_waiting, Some(vec!["chat".to_owned()]));
    assert_eq!(gauges.lora_max, Some(4));
    assert_eq!(check("vllm:num_requests_running 0\n").lora_running, None);
    assert_eq!(check(&line("", "", "1.7e9")).lora_running, Some(vec![]));
}

#[test]
fn old_names_count_where_the_new_ones_are_missing() {
    let old = "vllm:gpu_cache_usage_perc 0.25\nvllm:gpu_prefix_cache_hits_total 30\nvllm:gpu_prefix_cache_queries_total 40\n";
    let gauges = check(old);
    assert_eq!((gauges.kv_use, gauges.prefix_hit_share), (Some(0.25), Some(0.75)));
    let both = format!("{old}vllm:kv_cache_usage_perc 0.5\nvllm:prefix_cache_hits_total 1\n");
    let gauges = check(&both);
    assert_eq!(
        (gauges.kv_use, gauges.prefix_hit_tokens, gauges.prefix_query_tokens),
        (Some(0.5), Some(1), Some(40))
    );
}

#[test]
fn what_is_not_told_is_not_guessed() {
    let nothing = EngineGauges {
        engine: Engine::Vllm,
        running: None,
        waiting: None,
        kv_use: None,
        kv_tokens_used: None,
        kv_tokens_total: None,
        kv_block_tokens: None,
        prefix_hit_tokens: None,
        prefix_query_tokens: None,
        prefix_hit_share: None,
        lora_running: None,
        lora_waiting: None,
        lora_max: None,
    };
    for page in [
        "# TYPE vllm:num_requests_running gauge\n",
        "vllm:num_requests_running NaN\nvllm:kv_cache_usage_perc NaN\n",
        // One of two is not known, so the sum is not.
        "vllm:num_requests_running{engine=\"0\"} 1\nvllm:num_requests_running{engine=\"1\"} NaN\n",
        "vllm:cache_config_info{block_size=\"None\",num_gpu_blocks=\"\"} 1\n",
        "vllm:num_requests_running_total 7\nvllm:time_to_first_token_seconds_sum x\n",
    ] {
        assert_eq!(check(page), nothing, "{page}");
    }
}

#[test]
fn a_page_that_cannot_be_used_is_refused_with_the_place_and_the_reason() {
    let line = |number, defect| PageDefect::Line { number, defect };
    let impossible = |number, value, wanted| line(number, LineDefect::Impossible { value, wanted });
    let (count, share) = ("a count from 0 to 2^53", "a share from 0 to 1");
    for (page, expected, reason) in [
        ("", PageDefect::UnknownEngine { begins: String::new() }, "unknown_engine"),
        (
            "[{\"iter\":1}]",
            PageDefect::UnknownEngine { begins: "[{\"iter\":1}]".to_owned() },
            "unknown_engine",
        ),
        ("tgi_queue_size 1", PageDefect::Torn { bytes: 16 }, "torn"),
        ("a 1\ntgi_queue_size\n", line(2, LineDefect::Value), "malformed"),
        ("tgi_queue_size{a} 1\n", line(1, LineDefect::Labels), "malformed"),
        ("tgi_queue_size 1 x\n", line(1, LineDefect::Trailing), "malformed"),
        ("tgi_queue_size -1\n", impossible(1, -1.0, count), "impossible"),
        ("tgi_queue_size +Inf\n", impossible(1, f64::INFINITY, count), "impossible"),
        ("vllm:kv_cache_usage_perc 45.2\n", impossible(1, 45.2, share), "impossible"),
        (
            "vllm:cache_config_info{block_size=\"big\"} 1\n",
            line(1, LineDefect::LabelValue { label: "block_size", value: "big".to_owned() }),
            "malformed",
        ),
    ] {
        let defect = read(page.as_bytes()).unwrap_err();
        assert_eq!((&defect, defect.reason()), (&expected, reason), "{page}");
    }
    let many: String =
        (0..2_000).map(|rank| format!("vllm:num_requests_running{{engine=\"{rank}\"}} 1\n")).collect();
    assert_eq!(read(many.as_bytes()), Err(PageDefect::TooManySeries));
}

#[test]
fn a_quotient_a_little_above_one_is_one() {
    assert_eq!(check("vllm:kv_cache_usage_perc 1.004\n").kv_use, Some(1.0));
}
