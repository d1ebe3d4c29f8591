//! One child process: started, heard until it says where it listens, watched, ended.

use std::fs::File;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{ChildStdout, Command};
use tokio::time::{timeout, timeout_at};

use super::scratch::Scratch;
use crate::clock::Instant;

/// Programs listen within a second; an unoptimised build on a busy machine takes longer.
const ANNOUNCE_DEADLINE: Duration = Duration::from_secs(30);
/// How much of the log is shown of a child that died.
const LOG_LINES_MAX: usize = 12;

/// A child process.
#[derive(Debug)]
pub(super) struct Child {
    name: String,
    process: tokio::process::Child,
    /// Kept open after the first line: a child that writes to a closed pipe may end.
    stdout: BufReader<ChildStdout>,
    log: PathBuf,
}

impl Child {
    /// Starts `program`, with its log in a file of `scratch`. Called from the main thread: see [`super::tether`].
    ///
    /// # Errors
    /// When it cannot be started.
    pub(super) fn start(
        scratch: &Scratch,
        name: &str,
        own: &PathBuf,
        program: &PathBuf,
        arguments: &[String],
    ) -> anyhow::Result<Self> {
        let log = scratch.path().join(format!("{name}.log"));
        let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut process = Command::new(own)
            .arg("tether")
            .arg(std::process::id().to_string())
            .arg(program)
            .args(arguments)
            // A group of its own: Ctrl-C in the terminal reaches the demo alone, which then ends its children in order.
            .process_group(0)
            .kill_on_drop(true)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(file)
            .spawn()
            .with_context(|| format!("{} cannot be started", program.display()))?;
        let stdout = process.stdout.take().context("a child has no stdout")?;
        Ok(Self { name: name.to_owned(), process, stdout: BufReader::new(stdout), log })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The first line of its stdout, which says where it listens.
    ///
    /// # Errors
    /// When it dies, is silent for too long or says something else.
    pub(super) async fn announcement<T: DeserializeOwned>(&mut self) -> anyhow::Result<T> {
        let mut line = String::new();
        match timeout(ANNOUNCE_DEADLINE, self.stdout.read_line(&mut line)).await {
            Ok(Ok(0)) => {
                // Its stdout is closed, so its end is near.
                let status = timeout(ANNOUNCE_DEADLINE, self.process.wait()).await;
                let status = status.ok().and_then(Result::ok);
                Err(self.death(&status.map_or_else(|| "stopped talking".to_owned(), ended)))
            }
            Ok(Ok(_)) => serde_json::from_str(&line)
                .with_context(|| format!("{} does not say where it listens but: {}", self.name, line.trim())),
            Ok(Err(error)) => Err(error).with_context(|| format!("{} cannot be heard", self.name)),
            Err(_) => {
                let silent =
                    format!("has not said where it listens within {} s", ANNOUNCE_DEADLINE.as_secs());
                Err(self.death(&silent))
            }
        }
    }

    /// # Errors
    /// When it has ended, with the end of its log.
    pub(super) fn check(&mut self) -> anyhow::Result<()> {
        match self.process.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.death(&ended(status))),
            Err(error) => bail!("{} cannot be watched: {error}", self.name),
        }
    }

    fn death(&self, what: &str) -> anyhow::Error {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let tail = tail(&log, LOG_LINES_MAX);
        let tail = if tail.is_empty() { "  (nothing)".to_owned() } else { tail };
        anyhow::anyhow!("{} {what}. The end of its log:\n{tail}", self.name)
    }

    /// Asks it to end.
    pub(super) fn terminate(&self) {
        // No id: it was waited for already, and the number may be another process's by now.
        let id = self.process.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(id) = id
            && let Err(error) = kill_process(id, Signal::TERM)
        {
            crate::output::talk(format_args!("{} cannot be ended: {error}", self.name));
        }
    }

    /// Waits for its end, and makes it at `deadline`.
    pub(super) async fn end(&mut self, deadline: Instant) {
        let waited = timeout_at(deadline, self.process.wait()).await;
        if waited.is_err()
            && let Err(error) = self.process.kill().await
        {
            crate::output::talk(format_args!("{} cannot be killed: {error}", self.name));
        }
    }
}

fn ended(status: ExitStatus) -> String {
    format!("has ended ({status})")
}

/// The last lines of a log, indented.
fn tail(log: &str, lines_max: usize) -> String {
    let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
    let from = lines.len().saturating_sub(lines_max);
    lines[from..].iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn the_tail_of_a_log_is_its_last_lines() {
        assert_eq!(tail("a\n\nb\nc\n", 2), "  b\n  c");
        assert_eq!(tail("", 2), "");
    }

    #[tokio::test]
    async fn a_program_that_cannot_be_started_is_named() {
        let scratch = Scratch::make().unwrap();
        let missing = scratch.path().join("missing");
        let fault = Child::start(&scratch, "engine-1", &missing, &missing, &[]).unwrap_err();
        assert!(format!("{fault:#}").contains("cannot be started"), "{fault:#}");
    }

    #[tokio::test]
    async fn a_child_that_dies_is_shown_with_the_end_of_its_log() {
        let scratch = Scratch::make().unwrap();
        // The shell finds no script `tether`: it complains on stderr and ends, as a broken child would.
        let shell = PathBuf::from("/bin/sh");
        let mut child = Child::start(&scratch, "child", &shell, &shell, &[]).unwrap();
        let fault = child.announcement::<serde_json::Value>().await.unwrap_err().to_string();
        assert!(fault.starts_with("child has ended (exit status: "), "{fault}");
        assert!(fault.contains("tether"), "{fault}");
        assert!(child.check().is_err());
        child.terminate();
        child.end(clock::now() + Duration::from_secs(5)).await;
    }
}
