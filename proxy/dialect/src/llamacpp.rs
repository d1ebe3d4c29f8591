//! llama.cpp's own completions. (Its embeddings, chats and reranking go by the tables of those whose paths they share.)
//!
//! An event has its text in `content`; the last one has `stop: true` and the counts, and nothing follows it. `tokens_cached` is what the
//! cache holds afterwards, not what came from it: that is `timings.cache_n`.

use crate::answer::Mark;
use crate::json::Shape;
use crate::openai;
use crate::reply::words::Words;
use crate::scan::Wanted;
use crate::tables::{Answer, Events, Request, Streams, Tables};
use crate::usage::Count;

/// `POST /completion`, `/completions` and `/infill`.
pub(crate) static COMPLETION: Tables = Tables {
    label: "llamacpp_completion",
    operation: Some("text_completion"),
    streams: Streams::IfAsked,
    request: Request::Json(&BODY),
    answer: Answer {
        event: Some(Events { shape: &EVENT, last: &[], error: &["error"] }),
        message: None,
        whole: Some(&WHOLE),
    },
    words: Words::OpenAi,
};

static BODY: Shape<Wanted> = Shape::object(&[
    ("model", Shape::value(Wanted::Model)),
    ("stream", Shape::value(Wanted::Stream)),
    ("n_predict", Shape::value(Wanted::OutputCap("n_predict"))),
    ("max_tokens", Shape::value(Wanted::OutputCapFallback("max_tokens"))),
    ("lora", Shape::leaves(Wanted::Adapter)),
    ("prompt", Shape::text(Wanted::TextOrIds(0)).with_each(&PROMPT)),
    ("input_prefix", Shape::text(Wanted::Text(2))),
    ("input_suffix", Shape::text(Wanted::Text(1))),
    ("input_extra", Shape::text(Wanted::Text(3))),
]);

static PROMPT: Shape<Wanted> = Shape::object(&[("multimodal_data", Shape::leaves(Wanted::Media))]);

/// What another engine would answer on such a path is OpenAI's.
static EVENT: Shape<Mark> = Shape::object(&[
    ("content", Shape::value(Mark::Text)),
    ("stop", Shape::value(Mark::Last)),
    ("tokens_evaluated", Shape::value(Mark::Count(Count::Input))),
    ("tokens_predicted", Shape::value(Mark::Count(Count::Output))),
    ("timings", openai::TIMINGS),
    ("choices", Shape::each(&openai::CHOICE)),
    ("usage", openai::USAGE),
    ("error", Shape::value(Mark::Error)),
]);

static WHOLE: Shape<Mark> = Shape::object(&[
    ("tokens_evaluated", Shape::value(Mark::Count(Count::Input))),
    ("tokens_predicted", Shape::value(Mark::Count(Count::Output))),
    ("timings", openai::TIMINGS),
    ("usage", openai::USAGE),
]);
