//! A streamed answer as its caller sees it. Read on purpose without the mesh's own parser: the demo is a client, and a
//! client that shares code with the proxy would share its mistakes.

use serde::Deserialize;
use serde_json::Value;

/// What one chunk of bytes brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Brought {
    /// Events with generated text.
    pub(super) contents: u32,
}

/// A server-sent event stream of chat completion chunks, so far.
#[derive(Debug, Default)]
pub(super) struct AnswerStream {
    /// Bytes of a line whose end has not arrived.
    rest: Vec<u8>,
    /// Output tokens, once the stream has said so.
    pub(super) tokens: Option<u64>,
    pub(super) is_done: bool,
    /// An error inside the stream.
    pub(super) error: Option<String>,
}

#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<Usage>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    delta: Delta,
}

#[derive(Default, Deserialize)]
struct Delta {
    content: Option<String>,
}

#[derive(Deserialize)]
struct Usage {
    completion_tokens: u64,
}

impl AnswerStream {
    /// Reads the next bytes, cut anywhere.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Brought {
        let mut brought = Brought::default();
        self.rest.extend_from_slice(bytes);
        let rest = std::mem::take(&mut self.rest);
        let mut lines = rest.split(|byte| *byte == b'\n');
        let unfinished = lines.next_back().unwrap_or_default().to_vec();
        for line in lines {
            self.line(line.strip_suffix(b"\r").unwrap_or(line), &mut brought);
        }
        self.rest = unfinished;
        brought
    }

    fn line(&mut self, line: &[u8], brought: &mut Brought) {
        // Empty lines end events, lines with a colon in front are comments; neither says anything here.
        let Some(value) = line.strip_prefix(b"data:") else { return };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        if value == b"[DONE]" {
            self.is_done = true;
            return;
        }
        match serde_json::from_slice::<Chunk>(value) {
            Ok(chunk) => self.chunk(&chunk, brought),
            Err(error) => self.error = Some(format!("an event is no chunk of a chat completion: {error}")),
        }
    }

    fn chunk(&mut self, chunk: &Chunk, brought: &mut Brought) {
        if let Some(error) = &chunk.error {
            self.error = Some(error["message"].as_str().map_or_else(|| error.to_string(), str::to_owned));
        }
        let content = |choice: &Choice| choice.delta.content.as_ref().is_some_and(|text| !text.is_empty());
        brought.contents += u32::from(chunk.choices.iter().any(content));
        if let Some(usage) = &chunk.usage {
            self.tokens = Some(usage.completion_tokens);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = concat!(
        "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n",
        ": keep-alive\n\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"Hé\"}}],\"usage\":null}\r\n\r\n",
        "data:{\"choices\":[{\"delta\":{\"content\":\" there\"},\"finish_reason\":\"length\"}]}\n\n",
        "data: {\"choices\":[],\"usage\":{\"completion_tokens\":2,\"prompt_tokens\":9}}\n\n",
        "data: [DONE]\n\n",
    );

    #[test]
    fn events_are_the_same_wherever_the_bytes_are_cut() {
        for at in 0..=STREAM.len() {
            let mut stream = AnswerStream::default();
            let (head, tail) = STREAM.as_bytes().split_at(at);
            let contents = stream.read(head).contents + stream.read(tail).contents;
            assert_eq!((contents, stream.tokens, stream.is_done), (2, Some(2), true), "{at}");
            assert_eq!(stream.error, None, "{at}");
        }
    }

    #[test]
    fn an_error_inside_the_stream_is_kept() {
        let check = |text: &str, expected: &str| {
            let mut stream = AnswerStream::default();
            stream.read(text.as_bytes());
            assert!(stream.error.as_deref().is_some_and(|error| error.contains(expected)), "{stream:?}");
            assert!(!stream.is_done);
        };
        check("data: {\"error\":{\"message\":\"broke off\",\"type\":\"server_error\"}}\n\n", "broke off");
        check("data: {\"error\":\"gone\"}\n\n", "gone");
        check("data: {\"choi\n\n", "no chunk");
    }
}
