//! The hashes of a prompt's prefix: what they depend on, and what not.

use penstock_dialect::Dialect;
use penstock_dialect::prefix::{BOUNDARIES_MAX, Boundary};
use penstock_dialect::scan::{Head, Scanner};
use proptest::prelude::*;
use serde_json::json;

fn prefix_of<'a>(dialect: Dialect, chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<Boundary> {
    let mut scanner = Scanner::new(dialect, Head::default()).with_prefix();
    for chunk in chunks {
        let _progress = scanner.push(chunk);
    }
    let prefix = scanner.prefix();
    assert!(scanner.finish().is_ok(), "the body is whole");
    prefix
}

fn chat(body: &str) -> Vec<Boundary> {
    prefix_of(Dialect::OpenAiChat, [body.as_bytes()])
}

/// Prompt bytes up to the last boundary that two prompts share; a boundary behind one that differs must differ as well.
fn shared(one: &[Boundary], other: &[Boundary]) -> u64 {
    let same = one.iter().zip(other).take_while(|(one, other)| one == other).count();
    for later in &one[same..] {
        assert!(other.iter().all(|found| found.hash != later.hash), "{later:?} is found again");
    }
    one[..same].last().map_or(0, |last| last.bytes)
}

fn text(seed: u64, bytes: usize) -> String {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut draw = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        b"abcdefghijklmnop qrst"[(state >> 33) as usize % 21]
    };
    (0..bytes).map(|_| char::from(draw())).collect()
}

/// A body with everything: escapes, characters of several bytes, media, ids, tools behind the messages, the model at the end.
fn body_of_all_kinds() -> String {
    let image = text(9, 300).replace(' ', "+");
    format!(
        r#"{{"messages":[{{"role":"system","content":"{}é日🙂\n\u00e9\ud83d\ude00 \"q\""}},
            {{"role":"user","content":[{{"type":"text","text":"{}","cache_control":{{"type":"ephemeral"}}}},
            {{"type":"image_url","image_url":{{"url":"data:image/png;base64,{image}"}}}}]}},
            {{"role":"tool","content":null,"n":[1,-2.5e3,true,false]}},{{"role":"user","content":"{}"}}],
            "tools":[{{"name":"{}","strict":true}}],"cache_salt":"s\u00e9","temperature":0.5,"model":"m"}}"#,
        text(1, 700),
        text(2, 600),
        text(3, 900),
        text(4, 600),
    )
}

#[test]
fn any_cut_gives_the_same() {
    let body = body_of_all_kinds();
    let whole = chat(&body);
    assert!(whole.len() >= 5, "{whole:?}");
    for cut in 0..body.len() {
        let (head, tail) = body.as_bytes().split_at(cut);
        assert_eq!(prefix_of(Dialect::OpenAiChat, [head, tail]), whole, "cut at {cut}");
    }
    for bytes in [1, 2, 3, 7, 63, 512] {
        assert_eq!(prefix_of(Dialect::OpenAiChat, body.as_bytes().chunks(bytes)), whole, "{bytes} at once");
    }
}

#[test]
fn places_are_close_at_first_and_then_a_32nd_of_the_way() {
    let messages = |bytes: usize| format!(r#"{{"messages":["{}"]}}"#, "x".repeat(bytes));
    let places: Vec<u64> = chat(&messages(140_000)).iter().map(|boundary| boundary.bytes).collect();
    assert_eq!(places[..3], [512, 1_024, 1_536]);
    assert_eq!(places[62..67], [32_256, 32_768, 33_792, 34_816, 35_840]);
    assert_eq!(places[95..98], [65_536, 67_584, 69_632]);
    assert!(places.windows(2).all(|two| two[1] - two[0] <= (two[0] / 32).max(512)), "{places:?}");
    assert_eq!(chat(&messages(511)), []);
    let longest = chat(&messages(5_000_000));
    assert_eq!(longest.len(), BOUNDARIES_MAX);
    assert_eq!(longest.last().map(Boundary::tokens), Some(2 * 1024 * 1024 / 4));
}

#[test]
fn what_two_prompts_share_is_found_to_the_block() {
    let one = text(1, 10_000);
    for same in [0, 1, 511, 512, 513, 5_000, 9_999] {
        let other = format!("{}#{}", &one[..same], &one[same + 1..]);
        let body = |content: &str| json!({"messages": [{"content": content}], "model": "m"}).to_string();
        assert_eq!(shared(&chat(&body(&one)), &chat(&body(&other))), same as u64 / 512 * 512, "{same}");
    }
}

#[test]
fn a_conversation_shares_all_of_its_last_turn() {
    let (system, asked, said, again) = (text(1, 1_500), text(2, 2_000), text(3, 800), text(4, 700));
    let turn = |messages: serde_json::Value| chat(&json!({"model": "m", "messages": messages}).to_string());
    let first = turn(json!([
        {"role": "system", "content": system.as_str()},
        {"role": "user", "content": asked.as_str()},
    ]));
    let second = turn(json!([
        {"role": "system", "content": system.as_str()},
        {"role": "user", "content": asked.as_str()},
        {"role": "assistant", "content": said},
        {"role": "user", "content": again},
    ]));
    assert_eq!(shared(&first, &second), 3_072, "of 3,500 bytes, and two roles of 10");
    assert_eq!(first.len(), 6);
}

/// Each field is set into the same body and the prompt compared with that of the body alone.
#[test]
fn what_reaches_the_model_counts_and_nothing_else() {
    let long = text(1, 3_000);
    let with = |field: &str| {
        chat(&format!(r#"{{"model":"m",{field}"messages":[{{"role":"user","content":"{long}"}}],"n":1}}"#))
    };
    let alone = with("");
    for field in [
        r#""temperature":0.7,"#,
        r#""stream":true,"stream_options":{"include_usage":true},"#,
        r#""user":"ann","#,
        r#""max_tokens":5,"#,
        r#""metadata":{"a":["b"]},"#,
        "  \n ",
    ] {
        assert_eq!(with(field), alone, "{field}");
    }
    for field in [
        r#""cache_salt":"a","#,
        r#""extra_key":"a","#,
        r#""lora_path":"a","#,
        r#""tools":[{"name":"f"}],"#,
        r#""tools":[{"strict":true}],"#,
        r#""messages":["another"],"#,
    ] {
        assert_eq!(shared(&alone, &with(field)), 0, "{field}");
    }
    assert_ne!(with(r#""cache_salt":"a","#), with(r#""cache_salt":"b","#));
    assert_ne!(with(r#""tools":[{"a":true}],"#), with(r#""tools":[{"a":false}],"#));
    assert_ne!(with(r#""tools":[{"a":1}],"#), with(r#""tools":[{"a":2}],"#));
    assert_ne!(with(r#""tools":[{"a":"bc"}],"#), with(r#""tools":[{"ab":"c"}],"#));
}

#[test]
fn the_model_and_its_adapter_count_from_the_first_boundary_on() {
    let body = |model: &str| json!({"messages": [text(1, 2_000)], "model": model}).to_string();
    assert_eq!(shared(&chat(&body("m")), &chat(&body("m"))), 1_536);
    assert_eq!(shared(&chat(&body("m")), &chat(&body("m:adapter"))), 0);
}

#[test]
fn the_order_of_the_fields_does_not_count() {
    let fields = [
        r#""model":"m""#.to_owned(),
        r#""cache_salt":"s""#.to_owned(),
        format!(r#""messages":[{{"role":"user","content":"{}"}}]"#, text(1, 2_000)),
        format!(r#""tools":[{{"name":"{}"}}]"#, text(2, 1_000)),
    ];
    let in_order =
        |order: [usize; 4]| chat(&format!("{{{}}}", order.map(|place| fields[place].as_str()).join(",")));
    let first = in_order([0, 1, 2, 3]);
    assert_eq!(first.len(), 1 + 1 + 3, "tools, their end, messages");
    for order in [[3, 2, 1, 0], [2, 0, 3, 1], [1, 3, 0, 2], [2, 3, 1, 0]] {
        assert_eq!(in_order(order), first, "{order:?}");
    }
}

/// Tools stand before the messages in what an engine computes, wherever they are written.
#[test]
fn tools_are_shared_by_conversations_and_conversations_only_with_their_tools() {
    let body = |tools: u64, messages: u64| {
        chat(&json!({"messages": [text(messages, 2_000)], "tools": [text(tools, 1_000)]}).to_string())
    };
    assert_eq!(shared(&body(1, 2), &body(1, 3)), 1_000, "all of the tools");
    assert_eq!(shared(&body(1, 2), &body(4, 2)), 0);
}

#[test]
fn the_mark_of_how_far_to_cache_may_move() {
    let block = |seed: u64, mark: &str| format!(r#"{{"type":"text","text":"{}"{mark}}}"#, text(seed, 1_000));
    let mark = r#","cache_control":{"type":"ephemeral"}"#;
    let body = |blocks: &[String]| {
        let body = format!(r#"{{"messages":[{{"role":"user","content":[{}]}}]}}"#, blocks.join(","));
        prefix_of(Dialect::AnthropicMessages, [body.as_bytes()])
    };
    let before = body(&[block(1, ""), block(2, mark)]);
    let after = body(&[block(1, ""), block(2, ""), block(3, mark)]);
    assert_eq!(before.len(), 3);
    assert_eq!(shared(&before, &after), 1_536);
}

#[test]
fn another_image_is_another_prompt() {
    let body = |image: &str| {
        let url = format!("data:image/png;base64,{image}");
        chat(
            &json!({"messages": [{"content": [
                {"type": "text", "text": text(1, 700)},
                {"type": "image_url", "image_url": {"url": url}},
                {"type": "text", "text": text(2, 700)},
            ]}]})
            .to_string(),
        )
    };
    assert_eq!(shared(&body("AAAA"), &body("AAAA")), 1_024);
    assert_eq!(shared(&body("AAAA"), &body("AAAB")), 512);
}

#[test]
fn every_api_with_a_prompt_has_a_prefix() {
    let long = text(1, 1_100);
    let ids: Vec<u32> = (0..300).collect();
    for (dialect, body) in [
        (Dialect::OpenAiCompletions, json!({"prompt": long.as_str()})),
        (Dialect::OpenAiCompletions, json!({"prompt": ids.as_slice()})),
        (Dialect::OpenAiResponses, json!({"input": long.as_str()})),
        (Dialect::OpenAiResponses, json!({"instructions": long.as_str(), "input": "x"})),
        (Dialect::AnthropicMessages, json!({"system": long.as_str(), "messages": []})),
        (Dialect::Generate, json!({"text": long.as_str()})),
        (Dialect::Generate, json!({"token_ids": ids.as_slice()})),
        (Dialect::LlamaCpp, json!({"prompt": long.as_str()})),
        (Dialect::OllamaChat, json!({"messages": [{"content": long.as_str()}]})),
        (Dialect::OllamaGenerate, json!({"prompt": long.as_str()})),
    ] {
        let found = prefix_of(dialect, [body.to_string().as_bytes()]);
        let places: Vec<u64> = found.iter().take(2).map(|boundary| boundary.bytes).collect();
        assert_eq!(places, [512, 1_024], "{dialect:?}: {body:.60}");
    }
    let unasked = Scanner::new(Dialect::OpenAiCompletions, Head::default());
    assert_eq!(unasked.prefix(), []);
}

#[test]
fn ids_are_told_apart_from_each_other() {
    let body =
        |ids: &[u32]| prefix_of(Dialect::OpenAiCompletions, [json!({"prompt": ids}).to_string().as_bytes()]);
    let one: Vec<u32> = (1_000..2_000).collect();
    let mut other = one.clone();
    other[200] = 7;
    assert_eq!(shared(&body(&one), &body(&other)), 512);
    let (mut joined, mut split) = (one.clone(), one);
    joined.splice(0..2, [11, 1]);
    split.splice(0..2, [1, 11]);
    assert_eq!(shared(&body(&joined), &body(&split)), 0);
}

proptest! {
    #[test]
    fn any_body_cut_anywhere_gives_the_same(
        contents in proptest::collection::vec("[a-zé\u{1F642}\"\\\\\n]{0,700}", 1..4),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let body = json!({"messages": contents, "tools": contents, "model": contents[0].len().to_string()}).to_string();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len())).collect();
        cuts.sort_unstable();
        cuts.push(body.len());
        let mut from = 0;
        let chunks = cuts.iter().map(|&to| &body.as_bytes()[std::mem::replace(&mut from, to)..to]);
        prop_assert_eq!(prefix_of(Dialect::OpenAiChat, chunks), chat(&body));
    }
}
