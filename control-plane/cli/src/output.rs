//! What is printed: data to stdout, talk to stderr, colour for people only.

use std::ffi::OsStr;
use std::fmt::Display;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::process::ExitCode;

/// A form in which a verb answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Form {
    /// For people.
    #[value(alias = "table")]
    Text,
    /// For programs.
    Json,
}

/// Why a verb could not do its work, with the exit code that says so.
#[derive(Debug)]
pub(crate) struct Fault {
    exit: u8,
    error: anyhow::Error,
}

impl Fault {
    pub(crate) fn new(exit: u8, error: impl Into<anyhow::Error>) -> Self {
        Self { exit, error: error.into() }
    }

    /// Says it on stderr.
    pub(crate) fn tell(self) -> ExitCode {
        let word = Colour::of(&io::stderr()).paint(Ink::Red, "error:");
        talk(format_args!("{word} {:#}", self.error));
        ExitCode::from(self.exit)
    }
}

/// Writes data to stdout. A reader that has gone, such as `head`, is no fault.
///
/// # Errors
/// When stdout cannot be written to.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Writes a line of talk to stderr. There is nobody to tell when that fails.
pub(crate) fn talk(line: impl Display) {
    let _written = writeln!(io::stderr().lock(), "{line}");
}

/// Whether to colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Colour {
    On,
    Off,
}

/// A colour or weight of text, from the sixteen that every terminal's theme sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ink {
    Plain,
    Bold,
    Dim,
    Red,
    Green,
    Yellow,
    Cyan,
}

impl Colour {
    /// For text that goes to `stream`.
    pub(crate) fn of(stream: &impl IsTerminal) -> Self {
        let variable = |name| std::env::var_os(name);
        Self::decide(stream.is_terminal(), variable("NO_COLOR").as_deref(), variable("TERM").as_deref())
    }

    fn decide(is_terminal: bool, no_color: Option<&OsStr>, term: Option<&OsStr>) -> Self {
        let unwanted =
            no_color.is_some_and(|value| !value.is_empty()) || term.is_some_and(|term| term == "dumb");
        if is_terminal && !unwanted { Self::On } else { Self::Off }
    }

    pub(crate) fn paint(self, ink: Ink, text: &str) -> String {
        let code = match ink {
            Ink::Plain => return text.to_owned(),
            Ink::Bold => "1",
            Ink::Dim => "2",
            Ink::Red => "1;31",
            Ink::Green => "32",
            Ink::Yellow => "33",
            Ink::Cyan => "36",
        };
        match self {
            Self::On => format!("\x1b[{code}m{text}\x1b[0m"),
            Self::Off => text.to_owned(),
        }
    }
}

/// Text in one ink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    pub(crate) ink: Ink,
    pub(crate) text: String,
}

impl Cell {
    pub(crate) fn new(ink: Ink, text: impl Into<String>) -> Self {
        Self { ink, text: text.into() }
    }
}

/// A table: a head of capitals, columns two spaces apart, nothing at the ends of lines.
pub(crate) fn table(colour: Colour, head: &[&str], rows: &[Vec<Cell>]) -> String {
    let head: Vec<Cell> = head.iter().map(|name| Cell::new(Ink::Bold, *name)).collect();
    let width = |cell: &Cell| cell.text.chars().count();
    let mut widths = vec![0; head.len()];
    for row in std::iter::once(&head).chain(rows) {
        for (widest, cell) in widths.iter_mut().zip(row) {
            *widest = (*widest).max(width(cell));
        }
    }
    let mut text = String::new();
    for row in std::iter::once(&head).chain(rows) {
        let mut gap = 0;
        for (widest, cell) in widths.iter().zip(row) {
            text.push_str(&" ".repeat(if cell.text.is_empty() { 0 } else { gap }));
            gap = if cell.text.is_empty() { gap } else { 0 };
            text.push_str(&colour.paint(cell.ink, &cell.text));
            gap += widest - width(cell) + 2;
        }
        text.push('\n');
    }
    text
}

/// Text that others wrote, without what would move a terminal's cursor, ring its bell or turn the direction of writing.
pub(crate) fn plain(text: &str) -> String {
    let turns = |c| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().map(|c| if c.is_control() || turns(c) { '\u{fffd}' } else { c }).collect()
}

/// `1 file`, `2 files`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// Findings as they are printed, with a blank line between them: the compiler's own text form, coloured.
pub(crate) fn findings(colour: Colour, texts: &[String]) -> String {
    let painted: Vec<String> = texts.iter().map(|text| finding(colour, text)).collect();
    painted.join("\n\n")
}

/// One finding. Its first line begins with its level; lines of carets mark the place; the last one helps.
fn finding(colour: Colour, text: &str) -> String {
    let ink = match text.split(['[', ':']).next() {
        Some("error") => Ink::Red,
        Some("warning") => Ink::Yellow,
        _ => Ink::Cyan,
    };
    let line = |(number, line): (usize, &str)| match (number, line.split_once(']')) {
        (0, Some((code, message))) => {
            format!("{}{}", colour.paint(ink, &format!("{code}]")), colour.paint(Ink::Bold, message))
        }
        _ if is_carets(line) => colour.paint(ink, line),
        _ if line.trim_start().starts_with("= help:") => colour.paint(Ink::Green, line),
        _ => line.to_owned(),
    };
    text.lines().enumerate().map(line).collect::<Vec<_>>().join("\n")
}

fn is_carets(line: &str) -> bool {
    line.trim_start().strip_prefix('│').is_some_and(|rest| {
        let rest = rest.trim();
        !rest.is_empty() && rest.chars().all(|c| c == '^')
    })
}

/// A value as it is printed for programs: indented, with a line end.
///
/// # Errors
/// When the value has a map whose keys are no text, a defect.
pub(crate) fn json(value: &impl serde::Serialize) -> serde_json::Result<String> {
    Ok(format!("{}\n", serde_json::to_string_pretty(value)?))
}

/// Compares with a file of `tests/golden`; with `UPDATE_GOLDEN=1` writes it instead.
#[cfg(test)]
#[track_caller]
pub(crate) fn golden(name: &str, actual: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        return std::fs::write(&path, actual).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(actual, expected, "{name}: if the new text is right, run again with UPDATE_GOLDEN=1");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_is_for_terminals_that_do_not_refuse_it() {
        let decide = |terminal, no_color: Option<&str>, term: Option<&str>| {
            Colour::decide(terminal, no_color.map(OsStr::new), term.map(OsStr::new))
        };
        assert_eq!(decide(true, None, Some("xterm")), Colour::On);
        assert_eq!(decide(true, Some(""), None), Colour::On);
        assert_eq!(decide(true, Some("1"), Some("xterm")), Colour::Off);
        assert_eq!(decide(true, None, Some("dumb")), Colour::Off);
        assert_eq!(decide(false, None, Some("xterm")), Colour::Off);
    }

    #[test]
    fn a_table_lines_up_and_leaves_no_spaces_at_the_ends() {
        let cell = |text: &str| Cell::new(Ink::Plain, text);
        let rows = [vec![cell("a"), cell(""), cell("x")], vec![cell("länger"), cell("b"), cell("")]];
        let expected = "NAME    B  C\na          x\nlänger  b\n";
        assert_eq!(table(Colour::Off, &["NAME", "B", "C"], &rows), expected);
    }

    #[test]
    fn text_of_others_cannot_steer_the_terminal() {
        assert_eq!(plain("a\x1b[2Jb\r\n\u{9b}c\u{202e}é"), "a\u{fffd}[2Jb\u{fffd}\u{fffd}\u{fffd}c\u{fffd}é");
    }

    #[test]
    fn a_finding_keeps_its_text_and_gains_colour() {
        let plain = "error[penstock0106]: unknown field\n  ┌─ a.yaml:1:2\n1 │ x: 1\n  │ ^\n  = help: mend it";
        assert_eq!(
            findings(Colour::Off, &[plain.to_owned(), plain.to_owned()]),
            format!("{plain}\n\n{plain}")
        );
        let painted = findings(Colour::On, &[plain.to_owned()]);
        assert!(
            painted.starts_with("\x1b[1;31merror[penstock0106]\x1b[0m\x1b[1m: unknown field\x1b[0m\n"),
            "{painted}"
        );
        assert!(painted.contains("\x1b[1;31m  │ ^\x1b[0m"), "{painted}");
        assert!(painted.ends_with("\x1b[32m  = help: mend it\x1b[0m"), "{painted}");
    }
}
