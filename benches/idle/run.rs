//! One call of the program: the caller's sidecar, then the server's, each in a mesh of its own.

use anyhow::Context;

use penstock_benches::limits;
use penstock_benches::machine::Machine;
use penstock_benches::place::Place;

use crate::flags::{Asked, Side};
use crate::result::Result;
use crate::{caller, server};

/// Our own programs, which stand beside this one.
const PROGRAMS: [&str; 3] = ["penstock-proxy", "penstock-control-plane", "penstock-engine"];

/// Measures what was asked, prints the table and writes the file.
///
/// # Errors
/// When a program of ours is missing or ends, or does not get to where it is to be measured.
pub(crate) async fn run(asked: &Asked) -> anyhow::Result<()> {
    let descriptors = limits::raise_descriptors()?;
    let place = Place::here(&PROGRAMS)?;
    let mut result = Result { machine: Machine::here(descriptors), caller: None, server: None };
    if asked.is_asked(Side::Caller) {
        result.caller = Some(caller::measure(&place, asked).await?);
    }
    if asked.is_asked(Side::Server) {
        result.server = Some(server::measure(&place, asked).await?);
    }
    say(&result.table());
    if let Some(file) = &asked.json {
        let text = serde_json::to_string_pretty(&result)?;
        std::fs::write(file, text + "\n").with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "what this program is for")]
fn say(text: &str) {
    print!("{text}");
}
