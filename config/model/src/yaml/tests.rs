use std::fmt::Write as _;

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn read_text(text: &str) -> Result<Vec<Tree>, Vec<Finding>> {
    read(&Source { file: "a.yaml".to_owned(), text: text.to_owned() })
}

/// Both readers see `value` in `text`, and every scalar has its place there.
fn check(text: &str, value: &Value) -> Result<(), TestCaseError> {
    let trees = read_text(text);
    let Ok(trees) = trees else { return Err(TestCaseError::fail(format!("{trees:?}\n{text}"))) };
    let roots: Vec<&Value> = trees.iter().map(|tree| &tree.value).collect();
    let expected: Vec<&Value> = std::iter::once(value).filter(|value| !value.is_null()).collect();
    prop_assert_eq!(roots, expected, "{}", text);
    for tree in &trees {
        places(&tree.value, &tree.origin, &FieldPath::default(), text)?;
    }
    Ok(())
}

fn places(value: &Value, origin: &Origin, path: &FieldPath, text: &str) -> Result<(), TestCaseError> {
    let at = origin.locate(path, crate::source::End::Value);
    let line = text.split('\n').nth(at.line as usize - 1).unwrap_or_default();
    prop_assert_eq!(&at.excerpt, line, "{} in {}", path, text);
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let path = path.field(name.clone());
                let key = origin.locate(&path, crate::source::End::Key);
                prop_assert!(unquoted(&key.text, name), "key {:?} at {:?} in {}", name, key, text);
                places(value, origin, &path, text)?;
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                places(value, origin, &path.item(index), text)?;
            }
        }
        Value::String(written) => {
            prop_assert!(unquoted(&at.text, written), "{:?} at {:?} in {}", written, at, text);
        }
        Value::Bool(_) | Value::Number(_) => prop_assert_eq!(&at.text, &value.to_string(), "{}", text),
        Value::Null => {}
    }
    Ok(())
}

/// Whether the source text begins as `written` does, quotes and escapes aside.
fn unquoted(source: &str, written: &str) -> bool {
    let simple = |c: &char| c.is_alphanumeric();
    let bare = source.trim_start_matches(['"', '\'', '|', '>']);
    match (bare.chars().next().filter(simple), written.chars().next().filter(simple)) {
        (Some(source), Some(written)) => source == written,
        _ => true,
    }
}

fn text() -> impl Strategy<Value = String> {
    let tricky = [
        "",
        "~",
        "null",
        "true",
        "yes",
        "off",
        "1",
        "-1",
        "0x1F",
        "0o17",
        "0b1",
        "010",
        "1e3",
        "1.",
        ".5",
        ".inf",
        "-.inf",
        ".nan",
        "+1",
        "1_000",
        "1:30",
        "-",
        "- a",
        "? a",
        "a: b",
        "a:",
        ":a",
        "# a",
        "a #b",
        "<<",
        "=",
        "!a",
        "&a",
        "*a",
        "|",
        ">",
        "@a",
        "`a",
        "%a",
        "{a",
        "}a",
        "[a",
        "]a",
        ",a",
        "'a'",
        "\"a\"",
        "a\\b",
        " a",
        "a ",
        "a\nb",
        "a\n\nb\n",
        "\ta",
        "a\tb",
        "---",
        "...",
        "2026-01-31",
        "é",
        "日本",
        "🙂 a",
        "18446744073709551616",
        "nan",
        "inf",
        "e3",
        "0.",
        "a'b",
        "00",
        "0x",
        "0xg",
        "--1",
    ];
    prop_oneof![
        prop::sample::select(tricky.to_vec()).prop_map(str::to_owned),
        "[a-zA-Z0-9 :#,'\"\\[\\]{}&*!|>%@`?~/._é日-]{0,12}",
    ]
}

fn tree() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        3 => text().prop_map(Value::String),
        1 => any::<i64>().prop_map(Value::from),
        1 => any::<u64>().prop_map(Value::from),
        1 => any::<bool>().prop_map(Value::Bool),
        1 => Just(Value::Null),
        1 => (-1_000_000_i32..1_000_000).prop_map(|n| Value::from(f64::from(n) / 64.0 + 0.5 / 64.0)),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::btree_map(text(), inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Choices of style, without end.
struct Styles(std::vec::IntoIter<u8>);

impl Styles {
    fn next(&mut self) -> u8 {
        self.0.next().unwrap_or_default()
    }
}

/// Writes `value` with the styles that `styles` chooses: block or flow, quotes of either kind or none, comments between.
fn write(value: &Value, indent: usize, flow: bool, styles: &mut Styles, out: &mut String) {
    let flow = flow || styles.next().is_multiple_of(3);
    match value {
        Value::Object(fields) if !fields.is_empty() && !flow => {
            for (name, value) in fields {
                newline(indent, styles.next(), out);
                scalar(name, styles.next(), out);
                out.push_str(": ");
                write(value, indent + 2, false, styles, out);
            }
        }
        Value::Array(items) if !items.is_empty() && !flow => {
            for value in items {
                newline(indent, styles.next(), out);
                out.push_str("- ");
                write(value, indent + 2, false, styles, out);
            }
        }
        Value::Object(fields) => {
            out.push('{');
            for (index, (name, value)) in fields.iter().enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                scalar(name, styles.next(), out);
                out.push_str(": ");
                write(value, indent, true, styles, out);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (index, value) in items.iter().enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                write(value, indent, true, styles, out);
            }
            out.push(']');
        }
        Value::String(text) => scalar(text, styles.next(), out),
        other => write!(out, "{other}").unwrap(),
    }
}

fn newline(indent: usize, style: u8, out: &mut String) {
    if style.is_multiple_of(5) {
        out.push_str("\n\n      # a comment: not {a value}");
    }
    out.push('\n');
    out.push_str(&" ".repeat(indent));
}

fn scalar(text: &str, style: u8, out: &mut String) {
    let plain = !text.is_empty()
        && plain_meaning(text) == Meaning::Text
        && !["<<", "..."].contains(&text)
        && text.chars().all(|c| c.is_alphanumeric() || "/._".contains(c));
    match style % 3 {
        0 if plain => out.push_str(text),
        1 if !text.contains(['\n', '\t']) => write!(out, "'{}'", text.replace('\'', "''")).unwrap(),
        _ => out.push_str(&Value::from(text).to_string()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn both_readers_see_the_tree_that_was_written(value in tree(), styles in prop::collection::vec(any::<u8>(), 64)) {
        let mut text = String::new();
        write(&value, 0, false, &mut Styles(styles.into_iter()), &mut text);
        check(&text, &value)?;
    }

    #[test]
    fn both_readers_see_json(value in tree()) {
        check(&value.to_string(), &value)?;
        check(&serde_json::to_string_pretty(&value).unwrap(), &value)?;
    }

    #[test]
    fn both_readers_see_what_the_library_writes(value in tree()) {
        let text = serde_yaml::to_string(&value).unwrap();
        // The library writes this key without quotes, which makes it a merge key.
        prop_assume!(!text.contains("<<:"));
        check(&text, &value)?;
    }

    #[test]
    fn scalars_without_quotes_mean_the_same_to_both(text in text()) {
        // Whatever the text is: either it is refused, or each value has passed the comparison.
        if let Ok(trees) = read_text(&format!("a: {text}\nb: [{text}]\n")) {
            prop_assert!(trees.len() <= 1);
        }
    }
}

#[test]
fn tricky_scalars_are_read_and_not_refused() {
    for (text, value) in [
        ("a: ~", json!({ "a": null })),
        ("a:", json!({ "a": null })),
        ("a: True", json!({ "a": true })),
        ("a: yes", json!({ "a": "yes" })),
        ("a: 0x1F", json!({ "a": 31 })),
        ("a: -0x1F", json!({ "a": -31 })),
        ("a: 0o17", json!({ "a": 15 })),
        ("a: 010", json!({ "a": "010" })),
        ("a: 1e3", json!({ "a": 1000.0 })),
        ("a: .5", json!({ "a": 0.5 })),
        ("a: 1_000", json!({ "a": "1_000" })),
        ("a: 2026-01-31", json!({ "a": "2026-01-31" })),
        ("a: +1", json!({ "a": 1 })),
        ("a: 0xg", json!({ "a": "0xg" })),
        ("a: nan", json!({ "a": "nan" })),
        ("a: x\n  y\n\n  z", json!({ "a": "x y\nz" })),
        ("a: |\n  x\n   y\n", json!({ "a": "x\n y\n" })),
        ("a: >-\n  x\n  y\n", json!({ "a": "x y" })),
        ("a: &b [1]\nc: *b", json!({ "a": [1], "c": [1] })),
        ("%YAML 1.2\n---\na: 1\n...\n", json!({ "a": 1 })),
        ("\u{feff}a: 1", json!({ "a": 1 })),
        ("a: 1\r\nb: 2\r\n", json!({ "a": 1, "b": 2 })),
        ("? a\n: 1", json!({ "a": 1 })),
        ("{a: 1,}", json!({ "a": 1 })),
        ("a: 'it''s'", json!({ "a": "it's" })),
        ("a: \"\\x41\\u00e9\\n\"", json!({ "a": "Aé\n" })),
    ] {
        let trees = read_text(text).unwrap_or_else(|findings| panic!("{text}: {findings:?}"));
        assert_eq!(trees.len(), 1, "{text}");
        assert_eq!(trees[0].value, value, "{text}");
    }
}

#[test]
fn nothing_is_read_from_nothing() {
    for text in ["", "\n", "# only a comment\n", "---\n", "---\n---\n# x\n---\n", "~\n", "\u{feff}"] {
        assert_eq!(read_text(text).map(|trees| trees.len()).ok(), Some(0), "{text:?}");
    }
}
