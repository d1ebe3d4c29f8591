//! What is wrong with a request body: where, what, and how to mend it.

use std::fmt;

use crate::{JSON_DEPTH_MAX, MODEL_BYTES_MAX};

/// A body that cannot be routed safely.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanError {
    /// Where, in bytes from the start of the body: of the offending byte, or of the value that it belongs to.
    pub offset: u64,
    /// What.
    pub defect: Defect,
}

impl fmt::Display for ScanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "request body, byte {}: {}; {}", self.offset, self.defect, self.defect.fix())
    }
}

impl std::error::Error for ScanError {}

/// The ways in which a body can be wrong. `Display` says what; [`Defect::fix`] says what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Defect {
    /// No value at all: nothing, white space, or a byte order mark.
    Empty,
    /// The value is not an object.
    NotAnObject,
    /// The body ends before the object does.
    Truncated,
    /// Something follows the object.
    Trailing,
    /// A byte that cannot stand here.
    Unexpected {
        /// The byte.
        found: u8,
        /// What could stand here.
        wanted: &'static str,
    },
    /// Bytes in a string that are not UTF-8.
    Utf8,
    /// A control character in a string that must be written as an escape.
    Control(u8),
    /// A backslash followed by something that is not an escape.
    Escape,
    /// Half of a surrogate pair: no character.
    Surrogate,
    /// Objects and arrays nested deeper than [`JSON_DEPTH_MAX`].
    TooDeep,
    /// A value of the wrong type under a key that we read.
    WrongType {
        /// The key.
        key: &'static str,
        /// The types it may have.
        wanted: &'static str,
    },
    /// A model name longer than [`MODEL_BYTES_MAX`].
    ModelTooLong,
    /// A model name with a control character, which could not be a header value or a label.
    ModelUnprintable,
    /// A multipart form that two parsers could read in two ways, or that no parser could.
    Form(&'static str),
    /// gRPC framing or a message that cannot be read.
    Message(&'static str),
    /// A later message of a gRPC stream names another model than the first, after which all of them were routed.
    AnotherModel,
    /// A later message of a gRPC stream is compressed, so that nobody can say whether it names the model of the first.
    CompressedLater,
    /// A key that we act on, given twice with different values: the next parser may take the other one.
    Conflict {
        /// The key.
        key: &'static str,
    },
}

impl Defect {
    /// The key to blame, if it is a single one.
    #[must_use]
    pub fn key(&self) -> Option<&'static str> {
        match self {
            Defect::WrongType { key, .. } | Defect::Conflict { key } => Some(key),
            Defect::ModelTooLong | Defect::ModelUnprintable | Defect::AnotherModel => Some("model"),
            _ => None,
        }
    }

    /// What the sender can do about it.
    #[must_use]
    pub fn fix(&self) -> &'static str {
        match self {
            Defect::Empty | Defect::NotAnObject => "send one JSON object",
            Defect::Truncated => "send the whole object; check content-length",
            Defect::Trailing => "send nothing after the object",
            Defect::Unexpected { .. } => "make the body valid JSON (RFC 8259)",
            Defect::Utf8 => "encode the body as UTF-8",
            Defect::Control(_) => "write control characters in strings as \\u00XX",
            Defect::Escape => "use one of \\\" \\\\ \\/ \\b \\f \\n \\r \\t \\uXXXX",
            Defect::Surrogate => "write both halves of the surrogate pair, or neither",
            Defect::TooDeep => "nest less deeply",
            Defect::WrongType { .. } => "give the key a value of that type, or leave it out",
            Defect::ModelTooLong => "use the name under which the model is served",
            Defect::ModelUnprintable => "remove the control character",
            Defect::Form(_) => "write the form as RFC 7578 says, without what it leaves open",
            Defect::Message(_) => "send whole protobuf messages, each after its prefix of five bytes",
            Defect::AnotherModel => "open one stream for each model",
            Defect::CompressedLater => "compress all messages of a stream, or none",
            Defect::Conflict { .. } => "give the key once",
        }
    }
}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Defect::Empty => f.write_str("there is no JSON value"),
            Defect::NotAnObject => f.write_str("the body is JSON, but not an object"),
            Defect::Truncated => f.write_str("the body ends inside the JSON object"),
            Defect::Trailing => f.write_str("something follows the JSON object"),
            Defect::Unexpected { found, wanted } => {
                write!(f, "found '{}' where {wanted} belongs", found.escape_ascii())
            }
            Defect::Utf8 => f.write_str("the string is not valid UTF-8"),
            Defect::Control(byte) => write!(f, "the string has the raw control character 0x{byte:02x}"),
            Defect::Escape => f.write_str("the string has an unknown escape"),
            Defect::Surrogate => f.write_str("the string has half of a surrogate pair"),
            Defect::TooDeep => write!(f, "objects and arrays are nested deeper than {JSON_DEPTH_MAX}"),
            Defect::WrongType { key, wanted } => write!(f, "\"{key}\" must be {wanted}"),
            Defect::ModelTooLong => write!(f, "\"model\" is longer than {MODEL_BYTES_MAX} bytes"),
            Defect::ModelUnprintable => f.write_str("\"model\" has a control character"),
            Defect::Form(what) => write!(f, "the multipart form is not clear: {what}"),
            Defect::Message(what) => write!(f, "the gRPC message cannot be read: {what}"),
            Defect::AnotherModel => {
                f.write_str("the message names another model than the first of its stream")
            }
            Defect::CompressedLater => {
                f.write_str("the message is compressed, and the first of its stream was not")
            }
            Defect::Conflict { key } => write!(f, "\"{key}\" is given twice with different values"),
        }
    }
}
