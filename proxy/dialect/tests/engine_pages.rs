//! Metrics pages of engines in `corpus/engines/`: what is read in each, whole, cut at every byte, and with every byte spoilt.
//!
//! A file is a note, a line of dashes, the page, a line of dashes, what is read. `UPDATE_GOLDEN=1` rewrites the last part.

#![expect(clippy::expect_used, clippy::panic, reason = "a broken corpus ends the test")]

use std::fs;
use std::path::{Path, PathBuf};

use penstock_dialect::engine::defect::PageDefect;
use penstock_dialect::engine::{EngineGauges, read};
use proptest::prelude::*;

const DASHES: &str = "\n----\n";

struct Case {
    path: PathBuf,
    note: String,
    page: String,
    expected: String,
}

fn cases() -> Vec<Case> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/engines");
    let mut paths: Vec<_> = fs::read_dir(dir)
        .expect("the corpus is there")
        .map(|entry| entry.expect("it is readable").path())
        .collect();
    paths.sort();
    let cases = paths.into_iter().map(|path| {
        let text = fs::read_to_string(&path).expect("the corpus is UTF-8");
        let (note, rest) = text.split_once(DASHES).expect("dashes end the note");
        let (page, expected) = rest.split_once(DASHES).expect("dashes end the page");
        Case { path, note: note.to_owned(), page: format!("{page}\n"), expected: expected.to_owned() }
    });
    cases.collect()
}

fn gauges(page: &str) -> EngineGauges {
    read(page.as_bytes()).unwrap_or_else(|defect| panic!("{defect}\n{page}"))
}

#[test]
fn every_page_says_what_is_written_under_it() {
    let cases = cases();
    assert!(cases.len() >= 10, "{}", cases.len());
    for Case { path, note, page, expected } in cases {
        let found = format!("{:#?}\n", gauges(&page));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            let page = page.strip_suffix('\n').unwrap_or_default();
            fs::write(&path, format!("{note}{DASHES}{page}{DASHES}{found}"))
                .expect("the corpus can be written");
        } else {
            assert_eq!(found, expected, "{}: UPDATE_GOLDEN=1 rewrites it", path.display());
        }
    }
}

#[test]
fn a_page_cut_at_any_byte_is_refused_or_has_whole_lines_only() {
    for Case { page, path, .. } in cases() {
        let whole = gauges(&page);
        for end in 0..page.len() {
            let at = format!("{} cut at {end}", path.display());
            match read(&page.as_bytes()[..end]) {
                // Triton's first lines are those of any backend.
                Ok(part) if part.engine != whole.engine => {}
                Ok(part) => {
                    assert_eq!(page.as_bytes()[end - 1], b'\n', "{at}");
                    assert!(part.running <= whole.running && part.waiting <= whole.waiting, "{at}: {part:?}");
                }
                Err(PageDefect::UnknownEngine { .. }) => {}
                Err(PageDefect::Torn { bytes }) => {
                    assert!(bytes == end && page.as_bytes()[end - 1] != b'\n', "{at}");
                }
                Err(other) => panic!("{at}: {other}"),
            }
        }
    }
}

/// Nothing that comes out of a page is out of bounds, whatever goes in.
fn check(page: &[u8]) {
    match read(page) {
        Ok(gauges) => {
            for share in [gauges.kv_use, gauges.prefix_hit_share].into_iter().flatten() {
                assert!((0.0..=1.0).contains(&share), "{gauges:?}");
            }
            if let (Some(used), Some(total), Some(share)) =
                (gauges.kv_tokens_used, gauges.kv_tokens_total, gauges.kv_use)
            {
                assert!(gauges.engine.as_str() == "sglang" || used <= total, "{used} of {total}, {share}");
            }
        }
        Err(defect) => {
            assert!(!defect.to_string().is_empty() && !defect.to_string().contains('\n'), "{defect}");
        }
    }
}

#[test]
fn a_page_with_any_byte_spoilt_is_read_within_bounds_or_refused() {
    for Case { page, .. } in cases() {
        let mut bytes = page.into_bytes();
        for at in 0..bytes.len() {
            let byte = bytes[at];
            let spoilt = [byte ^ 1, byte ^ 0x10, byte ^ 0x80, b'\n', b'"', b'}', b'9', b'-', 0];
            for turn in 0..2 {
                bytes[at] = spoilt[(2 * at + turn) % spoilt.len()];
                check(&bytes);
            }
            bytes[at] = byte;
        }
    }
}

proptest! {
    #[test]
    fn a_page_of_odd_lines_is_read_within_bounds_or_refused(
        lines in prop::collection::vec(
            "(vllm:kv_cache_usage_perc|vllm:cache_config_info|vllm:num_requests_running|vllm:lora_requests_info)\
             (\\{(engine=\"[0-2]\",?)?(block_size=\"(16|None|-1|1e300|NaN)\",?)?(num_gpu_blocks=\"[0-9]{1,17}\",?)?\\}?)? \
             (0\\.[0-9]{2}|1|1e9|NaN|[+-]Inf|-0|x)( [0-9]+)?",
            0..12,
        ),
    ) {
        check(format!("{}\n", lines.join("\n")).as_bytes());
    }

    #[test]
    fn any_bytes_behind_a_known_name_are_read_within_bounds_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        check(&[b"sglang:num_queue_reqs", &bytes[..], b"\nsglang:token_usage 0.5\n"].concat());
    }
}
