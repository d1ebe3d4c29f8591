//! `/generate`, a path that four engines serve in ways of their own: Triton (with the model in the path), TGI, SGLang and vLLM
//! (`/inference/v1/generate`, tokens in and out).
//!
//! | | prompt | cap | an event | the last event |
//! |---|---|---|---|---|
//! | Triton | `text_input` | `max_tokens` | `text_output` | not marked |
//! | TGI | `inputs` | `parameters.max_new_tokens` | `token.text` | `generated_text`, with `details` |
//! | SGLang | `text`, `input_ids` | `sampling_params.max_new_tokens` | `text`, all of it so far, and `meta_info` | `[DONE]` |
//! | vLLM | `token_ids` | `sampling_params.max_tokens` | `choices[].token_ids` | `[DONE]` |

use crate::answer::Mark;
use crate::json::Shape;
use crate::openai;
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
    ("model", Shape::value(Wanted::ModelUnlessInPath)),
    ("cache_salt", Shape::leaves(Wanted::CacheSalt)),
    ("extra_key", Shape::leaves(Wanted::CacheSalt)),
    ("lora_path", Shape::leaves(Wanted::Adapter)),
    ("stream", Shape::value(Wanted::Stream)),
    ("max_tokens", Shape::value(Wanted::OutputCap("max_tokens"))),
    ("parameters", Shape::object(CAPS)),
    ("sampling_params", Shape::object(CAPS)),
    ("text_input", Shape::text(Wanted::Text(0))),
    ("inputs", Shape::text(Wanted::Text(1))),
    ("text", Shape::text(Wanted::Text(2))),
    ("prompt", Shape::text(Wanted::Text(3))),
    ("input_ids", Shape::text(Wanted::TextOrIds(4))),
    ("token_ids", Shape::text(Wanted::TextOrIds(5))),
    ("image_data", Shape::leaves(Wanted::Media)),
    ("video_data", Shape::leaves(Wanted::Media)),
    ("audio_data", Shape::leaves(Wanted::Media)),
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
    ("choices", Shape::each(&CHOICE)),
    ("usage", openai::USAGE),
    ("error", Shape::value(Mark::Error)),
]);

static WHOLE: Shape<Mark> =
    Shape::object(&[("details", DETAILS), ("meta_info", META), ("usage", openai::USAGE)]);

/// vLLM's.
static CHOICE: Shape<Mark> = Shape::object(&[("token_ids", Shape::each(&Shape::value(Mark::Token)))]);

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
