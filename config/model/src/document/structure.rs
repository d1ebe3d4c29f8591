//! Compares a tree with the schema of its kind and reports everything that does not fit.
//!
//! A deserialiser stops at the first error; a person wants them all. So the walk goes over the whole tree, with the same
//! schema that editors use. It knows the keywords that our schemas contain, and the three of ours: `x-refused` (a field or
//! value that is known but not supported, with its own code), `x-at-least` and `x-at-most` (bounds of quantities).

use serde_json::{Map, Value};

use super::formats::{self, Format};
use crate::finding::{Code, Finding, spelling};
use crate::source::{FieldPath, Origin};
use crate::units::{ByteSize, Span, Window};

/// Everything in `value` that does not fit `schema`.
pub(super) fn check(schema: &Value, value: &Value, origin: &Origin) -> Vec<Finding> {
    let mut walk = Walk { origin, findings: Vec::new() };
    walk.value(schema, value, &FieldPath::default(), "the document");
    walk.findings
}

struct Walk<'a> {
    origin: &'a Origin,
    findings: Vec<Finding>,
}

impl Walk<'_> {
    /// `what` names the value in messages.
    fn value(&mut self, schema: &Value, value: &Value, path: &FieldPath, what: &str) {
        let Value::Object(schema) = schema else { return };
        if !self.has_type(schema, value, path, what) {
            return;
        }
        match value {
            Value::Object(fields) => self.fields(schema, fields, path, what),
            Value::Array(items) => self.items(schema, items, path, what),
            Value::String(text) => self.text(schema, text, path, what),
            Value::Number(_) => self.number(schema, value, path, what),
            Value::Bool(_) | Value::Null => {}
        }
    }

    fn has_type(&mut self, schema: &Map<String, Value>, value: &Value, path: &FieldPath, what: &str) -> bool {
        let wanted: Vec<&str> = match schema.get("type") {
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
            // An enum whose variants are explained is a list of constants; all of ours are texts.
            _ if schema.contains_key("oneOf") => vec!["string"],
            _ => return true,
        };
        let found = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(number) if number.is_f64() => "number",
            Value::Number(_) => "integer",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        if wanted.contains(&found) {
            return true;
        }
        let wanted = wanted[0];
        let finding = if found == "null" {
            let message = format!("{what} is written and left empty");
            self.origin.finding_of_key(Code::EmptyValue, path, message)
        } else {
            let message = format!("{what} must be {}, not {}", in_words(wanted), in_words(found));
            let finding = self.origin.finding(Code::WrongType, path, message);
            match format_of(schema)
                .map(|format| format!("write {}", format.grammar))
                .or_else(|| quoting_help(wanted, value))
            {
                Some(help) => finding.with_help(help),
                None => explained(finding, schema),
            }
        };
        self.findings.push(finding);
        false
    }

    fn fields(
        &mut self,
        schema: &Map<String, Value>,
        fields: &Map<String, Value>,
        path: &FieldPath,
        what: &str,
    ) {
        let empty = Map::new();
        let known = schema.get("properties").and_then(Value::as_object).unwrap_or(&empty);
        for (name, value) in fields {
            let path = path.field(name.clone());
            match (known.get(name), schema.get("additionalProperties")) {
                (Some(schema), _) | (None, Some(schema @ Value::Object(_))) => {
                    self.value(schema, value, &path, &format!("`{name}`"));
                }
                (None, Some(Value::Bool(false))) => {
                    self.findings.push(self.stranger(schema, known, name, &path));
                }
                _ => {}
            }
        }
        let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
        for name in required.filter_map(Value::as_str).filter(|name| !fields.contains_key(*name)) {
            let path = path.field(name.to_owned());
            let message = format!("`{name}` is missing from {what}");
            let finding = self.origin.finding_of_key(Code::MissingField, &path, message);
            let schema = known.get(name).and_then(Value::as_object).unwrap_or(&empty);
            self.findings.push(explained(finding.with_help(format!("add `{name}`")), schema));
        }
    }

    /// A field that is not among the known ones.
    fn stranger(
        &self,
        schema: &Map<String, Value>,
        known: &Map<String, Value>,
        name: &str,
        path: &FieldPath,
    ) -> Finding {
        if let Some((code, fix)) = refusal(schema, name) {
            let message = format!("`{name}` is not supported in this version");
            return self.origin.finding_of_key(code, path, message).with_help(fix);
        }
        let names: Vec<&str> = known.keys().map(String::as_str).collect();
        let guess = spelling::guess(name, names.iter().copied());
        let finding = self.origin.finding_of_key(Code::UnknownField, path, format!("unknown field `{name}`"));
        finding.with_help(format!("{guess}Allowed: {}", names.join(", ")))
    }

    fn items(&mut self, schema: &Map<String, Value>, items: &[Value], path: &FieldPath, what: &str) {
        self.length(schema, Unit::Items, items.len(), path, what);
        if let Some(schema) = schema.get("items") {
            let singular = format!("an item of {what}");
            for (index, item) in items.iter().enumerate() {
                self.value(schema, item, &path.item(index), &singular);
            }
        }
    }

    fn text(&mut self, schema: &Map<String, Value>, text: &str, path: &FieldPath, what: &str) {
        let choices = choices(schema);
        if !choices.is_empty() {
            if !choices.contains(&text) {
                self.findings.push(self.no_choice(schema, &choices, text, path, what));
            }
            return;
        }
        self.length(schema, Unit::Characters, text.chars().count(), path, what);
        let Some(format) = format_of(schema) else { return };
        if !(format.fits)(text) {
            let message = format!("`{text}` is not {}", format.grammar);
            self.findings.push(explained(self.origin.finding(Code::BadFormat, path, message), schema));
            return;
        }
        let bound = |key| schema.get(key).and_then(Value::as_str);
        let quantity = |text| quantity(format.name, text);
        for (bound, beyond, side) in [
            (bound("x-at-least"), std::cmp::Ordering::Less, "least"),
            (bound("x-at-most"), std::cmp::Ordering::Greater, "most"),
        ] {
            if let Some(bound) = bound
                && quantity(text).cmp(&quantity(bound)) == beyond
            {
                let message = format!("{what} is `{text}`, and `{bound}` is the {side}");
                self.findings.push(explained(self.origin.finding(Code::OutOfRange, path, message), schema));
            }
        }
    }

    fn no_choice(
        &self,
        schema: &Map<String, Value>,
        choices: &[&str],
        text: &str,
        path: &FieldPath,
        what: &str,
    ) -> Finding {
        if let Some((code, fix)) = refusal(schema, text) {
            let message = format!("`{text}` is not supported in this version");
            return self.origin.finding(code, path, message).with_help(fix);
        }
        let guess = spelling::guess(text, choices.iter().copied());
        let message = format!("{what} cannot be `{text}`");
        self.origin
            .finding(Code::UnknownValue, path, message)
            .with_help(format!("{guess}Allowed: {}", choices.join(", ")))
    }

    fn number(&mut self, schema: &Map<String, Value>, value: &Value, path: &FieldPath, what: &str) {
        if let Some(Value::Array(allowed)) = schema.get("enum") {
            if !allowed.contains(value) {
                let allowed: Vec<String> = allowed.iter().map(Value::to_string).collect();
                let message = format!("{what} cannot be {value}");
                let help = format!("Allowed: {}", allowed.join(", "));
                self.findings.push(self.origin.finding(Code::UnknownValue, path, message).with_help(help));
            }
            return;
        }
        let bound = |key| schema.get(key).and_then(Value::as_f64);
        let number = value.as_f64().unwrap_or(f64::INFINITY);
        let message = match (bound("minimum"), bound("maximum")) {
            (Some(least), _) if number < least => format!("{what} is {value}, and {least} is the least"),
            (_, Some(most)) if number > most => format!("{what} is {value}, and {most} is the most"),
            _ => return,
        };
        self.findings.push(explained(self.origin.finding(Code::OutOfRange, path, message), schema));
    }

    fn length(
        &mut self,
        schema: &Map<String, Value>,
        unit: Unit,
        count: usize,
        path: &FieldPath,
        what: &str,
    ) {
        let (least, most, unit) = match unit {
            Unit::Characters => ("minLength", "maxLength", "characters"),
            Unit::Items => ("minItems", "maxItems", "items"),
        };
        let bound = |key| schema.get(key).and_then(Value::as_u64);
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        let message = match (bound(least), bound(most)) {
            (Some(least), _) if count < least => {
                format!("{what} has {count} {unit}, and {least} is the least")
            }
            (_, Some(most)) if count > most => format!("{what} has {count} {unit}, and {most} is the most"),
            _ => return,
        };
        self.findings.push(explained(self.origin.finding(Code::BadLength, path, message), schema));
    }
}

/// What a length is counted in.
#[derive(Clone, Copy)]
enum Unit {
    Characters,
    Items,
}

/// The finding, with what the schema says of the field after its help.
fn explained(finding: Finding, schema: &Map<String, Value>) -> Finding {
    match schema.get("description").and_then(Value::as_str) {
        Some(description) => {
            let help = format!("{}. {}", finding.help, description.replace('\n', " "));
            finding.with_help(help)
        }
        None => finding,
    }
}

fn format_of(schema: &Map<String, Value>) -> Option<&'static Format> {
    schema.get("format").and_then(Value::as_str).and_then(formats::named)
}

/// The texts that a value may be; empty where it is free.
fn choices(schema: &Map<String, Value>) -> Vec<&str> {
    if let Some(Value::String(only)) = schema.get("const") {
        return vec![only];
    }
    let listed = schema.get("enum").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let explained = schema.get("oneOf").and_then(Value::as_array).into_iter().flatten();
    listed.chain(explained.filter_map(Value::as_object).flat_map(choices)).collect()
}

fn refusal<'a>(schema: &'a Map<String, Value>, what: &str) -> Option<(Code, &'a str)> {
    let entry = schema.get("x-refused")?.get(what)?;
    Some((Code::named(entry.get("code")?.as_str()?)?, entry.get("fix")?.as_str()?))
}

/// A text of a quantity as a number, so that two can be compared.
fn quantity(format: &str, text: &str) -> Option<u128> {
    match format {
        "duration" => text.parse::<Span>().ok().map(|span| span.duration().as_nanos()),
        "window" => text.parse::<Window>().ok().map(|window| window.duration().as_nanos()),
        "byte-size" => text.parse::<ByteSize>().ok().map(|size| size.bytes().into()),
        _ => None,
    }
}

fn in_words(name: &str) -> &'static str {
    match name {
        "null" => "empty",
        "boolean" => "true or false",
        "integer" => "a whole number",
        "number" => "a number with a fraction",
        "string" => "text",
        "array" => "a list",
        _ => "a map of fields",
    }
}

fn quoting_help(wanted: &str, value: &Value) -> Option<String> {
    match (wanted, value) {
        ("string", Value::Number(_) | Value::Bool(_)) => Some(format!("put it in quotes: \"{value}\"")),
        ("integer", Value::String(text)) if text.parse::<u64>().is_ok() => {
            Some(format!("write it without quotes: {text}"))
        }
        ("boolean", Value::String(text)) => match text.to_ascii_lowercase().as_str() {
            "yes" | "on" | "true" => Some("write `true`".to_owned()),
            "no" | "off" | "false" => Some("write `false`".to_owned()),
            _ => None,
        },
        ("array", _) => Some("write a list: each item on a line of its own that starts with `- `".to_owned()),
        _ => None,
    }
}
