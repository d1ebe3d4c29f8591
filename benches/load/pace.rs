//! When the next request is due: when the last has ended, or at a rate whatever the server does.

use std::rc::Rc;

use tokio::sync::Mutex;

use penstock_benches::clock::{self, Alarm};

const NS_PER_SECOND: u64 = 1_000_000_000;

/// When requests are due.
#[derive(Clone, Debug)]
pub(crate) enum Pace {
    /// When a connection is free.
    Closed,
    /// One after the other at fixed times; the free connections take turns.
    Open(Rc<Mutex<Schedule>>),
}

/// Fixed times.
#[derive(Debug)]
pub(crate) struct Schedule {
    alarm: Alarm,
    begun_ns: u64,
    rate: u64,
    taken: u64,
}

impl Pace {
    pub(crate) fn new(rate: Option<u64>) -> anyhow::Result<Self> {
        let Some(rate) = rate else { return Ok(Self::Closed) };
        let (alarm, begun_ns) = (Alarm::new()?, clock::now_ns());
        Ok(Self::Open(Rc::new(Mutex::new(Schedule { alarm, begun_ns, rate, taken: 0 }))))
    }

    /// Waits until the next is due, and says when it was: earlier than now if no connection was free.
    pub(crate) async fn due(&self) -> anyhow::Result<u64> {
        match self {
            Self::Closed => Ok(clock::now_ns()),
            Self::Open(schedule) => {
                let mut schedule = schedule.lock().await;
                let due_ns = slot(schedule.begun_ns, schedule.rate, schedule.taken);
                schedule.taken += 1;
                schedule.alarm.wait_until(due_ns).await?;
                Ok(due_ns)
            }
        }
    }
}

/// When the request with this number is due.
fn slot(begun_ns: u64, rate: u64, number: u64) -> u64 {
    begun_ns + number / rate * NS_PER_SECOND + number % rate * NS_PER_SECOND / rate
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_evenly_spaced_and_do_not_drift() {
        assert_eq!(slot(5, 2_000, 0), 5);
        assert_eq!(slot(5, 2_000, 1), 500_005);
        assert_eq!(slot(0, 3, 2), 666_666_666);
        assert_eq!(slot(0, 3, 3_000_000), 1_000_000 * NS_PER_SECOND);
    }

    #[tokio::test]
    async fn slots_that_nobody_was_free_for_are_due_when_they_were() {
        let pace = Pace::new(Some(1_000_000)).unwrap();
        let first = pace.due().await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        assert_eq!(pace.due().await.unwrap(), first + 1_000);
        assert_eq!(pace.due().await.unwrap(), first + 2_000);
    }
}
