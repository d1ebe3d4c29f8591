//! Snapshots arrive: from the control plane, from files, or, until one of them has spoken, from disk.

mod disk;
mod files;
mod stream;

use std::sync::Arc;

use parking_lot::Mutex;
use penstock_model::settings::ProxySettings;
use penstock_model::snapshot::{Parts, Snapshot};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::control::Control;
use crate::identity::Identity;
use crate::live::{Live, Source};
use crate::network::Network;
use crate::settings::Settings;
use crate::tasks::Tasks;
use crate::telemetry::Telemetry;

/// What receiving a snapshot touches.
#[derive(Clone)]
pub struct Sync {
    settings: Arc<Settings>,
    live: Arc<Live>,
    telemetry: Arc<Telemetry>,
    status: Arc<Mutex<Status>>,
    newest: watch::Sender<Option<Arc<Parts>>>,
}

/// How receiving stands, for `/config/sync`.
#[derive(Debug, Default)]
pub struct Status {
    connected: bool,
    types: Vec<Value>,
    last_error: Option<String>,
    cache_error: Option<String>,
}

impl Sync {
    /// Uses the last good snapshot from disk, if there is one.
    pub fn new(settings: &Arc<Settings>, live: &Arc<Live>, telemetry: &Arc<Telemetry>) -> Self {
        let sync = Self {
            settings: Arc::clone(settings),
            live: Arc::clone(live),
            telemetry: Arc::clone(telemetry),
            status: Arc::default(),
            newest: watch::Sender::new(None),
        };
        let parts = if settings.load().documents.is_some() { None } else { sync.load() };
        if let Some(parts) = parts {
            let snapshot = Snapshot::assemble(parts.clone());
            tracing::info!(version = %snapshot.version(), "the last good snapshot is used until the control plane answers");
            sync.live.publish(snapshot, Source::Cache);
            sync.telemetry.metrics.config_valid.set(1);
            sync.newest.send_replace(Some(Arc::new(parts)));
        }
        sync
    }

    fn load(&self) -> Option<Parts> {
        let count = |result| self.telemetry.metrics.config_cache.with_label_values(&["load", result]).inc();
        match disk::load(&self.settings.load()) {
            Ok(parts) => {
                count(if parts.is_some() { "success" } else { "absent" });
                parts
            }
            Err(error) => {
                count("failure");
                tracing::warn!(error, "the last good snapshot is refused: the sidecar starts without it");
                self.status.lock().cache_error = Some(error);
                None
            }
        }
    }

    /// Starts receiving, from whom the settings name at each time.
    pub fn start(self, network: Arc<dyn Network>, identity: Arc<Identity>, tasks: &Tasks) {
        tasks.spawn("snapshot on disk", disk::keep(self.clone()));
        tasks.spawn("snapshots", async move {
            let settings = Arc::clone(&self.settings);
            let source = |settings: &ProxySettings| {
                (settings.documents.clone(), settings.control_plane.clone(), settings.certificates.is_some())
            };
            let receive = |settings: Arc<ProxySettings>| {
                self.clone().receive(settings, Arc::clone(&network), Arc::clone(&identity))
            };
            settings.each(source, receive).await;
        });
    }

    async fn receive(self, settings: Arc<ProxySettings>, network: Arc<dyn Network>, identity: Arc<Identity>) {
        // Whoever was listened to before may have been dropped in the middle of a word.
        self.disconnected();
        self.status.lock().types.clear();
        if let Some(documents) = settings.documents.clone() {
            files::run(self, documents).await;
        } else if let Some(control) = Control::new(&settings, &identity, network) {
            let held = self.newest.borrow().as_deref().cloned().unwrap_or_default();
            stream::run(self, settings, held, control, identity).await;
        }
    }

    fn disconnected(&self) {
        self.status.lock().connected = false;
        self.telemetry.metrics.xds_connected.set(0);
    }

    /// Who this sidecar is for its control plane.
    pub fn node_id(settings: &ProxySettings) -> String {
        stream::node(settings).id
    }

    /// What is missing, for people; nothing once there is a snapshot.
    pub fn missing(&self) -> Option<String> {
        if self.live.source() != Source::None {
            return None;
        }
        let what = "no snapshot has been received yet";
        Some(match &self.status.lock().last_error {
            None => what.to_owned(),
            Some(why) => format!("{what}: {why}"),
        })
    }

    /// How it stands, as JSON.
    pub fn status(&self) -> Value {
        let status = self.status.lock();
        json!({
            "apiVersion": "penstock.dev/v1alpha1",
            "kind": "SyncStatus",
            "source": self.live.source().as_str(),
            "version": self.live.load().snapshot.version(),
            "connected": status.connected,
            "types": status.types,
            "lastError": status.last_error,
            "cacheError": status.cache_error,
        })
    }

    fn publish(&self, parts: &Parts, source: Source) {
        let snapshot = Snapshot::assemble(parts.clone());
        tracing::info!(version = %snapshot.version(), source = source.as_str(), "snapshot in use");
        self.live.publish(snapshot, source);
        self.telemetry.metrics.config_valid.set(1);
        let now_s = i64::try_from(crate::clock::unix_time().as_secs()).unwrap_or(i64::MAX);
        self.telemetry.metrics.xds_last_update.set(now_s);
        self.newest.send_replace(Some(Arc::new(parts.clone())));
    }

    fn kept(&self, result: &str, error: Option<String>) {
        self.telemetry.metrics.config_cache.with_label_values(&["store", result]).inc();
        if let Some(error) = &error {
            tracing::warn!(error, "the snapshot is not kept on disk");
        }
        self.status.lock().cache_error = error;
    }

    fn failed(&self, error: String) {
        self.status.lock().last_error = Some(error);
    }
}
