//! The clock door: nanoseconds of the kernel's monotonic clock, which is one for all processes of a machine, and waits that
//! are exact to some microseconds. tokio's timers are exact to a millisecond, which is more than what is measured here.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// Nanoseconds since the machine was started.
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    // The monotonic clock is never negative.
    now.tv_sec.unsigned_abs() * NANOS_PER_SECOND + now.tv_nsec.unsigned_abs()
}

/// A duration in nanoseconds; one of more than 584 years is cut to that.
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Wakes one task at exact times.
#[derive(Debug)]
pub struct Alarm(AsyncFd<OwnedFd>);

impl Alarm {
    /// An alarm that is not set. Needs a runtime.
    ///
    /// # Errors
    /// When the system has no timer left.
    #[expect(
        deprecated,
        reason = "its replacement is unsafe, for types that may change their descriptor; an OwnedFd keeps it"
    )]
    pub fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        Ok(Self(AsyncFd::with_interest(timer, Interest::READABLE)?))
    }

    /// Waits until `due_ns`; returns at once when that is over. May be dropped and called again.
    ///
    /// # Errors
    /// When the system refuses the time.
    pub async fn wait_until(&self, due_ns: u64) -> io::Result<()> {
        while now_ns() < due_ns {
            timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::ABSTIME, &once(due_ns))?;
            let mut ready = self.0.readable().await?;
            let mut expirations = [0; 8];
            // A time that was set anew meanwhile has nothing to read: then it is waited for again.
            let _rung = ready.try_io(|timer| Ok(rustix::io::read(timer, &mut expirations)?));
        }
        Ok(())
    }
}

fn once(due_ns: u64) -> Itimerspec {
    let part = |nanos: u64| i64::try_from(nanos).unwrap_or(i64::MAX);
    Itimerspec {
        it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
        it_value: Timespec {
            tv_sec: part(due_ns / NANOS_PER_SECOND),
            tv_nsec: part(due_ns % NANOS_PER_SECOND),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_alarm_never_rings_early_also_when_a_wait_was_given_up() {
        let alarm = Alarm::new().unwrap();
        let begun = now_ns();
        let late = alarm.wait_until(begun + NANOS_PER_SECOND * 3_600);
        let (soon, _) =
            tokio::join!(async { tokio::time::timeout(Duration::from_millis(1), late).await }, async {});
        assert!(soon.is_err());
        let due = now_ns() + 2_000_000;
        alarm.wait_until(due).await.unwrap();
        assert!(now_ns() >= due);
        alarm.wait_until(begun).await.unwrap();
    }
}
