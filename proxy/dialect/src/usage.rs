//! Token counts in what an engine answers: the `usage` object of a stream's event or of a plain JSON answer, or its like.
//!
//! Engines count in different ways: most give all tokens of the prompt, Anthropic's API those that no cache had or was given, llama.cpp
//! those that were computed. A [`Tally`] takes what there is and says it in one way.

use crate::answer::Mark;
use crate::defect::Defect;
use crate::json::{Leaf, Shape, Sink, Value, Walker};
use crate::{Dialect, Usage};

/// One count.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Count {
    /// Tokens of the prompt, cached ones included.
    Input,
    /// Tokens of the prompt that the cache had no part in.
    Fresh,
    /// Tokens of the prompt from the cache.
    Cached,
    /// Tokens of the prompt that were written to the cache, where they are not among the fresh ones.
    Written,
    Output,
    /// The output in another place, which counts where the first is absent.
    Predicted,
    Reasoning,
    /// All tokens, where there is no output.
    Total,
}

/// The counts of one event or answer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    input: Option<u64>,
    fresh: Option<u64>,
    cached: Option<u64>,
    written: Option<u64>,
    output: Option<u64>,
    predicted: Option<u64>,
    reasoning: Option<u64>,
    total: Option<u64>,
}

impl Tally {
    /// Takes over a count, unless it is no whole number: then the engine did not count.
    pub(crate) fn note(&mut self, count: Count, value: Value<'_>) {
        let Some(tokens) = value.whole_number() else { return };
        let count = match count {
            Count::Input => &mut self.input,
            Count::Fresh => &mut self.fresh,
            Count::Cached => &mut self.cached,
            Count::Written => &mut self.written,
            Count::Output => &mut self.output,
            Count::Predicted => &mut self.predicted,
            Count::Reasoning => &mut self.reasoning,
            Count::Total => &mut self.total,
        };
        *count = Some(tokens);
    }

    /// What was counted, if anything.
    pub(crate) fn usage(&self) -> Option<Usage> {
        let with_cache = |fresh: u64| {
            let cached = self.cached.unwrap_or_default().saturating_add(self.written.unwrap_or_default());
            fresh.saturating_add(cached)
        };
        let usage = Usage {
            input: self.input.or(self.fresh.map(with_cache)).or(self.total),
            output: self.output.or(self.predicted),
            cached: self.cached,
            reasoning: self.reasoning,
        };
        Some(usage).filter(|usage| !usage.is_empty())
    }
}

impl Usage {
    /// Whether nothing was counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Usage::default()
    }
}

/// Reads the token counts of a JSON answer that is not a stream, while it passes. Holds about a kilobyte.
pub struct UsageScanner {
    walker: Option<Walker<Mark>>,
    counts: Counts,
    broken: bool,
}

impl UsageScanner {
    /// Begins an answer of this dialect.
    #[must_use]
    pub fn new(dialect: Dialect) -> UsageScanner {
        let shape: Option<&'static Shape<Mark>> = dialect.tables().answer.whole;
        UsageScanner { walker: shape.map(Walker::new), counts: Counts::default(), broken: false }
    }

    /// Reads the next bytes of the answer.
    pub fn push(&mut self, bytes: &[u8]) {
        if let Some(walker) = &mut self.walker
            && !self.broken
        {
            self.broken = walker.push(bytes, &mut self.counts).is_err();
        }
    }

    /// The counts seen so far; `None` while there are none.
    #[must_use]
    pub fn usage(&self) -> Option<Usage> {
        self.counts.0.usage()
    }

    /// The answer has ended: its counts, or `None` if it reports none or is not one whole JSON object.
    #[must_use]
    pub fn finish(self) -> Option<Usage> {
        self.usage().filter(|_| self.is_complete())
    }

    /// Whether the answer is one whole JSON object.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        !self.broken && self.walker.as_ref().is_some_and(Walker::is_complete)
    }
}

#[derive(Default)]
struct Counts(Tally);

impl Sink<Mark> for Counts {
    fn value(&mut self, mark: Mark, value: Value<'_>) -> Result<(), Defect> {
        if let Mark::Count(count) = mark {
            self.0.note(count, value);
        }
        Ok(())
    }

    fn leaf(&mut self, _: Mark, _: Leaf<'_>) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(answer: &str, expected: Option<Usage>) {
        for chunk_bytes in [1, 2, 3, 7, 4096] {
            let mut scanner = UsageScanner::new(Dialect::OpenAiChat);
            for chunk in answer.as_bytes().chunks(chunk_bytes) {
                scanner.push(chunk);
            }
            assert_eq!(scanner.finish(), expected, "{answer} in chunks of {chunk_bytes}");
        }
    }

    #[test]
    fn counts_are_read_wherever_the_object_stands() {
        check(
            r#"{"usage":{"prompt_tokens":9,"completion_tokens":12,"total_tokens":21,
                "prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":5}},
                "choices":[{"message":{"content":"usage"}}]}"#,
            Some(Usage { input: Some(9), output: Some(12), cached: Some(4), reasoning: Some(5) }),
        );
        check(
            r#"{"data":[{"embedding":[0.5,-1e-3]}],"usage":{"prompt_tokens":3,"total_tokens":3}}"#,
            Some(Usage { input: Some(3), ..Usage::default() }),
        );
    }

    #[test]
    fn an_answer_without_counts_has_no_usage() {
        check(r#"{"choices":[],"usage":null}"#, None);
        check(r#"{"usage":{"prompt_tokens":"9","completion_tokens":-1,"total_tokens":1.5}}"#, None);
        check(r#"{"nested":{"usage":{"prompt_tokens":9}}}"#, None);
        check(r#"{"error":{"message":"no","type":"x","param":null,"code":null}}"#, None);
    }

    #[test]
    fn counts_of_an_answer_that_broke_off_are_not_believed() {
        check(r#"{"usage":{"prompt_tokens":9,"completion_tokens":12},"choices":["#, None);
        check(r#"{"usage":{"prompt_tokens":9}} and more"#, None);
        check("", None);
    }
}
