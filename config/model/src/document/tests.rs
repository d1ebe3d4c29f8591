use std::fs;
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::source::Source;
use crate::{compile, yaml};

/// All examples and inputs of goldens.
fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = Vec::new();
    for dir in [root.join("tests/golden"), root.join("../examples")] {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let text = fs::read_to_string(&path).unwrap();
            let input = text.split("\n----------").next().unwrap_or_default().to_owned() + "\n";
            sources.push(Source { file: path.display().to_string(), text: input });
        }
    }
    sources.sort_by(|a, b| a.file.cmp(&b.file));
    sources
}

fn trees() -> Vec<Value> {
    sources()
        .iter()
        .filter_map(|source| yaml::read(source).ok())
        .flatten()
        .map(|tree| tree.value)
        .filter(|value| value.get("kind").is_some())
        .collect()
}

fn read_value(value: &Value) -> Result<Document, Box<Refused>> {
    let source = Source { file: "a.yaml".to_owned(), text: value.to_string() };
    let mut trees = yaml::read(&source).unwrap();
    read(trees.remove(0))
}

#[test]
fn documents_printed_and_compiled_again_mean_the_same() {
    let mut compared = 0;
    for source in sources() {
        let Ok(compiled) = compile(std::slice::from_ref(&source)) else { continue };
        let printed: Vec<String> =
            yaml::read(&source).unwrap().into_iter().map(|tree| printed(tree.value)).collect();
        let again = Source { file: source.file.clone(), text: printed.join("\n---\n") };
        let again = compile(&[again]).unwrap_or_else(|findings| panic!("{}: {findings:?}", source.file));
        assert_eq!(again.snapshot, compiled.snapshot, "{}", source.file);
        compared += 1;
    }
    assert!(compared >= 10, "{compared} sets of documents compile");
}

/// The document, read to its type and written again.
fn printed(value: Value) -> String {
    fn through<S: DeserializeOwned + Serialize>(value: Value) -> Value {
        serde_json::to_value(serde_json::from_value::<Written<S>>(value).unwrap()).unwrap()
    }
    let kind = value["kind"].as_str().unwrap().to_owned();
    let mut written = match Kind::ALL.into_iter().find(|known| known.name() == kind).unwrap() {
        Kind::HttpRoute => through::<http_route::HttpRouteSpec>(value),
        Kind::Backend => through::<backend::BackendSpec>(value),
        Kind::BackendPolicy => through::<backend_policy::BackendPolicySpec>(value),
        Kind::LatencySlo => through::<latency_slo::LatencySloSpec>(value),
        Kind::ProxyConfig => through::<proxy_config::ProxyConfigSpec>(value),
    };
    drop_nulls(&mut written);
    written.to_string()
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// A change of one part of a document.
#[derive(Clone, Debug)]
enum Damage {
    Replace(Value),
    Rename(&'static str),
    Remove,
}

fn damage() -> impl Strategy<Value = Damage> {
    let values = [
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(1.5),
        json!(65_536),
        json!(1u64 << 40),
        json!(""),
        json!("x"),
        json!("/x"),
        json!("1s"),
        json!("16Mi"),
        json!("99.5"),
        json!("10.0.0.1"),
        json!("[::1]:0"),
        json!("0.0.0.0:99999"),
        json!("Ä"),
        json!([]),
        json!([[]]),
        json!({}),
        json!({ "name": "x", "value": "y" }),
        json!("(".repeat(2_000)),
    ];
    prop_oneof![
        4 => prop::sample::select(values.to_vec()).prop_map(Damage::Replace),
        1 => prop::sample::select(vec!["name", "kind", "type", "x", "dns", ""]).prop_map(Damage::Rename),
        1 => Just(Damage::Remove),
    ]
}

/// Applies `damage` to the part with number `index`, parts counted from the root downwards.
fn apply(value: &mut Value, index: &mut usize, damage: &Damage) {
    match value {
        Value::Object(fields) => {
            let names: Vec<String> = fields.keys().cloned().collect();
            for name in names {
                if *index == 0 {
                    let old = fields.remove(&name);
                    match damage {
                        Damage::Replace(new) => _ = fields.insert(name, new.clone()),
                        Damage::Rename(new) => _ = fields.insert((*new).to_owned(), old.unwrap_or_default()),
                        Damage::Remove => {}
                    }
                    *index = usize::MAX;
                    return;
                }
                *index -= 1;
                if let Some(field) = fields.get_mut(&name) {
                    apply(field, index, damage);
                }
                if *index == usize::MAX {
                    return;
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                if *index == 0 {
                    if let Damage::Replace(new) = damage {
                        *item = new.clone();
                    }
                    *index = usize::MAX;
                    return;
                }
                *index -= 1;
                apply(item, index, damage);
                if *index == usize::MAX {
                    return;
                }
            }
        }
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_500, failure_persistence: None, ..ProptestConfig::default() })]

    /// The check against the schema and the types agree: what the one lets through the other takes.
    #[test]
    fn what_fits_the_schema_can_be_deserialised(
        tree in any::<prop::sample::Index>(),
        damages in prop::collection::vec((0_usize..120, damage()), 1..3),
    ) {
        thread_local! {
            static TREES: Vec<Value> = trees();
        }
        let mut value = TREES.with(|trees| tree.get(trees).clone());
        for (mut index, damage) in damages {
            apply(&mut value, &mut index, &damage);
        }
        if let Err(refused) = read_value(&value) {
            let Some(kind) = refused.kind else { return Ok(()) };
            let source = Source { file: "a.yaml".to_owned(), text: value.to_string() };
            let tree = yaml::read(&source).unwrap().remove(0);
            let found = structure::check(schema::of(kind), &tree.value, &tree.origin);
            prop_assert!(!found.is_empty(), "only the type refused it: {:?}\n{}", refused.findings, value);
        }
    }
}

/// Editors see patterns alone; they must not refuse what we take.
#[test]
fn patterns_let_through_what_fits() {
    for (format, texts) in [
        ("object-name", vec!["a", "a-b.c", "0"]),
        ("label", vec!["a", "a-b", "0"]),
        ("dns-name", vec!["chat", "chat.example"]),
        ("ip-address", vec!["10.0.0.7", "fd00::7", "::ffff:10.0.0.7"]),
        ("listen-address", vec!["127.0.0.1:0", "[::]:4743"]),
        ("peer-address", vec!["127.0.0.1:1", "[fd00::7]:4743"]),
        ("host-and-port", vec!["a.b:8746", "[::1]:8746", "127.0.0.1:8746"]),
        ("duration", vec!["0s", "1h1m1s1ms", "500ms"]),
        ("window", vec!["1h", "30d", "4w"]),
        ("byte-size", vec!["0", "16Mi", "64Ki", "1Gi"]),
        ("percent", vec!["0", "99.5", "100"]),
        ("spiffe-id", vec!["spiffe://cluster.local/ns/a/sa/B_1.x", "spiffe://a"]),
        ("header-name", vec!["x-a", "X_1", "a.b~"]),
        ("header-value", vec!["x", "a b\tc", "é"]),
        ("timestamp", vec!["2026-01-31T08:00:00Z", "2026-01-31t08:00:00.5+01:00"]),
        ("trust-domain", vec!["cluster.local", "a_b-c"]),
    ] {
        let format = formats::named(format).unwrap();
        let pattern = format.pattern.map(|pattern| regex::Regex::new(pattern).unwrap());
        for text in texts {
            assert!((format.fits)(text), "{}: {text}", format.name);
            assert!(pattern.as_ref().is_none_or(|pattern| pattern.is_match(text)), "{}: {text}", format.name);
        }
        for text in ["", " ", "a b c:", "\n", "spiffe://A", "é:", "*"] {
            assert!(!(format.fits)(text) || format.name.starts_with("header"), "{}: {text:?}", format.name);
        }
    }
}

#[test]
fn defaults_are_those_of_what_is_decided() {
    let settings = |text: &str| {
        let source = Source { file: "a.yaml".to_owned(), text: text.to_owned() };
        crate::compile_proxy(&[source], Path::new("/")).unwrap().0
    };
    let head = "apiVersion: penstock.dev/v1alpha1\nkind: ProxyConfig\nmetadata: {name: a}\n";
    let least = settings(&format!("{head}spec: {{documents: x, outbound: {{}}}}"));
    let written = |path: [&str; 2]| {
        let schema = &schema::of(Kind::ProxyConfig)["properties"]["spec"]["properties"];
        schema[path[0]]["properties"][path[1]]["default"].clone()
    };
    let limits = json!({
        "connectionsMax": written(["limits", "connectionsMax"]),
        "streamsPerConnectionMax": written(["limits", "streamsPerConnectionMax"]),
        "headerBytesMax": written(["limits", "headerBytesMax"]),
        "headerReadTimeout": written(["limits", "headerReadTimeout"]),
        "bodyHeldTotalMax": written(["limits", "bodyHeldTotalMax"]),
    });
    let deadline = written(["drain", "deadline"]);
    let spec =
        json!({ "documents": "x", "outbound": {}, "limits": limits, "drain": { "deadline": deadline } });
    assert_eq!(settings(&format!("{head}spec: {spec}")), least);
    assert_eq!(least.limits, crate::settings::Limits::default());
}
