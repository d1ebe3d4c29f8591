//! Tool calls: which function, and arguments that its schema allows.

use axum::http::StatusCode;
use serde_json::{Map, Value, json};

use super::ask::{Function, Tool};
use super::reply::Refusal;
use crate::mix::{roll, scramble};

/// Deepest nesting of arguments; what lies below is left empty.
const DEPTH_MAX: u32 = 8;

/// The function that must be called: the first one if any will do, or the one that is named. `None` if the answer
/// is to be text, which is also what this engine prefers when it may choose.
///
/// # Errors
/// A call is demanded of a function that is not there, or the demand cannot be read.
pub(crate) fn demanded<'a>(
    tools: &'a [Tool],
    choice: Option<&Value>,
) -> Result<Option<&'a Function>, Refusal> {
    let name = match choice {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(word)) => match word.as_str() {
            "none" | "auto" => return Ok(None),
            "required" => {
                let first = tools.first().map(|tool| &tool.function);
                return first
                    .map(Some)
                    .ok_or_else(|| Refusal::bad("tool_choice", "required, but there are no tools"));
            }
            _ => return Err(Refusal::bad("tool_choice", "must be none, auto, required or a function")),
        },
        Some(named) => named["function"]["name"].as_str(),
    };
    let Some(name) = name else {
        return Err(Refusal::bad(
            "tool_choice",
            "must name a function: {\"type\":\"function\",\"function\":{\"name\":…}}",
        ));
    };
    match tools.iter().find(|tool| tool.function.name == name) {
        Some(tool) => Ok(Some(&tool.function)),
        None => {
            let message = format!("tool_choice: there is no tool {name:?}");
            Err(Refusal::new(StatusCode::BAD_REQUEST, message).about("tool_choice"))
        }
    }
}

/// Arguments for a call: the same for the same function and seed.
pub(crate) fn arguments(function: &Function, seed: u64) -> String {
    let any = json!({"type": "object"});
    let schema = function.parameters.as_ref().unwrap_or(&any);
    let mut value = Filler { draw: seed }.fill(schema, 0);
    if !value.is_object() {
        value = Value::Object(Map::new());
    }
    value.to_string()
}

struct Filler {
    draw: u64,
}

impl Filler {
    fn next(&mut self, below: u64) -> u64 {
        self.draw = roll(self.draw, 1);
        scramble(self.draw) % below
    }

    fn fill(&mut self, schema: &Value, depth: u32) -> Value {
        if let Some(choices) = schema["enum"].as_array().filter(|choices| !choices.is_empty()) {
            return choices[self.next(choices.len() as u64) as usize].clone();
        }
        if let Some(only) = schema.get("const") {
            return only.clone();
        }
        match kind(schema) {
            _ if depth > DEPTH_MAX => Value::Null,
            "object" => self.object(schema, depth),
            "array" => Value::Array((0..2).map(|_| self.fill(&schema["items"], depth + 1)).collect()),
            "integer" => json!(self.bounded(schema)),
            "number" => json!(self.bounded(schema) as f64),
            "boolean" => json!(self.next(2) == 1),
            "null" => Value::Null,
            _ => json!(WORDS[self.next(WORDS.len() as u64) as usize]),
        }
    }

    fn object(&mut self, schema: &Value, depth: u32) -> Value {
        let Some(properties) = schema["properties"].as_object() else { return Value::Object(Map::new()) };
        properties.iter().map(|(name, schema)| (name.clone(), self.fill(schema, depth + 1))).collect()
    }

    fn bounded(&mut self, schema: &Value) -> i64 {
        let least = schema["minimum"].as_f64().map_or(0, |least| least.ceil() as i64);
        let most = schema["maximum"].as_f64().map_or(least.saturating_add(99), |most| most.floor() as i64);
        let width = most.saturating_sub(least).clamp(0, 1_000_000) as u64 + 1;
        least.saturating_add(self.next(width) as i64)
    }
}

/// The type that a schema asks for; the first one if it allows several.
fn kind(schema: &Value) -> &str {
    match &schema["type"] {
        Value::String(kind) => kind,
        Value::Array(kinds) => kinds.iter().find_map(Value::as_str).unwrap_or("string"),
        _ if schema["properties"].is_object() => "object",
        _ => "string",
    }
}

const WORDS: [&str; 12] = [
    "water", "gate", "turbine", "Zürich", "valley", "north", "lake", "keeper", "noon", "wheel", "river",
    "dam",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn function(parameters: Value) -> Function {
        Function { name: "f".to_owned(), description: None, parameters: Some(parameters) }
    }

    #[test]
    fn arguments_are_what_the_schema_allows_and_always_the_same() {
        let function = function(json!({"type": "object", "properties": {
            "city": {"type": "string"},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            "days": {"type": "integer", "minimum": 3, "maximum": 5},
            "exact": {"type": ["boolean", "null"]},
            "places": {"type": "array", "items": {"type": "object", "properties": {"x": {"type": "number"}}}},
        }}));
        for seed in 0..50 {
            let text = arguments(&function, seed);
            assert_eq!(text, arguments(&function, seed));
            let value: Value = serde_json::from_str(&text).expect("JSON");
            assert!(value["city"].is_string() && value["exact"].is_boolean(), "{value}");
            assert!(["celsius", "fahrenheit"].contains(&value["unit"].as_str().expect("text")), "{value}");
            assert!((3..=5).contains(&value["days"].as_i64().expect("integer")), "{value}");
            assert!(value["places"][1]["x"].is_number(), "{value}");
        }
    }

    #[test]
    fn odd_schemas_still_give_an_object() {
        let mut deep = json!({"type": "string"});
        for _ in 0..100 {
            deep = json!({"type": "object", "properties": {"d": deep}});
        }
        let backwards = json!({"type": "integer", "minimum": 9e99, "maximum": -9e99});
        for schema in [json!(true), json!({"type": "string"}), deep, json!({"properties": {"n": backwards}})]
        {
            let value: Value = serde_json::from_str(&arguments(&function(schema), 1)).expect("JSON");
            assert!(value.is_object(), "{value}");
        }
    }

    #[test]
    fn only_a_demand_leads_to_a_call() {
        let tools = [Tool { function: function(json!({})) }];
        let name = |choice: Value| demanded(&tools, Some(&choice)).map(|found| found.map(|f| f.name.clone()));
        assert_eq!(name(json!("auto")), Ok(None));
        assert_eq!(name(json!("none")), Ok(None));
        assert_eq!(name(json!("required")), Ok(Some("f".to_owned())));
        assert_eq!(name(json!({"type": "function", "function": {"name": "f"}})), Ok(Some("f".to_owned())));
        assert!(name(json!({"type": "function", "function": {"name": "g"}})).is_err());
        assert!(name(json!("always")).is_err());
        assert!(name(json!(7)).is_err());
        assert!(demanded(&[], Some(&json!("required"))).is_err());
    }
}
