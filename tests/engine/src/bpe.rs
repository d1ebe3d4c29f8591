//! Text to tokens and back: a byte-pair encoding that this package trains on its own prose.
//!
//! Tokens 0 to 255 are the bytes, so that every input can be encoded and comes back as it was. Each merge adds a
//! token made of two earlier ones; its rank is its number. Above the merges are the marks of the chat format, which
//! no text encodes to.
//!
//! A text is first cut into pieces (a word with the space before it, a number, a run of signs, a run of blanks), at
//! most [`PIECE_BYTES_MAX`] bytes long, and merges never cross a cut. This keeps encoding linear for any input.

mod pieces;
mod train;

use crate::mix::NumberMap;
pub use pieces::PIECE_BYTES_MAX;
use pieces::pieces;
pub use train::train;

/// One unit of text: a byte, a merge or a mark.
pub type Token = u32;

/// The prose that the merges were trained on.
pub const CORPUS: &str = include_str!("corpus.txt");

/// The shipped merges, as `penstock-engine train` prints them.
pub const MERGES: &str = include_str!("merges.txt");

/// How many merges training makes.
pub const MERGES_MAX: usize = 1_536;

/// A mark of the chat format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// A message of the system or the developer follows.
    System,
    /// A message of the user follows.
    User,
    /// A message of the model follows.
    Assistant,
    /// The result of a tool follows.
    Tool,
    /// The message is over.
    End,
}

/// A line of the merge table that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("merge table, line {line}: {text:?} is not two earlier tokens")]
pub struct BadMerge {
    /// The line, counted from 1.
    pub line: usize,
    /// What it says.
    pub text: String,
}

/// The tokens and how they merge.
#[derive(Clone, Debug)]
pub struct Vocabulary {
    /// The bytes of each token, end to end, and where each begins.
    bytes: Vec<u8>,
    begins: Vec<u32>,
    /// (left, right) to the token that they merge into.
    merged: NumberMap<u64, Token>,
}

impl Vocabulary {
    /// The shipped vocabulary.
    ///
    /// # Errors
    /// Never, as long as the shipped table is what training printed; a test sees to that.
    pub fn shipped() -> Result<Self, BadMerge> {
        let mut merges = Vec::new();
        for (at, text) in MERGES.lines().enumerate().filter(|(_, text)| !text.starts_with('#')) {
            let pair = text.split_once(' ').and_then(|(l, r)| Some((l.parse().ok()?, r.parse().ok()?)));
            let known = 256 + merges.len() as Token;
            match pair {
                Some((left, right)) if left < known && right < known => merges.push((left, right)),
                _ => return Err(BadMerge { line: at + 1, text: text.to_owned() }),
            }
        }
        Ok(Self::of(&merges))
    }

    /// The vocabulary of these merges, each of two tokens that come before it.
    fn of(merges: &[(Token, Token)]) -> Self {
        let mut vocabulary =
            Self { bytes: (0..=255).collect(), begins: (0..=256).collect(), merged: NumberMap::default() };
        for &(left, right) in merges {
            let token = vocabulary.tokens();
            let joined = [vocabulary.bytes(left), vocabulary.bytes(right)].concat();
            vocabulary.bytes.extend_from_slice(&joined);
            vocabulary.begins.push(vocabulary.bytes.len() as u32);
            vocabulary.merged.insert(pair(left, right), token);
        }
        vocabulary
    }

    /// How many tokens text can encode to; marks are numbered from here.
    pub fn tokens(&self) -> Token {
        self.begins.len() as Token - 1
    }

    /// The token of a mark.
    pub fn mark(&self, mark: Mark) -> Token {
        self.tokens() + mark as Token
    }

    /// The bytes of a token; none for a mark or a number that is no token.
    pub fn bytes(&self, token: Token) -> &[u8] {
        match (self.begins.get(token as usize), self.begins.get(token as usize + 1)) {
            (Some(&from), Some(&to)) => &self.bytes[from as usize..to as usize],
            _ => &[],
        }
    }

    /// Encodes any bytes.
    pub fn encode(&self, text: &[u8]) -> Vec<Token> {
        let mut tokens = Vec::with_capacity(text.len() / 3 + 1);
        self.encode_into(text, &mut tokens);
        tokens
    }

    /// Encodes any bytes at the end of `tokens`.
    pub fn encode_into(&self, text: &[u8], tokens: &mut Vec<Token>) {
        // Prose repeats its words: each distinct piece is merged once a call.
        let mut seen: std::collections::HashMap<&[u8], (u32, u32)> = std::collections::HashMap::new();
        for piece in pieces(text) {
            if let [byte] = piece {
                tokens.push(Token::from(*byte));
            } else if let Some(&(from, to)) = seen.get(piece) {
                tokens.extend_from_within(from as usize..to as usize);
            } else {
                let from = tokens.len();
                tokens.extend(piece.iter().map(|byte| Token::from(*byte)));
                let merged = self.merge(&mut tokens[from..]);
                tokens.truncate(from + merged);
                seen.insert(piece, (from as u32, tokens.len() as u32));
            }
        }
    }

    /// The bytes of `tokens`; marks leave nothing.
    pub fn decode(&self, tokens: &[Token]) -> Vec<u8> {
        tokens.iter().flat_map(|token| self.bytes(*token)).copied().collect()
    }

    /// Merges the tokens of one piece in place, earliest-learned pair first; returns how many remain.
    fn merge(&self, piece: &mut [Token]) -> usize {
        let mut length = piece.len();
        while let Some((at, token)) = self.best_pair(&piece[..length]) {
            piece[at] = token;
            piece.copy_within(at + 2..length, at + 1);
            length -= 1;
        }
        length
    }

    fn best_pair(&self, piece: &[Token]) -> Option<(usize, Token)> {
        let candidates = piece.windows(2).enumerate();
        candidates
            .filter_map(|(at, two)| Some((at, *self.merged.get(&pair(two[0], two[1]))?)))
            .min_by_key(|&(at, token)| (token, at))
    }
}

fn pair(left: Token, right: Token) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_shipped_table_is_what_training_gives() {
        let trained = train(CORPUS, MERGES_MAX);
        assert!(MERGES == trained, "src/merges.txt is stale: write it anew with `penstock-engine train`");
    }

    #[test]
    fn the_vocabulary_holds_bytes_merges_and_marks() {
        let vocabulary = Vocabulary::shipped().expect("the shipped table");
        assert!((1_024..=2_048).contains(&vocabulary.tokens()), "{} tokens", vocabulary.tokens());
        assert_eq!(vocabulary.bytes(65), b"A");
        assert_eq!(vocabulary.bytes(vocabulary.mark(Mark::End)), b"");
        assert_eq!(vocabulary.mark(Mark::System), vocabulary.tokens());
    }

    #[test]
    fn prose_shrinks_and_common_words_are_single_tokens() {
        let vocabulary = Vocabulary::shipped().expect("the shipped table");
        let tokens = vocabulary.encode(CORPUS.as_bytes());
        assert!(tokens.len() * 3 < CORPUS.len(), "{} tokens for {} bytes", tokens.len(), CORPUS.len());
        assert_eq!(vocabulary.encode(b" the water").len(), 2);
    }

    #[test]
    fn hostile_input_is_encoded_in_linear_time() {
        let vocabulary = Vocabulary::shipped().expect("the shipped table");
        for byte in [b'a', b' ', 0xff, b'!'] {
            let text = vec![byte; 200_000];
            assert_eq!(vocabulary.decode(&vocabulary.encode(&text)), text);
        }
    }

    #[test]
    fn a_bad_line_is_named() {
        assert_eq!(
            BadMerge { line: 3, text: "x 1".to_owned() }.to_string(),
            "merge table, line 3: \"x 1\" is not two earlier tokens"
        );
    }

    proptest! {
        #[test]
        fn any_bytes_come_back_as_they_were(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let vocabulary = Vocabulary::shipped().expect("the shipped table");
            prop_assert_eq!(vocabulary.decode(&vocabulary.encode(&bytes)), bytes);
        }

        #[test]
        fn any_text_comes_back_as_it_was(text in "(\\PC|the water|\n| ){0,80}") {
            let vocabulary = Vocabulary::shipped().expect("the shipped table");
            prop_assert_eq!(vocabulary.decode(&vocabulary.encode(text.as_bytes())), text.into_bytes());
        }
    }
}
