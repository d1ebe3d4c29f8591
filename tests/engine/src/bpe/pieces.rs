//! Where merges may not cross.

/// Longest piece, in bytes; longer runs are cut.
pub const PIECE_BYTES_MAX: usize = 24;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Letter,
    Digit,
    Blank,
    Sign,
}

impl Kind {
    /// Bytes above 127 count as letters: they are parts of them more often than not.
    fn of(byte: u8) -> Kind {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | 0x80.. => Kind::Letter,
            b'0'..=b'9' => Kind::Digit,
            b' ' | b'\n' | b'\r' | b'\t' => Kind::Blank,
            _ => Kind::Sign,
        }
    }
}

/// Cuts a text into runs of one kind; one space goes with the run after it.
pub(super) fn pieces(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (piece, after) = rest.split_at(piece_length(rest));
        rest = after;
        Some(piece)
    })
}

fn piece_length(text: &[u8]) -> usize {
    let lead = usize::from(text[0] == b' ' && text.get(1).is_some_and(|next| Kind::of(*next) != Kind::Blank));
    let kind = Kind::of(text[lead]);
    let run = text[lead..].iter().take(PIECE_BYTES_MAX - lead).take_while(|byte| Kind::of(**byte) == kind);
    let length = lead + run.count();
    // A run of blanks leaves its last space to the word behind it.
    let word_follows = text.get(length).is_some_and(|next| Kind::of(*next) != Kind::Blank);
    if kind == Kind::Blank && length > 1 && text[length - 1] == b' ' && word_follows {
        length - 1
    } else {
        length
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        let found: Vec<_> = pieces(text.as_bytes()).map(|piece| String::from_utf8_lossy(piece)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_space_goes_with_the_word_behind_it() {
        check("The gate, half-open: 21.", &["The", " gate", ",", " half", "-", "open", ":", " 21", "."]);
        check("a   b\n\nc ", &["a", "  ", " b", "\n\n", "c", " "]);
        check("Zürich", &["Zürich"]);
        check("", &[]);
    }

    #[test]
    fn long_runs_are_cut() {
        assert_eq!(pieces(&[b'x'; 100]).map(<[u8]>::len).collect::<Vec<_>>(), [24, 24, 24, 24, 4]);
    }
}
