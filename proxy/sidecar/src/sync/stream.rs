//! Drives the delivery state machine over a gRPC stream, for ever.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use penstock_delivery::client::{ClientAction, ClientState, Received};
use penstock_delivery::proto::envoy::config::core::v3::Node;
use penstock_delivery::proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse,
};
use penstock_delivery::wire::ResourceType;
use penstock_delivery::{MESSAGE_BYTES_MAX, backoff};
use penstock_model::settings::ProxySettings;
use penstock_model::snapshot::Parts;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{sleep, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Request, Status};

use super::Sync;
use crate::clock;
use crate::control::services::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use crate::control::{Control, Proof, report};
use crate::identity::Identity;
use crate::identity::bundle::Follower;
use crate::live::Source;
use crate::seed;

/// Requests that wait for the stream: one of each type at connect, then one at a time.
const REQUESTS_MAX: usize = 32;
/// A certificate is waited for before the stream opens, so that it opens under our own name; not for ever.
const IDENTITY_WAIT: Duration = Duration::from_secs(2);
const IDENTITY_POLL: Duration = Duration::from_millis(20);

pub(super) async fn run(
    sync: Sync,
    settings: Arc<ProxySettings>,
    held: Parts,
    control: Arc<Control>,
    identity: Arc<Identity>,
) {
    let roots = settings.certificates.is_none().then(|| Follower {
        node: node(&settings).id,
        identity: Arc::clone(&identity),
        telemetry: Arc::clone(&sync.telemetry),
    });
    let mut state = ClientState::new(node(&settings), held);
    let mut failures = 0;
    loop {
        wait_for_identity(&identity).await;
        let before = clock::now();
        let ended = async {
            let channel = control.channel(Proof::Certificate).await?;
            identity.reached();
            let followed = async {
                match &roots {
                    Some(roots) => roots.beside(channel.clone(), &control).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                ended = converse(&sync, &mut state, channel.clone(), &control) => ended,
                () = followed => Ok(()),
            }
        };
        let ended = ended.await;
        state.disconnected();
        sync.disconnected();
        // A stream that lived is no failure to reach the control plane.
        failures = if clock::now().since(before) > Duration::from_secs(30) { 0 } else { failures + 1 };
        if let Err(error) = ended {
            tracing::warn!(
                error = report(&error),
                "the push stream ended; the last good snapshot stays in use"
            );
            sync.failed(report(&error));
        }
        sleep(backoff::wait(failures.max(1), seed::share())).await;
    }
}

async fn wait_for_identity(identity: &Identity) {
    let started = clock::now();
    while !identity.is_ready() && clock::now().since(started) < IDENTITY_WAIT {
        sleep(IDENTITY_POLL).await;
    }
}

async fn converse(
    sync: &Sync,
    state: &mut ClientState,
    channel: Channel,
    control: &Control,
) -> anyhow::Result<()> {
    let mut client =
        AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let (send, requests) = mpsc::channel(REQUESTS_MAX);
    let mut request = Request::new(ReceiverStream::new(requests));
    request.metadata_mut().insert("authorization", control.bearer()?);
    let subscriptions = state.connected(clock::now());
    act(sync, state, subscriptions, &send).await?;
    let responses = client.delta_aggregated_resources(request).await;
    let mut responses = responses.map_err(|status| refused(&status))?.into_inner();
    sync.telemetry.metrics.xds_connected.set(1);
    sync.status.lock().connected = true;
    tracing::info!("the push stream is open");
    loop {
        let timer = state.next_timer();
        let due = async {
            match timer {
                Some(at) => sleep_until(clock::instant(at)).await,
                None => std::future::pending().await,
            }
        };
        let actions = tokio::select! {
            biased;
            response = responses.message() => match response.map_err(|status| refused(&status))? {
                Some(response) => receive(sync, state, response),
                None => return Ok(()),
            },
            () = due => state.timer(clock::now()),
        };
        act(sync, state, actions, &send).await?;
        tell(sync, state);
    }
}

fn receive(sync: &Sync, state: &mut ClientState, response: DeltaDiscoveryResponse) -> Vec<ClientAction> {
    let label = ResourceType::from_type_url(&response.type_url).map_or("unknown", ResourceType::label);
    let count = |result| sync.telemetry.metrics.xds_updates.with_label_values(&[label, result]).inc();
    match state.response(response, clock::now()) {
        Received::Copy => {
            count("copy");
            Vec::new()
        }
        Received::Candidate(candidate) => {
            count("ack");
            state.accept(candidate, clock::now())
        }
        Received::Refused(actions) => {
            count("nack");
            for flaw in state.status().iter().flat_map(|status| &status.flaws) {
                tracing::warn!(%flaw, "a resource was refused, the last good one stays");
            }
            actions
        }
    }
}

async fn act(
    sync: &Sync,
    state: &ClientState,
    actions: Vec<ClientAction>,
    send: &mpsc::Sender<DeltaDiscoveryRequest>,
) -> anyhow::Result<()> {
    // Use it first, then say so.
    let (publications, others): (Vec<_>, Vec<_>) =
        actions.into_iter().partition(|action| matches!(action, ClientAction::Publish(_)));
    for action in publications.into_iter().chain(others) {
        match action {
            ClientAction::Send(request) => send.send(*request).await.context("the push stream is closed")?,
            // Until every type has been answered, what is held is a part: what is in use stays, and the sidecar is not ready.
            ClientAction::Publish(parts) if state.is_settled() => sync.publish(&parts, Source::Push),
            ClientAction::Publish(_) => {}
            ClientAction::Overdue(kind) => {
                tracing::warn!(
                    kind = kind.label(),
                    "the control plane has not answered a subscription for 15 s"
                );
            }
        }
    }
    Ok(())
}

/// Notes how it stands for `/config/sync` and the metrics.
fn tell(sync: &Sync, state: &ClientState) {
    let types = state.status().into_iter().map(|status| {
        let held = state.held(status.resource_type).len();
        let label = status.resource_type.label();
        let gauge = sync.telemetry.metrics.xds_resources.with_label_values(&[label]);
        gauge.set(i64::try_from(held).unwrap_or(i64::MAX));
        json!({
            "type": label,
            "resources": held,
            "answered": status.answered,
            "version": status.system_version,
            "nonce": status.nonce,
            "lastError": status.last_error,
            "flaws": status.flaws.iter().map(ToString::to_string).collect::<Vec<_>>(),
        })
    });
    let types = types.collect();
    sync.status.lock().types = types;
}

fn refused(status: &Status) -> anyhow::Error {
    anyhow::anyhow!("the control plane ended it ({:?}): {}", status.code(), status.message())
}

pub(super) fn node(settings: &ProxySettings) -> Node {
    let workload = &settings.workload;
    Node {
        id: format!("{}.{}", workload.name, workload.namespace),
        cluster: format!("{}.{}", workload.name, workload.namespace),
        user_agent_name: "penstock-proxy".to_owned(),
        ..Node::default()
    }
}
