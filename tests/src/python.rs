//! Clients in Python: official libraries that know nothing of this project.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::programs::{Program, tail};
use crate::skip::skip;
use crate::wait::within;

/// An interpreter that has the libraries.
#[derive(Clone, Debug)]
pub struct Python {
    interpreter: PathBuf,
}

impl Python {
    /// The interpreter of `PENSTOCK_PYTHON`, or the one that `make clients` installs, if it has these modules; else the test is
    /// skipped.
    pub fn with(modules: &[&str]) -> Option<Self> {
        let made = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/clients/bin/python");
        let interpreter = std::env::var_os("PENSTOCK_PYTHON").map_or(made, PathBuf::from);
        let ask = "import sys, importlib.util as u; sys.exit(not all(map(u.find_spec, sys.argv[1:])))";
        let has = Command::new(&interpreter).args(["-c", ask]).args(modules).status();
        if has.is_ok_and(|status| status.success()) {
            return Some(Self { interpreter });
        }
        skip(&format!("Python with {} (make clients)", modules.join(", ")));
        None
    }

    /// Runs a script of `tests/clients` to its end; gives what it wrote.
    ///
    /// # Panics
    /// When it fails; with what it wrote.
    pub async fn run(&self, script: &str, arguments: &[&str]) -> String {
        let mut command = tokio::process::Command::from(self.command(script, arguments));
        let output = within(script, command.kill_on_drop(true).output()).await.expect("an interpreter");
        let (stdout, stderr) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{script} {arguments:?} failed:\n{stdout}\n{}", tail(&stderr));
        stdout.into_owned()
    }

    /// Starts a script of `tests/clients` that serves; its first line says where.
    pub async fn start(&self, dir: &Path, script: &str, arguments: &[&str]) -> Program {
        Program::start(dir, script, self.command(script, arguments)).await
    }

    fn command(&self, script: &str, arguments: &[&str]) -> Command {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(script);
        let mut command = Command::new(&self.interpreter);
        // No byte code beside the sources, no proxy of the machine between the clients and the mesh.
        command.arg("-B").arg("-u").arg(path).args(arguments);
        for variable in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
            command.env_remove(variable);
        }
        command
    }
}
