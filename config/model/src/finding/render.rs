//! The text form of a finding:
//!
//! ```text
//! error[penstock0106]: unknown field `weigth`
//!    ┌─ routes/chat.yaml:18:11   spec.rules[0].backendRefs[1].weigth
//! 18 │           weigth: 10
//!    │           ^^^^^^
//!    = help: did you mean `weight`?
//! ```

use std::fmt::{self, Formatter};

use super::{Finding, Location};

/// Longest part of a source line that is shown, in characters.
const EXCERPT_CHARS_MAX: usize = 160;

pub(super) fn text(finding: &Finding, f: &mut Formatter<'_>) -> fmt::Result {
    writeln!(f, "{}[{}]: {}", finding.level, finding.code, finding.message)?;
    let last_line = finding.related.as_ref().map_or(0, |r| r.at.line).max(finding.at.line);
    let margin = last_line.to_string().len();
    place(&finding.at, margin, "┌─", f)?;
    if let Some(related) = &finding.related {
        writeln!(f, "{:margin$} │ {}:", "", related.message)?;
        place(&related.at, margin, "├─", f)?;
    }
    write!(f, "{:margin$} = help: {}", "", finding.help)
}

fn place(at: &Location, margin: usize, corner: &str, f: &mut Formatter<'_>) -> fmt::Result {
    write!(f, "{:margin$} {corner} {}:{}:{}", "", at.file, at.line, at.column)?;
    if !at.path.is_empty() {
        write!(f, "   {}", at.path)?;
    }
    let column = usize::try_from(at.column).unwrap_or(1).max(1);
    // A far column moves the window, so that the carets are always in it.
    let from = column.saturating_sub(EXCERPT_CHARS_MAX / 2).min(column - 1);
    let from = if column <= EXCERPT_CHARS_MAX / 2 { 0 } else { from };
    let shown: String = at
        .excerpt
        .chars()
        .skip(from)
        .take(EXCERPT_CHARS_MAX)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let carets = at.text.chars().count().clamp(1, EXCERPT_CHARS_MAX / 2);
    writeln!(f)?;
    writeln!(f, "{:>margin$} │ {}", at.line, shown.trim_end())?;
    writeln!(f, "{:margin$} │ {:indent$}{}", "", "", "^".repeat(carets), indent = column - 1 - from)
}
