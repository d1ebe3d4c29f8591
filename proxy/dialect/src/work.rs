//! What a request is to a server as work, told before it is sent on.
//!
//! Generated text is work of its own kind: a prompt, and an answer token by token. Everything else that a server computes an answer to is
//! a call, and its work is counted in what is known of it beforehand:
//!
//! | unit | of |
//! |---|---|
//! | tokens | embeddings, reranking and the like, whose text is read |
//! | bytes | tensors, audio, whatever is posted to a service that we do not know; bodies of the first kind that cannot be read |
//! | items | questions of one message to a model, where nothing tells how long the body is |
//!
//! What is not a question with an answer is no call: streams of messages, requests about a model, a request to an unknown service that
//! fetches something or whose body has no length, since that may be a stream as well.

use crate::{Dialect, Facts};

/// What the work of calls is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Tokens of text, as estimated.
    Tokens,
    /// Calls.
    Items,
    /// Bytes of the body.
    Bytes,
}

/// A call, and so many units of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// What is counted.
    pub unit: Unit,
    /// How many; at least 1.
    pub units: u64,
}

/// How much is known of a request's body.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen<'a> {
    /// What it says so far, where it is read.
    pub facts: Option<&'a Facts>,
    /// Bytes of it that came.
    pub bytes: u64,
    /// Bytes that it has in all, where that is known.
    pub bytes_all: Option<u64>,
}

impl Seen<'_> {
    /// Tokens of the prompt in all of it: what is to come is taken to be as what came.
    #[must_use]
    pub fn prompt_tokens(&self) -> u64 {
        let tokens = self.facts.map_or(0, Facts::prompt_tokens_estimate);
        match self.bytes_all {
            Some(all) if self.bytes > 0 => {
                let share = all as f64 / self.bytes as f64;
                (tokens as f64 * share.max(1.0)).round() as u64
            }
            _ => tokens,
        }
    }
}

impl Dialect {
    /// What a request is counted in where it is a call whose size is known; `None` where it is none.
    #[must_use]
    pub fn call_unit(self) -> Option<Unit> {
        match self {
            Self::OpenAiEmbeddings | Self::OllamaEmbed | Self::Pooling => Some(Unit::Tokens),
            Self::OipInfer | Self::OpenAiAudio | Self::Http => Some(Unit::Bytes),
            Self::OipGrpc => Some(Unit::Items),
            Self::OpenAiChat
            | Self::OpenAiCompletions
            | Self::OpenAiResponses
            | Self::AnthropicMessages
            | Self::Generate
            | Self::LlamaCpp
            | Self::OllamaChat
            | Self::OllamaGenerate
            | Self::OipGrpcStream
            | Self::OipModel
            | Self::OipGrpcModel => None,
        }
    }

    /// The call that a request is; `None` where it is none.
    #[must_use]
    pub fn call(self, method: &str, seen: Seen<'_>) -> Option<Call> {
        if self == Self::Http && matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "CONNECT") {
            return None;
        }
        let (unit, units) = match (self.call_unit()?, seen.prompt_tokens(), seen.bytes_all) {
            (Unit::Tokens, tokens @ 1.., _) => (Unit::Tokens, tokens),
            (Unit::Tokens | Unit::Bytes, _, Some(bytes @ 1..)) => (Unit::Bytes, bytes),
            (_, _, None) if self == Self::Http => return None,
            _ => (Unit::Items, 1),
        };
        Some(Call { unit, units })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKENS: fn(u64) -> Option<Call> = |units| Some(Call { unit: Unit::Tokens, units });
    const BYTES: fn(u64) -> Option<Call> = |units| Some(Call { unit: Unit::Bytes, units });
    const ITEM: Option<Call> = Some(Call { unit: Unit::Items, units: 1 });

    /// A request of which so many bytes of text came.
    #[track_caller]
    fn check(dialect: Dialect, method: &str, text: u64, bytes_all: Option<u64>, expected: Option<Call>) {
        let facts = Facts { prompt_bytes: text, ..Facts::default() };
        let seen = Seen { facts: Some(&facts), bytes: text + 20, bytes_all };
        assert_eq!(dialect.call(method, seen), expected, "{dialect:?} {method} {text} {bytes_all:?}");
    }

    #[test]
    fn what_a_call_is_counted_in_goes_by_what_is_known_of_it() {
        check(Dialect::OpenAiEmbeddings, "POST", 80, Some(100), TOKENS(20));
        check(Dialect::OpenAiEmbeddings, "POST", 80, None, TOKENS(20));
        check(Dialect::Pooling, "POST", 80, Some(1_000), TOKENS(200));
        check(Dialect::OllamaEmbed, "POST", 0, Some(700), BYTES(700));
        check(Dialect::OllamaEmbed, "POST", 0, None, ITEM);
        check(Dialect::OipInfer, "POST", 0, Some(600_000), BYTES(600_000));
        check(Dialect::OipInfer, "POST", 0, None, ITEM);
        check(Dialect::OpenAiAudio, "POST", 40, Some(9_000), BYTES(9_000));
        check(Dialect::OipGrpc, "POST", 0, None, ITEM);
        check(Dialect::OipGrpc, "POST", 0, Some(50), ITEM);
        check(Dialect::Http, "POST", 0, Some(50), BYTES(50));
        check(Dialect::Http, "PUT", 0, Some(0), ITEM);
    }

    #[test]
    fn what_is_no_question_with_an_answer_is_no_call() {
        check(Dialect::Http, "POST", 0, None, None);
        for method in ["GET", "HEAD", "OPTIONS", "CONNECT"] {
            check(Dialect::Http, method, 0, Some(50), None);
        }
        for dialect in [Dialect::OipGrpcStream, Dialect::OipModel, Dialect::OipGrpcModel] {
            check(dialect, "POST", 80, Some(100), None);
        }
    }

    #[test]
    fn generated_text_is_no_call() {
        for dialect in Dialect::ALL.into_iter().filter(|dialect| dialect.generates()) {
            check(dialect, "POST", 80, Some(100), None);
        }
    }

    #[test]
    fn a_prompt_of_which_a_part_came_is_taken_to_go_on_as_it_began() {
        let facts = Facts { prompt_bytes: 400, ..Facts::default() };
        let tokens = |bytes, bytes_all| Seen { facts: Some(&facts), bytes, bytes_all }.prompt_tokens();
        assert_eq!([tokens(500, None), tokens(500, Some(500)), tokens(500, Some(5_000))], [100, 100, 1_000]);
        assert_eq!([tokens(0, Some(5_000)), tokens(500, Some(20))], [100, 100]);
    }
}
