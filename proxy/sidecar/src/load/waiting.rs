//! A request at the door of a model server, and the task that waits for what becomes of it.

use std::sync::Arc;
use std::time::Duration;

use penstock_model::units::Moment;
use penstock_policy::gate::{Patience, Promise};
use tokio::sync::oneshot;
use tokio::time::sleep_until;

use super::engines::{Engine, Refused, Stay};
use super::wire::Demand;
use crate::clock;

/// Milliseconds that somebody waits at most, whatever its patience.
const WAIT_MAX_MS: f64 = 1e9;

/// The end at the door.
#[derive(Debug)]
pub struct Asking {
    /// What it demands.
    pub demand: Demand,
    /// What its caller was promised.
    pub promise: Option<Promise>,
    told: oneshot::Sender<Result<Stay, Refused>>,
}

/// The end that waits.
#[derive(Debug)]
pub struct Waiting {
    engine: Arc<Engine>,
    until: Moment,
    refused: Refused,
    told: oneshot::Receiver<Result<Stay, Refused>>,
}

/// Both ends of a request that waits from `now` on; `refused` is what it would have been told without waiting.
pub fn begin(
    engine: &Arc<Engine>,
    demand: Demand,
    promise: Option<Promise>,
    patience: Patience,
    refused: Refused,
    now: Moment,
) -> (Asking, Waiting) {
    let (sender, receiver) = oneshot::channel();
    let span = Duration::from_secs_f64(patience.first_token_ms.clamp(0.0, WAIT_MAX_MS) * 1e-3);
    let waiting = Waiting { engine: Arc::clone(engine), until: now + span, refused, told: receiver };
    (Asking { demand, promise, told: sender }, waiting)
}

impl Asking {
    /// Nobody waits for it any more.
    pub fn is_left(&self) -> bool {
        self.told.is_closed()
    }

    /// What became of it. If its caller has left at this moment, so does the stay.
    pub fn tell(self, passed: Result<Stay, Refused>) {
        drop(self.told.send(passed));
    }
}

impl Waiting {
    /// What becomes of it: when a change at the server lets it in, or at the end of its patience.
    ///
    /// # Errors
    /// When it is not let in.
    pub async fn end(mut self) -> Result<Stay, Refused> {
        tokio::select! {
            biased;
            passed = &mut self.told => return passed.unwrap_or(Err(self.refused)),
            () = sleep_until(clock::instant(self.until)) => {}
        }
        self.engine.reconsider(clock::now());
        self.told.await.unwrap_or(Err(self.refused))
    }
}
