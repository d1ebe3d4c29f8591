//! The terminal: a block of lines that is drawn over itself.

use std::io::{IsTerminal, stdout};

use crate::output::{self, Cell, Colour};

/// Where the size cannot be told.
const SIZE_DEFAULT: Size = Size { columns: 100, rows: 40 };

/// One line, in pieces of one ink each.
pub(super) type Line = Vec<Cell>;

/// A size in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Size {
    columns: usize,
    rows: usize,
}

/// A block of lines on the terminal that is stdout.
#[derive(Debug)]
pub(super) struct Screen {
    colour: Colour,
    /// Lines that are there from the last time.
    drawn: usize,
}

impl Screen {
    /// Stdout, where it is a terminal on which the cursor can be moved.
    pub(super) fn of_stdout() -> Option<Self> {
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let can_draw = stdout().is_terminal() && !is_dumb;
        can_draw.then(|| Self { colour: Colour::of(&stdout()), drawn: 0 })
    }

    /// Draws the block, over the one before.
    ///
    /// # Errors
    /// When the terminal has gone.
    pub(super) fn draw(&mut self, lines: &[Line]) -> std::io::Result<()> {
        let (text, drawn) = over(lines, self.drawn, size(), self.colour);
        self.drawn = drawn;
        output::print(&text)
    }
}

fn size() -> Size {
    let Ok(size) = rustix::termios::tcgetwinsize(stdout()) else { return SIZE_DEFAULT };
    match (usize::from(size.ws_col), usize::from(size.ws_row)) {
        (0, _) | (_, 0) => SIZE_DEFAULT,
        (columns, rows) => Size { columns, rows },
    }
}

/// What to write so that `lines` stand where `drawn` lines stood, and how many they are now. Nothing may wrap or scroll, or
/// the next block would not meet this one: what does not fit is cut.
fn over(lines: &[Line], drawn: usize, size: Size, colour: Colour) -> (String, usize) {
    let shown = lines.len().min(size.rows.saturating_sub(1));
    let up = drawn.min(size.rows.saturating_sub(1));
    let mut text = if up > 0 { format!("\r\x1b[{up}A") } else { String::new() };
    for line in &lines[..shown] {
        let mut room = size.columns;
        for cell in line {
            let part: String = cell.text.chars().take(room).collect();
            room -= part.chars().count();
            text.push_str(&colour.paint(cell.ink, &part));
        }
        text.push_str("\x1b[K\n");
    }
    text.push_str("\x1b[J");
    (text, shown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Ink;

    fn line(text: &str) -> Line {
        let (head, tail) = text.split_at(1);
        vec![Cell::new(Ink::Bold, head), Cell::new(Ink::Plain, tail)]
    }

    #[test]
    fn a_block_is_drawn_over_the_one_before() {
        let size = Size { columns: 10, rows: 10 };
        let lines = [line("ab"), line("cd")];
        assert_eq!(over(&lines, 0, size, Colour::Off), ("ab\x1b[K\ncd\x1b[K\n\x1b[J".to_owned(), 2));
        let (again, _) = over(&lines[..1], 2, size, Colour::On);
        assert_eq!(again, "\r\x1b[2A\x1b[1ma\x1b[0mb\x1b[K\n\x1b[J");
    }

    #[test]
    fn what_does_not_fit_is_cut() {
        let size = Size { columns: 3, rows: 3 };
        let lines = [line("abcdef")];
        let cut = [vec![Cell::new(Ink::Plain, "äöüß")], line("abcdef"), line("ghi")];
        assert_eq!(over(&lines, 0, size, Colour::Off).0, "abc\x1b[K\n\x1b[J");
        assert_eq!(over(&cut, 9, size, Colour::Off), ("\r\x1b[2Aäöü\x1b[K\nabc\x1b[K\n\x1b[J".to_owned(), 2));
    }
}
