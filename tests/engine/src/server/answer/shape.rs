//! The JSON of answers: chat, completion, tool call; whole and in chunks.

use axum::body::Bytes;
use serde::Serialize;

/// What kind of answer it is.
#[derive(Clone, Debug)]
pub(crate) enum Style {
    Chat,
    Completion,
    /// A chat whose answer calls this function.
    Call {
        function: String,
    },
}

/// What every chunk of an answer begins with.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Head {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
}

/// Tokens counted so far.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Usage {
    prompt_tokens: u32,
    pub(super) completion_tokens: u32,
    total_tokens: u32,
    prompt_tokens_details: PromptDetails,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct PromptDetails {
    cached_tokens: u32,
}

impl Usage {
    pub(super) fn of_prompt(prompt_tokens: u32) -> Self {
        Self {
            prompt_tokens,
            completion_tokens: 0,
            total_tokens: prompt_tokens,
            prompt_tokens_details: PromptDetails { cached_tokens: 0 },
        }
    }

    /// One more output token.
    pub(super) fn count(&mut self, cached_tokens: u32) {
        self.completion_tokens += 1;
        self.total_tokens += 1;
        self.prompt_tokens_details.cached_tokens = cached_tokens;
    }
}

/// Usage in a chunk: absent, null, or there.
type UsageNow = Option<Option<Usage>>;

#[derive(Serialize)]
struct Chunk<'a> {
    #[serde(flatten)]
    head: &'a Head,
    choices: Vec<Choice<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: UsageNow,
}

#[derive(Serialize)]
struct Choice<'a> {
    index: u32,
    #[serde(flatten)]
    said: Said<'a>,
    logprobs: Option<()>,
    finish_reason: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Said<'a> {
    Delta(Turn<'a>),
    Message(Turn<'a>),
    Text(&'a str),
}

#[derive(Default, Serialize)]
struct Turn<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<Option<&'a str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<[Call<'a>; 1]>,
}

#[derive(Serialize)]
struct Call<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    function: Called<'a>,
}

#[derive(Serialize)]
struct Called<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    arguments: &'a str,
}

impl Style {
    /// How an answer ends that nothing cut.
    pub(super) fn finish_reason(&self) -> &'static str {
        match self {
            Style::Chat | Style::Completion => "stop",
            Style::Call { .. } => "tool_calls",
        }
    }

    pub(super) fn head(&self, request_id: &str, model: String, created: u64) -> Head {
        let prefix = match self {
            Style::Chat | Style::Call { .. } => "chatcmpl",
            Style::Completion => "cmpl",
        };
        Head {
            id: format!("{prefix}-{request_id}"),
            object: self.object("chat.completion.chunk"),
            created,
            model,
        }
    }

    /// A chat's object, or the one that completions have for whole answers and chunks alike.
    fn object(&self, chat: &'static str) -> &'static str {
        match self {
            Style::Chat | Style::Call { .. } => chat,
            Style::Completion => "text_completion",
        }
    }

    /// The whole answer.
    pub(super) fn whole(
        &self,
        head: &Head,
        text: &str,
        finish_reason: &'static str,
        usage: &Usage,
    ) -> impl Serialize {
        let role = Some("assistant");
        let said = match self {
            Style::Completion => Said::Text(text),
            Style::Chat => Said::Message(Turn { role, content: Some(Some(text)), tool_calls: None }),
            Style::Call { function } => {
                let called = Called { name: Some(function), arguments: text };
                let call =
                    Call { index: None, id: Some(call_id(head)), kind: Some("function"), function: called };
                Said::Message(Turn { role, content: Some(None), tool_calls: Some([call]) })
            }
        };
        let choice = Choice { index: 0, said, logprobs: None, finish_reason: Some(finish_reason) };
        let head = Head { object: self.object("chat.completion"), ..head.clone() };
        // To a value now: the answer outlives what it was made of.
        serde_json::json!(Chunk { head: &head, choices: vec![choice], usage: Some(Some(*usage)) })
    }

    /// What comes before the first token: the role, and for a call its name.
    pub(super) fn opening(&self, head: &Head, usage: UsageNow) -> Vec<Bytes> {
        let role = Turn { role: Some("assistant"), content: Some(Some("")), tool_calls: None };
        match self {
            Style::Completion => Vec::new(),
            Style::Chat => vec![delta(head, role, None, usage)],
            Style::Call { function } => {
                let called = Called { name: Some(function), arguments: "" };
                let id = Some(call_id(head));
                let call = Call { index: Some(0), id, kind: Some("function"), function: called };
                let named = Turn { tool_calls: Some([call]), ..Turn::default() };
                vec![delta(head, role, None, usage), delta(head, named, None, usage)]
            }
        }
    }

    /// What comes with a token.
    pub(super) fn chunk(&self, head: &Head, text: &str, end: Option<&str>, usage: UsageNow) -> Bytes {
        match self {
            Style::Completion => {
                let choice = Choice { index: 0, said: Said::Text(text), logprobs: None, finish_reason: end };
                event(&Chunk { head, choices: vec![choice], usage })
            }
            Style::Chat => delta(head, Turn { content: Some(Some(text)), ..Turn::default() }, end, usage),
            Style::Call { .. } => {
                let called = Called { name: None, arguments: text };
                let call = Call { index: Some(0), id: None, kind: None, function: called };
                delta(head, Turn { tool_calls: Some([call]), ..Turn::default() }, end, usage)
            }
        }
    }

    /// The usage of the whole answer, with no choices.
    pub(super) fn closing(&self, head: &Head, usage: Usage) -> Bytes {
        event(&Chunk { head, choices: Vec::new(), usage: Some(Some(usage)) })
    }
}

fn call_id(head: &Head) -> String {
    format!("call_{:016x}", xxhash_rust::xxh3::xxh3_64(head.id.as_bytes()))
}

fn delta(head: &Head, turn: Turn<'_>, finish_reason: Option<&str>, usage: UsageNow) -> Bytes {
    let choice = Choice { index: 0, said: Said::Delta(turn), logprobs: None, finish_reason };
    event(&Chunk { head, choices: vec![choice], usage })
}

fn event(chunk: &Chunk<'_>) -> Bytes {
    let mut bytes = b"data: ".to_vec();
    // Writing plain structs with string keys to memory cannot fail.
    let _written = serde_json::to_writer(&mut bytes, chunk);
    bytes.extend_from_slice(b"\n\n");
    Bytes::from(bytes)
}
