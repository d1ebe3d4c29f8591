//! How late timers are: on each core by a thread that does nothing else, and in this program's own event loop, whose lateness would be
//! taken for that of the answers. A run with late timers says something about the machine and nothing about routing.

use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::anyhow;
use penstock_benches::clock::{self, Alarm};
use penstock_benches::latency::Latencies;
use penstock_benches::tether;
use serde::Serialize;
use tokio::runtime;
use tokio::sync::watch;
use tokio::task::JoinSet;

const STEP: Duration = Duration::from_millis(1);

/// How late timers were, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Lateness {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

/// Those who sleep and look at the clock.
pub(crate) struct Sleepers {
    stop: watch::Sender<bool>,
    threads: Vec<JoinHandle<anyhow::Result<Latencies>>>,
    own: JoinSet<anyhow::Result<Latencies>>,
}

impl Sleepers {
    /// They begin now, one on each of these cores. Needs a local set.
    pub(crate) fn begin(cores: &[usize]) -> Self {
        let (stop, stopped) = watch::channel(false);
        let thread = |core: &usize| {
            let (core, stopped) = (*core, stopped.clone());
            thread::spawn(move || on_core(core, stopped))
        };
        let threads = cores.iter().map(thread).collect();
        let mut own = JoinSet::new();
        own.spawn_local(until_stopped(stopped));
        Self { stop, threads, own }
    }

    /// They end; the worst of all is told.
    ///
    /// # Errors
    /// When one of them could not sleep as meant.
    pub(crate) async fn end(mut self) -> anyhow::Result<Lateness> {
        self.stop.send_replace(true);
        let mut all = Vec::new();
        while let Some(own) = self.own.join_next().await {
            all.push(own??);
        }
        for thread in self.threads {
            all.push(thread.join().map_err(|_| anyhow!("a thread that measured timers is lost"))??);
        }
        Ok(all.iter().map(lateness).fold(Lateness::default(), |worst, one| Lateness {
            p50: worst.p50.max(one.p50),
            p99: worst.p99.max(one.p99),
            max: worst.max.max(one.max),
        }))
    }
}

fn on_core(core: usize, stopped: watch::Receiver<bool>) -> anyhow::Result<Latencies> {
    tether::pin(core)?;
    runtime::Builder::new_current_thread().enable_all().build()?.block_on(until_stopped(stopped))
}

async fn until_stopped(mut stopped: watch::Receiver<bool>) -> anyhow::Result<Latencies> {
    let (alarm, mut late) = (Alarm::new()?, Latencies::new()?);
    loop {
        let due_ns = clock::now_ns() + clock::nanos(STEP);
        tokio::select! {
            biased;
            waited = alarm.wait_until(due_ns) => waited?,
            _ = stopped.wait_for(|stopped| *stopped) => return Ok(late),
        }
        late.record(due_ns, clock::now_ns());
    }
}

fn lateness(late: &Latencies) -> Lateness {
    let us = late.percentiles();
    Lateness { p50: us.p50 / 1e3, p99: us.p99 / 1e3, max: us.max / 1e3 }
}

#[cfg(test)]
mod tests {
    use tokio::task::LocalSet;

    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn a_loop_that_is_blocked_is_late() {
        let local = LocalSet::new();
        let worst = local.run_until(async {
            let sleepers = Sleepers::begin(&[]);
            // The sleeper runs up to its alarm, and again when the loop is free.
            tokio::task::yield_now().await;
            let until_ns = clock::now_ns() + 30_000_000;
            while clock::now_ns() < until_ns {
                std::hint::spin_loop();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
            sleepers.end().await.unwrap()
        });
        let worst = worst.await;
        assert!(worst.max >= 25.0, "{worst:?}");
        assert!(worst.p50 <= worst.p99 && worst.p99 <= worst.max, "{worst:?}");
    }
}
