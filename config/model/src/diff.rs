//! Snapshot against snapshot: what a push would change, for a person to read before it is pushed.
//!
//! Objects are told by kind and name. A changed one is taken apart to the fields that differ, in the words of the snapshot;
//! rules and objectives are paired by their names, so that one that is put in front does not change all others.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use crate::snapshot::Snapshot;
use crate::units::duration_text;

/// What differs between two snapshots, by kind and name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Changes {
    /// One for each object that differs.
    pub objects: Vec<Change>,
}

/// What becomes of one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// `Backend`, `Endpoint`, `HTTPRoute`, `BackendPolicy` or `LatencySLO`.
    pub kind: &'static str,
    /// `NAMESPACE/NAME`, of an endpoint with its address; of a policy that of its Backend.
    pub name: String,
    /// What happens to it.
    #[serde(flatten)]
    pub what: What,
}

/// What happens to an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "change", rename_all = "lowercase")]
pub enum What {
    /// It is new.
    Added,
    /// It goes.
    Removed,
    /// Some of its fields get other values.
    Changed {
        /// Those fields.
        fields: Vec<FieldChange>,
    },
}

/// What becomes of one field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldChange {
    /// Such as `rules[small].timeout_request`.
    pub path: String,
    /// Before; absent where the field is new.
    pub old: Option<String>,
    /// After; absent where the field goes.
    pub new: Option<String>,
}

impl Changes {
    /// What has to be changed in `old` to get `new`.
    pub fn between(old: &Snapshot, new: &Snapshot) -> Self {
        let (old, new) = (old.parts(), new.parts());
        let mut objects = Vec::new();
        compare("Backend", &old.backends, &new.backends, &mut objects);
        compare("Endpoint", &old.endpoints, &new.endpoints, &mut objects);
        compare("HTTPRoute", &old.routes, &new.routes, &mut objects);
        compare("BackendPolicy", &old.policies, &new.policies, &mut objects);
        compare("LatencySLO", &old.slos, &new.slos, &mut objects);
        Self { objects }
    }

    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }
}

/// `+` new, `-` gone, `~` changed with its fields below.
impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Change { kind, name, what } in &self.objects {
            match what {
                What::Added => writeln!(f, "+ {kind} {name}")?,
                What::Removed => writeln!(f, "- {kind} {name}")?,
                What::Changed { fields } => {
                    writeln!(f, "~ {kind} {name}")?;
                    for FieldChange { path, old, new } in fields {
                        let shown =
                            |value: &Option<String>| value.clone().unwrap_or_else(|| "(none)".to_owned());
                        writeln!(f, "    {path}: {} → {}", shown(old), shown(new))?;
                    }
                }
            }
        }
        Ok(())
    }
}

fn compare<K: Ord + fmt::Display, V: PartialEq + Serialize>(
    kind: &'static str,
    old: &BTreeMap<K, Arc<V>>,
    new: &BTreeMap<K, Arc<V>>,
    changes: &mut Vec<Change>,
) {
    let mut names: Vec<&K> = old.keys().chain(new.keys().filter(|name| !old.contains_key(name))).collect();
    names.sort();
    for name in names {
        let what = match (old.get(name), new.get(name)) {
            (Some(old), Some(new)) if old == new => continue,
            (Some(old), Some(new)) => {
                let mut fields = Vec::new();
                fields_of("", Some(&tree(old)), Some(&tree(new)), &mut fields);
                What::Changed { fields }
            }
            (None, _) => What::Added,
            (_, None) => What::Removed,
        };
        changes.push(Change { kind, name: name.to_string(), what });
    }
}

fn tree<V: Serialize>(object: &Arc<V>) -> Value {
    // Plain tables of strings and numbers have no way to fail.
    serde_json::to_value(&**object).unwrap_or_default()
}

fn fields_of(path: &str, old: Option<&Value>, new: Option<&Value>, changes: &mut Vec<FieldChange>) {
    if old == new {
        return;
    }
    let pair = (old.filter(|value| whole(value).is_none()), new.filter(|value| whole(value).is_none()));
    match pair {
        (Some(Value::Object(old)), Some(Value::Object(new))) => {
            let names: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            for name in names {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                fields_of(&path, old.get(name), new.get(name), changes);
            }
        }
        (Some(Value::Array(old)), Some(Value::Array(new))) => items_of(path, old, new, changes),
        _ => changes.push(FieldChange { path: path.to_owned(), old: shown(old), new: shown(new) }),
    }
}

fn items_of(path: &str, old: &[Value], new: &[Value], changes: &mut Vec<FieldChange>) {
    let names = |items: &[Value]| -> Option<Vec<String>> {
        items.iter().map(|item| Some(item.get("name")?.as_str()?.to_owned())).collect()
    };
    if let (Some(old_names), Some(new_names)) = (names(old), names(new)) {
        let find = |names: &[String], items: &'_ [Value], name: &String| {
            names.iter().position(|other| other == name).and_then(|index| items.get(index).cloned())
        };
        let gone = old_names.iter().filter(|name| !new_names.contains(name));
        for name in new_names.iter().chain(gone) {
            let (old, new) = (find(&old_names, old, name), find(&new_names, new, name));
            fields_of(&format!("{path}[{name}]"), old.as_ref(), new.as_ref(), changes);
        }
        let common = |names: &[String], others: &[String]| -> Vec<String> {
            names.iter().filter(|name| others.contains(name)).cloned().collect()
        };
        let (before, after) = (common(&old_names, &new_names), common(&new_names, &old_names));
        if before != after {
            let path = format!("{path} order");
            changes.push(FieldChange { path, old: Some(before.join(", ")), new: Some(after.join(", ")) });
        }
        return;
    }
    for index in 0..old.len().max(new.len()) {
        fields_of(&format!("{path}[{index}]"), old.get(index), new.get(index), changes);
    }
}

fn shown(value: Option<&Value>) -> Option<String> {
    value.filter(|value| !value.is_null()).map(|value| whole(value).unwrap_or_else(|| value.to_string()))
}

/// A value that reads better as one text than field by field.
fn whole(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Object(fields) if fields.len() == 2 => {
            let number = |field| fields.get(field).and_then(Value::as_u64);
            let text = |field| fields.get(field).and_then(Value::as_str);
            if let (Some(seconds), Some(nanos)) = (number("secs"), number("nanos")) {
                let nanos = u32::try_from(nanos).unwrap_or_default();
                return Some(duration_text(Duration::new(seconds, nanos)));
            }
            Some(format!("{}/{}", text("namespace")?, text("name")?))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use crate::{Source, compile};

    use super::*;

    const BEFORE: &str = r#"
apiVersion: penstock.dev/v1alpha1
kind: Backend
metadata: {name: a}
spec: {endpoints: [{address: 10.0.0.1, port: 80}, {address: 10.0.0.2, port: 80}]}
---
apiVersion: penstock.dev/v1alpha1
kind: Backend
metadata: {name: b}
spec: {endpoints: [{address: 10.0.0.3, port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: chat}
spec:
  parentRefs: [{group: penstock.dev, kind: Backend, name: a}]
  rules:
    - name: small
      matches: [{path: {value: /v1}}]
      backendRefs: [{group: penstock.dev, kind: Backend, name: a, weight: 9}]
      timeouts: {request: 1m}
    - name: rest
      backendRefs: [{group: penstock.dev, kind: Backend, name: b}]
"#;

    fn check(edit: impl Fn(&str) -> String, expected: &str) {
        let snapshot = |text: String| {
            compile(&[Source { file: "a.yaml".to_owned(), text }]).map(|compiled| compiled.snapshot)
        };
        let (old, new) = (snapshot(BEFORE.to_owned()).unwrap(), snapshot(edit(BEFORE)).unwrap());
        let changes = Changes::between(&old, &new);
        assert_eq!(changes.to_string(), expected);
        assert_eq!(changes.is_empty(), old == new);
    }

    #[test]
    fn equal_snapshots_have_no_changes() {
        check(str::to_owned, "");
        check(|text| format!("# as before\n{text}"), "");
    }

    #[test]
    fn changed_fields_are_named_with_both_values() {
        check(
            |text| text.replace("weight: 9", "weight: 5").replace("request: 1m", "request: 1m30s"),
            "~ HTTPRoute default/chat\n    rules[small].backends[0].weight: 9 → 5\n    \
             rules[small].timeout_request: 1m → 1m30s\n",
        );
        check(
            |text| {
                text.replace("name: a, weight: 9", "name: b, weight: 9").replace("value: /v1", "value: /v2")
            },
            "~ HTTPRoute default/chat\n    rules[small].backends[0].backend: default/a → default/b\n    \
             rules[small].matches[0].path.Prefix: /v1 → /v2\n",
        );
        check(
            |text| text.replace("      timeouts: {request: 1m}\n", ""),
            "~ HTTPRoute default/chat\n    rules[small].timeout_request: 1m → (none)\n",
        );
    }

    #[test]
    fn objects_come_and_go() {
        check(
            |text| text.replace("10.0.0.2", "10.0.0.9"),
            "- Endpoint default/a/10.0.0.2:80\n+ Endpoint default/a/10.0.0.9:80\n",
        );
        check(
            |text| text.replace("name: b}", "name: c}"),
            "- Backend default/b\n+ Backend default/c\n- Endpoint default/b/10.0.0.3:80\n+ Endpoint default/c/10.0.0.3:80\n\
             ~ HTTPRoute default/chat\n    rules[rest].backends[0].backend: default/b → default/c\n",
        );
    }

    #[test]
    fn rules_are_paired_by_name() {
        check(
            |text| {
                let new = "  rules:\n    - name: first\n      matches: [{path: {value: /x}}]\n      \
                           backendRefs: [{group: penstock.dev, kind: Backend, name: b}]\n";
                text.replace("  rules:\n", new).replace("weight: 9", "weight: 8")
            },
            "~ HTTPRoute default/chat\n    rules[first]: (none) → {\"backends\":[{\"backend\":{\"name\":\"b\",\
             \"namespace\":\"default\"},\"filters\":[],\"weight\":1}],\"filters\":[],\"matches\":[{\"headers\":[],\
             \"method\":null,\"path\":{\"Prefix\":\"/x\"},\"query\":[]}],\"name\":\"first\",\
             \"timeout_backend_request\":null,\"timeout_request\":null}\n    \
             rules[small].backends[0].weight: 9 → 8\n",
        );
        check(
            |text| {
                let (head, rules) = text.split_once("  rules:\n").unwrap();
                let (small, rest) = rules.split_once("    - name: rest").unwrap();
                format!("{head}  rules:\n    - name: rest{rest}{small}")
            },
            "~ HTTPRoute default/chat\n    rules order: small, rest → rest, small\n",
        );
    }

    #[test]
    fn changes_are_written_as_json() {
        let snapshot =
            compile(&[Source { file: "a.yaml".to_owned(), text: BEFORE.to_owned() }]).unwrap().snapshot;
        let json = serde_json::to_value(Changes::between(&Snapshot::default(), &snapshot)).unwrap();
        assert_eq!(json[0], serde_json::json!({ "kind": "Backend", "name": "default/a", "change": "added" }));
    }
}
