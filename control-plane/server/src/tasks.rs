//! The door to new tasks: each has a name, is counted while it runs, and can hear the stop signal.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tracing::Instrument;

/// Starts tasks and waits for their end. Clones share the count and the signal.
#[derive(Clone, Debug)]
pub(crate) struct Tasks {
    running: Arc<watch::Sender<usize>>,
    stopping: Arc<watch::Sender<bool>>,
}

impl Tasks {
    pub(crate) fn new() -> Self {
        Self { running: Arc::new(watch::Sender::new(0)), stopping: Arc::new(watch::Sender::new(false)) }
    }

    /// Runs `future` until it ends. It must end soon after the stop signal.
    #[expect(clippy::disallowed_methods, reason = "this is the package's door to new tasks")]
    pub(crate) fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        let counted = Counted::new(Arc::clone(&self.running));
        let task = async move {
            let _counted = counted;
            future.await;
        };
        tokio::spawn(task.instrument(tracing::debug_span!("task", name)));
    }

    /// Runs work that blocks on a thread of its own; `None` when it panicked.
    pub(crate) async fn block<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        tokio::task::spawn_blocking(work).await.ok()
    }

    /// Tells every task to end.
    pub(crate) fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Returns once [`stop`](Self::stop) was called, at once when it was called before.
    pub(crate) async fn stopped(&self) {
        let mut stopping = self.stopping.subscribe();
        // The sender lives in `self`, so the wait ends with the signal alone.
        let _signal = stopping.wait_for(|stopping| *stopping).await;
    }

    /// Waits until no task runs, or `deadline` has passed; says how many still run.
    pub(crate) async fn drained(&self, deadline: Duration) -> usize {
        let mut running = self.running.subscribe();
        let _drained = tokio::time::timeout(deadline, running.wait_for(|running| *running == 0)).await;
        *self.running.borrow()
    }
}

/// One running task; a panic of the task drops it as well.
struct Counted(Arc<watch::Sender<usize>>);

impl Counted {
    fn new(running: Arc<watch::Sender<usize>>) -> Self {
        running.send_modify(|running| *running += 1);
        Self(running)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.send_modify(|running| *running -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn draining_waits_for_tasks_that_hear_the_signal_and_for_those_that_panic() {
        let tasks = Tasks::new();
        let hears = tasks.clone();
        tasks.spawn("hears", async move { hears.stopped().await });
        tasks.spawn("panics", async { panic!("on purpose") });
        tasks.stop();
        assert_eq!(tasks.drained(Duration::from_secs(10)).await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_end_is_counted_after_the_deadline() {
        let tasks = Tasks::new();
        tasks.spawn("deaf", std::future::pending());
        tasks.stop();
        assert_eq!(tasks.drained(Duration::from_secs(10)).await, 1);
    }
}
