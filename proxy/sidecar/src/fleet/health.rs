//! What probes have found of one endpoint: read by every pick, written by its prober.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use penstock_model::snapshot::HealthCheck;
use penstock_policy::health::{Belief, Health, Seen};

/// See the module.
#[derive(Debug, Default)]
pub struct Probed {
    /// So that a pick takes no lock.
    is_ready: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    health: Health,
    note: String,
}

impl Probed {
    /// What is believed.
    pub fn belief(&self) -> Belief {
        if self.is_ready.load(Ordering::Relaxed) { Belief::Ready } else { self.state.lock().health.belief() }
    }

    /// What the last probe saw, to follow the endpoint's address.
    pub fn note(&self) -> String {
        let note = self.state.lock().note.clone();
        if note.is_empty() { "was not asked yet".to_owned() } else { note }
    }

    /// Takes in what a probe saw; the new belief, if it has changed.
    pub(super) fn observe(&self, seen: Seen, note: &str, check: &HealthCheck) -> Option<Belief> {
        let mut state = self.state.lock();
        note.clone_into(&mut state.note);
        let has_changed = state.health.observe(seen, check);
        let belief = state.health.belief();
        self.is_ready.store(belief == Belief::Ready, Ordering::Relaxed);
        has_changed.then_some(belief)
    }

    /// It has served until now, and is probed from now on.
    pub(super) fn trust(&self) {
        self.state.lock().health = Health::trusted();
        self.is_ready.store(true, Ordering::Relaxed);
    }
}
