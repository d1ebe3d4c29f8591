//! AI API bytes in, facts out: no I/O, no clock, no JSON tree.
//!
//! A request is named by [`detect`] (its path), read by [`scan`] (its path and its body, byte by byte as it passes), and its answer is
//! followed by [`meter`]: [`events`] cuts the stream, [`answer`] says what each event carries, [`usage`] reads the
//! token counts. [`work`] says what a request is to a server before it is sent. [`reply`] writes the errors that we make ourselves in the words that the caller's client parses.
//! [`engine`] reads what a model server says of itself on its metrics page.
//!
//! Everything here gives the same result however the bytes are cut into chunks, and holds a bounded amount of them.
//!
//! A dialect is one file of tables (its name, what to read in a request, what to read in an event, how errors are written), an
//! arm of [`Dialect`], a line in the table of [`detect`], and cases in the corpus.

pub mod answer;
pub mod defect;
pub mod detect;
pub mod engine;
pub mod events;
pub mod meter;
pub mod prefix;
pub mod reply;
pub mod scan;
pub mod sse;
pub mod usage;
pub mod work;

mod anthropic;
mod audio;
mod generate;
mod grpc;
mod json;
mod lines;
mod llamacpp;
mod media;
mod multipart;
mod oip;
mod ollama;
mod openai;
mod path;
mod pooling;
mod responses;
mod tables;

use tables::{Answer, Request, Streams, Tables};

/// The API that a request speaks, told from its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dialect {
    /// `POST …/chat/completions`.
    OpenAiChat,
    /// `POST …/v1/completions`.
    OpenAiCompletions,
    /// `POST …/embeddings`: never streamed, no output tokens.
    OpenAiEmbeddings,
    /// `POST …/v1/responses`.
    OpenAiResponses,
    /// `POST …/v1/audio/transcriptions` and `/translations`: a form.
    OpenAiAudio,
    /// `POST …/v1/messages`.
    AnthropicMessages,
    /// `POST …/v2/models/{model}/infer`: the model is in the path.
    OipInfer,
    /// The same over gRPC: the model is in the message.
    OipGrpc,
    /// Triton's stream of such messages.
    OipGrpcStream,
    /// `GET …/v2/models/{model}`, its `/ready`, `/config` and `/stats`: about a model, which does not answer itself.
    OipModel,
    /// The same over gRPC.
    OipGrpcModel,
    /// `POST …/generate` and `/generate_stream`: Triton, TGI, SGLang.
    Generate,
    /// `POST …/completion`, `/completions`, `/infill` of llama.cpp.
    LlamaCpp,
    /// `POST …/api/chat`.
    OllamaChat,
    /// `POST …/api/generate`.
    OllamaGenerate,
    /// `POST …/api/embed`.
    OllamaEmbed,
    /// `POST …/rerank`, `/score`, `/classify`, `/pooling`.
    Pooling,
    /// Anything else: routed by path and header, its body is not read.
    Http,
}

impl Dialect {
    /// Every dialect, in the order of the enum.
    pub const ALL: [Dialect; 18] = [
        Dialect::OpenAiChat,
        Dialect::OpenAiCompletions,
        Dialect::OpenAiEmbeddings,
        Dialect::OpenAiResponses,
        Dialect::OpenAiAudio,
        Dialect::AnthropicMessages,
        Dialect::OipInfer,
        Dialect::OipGrpc,
        Dialect::OipGrpcStream,
        Dialect::OipModel,
        Dialect::OipGrpcModel,
        Dialect::Generate,
        Dialect::LlamaCpp,
        Dialect::OllamaChat,
        Dialect::OllamaGenerate,
        Dialect::OllamaEmbed,
        Dialect::Pooling,
        Dialect::Http,
    ];

    /// Whether a model answers: such a request has tokens and a first token.
    #[must_use]
    pub fn is_ai(self) -> bool {
        self.operation().is_some()
    }

    /// Whether the answer is text that a model generates, token by token, after it has read a prompt.
    #[must_use]
    pub fn generates(self) -> bool {
        matches!(self.operation(), Some("chat" | "text_completion"))
    }

    /// Whether a request can name a model, in its path or its body.
    #[must_use]
    pub fn names_model(self) -> bool {
        !matches!(self.tables().request, Request::Unread)
    }

    /// The name used as a metric label and in logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.tables().label
    }

    /// The value of `gen_ai.operation.name` in OpenTelemetry's GenAI conventions, which allow others than their own where none of those
    /// fits; `None` where no model answers.
    #[must_use]
    pub fn operation(self) -> Option<&'static str> {
        self.tables().operation
    }

    pub(crate) fn tables(self) -> &'static Tables {
        match self {
            Dialect::OpenAiChat => &openai::CHAT,
            Dialect::OpenAiCompletions => &openai::COMPLETIONS,
            Dialect::OpenAiEmbeddings => &openai::EMBEDDINGS,
            Dialect::OpenAiResponses => &responses::RESPONSES,
            Dialect::OpenAiAudio => &audio::AUDIO,
            Dialect::AnthropicMessages => &anthropic::MESSAGES,
            Dialect::OipInfer => &oip::INFER,
            Dialect::OipGrpc => &oip::GRPC,
            Dialect::OipGrpcStream => &oip::GRPC_STREAM,
            Dialect::OipModel => &oip::MODEL,
            Dialect::OipGrpcModel => &oip::GRPC_MODEL,
            Dialect::Generate => &generate::GENERATE,
            Dialect::LlamaCpp => &llamacpp::COMPLETION,
            Dialect::OllamaChat => &ollama::CHAT,
            Dialect::OllamaGenerate => &ollama::GENERATE,
            Dialect::OllamaEmbed => &ollama::EMBED,
            Dialect::Pooling => &pooling::POOLING,
            Dialect::Http => &PLAIN,
        }
    }
}

static PLAIN: Tables = Tables {
    label: "http",
    operation: None,
    streams: Streams::Never,
    request: Request::Unread,
    answer: Answer::UNREAD,
    words: reply::words::Words::Plain,
};

/// Bytes of prompt text to one token, for the estimate made before a model has counted.
///
/// Four is OpenAI's published rule of thumb for English text, and what llm-d's router assumes for prompts that it has not
/// tokenised. Code and languages outside Latin script take fewer bytes a token, so there the estimate is low.
pub const PROMPT_BYTES_PER_TOKEN: u64 = 4;

/// Depth beyond which nested objects and arrays are refused: Python's default recursion limit, the order at which the parsers
/// behind most engines give up too.
pub const JSON_DEPTH_MAX: usize = 1_000;

/// Longest model name, in bytes after escapes are undone. A repository name on a model hub is at most 96 characters; adapters
/// and local paths are longer.
pub const MODEL_BYTES_MAX: usize = 256;

/// What a request says of its model and size, as far as routing and admission need it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The model asked for, from the path or the body. `None` when absent or `null`, which some engines allow.
    pub model: Option<String>,
    /// Whether the caller asked for a stream of events.
    pub streaming: bool,
    /// Largest number of output tokens the caller allows. `None` when absent, `null` or negative (llama.cpp: no limit).
    pub output_tokens_max: Option<u64>,
    /// Bytes of prompt text as written between the quotes of the JSON strings, escapes not undone.
    pub prompt_bytes: u64,
    /// Bytes of images, audio and files as written: base64 in JSON, the file itself in a form. No text, and not part of
    /// [`Facts::prompt_tokens_estimate`]: what they cost in tokens depends on the model.
    pub media_bytes: u64,
    /// Tokens that the caller gave as numbers instead of text.
    pub prompt_token_ids: u64,
    /// Times that a key which we read was written again with the same value, or a prompt was written again. Parsers differ in
    /// which one they take. A scalar repeated with another value is an error instead.
    pub repeated_keys: u32,
}

impl Facts {
    /// Prompt tokens: those given as numbers, plus text at [`PROMPT_BYTES_PER_TOKEN`], rounded up.
    #[must_use]
    pub fn prompt_tokens_estimate(&self) -> u64 {
        self.prompt_token_ids + self.prompt_bytes.div_ceil(PROMPT_BYTES_PER_TOKEN)
    }
}

/// Token counts as the engine reports them; `None` where it does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt, cached ones included.
    pub input: Option<u64>,
    /// Tokens generated, reasoning included.
    pub output: Option<u64>,
    /// Part of `input` that came from the engine's prefix cache.
    pub cached: Option<u64>,
    /// Part of `output` that was reasoning.
    pub reasoning: Option<u64>,
}

impl Usage {
    /// Takes over each count in which `later` is higher: engines which count in every event send running totals, and some leave
    /// part of a count out of a later event.
    pub fn absorb(&mut self, later: Usage) {
        // `None` is below every count.
        self.input = later.input.max(self.input);
        self.output = later.output.max(self.output);
        self.cached = later.cached.max(self.cached);
        self.reasoning = later.reasoning.max(self.reasoning);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dialect_has_its_own_label() {
        let mut labels = Dialect::ALL.map(Dialect::as_str).to_vec();
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), Dialect::ALL.len());
    }

    #[test]
    fn a_model_answers_in_all_dialects_but_three_and_is_named_in_all_but_one() {
        let without = |is: fn(Dialect) -> bool| -> Vec<_> {
            Dialect::ALL.into_iter().filter(|&dialect| !is(dialect)).collect()
        };
        assert_eq!(without(Dialect::is_ai), [Dialect::OipModel, Dialect::OipGrpcModel, Dialect::Http]);
        assert_eq!(without(Dialect::names_model), [Dialect::Http]);
    }

    #[test]
    fn no_table_is_deeper_than_the_walker_follows() {
        for dialect in Dialect::ALL {
            let Tables { request, answer, .. } = dialect.tables();
            let body = if let Request::Json(shape) = request { shape.depth() } else { 1 };
            let event = answer.event.map_or(1, |events| events.shape.depth());
            let whole = answer.whole.map_or(1, json::Shape::depth);
            for depth in [body, event, whole] {
                assert!((1..=json::FRAMES_MAX).contains(&depth), "{dialect:?}: {depth}");
            }
        }
    }

    #[test]
    fn prompt_estimate_rounds_up_and_adds_given_ids() {
        for (prompt_bytes, prompt_token_ids, expected) in
            [(0, 0, 0), (1, 0, 1), (4, 0, 1), (5, 0, 2), (8, 3, 5)]
        {
            let facts = Facts { prompt_bytes, prompt_token_ids, ..Facts::default() };
            assert_eq!(
                facts.prompt_tokens_estimate(),
                expected,
                "{prompt_bytes} bytes, {prompt_token_ids} ids"
            );
        }
    }

    #[test]
    fn later_usage_replaces_only_what_it_reports_higher() {
        let mut usage = Usage { input: Some(7), output: Some(1), cached: Some(4), reasoning: None };
        usage.absorb(Usage { input: None, output: Some(2), cached: None, reasoning: Some(1) });
        assert_eq!(usage, Usage { input: Some(7), output: Some(2), cached: Some(4), reasoning: Some(1) });
        usage.absorb(Usage { input: Some(3), output: Some(9), ..Usage::default() });
        assert_eq!(usage, Usage { input: Some(7), output: Some(9), cached: Some(4), reasoning: Some(1) });
    }
}
