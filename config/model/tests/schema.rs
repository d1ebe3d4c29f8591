//! The published JSON Schemas and the examples. `UPDATE_GOLDEN=1` writes the schemas anew.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use penstock_model::document::{Kind, schema};
use penstock_model::{Source, compile, compile_proxy};
use serde_json::Value;

fn config() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

#[test]
fn published_schemas_are_those_of_the_types() {
    let mut published = vec![("penstock".to_owned(), schema::bundle())];
    published.extend(Kind::ALL.map(|kind| (kind.name().to_owned(), schema::of(kind).clone())));
    for (name, schema) in published {
        let path = config().join("schema").join(format!("{name}.json"));
        let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &text).unwrap();
        }
        let found = fs::read_to_string(&path).unwrap_or_default();
        assert!(found == text, "{} is stale: UPDATE_GOLDEN=1 rewrites it", path.display());
    }
}

#[test]
fn every_field_is_explained_and_nothing_may_be_null() {
    fn walk(schema: &Value, path: &str) {
        if let Some(fields) = schema.get("properties").and_then(Value::as_object) {
            assert_eq!(schema["additionalProperties"], false, "{path} takes unknown fields");
            for (name, field) in fields {
                let path = format!("{path}.{name}");
                assert!(
                    field["description"].as_str().is_some_and(|text| !text.is_empty()),
                    "{path} is not explained"
                );
                let nullable = field.get("type").is_some_and(|types| types.to_string().contains("null"));
                assert!(!nullable || name == "creationTimestamp", "{path} may be null");
                assert!(field.get("anyOf").is_none(), "{path} has alternatives");
                walk(field, &path);
            }
        }
        if let Some(items) = schema.get("items") {
            walk(items, &format!("{path}[]"));
        }
    }
    for kind in Kind::ALL {
        walk(schema::of(kind), kind.name());
    }
}

#[test]
fn examples_compile_without_findings() {
    let dir = config().join("examples");
    let mut paths: Vec<PathBuf> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() >= 5, "{paths:?}");
    for path in paths {
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            text.starts_with("# yaml-language-server: $schema=../schema/penstock.json\n"),
            "{}",
            path.display()
        );
        let sources = [Source { file: path.display().to_string(), text }];
        match compile(&sources) {
            Ok(compiled) => assert_eq!(compiled.warnings, [], "{}", path.display()),
            Err(findings) => {
                panic!("{}", findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n\n"))
            }
        }
        if sources[0].text.contains("kind: ProxyConfig") {
            compile_proxy(&sources, &dir).unwrap();
        }
    }
}
