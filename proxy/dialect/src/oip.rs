//! The Open Inference Protocol (KServe v2): HTTP, where the path names the model and the body is not read, and gRPC, where the message
//! does. Engines that speak it: Triton, KServe's runtimes, MLServer.
//!
//! Neither counts tokens. A gRPC stream of answers is Triton's extension; each of its messages has an error or an answer.

use crate::answer::{Judged, Piece};
use crate::grpc::fields;
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

/// Judges a `ModelStreamInferResponse`: an error, or an answer. An answer without tensors is only a mark: where a client asks for it,
/// Triton sends one after the last. What is compressed or not all at hand counts as generated.
fn judge(beginning: &[u8]) -> Judged {
    const ERROR_MESSAGE: u64 = 1;
    const INFER_RESPONSE: u64 = 2;
    const ERROR_TAG: u8 = 1 << 3 | 2;
    let mut piece = if beginning.is_empty() { CONTENT } else { Piece::Other };
    for field in fields(beginning) {
        match field {
            Some((ERROR_MESSAGE, text)) if !text.is_empty() => return ERROR,
            Some((INFER_RESPONSE, answer)) if has_tensors(answer) => piece = CONTENT,
            Some(_) => {}
            // An error that is longer than what is kept.
            None if beginning.first() == Some(&ERROR_TAG) => return ERROR,
            None => piece = CONTENT,
        }
    }
    Judged { piece, ..Judged::OTHER }
}

const ERROR: Judged = Judged { piece: Piece::Error, ..Judged::OTHER };
const CONTENT: Piece = Piece::Content { deltas: 1 };

fn has_tensors(answer: &[u8]) -> bool {
    const OUTPUTS: u64 = 5;
    const RAW_OUTPUT_CONTENTS: u64 = 6;
    fields(answer)
        .any(|field| field.is_none_or(|(number, _)| matches!(number, OUTPUTS | RAW_OUTPUT_CONTENTS)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_told_from_an_error_and_from_a_mark() {
        for (beginning, expected) in [
            // Compressed, or of no length.
            (&b""[..], CONTENT),
            (b"\x0A\x04gone", Piece::Error),
            // A kilobyte of which four bytes are at hand.
            (b"\x0A\x80\x08gone", Piece::Error),
            (b"\x0A\x00\x12\x05\x2A\x03tok", CONTENT),
            (b"\x12\x05\x2A\x03tok", CONTENT),
            (b"\x12\x05\x32\x03tok", CONTENT),
            (b"\x12\x80\x08\x0A\x03llm", CONTENT),
            (b"\x12\x05\x0A\x03llm", Piece::Other),
            (b"\x12\x00", Piece::Other),
            (b"\x12\x05\x2A\x03tok\x0A\x04gone", Piece::Error),
            (b"\xFF", CONTENT),
        ] {
            assert_eq!(judge(beginning).piece, expected, "{}", beginning.escape_ascii());
        }
    }
}
