//! What the control plane tells operators: an event is one call, which carries both its log line and its metric.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use penstock_model::diff::Changes;
use penstock_model::spiffe::SpiffeId;
use prometheus::{Encoder, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};
use time::OffsetDateTime;
use tracing_subscriber::EnvFilter;

use crate::flags::{Flags, LogFormat};
use crate::identity::{Held, Refusal, Step};
use crate::listen::Peer;
use crate::planner::Plan;

/// Lets events go to stderr, in the form and with the filter that the flags name.
///
/// # Errors
/// When the filter cannot be understood, or the process logs somewhere already.
pub fn log_to_stderr(flags: &Flags) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&flags.log_level)
        .with_context(|| format!("--log-level `{}` is not a filter such as `info`", flags.log_level))?;
    let log = tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(filter);
    match flags.log_format {
        LogFormat::Text => log.with_ansi(false).try_init(),
        LogFormat::Json => log.json().try_init(),
    }
    .map_err(|error| anyhow::anyhow!(error))
}

/// All metrics of the process, and the events that move them. Label values are enums; none is a text from outside.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    config_valid: IntGauge,
    config_reloads: IntCounterVec,
    pub(crate) connections: IntGauge,
    connections_refused: IntCounterVec,
    pub(crate) streams: IntGauge,
    streams_ended: IntCounterVec,
    responses: IntCounterVec,
    answers: IntCounterVec,
    certificates_issued: IntCounter,
    identity_refusals: IntCounterVec,
    own_certificate_end: IntGauge,
    root_end: IntGauge,
    own_certificate_renewals: IntCounterVec,
    roots_trusted: IntGauge,
    root_rotations: IntCounterVec,
    join_token_reloads: IntCounterVec,
}

/// How a reading of the documents ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reload {
    Applied,
    Unchanged,
    Refused,
    Unreadable,
}

/// Why a connection was closed before it could carry a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConnectionRefused {
    Limit,
    Handshake,
    HandshakeTimeout,
}

/// Why a push stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamEnd {
    /// The sidecar ended it or its connection broke.
    Sidecar,
    /// It was open for its whole life; the sidecar opens another.
    Lifetime,
    /// The control plane is shutting down.
    Shutdown,
    /// The sidecar broke the protocol.
    Protocol,
    /// The sidecar did not answer a response.
    Unanswered,
}

impl Reload {
    const ALL: [Self; 4] = [Self::Applied, Self::Unchanged, Self::Refused, Self::Unreadable];

    fn label(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Unchanged => "unchanged",
            Self::Refused => "refused",
            Self::Unreadable => "unreadable",
        }
    }
}

impl ConnectionRefused {
    const ALL: [Self; 3] = [Self::Limit, Self::Handshake, Self::HandshakeTimeout];

    fn label(self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::Handshake => "handshake",
            Self::HandshakeTimeout => "handshake_timeout",
        }
    }
}

impl StreamEnd {
    const ALL: [Self; 5] = [Self::Sidecar, Self::Lifetime, Self::Shutdown, Self::Protocol, Self::Unanswered];

    fn label(self) -> &'static str {
        match self {
            Self::Sidecar => "sidecar",
            Self::Lifetime => "lifetime",
            Self::Shutdown => "shutdown",
            Self::Protocol => "protocol",
            Self::Unanswered => "unanswered",
        }
    }
}

/// Which call an identity was refused for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Sign,
    TrustBundle,
    Push,
}

impl Metrics {
    pub(crate) fn new() -> Result<Arc<Self>, prometheus::Error> {
        let registry = Registry::new();
        let build =
            gauges(&registry, "penstock_build_info", "Always 1; the version is its label.", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let metrics = Self {
            config_valid: gauge(
                &registry,
                "penstock_config_valid",
                "1 when the documents as they stand are in force, 0 when an older version stays in force.",
            )?,
            config_reloads: counters(
                &registry,
                "penstock_config_reload_total",
                "Readings of the documents by result.",
                &["result"],
            )?,
            connections: gauge(&registry, "penstock_grpc_connections", "Open gRPC connections.")?,
            connections_refused: counters(
                &registry,
                "penstock_grpc_connections_refused_total",
                "Connections closed before they could carry a call.",
                &["reason"],
            )?,
            streams: gauge(&registry, "penstock_xds_connected", "Open push streams.")?,
            streams_ended: counters(
                &registry,
                "penstock_xds_connection_terminations_total",
                "Push streams that ended.",
                &["reason"],
            )?,
            responses: counters(
                &registry,
                "penstock_xds_messages_total",
                "Responses sent to sidecars by the type of their resources.",
                &["type"],
            )?,
            answers: counters(
                &registry,
                "penstock_xds_updates_total",
                "Answers of sidecars to responses.",
                &["type", "result"],
            )?,
            certificates_issued: counter(
                &registry,
                "identity_cert_issued_total",
                "Certificates issued to sidecars.",
            )?,
            identity_refusals: counters(
                &registry,
                "penstock_identity_refusals_total",
                "Refused handshakes, certificate requests and push streams.",
                &["stage", "reason"],
            )?,
            own_certificate_end: gauge(
                &registry,
                "identity_cert_expiration_timestamp_seconds",
                "End of the control plane's own certificate.",
            )?,
            root_end: gauge(
                &registry,
                "identity_root_expiration_timestamp_seconds",
                "End of the trust domain's root certificate.",
            )?,
            own_certificate_renewals: counters(
                &registry,
                "identity_cert_refresh_total",
                "Renewals of the control plane's own certificate.",
                &["result"],
            )?,
            roots_trusted: gauge(
                &registry,
                "penstock_identity_roots",
                "Root certificates that the mesh is told to believe; more than one while roots are rotated.",
            )?,
            root_rotations: counters(
                &registry,
                "penstock_identity_root_rotation_steps_total",
                "Steps of root rotations, and failures to take one.",
                &["step"],
            )?,
            join_token_reloads: counters(
                &registry,
                "penstock_identity_join_token_reloads_total",
                "Join tokens that have taken the place of another, and files refused as such.",
                &["result"],
            )?,
            registry,
        };
        metrics.show_zeros();
        Ok(Arc::new(metrics))
    }

    /// A counter that is not there until something happens hides its first increase from Prometheus.
    fn show_zeros(&self) {
        let zero = |counters: &IntCounterVec, label| drop(counters.with_label_values(&[label]));
        Reload::ALL.iter().for_each(|reload| zero(&self.config_reloads, reload.label()));
        ConnectionRefused::ALL.iter().for_each(|refused| zero(&self.connections_refused, refused.label()));
        StreamEnd::ALL.iter().for_each(|end| zero(&self.streams_ended, end.label()));
        ["introduced", "replaced", "steady", "failure"]
            .iter()
            .for_each(|step| zero(&self.root_rotations, step));
        for results in [&self.own_certificate_renewals, &self.join_token_reloads] {
            ["success", "failure"].iter().for_each(|result| zero(results, result));
        }
    }

    /// All metrics in Prometheus's text form.
    pub(crate) fn exposition(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }

    pub(crate) fn reloaded(&self, reload: Reload) {
        self.config_reloads.with_label_values(&[reload.label()]).inc();
        self.config_valid.set(i64::from(matches!(reload, Reload::Applied | Reload::Unchanged)));
    }

    /// Every problem is logged once, in the form that `penstock validate` prints.
    pub(crate) fn config_refused(&self, plan: &Plan) {
        for problem in &plan.problems {
            tracing::error!("{problem}");
        }
        let version = plan.snapshot.as_ref().map(|snapshot| tracing::field::display(snapshot.version()));
        tracing::error!(
            problems = plan.problems.len(),
            version,
            "documents refused; what is in force stays so"
        );
    }

    pub(crate) fn config_applied(&self, plan: &Plan, changes: &Changes) {
        for warning in &plan.warnings {
            tracing::warn!("{warning}");
        }
        let version = plan.snapshot.as_ref().map(|snapshot| tracing::field::display(snapshot.version()));
        for change in &changes.objects {
            tracing::debug!(?change, "documents differ");
        }
        tracing::info!(version, changes = changes.objects.len(), "documents in force");
    }

    pub(crate) fn connection_refused(&self, refused: ConnectionRefused, peer: &str, why: &str) {
        self.connections_refused.with_label_values(&[refused.label()]).inc();
        tracing::warn!(peer, reason = refused.label(), why, "connection refused");
    }

    /// The handshake itself is logged by [`connection_refused`](Self::connection_refused), with the client's address.
    pub(crate) fn handshake_refused(&self, refusal: &Refusal) {
        self.identity_refusals.with_label_values(&["handshake", refusal.label()]).inc();
    }

    pub(crate) fn call_refused(&self, call: Call, refusal: &Refusal, peer: &Peer) {
        let stage = match call {
            Call::Sign => "sign",
            Call::TrustBundle => "trust_bundle",
            Call::Push => "push",
        };
        self.identity_refusals.with_label_values(&[stage, refusal.label()]).inc();
        tracing::warn!(%peer, stage, reason = refusal.label(), why = %refusal, "identity refused");
    }

    pub(crate) fn issued(&self, identity: &SpiffeId, not_after: OffsetDateTime, peer: &Peer) {
        self.certificates_issued.inc();
        tracing::info!(%identity, %not_after, %peer, "certificate issued");
    }

    pub(crate) fn own_certificate_renewed(&self, not_after: OffsetDateTime, root_not_after: OffsetDateTime) {
        self.own_certificate_renewals.with_label_values(&["success"]).inc();
        self.own_certificate_end.set(not_after.unix_timestamp());
        self.root_end.set(root_not_after.unix_timestamp());
        tracing::info!(%not_after, "own certificate issued");
    }

    pub(crate) fn own_certificate_not_renewed(
        &self,
        why: &(dyn std::error::Error + 'static),
        again_in: Duration,
    ) {
        self.own_certificate_renewals.with_label_values(&["failure"]).inc();
        tracing::error!(why, ?again_in, "own certificate not renewed");
    }

    /// The roots as a start has found them.
    pub(crate) fn roots(&self, held: &Held) {
        self.roots_trusted.set(i64::try_from(held.bundle.roots.len()).unwrap_or(i64::MAX));
        self.root_end.set(held.issuing.root_not_after().unix_timestamp());
    }

    pub(crate) fn root_step(&self, step: Step, held: &Held) {
        self.roots(held);
        let (label, what) = match step {
            Step::Introduced => ("introduced", "a new root is believed beside the old one"),
            Step::Replaced => ("replaced", "the new root issues from now on; the old one is still believed"),
            Step::Steady => ("steady", "the old root is believed no more; the rotation is over"),
        };
        self.root_rotations.with_label_values(&[label]).inc();
        let until = held.until.map(tracing::field::display);
        tracing::info!(step = label, roots = held.bundle.roots.len(), until, "{what}");
    }

    pub(crate) fn root_waits(&self, lagging: &[String]) {
        let (count, first) = (lagging.len(), lagging.iter().take(10).map(String::as_str).collect::<Vec<_>>());
        tracing::info!(count, ?first, "the new root waits for sidecars that do not believe it yet");
    }

    pub(crate) fn root_not_rotated(&self, why: &(dyn std::error::Error + 'static)) {
        self.root_rotations.with_label_values(&["failure"]).inc();
        tracing::error!(why, "the root is not rotated; what is in force stays so");
    }

    pub(crate) fn join_token_replaced(&self) {
        self.join_token_reloads.with_label_values(&["success"]).inc();
        tracing::info!("another join token is in force; certificates that were issued stay good");
    }

    pub(crate) fn join_token_refused(&self, why: &(dyn std::error::Error + 'static)) {
        self.join_token_reloads.with_label_values(&["failure"]).inc();
        tracing::error!(why, "the join token of before stays in force");
    }

    pub(crate) fn response_sent(&self, kind: &'static str) {
        self.responses.with_label_values(&[kind]).inc();
    }

    pub(crate) fn stream_ended(&self, end: StreamEnd, node: &str, why: &str) {
        self.streams_ended.with_label_values(&[end.label()]).inc();
        tracing::info!(node, reason = end.label(), why, "push stream ended");
    }

    pub(crate) fn acked(&self, kind: &'static str, node: &str) {
        self.answers.with_label_values(&[kind, "ack"]).inc();
        tracing::debug!(node, kind, "sidecar accepted");
    }

    pub(crate) fn nacked(&self, kind: &'static str, node: &str, why: &str) {
        self.answers.with_label_values(&[kind, "nack"]).inc();
        tracing::warn!(node, kind, why, "sidecar refused");
    }
}

fn gauge(registry: &Registry, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
    let made = IntGauge::new(name, help)?;
    registry.register(Box::new(made.clone()))?;
    Ok(made)
}

fn gauges(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntGaugeVec, prometheus::Error> {
    let made = IntGaugeVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(made.clone()))?;
    Ok(made)
}

fn counter(registry: &Registry, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
    let made = IntCounter::new(name, help)?;
    registry.register(Box::new(made.clone()))?;
    Ok(made)
}

fn counters(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntCounterVec, prometheus::Error> {
    let made = IntCounterVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(made.clone()))?;
    Ok(made)
}
