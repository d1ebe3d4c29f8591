//! Who this sidecar is, and whom it believes.

pub mod rotate;
pub mod tls;
pub mod verify;

use std::io;
use std::sync::Arc;

use arc_swap::ArcSwapOption;

use self::tls::{Cell, Material};
use self::verify::Refusal;
use crate::clock;

/// The identity of the process, swapped by rotation.
#[derive(Debug, Default)]
pub struct Identity {
    cell: Cell,
}

impl Identity {
    /// No certificate yet.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { cell: Arc::new(ArcSwapOption::empty()) })
    }

    /// The cell that TLS configurations read.
    pub fn cell(&self) -> &Cell {
        &self.cell
    }

    /// Whether there is a certificate that has not expired.
    pub fn is_ready(&self) -> bool {
        self.cell.load().as_ref().is_some_and(|material| clock::unix_time() < material.not_after)
    }

    /// Uses `material` for every handshake from now on.
    pub fn install(&self, material: Material) {
        self.cell.store(Some(Arc::new(material)));
    }
}

/// Our own refusal inside a failed TLS handshake.
pub fn refusal_of(error: &io::Error) -> Option<Refusal> {
    error.get_ref()?.downcast_ref::<rustls::Error>().and_then(Refusal::of)
}
