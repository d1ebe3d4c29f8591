//! Inbound: the calls that a server works on, each as long as its request is there.

use std::sync::Arc;

use parking_lot::Mutex;
use penstock_model::units::Moment;
use penstock_policy::ledger::{self, CallEntry};
use penstock_policy::pick::cost::CallReport;
use penstock_policy::speed::{Call, Unit};

use super::engines::Engine;

/// The calls of one server.
#[derive(Debug, Default)]
pub struct Calls(Mutex<ledger::Calls>);

/// A call's place in the account of its server; it leaves with this.
#[derive(Debug)]
pub struct CallStay {
    engine: Arc<Engine>,
    unit: Unit,
    entry: Option<CallEntry>,
}

/// Whether an answer is one from which something can be learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    /// What was asked for has been computed.
    Computed,
    /// It has failed.
    Failed,
}

impl Calls {
    /// How they stand.
    pub fn report(&self, now: Moment) -> [Option<CallReport>; Unit::ALL.len()] {
        self.0.lock().report(now)
    }

    /// Relative errors of what is known of their speeds.
    pub fn errors(&self) -> Vec<(Unit, f64)> {
        self.0.lock().errors().collect()
    }
}

impl CallStay {
    /// A call is sent to the server. Nobody promises anything of calls, so all come in.
    pub fn begin(engine: &Arc<Engine>, call: Call, now: Moment) -> Self {
        let entry = engine.calls.0.lock().enter(call, now);
        engine.changed();
        Self { engine: Arc::clone(engine), unit: call.unit, entry: Some(entry) }
    }

    /// What it is counted in.
    pub fn unit(&self) -> Unit {
        self.unit
    }

    /// The server has done its work.
    pub fn answered(&mut self, how: Answered, now: Moment) {
        let Some(entry) = self.entry.take() else { return };
        let mut calls = self.engine.calls.0.lock();
        match how {
            Answered::Computed => calls.answered(entry, now),
            Answered::Failed => calls.left(entry),
        }
        drop(calls);
        self.engine.changed();
    }
}

impl Drop for CallStay {
    fn drop(&mut self) {
        if let Some(entry) = self.entry.take() {
            self.engine.calls.0.lock().left(entry);
            self.engine.changed();
        }
    }
}
