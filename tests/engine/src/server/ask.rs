//! What callers ask, as far as this engine listens. Fields that it does not know (temperature and its kin) are
//! accepted and change nothing: the text is a function of prompt and seed alone.

use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::Value;

use super::reply::Refusal;

/// Fields that chat and completions share.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Wish {
    pub(crate) model: Option<String>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    max_tokens: Option<u32>,
    max_completion_tokens: Option<u32>,
    min_tokens: Option<u32>,
    ignore_eos: Option<bool>,
    n: Option<u32>,
    priority: Option<i64>,
    seed: Option<i64>,
    /// Prompts with different salts share no cache.
    pub(crate) cache_salt: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
    continuous_usage_stats: Option<bool>,
}

/// When a stream says what it used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UsageWish {
    Never,
    AtTheEnd,
    WithEachChunk,
}

impl Wish {
    /// # Errors
    /// Something is asked that this engine cannot do.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        if self.n.is_some_and(|n| n != 1) {
            return Err(Refusal::bad("n", "only one answer per request"));
        }
        if self.priority.is_some_and(|priority| priority != 0) {
            return Err(Refusal::bad("priority", "must be 0: this engine serves in order of arrival"));
        }
        if self.cap() == Some(0) {
            return Err(Refusal::bad("max_tokens", "must be at least 1"));
        }
        if self.stream_options.is_some() && !self.streams() {
            return Err(Refusal::bad("stream_options", "only with stream: true"));
        }
        Ok(())
    }

    pub(crate) fn streams(&self) -> bool {
        self.stream == Some(true)
    }

    pub(crate) fn usage(&self) -> UsageWish {
        let Some(options) = &self.stream_options else { return UsageWish::Never };
        match (options.include_usage, options.continuous_usage_stats) {
            (Some(true), Some(true)) => UsageWish::WithEachChunk,
            (Some(true), _) => UsageWish::AtTheEnd,
            _ => UsageWish::Never,
        }
    }

    fn cap(&self) -> Option<u32> {
        self.max_completion_tokens.or(self.max_tokens)
    }

    /// How many tokens the answer gets, and whether the cap cut it: `natural` is its length when nothing does,
    /// `room` what the context leaves.
    pub(crate) fn length(&self, natural: u32, room: u32) -> (u32, Cut) {
        let cap = self.cap().unwrap_or(room).min(room);
        let wanted = if self.ignore_eos == Some(true) { u32::MAX } else { natural };
        let wanted = wanted.max(self.min_tokens.unwrap_or(0));
        if wanted <= cap { (wanted, Cut::No) } else { (cap, Cut::Yes) }
    }

    /// The seed of the text: the engine's, and the caller's if there is one.
    pub(crate) fn text_seed(&self, engine_seed: u64) -> u64 {
        self.seed.map_or(engine_seed, |seed| crate::mix::roll(engine_seed, seed as u64))
    }
}

/// Whether an answer was cut by its cap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    No,
    Yes,
}

/// A chat request.
#[derive(Debug, Deserialize)]
pub(crate) struct ChatAsk {
    #[serde(flatten)]
    pub(crate) wish: Wish,
    pub(crate) messages: Vec<Message>,
    #[serde(default)]
    pub(crate) tools: Option<Vec<Tool>>,
    pub(crate) tool_choice: Option<Value>,
}

/// One message of a chat.
#[derive(Debug, Deserialize)]
pub(crate) struct Message {
    pub(crate) role: String,
    pub(crate) content: Option<Content>,
    pub(crate) tool_calls: Option<Value>,
}

/// The content of a message: text, or parts.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Content {
    Text(String),
    Parts(Vec<Part>),
}

/// One part of a message.
#[derive(Debug, Deserialize)]
pub(crate) struct Part {
    #[serde(rename = "type")]
    kind: String,
    text: Option<String>,
}

impl Part {
    /// # Errors
    /// The part is a picture, a sound or a file.
    pub(crate) fn text(&self) -> Result<&str, Refusal> {
        match (self.kind.as_str(), &self.text) {
            ("text" | "input_text" | "refusal", Some(text)) => Ok(text),
            (kind, _) => {
                let message = format!("messages: this engine reads text parts, not {kind:?}");
                Err(Refusal::new(StatusCode::BAD_REQUEST, message).about("messages"))
            }
        }
    }
}

/// A function that the model may call.
#[derive(Debug, Deserialize)]
pub(crate) struct Tool {
    pub(crate) function: Function,
}

/// Its name and the JSON Schema of its arguments.
#[derive(Debug, Deserialize, serde::Serialize)]
pub(crate) struct Function {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) description: Option<String>,
    #[serde(default)]
    pub(crate) parameters: Option<Value>,
}

/// A completion request.
#[derive(Debug, Deserialize)]
pub(crate) struct CompletionAsk {
    #[serde(flatten)]
    pub(crate) wish: Wish,
    pub(crate) prompt: Input,
}

/// An embedding request.
#[derive(Debug, Deserialize)]
pub(crate) struct EmbeddingAsk {
    pub(crate) model: Option<String>,
    pub(crate) input: Input,
    pub(crate) dimensions: Option<u32>,
    pub(crate) encoding_format: Option<String>,
}

/// A reranking request.
#[derive(Debug, Deserialize)]
pub(crate) struct RerankAsk {
    pub(crate) model: Option<String>,
    pub(crate) query: String,
    pub(crate) documents: Vec<Document>,
    pub(crate) top_n: Option<usize>,
}

/// What may answer the question.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Document {
    Text(String),
    Object { text: String },
}

/// An inference request of the Open Inference Protocol.
#[derive(Debug, Deserialize)]
pub(crate) struct InferAsk {
    pub(crate) id: Option<String>,
    pub(crate) inputs: Vec<Tensor>,
}

/// One of its inputs.
#[derive(Debug, Deserialize)]
pub(crate) struct Tensor {
    pub(crate) shape: Vec<usize>,
    pub(crate) data: Value,
}

/// Text or tokens, one or several.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Input {
    Text(String),
    Tokens(Vec<u32>),
    Texts(Vec<String>),
    TokenLists(Vec<Vec<u32>>),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(json: &str) -> Wish {
        serde_json::from_str(json).expect("a wish")
    }

    #[test]
    fn the_cap_the_room_and_the_natural_end_decide_the_length() {
        let cases = [
            ("{}", (100, Cut::No)),
            (r#"{"max_tokens": 30}"#, (30, Cut::Yes)),
            (r#"{"max_tokens": 30, "max_completion_tokens": 40}"#, (40, Cut::Yes)),
            (r#"{"max_tokens": 300}"#, (100, Cut::No)),
            (r#"{"max_tokens": 300, "ignore_eos": true}"#, (300, Cut::Yes)),
            (r#"{"min_tokens": 150}"#, (150, Cut::No)),
            (r#"{"ignore_eos": true}"#, (500, Cut::Yes)),
            (r#"{"max_tokens": 100}"#, (100, Cut::No)),
        ];
        for (json, expected) in cases {
            assert_eq!(wish(json).length(100, 500), expected, "{json}");
        }
    }

    #[test]
    fn what_cannot_be_done_is_refused_by_name() {
        let cases = [
            (r#"{"n": 2}"#, "n: "),
            (r#"{"priority": 1}"#, "priority: "),
            (r#"{"max_tokens": 0}"#, "max_tokens: "),
            (r#"{"stream_options": {"include_usage": true}}"#, "stream_options: "),
        ];
        for (json, name) in cases {
            let refusal = wish(json).check().expect_err("a refusal");
            assert!(format!("{refusal:?}").contains(name), "{json}: {refusal:?}");
        }
        assert_eq!(wish(r#"{"n": 1, "priority": 0, "stream": false}"#).check(), Ok(()));
    }
}
