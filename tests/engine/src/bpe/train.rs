//! Learning the merges: again and again, the pair that occurs most often becomes a token.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{Token, pieces};

/// A distinct piece of the corpus and how often it occurs.
struct Word {
    tokens: Vec<Token>,
    count: i64,
}

/// Learns up to `merges_max` merges from `corpus` and renders them as the table that ships: a comment, then one
/// merge a line, left and right token. Ties go to the smaller pair, so the same corpus always gives the same table.
pub fn train(corpus: &str, merges_max: usize) -> String {
    let mut words = words(corpus);
    let mut pairs = BTreeMap::new();
    for word in &words {
        count(&mut pairs, word, 1);
    }
    let mut table =
        String::from("# Merges of the byte-pair encoding, by rank. Written by `penstock-engine train`.\n");
    for merge in 0..merges_max {
        let best = pairs.iter().max_by_key(|(pair, count)| (**count, std::cmp::Reverse(**pair)));
        let Some((&(left, right), _)) = best.filter(|(_, count)| **count > 1) else { break };
        let token = 256 + merge as Token;
        for word in &mut words {
            if word.tokens.windows(2).any(|two| two == [left, right]) {
                count(&mut pairs, word, -1);
                join(&mut word.tokens, left, right, token);
                count(&mut pairs, word, 1);
            }
        }
        // Writing to a String cannot fail.
        let _written = writeln!(table, "{left} {right}");
    }
    table
}

fn words(corpus: &str) -> Vec<Word> {
    let mut counts: BTreeMap<&[u8], i64> = BTreeMap::new();
    for piece in pieces(corpus.as_bytes()) {
        *counts.entry(piece).or_default() += 1;
    }
    let word = |(piece, count): (&[u8], i64)| Word {
        tokens: piece.iter().map(|byte| Token::from(*byte)).collect(),
        count,
    };
    counts.into_iter().map(word).collect()
}

fn count(pairs: &mut BTreeMap<(Token, Token), i64>, word: &Word, sign: i64) {
    for two in word.tokens.windows(2) {
        *pairs.entry((two[0], two[1])).or_default() += sign * word.count;
    }
}

fn join(tokens: &mut Vec<Token>, left: Token, right: Token, token: Token) {
    let mut kept = 0;
    let mut at = 0;
    while at < tokens.len() {
        let joins = tokens[at] == left && tokens.get(at + 1) == Some(&right);
        tokens[kept] = if joins { token } else { tokens[at] };
        at += if joins { 2 } else { 1 };
        kept += 1;
    }
    tokens.truncate(kept);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_frequent_pair_comes_first_and_ties_go_to_the_smaller() {
        let table = train("abab abab cd cd", 2);
        let merges: Vec<_> = table.lines().skip(1).collect();
        assert_eq!(merges, ["97 98", "32 99"], "a b, then of two equal pairs the smaller");
    }

    #[test]
    fn pairs_that_occur_once_are_not_learned() {
        assert_eq!(train("water", 10).lines().count(), 1);
    }
}
