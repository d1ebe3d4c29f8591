//! Wiring: the only place where the parts meet.

use std::fmt::Debug;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::routing::post;
use axum::serve::{Listener, ListenerExt};
use penstock_delivery::MESSAGE_BYTES_MAX;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::transport::Server;

use crate::admin::Admin;
use crate::clock::{Clock, time_of_day};
use crate::flags::Flags;
use crate::grpc::envoy::service::discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer;
use crate::grpc::penstock::ca::v1::certificate_service_server::CertificateServiceServer;
use crate::identity::{
    Authority, Beliefs, Believers, JoinToken, PeerVerifier, Roots, Rotation, ServingNames, Signer, crypto,
    rotate_roots, server_tls,
};
use crate::listen::{self, PeerStream};
use crate::planner::Planner;
use crate::push::{self, Fanout, Push};
use crate::source::{self, Signal};
use crate::tasks::Tasks;
use crate::telemetry::Metrics;
use crate::{disk, lifecycle};

/// From the stop signal until what still runs is cut off.
const DRAIN_DEADLINE: Duration = Duration::from_secs(10);
/// Linkerd's: notices a sidecar that has gone without a word.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_DEADLINE: Duration = Duration::from_secs(3);
/// A sidecar needs two: one push stream, one `Sign` now and then.
const STREAMS_PER_CONNECTION_MAX: u32 = 100;

/// A control plane that listens.
#[derive(Debug)]
pub struct App<L: Listener> {
    listening: Listening,
    grpc: mpsc::Receiver<std::io::Result<PeerStream<L::Io>>>,
    push: Push,
    signer: Signer,
    admin: Admin,
    admin_listener: L,
    tasks: Tasks,
}

/// Where the control plane is reached and what a sidecar needs to be let in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listening {
    /// Addresses as they were bound.
    pub listening: Addresses,
    /// File with the root certificate.
    pub trust_bundle: PathBuf,
    /// File with the join token.
    pub join_token: PathBuf,
}

/// Addresses as they were bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Addresses {
    /// Push and certificates.
    pub grpc: SocketAddr,
    /// Status, metrics and probes.
    pub admin: SocketAddr,
}

/// Binds the listeners, then as [`App::start_on`].
///
/// # Errors
/// When the state cannot be used or an address cannot be bound. Bad documents are no error.
pub async fn start(flags: &Flags) -> anyhow::Result<App<impl Listener<Addr = SocketAddr> + Debug>> {
    let grpc = bind(flags.listen, "--listen").await?;
    let admin = bind(flags.admin, "--admin").await?;
    App::start_on(flags, grpc, admin).await
}

impl<L: Listener<Addr = SocketAddr>> App<L> {
    /// Opens the state directory and reads the documents; serves what these listeners accept.
    ///
    /// # Errors
    /// When the state cannot be used. Bad documents are no error.
    pub async fn start_on(flags: &Flags, listener: L, admin_listener: L) -> anyhow::Result<Self> {
        let state_dir = &flags.state_dir;
        disk::make_dir(state_dir)
            .with_context(|| format!("cannot make the state directory {}", state_dir.display()))?;
        let roots = Roots::open(state_dir, &flags.trust_domain, flags.leaf_ttl, time_of_day())?;
        let (roots, believers) = (Arc::new(roots), Believers::new());
        let token = JoinToken::open(&flags.join_token_path())?;
        let (tasks, clock, metrics) = (Tasks::new(), Clock::start(), Metrics::new()?);

        let grpc_address = listener.local_addr()?;
        let names = ServingNames::new(&flags.trust_domain, grpc_address.ip())?;
        let rotation = Rotation::new(Arc::clone(&roots), names, flags.leaf_ttl, Arc::clone(&metrics));
        let certificate = rotation.start(clock, &tasks)?;
        metrics.roots(&roots.held());
        let provider = Arc::new(crypto());
        let verifier =
            PeerVerifier::new(&flags.trust_domain, Arc::clone(&roots), provider, Arc::clone(&metrics))?;
        let tls = server_tls(verifier, certificate)?;

        let fanout = Fanout::new();
        let sidecars = Arc::clone(&fanout);
        let rotated = rotate_roots(
            Arc::clone(&roots),
            Arc::clone(&believers),
            move || sidecars.connected(),
            clock,
            Arc::clone(&metrics),
            tasks.clone(),
        );
        tasks.spawn("roots", rotated);
        let followed =
            token.clone().follow(flags.join_token_path(), clock, Arc::clone(&metrics), tasks.clone());
        tasks.spawn("join token", followed);
        let (config, state) = (flags.config.clone(), state_dir.clone());
        let planner = Planner::start(config, state, Arc::clone(&fanout), Arc::clone(&metrics)).await;
        let plan = planner.plan();
        follow_documents(planner, flags, clock, &tasks)?;

        let trust_domain = flags.trust_domain.as_str().into();
        Ok(Self {
            listening: Listening {
                listening: Addresses { grpc: grpc_address, admin: admin_listener.local_addr()? },
                trust_bundle: Authority::trust_bundle_path(state_dir),
                join_token: flags.join_token_path(),
            },
            grpc: listen::accept(listener, tls, trust_domain, &tasks, Arc::clone(&metrics)),
            push: Push::new(Arc::clone(&fanout), token.clone(), clock, tasks.clone(), Arc::clone(&metrics)),
            admin: Admin::new(plan, fanout, Beliefs::new(&roots, &believers), Arc::clone(&metrics)),
            signer: Signer {
                roots,
                believers,
                token,
                leaf_ttl: flags.leaf_ttl,
                clock,
                metrics,
                tasks: tasks.clone(),
            },
            admin_listener,
            tasks,
        })
    }

    /// Where it is reached.
    pub fn listening(&self) -> &Listening {
        &self.listening
    }

    /// Serves until `stop` is there, then lets streams end.
    ///
    /// # Errors
    /// When a server fails while it runs.
    pub async fn run(self, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        let tasks = self.tasks;
        let (for_grpc, for_admin) = (tasks.clone(), tasks.clone());
        let grpc = Server::builder()
            .http2_keepalive_interval(Some(PING_INTERVAL))
            .http2_keepalive_timeout(Some(PING_DEADLINE))
            .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
            .add_routes(routes(self.push, self.signer))
            .serve_with_incoming_shutdown(ReceiverStream::new(self.grpc), async move {
                for_grpc.stopped().await;
            });
        let admin = axum::serve(self.admin_listener, self.admin.router())
            .with_graceful_shutdown(async move { for_admin.stopped().await });
        let grpc = async { grpc.await.context("the gRPC server failed") };
        let admin = async { admin.await.context("the admin server failed") };
        let mut servers = Box::pin(async { tokio::try_join!(grpc, admin) });
        let finished = tokio::select! {
            biased;
            () = stop => None,
            finished = &mut servers => Some(finished),
        };
        tasks.stop();
        let finished = match finished {
            Some(finished) => finished,
            // Clients that keep idle connections open do not hold up the end.
            None => tokio::time::timeout(DRAIN_DEADLINE, servers).await.unwrap_or(Ok(((), ()))),
        };
        let cut = tasks.drained(DRAIN_DEADLINE).await;
        tracing::info!(cut, "stopped");
        finished.map(|_| ())
    }
}

fn routes(push: Push, signer: Signer) -> Routes {
    let push = AggregatedDiscoveryServiceServer::new(push)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let mut routes = Routes::new(push).add_service(CertificateServiceServer::new(signer));
    let router = std::mem::take(routes.axum_router_mut());
    *routes.axum_router_mut() = router.route(push::WHOLE_STATE, post(push::refuse_whole_state));
    routes.prepare()
}

async fn bind(
    address: SocketAddr,
    flag: &str,
) -> anyhow::Result<impl Listener<Addr = SocketAddr> + Debug + use<>> {
    let bound = TcpListener::bind(address).await;
    let listener =
        bound.with_context(|| format!("cannot listen on {address}; choose another address with {flag}"))?;
    Ok(listener.tap_io(|stream| {
        // Small messages in both directions: waiting to fill a segment would only delay them.
        let _best_effort = stream.set_nodelay(true);
    }))
}

fn follow_documents(planner: Planner, flags: &Flags, clock: Clock, tasks: &Tasks) -> anyhow::Result<()> {
    let (signal, changes) = Signal::new();
    source::watch(flags.config.clone(), signal.clone(), tasks);
    lifecycle::reload_on_hangup(signal, tasks)?;
    let for_planner = tasks.clone();
    tasks.spawn("planner", async move { planner.run(changes, clock, for_planner).await });
    Ok(())
}
