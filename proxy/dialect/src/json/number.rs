//! The grammar of a JSON number, one byte at a time.

/// Which part of a number was read last.
#[derive(Clone, Copy, Debug)]
pub(super) enum Digits {
    Minus,
    /// A leading zero, which no digit may follow.
    Zero,
    Whole,
    Point,
    Fraction,
    Exponent,
    Sign,
    Power,
}

/// What the next byte means.
pub(super) enum Step {
    /// It belongs to the number.
    Go(Digits),
    /// The number ended before it.
    End,
    /// The number cannot go on with it, and cannot end before it.
    Wrong,
}

impl Digits {
    /// Begins a number, if the byte can.
    pub(super) fn first(byte: u8) -> Option<Digits> {
        match byte {
            b'-' => Some(Digits::Minus),
            b'0' => Some(Digits::Zero),
            b'1'..=b'9' => Some(Digits::Whole),
            _ => None,
        }
    }

    pub(super) fn next(self, byte: u8) -> Step {
        match (self, byte) {
            (Digits::Minus, b'0') => Step::Go(Digits::Zero),
            (Digits::Minus, b'1'..=b'9') | (Digits::Whole, b'0'..=b'9') => Step::Go(Digits::Whole),
            (Digits::Zero | Digits::Whole, b'.') => Step::Go(Digits::Point),
            (Digits::Point | Digits::Fraction, b'0'..=b'9') => Step::Go(Digits::Fraction),
            (Digits::Zero | Digits::Whole | Digits::Fraction, b'e' | b'E') => Step::Go(Digits::Exponent),
            (Digits::Exponent, b'+' | b'-') => Step::Go(Digits::Sign),
            (Digits::Exponent | Digits::Sign | Digits::Power, b'0'..=b'9') => Step::Go(Digits::Power),
            (Digits::Zero, b'0'..=b'9')
            | (Digits::Minus | Digits::Point | Digits::Exponent | Digits::Sign, _) => Step::Wrong,
            (Digits::Zero | Digits::Whole | Digits::Fraction | Digits::Power, _) => Step::End,
        }
    }
}
