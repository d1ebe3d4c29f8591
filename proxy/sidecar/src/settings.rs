//! The settings that are in force, and how a change of their file becomes them.
//!
//! ```text
//!   file ─► compile ─► what a running process can take up ─► open what is needed ─► in force ─► each part's own follower
//!             │                    │                                │
//!             ╰─ refused, as a whole: what was in force stays ──────╯   listeners and the workload: kept and told, until a restart
//! ```
//!
//! Whoever needs a value once loads it when it is needed; whoever lives by a part of them is a task in [`Settings::each`].

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use penstock_model::settings::{AccessLog, Kept, ProxySettings};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::control::report;
use crate::log::Log;
use crate::tasks::Tasks;
use crate::telemetry::Telemetry;
use crate::telemetry::access_log::AccessLogWriter;
use crate::upstream::upload::BodyBudget;
use crate::watch::Changes;

/// The settings of the process.
#[derive(Debug)]
pub struct Settings {
    in_force: ArcSwap<ProxySettings>,
    changes: watch::Sender<Arc<ProxySettings>>,
    standing: Mutex<Standing>,
}

/// How the file stands to what is in force.
#[derive(Debug, Default)]
struct Standing {
    kept: Vec<Kept>,
    problem: Option<String>,
}

impl Settings {
    /// As read at the start.
    pub fn new(settings: ProxySettings) -> Arc<Self> {
        let settings = Arc::new(settings);
        Arc::new(Self {
            in_force: ArcSwap::new(Arc::clone(&settings)),
            changes: watch::Sender::new(settings),
            standing: Mutex::default(),
        })
    }

    /// As of now.
    pub fn load(&self) -> Guard<Arc<ProxySettings>> {
        self.in_force.load()
    }

    /// Tells of every change.
    pub fn watch(&self) -> watch::Receiver<Arc<ProxySettings>> {
        self.changes.subscribe()
    }

    /// Runs `work` by the settings as they are, and anew whenever `part` of them is another. The work of before is dropped first.
    /// Ends only by being dropped.
    pub async fn each<T: PartialEq, W: Future<Output = ()>>(
        &self,
        part: impl Fn(&ProxySettings) -> T,
        mut work: impl FnMut(Arc<ProxySettings>) -> W,
    ) {
        let mut changes = self.watch();
        loop {
            let settings = Arc::clone(&changes.borrow_and_update());
            let mine = part(&settings);
            let other = changes.wait_for(|settings| part(settings) != mine);
            let working = async {
                work(settings).await;
                std::future::pending::<()>().await;
            };
            tokio::select! {
                biased;
                // Fails when the sender is gone, which is this value.
                _ = other => {}
                () = working => {}
            }
        }
    }

    /// How it stands, as JSON. Files are named, never shown.
    pub fn status(&self) -> Value {
        let settings = self.load();
        let standing = self.standing.lock();
        let limits = &settings.limits;
        json!({
            "apiVersion": "penstock.dev/v1alpha1",
            "kind": "Settings",
            "inForce": {
                "workload": settings.workload.to_string(),
                "identity": settings.identity.to_string(),
                "certificates": settings.certificates.as_ref().map(|files| &files.chain),
                "controlPlane": settings.control_plane.as_ref().map(|plane| &plane.address),
                "documents": settings.documents,
                "stateDir": settings.state_dir,
                "outbound": settings.outbound.as_ref().map(|outbound| outbound.listen),
                "inbound": settings.inbound.as_ref().map(|inbound| inbound.listen),
                "applications": settings.inbound.iter().flat_map(|inbound| &inbound.applications)
                    .map(|application| application.endpoint).collect::<Vec<_>>(),
                "admin": settings.admin,
                "limits": {
                    "connectionsMax": limits.connections_max,
                    "streamsPerConnectionMax": limits.streams_per_connection_max,
                    "headerBytesMax": limits.header_bytes_max,
                    "headerReadTimeoutMs": limits.header_read_timeout.as_millis(),
                    "bodyHeldTotalMax": limits.body_held_bytes_total_max,
                },
                "drainDeadlineMs": settings.drain_deadline.as_millis(),
                "accessLog": match &settings.access_log {
                    AccessLog::Off => json!("off"),
                    AccessLog::Stdout => json!("/dev/stdout"),
                    AccessLog::File(path) => json!(path),
                },
                "zone": settings.zone,
                "logLevel": settings.log_level,
            },
            "restartNeeded": standing.kept.iter().map(|kept| json!({
                "field": kept.field, "inForce": kept.in_force, "written": kept.written,
            })).collect::<Vec<_>>(),
            "lastError": standing.problem,
        })
    }

    fn put(&self, next: ProxySettings, kept: Vec<Kept>) {
        let next = Arc::new(next);
        *self.standing.lock() = Standing { kept, problem: None };
        self.in_force.store(Arc::clone(&next));
        self.changes.send_replace(next);
    }
}

/// Whether the file says anything new.
enum Taken {
    Something,
    Nothing,
}

/// Follows the file.
pub(crate) struct Reload {
    pub(crate) file: PathBuf,
    pub(crate) settings: Arc<Settings>,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) body_budget: Arc<BodyBudget>,
    pub(crate) log: Log,
}

impl Reload {
    /// Takes up every change, for as long as it is polled.
    pub(crate) async fn run(self) {
        let mut changes = Changes::of(&[&self.file]);
        let mut seen = None;
        loop {
            let text = std::fs::read_to_string(&self.file).map_err(|error| error.to_string());
            if seen.as_ref() != Some(&text) {
                let outcome = self.take_up().await;
                // What a start has read is no change.
                if seen.is_some() || !matches!(outcome, Ok(Taken::Nothing)) {
                    self.tell(&outcome);
                }
                seen = Some(text);
            }
            changes.next().await;
        }
    }

    async fn take_up(&self) -> anyhow::Result<Taken> {
        let written = crate::app::settings(&self.file)?;
        let now = Arc::clone(&self.settings.load());
        let (next, kept) = now.adopt(written);
        if next == *now && kept.is_empty() {
            self.settings.put(next, kept);
            return Ok(Taken::Nothing);
        }
        let has_moved = next.access_log != now.access_log;
        let access_log = has_moved.then(|| AccessLogWriter::open(&next.access_log)).transpose()?;
        if next.log_level != now.log_level {
            self.log.set(next.log_level.as_deref())?;
        }
        if let Some(access_log) = access_log {
            let before = self.telemetry.log_to(access_log);
            // It waits for the disk.
            Tasks::block(move || before.close()).await;
        }
        self.body_budget.resize(next.limits.body_held_bytes_total_max);
        self.settings.put(next, kept);
        Ok(Taken::Something)
    }

    fn tell(&self, outcome: &anyhow::Result<Taken>) {
        let metrics = &self.telemetry.metrics;
        let file = self.file.display();
        let mut standing = self.settings.standing.lock();
        match outcome {
            Ok(_) => {
                metrics.settings_reloads.with_label_values(&["success"]).inc();
                tracing::info!(%file, "the settings were read again and are in force");
                for Kept { field, in_force, written } in &standing.kept {
                    tracing::warn!(
                        field,
                        in_force,
                        written,
                        "this change needs a restart; what was in force stays"
                    );
                }
            }
            Err(error) => {
                metrics.settings_reloads.with_label_values(&["failure"]).inc();
                let error = report(error);
                tracing::warn!(%file, error, "the settings are refused; all of those in force stay");
                standing.problem = Some(error);
            }
        }
        metrics.settings_restart_needed.set(i64::try_from(standing.kept.len()).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use penstock_model::Source;

    use super::*;

    fn settings(more: &str) -> ProxySettings {
        let text = format!(
            "apiVersion: penstock.dev/v1alpha1\nkind: ProxyConfig\nmetadata: {{name: web}}\nspec:\n  \
             documents: routes\n  outbound: {{listen: '127.0.0.1:0'}}\n  {more}\n"
        );
        let source = Source { file: "proxy.yaml".to_owned(), text };
        penstock_model::compile_proxy(&[source], Path::new("/etc")).unwrap().0
    }

    #[tokio::test]
    async fn work_begins_anew_when_its_part_of_the_settings_is_another_and_then_alone() {
        let settings_of = |deadline: &str| settings(&format!("drain: {{deadline: {deadline}}}"));
        let cell = Settings::new(settings_of("1s"));
        let begun = Mutex::new(Vec::new());
        let work = cell.each(
            |settings| settings.drain_deadline,
            |settings| {
                begun.lock().push(settings.drain_deadline.as_secs());
                // One that ends is not begun again for that.
                std::future::ready(())
            },
        );
        let changes = async {
            for (next, expected) in [
                (settings_of("1s"), vec![1]),
                (ProxySettings { log_level: Some("debug".to_owned()), ..settings_of("1s") }, vec![1]),
                (settings_of("2s"), vec![1, 2]),
                (settings_of("1s"), vec![1, 2, 1]),
            ] {
                cell.put(next, Vec::new());
                // Both futures are one task: it is polled once between two looks.
                tokio::task::yield_now().await;
                tokio::task::yield_now().await;
                assert_eq!(*begun.lock(), expected);
            }
        };
        tokio::select! {
            biased;
            () = work => panic!("it ended"),
            () = changes => {}
        }
    }

    #[test]
    fn the_page_says_what_is_in_force_and_what_waits() {
        let cell = Settings::new(settings("logLevel: debug"));
        assert_eq!(cell.status()["inForce"]["logLevel"], "debug");
        assert_eq!(cell.status()["restartNeeded"], json!([]));
        let (next, kept) = cell.load().adopt(settings("admin: {listen: '127.0.0.1:1'}"));
        cell.put(next, kept);
        let waits = json!([
            {"field": "spec.admin.listen", "inForce": "0.0.0.0:4791", "written": "127.0.0.1:1"},
        ]);
        assert_eq!(cell.status()["restartNeeded"], waits);
        assert_eq!(cell.status()["inForce"]["admin"], "0.0.0.0:4791");
        assert_eq!(cell.status()["inForce"]["logLevel"], Value::Null);
    }
}
