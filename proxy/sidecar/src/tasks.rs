//! The door to concurrency: every task has a name, is counted at drain, and can be cut.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Notify, watch};

/// A group of tasks that end together. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tasks {
    group: Arc<Group>,
}

#[derive(Debug)]
struct Group {
    running: AtomicUsize,
    ended: Notify,
    cut: watch::Sender<bool>,
}

/// Counts one running task; dropped also when the task panics or is aborted.
struct Running(Arc<Group>);

impl Drop for Running {
    fn drop(&mut self) {
        if self.0.running.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.ended.notify_waiters();
        }
    }
}

impl Default for Tasks {
    fn default() -> Self {
        let group =
            Group { running: AtomicUsize::new(0), ended: Notify::new(), cut: watch::Sender::new(false) };
        Self { group: Arc::new(group) }
    }
}

impl Tasks {
    /// Starts a task. It ends when `work` ends or the group is cut.
    pub fn spawn(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        self.group.running.fetch_add(1, Ordering::AcqRel);
        let running = Running(Arc::clone(&self.group));
        let mut cut = self.group.cut.subscribe();
        // Held once: what a task captures and what it awaits are kept apart, and would take the room twice.
        let work = Box::pin(work);
        let task = async move {
            let _running = running;
            tokio::select! {
                biased;
                _ = cut.wait_for(|cut| *cut) => tracing::debug!(task = name, "cut"),
                () = work => {}
            }
        };
        #[expect(clippy::disallowed_methods, reason = "this is the door")]
        drop(tokio::spawn(task));
    }

    /// Runs work that blocks, such as writing to a disk, on a thread of its own; nothing when it panicked.
    pub async fn block<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        tokio::task::spawn_blocking(work).await.ok()
    }

    /// All tasks of this runtime that have not ended, of every group and of the libraries.
    pub fn alive() -> usize {
        tokio::runtime::Handle::current().metrics().num_alive_tasks()
    }

    /// How many are running.
    pub fn running(&self) -> usize {
        self.group.running.load(Ordering::Acquire)
    }

    /// Waits until none is running.
    pub async fn all_ended(&self) {
        loop {
            let ended = self.group.ended.notified();
            if self.running() == 0 {
                return;
            }
            ended.await;
        }
    }

    /// Ends all of them, now and later started ones.
    pub fn cut(&self) {
        self.group.cut.send_replace(true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_cut_ends_what_would_wait_forever() {
        let tasks = Tasks::default();
        tasks.spawn("endless", std::future::pending());
        tasks.spawn("short", async {});
        assert_eq!((tasks.running(), Tasks::alive()), (2, 2));
        tasks.cut();
        tasks.all_ended().await;
        assert_eq!(tasks.running(), 0);
    }

    #[tokio::test]
    async fn a_panic_is_counted_as_an_end() {
        let tasks = Tasks::default();
        tasks.spawn("panics", async { panic!("on purpose") });
        tasks.all_ended().await;
        assert_eq!(tasks.running(), 0);
    }
}
