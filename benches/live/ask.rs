//! Requests as the trace has them: of exactly so many tokens, and alike exactly as far as their blocks are.
//!
//! A prompt is made of words that the engines' vocabulary has as one token and four bytes each. So a block of 512 words is 512 tokens,
//! and equal blocks are equal text at equal places: what the simulator takes for cached can be cached live.

use std::fmt::Write as _;

use anyhow::ensure;
use penstock_engine::bpe::Vocabulary;
use penstock_simulate::slo::Slo;
use penstock_simulate::trace::{Arrival, BLOCK_TOKENS};

/// Of the model that all engines serve.
pub(crate) const MODEL: &str = "live";
/// Where it is asked.
const PATH: &str = "/v1/chat/completions";
/// The chat format adds a mark before the text and two behind it.
const MARKS: u32 = 3;
/// With the blank before it.
const WORD_BYTES: usize = 4;
/// So few would be a strange text.
const WORDS_MIN: usize = 16;
/// The step of SplitMix64.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Words that are one token each.
pub(crate) struct Words(Vec<[u8; WORD_BYTES]>);

impl Words {
    /// Those of the shipped vocabulary.
    ///
    /// # Errors
    /// When it has too few.
    pub(crate) fn shipped() -> anyhow::Result<Self> {
        let vocabulary = Vocabulary::shipped()?;
        let words: Vec<_> = (0..vocabulary.tokens())
            .filter_map(|token| <[u8; WORD_BYTES]>::try_from(vocabulary.bytes(token)).ok())
            .filter(|word| word[0] == b' ' && word[1..].iter().all(u8::is_ascii_lowercase))
            .filter(|word| vocabulary.encode(word).len() == 1)
            .collect();
        ensure!(words.len() >= WORDS_MIN, "the vocabulary has {} words of three letters", words.len());
        Ok(Self(words))
    }

    /// Adds `count` words, the same for the same seed.
    fn write(&self, seed: u64, count: u32, text: &mut Vec<u8>) {
        let mut state = seed;
        for _ in 0..count {
            state = state.wrapping_add(STEP);
            // The upper half of a product by a large odd number is mixed well enough for prose.
            let drawn = (state ^ (state >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 32;
            text.extend_from_slice(&self.0[(drawn % self.0.len() as u64) as usize]);
        }
    }

    /// The prompt of an arrival, the `number`-th; with the marks it has as many tokens as the trace says, but at least four.
    fn prompt(&self, number: usize, arrival: &Arrival, text: &mut Vec<u8>) {
        let mut left = arrival.prompt_tokens.saturating_sub(MARKS).max(1);
        for block in arrival.blocks.iter() {
            let words = left.min(BLOCK_TOKENS);
            self.write(*block, words, text);
            left -= words;
        }
        // What no block stands for is nobody else's.
        self.write(!(number as u64).wrapping_mul(STEP), left, text);
    }

    /// The request, head and body. The answer gets exactly as long as the trace's; the promise is told in the fields that say so.
    pub(crate) fn request(&self, number: usize, arrival: &Arrival, slo: &Slo) -> Vec<u8> {
        let mut body = Vec::with_capacity(arrival.prompt_tokens as usize * WORD_BYTES + 256);
        body.extend_from_slice(format!(r#"{{"model":"{MODEL}","stream":true,"stream_options":{{"include_usage":true}},"ignore_eos":true,"max_tokens":{},"messages":[{{"role":"user","content":""#, arrival.output_tokens).as_bytes());
        self.prompt(number, arrival, &mut body);
        body.extend_from_slice(br#""}]}"#);
        let (first_ns, token_ns) = (slo.first_token_ns(arrival.prompt_tokens), slo.token_ns);
        let mut head = format!("POST {PATH} HTTP/1.1\r\nhost: {MODEL}\r\ncontent-type: application/json\r\n");
        // Writing to a String cannot fail.
        let _written = write!(
            head,
            "content-length: {}\r\nx-llm-d-slo-ttft-ms: {}\r\nx-llm-d-slo-tpot-ms: {}\r\n\r\n",
            body.len(),
            first_ns as f64 / 1e6,
            token_ns as f64 / 1e6
        );
        let mut request = head.into_bytes();
        request.append(&mut body);
        request
    }
}

#[cfg(test)]
mod tests {
    use penstock_simulate::slo::Form;

    use super::*;

    fn arrival(prompt_tokens: u32, blocks: &[u64]) -> Arrival {
        Arrival {
            at_ns: 0,
            prompt_tokens,
            output_tokens: 7,
            blocks: blocks.into(),
            session: None,
            next_turn: None,
        }
    }

    fn tokens(number: usize, arrival: &Arrival) -> Vec<u32> {
        let mut text = Vec::new();
        Words::shipped().unwrap().prompt(number, arrival, &mut text);
        Vocabulary::shipped().unwrap().encode(&text)
    }

    #[test]
    fn a_prompt_has_as_many_tokens_as_the_trace_says() {
        for (prompt_tokens, blocks) in
            [(4, &[][..]), (100, &[]), (515, &[1]), (2_000, &[1, 2, 3, 4]), (2_000, &[9])]
        {
            let found = tokens(1, &arrival(prompt_tokens, blocks)).len();
            assert_eq!(found, (prompt_tokens - MARKS) as usize, "{blocks:?}");
        }
    }

    #[test]
    fn prompts_are_alike_as_far_as_their_blocks_are() {
        let one = tokens(1, &arrival(2_000, &[5, 6, 7]));
        for (number, blocks, alike) in
            [(2, &[5, 6, 7][..], 1_536), (2, &[5, 6, 8], 1_024), (2, &[], 0), (1, &[5, 6, 7], 1_997)]
        {
            let other = tokens(number, &arrival(2_000, blocks));
            let found = one.iter().zip(&other).take_while(|(one, other)| one == other).count();
            // A word may happen to be the same behind the place where texts part.
            assert!((alike..alike + 4).contains(&found), "{blocks:?}: {found}");
        }
    }

    #[test]
    fn the_request_is_whole_and_says_what_was_promised() {
        let request =
            Words::shipped().unwrap().request(1, &arrival(1_000, &[]), &Slo::standard(Form::Deadline));
        let text = String::from_utf8(request).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        for field in [
            "x-llm-d-slo-ttft-ms: 600",
            "x-llm-d-slo-tpot-ms: 50",
            &format!("content-length: {}", body.len()),
        ] {
            assert!(head.lines().any(|line| line == field), "{field}: {head}");
        }
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!((&body["max_tokens"], &body["ignore_eos"]), (&7.into(), &true.into()));
    }
}
