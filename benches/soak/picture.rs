//! What is there at one moment: of each sidecar what it uses and says, and what the backend has seen.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use penstock_benches::h1::{self, Connection};
use penstock_benches::ours::Sidecar;
use penstock_benches::processes::{self, Memory};

use penstock_benches::page::Page;

/// See the module.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Picture {
    /// The server's, then the caller's.
    pub(crate) sidecars: [One; 2],
    pub(crate) backend: Seen,
}

/// One sidecar.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct One {
    pub(crate) resident_bytes: u64,
    /// Since it was forgotten last.
    pub(crate) peak_bytes: u64,
    pub(crate) descriptors: usize,
    pub(crate) page: Page,
}

/// What the backend says of its requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seen {
    pub(crate) open: u64,
    pub(crate) whole: u64,
    pub(crate) left: u64,
}

/// Which way requests pass the sidecars of a picture.
pub(crate) const WAYS: [&str; 2] = ["inbound", "outbound"];

impl Picture {
    pub(crate) async fn of(sidecars: &[Sidecar; 2], backend: SocketAddr) -> anyhow::Result<Self> {
        let [server, caller] = sidecars;
        Ok(Self {
            sidecars: [One::of(server).await?, One::of(caller).await?],
            backend: Seen::of(backend).await?,
        })
    }

    /// Nothing is under way, and no client is connected.
    pub(crate) fn is_quiet(&self) -> bool {
        let is_quiet = |(one, way): (&One, &str)| {
            let label = format!("direction=\"{way}\"");
            let page = &one.page;
            page.gauge("penstock_inflight_requests", &label) == 0.0
                && page.gauge("penstock_endpoint_load", "signal=\"inflight\"") == 0.0
                && (way == "inbound" || page.gauge("penstock_open_connections", &label) == 0.0)
        };
        self.backend.open == 0 && self.sidecars.iter().zip(WAYS).all(is_quiet)
    }

    /// Connections and files of both.
    pub(crate) fn descriptors(&self) -> [usize; 2] {
        self.sidecars.each_ref().map(|one| one.descriptors)
    }
}

impl One {
    async fn of(sidecar: &Sidecar) -> anyhow::Result<Self> {
        let id = sidecar.process.id();
        // Before the page is asked for, which needs a connection.
        let descriptors = processes::descriptors(id)?;
        let page = Page::of(sidecar.admin).await?;
        let memory = Memory::of(&[id]);
        Ok(Self { resident_bytes: memory.resident, peak_bytes: memory.peak, descriptors, page })
    }

    /// How many requests have ended in this way.
    pub(crate) fn ended(&self, class: &str) -> f64 {
        self.page.count("penstock_requests_total", &[&format!("classification=\"{class}\"")])
    }
}

impl Seen {
    async fn of(backend: SocketAddr) -> anyhow::Result<Self> {
        let mut text = Vec::new();
        let mut connection = Connection::open(backend).await?;
        connection.exchange(&h1::get(backend, "/?ask=counts"), |bytes| text.extend_from_slice(bytes)).await?;
        Ok(serde_json::from_slice(&text)?)
    }
}
