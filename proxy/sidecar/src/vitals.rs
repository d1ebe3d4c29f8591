//! What of a sidecar is in use at this moment: all of it must be zero again when nobody asks for anything.

use std::net::SocketAddr;
use std::sync::Arc;

use penstock_policy::pick::cost::Told;
use serde_json::Value;

use crate::clock;
use crate::http::Shared;
use crate::identity::Identity;
use crate::live::Source;
use crate::load::engines::Engine;
use crate::scrape::Taken;
use crate::tasks::Tasks;
use crate::telemetry::why::Nothing;
use crate::upstream::pool::Pool;

/// Looks into a sidecar that runs, without a connection to it.
#[derive(Clone, Debug)]
pub struct Vitals {
    pub(crate) shared: Arc<Shared>,
    pub(crate) identity: Arc<Identity>,
    pub(crate) pool: Arc<Pool>,
    pub(crate) connections: Tasks,
    pub(crate) background: Tasks,
}

/// Numbers of one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InUse {
    /// Requests that have begun and not ended, in both directions.
    pub accounts: i64,
    /// Places taken at endpoints.
    pub tickets: u32,
    /// Places taken on shared connections.
    pub streams: u32,
    /// Bytes of request bodies held.
    pub held_bytes: u64,
}

impl Vitals {
    /// What requests hold.
    pub fn in_use(&self) -> InUse {
        let inflight = &self.shared.telemetry.metrics.inflight;
        let fleet = self.shared.live.load();
        InUse {
            accounts: ["outbound", "inbound"]
                .map(|way| inflight.with_label_values(&[way]).get())
                .iter()
                .sum(),
            tickets: fleet
                .backends()
                .flat_map(|backend| &backend.endpoints)
                .map(|endpoint| endpoint.in_flight())
                .sum(),
            streams: self.pool.streams(),
            held_bytes: self.shared.body_budget.held_bytes(),
        }
    }

    /// How the applications beside this sidecar stand, by the addresses under which callers know them.
    pub fn load(&self) -> Vec<(SocketAddr, Told)> {
        let told = |(address, engine): (SocketAddr, Arc<Engine>)| (address, engine.report(clock::now()));
        self.shared.engines.all().into_iter().map(told).collect()
    }

    /// What this sidecar believes of endpoints, as far as they have said something.
    pub fn believed(&self) -> Vec<(SocketAddr, Told)> {
        let fleet = self.shared.live.load();
        let endpoints = fleet.backends().flat_map(|backend| &backend.endpoints);
        let told = endpoints.filter_map(|state| Some((state.endpoint.id.address, state.last_told()?.0)));
        told.collect()
    }

    /// What was decided for the requests of this id, as the page `/why` tells it.
    ///
    /// # Errors
    /// As for the page.
    pub fn why(&self, request_id: &str) -> Result<Value, Nothing> {
        self.shared.telemetry.why.page(&format!("request-id={request_id}"))
    }

    /// Connections that callers have open.
    pub fn connections(&self) -> usize {
        self.connections.running()
    }

    /// Tasks of the sidecar itself and of its own connections.
    pub fn background(&self) -> usize {
        self.background.running()
    }

    /// What the application said of its load last, unless that is stale.
    pub fn said(&self, endpoint: SocketAddr) -> Option<Arc<Taken>> {
        self.shared.scrapes.latest(endpoint, clock::now())
    }

    /// It has a snapshot, and a certificate if it needs one.
    pub fn is_ready(&self) -> bool {
        let is_known = !self.shared.settings.load().needs_certificate() || self.identity.is_ready();
        is_known && self.shared.live.source() != Source::None
    }

    /// The page `/metrics`, but for what only that page computes.
    ///
    /// # Errors
    /// As for the page.
    pub fn metrics(&self) -> anyhow::Result<String> {
        Ok(String::from_utf8(self.shared.telemetry.metrics.text()?)?)
    }
}
