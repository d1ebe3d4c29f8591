//! JSON Schema (draft 2020-12) of the documents: for editors, and for the structure check.

use std::sync::LazyLock;

use schemars::transform::{RecursiveTransform, Transform};
use schemars::{JsonSchema, Schema, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::{Kind, Written, backend, backend_policy, http_route, latency_slo, proxy_config};

static SCHEMAS: LazyLock<[Value; 5]> = LazyLock::new(|| Kind::ALL.map(generate));

/// The schema of one kind, self-contained.
pub fn of(kind: Kind) -> &'static Value {
    &SCHEMAS[kind as usize]
}

/// One schema for a file that may hold documents of any kind.
pub fn bundle() -> Value {
    let names = Kind::ALL.map(Kind::name);
    let branches: Vec<Value> = Kind::ALL
        .map(|kind| {
            json!({
                "if": { "required": ["kind"], "properties": { "kind": { "const": kind.name() } } },
                "then": { "$ref": format!("#/$defs/{}", kind.name()) },
            })
        })
        .to_vec();
    let definitions: Map<String, Value> = Kind::ALL
        .map(|kind| {
            let mut schema = of(kind).clone();
            if let Value::Object(fields) = &mut schema {
                fields.remove("$schema");
            }
            (kind.name().to_owned(), schema)
        })
        .into_iter()
        .collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Penstock",
        "description": "Any document that Penstock reads.",
        "type": "object",
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "properties": { "kind": { "enum": names } },
        "allOf": branches,
        "$defs": definitions,
    })
}

fn generate(kind: Kind) -> Value {
    match kind {
        Kind::HttpRoute => written::<http_route::HttpRouteSpec>(kind),
        Kind::Backend => written::<backend::BackendSpec>(kind),
        Kind::BackendPolicy => written::<backend_policy::BackendPolicySpec>(kind),
        Kind::LatencySlo => written::<latency_slo::LatencySloSpec>(kind),
        Kind::ProxyConfig => written::<proxy_config::ProxyConfigSpec>(kind),
    }
}

fn written<S: JsonSchema>(kind: Kind) -> Value {
    let description = schema_for::<S>()["description"].clone();
    let mut schema = schema_for::<Written<S>>();
    schema["title"] = kind.name().into();
    schema["properties"]["apiVersion"]["const"] = kind.api_version().into();
    schema["properties"]["kind"]["const"] = kind.name().into();
    schema["properties"]["spec"]["description"] = description.clone();
    schema["description"] = description;
    schema
}

fn schema_for<T: JsonSchema>() -> Value {
    let mut settings = SchemaSettings::draft2020_12();
    settings.inline_subschemas = true;
    let mut schema = settings.into_generator().into_root_schema_for::<T>();
    RecursiveTransform(without_null).transform(&mut schema);
    schema.to_value()
}

/// An optional field may be left out; it may not be written and left empty. Only `x-null` marks one that may.
fn without_null(schema: &mut Schema) {
    let Some(fields) = schema.as_object_mut() else { return };
    if fields.get("default").is_some_and(Value::is_null) {
        fields.remove("default");
    }
    if fields.remove("x-null").is_some() {
        return;
    }
    if let Some(Value::Array(types)) = fields.get_mut("type") {
        types.retain(|name| name != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            fields.insert("type".to_owned(), only);
        }
    }
    if let Some(Value::Array(values)) = fields.get_mut("enum") {
        values.retain(|value| !value.is_null());
    }
    if let Some(Value::Array(mut choices)) = fields.remove("anyOf") {
        choices.retain(|choice| choice.get("type").is_none_or(|name| name != "null"));
        match (choices.len(), choices.pop()) {
            (1, Some(Value::Object(only))) => {
                for (key, value) in only {
                    fields.entry(key).or_insert(value);
                }
            }
            (_, Some(last)) => {
                choices.push(last);
                fields.insert("anyOf".to_owned(), Value::Array(choices));
            }
            (_, None) => {}
        }
    }
}
