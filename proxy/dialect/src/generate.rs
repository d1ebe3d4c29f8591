//! `/generate`, a path that three engines serve in ways of their own: Triton (with the model in the path), TGI and SGLang.
//!
//! | | prompt | cap | an event | the last event |
//! |---|---|---|---|---|
//! | Triton | `text_input` | `max_tokens` | `text_output` | not marked |
//! | TGI | `inputs` | `parameters.max_new_tokens` | `token.text` | `generated_text`, with `details` |
//! | SGLang | `text`, `input_ids` | `sampling_params.max_new_tokens` | `text`, all of it so far, and `meta_info` | `[DONE]` |

use crate::answer::Mark;
use crate::json::Shape;
use crate::reply::words::Words;
use crate::scan::Wanted;
use crate::tables::{Answer, Events, Request, Streams, Tables};
use crate::usage::Count;

/// `POST …/generate` and `…/generate_stream`.
pub(crate) static GENERATE: Tables = Tables {
    label: "generate",
    operation: Some("text_completion"),
    streams: Streams::ByPath,
    request: Request::Json(&BODY),
    answer: Answer {
        event: Some(Events { shape: &EVENT, last: &[], error: &["error"] }),
        message: None,
        whole: Some(&WHOLE),
    },
    words: Words::TypedText,
};

static BODY: Shape<Wanted> = Shape::object(&[
    ("stream", Shape::value(Wanted::Stream)),
    ("max_tokens", Shape::value(Wanted::OutputCap("max_tokens"))),
    ("parameters", Shape::object(CAPS)),
    ("sampling_params", Shape::object(CAPS)),
    ("text_input", Shape::text(Wanted::Text(0))),
    ("inputs", Shape::text(Wanted::Text(1))),
    ("text", Shape::text(Wanted::Text(2))),
    ("prompt", Shape::text(Wanted::Text(3))),
    ("input_ids", Shape::text(Wanted::TextOrIds(4))),
    ("image_data", Shape::leaves(Wanted::Media)),
]);

const CAPS: &[(&str, Shape<Wanted>)] = &[
    ("max_new_tokens", Shape::value(Wanted::OutputCapFallback("max_new_tokens"))),
    ("max_tokens", Shape::value(Wanted::OutputCap("max_tokens"))),
];

static EVENT: Shape<Mark> = Shape::object(&[
    ("text_output", Shape::value(Mark::Text)),
    ("text", Shape::value(Mark::Text)),
    ("token", Shape::object(&[("text", Shape::value(Mark::Text))])),
    ("generated_text", Shape::value(Mark::Last)),
    ("details", DETAILS),
    ("meta_info", META),
    ("error", Shape::value(Mark::Error)),
]);

static WHOLE: Shape<Mark> = Shape::object(&[("details", DETAILS), ("meta_info", META)]);

/// TGI's.
const DETAILS: Shape<Mark> = Shape::object(&[
    ("input_length", Shape::value(Mark::Count(Count::Input))),
    ("generated_tokens", Shape::value(Mark::Count(Count::Output))),
]);

/// SGLang's.
const META: Shape<Mark> = Shape::object(&[
    ("prompt_tokens", Shape::value(Mark::Count(Count::Input))),
    ("completion_tokens", Shape::value(Mark::Count(Count::Output))),
    ("cached_tokens", Shape::value(Mark::Count(Count::Cached))),
]);
