//! Stretches of time in which prompts were computed, and what they cost beyond the tokens that were generated beside them.
//!
//! ```text
//!   Σ (step − step without prompts) = token·(U + ΣR) − token·free·m + attention·S
//! ```
//!
//! over the `m` steps with prompts in them. Which tokens were computed in which step need not be known, only their sum. A request's
//! true size comes with the last event of its answer (`usage`), so a stretch is judged when all its requests have ended; of as many
//! as [`KEPT`] the judgement can be awaited, then the oldest is judged by the estimates.

use super::Work;

/// Stretches that may wait for the ends of their answers.
pub(super) const KEPT: usize = 64;

/// One stretch.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Period {
    pub(super) number: u32,
    /// Prompts computed in it whose answers have not ended.
    pub(super) outstanding: u32,
    pub(super) prompts: u32,
    pub(super) is_unseen: bool,
    /// Steps before which nothing should have been left, and something was; and those of them in which nothing was computed.
    pub(super) late_steps: u32,
    pub(super) idle_steps: u32,
    /// Steps, of all, that took so long that prompts must have been in them.
    pub(super) busy_steps: u32,
    pub(super) is_closed: bool,
    /// Somebody left, or was missed: the sums are not true.
    pub(super) is_tainted: bool,
    pub(super) work: Work,
    /// Steps with prompts in them, and the sequences that generated beside, summed.
    pub(super) steps: f64,
    pub(super) sequences: f64,
    /// Milliseconds of these steps, and those of them that the sequences alone would have taken.
    pub(super) took_ms: f64,
    pub(super) beside_ms: f64,
}

impl Period {
    /// Whether its sums say something.
    pub(super) fn is_true(&self) -> bool {
        !self.is_tainted && self.steps > 0.0
    }

    /// Thousands of tokens, millions of doubled pairs, and steps in which the free tokens were saved.
    pub(super) fn regressors(&self) -> [f64; 3] {
        [(self.work.tokens + self.sequences) * 1e-3, self.work.attention_doubled * 1e-6, -self.steps]
    }
}

/// The open stretch and those that are awaited.
#[derive(Clone, Debug)]
pub(super) struct Periods {
    ring: [Period; KEPT],
    newest: u32,
}

impl Periods {
    pub(super) fn new() -> Self {
        Self { ring: [Period::default(); KEPT], newest: 0 }
    }

    pub(super) fn open(&mut self) -> &mut Period {
        &mut self.ring[self.newest as usize % KEPT]
    }

    /// Closes the open stretch and opens one that begins with `carried` computed already. Returns the one that must now be judged
    /// for want of room, and the one just closed if nothing of it is awaited.
    pub(super) fn turn(&mut self, carried: Work) -> [Option<Period>; 2] {
        let open = self.open();
        open.is_closed = true;
        let ended = (open.outstanding == 0).then_some(*open);
        if ended.is_some() {
            *open = Period { number: open.number, ..Period::default() };
        }
        self.newest = self.newest.wrapping_add(1);
        let number = self.newest;
        let slot = self.open();
        let oldest = slot.is_closed.then_some(*slot);
        let debt = Work { tokens: -carried.tokens, attention_doubled: -carried.attention_doubled };
        *slot = Period { number, work: debt, ..Period::default() };
        [oldest, ended]
    }

    /// Everything takes `factor` times as long from now on; what was measured before is counted as if it had done so.
    pub(super) fn rescale(&mut self, factor: f64) {
        for period in &mut self.ring {
            period.took_ms *= factor;
            period.beside_ms *= factor;
        }
    }

    /// An answer of stretch `number` ended, its prompt differing by `correction` from the estimate. The stretch, if it is complete.
    pub(super) fn ended(&mut self, number: u32, correction: Work) -> Option<Period> {
        let slot = &mut self.ring[number as usize % KEPT];
        if slot.number != number || slot.outstanding == 0 {
            return None;
        }
        slot.work = slot.work.plus(correction);
        slot.outstanding -= 1;
        let ended = (slot.is_closed && slot.outstanding == 0).then_some(*slot);
        if ended.is_some() {
            *slot = Period { number, ..Period::default() };
        }
        ended
    }
}
