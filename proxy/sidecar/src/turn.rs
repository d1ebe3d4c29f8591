//! Polls a future once per turn of the event loop, however often it is woken in it.
//!
//! An HTTP/2 connection is one task that writes for many streams. Woken at once by each stream that has something to send, it would
//! write, encrypt and call the kernel once for each. Woken at the end of the turn, when every other task that could run has run, it
//! does so once for all of them. Nothing is held back for longer than that: an idle loop has no other task to wait for.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use parking_lot::Mutex;

/// A future that is polled at most once per turn.
pub(crate) struct OncePerTurn<F> {
    inner: Pin<Box<F>>,
    bell: Arc<Bell>,
    waker: Waker,
    /// The end of the turn is waited for.
    yields: bool,
}

/// Rings the task at the end of the turn.
#[derive(Default)]
struct Bell {
    has_rung: AtomicBool,
    task: Mutex<Option<Waker>>,
}

impl<F: Future> OncePerTurn<F> {
    /// Wraps a future.
    pub(crate) fn new(inner: F) -> Self {
        let bell = Arc::<Bell>::default();
        Self { inner: Box::pin(inner), waker: Waker::from(Arc::clone(&bell)), bell, yields: false }
    }
}

impl<F: Future> Future for OncePerTurn<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        {
            let mut task = self.bell.task.lock();
            if !task.as_ref().is_some_and(|known| known.will_wake(context.waker())) {
                *task = Some(context.waker().clone());
            }
        }
        if self.bell.has_rung.load(Ordering::Acquire) && !self.yields {
            self.yields = true;
            // Its first poll asks the runtime to wake this task when nothing else is left to run. Asked here and not where the bell
            // rings: the runtime itself may be ringing it, from the list that this adds to.
            let _pending = pin!(tokio::task::yield_now()).poll(context);
            return Poll::Pending;
        }
        self.yields = false;
        // Before the poll: what happens during it counts for the next one. Swapped, not stored: what happened before a ring that was
        // swallowed by an earlier one must be seen by this poll.
        self.bell.has_rung.swap(false, Ordering::AcqRel);
        let this = &mut *self;
        this.inner.as_mut().poll(&mut Context::from_waker(&this.waker))
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.has_rung.swap(true, Ordering::AcqRel) {
            return;
        }
        let task = self.task.lock().clone();
        if let Some(task) = task {
            task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    /// A future that yields to the runtime is woken by the runtime, in the middle of its own list of those that yield.
    #[tokio::test]
    async fn a_future_that_yields_by_itself_goes_on() {
        let mut turns = 0;
        OncePerTurn::new(async {
            for _ in 0..100 {
                tokio::task::yield_now().await;
                turns += 1;
            }
        })
        .await;
        assert_eq!(turns, 100);
    }

    #[tokio::test]
    async fn many_wakes_in_a_turn_are_one_poll() {
        let mut polls = 0;
        OncePerTurn::new(poll_fn(|context| {
            polls += 1;
            for _ in 0..10 {
                context.waker().wake_by_ref();
            }
            if polls == 5 { Poll::Ready(()) } else { Poll::Pending }
        }))
        .await;
        assert_eq!(polls, 5);
    }
}
