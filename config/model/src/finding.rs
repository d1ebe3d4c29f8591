//! What is wrong with a document, where, and how to mend it.
//!
//! A finding is made at the place where something was noticed, from a [`Code`] of the one catalogue and a [`Location`]. Its
//! text form shows the source line with carets; its JSON form carries the same facts as fields.

mod catalogue;
mod render;
pub(crate) mod spelling;

use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};

pub use catalogue::{Code, Entry};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Level {
    /// Nothing is applied while it stands.
    Error,
    /// Applied, but hardly what was meant.
    Warning,
    /// Worth knowing.
    Info,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
        })
    }
}

/// Where something is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Location {
    /// The file as its reader named it.
    pub file: Arc<str>,
    /// From 1.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
    /// The field, such as `spec.rules[0].backendRefs[1].weight`; empty for a whole document or file.
    pub path: String,
    /// What is written there, cut at the end of its line.
    pub text: String,
    /// The whole source line.
    pub excerpt: String,
}

/// A second place that belongs to a finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Related {
    /// Where.
    #[serde(flatten)]
    pub at: Location,
    /// What is there.
    pub message: String,
}

/// One thing that is wrong, or probably wrong, with a document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which of the catalogue.
    pub code: Code,
    /// How bad it is.
    pub level: Level,
    /// `KIND NAMESPACE/NAME`; empty where the document could not be told.
    pub document: String,
    /// Where.
    #[serde(flatten)]
    pub at: Location,
    /// What is wrong, in one line.
    pub message: String,
    /// How to mend it.
    pub help: String,
    /// The other place, where two do not fit together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub related: Option<Related>,
}

impl Finding {
    /// A finding with the help of the catalogue.
    pub(crate) fn new(code: Code, document: &str, at: Location, message: impl Into<String>) -> Self {
        let entry = code.entry();
        Self {
            code,
            level: entry.level,
            document: document.to_owned(),
            at,
            message: message.into(),
            help: entry.fix.to_owned(),
            related: None,
        }
    }

    /// The same with a help of its own.
    pub(crate) fn with_help(self, help: impl Into<String>) -> Self {
        Self { help: help.into(), ..self }
    }

    /// The same with a second place.
    pub(crate) fn beside(self, at: Location, message: impl Into<String>) -> Self {
        Self { related: Some(Related { at, message: message.into() }), ..self }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        render::text(self, f)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.entry().code)
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.entry().code)
    }
}
