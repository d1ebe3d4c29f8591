//! Where and of what the figures were taken.

use std::fs;
use std::process::Command;

use serde::Serialize;

/// The machine and the commit.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    cpu: String,
    cores: usize,
    memory_bytes: u64,
    kernel: String,
    commit: String,
    descriptors: u64,
}

impl Machine {
    /// This machine, and the commit in the working directory; `descriptors` is how many files a process may have open.
    pub fn here(descriptors: u64) -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = text("/proc/cpuinfo");
        Self {
            cpu: field(&cpuinfo, "model name").unwrap_or_else(unknown),
            cores: cores(&cpuinfo),
            memory_bytes: memory_bytes(&text("/proc/meminfo")),
            kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
            commit: git(&["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"])
                .unwrap_or_else(unknown),
            descriptors,
        }
    }
}

fn unknown() -> String {
    "unknown".to_owned()
}

/// The first `name : value`.
fn field(text: &str, name: &str) -> Option<String> {
    let value = |line: &str| {
        line.strip_prefix(name)?.trim_start().strip_prefix(':').map(str::trim).map(str::to_owned)
    };
    text.lines().find_map(value)
}

/// All of the machine's, also where this process is bound to some of them.
fn cores(cpuinfo: &str) -> usize {
    cpuinfo.lines().filter(|line| line.starts_with("processor")).count()
}

fn memory_bytes(meminfo: &str) -> u64 {
    let total = field(meminfo, "MemTotal").unwrap_or_default();
    total.split(' ').next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1_024
}

fn git(words: &[&str]) -> Option<String> {
    let output = Command::new("git").args(words).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_read_from_its_files() {
        let cpuinfo = "processor\t: 0\nmodel name\t: AMD EPYC\nprocessor\t: 1\nmodel name\t: second\n";
        assert_eq!(cores(cpuinfo), 2);
        assert_eq!(field(cpuinfo, "model name").as_deref(), Some("AMD EPYC"));
        assert_eq!(field(cpuinfo, "model"), None);
        assert_eq!(memory_bytes("MemTotal:       24576 kB\n"), 24 << 20);
    }
}
