//! What is wrong with a metrics page: where, what, and how to mend it.

use std::fmt;

use super::readings::SERIES_MAX;

/// A page that cannot be used.
#[derive(Clone, Debug, PartialEq)]
pub enum PageDefect {
    /// No name on it is one of a known engine.
    UnknownEngine {
        /// How the page begins, on one line.
        begins: String,
    },
    /// Its last line has no end.
    Torn {
        /// So much of it came.
        bytes: usize,
    },
    /// A line that matters makes no sense.
    Line {
        /// Its number, from 1.
        number: usize,
        /// Why.
        defect: LineDefect,
    },
    /// More than [`SERIES_MAX`] series that matter.
    TooManySeries,
    /// A metric in a table is not written as `name{label=value,...}`.
    Spec(SpecDefect),
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq)]
pub enum LineDefect {
    /// It is not UTF-8.
    Utf8,
    /// What stands between its braces is not a list of labels.
    Labels,
    /// What follows its name is not a number.
    Value,
    /// Something follows its value that is no time.
    Trailing,
    /// A label that must be a number is none.
    LabelValue {
        /// Its name.
        label: &'static str,
        /// Its value.
        value: String,
    },
    /// A number that cannot be: a count below nothing, a share above one.
    Impossible {
        /// The number.
        value: f64,
        /// What could stand there.
        wanted: &'static str,
    },
}

/// A metric that is not written as `name{label=value,...}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecDefect {
    /// What is written.
    pub text: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl PageDefect {
    /// A word for it in metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::UnknownEngine { .. } => "unknown_engine",
            Self::Torn { .. } => "torn",
            Self::Line { defect: LineDefect::Impossible { .. }, .. } => "impossible",
            Self::Line { .. } => "malformed",
            Self::TooManySeries => "too_many_series",
            Self::Spec(_) => "bad_spec",
        }
    }
}

impl fmt::Display for PageDefect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownEngine { begins } if begins.is_empty() => {
                write!(f, "the page is empty; the engine may have its metrics switched off")
            }
            Self::UnknownEngine { begins } => write!(
                f,
                "no metric of a known engine, the page begins with `{begins}`; name the path and the port of the engine's metrics, or \
                 switch reading them off"
            ),
            Self::Torn { bytes } => {
                write!(f, "the page ends after {bytes} bytes in the middle of a line; it came only in part")
            }
            Self::Line { number, defect } => write!(f, "line {number}: {defect}"),
            Self::TooManySeries => write!(
                f,
                "more than {SERIES_MAX} series of load; read the page of one engine, not one that gathers those of many"
            ),
            Self::Spec(defect) => defect.fmt(f),
        }
    }
}

impl std::error::Error for PageDefect {}

impl fmt::Display for LineDefect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Utf8 => write!(f, "not UTF-8"),
            Self::Labels => write!(f, "the labels are not `{{name=\"value\",...}}`"),
            Self::Value => write!(f, "there is no number"),
            Self::Trailing => write!(f, "something other than a time follows the number"),
            Self::LabelValue { label, value } => write!(f, "`{label}` is `{value}`, not a number"),
            Self::Impossible { value, wanted } => write!(f, "{value} cannot be; {wanted} could"),
        }
    }
}

impl fmt::Display for SpecDefect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is no metric: {}; write `name` or `name{{label=value,...}}`", self.text, self.problem)
    }
}

impl std::error::Error for SpecDefect {}

impl From<SpecDefect> for PageDefect {
    fn from(defect: SpecDefect) -> Self {
        Self::Spec(defect)
    }
}
