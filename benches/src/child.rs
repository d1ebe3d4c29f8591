//! One child process, pinned to a core. It is started through `tether`, a command that every program which uses this has.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;
use tokio::io::{BufReader, Lines};
use tokio::process::{ChildStdout, Command};
use tokio::time::{sleep, timeout};

/// A program on a busy machine says within this where it listens, and ends when asked.
const DEADLINE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(5);
const LOG_BYTES_SHOWN: usize = 600;

/// A child process. Dropping it kills it.
#[derive(Debug)]
pub struct Child {
    name: String,
    id: u32,
    process: tokio::process::Child,
    log: PathBuf,
    output: PathBuf,
}

/// Which program, and where.
#[derive(Clone, Copy, Debug)]
pub struct Start<'a> {
    /// Of its files.
    pub name: &'a str,
    /// Where it is.
    pub program: &'a Path,
    /// Where it runs.
    pub core: usize,
    /// Where its output goes.
    pub dir: &'a Path,
}

/// Beside nothing that programs read: whoever watches a directory is woken by each line that is written there.
fn logs(dir: &Path) -> std::io::Result<PathBuf> {
    let logs = dir.join("logs");
    std::fs::create_dir_all(&logs)?;
    Ok(logs)
}

impl Child {
    /// Starts a program whose output goes to files.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(start: Start<'_>, arguments: &[String]) -> anyhow::Result<Self> {
        let output = logs(start.dir)?.join(format!("{}.out", start.name));
        Self::spawn(start, arguments, File::create(&output)?.into())
    }

    /// Starts a program whose output is read line by line.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn talking(
        start: Start<'_>,
        arguments: &[String],
    ) -> anyhow::Result<(Self, Lines<BufReader<ChildStdout>>)> {
        use tokio::io::AsyncBufReadExt;

        let mut child = Self::spawn(start, arguments, Stdio::piped())?;
        let stdout = child.process.stdout.take().context("a child without stdout")?;
        Ok((child, BufReader::new(stdout).lines()))
    }

    fn spawn(start: Start<'_>, arguments: &[String], stdout: Stdio) -> anyhow::Result<Self> {
        let logs = logs(start.dir)?;
        let path = |extension: &str| logs.join(format!("{}.{extension}", start.name));
        let (log, output) = (path("log"), path("out"));
        let process = Command::new(std::env::current_exe()?)
            .args(["tether", &std::process::id().to_string(), &start.core.to_string()])
            .arg(start.program)
            .args(arguments)
            .current_dir(start.dir)
            // Ctrl-C in the terminal reaches this program alone, which then ends its children.
            .process_group(0)
            .kill_on_drop(true)
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(File::create(&log)?)
            .spawn()
            .with_context(|| format!("{} cannot be started", start.program.display()))?;
        let id = process.id().context("a child that has ended at once")?;
        Ok(Self { name: start.name.to_owned(), id, process, log, output })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// That it runs.
    ///
    /// # Errors
    /// When it has ended, with the end of its log.
    pub fn check(&mut self) -> anyhow::Result<()> {
        match self.process.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} has ended ({status}): {}", self.name, self.log()),
        }
    }

    /// The end of what it wrote to standard error.
    pub fn log(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let from = log.len().saturating_sub(LOG_BYTES_SHOWN);
        String::from_utf8_lossy(&log[from..]).trim().to_owned()
    }

    /// The first line of its output, which is JSON.
    ///
    /// # Errors
    /// When it ends, or does not say anything in time.
    pub async fn first_line(&mut self) -> anyhow::Result<Value> {
        let output = self.output.clone();
        let line = async {
            loop {
                self.check()?;
                let written = std::fs::read_to_string(&output)?;
                if let Some((line, _)) = written.split_once('\n') {
                    return anyhow::Ok(serde_json::from_str(line)?);
                }
                sleep(POLL).await;
            }
        };
        let waited = timeout(DEADLINE, line).await;
        waited.with_context(|| format!("{} does not say where it listens", self.name))?
    }

    /// Ends it at once and waits until it has gone.
    ///
    /// # Errors
    /// When the system refuses.
    pub async fn end(mut self) -> anyhow::Result<()> {
        let ended = self.process.kill().await;
        ended.with_context(|| format!("{} cannot be ended", self.name))
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    /// When it does not, or fails.
    pub async fn ended(&mut self) -> anyhow::Result<()> {
        let status = timeout(DEADLINE, self.process.wait()).await;
        let status = status.with_context(|| format!("{} does not end", self.name))??;
        if status.success() { Ok(()) } else { bail!("{} failed ({status}): {}", self.name, self.log()) }
    }
}

/// Where a first line says that the listener `name` is.
///
/// # Errors
/// When it does not.
pub fn listening(line: &Value, name: &str) -> anyhow::Result<SocketAddr> {
    let text = line["listening"][name].as_str();
    Ok(text.with_context(|| format!("no listener `{name}` in {line}"))?.parse()?)
}

/// A port that was free a moment ago, for programs that cannot say which one they were given.
///
/// # Errors
/// When there is none.
pub fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}
