//! Ollama's own API. It streams unless it is told not to: JSON objects, one a line.
//!
//! The last line has `done: true`, the counts and the times. llama.cpp serves OpenAI's chat at `/api/chat`, so its events are known
//! here as well.

use crate::answer::Mark;
use crate::json::Shape;
use crate::openai;
use crate::reply::words::Words;
use crate::scan::Wanted;
use crate::tables::{Answer, Events, Request, Streams, Tables};
use crate::usage::Count;

/// `POST /api/chat`.
pub(crate) static CHAT: Tables = Tables {
    label: "ollama_chat",
    operation: Some("chat"),
    streams: Streams::UnlessRefused,
    request: Request::Json(&CHAT_BODY),
    answer: ANSWER,
    words: Words::Text,
};

/// `POST /api/generate`.
pub(crate) static GENERATE: Tables = Tables {
    label: "ollama_generate",
    operation: Some("text_completion"),
    streams: Streams::UnlessRefused,
    request: Request::Json(&GENERATE_BODY),
    answer: ANSWER,
    words: Words::Text,
};

/// `POST /api/embed`, and `/api/embeddings` before it.
pub(crate) static EMBED: Tables = Tables {
    label: "ollama_embed",
    operation: Some("embeddings"),
    streams: Streams::Never,
    request: Request::Json(&EMBED_BODY),
    answer: ANSWER,
    words: Words::Text,
};

const ANSWER: Answer = Answer {
    event: Some(Events { shape: &EVENT, last: &[], error: &["error"] }),
    message: None,
    whole: Some(&WHOLE),
};

static CHAT_BODY: Shape<Wanted> = Shape::object(&[
    ("model", Shape::value(Wanted::Model)),
    ("stream", Shape::value(Wanted::Stream)),
    ("options", OPTIONS),
    ("messages", Shape::text(Wanted::Text(0)).with_each(&MESSAGE)),
    ("tools", Shape::text(Wanted::TextAndKeys(1))),
]);

static MESSAGE: Shape<Wanted> = Shape::object(&[("images", Shape::leaves(Wanted::Media))]);

static GENERATE_BODY: Shape<Wanted> = Shape::object(&[
    ("model", Shape::value(Wanted::Model)),
    ("stream", Shape::value(Wanted::Stream)),
    ("options", OPTIONS),
    ("prompt", Shape::text(Wanted::Text(1))),
    ("system", Shape::text(Wanted::Text(2))),
    ("suffix", Shape::text(Wanted::Text(0))),
    ("images", Shape::leaves(Wanted::Media)),
]);

const OPTIONS: Shape<Wanted> =
    Shape::object(&[("num_predict", Shape::value(Wanted::OutputCap("num_predict")))]);

static EMBED_BODY: Shape<Wanted> = Shape::object(&[
    ("model", Shape::value(Wanted::Model)),
    ("input", Shape::text(Wanted::Text(0))),
    ("prompt", Shape::text(Wanted::Text(1))),
]);

static EVENT: Shape<Mark> = Shape::object(&[
    (
        "message",
        Shape::object(&[
            ("role", Shape::value(Mark::Role)),
            ("content", Shape::value(Mark::Text)),
            ("thinking", Shape::value(Mark::Text)),
            ("tool_calls", Shape::each(&Shape::value(Mark::Call))),
        ]),
    ),
    ("response", Shape::value(Mark::Text)),
    ("thinking", Shape::value(Mark::Text)),
    ("done", Shape::value(Mark::Last)),
    ("prompt_eval_count", Shape::value(Mark::Count(Count::Input))),
    ("eval_count", Shape::value(Mark::Count(Count::Output))),
    ("error", Shape::value(Mark::Error)),
    ("choices", Shape::each(&openai::CHOICE)),
    ("usage", openai::USAGE),
]);

static WHOLE: Shape<Mark> = Shape::object(&[
    ("prompt_eval_count", Shape::value(Mark::Count(Count::Input))),
    ("eval_count", Shape::value(Mark::Count(Count::Output))),
    ("usage", openai::USAGE),
]);
