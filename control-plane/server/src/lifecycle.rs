//! Signals: what ends the process, and what makes it read its documents again.

use std::io;

use tokio::signal::unix::{SignalKind, signal};

use crate::source::Signal;
use crate::tasks::Tasks;

/// Returns at the first SIGTERM or SIGINT.
///
/// # Errors
/// When the system does not let us hear them.
pub async fn termination() -> io::Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    Ok(())
}

/// Lets SIGHUP ring `changed`, until the stop signal.
pub(crate) fn reload_on_hangup(changed: Signal, tasks: &Tasks) -> io::Result<()> {
    let mut hangups = signal(SignalKind::hangup())?;
    let stop = tasks.clone();
    tasks.spawn("hangup", async move {
        loop {
            tokio::select! {
                Some(()) = hangups.recv() => changed.ring(),
                () = stop.stopped() => return,
            }
        }
    });
    Ok(())
}
