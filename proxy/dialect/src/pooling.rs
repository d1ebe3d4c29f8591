//! What models do that generate nothing: rerank, score, classify, pool, and what their tokenizers do. Engines that speak it: vLLM, SGLang, llama.cpp, TEI; Jina's and
//! Cohere's APIs are the models of `/v1/rerank` and `/v2/rerank`.

use crate::answer::Mark;
use crate::json::Shape;
use crate::openai;
use crate::reply::words::Words;
use crate::scan::Wanted;
use crate::tables::{Answer, Request, Streams, Tables};
use crate::usage::Count;

/// `POST …/rerank`, `/reranking`, `/score`, `/classify`, `/pooling`, `/tokenize`, `/detokenize`.
pub(crate) static POOLING: Tables = Tables {
    label: "pooling",
    operation: Some("pooling"),
    streams: Streams::Never,
    request: Request::Json(&BODY),
    answer: Answer { event: None, message: None, whole: Some(&WHOLE) },
    words: Words::OpenAi,
};

static BODY: Shape<Wanted> = Shape::object(&[
    ("model", Shape::value(Wanted::Model)),
    ("query", Shape::text(Wanted::Text(0)).but(PAIR_KEYS)),
    ("documents", Shape::text(Wanted::Text(1)).but(PAIR_KEYS).with_each(&PAIR)),
    ("texts", Shape::text(Wanted::Text(2))),
    ("queries", Shape::text(Wanted::Text(3)).but(PAIR_KEYS).with_each(&PAIR)),
    ("text_1", Shape::text(Wanted::TextOrIds(4)).but(PAIR_KEYS)),
    ("text_2", Shape::text(Wanted::TextOrIds(5)).but(PAIR_KEYS)),
    ("data_1", Shape::text(Wanted::Text(6)).but(PAIR_KEYS)),
    ("data_2", Shape::text(Wanted::Text(7)).but(PAIR_KEYS)),
    ("input", Shape::text(Wanted::TextOrIds(8))),
    ("messages", Shape::text(Wanted::Text(9)).with_each(&openai::MESSAGE)),
    ("prompt", Shape::text(Wanted::Text(10))),
    ("tokens", Shape::text(Wanted::TextOrIds(11))),
    ("content", Shape::text(Wanted::Text(12))),
]);

/// One side of a pair may be a list of parts with images.
static PAIR: Shape<Wanted> = Shape::object(PAIR_KEYS);

const PAIR_KEYS: &[(&str, Shape<Wanted>)] = &[("content", Shape::each(&openai::PART))];

static WHOLE: Shape<Mark> = Shape::object(&[(
    "usage",
    Shape::object(&[
        ("prompt_tokens", Shape::value(Mark::Count(Count::Input))),
        ("total_tokens", Shape::value(Mark::Count(Count::Total))),
        ("completion_tokens", Shape::value(Mark::Count(Count::Output))),
    ]),
)]);
