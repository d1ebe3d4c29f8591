//! curl, as people type it.

use std::process::Command;

use crate::skip::skip;
use crate::wait::within;

/// A curl that speaks HTTP/2.
#[derive(Clone, Copy, Debug)]
pub struct Curl(());

impl Curl {
    /// The one that is installed; without it the test is skipped.
    pub fn installed() -> Option<Self> {
        let version = Command::new("curl").arg("--version").output();
        let speaks = version.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("HTTP2"));
        if !speaks {
            skip("curl with HTTP/2");
        }
        speaks.then_some(Self(()))
    }

    /// Runs it with these words; gives what it wrote.
    ///
    /// # Panics
    /// When it fails.
    pub async fn run(self, words: &[&str]) -> String {
        let (code, text) = self.try_run(words).await;
        assert_eq!(code, 0, "curl {words:?}: {text}");
        text
    }

    /// Runs it with these words; gives its exit code and what it wrote.
    ///
    /// # Panics
    /// When it does not run.
    pub async fn try_run(self, words: &[&str]) -> (i32, String) {
        let mut command = tokio::process::Command::new("curl");
        command.args(["--silent", "--no-buffer", "--noproxy", "*"]).args(words);
        let output = within("curl", command.kill_on_drop(true).output()).await.expect("curl");
        (output.status.code().unwrap_or(-1), String::from_utf8(output.stdout).expect("text"))
    }
}
