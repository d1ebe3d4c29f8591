//! Snapshots go out: one stream a sidecar, driven by the pure session of the delivery package.
//!
//! Each stream has a task of its own, which hears of the newest snapshot alone. A sidecar that is slow delays nobody, and one
//! that misses a snapshot gets what differs from the next.

mod fanout;
mod session;

use std::sync::Arc;

use penstock_delivery::proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse,
};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, async_trait};

pub(crate) use fanout::{Fanout, SidecarReport};

use crate::clock::Clock;
use crate::grpc::envoy::service::discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryService;
use crate::identity::{Caller, JoinToken, peer_of};
use crate::seed;
use crate::tasks::Tasks;
use crate::telemetry::{Call, Metrics};

/// As many as there may be connections.
const STREAMS_MAX: usize = 10_000;
/// Responses that wait for the connection: one being written, one behind it.
const RESPONSES_WAITING_MAX: usize = 2;

/// The form of the protocol that sends everything each time.
pub(crate) const WHOLE_STATE: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";

/// Without a word of why, people look for the fault in their network.
pub(crate) async fn refuse_whole_state() -> axum::response::Response {
    Status::unimplemented("the state of the world is not sent; use DeltaAggregatedResources").into_http()
}

/// The push service.
#[derive(Debug)]
pub(crate) struct Push {
    fanout: Arc<Fanout>,
    token: JoinToken,
    places: Arc<Semaphore>,
    clock: Clock,
    tasks: Tasks,
    metrics: Arc<Metrics>,
}

impl Push {
    pub(crate) fn new(
        fanout: Arc<Fanout>,
        token: JoinToken,
        clock: Clock,
        tasks: Tasks,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { fanout, token, places: Arc::new(Semaphore::new(STREAMS_MAX)), clock, tasks, metrics }
    }
}

#[async_trait]
impl AggregatedDiscoveryService for Push {
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let peer = peer_of(&request);
        Caller::of(&request, &self.token).map_err(|refusal| {
            self.metrics.call_refused(Call::Push, &refusal, &peer);
            refusal.status()
        })?;
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!("{STREAMS_MAX} push streams are open already"))
        })?;
        let number = seed::bytes().map_err(|error| Status::internal(error.to_string()))?;
        let (responses, outgoing) = mpsc::channel(RESPONSES_WAITING_MAX);
        let driver = session::Driver::new(
            u64::from_be_bytes(number),
            peer,
            responses,
            Arc::clone(&self.fanout),
            Arc::clone(&self.metrics),
        );
        let (clock, tasks) = (self.clock, self.tasks.clone());
        self.tasks.spawn("push", async move {
            let _place = place;
            driver.run(request.into_inner(), clock, &tasks).await;
        });
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }
}
