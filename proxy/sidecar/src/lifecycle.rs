//! Ready, drain, stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::identity::Identity;
use crate::live::Live;
use crate::settings::Settings;
use crate::sync::Sync;
use crate::tasks::Tasks;

/// Why the sidecar is not ready, or that it is.
#[derive(Clone)]
pub struct Readiness {
    sync: Sync,
    identity: Arc<Identity>,
    settings: Arc<Settings>,
    live: Arc<Live>,
    /// It has been ready once: a name that comes later does not take that away.
    began: Arc<AtomicBool>,
    stop: watch::Receiver<bool>,
}

impl Readiness {
    /// Judges by these.
    pub fn new(
        sync: Sync,
        identity: Arc<Identity>,
        settings: Arc<Settings>,
        live: Arc<Live>,
        stop: watch::Receiver<bool>,
    ) -> Self {
        Self { sync, identity, settings, live, began: Arc::default(), stop }
    }

    /// What is missing, for people; empty when ready.
    pub fn missing(&self) -> Vec<String> {
        let mut missing: Vec<String> = Vec::new();
        if *self.stop.borrow() {
            missing.push("the sidecar is shutting down".to_owned());
        }
        missing.extend(self.sync.missing());
        if self.settings.load().needs_certificate() {
            missing.extend(self.identity.missing());
        }
        if !self.began.load(Ordering::Relaxed) {
            missing.extend(self.names());
            self.began.store(missing.is_empty(), Ordering::Relaxed);
        }
        missing
    }

    /// Names of endpoints that nobody has answered for yet, nor failed to.
    fn names(&self) -> Vec<String> {
        if self.settings.load().outbound.is_none() {
            return Vec::new();
        }
        let fleet = self.live.load();
        let hosts = fleet.backends().flat_map(|backend| &backend.hosts);
        let unknown = hosts.filter(|(_, known)| known.is_none());
        unknown.map(|(host, _)| format!("{host} is being looked up")).collect()
    }
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Every connection ended by itself.
    All,
    /// This many were cut at the deadline.
    Cut(usize),
}

/// Time for the last word to streams that ran at the deadline.
const LAST_WORD_MAX: Duration = Duration::from_secs(1);

/// No new work, streams finish. At the deadline `over` ends what still runs with an error that its caller can read; whoever does not even
/// take that is cut.
pub async fn drain(connections: &Tasks, deadline: Duration, over: &watch::Sender<bool>) -> Drained {
    if tokio::time::timeout(deadline, connections.all_ended()).await.is_ok() {
        return Drained::All;
    }
    let left = connections.running();
    over.send_replace(true);
    if tokio::time::timeout(LAST_WORD_MAX, connections.all_ended()).await.is_err() {
        connections.cut();
        connections.all_ended().await;
    }
    Drained::Cut(left)
}

/// Waits for SIGTERM or SIGINT.
///
/// # Errors
/// When the process may not handle signals.
pub async fn stop_signal() -> std::io::Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}
