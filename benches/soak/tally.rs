//! What this program did, and what went wrong with it.

use std::cell::RefCell;
use std::rc::Rc;

use serde::Serialize;

const FAULTS_KEPT_MAX: usize = 10;

/// Counts; shared by all tasks of the one thread.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally(Rc<RefCell<Done>>);

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Done {
    /// Requests answered to the end, as they should be.
    pub(crate) answered: u64,
    /// Requests given up.
    pub(crate) cancelled: u64,
    /// Those of them whose answer had begun.
    pub(crate) cancelled_in_answer: u64,
    /// Bytes of long bodies sent.
    pub(crate) bytes_up: u64,
    /// Bytes of answers to them.
    pub(crate) bytes_down: u64,
    /// Requests that failed.
    pub(crate) failed: u64,
    /// Why, of the first few.
    pub(crate) faults: Vec<String>,
}

/// How far an answer had come when it was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Nothing,
    Begin,
}

impl Tally {
    pub(crate) fn done(&self) -> Done {
        self.0.borrow().clone()
    }

    pub(crate) fn answered(&self) {
        self.0.borrow_mut().answered += 1;
    }

    pub(crate) fn cancelled(&self, seen: Seen) {
        let mut done = self.0.borrow_mut();
        done.cancelled += 1;
        done.cancelled_in_answer += u64::from(seen == Seen::Begin);
    }

    pub(crate) fn carried(&self, bytes_up: u64, bytes_down: u64) {
        let mut done = self.0.borrow_mut();
        done.bytes_up += bytes_up;
        done.bytes_down += bytes_down;
    }

    pub(crate) fn failed(&self, fault: &anyhow::Error) {
        let mut done = self.0.borrow_mut();
        done.failed += 1;
        if done.faults.len() < FAULTS_KEPT_MAX {
            done.faults.push(format!("{fault:#}"));
        }
    }
}

/// Numbers of requests to be made, handed out one by one to whoever is free.
#[derive(Clone, Debug)]
pub(crate) struct Turns(Rc<RefCell<std::ops::Range<u64>>>);

impl Turns {
    pub(crate) fn new(count: u64) -> Self {
        Self(Rc::new(RefCell::new(0..count)))
    }

    /// The next, until all are taken.
    pub(crate) fn take(&self) -> Option<u64> {
        self.0.borrow_mut().next()
    }
}
