//! OpenAI's transcriptions and translations: a form with a file goes in, text comes out. Engines that speak it: OpenAI, vLLM, SGLang,
//! llama.cpp.
//!
//! OpenAI streams events typed `transcript.text.delta`; vLLM streams chunks like those of a chat.

use crate::answer::Mark;
use crate::json::Shape;
use crate::openai;
use crate::reply::words::Words;
use crate::tables::{Answer, Events, Request, Streams, Tables};
use crate::usage::Count;

/// `POST /v1/audio/transcriptions` and `/v1/audio/translations`.
pub(crate) static AUDIO: Tables = Tables {
    label: "openai_audio",
    operation: Some("transcription"),
    streams: Streams::IfAsked,
    request: Request::Form,
    answer: Answer {
        event: Some(Events { shape: &EVENT, last: &["transcript.text.done"], error: &["error"] }),
        message: None,
        whole: Some(&WHOLE),
    },
    words: Words::OpenAi,
};

static EVENT: Shape<Mark> = Shape::object(&[
    ("type", Shape::value(Mark::Kind)),
    ("delta", Shape::value(Mark::Text)),
    ("choices", Shape::each(&openai::CHOICE)),
    ("error", Shape::value(Mark::Error)),
    ("usage", USAGE),
]);

static WHOLE: Shape<Mark> = Shape::object(&[("usage", USAGE)]);

const USAGE: Shape<Mark> = Shape::object(&[
    ("input_tokens", Shape::value(Mark::Count(Count::Input))),
    ("output_tokens", Shape::value(Mark::Count(Count::Output))),
    ("prompt_tokens", Shape::value(Mark::Count(Count::Input))),
    ("completion_tokens", Shape::value(Mark::Count(Count::Output))),
]);
