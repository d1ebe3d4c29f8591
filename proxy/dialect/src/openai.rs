//! The OpenAI dialects: chat completions, completions, embeddings. Engines that speak them: OpenAI, vLLM, SGLang, llama.cpp.
//!
//! The tables say what is read; `judge` says what one event of an answer carries. A stream begins with a delta that has only
//! a role and often an empty content; that is no token. Text, reasoning and tool calls are.

use crate::Usage;
use crate::answer::{Judged, Mark, Piece};
use crate::defect::Defect;
use crate::json::{Leaf, Shape, Sink, Value, Walker};
use crate::scan::Wanted;
use crate::usage::Count;

/// Body of `POST /v1/chat/completions`.
pub(crate) static CHAT: Shape<Wanted> = Shape::object(&[
    ("model", Shape::value(Wanted::Model)),
    ("stream", Shape::value(Wanted::Stream)),
    ("max_completion_tokens", Shape::value(Wanted::OutputCap("max_completion_tokens"))),
    ("max_tokens", Shape::value(Wanted::OutputCapFallback("max_tokens"))),
    ("messages", Shape::text(Wanted::Messages)),
    ("tools", Shape::text(Wanted::Tools)),
]);

/// Body of `POST /v1/completions`.
pub(crate) static COMPLETIONS: Shape<Wanted> = Shape::object(&[
    ("model", Shape::value(Wanted::Model)),
    ("stream", Shape::value(Wanted::Stream)),
    ("max_tokens", Shape::value(Wanted::OutputCap("max_tokens"))),
    ("prompt", Shape::text(Wanted::Prompt)),
]);

/// Body of `POST /v1/embeddings`.
pub(crate) static EMBEDDINGS: Shape<Wanted> =
    Shape::object(&[("model", Shape::value(Wanted::Model)), ("input", Shape::text(Wanted::Prompt))]);

/// An answer that is not a stream.
pub(crate) static ANSWER: Shape<Mark> = Shape::object(&[("usage", USAGE)]);

/// One event of a streamed answer.
static EVENT: Shape<Mark> = Shape::object(&[
    ("choices", Shape::each(&CHOICE)),
    ("error", Shape::value(Mark::Error)),
    ("usage", USAGE),
]);

/// SGLang counts reasoning beside the others, without the details.
const USAGE: Shape<Mark> = Shape::object(&[
    ("prompt_tokens", Shape::value(Mark::Count(Count::Input))),
    ("completion_tokens", Shape::value(Mark::Count(Count::Output))),
    ("reasoning_tokens", Shape::value(Mark::Count(Count::Reasoning))),
    ("prompt_tokens_details", Shape::object(&[("cached_tokens", Shape::value(Mark::Count(Count::Cached)))])),
    (
        "completion_tokens_details",
        Shape::object(&[("reasoning_tokens", Shape::value(Mark::Count(Count::Reasoning)))]),
    ),
]);

/// `reasoning_content` is what SGLang, llama.cpp and older vLLM call it, `reasoning` what vLLM calls it now.
static CHOICE: Shape<Mark> = Shape::object(&[
    ("text", Shape::value(Mark::Text)),
    (
        "delta",
        Shape::object(&[
            ("role", Shape::value(Mark::Role)),
            ("content", Shape::value(Mark::Text)),
            ("reasoning_content", Shape::value(Mark::Text)),
            ("reasoning", Shape::value(Mark::Text)),
            ("refusal", Shape::value(Mark::Text)),
            ("tool_calls", Shape::each(&Shape::value(Mark::Call))),
            ("function_call", Shape::value(Mark::Call)),
        ]),
    ),
]);

/// Judges one event. The name `error` is llama.cpp's: its older builds write `error: {…}` where others write `data:`.
pub(crate) fn judge(name: Option<&[u8]>, data: &[u8]) -> Judged {
    if data.trim_ascii() == b"[DONE]" {
        return Judged { piece: Piece::Done, usage: None };
    }
    if name == Some(b"error") {
        return Judged { piece: Piece::Error, usage: None };
    }
    let mut event = Event::default();
    let mut walker = Walker::new(&EVENT);
    if walker.push(data, &mut event).is_err() || !walker.is_complete() {
        return Judged { piece: Piece::Other, usage: None };
    }
    let usage = Some(event.usage).filter(|usage| !usage.is_empty());
    Judged { piece: event.piece(usage.is_some()), usage }
}

#[derive(Default)]
struct Event {
    deltas: u32,
    role: bool,
    error: bool,
    usage: Usage,
}

impl Event {
    fn piece(&self, counted: bool) -> Piece {
        match self {
            Event { error: true, .. } => Piece::Error,
            Event { deltas: 1.., .. } => Piece::Content { deltas: self.deltas },
            _ if counted => Piece::Usage,
            Event { role: true, .. } => Piece::Role,
            _ => Piece::Other,
        }
    }
}

impl Sink<Mark> for Event {
    fn value(&mut self, mark: Mark, value: Value<'_>) -> Result<(), Defect> {
        match (mark, value) {
            (Mark::Text, Value::Text(clip)) if !clip.bytes.is_empty() => self.deltas += 1,
            (Mark::Call, Value::Object) => self.deltas += 1,
            (Mark::Role, Value::Text(_)) => self.role = true,
            (Mark::Error, Value::Object | Value::Text(_)) => self.error = true,
            (Mark::Count(count), _) => self.usage.note(count, value),
            _ => {}
        }
        Ok(())
    }

    fn leaf(&mut self, _: Mark, _: Leaf) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::FRAMES_MAX;

    fn check(data: &str, expected: Piece) {
        assert_eq!(judge(None, data.as_bytes()).piece, expected, "{data}");
    }

    fn delta(fields: &str) -> String {
        format!(r#"{{"id":"c-1","choices":[{{"index":0,"delta":{{{fields}}},"finish_reason":null}}]}}"#)
    }

    const ONE: Piece = Piece::Content { deltas: 1 };

    #[test]
    fn no_table_is_deeper_than_the_walker_follows() {
        for depth in [CHAT.depth(), COMPLETIONS.depth(), EMBEDDINGS.depth(), ANSWER.depth(), EVENT.depth()] {
            assert!((1..=FRAMES_MAX).contains(&depth), "{depth}");
        }
    }

    #[test]
    fn text_reasoning_and_tool_calls_are_content() {
        for fields in [
            r#""content":" Hello""#,
            r#""role":"assistant","content":"Hi""#,
            r#""content":"\n""#,
            r#""content":null,"reasoning_content":"Let"#,
            r#""reasoning":"me""#,
            r#""refusal":"No"#,
            r#""tool_calls":[{"index":0,"function":{"arguments":""}}]"#,
            r#""function_call":{"name":"f"}"#,
        ] {
            let closed =
                if fields.ends_with(['"', ']', '}']) { fields.to_owned() } else { format!("{fields}\"") };
            check(&delta(&closed), ONE);
        }
        check(r#"{"choices":[{"index":0,"text":"a","logprobs":null}]}"#, ONE);
    }

    #[test]
    fn roles_and_empty_deltas_are_not_content() {
        check(&delta(r#""role":"assistant","content":"""#), Piece::Role);
        check(&delta(r#""role":"assistant","content":null,"tool_calls":[]"#), Piece::Role);
        check(&delta(""), Piece::Other);
        check(&delta(r#""content":"","obfuscation":"xyzzy""#), Piece::Other);
        check(&delta(r#""function_call":null,"tool_calls":null"#), Piece::Other);
        check(r#"{"choices":[{"text":"","finish_reason":"stop"}]}"#, Piece::Other);
        check(r#"{"content":"not a choice","delta":{"content":"x"}}"#, Piece::Other);
    }

    #[test]
    fn several_choices_in_one_event_are_counted() {
        check(r#"{"choices":[{"text":"a"},{"text":""},{"text":"b"}]}"#, Piece::Content { deltas: 2 });
    }

    #[test]
    fn usage_is_read_beside_content_and_alone() {
        let counts = r#""usage":{"prompt_tokens":5,"completion_tokens":2,"prompt_tokens_details":null}"#;
        let usage = Some(Usage { input: Some(5), output: Some(2), ..Usage::default() });
        let beside = format!(r#"{{"choices":[{{"delta":{{"content":"x"}}}}],{counts}}}"#);
        assert_eq!(judge(None, beside.as_bytes()), Judged { piece: ONE, usage });
        let alone = format!(r#"{{"choices":[],{counts}}}"#);
        assert_eq!(judge(None, alone.as_bytes()), Judged { piece: Piece::Usage, usage });
        check(r#"{"choices":[],"usage":null}"#, Piece::Other);
    }

    #[test]
    fn ends_and_errors_are_told() {
        check("[DONE]", Piece::Done);
        check(" [DONE] ", Piece::Done);
        check(r#"{"error":{"message":"out of memory","code":500}}"#, Piece::Error);
        check(r#"{"error":"out of memory"}"#, Piece::Error);
        check(r#"{"error":null,"choices":[{"text":"a"}]}"#, ONE);
        assert_eq!(judge(Some(b"error"), br#"{"code":500}"#).piece, Piece::Error);
    }

    #[test]
    fn what_is_not_json_of_this_dialect_is_other() {
        for data in [
            "",
            "[]",
            "7",
            "{",
            r#"{"choices":"#,
            "DONE",
            "\u{feff}",
            r#"{"choices":{"delta":{"content":"x"}}}"#,
        ] {
            check(data, Piece::Other);
        }
    }
}
