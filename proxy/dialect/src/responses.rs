//! OpenAI Responses. Engines that speak it: OpenAI, vLLM, SGLang, llama.cpp, Ollama.
//!
//! Events are typed (`response.output_text.delta`), whatever they carry that was generated is a string `delta`, and the last one
//! repeats the whole answer with its usage. There is no `[DONE]`.

use crate::answer::Mark;
use crate::json::Shape;
use crate::reply::words::Words;
use crate::scan::Wanted;
use crate::tables::{Answer, Events, Request, Streams, Tables};
use crate::usage::Count;

/// `POST /v1/responses`, and its relatives that count or compact the input.
pub(crate) static RESPONSES: Tables = Tables {
    label: "openai_responses",
    operation: Some("chat"),
    streams: Streams::IfAsked,
    request: Request::Json(&BODY),
    answer: Answer {
        event: Some(Events {
            shape: &EVENT,
            last: &["response.completed", "response.incomplete"],
            error: &["response.failed", "error"],
        }),
        message: None,
        whole: Some(&WHOLE),
    },
    words: Words::Responses,
};

static BODY: Shape<Wanted> = Shape::object(&[
    ("model", Shape::value(Wanted::Model)),
    ("cache_salt", Shape::leaves(Wanted::CacheSalt)),
    ("stream", Shape::value(Wanted::Stream)),
    ("max_output_tokens", Shape::value(Wanted::OutputCap("max_output_tokens"))),
    ("input", Shape::text(Wanted::Text(0)).with_each(&ITEM)),
    ("instructions", Shape::text(Wanted::Text(1))),
    ("tools", Shape::text(Wanted::TextAndKeys(2))),
]);

/// A message, or the output of a tool, which may be a list of parts as well.
static ITEM: Shape<Wanted> = Shape::object(&[
    ("content", Shape::object(&[]).with_each(&PART)),
    ("output", Shape::object(&[]).with_each(&PART)),
    ("result", Shape::leaves(Wanted::Media)),
]);

static PART: Shape<Wanted> = Shape::object(&[
    ("image_url", Shape::leaves(Wanted::Media)),
    ("file_data", Shape::leaves(Wanted::Media)),
    ("input_audio", Shape::object(&[("data", Shape::leaves(Wanted::Media))])),
]);

static EVENT: Shape<Mark> = Shape::object(&[
    ("type", Shape::value(Mark::Kind)),
    ("delta", Shape::value(Mark::Text)),
    ("error", Shape::value(Mark::Error)),
    ("response", Shape::object(&[("usage", USAGE), ("error", Shape::value(Mark::Error))])),
]);

/// `input_tokens` stands alone in the answer to `/v1/responses/input_tokens`.
static WHOLE: Shape<Mark> =
    Shape::object(&[("usage", USAGE), ("input_tokens", Shape::value(Mark::Count(Count::Input)))]);

const USAGE: Shape<Mark> = Shape::object(&[
    ("input_tokens", Shape::value(Mark::Count(Count::Input))),
    ("output_tokens", Shape::value(Mark::Count(Count::Output))),
    ("input_tokens_details", Shape::object(&[("cached_tokens", Shape::value(Mark::Count(Count::Cached)))])),
    (
        "output_tokens_details",
        Shape::object(&[("reasoning_tokens", Shape::value(Mark::Count(Count::Reasoning)))]),
    ),
]);
