//! The scanner against `serde_json`: what is accepted, and what is read.
//!
//! Where the two differ on purpose the difference is named in [`differs_by_intent`].

use penstock_dialect::defect::Defect;
use penstock_dialect::scan::{Head, Progress, Scanner};
use penstock_dialect::{Dialect, Facts};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

fn scan(body: &[u8], chunk_bytes: usize) -> Result<Facts, Defect> {
    let mut scanner = Scanner::new(Dialect::OpenAiChat, Head::default());
    for chunk in body.chunks(chunk_bytes) {
        let _progress = scanner.push(chunk);
    }
    scanner.finish().map_err(|error| error.defect)
}

/// Defects of meaning: the scan stops at them, so nothing is said of the bytes after.
fn is_of_meaning(defect: &Defect) -> bool {
    matches!(
        defect,
        Defect::WrongType { .. } | Defect::ModelTooLong | Defect::ModelUnprintable | Defect::Conflict { .. }
    )
}

/// `serde_json` refuses numbers beyond f64 and depths beyond 128; the scanner takes a byte order mark.
fn differs_by_intent(body: &[u8], error: &serde_json::Error) -> bool {
    let said = error.to_string();
    said.contains("number out of range")
        || said.contains("recursion limit")
        || body.starts_with(b"\xEF\xBB\xBF")
}

fn string_bytes(value: &Value, with_keys: bool) -> u64 {
    match value {
        Value::String(text) => written(text),
        Value::Array(items) => items.iter().map(|item| string_bytes(item, with_keys)).sum(),
        Value::Object(fields) => fields
            .iter()
            .map(|(key, value)| if with_keys { written(key) } else { 0 } + string_bytes(value, with_keys))
            .sum(),
        _ => 0,
    }
}

fn written(text: &str) -> u64 {
    Value::from(text).to_string().len() as u64 - 2
}

/// What the scanner must read in a chat body, from the tree.
fn expected(body: &Map<String, Value>) -> Facts {
    // Keys are read in any letter case.
    let get =
        |wanted: &str| body.iter().find(|(key, _)| key.eq_ignore_ascii_case(wanted)).map(|(_, value)| value);
    let cap = |key| get(key).and_then(Value::as_u64);
    let bytes = |key, with_keys| get(key).map_or(0, |value| string_bytes(value, with_keys));
    Facts {
        model: get("model").and_then(Value::as_str).map(str::to_owned),
        streaming: get("stream").and_then(Value::as_bool).unwrap_or_default(),
        output_tokens_max: cap("max_completion_tokens").or_else(|| cap("max_tokens")),
        prompt_bytes: bytes("messages", false) + bytes("tools", true),
        ..Facts::default()
    }
}

/// The part of the facts that does not depend on how the text is escaped.
fn scalars(facts: &Facts) -> (Option<&str>, bool, Option<u64>) {
    (facts.model.as_deref(), facts.streaming, facts.output_tokens_max)
}

fn check_agreement(body: &[u8]) {
    let tree = serde_json::from_slice::<Map<String, Value>>(body);
    match (scan(body, body.len().max(1)), tree) {
        (Ok(facts), Ok(tree)) => {
            assert_eq!(scalars(&facts), scalars(&expected(&tree)), "{}", body.escape_ascii());
        }
        (Ok(_), Err(error)) => assert!(differs_by_intent(body, &error), "{error}: {}", body.escape_ascii()),
        (Err(defect), tree) => {
            assert!(tree.is_err() || is_of_meaning(&defect), "{defect:?}: {}", body.escape_ascii());
        }
    }
}

/// Any JSON, with strings that need escapes and the keys that the scanner looks for at depths where they mean nothing.
fn json() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        Just(json!("\u{0}\"\\/\u{8}\u{1f}\u{7f}\u{10ffff}日本語")),
    ];
    scalar.prop_recursive(5, 48, 6, |inner| {
        let key = prop_oneof![Just("model".to_owned()), Just("stream".to_owned()), ".{0,6}"];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(key, inner, 0..6).prop_map(|fields| fields.into_iter().collect()),
        ]
    })
}

/// A chat body: fields in any order, values of the right type.
fn chat() -> impl Strategy<Value = Vec<(String, Value)>> {
    let cap = || prop::option::of(prop_oneof![Just(Value::Null), (0..=u64::MAX).prop_map(Value::from)]);
    let fields = (
        prop::option::of("[ -~é]{0,40}"),
        prop::option::of(any::<bool>()),
        cap(),
        cap(),
        prop::option::of(json()),
        prop::option::of(json()),
        prop::collection::btree_map("x.{0,8}", json(), 0..3),
    );
    let fields = fields.prop_map(|(model, stream, cap, old_cap, messages, tools, other)| {
        let known = [
            ("model", model.map(Value::from)),
            ("stream", stream.map(Value::from)),
            ("max_completion_tokens", cap),
            ("max_tokens", old_cap),
            ("messages", messages),
            ("tools", tools),
        ];
        let known = known.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
        known.chain(other).collect::<Vec<_>>()
    });
    fields.prop_shuffle()
}

fn serialised(fields: &[(String, Value)], blank: &str) -> Vec<u8> {
    let fields: Vec<_> = fields
        .iter()
        .map(|(key, value)| format!("{blank}{}{blank}:{blank}{value}", Value::from(key.as_str())))
        .collect();
    format!("{blank}{{{}{blank}}}{blank}", fields.join(",")).into_bytes()
}

/// One change to a body.
#[derive(Clone, Debug)]
enum Mutation {
    Set(prop::sample::Index, u8),
    Insert(prop::sample::Index, &'static [u8]),
    Delete(prop::sample::Index, usize),
    Repeat(prop::sample::Index, usize),
    Cut(prop::sample::Index),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let place = any::<prop::sample::Index>;
    let pieces: Vec<&'static [u8]> = vec![
        b"\"",
        b"\\",
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b"0",
        b"-",
        b".",
        b"e",
        b"\xE2\x82",
        b"\x80",
        b"\xF4\x90\x80\x80",
        b"\\u",
        b"\\ud83d",
        b"\\ude00",
        b"\\u0041",
        b"\\q",
        b"\x00",
        b"\n",
        b"null",
        b"tru",
        b"NaN",
        b"//",
        b"\"model\":5,",
        b"\"stream\":true,",
        b"\xEF\xBB\xBF",
        b"1e5",
        b"01",
        b"1.",
        b"+1",
        b"\xED\xA0\x80",
        b"\xC0\x80",
    ];
    prop_oneof![
        (place(), any::<u8>()).prop_map(|(at, byte)| Mutation::Set(at, byte)),
        (place(), prop::sample::select(pieces)).prop_map(|(at, piece)| Mutation::Insert(at, piece)),
        (place(), 1_usize..4).prop_map(|(at, bytes)| Mutation::Delete(at, bytes)),
        (place(), 1_usize..24).prop_map(|(at, bytes)| Mutation::Repeat(at, bytes)),
        place().prop_map(Mutation::Cut),
    ]
}

fn mutate(body: &mut Vec<u8>, mutation: &Mutation) {
    if body.is_empty() {
        return;
    }
    match mutation {
        Mutation::Set(at, byte) => {
            let at = at.index(body.len());
            body[at] = *byte;
        }
        Mutation::Insert(at, piece) => {
            let at = at.index(body.len());
            body.splice(at..at, piece.iter().copied());
        }
        Mutation::Delete(at, bytes) => {
            let at = at.index(body.len());
            body.drain(at..(at + bytes).min(body.len()));
        }
        Mutation::Repeat(at, bytes) => {
            let at = at.index(body.len());
            let again = body[at..(at + bytes).min(body.len())].to_vec();
            body.splice(at..at, again);
        }
        Mutation::Cut(at) => body.truncate(at.index(body.len())),
    }
}

/// Everything a scan tells, error offsets included.
fn told(body: &[u8], cuts: &[usize]) -> (Vec<Progress>, String) {
    let mut scanner = Scanner::new(Dialect::OpenAiChat, Head::default());
    let mut progress = Vec::new();
    let mut from = 0;
    for &cut in cuts.iter().chain([&body.len()]) {
        progress.push(scanner.push(&body[from..cut]));
        from = cut;
    }
    (progress, format!("{:?}", scanner.finish()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn facts_of_a_valid_body_are_those_of_the_tree(fields in chat(), blank in prop::sample::select(vec!["", " ", "\n\t", "\r\n"])) {
        let body = serialised(&fields, blank);
        let tree: Map<_, _> = fields.into_iter().collect();
        prop_assert_eq!(scan(&body, body.len()), Ok(expected(&tree)));
        check_agreement(&body);
    }

    #[test]
    fn mutated_bodies_are_accepted_exactly_when_they_parse(
        fields in chat(),
        mutations in prop::collection::vec(mutation(), 1..4),
    ) {
        let mut body = serialised(&fields, "");
        for mutation in &mutations {
            mutate(&mut body, mutation);
            check_agreement(&body);
        }
    }

    #[test]
    fn any_split_tells_the_same(
        fields in chat(),
        mutations in prop::collection::vec(mutation(), 0..3),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
    ) {
        let mut body = serialised(&fields, "");
        for mutation in &mutations {
            mutate(&mut body, mutation);
        }
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(body.len() + 1)).collect();
        cuts.sort_unstable();
        let every_byte: Vec<_> = (0..body.len()).collect();
        let (at_once, whole) = told(&body, &[]);
        for cuts in [&cuts, &every_byte] {
            let (progress, result) = told(&body, cuts);
            prop_assert_eq!(&result, &whole);
            prop_assert_eq!(progress.last(), at_once.last());
        }
    }

    #[test]
    fn bytes_of_any_kind_never_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
        check_agreement(&body);
    }
}

#[test]
fn every_single_byte_change_of_a_body_agrees() {
    let body = br#"{"model":"a\u00e9\ud83d\ude00","stream":true,"max_tokens":10,"messages":[{"content":"\n\u0000"}],"x":[-0.5e+3,{}]}"#;
    for at in 0..body.len() {
        for byte in 0..=255 {
            let mut changed = body.to_vec();
            changed[at] = byte;
            check_agreement(&changed);
        }
        check_agreement(&body[..at]);
    }
}
