//! What the model says: prose that is a function of the seed and of every token before.
//!
//! The next token follows its two predecessors somewhere in the corpus (now and then only the last one), so the text
//! reads vaguely like it. Which of the possible successors it is depends on a rolling hash of all tokens so far: one
//! token lost, doubled or changed anywhere upstream changes everything after it, and a test sees that.

use crate::bpe::{BadMerge, CORPUS, Token, Vocabulary};
use crate::mix::{NumberMap, roll, scramble};

/// The vocabulary, and which tokens follow which in the corpus.
#[derive(Clone, Debug)]
pub struct Prose {
    /// The tokens.
    pub vocabulary: Vocabulary,
    after_two: NumberMap<u64, Vec<Token>>,
    after_one: NumberMap<u64, Vec<Token>>,
    /// First two tokens of each paragraph.
    openings: Vec<[Token; 2]>,
}

impl Prose {
    /// Reads the shipped corpus.
    ///
    /// # Errors
    /// The shipped merge table is damaged.
    pub fn shipped() -> Result<Self, BadMerge> {
        let vocabulary = Vocabulary::shipped()?;
        let mut prose = Self {
            vocabulary,
            after_two: NumberMap::default(),
            after_one: NumberMap::default(),
            openings: Vec::new(),
        };
        let mut text = Vec::new();
        for paragraph in CORPUS.split("\n\n").map(str::trim) {
            let begin = text.len();
            prose.vocabulary.encode_into(paragraph.as_bytes(), &mut text);
            prose.openings.push([text[begin], text[begin + 1]]);
            prose.vocabulary.encode_into(b"\n\n", &mut text);
        }
        for three in text.windows(3) {
            prose.after_two.entry(two(three[0], three[1])).or_default().push(three[2]);
            prose.after_one.entry(u64::from(three[1])).or_default().push(three[2]);
        }
        Ok(prose)
    }

    /// Begins an answer to `prompt`.
    pub fn answer(&self, seed: u64, prompt: &[Token]) -> Answer {
        let history = prompt.iter().fold(scramble(seed), |so_far, token| roll(so_far, u64::from(*token)));
        let opening = self.openings[(scramble(history) % self.openings.len() as u64) as usize];
        Answer { history, last: opening, told: 0, tokens: natural_length(history) }
    }

    /// The next token of `answer`.
    pub fn next(&self, answer: &mut Answer) -> Token {
        let token = match answer.last.get(answer.told as usize) {
            Some(opening) => *opening,
            None => self.successor(answer.last, scramble(answer.history)),
        };
        if answer.told >= 2 {
            answer.last = [answer.last[1], token];
        }
        answer.history = roll(answer.history, u64::from(token));
        answer.told += 1;
        token
    }

    fn successor(&self, last: [Token; 2], draw: u64) -> Token {
        let after_two = if draw & 3 == 0 { None } else { self.after_two.get(&two(last[0], last[1])) };
        let choices = after_two.or_else(|| self.after_one.get(&u64::from(last[1])));
        match choices {
            Some(choices) => choices[((draw >> 2) % choices.len() as u64) as usize],
            None => self.openings[(draw % self.openings.len() as u64) as usize][0],
        }
    }
}

/// How far an answer has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    history: u64,
    /// The two tokens that the next one follows; at first, those that the answer opens with.
    last: [Token; 2],
    told: u32,
    tokens: u32,
}

impl Answer {
    /// A number that depends on everything so far.
    pub fn draw(&self) -> u64 {
        scramble(self.history)
    }

    /// How many tokens the answer has when nothing cuts it short.
    pub fn tokens(&self) -> u32 {
        self.tokens
    }
}

/// Three dice of 120 sides and 16: about 200 tokens, hardly ever below 60 or above 330.
fn natural_length(history: u64) -> u32 {
    (1..=3).fold(16, |sum, die| sum + (scramble(history ^ die) % 120) as u32)
}

fn two(first: Token, second: Token) -> u64 {
    u64::from(first) << 32 | u64::from(second)
}

/// Turns the bytes of tokens into text as they come: an unfinished character is held back until the rest of it is
/// there, and what can never become one is replaced.
#[derive(Clone, Debug, Default)]
pub struct Spelling {
    held: Vec<u8>,
}

impl Spelling {
    /// The text that is complete with `bytes`.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.held.extend_from_slice(bytes);
        let mut text = String::new();
        loop {
            let Err(fault) = std::str::from_utf8(&self.held) else {
                text += &String::from_utf8_lossy(&self.held);
                self.held.clear();
                return text;
            };
            text += &String::from_utf8_lossy(&self.held[..fault.valid_up_to()]);
            let Some(bad) = fault.error_len() else {
                self.held.drain(..fault.valid_up_to());
                return text;
            };
            text.push(char::REPLACEMENT_CHARACTER);
            self.held.drain(..fault.valid_up_to() + bad);
        }
    }

    /// What is left when no more bytes come.
    pub fn finish(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.held).into_owned();
        self.held.clear();
        text
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tell(prose: &Prose, seed: u64, prompt: &[Token], tokens: usize) -> Vec<Token> {
        let mut answer = prose.answer(seed, prompt);
        (0..tokens).map(|_| prose.next(&mut answer)).collect()
    }

    #[test]
    fn the_same_seed_and_prompt_always_give_the_same_answer() {
        let prose = Prose::shipped().expect("the shipped corpus");
        let tokens = tell(&prose, 1, &[5, 6, 7], 200);
        assert_eq!(tokens, tell(&prose, 1, &[5, 6, 7], 200));
        assert_ne!(tokens, tell(&prose, 2, &[5, 6, 7], 200));
        assert_eq!(prose.answer(1, &[5]).tokens(), prose.answer(1, &[5]).tokens());
        let text = String::from_utf8_lossy(&prose.vocabulary.decode(&tokens)).into_owned();
        assert!(text.contains(" the "), "{text}");
    }

    #[test]
    fn a_token_lost_doubled_or_changed_in_the_prompt_changes_the_answer() {
        let prose = Prose::shipped().expect("the shipped corpus");
        let prompts: [&[Token]; 4] = [&[5, 6, 7], &[5, 7], &[5, 6, 6, 7], &[5, 7, 6]];
        let answers: std::collections::BTreeSet<_> =
            prompts.iter().map(|prompt| tell(&prose, 1, prompt, 60)).collect();
        assert_eq!(answers.len(), prompts.len());
    }

    #[test]
    fn a_disturbed_history_changes_everything_after_it() {
        let prose = Prose::shipped().expect("the shipped corpus");
        let mut answer = prose.answer(1, &[9]);
        for _ in 0..20 {
            prose.next(&mut answer);
        }
        let mut disturbed = answer;
        disturbed.history = roll(disturbed.history, 3);
        let rest = |mut answer| (0..60).map(|_| prose.next(&mut answer)).collect::<Vec<_>>();
        let (rest, other) = (rest(answer), rest(disturbed));
        let same = rest.iter().zip(&other).filter(|(one, two)| one == two).count();
        assert!(same < 20, "{same} of 60 tokens are the same");
    }

    #[test]
    fn an_unfinished_character_is_held_back() {
        let mut spelling = Spelling::default();
        let euro = "€".as_bytes();
        assert_eq!(spelling.push(&[b'a', euro[0]]), "a");
        assert_eq!(spelling.push(&euro[1..2]), "");
        assert_eq!(spelling.push(&[euro[2], b'b', 0xff, b'c', 0xe2]), "€b\u{fffd}c");
        assert_eq!(spelling.finish(), "\u{fffd}");
    }

    proptest! {
        #[test]
        fn text_in_pieces_is_the_text_in_one(text in "\\PC{0,40}", cuts in proptest::collection::vec(1..5usize, 0..60)) {
            let mut spelling = Spelling::default();
            let mut rest = text.as_bytes();
            let mut told = String::new();
            for cut in cuts {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                told += &spelling.push(piece);
                rest = after;
            }
            told += &spelling.push(rest);
            prop_assert_eq!(told, text);
            prop_assert_eq!(spelling.finish(), "");
        }
    }
}
