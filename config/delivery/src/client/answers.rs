//! Which responses of a stream were answered, and how fast refusals may follow each other.
//!
//! A control plane that answers each NACK with the same content again would keep both ends busy for nothing. It waits for our
//! answer before it sends more, so a refusal that is held back slows it down: the first few in a row go out at once, the others
//! after a wait that doubles.

use std::collections::VecDeque;

use penstock_model::units::Moment;

use crate::backoff;
use crate::proto::envoy::service::discovery::v3::DeltaDiscoveryRequest;

/// Refusals in a row that are sent at once: as many bad changes, one after the other, are a person at work and no loop.
const AT_ONCE: u32 = 3;

/// Nonces that are remembered. A control plane has one response of a type under way, so a copy can be no later than the next.
const NONCES_MAX: usize = 16;

/// Answers to the responses of one type, on one stream.
#[derive(Clone, Debug, Default)]
pub(super) struct Answers {
    nonces: VecDeque<String>,
    refusals_in_row: u32,
    held_back: Option<(Moment, Box<DeltaDiscoveryRequest>)>,
}

impl Answers {
    /// Notes that this response has arrived.
    pub(super) fn note(&mut self, nonce: &str) {
        if self.nonces.len() == NONCES_MAX {
            self.nonces.pop_front();
        }
        self.nonces.push_back(nonce.to_owned());
    }

    /// Whether this response has arrived before.
    pub(super) fn has(&self, nonce: &str) -> bool {
        self.nonces.iter().any(|known| known == nonce)
    }

    /// The requests to send now that a response was refused with `nack`; one that was held back goes first.
    pub(super) fn refuse(
        &mut self,
        nack: Box<DeltaDiscoveryRequest>,
        now: Moment,
    ) -> [Option<Box<DeltaDiscoveryRequest>>; 2] {
        let earlier = self.release();
        self.refusals_in_row = self.refusals_in_row.saturating_add(1);
        match self.refusals_in_row.checked_sub(AT_ONCE) {
            None | Some(0) => [earlier, Some(nack)],
            Some(beyond) => {
                self.held_back = Some((now + backoff::wait(beyond, 1.0), nack));
                [earlier, None]
            }
        }
    }

    /// A response was accepted: what was held back goes before its answer.
    pub(super) fn accept(&mut self) -> Option<Box<DeltaDiscoveryRequest>> {
        self.refusals_in_row = 0;
        self.release()
    }

    /// What was held back, if its time has come.
    pub(super) fn due(&mut self, now: Moment) -> Option<Box<DeltaDiscoveryRequest>> {
        if self.next()? <= now { self.release() } else { None }
    }

    /// When something that is held back is due.
    pub(super) fn next(&self) -> Option<Moment> {
        self.held_back.as_ref().map(|(at, _)| *at)
    }

    fn release(&mut self) -> Option<Box<DeltaDiscoveryRequest>> {
        self.held_back.take().map(|(_, request)| request)
    }
}
