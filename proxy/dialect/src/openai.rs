//! The OpenAI dialects: chat completions, completions, embeddings. Engines that speak them: OpenAI, vLLM, SGLang, llama.cpp.
//!
//! A stream begins with a delta that has only a role and often an empty content; that is no token.

use crate::answer::Mark;
use crate::json::Shape;
use crate::reply::words::Words;
use crate::scan::Wanted;
use crate::tables::{Answer, Events, Request, Streams, Tables};
use crate::usage::Count;

/// `POST /v1/chat/completions`.
pub(crate) static CHAT: Tables = Tables {
    label: "openai_chat",
    operation: Some("chat"),
    streams: Streams::IfAsked,
    request: Request::Json(&CHAT_BODY),
    answer: ANSWER,
    words: Words::OpenAi,
};

/// `POST /v1/completions`.
pub(crate) static COMPLETIONS: Tables = Tables {
    label: "openai_completions",
    operation: Some("text_completion"),
    streams: Streams::IfAsked,
    request: Request::Json(&COMPLETIONS_BODY),
    answer: ANSWER,
    words: Words::OpenAi,
};

/// `POST /v1/embeddings`; llama.cpp's own `/embedding`.
pub(crate) static EMBEDDINGS: Tables = Tables {
    label: "openai_embeddings",
    operation: Some("embeddings"),
    streams: Streams::Never,
    request: Request::Json(&EMBEDDINGS_BODY),
    answer: ANSWER,
    words: Words::OpenAi,
};

/// `error` is also the name of an event: older builds of llama.cpp write `error: {…}` where others write `data:`.
pub(crate) const ANSWER: Answer = Answer {
    event: Some(Events { shape: &EVENT, last: &[], error: &["error"] }),
    message: None,
    whole: Some(&WHOLE),
};

static CHAT_BODY: Shape<Wanted> = Shape::object(&[
    ("model", Shape::value(Wanted::Model)),
    ("cache_salt", Shape::leaves(Wanted::CacheSalt)),
    ("extra_key", Shape::leaves(Wanted::CacheSalt)),
    ("lora_path", Shape::leaves(Wanted::Adapter)),
    ("stream", Shape::value(Wanted::Stream)),
    ("max_completion_tokens", Shape::value(Wanted::OutputCap("max_completion_tokens"))),
    ("max_tokens", Shape::value(Wanted::OutputCapFallback("max_tokens"))),
    ("messages", Shape::text(Wanted::Text(0)).with_each(&MESSAGE)),
    ("tools", Shape::text(Wanted::TextAndKeys(1))),
]);

pub(crate) static MESSAGE: Shape<Wanted> =
    Shape::object(&[("content", Shape::object(&[]).with_each(&PART)), CACHE_CONTROL]);

/// Anthropic's mark of how far to cache, which clients of others write as well. It moves on with each turn of a conversation.
pub(crate) const CACHE_CONTROL: (&str, Shape<Wanted>) = ("cache_control", Shape::leaves(Wanted::Aside));

/// Images, video and files are data URLs, or URLs of other hosts; audio is base64 as such.
pub(crate) static PART: Shape<Wanted> = Shape::object(&[
    ("image_url", URL),
    ("video_url", URL),
    ("audio_url", URL),
    ("input_audio", Shape::object(&[("data", Shape::leaves(Wanted::Media))])),
    ("file", Shape::object(&[("file_data", Shape::leaves(Wanted::Media))])),
    CACHE_CONTROL,
]);

const URL: Shape<Wanted> = Shape::leaves(Wanted::Media);

static COMPLETIONS_BODY: Shape<Wanted> = Shape::object(&[
    ("model", Shape::value(Wanted::Model)),
    ("cache_salt", Shape::leaves(Wanted::CacheSalt)),
    ("extra_key", Shape::leaves(Wanted::CacheSalt)),
    ("lora_path", Shape::leaves(Wanted::Adapter)),
    ("stream", Shape::value(Wanted::Stream)),
    ("max_tokens", Shape::value(Wanted::OutputCap("max_tokens"))),
    ("prompt", Shape::text(Wanted::TextOrIds(0))),
    ("prompt_embeds", Shape::leaves(Wanted::Media)),
]);

static EMBEDDINGS_BODY: Shape<Wanted> = Shape::object(&[
    ("model", Shape::value(Wanted::Model)),
    ("cache_salt", Shape::leaves(Wanted::CacheSalt)),
    ("input", Shape::text(Wanted::TextOrIds(0))),
    ("content", Shape::text(Wanted::TextOrIds(1))),
    ("messages", Shape::text(Wanted::Text(2)).with_each(&MESSAGE)),
]);

/// An answer that is not a stream.
static WHOLE: Shape<Mark> = Shape::object(&[("usage", USAGE), ("timings", TIMINGS)]);

/// One event of a streamed answer.
static EVENT: Shape<Mark> = Shape::object(&[
    ("choices", Shape::each(&CHOICE)),
    ("error", Shape::value(Mark::Error)),
    ("usage", USAGE),
    ("timings", TIMINGS),
]);

/// SGLang counts reasoning beside the others, without the details.
pub(crate) const USAGE: Shape<Mark> = Shape::object(&[
    ("prompt_tokens", Shape::value(Mark::Count(Count::Input))),
    ("completion_tokens", Shape::value(Mark::Count(Count::Output))),
    ("reasoning_tokens", Shape::value(Mark::Count(Count::Reasoning))),
    ("prompt_tokens_details", Shape::object(&[("cached_tokens", Shape::value(Mark::Count(Count::Cached)))])),
    (
        "completion_tokens_details",
        Shape::object(&[("reasoning_tokens", Shape::value(Mark::Count(Count::Reasoning)))]),
    ),
]);

/// llama.cpp's own counts, which it sends unasked.
pub(crate) const TIMINGS: Shape<Mark> = Shape::object(&[
    ("cache_n", Shape::value(Mark::Count(Count::Cached))),
    ("prompt_n", Shape::value(Mark::Count(Count::Fresh))),
    ("predicted_n", Shape::value(Mark::Count(Count::Predicted))),
]);

/// `reasoning_content` is what SGLang, llama.cpp and older vLLM call it, `reasoning` what vLLM calls it now.
pub(crate) static CHOICE: Shape<Mark> = Shape::object(&[
    ("text", Shape::value(Mark::Text)),
    (
        "delta",
        Shape::object(&[
            ("role", Shape::value(Mark::Role)),
            ("content", Shape::value(Mark::Text)),
            ("reasoning_content", Shape::value(Mark::Text)),
            ("reasoning", Shape::value(Mark::Text)),
            ("refusal", Shape::value(Mark::Text)),
            ("audio", AUDIO),
            ("tool_calls", Shape::each(&Shape::value(Mark::Call))),
            ("function_call", Shape::value(Mark::Call)),
        ]),
    ),
]);

/// Speech; its transcript comes in events of its own. An identity or a date of expiry alone is nothing that was generated.
const AUDIO: Shape<Mark> =
    Shape::object(&[("data", Shape::value(Mark::Text)), ("transcript", Shape::value(Mark::Text))]);

#[cfg(test)]
mod tests {
    use crate::answer::{Judged, Piece};
    use crate::{Dialect, Usage};

    fn judge(name: Option<&[u8]>, data: &[u8]) -> Judged {
        crate::answer::judge(Dialect::OpenAiChat, name, data)
    }

    fn check(data: &str, expected: Piece) {
        assert_eq!(judge(None, data.as_bytes()).piece, expected, "{data}");
    }

    fn delta(fields: &str) -> String {
        format!(r#"{{"id":"c-1","choices":[{{"index":0,"delta":{{{fields}}},"finish_reason":null}}]}}"#)
    }

    const ONE: Piece = Piece::Content { deltas: 1 };

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
        assert_eq!(judge(None, beside.as_bytes()), Judged { piece: ONE, usage, is_last: false });
        let alone = format!(r#"{{"choices":[],{counts}}}"#);
        assert_eq!(judge(None, alone.as_bytes()), Judged { piece: Piece::Usage, usage, is_last: false });
        check(r#"{"choices":[],"usage":null}"#, Piece::Other);
    }

    #[test]
    fn ends_and_errors_are_told() {
        for data in ["[DONE]", " [DONE] "] {
            assert_eq!(judge(None, data.as_bytes()), Judged { is_last: true, ..Judged::OTHER }, "{data:?}");
        }
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
