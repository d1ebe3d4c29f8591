//! Anthropic Messages. Engines that speak it: Anthropic, vLLM, SGLang, llama.cpp, Ollama.
//!
//! ```text
//! message_start (input tokens) → content_block_start → content_block_delta … → content_block_stop → … → message_delta (output
//! tokens) → message_stop; ping at any time, error instead of the end
//! ```
//!
//! A block that calls a tool generates something with its start already: the name of the tool. `input_tokens` leaves out what the cache
//! gave or was given.

use crate::answer::Mark;
use crate::json::Shape;
use crate::openai::CACHE_CONTROL;
use crate::reply::words::Words;
use crate::scan::Wanted;
use crate::tables::{Answer, Events, Request, Streams, Tables};
use crate::usage::Count;

/// `POST /v1/messages` and `/v1/messages/count_tokens`.
pub(crate) static MESSAGES: Tables = Tables {
    label: "anthropic_messages",
    operation: Some("chat"),
    streams: Streams::IfAsked,
    request: Request::Json(&BODY),
    answer: Answer {
        event: Some(Events { shape: &EVENT, last: &["message_stop"], error: &["error"] }),
        message: None,
        whole: Some(&WHOLE),
    },
    words: Words::Anthropic,
};

static BODY: Shape<Wanted> = Shape::object(&[
    ("model", Shape::value(Wanted::Model)),
    ("cache_salt", Shape::leaves(Wanted::CacheSalt)),
    ("stream", Shape::value(Wanted::Stream)),
    ("max_tokens", Shape::value(Wanted::OutputCap("max_tokens"))),
    ("messages", Shape::text(Wanted::Text(0)).with_each(&MESSAGE)),
    ("system", Shape::text(Wanted::Text(1)).with_each(&BLOCK)),
    ("tools", Shape::text(Wanted::TextAndKeys(2)).with_each(&TOOL)),
]);

static TOOL: Shape<Wanted> = Shape::object(&[CACHE_CONTROL]);

static MESSAGE: Shape<Wanted> = Shape::object(&[("content", Shape::object(&[]).with_each(&BLOCK))]);

/// A tool's result holds blocks of its own.
static BLOCK: Shape<Wanted> = Shape::object(&[
    ("source", SOURCE),
    ("content", Shape::object(&[]).with_each(&INNER_BLOCK)),
    CACHE_CONTROL,
]);

static INNER_BLOCK: Shape<Wanted> = Shape::object(&[("source", SOURCE), CACHE_CONTROL]);

/// Of an image or a document. A document may be plain text.
const SOURCE: Shape<Wanted> = Shape::object(&[("data", Shape::leaves(Wanted::Media))]);

static EVENT: Shape<Mark> = Shape::object(&[
    ("type", Shape::value(Mark::Kind)),
    ("message", Shape::object(&[("role", Shape::value(Mark::Role)), ("usage", USAGE)])),
    (
        "content_block",
        Shape::object(&[
            ("text", Shape::value(Mark::Text)),
            ("thinking", Shape::value(Mark::Text)),
            ("name", Shape::value(Mark::Text)),
            ("data", Shape::value(Mark::Text)),
        ]),
    ),
    (
        "delta",
        Shape::object(&[
            ("text", Shape::value(Mark::Text)),
            ("thinking", Shape::value(Mark::Text)),
            ("partial_json", Shape::value(Mark::Text)),
        ]),
    ),
    ("usage", USAGE),
    ("error", Shape::value(Mark::Error)),
]);

/// `input_tokens` stands alone in the answer to `count_tokens`.
static WHOLE: Shape<Mark> =
    Shape::object(&[("usage", USAGE), ("input_tokens", Shape::value(Mark::Count(Count::Input)))]);

const USAGE: Shape<Mark> = Shape::object(&[
    ("input_tokens", Shape::value(Mark::Count(Count::Fresh))),
    ("cache_read_input_tokens", Shape::value(Mark::Count(Count::Cached))),
    ("cache_creation_input_tokens", Shape::value(Mark::Count(Count::Written))),
    ("output_tokens", Shape::value(Mark::Count(Count::Output))),
    (
        "output_tokens_details",
        Shape::object(&[("thinking_tokens", Shape::value(Mark::Count(Count::Reasoning)))]),
    ),
]);
