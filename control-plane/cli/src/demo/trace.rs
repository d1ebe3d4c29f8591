//! The traffic: a sample of a public trace, squeezed in time, over and over for as long as the demo runs.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde::Deserialize;

/// A sample of the Azure LLM inference trace of 2023, conversation service (CC-BY 4.0; `tests/traces/README.md`).
const SAMPLE: &str = include_str!("../../../../tests/traces/azure2023-conversation-sample.jsonl");

/// One request of the trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
struct Row {
    /// Arrival, in milliseconds from the start.
    timestamp: u64,
    /// Prompt, in tokens.
    input_length: u32,
    /// Answer, in tokens.
    output_length: u32,
}

/// One request to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Arrival {
    /// From the start of the demo.
    pub(super) at: Duration,
    pub(super) prompt_tokens: u32,
    pub(super) answer_tokens: u32,
}

/// A trace.
#[derive(Debug)]
pub(super) struct Trace {
    rows: Vec<Row>,
}

impl Trace {
    /// The one that this program carries.
    ///
    /// # Errors
    /// A build defect.
    pub(super) fn sample() -> anyhow::Result<Self> {
        Self::parse(SAMPLE)
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let mut rows: Vec<Row> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let number = index + 1;
            let row: Row =
                serde_json::from_str(line).with_context(|| format!("line {number} of the trace"))?;
            let ordered = rows.last().is_none_or(|last| last.timestamp <= row.timestamp);
            ensure!(ordered, "line {number} of the trace is earlier than the one before");
            ensure!(
                row.input_length > 0 && row.output_length > 0,
                "line {number} of the trace has no tokens"
            );
            rows.push(row);
        }
        ensure!(rows.last().is_some_and(|last| last.timestamp > 0), "the trace is empty");
        Ok(Self { rows })
    }

    /// Arrivals without end, `times_faster` than they were; the trace begins again where it is over.
    pub(super) fn arrivals(&self, times_faster: f64) -> impl Iterator<Item = Arrival> + '_ {
        let length_ms = self.rows.last().map_or(1, |last| last.timestamp);
        (0u64..).flat_map(move |round| {
            self.rows.iter().map(move |row| {
                let ms = (round * length_ms + row.timestamp) as f64 / times_faster;
                Arrival {
                    at: Duration::from_secs_f64(ms / 1_000.0),
                    prompt_tokens: row.input_length,
                    answer_tokens: row.output_length,
                }
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_is_what_its_readme_says() {
        let rows = Trace::sample().unwrap().rows;
        let mean = |of: fn(&Row) -> u32| {
            (rows.iter().map(|row| f64::from(of(row))).sum::<f64>() / rows.len() as f64).round() as u64
        };
        assert_eq!(
            (rows.len(), mean(|row| row.input_length), mean(|row| row.output_length)),
            (2_826, 1_427, 160)
        );
        assert!(SAMPLE.len() <= 200_000);
    }

    #[test]
    fn arrivals_are_squeezed_and_begin_again() {
        let text = "{\"timestamp\":10,\"input_length\":1,\"output_length\":2}\n\
                    {\"timestamp\":40,\"input_length\":3,\"output_length\":4}\n";
        let trace = Trace::parse(text).unwrap();
        let at: Vec<u128> = trace.arrivals(2.0).take(4).map(|arrival| arrival.at.as_millis()).collect();
        assert_eq!(at, [5, 20, 25, 40]);
        let second = trace.arrivals(2.0).nth(1).unwrap();
        assert_eq!((second.prompt_tokens, second.answer_tokens), (3, 4));
    }

    #[test]
    fn a_bad_line_is_named() {
        let row = |timestamp: u64| {
            format!("{{\"timestamp\":{timestamp},\"input_length\":1,\"output_length\":1}}\n")
        };
        for (text, expected) in [
            (String::new(), "empty"),
            (format!("{}x", row(1)), "line 2"),
            (row(2) + &row(1), "line 2 of the trace is earlier"),
            (
                row(1).replace("\"output_length\":1", "\"output_length\":0"),
                "line 1 of the trace has no tokens",
            ),
        ] {
            let fault = Trace::parse(&text).unwrap_err();
            assert!(format!("{fault:#}").contains(expected), "{fault:#}");
        }
    }
}
