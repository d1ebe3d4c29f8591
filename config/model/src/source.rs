//! Where documents come from, and where in them something is.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use crate::finding::{Code, Finding, Location};

/// One file of documents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Its name as findings show it.
    pub file: String,
    /// Its content.
    pub text: String,
}

/// A source with an index of its lines.
#[derive(Debug)]
pub(crate) struct Page {
    file: Arc<str>,
    text: Arc<str>,
    line_starts: Vec<usize>,
}

impl Page {
    pub(crate) fn new(file: &str, text: &str) -> Self {
        let bytes = text.as_bytes();
        let ends_line = |at: usize| match bytes[at] {
            b'\n' => true,
            b'\r' => bytes.get(at + 1) != Some(&b'\n'),
            _ => false,
        };
        let line_starts =
            std::iter::once(0).chain((0..bytes.len()).filter(|at| ends_line(*at)).map(|at| at + 1)).collect();
        Self { file: file.into(), text: text.into(), line_starts }
    }

    /// The line with this number, from 1, without its end.
    pub(crate) fn line(&self, number: u32) -> &str {
        let index = usize::try_from(number).unwrap_or(usize::MAX).saturating_sub(1);
        let Some(start) = self.line_starts.get(index) else { return "" };
        let end = self.line_starts.get(index + 1).copied().unwrap_or(self.text.len());
        self.text[*start..end].trim_end_matches(['\n', '\r'])
    }

    /// The place, or the end of the text where it is beyond: parsers notice there that something is missing.
    fn within(&self, place: Place) -> Place {
        let last = u32::try_from(self.line_starts.len()).unwrap_or(u32::MAX);
        let last = if last > 1 && self.line(last).is_empty() { last - 1 } else { last };
        if place.line <= last {
            return place;
        }
        let column = u32::try_from(self.line(last).chars().count()).unwrap_or(u32::MAX).max(1);
        Place { line: last, column, ..place }
    }

    pub(crate) fn location(&self, place: Place, path: String) -> Location {
        let place = self.within(place);
        let excerpt = self.line(place.line);
        let rest = excerpt.chars().skip(place.column.saturating_sub(1) as usize);
        let text: String = match place.width {
            Some(width) => rest.take(width as usize).collect(),
            None => rest.collect(),
        };
        Location {
            file: Arc::clone(&self.file),
            line: place.line,
            column: place.column,
            path,
            text: text.trim_end().to_owned(),
            excerpt: excerpt.to_owned(),
        }
    }
}

/// A place in a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// From 1.
    pub(crate) line: u32,
    /// From 1, in characters.
    pub(crate) column: u32,
    /// In characters; to the end of the line where absent.
    pub(crate) width: Option<u32>,
}

impl Place {
    /// The very beginning.
    pub(crate) const START: Self = Self { line: 1, column: 1, width: Some(1) };
}

/// A value of a document as it is written, with the place of each part. Shared where an alias repeats it.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) shape: Shape,
    /// Nodes in it, itself included, aliases followed.
    pub(crate) size: usize,
}

#[derive(Debug)]
pub(crate) enum Shape {
    /// `plain`: written without quotes, so that it may mean a number, a truth value or nothing.
    Scalar {
        text: String,
        plain: bool,
    },
    List(Vec<Arc<Node>>),
    Map(Vec<Entry>),
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_place: Place,
    pub(crate) value: Arc<Node>,
}

impl Node {
    /// Its entry with this key.
    pub(crate) fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.shape {
            Shape::Map(entries) => entries.iter().find(|entry| entry.key == key),
            _ => None,
        }
    }

    fn item(&self, index: usize) -> Option<&Arc<Self>> {
        match &self.shape {
            Shape::List(items) => items.get(index),
            _ => None,
        }
    }
}

/// One step from a value to a part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Field(Cow<'static, str>),
    Item(usize),
}

/// The way from the root of a document to one of its fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FieldPath(Vec<Step>);

impl FieldPath {
    /// The path of `spec`.
    pub(crate) fn spec() -> Self {
        Self::default().field("spec")
    }

    pub(crate) fn field(&self, name: impl Into<Cow<'static, str>>) -> Self {
        self.then(Step::Field(name.into()))
    }

    pub(crate) fn item(&self, index: usize) -> Self {
        self.then(Step::Item(index))
    }

    fn then(&self, step: Step) -> Self {
        let mut steps = self.0.clone();
        steps.push(step);
        Self(steps)
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, step) in self.0.iter().enumerate() {
            match step {
                Step::Item(item) => write!(f, "[{item}]")?,
                Step::Field(name) if name.is_empty() || name.contains(|c: char| !c.is_alphanumeric()) => {
                    write!(f, "[{name:?}]")?;
                }
                Step::Field(name) if index == 0 => f.write_str(name)?,
                Step::Field(name) => write!(f, ".{name}")?,
            }
        }
        Ok(())
    }
}

/// Which end of `key: value` a finding points at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The key.
    Key,
    /// The value, or the key where the value is a list or a map.
    Value,
}

/// Where one document is written.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) page: Arc<Page>,
    pub(crate) root: Arc<Node>,
    /// `KIND NAMESPACE/NAME` as far as it is known.
    pub(crate) title: String,
}

impl Origin {
    /// Where the field is, or the nearest of the fields around it that is written.
    pub(crate) fn locate(&self, path: &FieldPath, end: End) -> Location {
        let mut node = &self.root;
        let mut place = node.place;
        for step in &path.0 {
            let (next, at) = match step {
                Step::Item(index) => match node.item(*index) {
                    Some(item) => (item, item.place),
                    None => break,
                },
                Step::Field(name) => match node.entry(name) {
                    Some(entry) => {
                        let scalar = matches!(entry.value.shape, Shape::Scalar { .. });
                        let at =
                            if scalar && end == End::Value { entry.value.place } else { entry.key_place };
                        (&entry.value, at)
                    }
                    None => break,
                },
            };
            (node, place) = (next, at);
        }
        self.page.location(place, path.to_string())
    }

    /// A finding about the value at `path`.
    pub(crate) fn finding(&self, code: Code, path: &FieldPath, message: impl Into<String>) -> Finding {
        Finding::new(code, &self.title, self.locate(path, End::Value), message)
    }

    /// A finding about the field at `path` itself.
    pub(crate) fn finding_of_key(&self, code: Code, path: &FieldPath, message: impl Into<String>) -> Finding {
        Finding::new(code, &self.title, self.locate(path, End::Key), message)
    }
}
