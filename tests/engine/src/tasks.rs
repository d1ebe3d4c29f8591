//! The one place that spawns. A task ends when its owner drops it.

use std::future::Future;

/// A running task; dropping it ends it.
#[derive(Debug)]
pub(crate) struct Task(tokio::task::JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Runs `future` until it ends or the returned task is dropped.
pub(crate) fn spawn(future: impl Future<Output = ()> + Send + 'static) -> Task {
    #[expect(clippy::disallowed_methods, reason = "this is the spawn door")]
    Task(tokio::spawn(future))
}
