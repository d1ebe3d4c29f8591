//! Method, path and content type → [`Dialect`].
//!
//! The path is compared as the model server will read it: without its query, percent-escapes undone, at segment borders and
//! from its end, since many servers stand behind a prefix. Escapes matter because Python's ASGI servers undo them before they
//! route: a `/v1/chat%2Fcompletions` taken for plain HTTP here would pass every rule on models and still be answered.
//!
//! A content type other than JSON does not hide a dialect either: llama.cpp parses the body whatever its type, and the engines
//! which look at the type refuse what is not JSON. Multipart and gRPC are the exceptions, they are no JSON to anybody.

use crate::Dialect;
use crate::media::Media;
use crate::path;

/// Path suffixes that name a dialect. The longest that fits wins.
///
/// llama.cpp serves OpenAI's chat without `/v1` too; its own `/completions` is not OpenAI's.
const SUFFIXES: [(&str, Dialect); 35] = [
    ("/chat/completions", Dialect::OpenAiChat),
    ("/v1/completions", Dialect::OpenAiCompletions),
    ("/v1/embeddings", Dialect::OpenAiEmbeddings),
    ("/embeddings", Dialect::OpenAiEmbeddings),
    ("/embedding", Dialect::OpenAiEmbeddings),
    ("/v1/responses", Dialect::OpenAiResponses),
    ("/v1/responses/input_tokens", Dialect::OpenAiResponses),
    ("/v1/responses/compact", Dialect::OpenAiResponses),
    ("/v1/audio/transcriptions", Dialect::OpenAiAudio),
    ("/v1/audio/translations", Dialect::OpenAiAudio),
    ("/v1/messages", Dialect::AnthropicMessages),
    ("/v1/messages/count_tokens", Dialect::AnthropicMessages),
    ("/generate", Dialect::Generate),
    ("/generate_stream", Dialect::Generate),
    ("/completion", Dialect::LlamaCpp),
    ("/completions", Dialect::LlamaCpp),
    ("/infill", Dialect::LlamaCpp),
    ("/api/chat", Dialect::OllamaChat),
    ("/api/generate", Dialect::OllamaGenerate),
    ("/api/embed", Dialect::OllamaEmbed),
    ("/api/embeddings", Dialect::OllamaEmbed),
    ("/rerank", Dialect::Pooling),
    ("/reranking", Dialect::Pooling),
    ("/score", Dialect::Pooling),
    ("/pooling", Dialect::Pooling),
    ("/classify", Dialect::Pooling),
    ("/tokenize", Dialect::Pooling),
    ("/detokenize", Dialect::Pooling),
    // gRPC.
    (INFER, Dialect::OipGrpc),
    (INFER_STREAM, Dialect::OipGrpcStream),
    ("/inference.GRPCInferenceService/ModelReady", Dialect::OipGrpcModel),
    ("/inference.GRPCInferenceService/ModelMetadata", Dialect::OipGrpcModel),
    ("/inference.GRPCInferenceService/ModelConfig", Dialect::OipGrpcModel),
    ("/inference.GRPCInferenceService/ModelStatistics", Dialect::OipGrpcModel),
    // The Open Inference Protocol, after its model: see `named`.
    ("/infer", Dialect::OipInfer),
];

const INFER: &str = "/inference.GRPCInferenceService/ModelInfer";
const INFER_STREAM: &str = "/inference.GRPCInferenceService/ModelStreamInfer";

/// Names the dialect of a request from its head.
///
/// `path` is the request target, with or without a query; `content_type` the header's value, if there is one.
#[must_use]
pub fn detect(method: &str, path: &str, content_type: Option<&str>) -> Dialect {
    let path = path::decoded(path);
    match method {
        "POST" => posted(&path, content_type),
        "GET" if is_about_a_model(&path) => Dialect::OipModel,
        _ => Dialect::Http,
    }
}

fn posted(path: &[u8], content_type: Option<&str>) -> Dialect {
    let found = SUFFIXES
        .iter()
        .filter(|(suffix, _)| path.ends_with(suffix.as_bytes()))
        .max_by_key(|(suffix, _)| suffix.len())
        .map_or(Dialect::Http, |&(_, dialect)| dialect);
    let fits = match (found, content_type.map_or(Media::Other, Media::of)) {
        (Dialect::OipInfer, media) => {
            media != Media::Multipart && path::named(path).is_some_and(|named| named.verb.is_some())
        }
        (Dialect::OipGrpc | Dialect::OipGrpcStream | Dialect::OipGrpcModel, media) => media == Media::Grpc,
        (Dialect::OpenAiAudio, media) => media == Media::Multipart,
        (_, media) => !matches!(media, Media::Multipart | Media::Grpc),
    };
    if fits { found } else { Dialect::Http }
}

/// `/v2/models/stats` is about all models.
fn is_about_a_model(path: &[u8]) -> bool {
    path::named(path).is_some_and(|named| match named.verb {
        None => named.model != "stats",
        Some(verb) => matches!(verb, "ready" | "config" | "stats"),
    })
}

/// Whose errors the client of a path reads, whatever its method: clients of a dialect also ask for lists of models, for readiness, for
/// an answer that was given before. [`Dialect::Http`] where nobody is known.
#[must_use]
pub fn family(path: &str) -> Dialect {
    let path = path::decoded(path);
    let found = FAMILIES.iter().find_map(|&(prefix, members)| {
        path::after(&path, prefix).find_map(|rest| {
            let member = |(segment, _): &&(&str, Dialect)| path::begins(rest, segment);
            members.iter().find(member).map(|&(_, dialect)| dialect)
        })
    });
    found.unwrap_or(Dialect::Http)
}

/// What stands in the paths of a family: a prefix, and what follows it. (Anthropic's list of models is OpenAI's path; its client reads
/// both.)
const FAMILIES: [(&str, &[(&str, Dialect)]); 3] = [
    (
        "/v1",
        &[
            ("/messages", Dialect::AnthropicMessages),
            ("/responses", Dialect::OpenAiResponses),
            ("/models", Dialect::OpenAiChat),
            ("/chat", Dialect::OpenAiChat),
            ("/completions", Dialect::OpenAiCompletions),
            ("/embeddings", Dialect::OpenAiEmbeddings),
            ("/audio", Dialect::OpenAiAudio),
            ("/images", Dialect::OpenAiChat),
            ("/files", Dialect::OpenAiChat),
            ("/batches", Dialect::OpenAiChat),
            ("/moderations", Dialect::OpenAiChat),
            ("/conversations", Dialect::OpenAiChat),
        ],
    ),
    (
        "/v2",
        &[
            ("/health", Dialect::OipModel),
            ("/models", Dialect::OipModel),
            ("/repository", Dialect::OipModel),
            ("/systemsharedmemory", Dialect::OipModel),
            ("/cudasharedmemory", Dialect::OipModel),
            ("", Dialect::OipModel),
        ],
    ),
    (
        "/api",
        &[
            ("/tags", Dialect::OllamaChat),
            ("/ps", Dialect::OllamaChat),
            ("/show", Dialect::OllamaChat),
            ("/version", Dialect::OllamaChat),
            ("/pull", Dialect::OllamaChat),
            ("/push", Dialect::OllamaChat),
            ("/create", Dialect::OllamaChat),
            ("/copy", Dialect::OllamaChat),
            ("/delete", Dialect::OllamaChat),
        ],
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: Option<&str> = Some("application/json");

    fn check(cases: &[(&str, &str, Option<&str>, Dialect)]) {
        for &(method, path, content_type, expected) in cases {
            assert_eq!(detect(method, path, content_type), expected, "{method} {path} {content_type:?}");
        }
    }

    #[test]
    fn the_end_of_the_path_names_the_dialect() {
        check(&[
            ("POST", "/v1/chat/completions", JSON, Dialect::OpenAiChat),
            ("POST", "/v1/completions", JSON, Dialect::OpenAiCompletions),
            ("POST", "/v1/embeddings", JSON, Dialect::OpenAiEmbeddings),
            ("POST", "/openai/v1/chat/completions", JSON, Dialect::OpenAiChat),
            (
                "POST",
                "/team/a/v1/embeddings?api-version=1&x=/v1/completions",
                JSON,
                Dialect::OpenAiEmbeddings,
            ),
            ("POST", "http://models.example/v1/completions", JSON, Dialect::OpenAiCompletions),
        ]);
    }

    #[test]
    fn anything_else_is_plain_http() {
        check(&[
            ("GET", "/v1/chat/completions", JSON, Dialect::Http),
            ("post", "/v1/chat/completions", JSON, Dialect::Http),
            ("POST", "/xv1/completions/", JSON, Dialect::Http),
            ("POST", "/xcompletions", JSON, Dialect::Http),
            ("POST", "/v1/responses/resp_1/cancel", JSON, Dialect::Http),
            ("POST", "/v1/messages/batches", JSON, Dialect::Http),
            ("GET", "/v2/models/bert/infer", None, Dialect::Http),
            ("GET", "/v2/models/stats", None, Dialect::Http),
            ("GET", "/v2/models", None, Dialect::Http),
            ("POST", "/v2/models/bert/ready", JSON, Dialect::Http),
            ("POST", "/v2/models/infer", JSON, Dialect::Http),
            ("POST", "/v2/models/a%2Fb/infer", JSON, Dialect::Http),
            ("POST", "/api/show", JSON, Dialect::Http),
            ("POST", "/v1/chat/completions/control", JSON, Dialect::Http),
            ("POST", "/V1/Chat/Completions", JSON, Dialect::Http),
            ("POST", "/?/v1/completions", JSON, Dialect::Http),
            ("POST", "", JSON, Dialect::Http),
        ]);
    }

    #[test]
    fn every_engine_s_own_paths_are_known() {
        check(&[
            ("POST", "/chat/completions", JSON, Dialect::OpenAiChat),
            ("POST", "/openai/deployments/d/chat/completions?api-version=1", JSON, Dialect::OpenAiChat),
            ("POST", "/embedding", JSON, Dialect::OpenAiEmbeddings),
            ("POST", "/v1/responses", JSON, Dialect::OpenAiResponses),
            ("POST", "/v1/responses/input_tokens", JSON, Dialect::OpenAiResponses),
            ("POST", "/v1/messages", JSON, Dialect::AnthropicMessages),
            ("POST", "/anthropic/v1/messages/count_tokens?beta=true", JSON, Dialect::AnthropicMessages),
            ("POST", "/v2/models/bert/versions/1/infer", JSON, Dialect::OipInfer),
            ("POST", "/v2/models/bert/infer", Some("application/octet-stream"), Dialect::OipInfer),
            ("GET", "/v2/models/bert", None, Dialect::OipModel),
            ("GET", "/v2/models/bert/versions/1/ready?x", None, Dialect::OipModel),
            ("GET", "/team/v2/models/bert/config", None, Dialect::OipModel),
            ("GET", "/v2/models/bert/stats", None, Dialect::OipModel),
            ("POST", "/v2/models/llm/generate", JSON, Dialect::Generate),
            ("POST", "/inference/v1/generate", JSON, Dialect::Generate),
            ("POST", "/v2/models/llm/generate_stream", JSON, Dialect::Generate),
            ("POST", "/generate", JSON, Dialect::Generate),
            ("POST", "/completion", JSON, Dialect::LlamaCpp),
            ("POST", "/completions", JSON, Dialect::LlamaCpp),
            ("POST", "/infill", JSON, Dialect::LlamaCpp),
            ("POST", "/api/chat", JSON, Dialect::OllamaChat),
            ("POST", "/api/generate", JSON, Dialect::OllamaGenerate),
            ("POST", "/api/embed", JSON, Dialect::OllamaEmbed),
            ("POST", "/api/embeddings", JSON, Dialect::OllamaEmbed),
            ("POST", "/v1/rerank", JSON, Dialect::Pooling),
            ("POST", "/v2/rerank", JSON, Dialect::Pooling),
            ("POST", "/score", JSON, Dialect::Pooling),
            ("POST", "/v1/classify", JSON, Dialect::Pooling),
            ("POST", "/pooling", JSON, Dialect::Pooling),
            ("POST", "/tokenize", JSON, Dialect::Pooling),
            ("POST", "/detokenize", JSON, Dialect::Pooling),
        ]);
    }

    #[test]
    fn grpc_and_forms_are_told_by_their_content_type_too() {
        let form = Some("multipart/form-data; boundary=b");
        check(&[
            ("POST", INFER, Some("application/grpc"), Dialect::OipGrpc),
            ("POST", INFER, Some("application/grpc+proto"), Dialect::OipGrpc),
            ("POST", INFER_STREAM, Some("Application/GRPC; x=1"), Dialect::OipGrpcStream),
            ("POST", INFER, Some("application/grpc+json"), Dialect::Http),
            ("POST", INFER, Some("application/grpc-web"), Dialect::Http),
            ("POST", INFER, JSON, Dialect::Http),
            (
                "POST",
                "/inference.GRPCInferenceService/ModelReady",
                Some("application/grpc"),
                Dialect::OipGrpcModel,
            ),
            (
                "POST",
                "/inference.GRPCInferenceService/ModelMetadata",
                Some("application/grpc"),
                Dialect::OipGrpcModel,
            ),
            ("POST", "/inference.GRPCInferenceService/ModelReady", JSON, Dialect::Http),
            ("POST", "/inference.GRPCInferenceService/ServerReady", Some("application/grpc"), Dialect::Http),
            ("POST", "/v1/audio/transcriptions", form, Dialect::OpenAiAudio),
            ("POST", "/v1/audio/translations", form, Dialect::OpenAiAudio),
            ("POST", "/v1/audio/translations", JSON, Dialect::Http),
            ("POST", "/v1/chat/completions", Some("application/grpc"), Dialect::Http),
        ]);
    }

    #[test]
    fn the_content_type_hides_a_dialect_only_when_multipart() {
        check(&[
            ("POST", "/v1/completions", None, Dialect::OpenAiCompletions),
            ("POST", "/v1/completions", Some("application/json; charset=utf-8"), Dialect::OpenAiCompletions),
            (
                "POST",
                "/v1/completions",
                Some("application/x-www-form-urlencoded"),
                Dialect::OpenAiCompletions,
            ),
            ("POST", "/v1/completions", Some("Multipart/Form-Data; boundary=b"), Dialect::Http),
        ]);
    }

    #[test]
    fn percent_escapes_do_not_hide_a_dialect() {
        check(&[
            ("POST", "/v1/chat%2fcompletions", JSON, Dialect::OpenAiChat),
            ("POST", "/%761/%63ompletions", JSON, Dialect::OpenAiCompletions),
            ("POST", "/v1/completions%3Fx", JSON, Dialect::Http),
            ("POST", "/v1/%2563ompletions", JSON, Dialect::Http),
            ("POST", "/%zz%/v1/completions", JSON, Dialect::OpenAiCompletions),
            ("POST", "/v1/completions%", JSON, Dialect::Http),
        ]);
    }

    #[test]
    fn a_path_that_asks_nothing_of_a_model_has_its_family() {
        for (path, expected) in [
            ("/v1/models", Dialect::OpenAiChat),
            ("/proxy/v1/models/llama?x=1", Dialect::OpenAiChat),
            ("/v1/responses/resp_1/cancel", Dialect::OpenAiResponses),
            ("/v1/messages/batches", Dialect::AnthropicMessages),
            ("/v2", Dialect::OipModel),
            ("/v2/rerank", Dialect::Http),
            ("/v1/v1/models", Dialect::OpenAiChat),
            ("/v2/health/ready", Dialect::OipModel),
            ("/v2/models/bert/anything", Dialect::OipModel),
            ("/api/tags", Dialect::OllamaChat),
            ("/api/tagsx", Dialect::Http),
            ("/v1/users", Dialect::Http),
            ("/", Dialect::Http),
        ] {
            assert_eq!(family(path), expected, "{path}");
        }
    }

    #[test]
    fn the_readme_has_every_dialect_and_path() {
        let readme = include_str!("../README.md");
        for dialect in Dialect::ALL {
            let row = format!("`{}`", dialect.as_str());
            assert!(readme.lines().any(|line| line.starts_with('|') && line.contains(&row)), "{row}");
        }
        for (suffix, dialect) in SUFFIXES {
            let (_, last) = suffix.rsplit_once('/').unwrap();
            let row = readme.lines().find(|line| line.contains(&format!("`{}`", dialect.as_str()))).unwrap();
            assert!(row.contains(&format!("/{last}")), "{suffix} is not in: {row}");
        }
    }
}
