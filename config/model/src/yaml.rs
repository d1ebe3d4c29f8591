//! Text to trees. The only file that knows the crate that reads YAML; no type of it leaves.
//!
//! A file is read twice. One pass over the parser's events ([`events`]) notes where everything is written and refuses what
//! documents have no use for (duplicate keys, merge keys, tags, aliases without bound). Then `serde_yaml` reads the same
//! text to values. The two are different parsers, so their results are compared node by node: a text that they take
//! differently is refused, and every value has a place.

mod events;

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use crate::finding::{Code, Finding};
use crate::source::{FieldPath, Node, Origin, Page, Place, Shape, Source};

/// Longest file, in bytes. Ten thousand endpoints with everything written out take about 1 MiB.
const FILE_BYTES_MAX: usize = 8 << 20;

/// One document: its value, and where each part of it is written.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) value: Value,
    pub(crate) origin: Origin,
}

/// Reads all documents of a file; empty ones are left out.
///
/// # Errors
/// Everything that keeps the file from being read.
pub(crate) fn read(source: &Source) -> Result<Vec<Tree>, Vec<Finding>> {
    let text = source.text.strip_prefix('\u{feff}').unwrap_or(&source.text);
    if text.len() > FILE_BYTES_MAX {
        let message = format!("the file has {} bytes, and {FILE_BYTES_MAX} is the most", text.len());
        let at = Page::new(&source.file, "").location(Place::START, String::new());
        return Err(vec![Finding::new(Code::FileTooLarge, "", at, message)]);
    }
    let page = Arc::new(Page::new(&source.file, text));
    let roots = events::read(&page, text)?;
    if roots.is_empty() {
        return Ok(Vec::new());
    }
    let values = values(&page, text)?;
    if values.len() != roots.len() {
        let message =
            format!("read as {} documents by one reader and as {} by another", roots.len(), values.len());
        return Err(vec![Finding::new(
            Code::ReadTwoWays,
            "",
            page.location(Place::START, String::new()),
            message,
        )]);
    }
    let mut trees = Vec::new();
    for (value, root) in values.into_iter().zip(roots) {
        let origin = Origin { page: Arc::clone(&page), root, title: String::new() };
        if let Some(path) = difference(&value, &origin.root, &FieldPath::default()) {
            let message = "this can be read in two ways";
            return Err(vec![origin.finding(Code::ReadTwoWays, &path, message)]);
        }
        if !value.is_null() {
            trees.push(Tree { value, origin });
        }
    }
    Ok(trees)
}

fn values(page: &Page, text: &str) -> Result<Vec<Value>, Vec<Finding>> {
    serde_yaml::Deserializer::from_str(text)
        .map(|document| {
            Value::deserialize(document).map_err(|error| {
                let place = error.location().map_or(Place::START, |at| Place {
                    line: u32::try_from(at.line()).unwrap_or(u32::MAX),
                    column: u32::try_from(at.column()).unwrap_or(u32::MAX),
                    width: Some(1),
                });
                let at = page.location(place, String::new());
                vec![Finding::new(Code::YamlSyntax, "", at, format!("not YAML: {error}"))]
            })
        })
        .collect()
}

/// The first place where the value that was read is not what is written there.
fn difference(value: &Value, node: &Node, path: &FieldPath) -> Option<FieldPath> {
    let differs = || Some(path.clone());
    match (value, &node.shape) {
        (Value::Array(values), Shape::List(nodes)) if values.len() == nodes.len() => values
            .iter()
            .zip(nodes)
            .enumerate()
            .find_map(|(index, (value, node))| difference(value, node, &path.item(index))),
        (Value::Object(fields), Shape::Map(entries)) if fields.len() == entries.len() => {
            entries.iter().find_map(|entry| {
                let path = path.field(entry.key.clone());
                match fields.get(&entry.key) {
                    Some(value) => difference(value, &entry.value, &path),
                    None => Some(path),
                }
            })
        }
        (Value::String(read), Shape::Scalar { text, .. }) if read == text => None,
        (Value::Null, Shape::Scalar { text, plain: true }) if plain_meaning(text) == Meaning::Nothing => None,
        (Value::Bool(_), Shape::Scalar { text, plain: true }) if plain_meaning(text) == Meaning::Truth => {
            None
        }
        (Value::Number(_), Shape::Scalar { text, plain: true }) if plain_meaning(text) == Meaning::Number => {
            None
        }
        _ => differs(),
    }
}

/// What a scalar without quotes means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    Nothing,
    Truth,
    Number,
    /// Not a number, infinite, or an integer beyond 64 bits.
    UnusableNumber,
    Text,
}

/// YAML 1.2 core schema, as `serde_yaml` applies it.
fn plain_meaning(text: &str) -> Meaning {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Meaning::Nothing,
        "true" | "True" | "TRUE" | "false" | "False" | "FALSE" => return Meaning::Truth,
        ".nan" | ".NaN" | ".NAN" => return Meaning::UnusableNumber,
        _ => {}
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") {
        return Meaning::UnusableNumber;
    }
    let leading_zero = unsigned.len() > 1 && unsigned.starts_with('0');
    if leading_zero && unsigned.bytes().all(|b| b.is_ascii_digit()) {
        return Meaning::Text;
    }
    for (prefix, radix) in [("0x", 16), ("0o", 8), ("0b", 2)] {
        if let Some(digits) = unsigned.strip_prefix(prefix) {
            return match !digits.is_empty() && digits.chars().all(|c| c.is_digit(radix)) {
                true if i64::from_str_radix(digits, radix).is_ok() => Meaning::Number,
                true => Meaning::UnusableNumber,
                false => Meaning::Text,
            };
        }
    }
    if !unsigned.is_empty() && unsigned.bytes().all(|b| b.is_ascii_digit()) {
        let fits = text.parse::<i64>().is_ok() || text.parse::<u64>().is_ok();
        return if fits { Meaning::Number } else { Meaning::UnusableNumber };
    }
    match unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.') && unsigned.parse::<f64>().is_ok() {
        true if text.parse::<f64>().is_ok_and(f64::is_finite) => Meaning::Number,
        true => Meaning::UnusableNumber,
        false => Meaning::Text,
    }
}

#[cfg(test)]
mod tests;
