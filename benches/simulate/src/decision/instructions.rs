//! How many instructions one decision takes. Unlike its time that depends on nothing else that the machine does, so two commits can be
//! compared by it to the per cent.
//!
//! ```text
//!   simulate --decision --instructions ──► valgrind ──► simulate --decision --counted 64:off
//!                    ╰◄── "Collected : N" ── callgrind: what happens within `one_decision`
//! ```
//!
//! Valgrind runs a program on a machine of its own making, where it counts. What the allocator does is in it.

use std::ffi::OsString;
use std::hint::black_box;
use std::io::Write;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use penstock_engine::scheduler::Profile;
use penstock_policy::pick::cost::Weights;
use serde::Serialize;

use super::{Case, Desk, one_decision};

/// Decisions that are counted; what each takes varies little.
const DECISIONS: u64 = 400;
/// Of valgrind's tools the one that can count in a part of a program, and which part.
const TOOL: [&str; 3] =
    ["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=*one_decision*"];
/// Before the count in what it says.
const COLLECTED: &str = "Collected :";

/// How many instructions are counted, as it is written.
#[derive(Debug, Serialize)]
pub struct Instructions {
    #[serde(flatten)]
    case: Case,
    decisions: u64,
    /// Of one decision, in the mean.
    instructions: u64,
}

/// Counts, and writes a JSON object for each number of endpoints, without notes and with them. `arguments` are those of this program
/// but for the one that asks for this.
///
/// # Errors
/// Without valgrind, and when it does not say what is expected of it.
pub fn count(arguments: &[OsString], out: &mut impl Write) -> Result<()> {
    let own = std::env::current_exe()?;
    for case in Case::all() {
        let ran = Command::new("valgrind")
            .args(TOOL)
            .arg(&own)
            .args(arguments)
            .args(["--counted", &case.to_string()])
            .output()
            .context("valgrind cannot be started: instructions are counted by it (Debian: apt-get install valgrind)")?;
        let said = String::from_utf8_lossy(&ran.stderr);
        if !ran.status.success() {
            bail!("valgrind failed ({}): {}", ran.status, said.trim());
        }
        let collected =
            collected(&said).with_context(|| format!("valgrind says no count: {}", said.trim()))?;
        let instructions = collected.div_ceil(DECISIONS);
        writeln!(
            out,
            "{}",
            serde_json::to_string(&Instructions { case, decisions: DECISIONS, instructions })?
        )?;
        out.flush()?;
    }
    Ok(())
}

/// Decides as often as is counted: what runs within valgrind.
pub fn run_counted(case: Case, profile: &Profile, weights: &Weights, seed: u64) {
    let mut desk = Desk::new(case, profile, *weights, seed);
    for turn in 0..DECISIONS as usize {
        let lots = desk.lay_out(turn);
        black_box(one_decision(&mut desk, lots));
    }
}

fn collected(said: &str) -> Option<u64> {
    let count = said.lines().find_map(|line| line.split_once(COLLECTED))?.1;
    count.trim().parse().ok().filter(|count| *count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_read_among_what_else_is_said() {
        for (said, count) in [
            (
                "==7== Callgrind, a call-graph\n==7== \n==7== Events    : Ir\n==7== Collected : 4200\n",
                Some(4_200),
            ),
            ("==7== Collected : 0\n", None),
            ("==7== Collected : \n", None),
            ("", None),
        ] {
            assert_eq!(collected(said), count, "{said}");
        }
    }
}
