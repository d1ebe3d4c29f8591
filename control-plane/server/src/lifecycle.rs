//! Signals: what ends the process, and what makes it read its documents again.

use std::io;

use tokio::signal::unix::{SignalKind, signal};

use crate::source::Signal;
use crate::tasks::Tasks;

/// Hears SIGTERM and SIGINT from the call on; the future ends at the first.
///
/// # Errors
/// When the system does not let us hear them.
pub fn termination() -> io::Result<impl Future<Output = ()> + Send> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            biased;
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    })
}

/// Lets SIGHUP ring `changed`, until the stop signal.
pub(crate) fn reload_on_hangup(changed: Signal, tasks: &Tasks) -> io::Result<()> {
    let mut hangups = signal(SignalKind::hangup())?;
    let stop = tasks.clone();
    tasks.spawn("hangup", async move {
        loop {
            tokio::select! {
                biased;
                Some(()) = hangups.recv() => changed.ring(),
                () = stop.stopped() => return,
            }
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_hangup_rings() {
        let (tasks, (signal, changes)) = (Tasks::new(), Signal::new());
        reload_on_hangup(signal, &tasks).unwrap();
        let kill =
            std::process::Command::new("kill").args(["-HUP", &std::process::id().to_string()]).status();
        assert!(kill.unwrap().success());
        tokio::time::timeout(Duration::from_secs(60), changes.next()).await.unwrap();
        tasks.stop();
        assert_eq!(tasks.drained(Duration::from_secs(60)).await, 0);
    }
}
