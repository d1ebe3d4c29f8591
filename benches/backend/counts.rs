//! What became of the requests, as this server has seen it.

use std::cell::RefCell;
use std::rc::Rc;

use serde::Serialize;

/// Shared by all connections of the one thread.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts(Rc<RefCell<Figures>>);

#[derive(Debug, Default, Serialize)]
struct Figures {
    /// Requests that have begun and not ended.
    open: u64,
    /// Answered to the end.
    whole: u64,
    /// The client has left before that.
    left: u64,
}

/// A request from its head to its end. Dropped before it was `answered`, it counts as left.
#[derive(Debug)]
pub(super) struct Open {
    counts: Counts,
    is_answered: bool,
}

impl Counts {
    /// A request has begun.
    pub(super) fn begin(&self) -> Open {
        self.0.borrow_mut().open += 1;
        Open { counts: self.clone(), is_answered: false }
    }

    /// As JSON.
    pub(super) fn json(&self) -> String {
        serde_json::to_string(&*self.0.borrow()).unwrap_or_default()
    }
}

impl Open {
    /// The whole answer is sent.
    pub(super) fn answered(mut self) {
        self.is_answered = true;
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut figures = self.counts.0.borrow_mut();
        figures.open -= 1;
        *(if self.is_answered { &mut figures.whole } else { &mut figures.left }) += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_has_left_and_what_is_answered_has_not() {
        let counts = Counts::default();
        let (first, second, _third) = (counts.begin(), counts.begin(), counts.begin());
        first.answered();
        drop(second);
        assert_eq!(counts.json(), r#"{"open":1,"whole":1,"left":1}"#);
    }
}
