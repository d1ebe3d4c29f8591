//! What processes have used, from `/proc`.

use std::collections::BTreeMap;
use std::{fs, io};

const NS_PER_SECOND: f64 = 1e9;
/// Linux tells times in `/proc/stat` in hundredths of a second on every machine.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU time of every thread of some processes, user and system together, by process and thread.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuTimes(BTreeMap<(u32, u32), u64>);

impl CpuTimes {
    /// Of these processes now. A process that has ended has none.
    pub fn of(ids: &[u32]) -> Self {
        let mut times = BTreeMap::new();
        for id in ids {
            let Ok(threads) = fs::read_dir(format!("/proc/{id}/task")) else { continue };
            for thread in threads.flatten() {
                let text = fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
                let number = thread.file_name().to_str().and_then(|name| name.parse().ok());
                if let (Some(number), Some(nanos)) = (number, schedstat(&text)) {
                    times.insert((*id, number), nanos);
                }
            }
        }
        Self(times)
    }

    /// Seconds used since `before`. What threads used that have ended meanwhile is not in it.
    pub fn seconds_since(&self, before: &Self) -> f64 {
        let used = |(thread, nanos): (&(u32, u32), &u64)| {
            nanos.saturating_sub(before.0.get(thread).copied().unwrap_or(0)) as f64
        };
        self.0.iter().map(used).sum::<f64>() / NS_PER_SECOND
    }
}

/// Nanoseconds on a core: the first figure.
fn schedstat(text: &str) -> Option<u64> {
    text.split(' ').next()?.parse().ok()
}

/// Seconds that all cores have worked for processes.
pub fn machine_busy_seconds() -> f64 {
    busy_seconds(&fs::read_to_string("/proc/stat").unwrap_or_default())
}

/// User, nice and system time of the first line. Interrupts are not told apart by whom they serve.
fn busy_seconds(stat: &str) -> f64 {
    let figures = stat.lines().next().unwrap_or_default().split_whitespace().skip(1).take(3);
    figures.filter_map(|figure| figure.parse::<f64>().ok()).sum::<f64>() / TICKS_PER_SECOND
}

/// Memory of some processes together, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Memory {
    /// Resident now.
    pub resident: u64,
    /// Most that ever was.
    pub peak: u64,
}

impl Memory {
    /// Of these processes now. A process that has ended has none.
    pub fn of(ids: &[u32]) -> Self {
        let of = |id: &u32| Self::read(&fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default());
        ids.iter().map(of).fold(Self::default(), |sum, one| Self {
            resident: sum.resident + one.resident,
            peak: sum.peak + one.peak,
        })
    }

    /// Lets `peak` begin anew at what is resident now.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn forget_peak(id: u32) -> io::Result<()> {
        fs::write(format!("/proc/{id}/clear_refs"), "5")
    }

    fn read(status: &str) -> Self {
        let bytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1_024
        };
        Self { resident: bytes("VmRSS:"), peak: bytes("VmHWM:") }
    }
}

/// Open descriptors of a process.
///
/// # Errors
/// When it has ended.
pub fn descriptors(id: u32) -> io::Result<usize> {
    Ok(fs::read_dir(format!("/proc/{id}/fd"))?.count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_works_for_processes_in_three_ways() {
        assert!((busy_seconds("cpu  100 20 30 4000 5 6 7 8 0 0\ncpu0 1 1 1") - 1.5).abs() < 1e-9);
        assert!(busy_seconds("").abs() < 1e-9);
    }

    #[test]
    fn memory_is_told_in_kibibytes() {
        let memory = Memory::read("Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n");
        assert_eq!(memory, Memory { resident: 1 << 20, peak: 2 << 20 });
        assert_eq!(Memory::read(""), Memory::default());
    }

    #[test]
    fn threads_that_are_new_count_whole_and_those_that_have_ended_not_at_all() {
        let times = |times: &[((u32, u32), u64)]| CpuTimes(times.iter().copied().collect());
        let before = times(&[((1, 1), 1_000_000_000), ((1, 2), 5)]);
        let after = times(&[((1, 1), 2_000_000_000), ((1, 3), 500_000_000)]);
        assert!((after.seconds_since(&before) - 1.5).abs() < 1e-9);
        assert_eq!(schedstat("123 456 7\n"), Some(123));
    }

    #[test]
    fn a_peak_can_be_forgotten() {
        let own = std::process::id();
        drop(std::hint::black_box(vec![1_u8; 64 << 20]));
        let before = Memory::of(&[own]);
        Memory::forget_peak(own).unwrap();
        assert!(Memory::of(&[own]).peak < before.peak, "{before:?}");
    }

    #[test]
    fn this_process_has_used_something() {
        let own = [std::process::id()];
        assert!(CpuTimes::of(&own).seconds_since(&CpuTimes::default()) > 0.0);
        assert!(Memory::of(&own).resident > 0);
        assert!(machine_busy_seconds() > 0.0);
        assert!(descriptors(own[0]).unwrap() > 0);
    }
}
