//! Which prompts are in the step under way, as far as a sidecar can tell: a replay.
//!
//! ```text
//!   on its way ── front end ──► waiting ── a step starts ──► in the step ── it ends ──► computed
//! ```
//!
//! Engines take prompts in the order of their arrival and compute as many tokens in a step as it may hold. The first [`KEPT`] prompts
//! are known one by one, those behind them as a sum, so memory does not grow with their number.

use penstock_model::units::Moment;

use super::Work;

/// Prompts that are known one by one.
const KEPT: usize = 32;

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    left: Work,
    /// When it has reached the scheduler.
    ready: Moment,
}

/// Prompts that are not computed to their end, oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Queue {
    entries: [Entry; KEPT],
    count: usize,
    in_step: Work,
}

impl Queue {
    /// A prompt came that will have reached the scheduler at `ready`.
    pub(super) fn push(&mut self, work: Work, ready: Moment) {
        if self.count == KEPT {
            let last = &mut self.entries[KEPT - 1];
            *last = Entry { left: last.left.plus(work), ready };
            return;
        }
        self.entries[self.count] = Entry { left: work, ready };
        self.count += 1;
    }

    /// The step under way ended.
    pub(super) fn end_step(&mut self) {
        self.in_step = Work::default();
    }

    /// A step starts at `now`, with room for so many prompt tokens.
    pub(super) fn start_step(&mut self, now: Moment, room: f64) {
        self.in_step = Work::default();
        let mut room = room;
        while room > 0.0 && self.count > 0 && self.entries[0].ready <= now {
            let taken = self.take(room);
            self.in_step = self.in_step.plus(taken);
            room -= taken.tokens;
        }
    }

    /// The prompts whose first token is awaited are so much in all. What is more than that was computed, and stood at the head.
    pub(super) fn bound(&mut self, all: Work) {
        if all.tokens <= 0.0 {
            (self.count, self.in_step) = (0, Work::default());
            return;
        }
        let mut surplus = self.in_step.tokens + self.open().tokens - all.tokens;
        let of_step = self.in_step.tokens.min(surplus.max(0.0));
        self.in_step =
            self.in_step.minus(self.in_step.times(of_step / self.in_step.tokens.max(f64::MIN_POSITIVE)));
        surplus -= of_step;
        while surplus > 0.5 && self.count > 0 {
            surplus -= self.take(surplus).tokens;
        }
    }

    /// What no step has taken yet.
    pub(super) fn open(&self) -> Work {
        self.entries[..self.count].iter().fold(Work::default(), |sum, entry| sum.plus(entry.left))
    }

    /// What the step under way computes.
    pub(super) fn in_step(&self) -> Work {
        self.in_step
    }

    /// When the oldest one can be taken.
    pub(super) fn ready(&self) -> Option<Moment> {
        self.entries[..self.count].first().map(|entry| entry.ready)
    }

    /// Takes at most so many tokens of the oldest prompt; there must be one.
    fn take(&mut self, tokens: f64) -> Work {
        let left = self.entries[0].left;
        if tokens >= left.tokens {
            self.entries.copy_within(1..self.count, 0);
            self.count -= 1;
            return left;
        }
        // Of one prompt the later tokens have more before them; `done` is below 0 where the entry is a sum of several.
        let done = (left.attention_doubled / left.tokens - left.tokens) / 2.0;
        let each = if done >= 0.0 { 2.0 * done + tokens } else { left.attention_doubled / left.tokens };
        let taken = Work { tokens, attention_doubled: tokens * each };
        self.entries[0].left = left.minus(taken);
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_take_the_oldest_first_and_only_what_has_arrived() {
        let mut queue = Queue::default();
        queue.push(Work::of(100, 0), Moment(5));
        queue.push(Work::of(100, 60), Moment(7));
        queue.start_step(Moment(4), 1_000.0);
        assert_eq!((queue.in_step().tokens, queue.open().tokens), (0.0, 140.0));
        queue.start_step(Moment(5), 1_000.0);
        assert_eq!((queue.in_step().tokens, queue.open().tokens), (100.0, 40.0));
        queue.start_step(Moment(7), 30.0);
        assert_eq!((queue.in_step().tokens, queue.open().tokens), (30.0, 10.0));
    }

    #[test]
    fn the_pieces_of_a_prompt_attend_to_what_came_before_them() {
        let mut queue = Queue::default();
        queue.push(Work::of(300, 0), Moment(0));
        let mut pieces = Vec::new();
        for _ in 0..3 {
            queue.start_step(Moment(0), 100.0);
            pieces.push(queue.in_step().attention_doubled);
        }
        assert_eq!(pieces, [10_000.0, 30_000.0, 50_000.0]);
    }

    #[test]
    fn with_no_prompt_expected_nothing_is_left_however_little_it_was() {
        let mut queue = Queue::default();
        (0..3).for_each(|_| queue.push(Work::of(1, 0), Moment(0)));
        queue.start_step(Moment(0), 2.5);
        queue.bound(Work { tokens: 0.3, attention_doubled: 0.3 });
        queue.bound(Work::default());
        assert_eq!((queue.in_step(), queue.open()), (Work::default(), Work::default()));
    }

    #[test]
    fn memory_is_bounded_and_nothing_is_lost() {
        let mut queue = Queue::default();
        (0..1_000).for_each(|_| queue.push(Work::of(10, 0), Moment(0)));
        assert_eq!((queue.count, queue.open().tokens), (KEPT, 10_000.0));
        queue.start_step(Moment(0), 5_000.0);
        assert_eq!((queue.in_step().tokens, queue.open().tokens), (5_000.0, 5_000.0));
    }
}
