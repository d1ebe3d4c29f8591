//! The Open Inference Protocol (KServe v2): HTTP, where the path names the model and the body is not read, and gRPC, where the message
//! does. Engines that speak it: Triton, KServe's runtimes, MLServer.
//!
//! Neither counts tokens. A gRPC stream of answers is Triton's extension; each of its messages has an error or something generated.

use crate::answer::{Judged, Piece};
use crate::reply::words::Words;
use crate::tables::{Answer, Request, Streams, Tables};

/// `POST /v2/models/{model}[/versions/{version}]/infer`.
pub(crate) static INFER: Tables = Tables {
    label: "oip_infer",
    operation: Some("inference"),
    streams: Streams::Never,
    request: Request::Path,
    answer: Answer::UNREAD,
    words: Words::Text,
};

/// `inference.GRPCInferenceService/ModelInfer`.
pub(crate) static GRPC: Tables = Tables {
    label: "oip_grpc",
    operation: Some("inference"),
    streams: Streams::Never,
    request: Request::Messages,
    answer: Answer::UNREAD,
    words: Words::Plain,
};

/// `inference.GRPCInferenceService/ModelStreamInfer`.
pub(crate) static GRPC_STREAM: Tables = Tables {
    label: "oip_grpc_stream",
    operation: Some("inference"),
    streams: Streams::Always,
    request: Request::Messages,
    answer: Answer { event: None, message: Some(judge), whole: None },
    words: Words::Plain,
};

/// `GET /v2/models/{model}` and below: is it ready, what does it take. It goes where its inferences go.
pub(crate) static MODEL: Tables = Tables {
    label: "oip_model",
    operation: None,
    streams: Streams::Never,
    request: Request::Path,
    answer: Answer::UNREAD,
    words: Words::Text,
};

/// `inference.GRPCInferenceService/ModelReady`, `/ModelMetadata`, `/ModelConfig`, `/ModelStatistics`: the name is field 1 here as well.
pub(crate) static GRPC_MODEL: Tables = Tables {
    label: "oip_grpc_model",
    operation: None,
    streams: Streams::Never,
    request: Request::Messages,
    answer: Answer::UNREAD,
    words: Words::Plain,
};

/// Judges a `ModelStreamInferResponse` by how it begins: field 1 is an error, if it is not empty. What is compressed has no beginning
/// that could be read, and counts as an answer.
fn judge(beginning: &[u8]) -> Judged {
    const ERROR: u8 = 1 << 3 | 2;
    let piece = match beginning {
        [ERROR, length, ..] if *length > 0 => Piece::Error,
        _ => Piece::Content { deltas: 1 },
    };
    Judged { piece, ..Judged::OTHER }
}
