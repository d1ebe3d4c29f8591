//! The programs under test, started as a user starts them.

use std::ffi::OsStr;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use serde_json::Value;

use crate::wait::{eventually, within};

/// Lines of a log that are shown when a test fails.
const LINES_SHOWN: usize = 40;

/// A running program. Dropping it kills it, and waits until it has gone.
#[derive(Debug)]
pub struct Program {
    name: String,
    child: Child,
    first_line: Value,
    stdout: PathBuf,
    stderr: PathBuf,
}

/// The program `name` of this workspace, as built beside the running test.
///
/// # Panics
/// When it has not been built.
pub fn built(name: &str) -> Command {
    let test = std::env::current_exe().expect("the path of this test");
    let path = test.ancestors().nth(2).expect("tests stand in target/PROFILE/deps").join(name);
    assert!(path.is_file(), "{} is missing: run `make build` first", path.display());
    Command::new(path)
}

impl Program {
    /// Starts it and waits for its first line. What it writes goes to files in `dir`, named after `name`.
    ///
    /// # Panics
    /// When it ends instead, or its first line is not JSON.
    pub async fn start(dir: &Path, name: &str, mut command: Command) -> Self {
        let (stdout, stderr) = (unused(dir, name, "out"), unused(dir, name, "err"));
        let file = |path: &Path| File::create(path).expect("a file for what a program writes");
        let child = command.stdin(Stdio::null()).stdout(file(&stdout)).stderr(file(&stderr)).spawn();
        let child = child.unwrap_or_else(|error| panic!("{name} cannot be started: {error}"));
        let name = name.to_owned();
        let mut program = Self { name, child, first_line: Value::Null, stdout, stderr };
        let what = format!("{} says where it listens", program.name);
        program.first_line = eventually(&what, async || {
            let written = program.output();
            if let Some((line, _)) = written.split_once('\n') {
                return Ok(serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")));
            }
            let ended = program.child.try_wait().expect("the state of a program");
            assert!(ended.is_none(), "{} has ended with {ended:?}: {}", program.name, program.log());
            Err(written)
        })
        .await;
        program
    }

    /// The first line that it wrote.
    pub fn first_line(&self) -> &Value {
        &self.first_line
    }

    /// Where its listener `name` is.
    ///
    /// # Panics
    /// When it has none of that name.
    pub fn listening(&self, name: &str) -> SocketAddr {
        let text = self.first_line["listening"][name].as_str();
        let text =
            text.unwrap_or_else(|| panic!("{}: no listener `{name}` in {}", self.name, self.first_line));
        text.parse().expect("an address")
    }

    /// What it wrote to standard error so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.stderr).expect("the log of a program")
    }

    /// What it wrote to standard output so far.
    pub fn output(&self) -> String {
        std::fs::read_to_string(&self.stdout).expect("the output of a program")
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to stop, as Kubernetes does.
    ///
    /// # Panics
    /// When it has gone already.
    pub fn terminate(&self) {
        signal("TERM", self.id());
    }

    /// Ends it at once, as `kill -9` does.
    ///
    /// # Panics
    /// When that is not possible.
    pub fn kill(&mut self) {
        self.child.kill().expect("a program that can be killed");
        self.child.wait().expect("a program that has ended");
    }

    /// Waits until it has ended by itself.
    ///
    /// # Panics
    /// When it does not.
    pub async fn ended(&mut self) -> ExitStatus {
        let what = format!("{} has ended", self.name);
        eventually(&what, async || match self.child.try_wait() {
            Ok(Some(status)) => Ok(status),
            other => Err(format!("{other:?}")),
        })
        .await
    }

    /// Whether it still runs.
    ///
    /// # Panics
    /// When the system does not say.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().expect("the state of a program").is_none()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            eprintln!("--- {} wrote:\n{}", self.name, tail(&self.log()));
        }
    }
}

/// How a program that ends by itself has ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Exit code; none after a signal.
    pub code: Option<i32>,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

/// Runs a program to its end.
///
/// # Panics
/// When it does not end.
pub async fn run(command: Command) -> Ended {
    let mut command = tokio::process::Command::from(command);
    let output = within("a program ends", command.stdin(Stdio::null()).kill_on_drop(true).output()).await;
    let output = output.expect("a program that can be started");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ended { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

/// Processes that were started, by whomever, with this directory as `TMPDIR`.
///
/// # Panics
/// When the system does not list processes.
pub fn with_tmpdir(dir: &Path) -> Vec<u32> {
    let wanted = format!("TMPDIR={}", dir.display());
    let processes = std::fs::read_dir("/proc").expect("a list of processes").flatten();
    let has = |id: &u32| {
        // One that ends meanwhile, or is another user's, cannot be read.
        let environment = std::fs::read(format!("/proc/{id}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
    };
    processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(has).collect()
}

/// Sends a signal. There is no call for it in the standard library; every shell has one.
///
/// # Panics
/// When the process is not there.
pub fn signal(name: &str, id: u32) {
    let words = ["-c", "kill -s \"$0\" \"$1\"", name, &id.to_string()].map(OsStr::new).map(OsStr::to_owned);
    let sent = Command::new("sh").args(words).status().expect("a shell");
    assert!(sent.success(), "SIG{name} could not be sent to {id}");
}

/// The end of a log.
pub fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(LINES_SHOWN)..].join("\n")
}

/// A program that is started again gets new files.
fn unused(dir: &Path, name: &str, extension: &str) -> PathBuf {
    let mut paths = (1..).map(|number| dir.join(format!("{name}.{number}.{extension}")));
    paths.find(|path| !path.exists()).expect("an endless list")
}
