//! `penstock demo`: a whole mesh on this machine, real requests through it, and a table to watch it by.

mod child;
mod compare;
mod mesh;
mod programs;
mod prompt;
mod report;
mod request;
mod scratch;
mod screen;
mod stream;
mod survey;
mod tally;
mod tether;
mod trace;
mod traffic;
mod view;
mod written;

use std::io::{IsTerminal, stderr, stdout};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use penstock_model::units::Span;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::fetch;
use crate::output::{self, Colour, Fault, Ink};
use crate::status::Status;

use mesh::{Mesh, Places};
use report::Report;
use traffic::{Mix, Plan};
use written::{Balance, MODEL};

pub(crate) use tether::{TetherFlags, tether};

/// Shows real requests crossing a mesh on this machine: four simulated GPUs, two callers, mutual TLS between them.
///
/// Starts a control plane, four engines and a sidecar beside each engine and each caller, on ports that the system
/// chooses; replays a sample of real traffic; ends everything and removes every file. Exit codes: 0 all requests were
/// answered, 1 some failed or the mesh did not come up, 130 interrupted.
#[derive(Debug, clap::Args)]
pub(crate) struct Flags {
    /// How long requests are sent, from 1s to 1h
    #[arg(long = "for", value_name = "DURATION", default_value = "20s", value_parser = planned)]
    planned: Duration,
    /// Sends the same requests by round robin, by least request and by marginal cost, for so long each, and sets the
    /// three side by side
    #[arg(long)]
    compare: bool,
    /// Prints the result as one JSON object, in the last line of stdout
    #[arg(long)]
    json: bool,
    /// Writes the same object to a file
    #[arg(long, value_name = "FILE")]
    json_file: Option<PathBuf>,
}

fn planned(text: &str) -> Result<Duration, String> {
    let range = Duration::from_secs(1)..=Duration::from_secs(3_600);
    let planned = text.parse::<Span>().map_err(|error| error.to_string())?.duration();
    if range.contains(&planned) { Ok(planned) } else { Err("it must be from 1s to 1h".to_owned()) }
}

/// Shows the demo and cleans up after it, however it ends.
///
/// # Errors
/// When the mesh does not come up, a part of it dies, or requests fail.
pub(crate) async fn run(flags: &Flags) -> Result<ExitCode, Fault> {
    let failed = |error: anyhow::Error| Fault::new(1, error);
    let mut stops = Stops::listen().map_err(failed)?;
    let mut mesh = Mesh::new().map_err(failed)?;
    let ended = tokio::select! {
        said = show(flags, &mut mesh) => Ok(said),
        exit = stops.next() => Err(exit),
    };
    mesh.end().await;
    let said = match ended {
        Ok(said) => said.map_err(failed)?,
        Err(exit) => {
            output::talk("\ninterrupted: all processes are ended, all files removed");
            return Ok(ExitCode::from(exit));
        }
    };
    tell(flags, &said).map_err(failed)?;
    match said.fault {
        None => Ok(ExitCode::SUCCESS),
        Some(fault) => Err(failed(anyhow::anyhow!(fault))),
    }
}

/// What is left to say at the end.
struct Said {
    /// One line of JSON.
    object: String,
    words: String,
    /// What is not as it should be.
    fault: Option<String>,
}

async fn show(flags: &Flags, mesh: &mut Mesh) -> anyhow::Result<Said> {
    let client = fetch::client();
    let colour = Colour::of(&stderr());
    let told = |line: &str| output::talk(format_args!("{} {line}", colour.paint(Ink::Green, "✓")));
    let balance = if flags.compare { compare::FIRST } else { Balance::P2c };
    let (places, version) = mesh.start(&client, balance, told).await?;
    if stdout().is_terminal() {
        output::talk(invitation(colour, &places));
    }
    if flags.compare {
        let comparison = compare::run(&client, mesh, &places, (flags.planned, version), told).await?;
        return Ok(Said {
            object: comparison.json()?,
            words: comparison.words(Colour::of(&stdout())),
            fault: comparison.fault(),
        });
    }
    let plan = Plan { mix: Mix::Sample, planned: flags.planned, version: &version };
    let shown = traffic::run(&client, mesh, &places, plan).await?;
    let status: Status = places.plane.get(&client, "/api/v1/status").await?;
    let report = Report::new(shown, &places, &status);
    Ok(Said { object: report.json()?, words: report.words(), fault: report.fault() })
}

/// What to try in another terminal meanwhile.
fn invitation(colour: Colour, places: &Places) -> String {
    let caller =
        places.callers.first().map_or_else(String::new, |caller| caller.outbound.url("/v1/chat/completions"));
    let question = format!(r#"'{{"model":"{MODEL}","messages":[{{"role":"user","content":"Hi"}}]}}'"#);
    let line = |text: String| colour.paint(Ink::Dim, &text);
    [
        line("\n  While it runs, in another terminal:".to_owned()),
        line(format!("  penstock status --control-plane {}", places.plane.url(""))),
        line(format!("  curl {caller} -H 'content-type: application/json' -d {question}\n")),
    ]
    .join("\n")
}

fn tell(flags: &Flags, said: &Said) -> anyhow::Result<()> {
    let Said { object, words, .. } = said;
    if let Some(file) = &flags.json_file {
        std::fs::write(file, format!("{object}\n"))
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    if flags.json {
        output::talk(words);
        output::print(&format!("{object}\n"))?;
    } else {
        output::print(words)?;
    }
    Ok(())
}

/// The signals that end it.
struct Stops {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Stops {
    fn listen() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("signals cannot be heard");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// The exit code of the first signal: 128 and its number, as shells have it.
    async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.interrupt.recv() => 130,
            _ = self.terminate.recv() => 143,
            _ = self.hangup.recv() => 129,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_demo_is_neither_over_at_once_nor_forgotten() {
        for (text, expected) in [("1s", Some(1)), ("1m30s", Some(90)), ("1h", Some(3_600)), ("0s", None)] {
            assert_eq!(planned(text).ok(), expected.map(Duration::from_secs), "{text}");
        }
        for text in ["61m", "20", "forever", ""] {
            assert!(planned(text).is_err(), "{text}");
        }
    }
}
