//! A streamed answer as its caller sees it.

use memchr::memmem;
use serde::Deserialize;

/// Events of a chat stream that arrives in pieces.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    /// The begin of an event whose end has not arrived.
    begun: Vec<u8>,
    /// Prompt tokens that were cached, once the stream has said so.
    pub(crate) cached_tokens: u32,
    /// The last event has come.
    pub(crate) is_done: bool,
    /// What the stream says went wrong.
    pub(crate) error: Option<String>,
}

#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<Usage>,
    error: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    delta: Delta,
}

#[derive(Default, Deserialize)]
struct Delta {
    role: Option<String>,
}

#[derive(Deserialize)]
struct Usage {
    prompt_tokens_details: Option<Details>,
}

#[derive(Deserialize)]
struct Details {
    cached_tokens: Option<u32>,
}

impl Answer {
    /// Reads the next bytes, cut anywhere; says for how many tokens events are whole now. The engines send each in one, with an empty
    /// text where a token ends inside a character; the first event is of none and says who speaks.
    pub(crate) fn read(&mut self, bytes: &[u8]) -> u32 {
        self.begun.extend_from_slice(bytes);
        let begun = std::mem::take(&mut self.begun);
        let (mut from, mut tokens) = (0, 0);
        while let Some(end) = memmem::find(&begun[from..], b"\n\n") {
            tokens += u32::from(self.event(&begun[from..from + end]));
            from += end + 2;
        }
        self.begun.extend_from_slice(&begun[from..]);
        tokens
    }

    /// Whether an event is a token's.
    fn event(&mut self, event: &[u8]) -> bool {
        let Some(value) = event.trim_ascii_start().strip_prefix(b"data:") else { return false };
        let value = value.trim_ascii();
        if value == b"[DONE]" {
            self.is_done = true;
            return false;
        }
        let chunk: Chunk = match serde_json::from_slice(value) {
            Ok(chunk) => chunk,
            Err(error) => {
                self.error = Some(format!("an event is no chunk of a chat: {error}"));
                return false;
            }
        };
        if let Some(error) = chunk.error {
            self.error = Some(error.to_string());
        }
        let cached = chunk.usage.and_then(|usage| usage.prompt_tokens_details?.cached_tokens);
        self.cached_tokens = cached.unwrap_or(self.cached_tokens);
        chunk.choices.iter().any(|choice| choice.delta.role.is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = concat!(
        "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n",
        ": keep-alive\n\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"H\\n\\n\"}}],\"usage\":null}\n\n",
        "data:{\"choices\":[{\"delta\":{\"content\":\"\"},\"finish_reason\":\"length\"}]}\n\n",
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"prompt_tokens_details\":{\"cached_tokens\":8}}}\n\n",
        "data: [DONE]\n\n",
    );

    #[test]
    fn events_are_the_same_wherever_the_bytes_are_cut() {
        for cut in 0..=STREAM.len() {
            let mut answer = Answer::default();
            let (head, tail) = STREAM.as_bytes().split_at(cut);
            let tokens = answer.read(head) + answer.read(tail);
            assert_eq!((tokens, answer.cached_tokens, answer.is_done), (2, 8, true), "{cut}");
            assert_eq!(answer.error, None, "{cut}");
        }
    }

    #[test]
    fn an_error_inside_the_stream_is_kept() {
        for (text, said) in
            [("data: {\"error\":{\"message\":\"gone\"}}\n\n", "gone"), ("data: {\"ch\n\n", "no chunk")]
        {
            let mut answer = Answer::default();
            answer.read(text.as_bytes());
            assert!(answer.error.as_deref().is_some_and(|error| error.contains(said)), "{answer:?}");
        }
    }
}
