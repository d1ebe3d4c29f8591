//! Every metric of the sidecar: name, unit, labels, buckets. No `prometheus` type leaves `telemetry`.

use std::borrow::Borrow;
use std::collections::BTreeSet;

use parking_lot::Mutex;
use penstock_model::names::{BackendId, ParentKind};
use prometheus::{
    Encoder, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use super::access_log::Entry;
use crate::listen::conn::Direction;

/// Labels of every metric about requests, in this order.
const REQUEST_LABELS: [&str; 15] = [
    "direction",
    "parent_kind",
    "parent_namespace",
    "parent_name",
    "route_kind",
    "route_namespace",
    "route_name",
    "route_rule",
    "backend_kind",
    "backend_namespace",
    "backend_name",
    "model",
    "dialect",
    "tls",
    "streaming",
];
/// Distinct models that get a label of their own; the rest are [`OTHER`].
const MODELS_MAX: usize = 200;
/// The same of Backends as sidecars of callers name them.
const PEER_BACKENDS_MAX: usize = 200;
/// The label of what gets none of its own.
const OTHER: &str = "other";

/// vLLM's buckets for the time to first token, a superset of OpenTelemetry's.
const FIRST_TOKEN_SECONDS: [f64; 22] = [
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
    80.0, 160.0, 640.0, 2560.0,
];
/// OpenTelemetry's buckets for the time per output token, with finer and coarser ones at the ends.
const OUTPUT_TOKEN_SECONDS: [f64; 18] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0,
];
/// OpenTelemetry's buckets for an operation's duration, extended for long generations.
const DURATION_SECONDS: [f64; 19] = [
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84, 327.68,
    655.36, 1310.72, 2621.44,
];
/// Powers of four from 64 B to 1 GiB.
const BODY_BYTES: [f64; 13] = [
    64.0,
    256.0,
    1024.0,
    4096.0,
    16384.0,
    65536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
    268_435_456.0,
    1_073_741_824.0,
];

/// Metrics of one process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    request_duration: HistogramVec,
    first_byte: HistogramVec,
    first_token: HistogramVec,
    output_token: HistogramVec,
    inter_token: HistogramVec,
    tokens: IntCounterVec,
    request_body: HistogramVec,
    response_body: HistogramVec,
    models: First<String>,
    peer_backends: First<BackendId>,
    refusals: IntCounterVec,
    /// Requests that have begun and not ended, by direction.
    pub inflight: IntGaugeVec,
    /// Attempts after the first, by reason and outcome.
    pub retries: IntCounterVec,
    /// Endpoints picked, by the reason for the choice.
    pub picks: IntCounterVec,
    /// Endpoints asked how they stand.
    pub load_questions: IntCounterVec,
    /// Requests that waited at the door of a model server.
    pub door_waits: IntCounter,
    /// The margin of patience that was learned for a backend, as a share of the longest one.
    pub patience_margin: GaugeVec,
    /// Good and bad events of each objective.
    pub slo_events: IntCounterVec,
    /// Requests in flight, by endpoint.
    pub endpoint_load: IntGaugeVec,
    /// What an endpoint has room for, where that is known.
    pub endpoint_capacity: IntGaugeVec,
    /// What is believed of an endpoint: 1 for the state that it is in.
    pub endpoint_state: IntGaugeVec,
    /// Probes of endpoints, by what they saw.
    pub health_checks: IntCounterVec,
    /// Metrics pages of applications asked for, by result.
    pub scrapes: IntCounterVec,
    /// Age of what is known of an endpoint's load, by where it comes from.
    pub load_signal_age: GaugeVec,
    /// How far what is known of the speed of an application's calls is off, by what they are counted in.
    pub call_speed_error: GaugeVec,
    /// Look-ups of names of endpoints, by result.
    pub dns_lookups: IntCounterVec,
    /// 1 for a name whose last look-up failed.
    pub dns_stale: IntGaugeVec,
    /// Connections with TLS made so far.
    pub tls_connections: IntCounterVec,
    /// Handshakes that ended in a refusal, by reason.
    pub tls_refusals: IntCounterVec,
    /// Open connections by direction.
    pub connections: IntGaugeVec,
    /// Connections closed without being served, by reason.
    pub connections_refused: IntCounterVec,
    /// Requests that can be read in two ways, by direction and reason.
    pub requests_refused: IntCounterVec,
    /// Bytes of request bodies held.
    pub body_held_bytes: IntGauge,
    /// Requests whose model was not known when a body limit was reached.
    pub body_overflows: IntCounterVec,
    /// Lines of the access log that could not wait for the disk.
    pub access_log_dropped: IntCounter,
    /// Tasks that panicked; each loses one request.
    pub panics: IntCounter,
    /// Tasks that have not ended.
    pub tasks: IntGauge,
    /// Resources held, by type.
    pub xds_resources: IntGaugeVec,
    /// Responses of the control plane, by type and result.
    pub xds_updates: IntCounterVec,
    /// 1 while the push stream is open.
    pub xds_connected: IntGauge,
    /// When the last update was accepted.
    pub xds_last_update: IntGauge,
    /// Reloads of documents from files, by result.
    pub config_reloads: IntCounterVec,
    /// Readings of the ProxyConfig after the start.
    pub settings_reloads: IntCounterVec,
    /// Fields of it that differ from what is in force until a restart.
    pub settings_restart_needed: IntGauge,
    /// 1 if the newest documents were accepted.
    pub config_valid: IntGauge,
    /// When the leaf expires.
    pub certificate_expires: IntGauge,
    /// Renewals, by result.
    pub certificate_refreshes: IntCounterVec,
    /// Roots that are believed.
    pub roots: IntGauge,
    /// The last good snapshot on disk: what became of reading and writing it.
    pub config_cache: IntCounterVec,
}

impl Metrics {
    /// Declares all of them.
    ///
    /// # Errors
    /// When a name is declared twice, a build defect.
    pub fn new() -> prometheus::Result<Self> {
        let declare = Declare(Registry::new());
        let labels = |more: &[&'static str]| [&REQUEST_LABELS[..], more].concat();
        let build =
            declare.gauges("penstock_build_info", "What runs.", &["version", "revision", "features"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION"), "unknown", ""]).set(1.0);
        declare.process()?;
        Ok(Self {
            requests: declare.counters(
                "penstock_requests_total",
                "Requests that have ended.",
                &labels(&["status_class", "status", "grpc_status", "classification", "error"]),
            )?,
            request_duration: declare.histograms(
                "penstock_request_duration_seconds",
                "From a request's headers to its end.",
                &labels(&["classification"]),
                &DURATION_SECONDS,
            )?,
            first_byte: declare.histograms(
                "penstock_time_to_first_byte_seconds",
                "From a request's headers to the first byte of the answer's body.",
                &labels(&[]),
                &FIRST_TOKEN_SECONDS,
            )?,
            first_token: declare.histograms(
                "penstock_time_to_first_token_seconds",
                "From a request's headers to the first event with generated content.",
                &labels(&[]),
                &FIRST_TOKEN_SECONDS,
            )?,
            output_token: declare.histograms(
                "penstock_time_per_output_token_seconds",
                "Mean time of each output token after the first; estimated from events where no usage is reported.",
                &labels(&["estimated"]),
                &OUTPUT_TOKEN_SECONDS,
            )?,
            inter_token: declare.histograms(
                "penstock_inter_token_latency_seconds",
                "Gaps between events with generated content.",
                &["direction", "backend_namespace", "backend_name", "model"],
                &OUTPUT_TOKEN_SECONDS,
            )?,
            tokens: declare.counters(
                "penstock_tokens_total",
                "Tokens as reported by engines.",
                &labels(&["type"]),
            )?,
            request_body: declare.histograms(
                "penstock_request_body_bytes",
                "Size of request bodies.",
                &["direction", "dialect"],
                &BODY_BYTES,
            )?,
            response_body: declare.histograms(
                "penstock_response_body_bytes",
                "Size of answers' bodies.",
                &["direction", "dialect"],
                &BODY_BYTES,
            )?,
            models: First::of(MODELS_MAX),
            peer_backends: First::of(PEER_BACKENDS_MAX),
            inflight: declare.int_gauges(
                "penstock_inflight_requests",
                "Requests that have begun and not ended.",
                &["direction"],
            )?,
            retries: declare.counters(
                "penstock_retries_total",
                "Attempts after the first.",
                &["direction", "backend_namespace", "backend_name", "reason", "outcome"],
            )?,
            picks: declare.counters(
                "penstock_lb_picks_total",
                "Endpoints picked.",
                &["backend_namespace", "backend_name", "reason"],
            )?,
            refusals: declare.counters(
                "penstock_refusals_total",
                "Requests that the sidecar of a model server did not let in, before anything was computed.",
                &["direction", "backend_namespace", "backend_name", "reason"],
            )?,
            load_questions: declare.counters(
                "penstock_load_questions_total",
                "Endpoints asked how they stand before a request that was refused twice was sent once more.",
                &["backend_namespace", "backend_name", "result"],
            )?,
            door_waits: declare.counter(
                "penstock_door_waits_total",
                "Requests that waited before the sidecar of a model server let them in or refused them.",
            )?,
            patience_margin: declare.gauges(
                "penstock_patience_margin_ratio",
                "How much longer than was believed requests wait at an endpoint before they rather go elsewhere, as a share of the longest that they ever do.",
                &["backend_namespace", "backend_name"],
            )?,
            slo_events: declare.counters(
                "penstock_slo_events_total",
                "Requests that kept or broke an objective.",
                &["slo", "objective", "result"],
            )?,
            endpoint_load: declare.int_gauges(
                "penstock_endpoint_load",
                "Load of an endpoint as this sidecar knows it.",
                &["backend_namespace", "backend_name", "endpoint", "signal"],
            )?,
            endpoint_capacity: declare.int_gauges(
                "penstock_endpoint_capacity",
                "How much an endpoint takes at once, where its sidecar tells: sequences while places were lacking of late, and KV tokens.",
                &["backend_namespace", "backend_name", "endpoint", "signal"],
            )?,
            endpoint_state: declare.int_gauges(
                "penstock_endpoint_state",
                "1 for the state that an endpoint is in: ready, unready, or pending until it was first ready.",
                &["backend_namespace", "backend_name", "endpoint", "state"],
            )?,
            health_checks: declare.counters(
                "penstock_health_checks_total",
                "Endpoints asked whether they are ready, by what they said.",
                &["backend_namespace", "backend_name", "result"],
            )?,
            scrapes: declare.counters(
                "penstock_scrapes_total",
                "Metrics pages of applications asked for, by what came of it.",
                &["endpoint", "result"],
            )?,
            load_signal_age: declare.gauges(
                "penstock_load_signal_age_seconds",
                "Age of what is known of an endpoint's load.",
                &["endpoint", "source"],
            )?,
            call_speed_error: declare.gauges(
                "penstock_call_speed_error",
                "Mean relative error, 0 to 1, of the times in which calls were expected to be answered.",
                &["endpoint", "unit"],
            )?,
            dns_lookups: declare.counters(
                "penstock_dns_lookups_total",
                "Look-ups of names of endpoints.",
                &["name", "result"],
            )?,
            dns_stale: declare.int_gauges(
                "penstock_dns_stale",
                "1 for a name whose last look-up failed: its last addresses are in use.",
                &["name"],
            )?,
            tls_connections: declare.counters(
                "penstock_tls_connections_total",
                "Connections with TLS: mutual by direction, or origination to endpoints outside the mesh.",
                &["direction", "version", "key_exchange"],
            )?,
            tls_refusals: declare.counters(
                "penstock_tls_refusals_total",
                "Handshakes that ended because a peer was refused.",
                &["direction", "reason"],
            )?,
            connections: declare.int_gauges(
                "penstock_open_connections",
                "Open connections to a listener.",
                &["direction"],
            )?,
            connections_refused: declare.counters(
                "penstock_connections_refused_total",
                "Connections closed without being served.",
                &["direction", "reason"],
            )?,
            requests_refused: declare.counters(
                "penstock_requests_refused_total",
                "Requests that were not let in because they can be read in two ways.",
                &["direction", "reason"],
            )?,
            body_held_bytes: declare
                .int_gauge("penstock_body_held_bytes", "Bytes of request bodies held in memory.")?,
            body_overflows: declare.counters(
                "penstock_body_overflows_total",
                "Requests whose model was not known when a body limit was reached.",
                &["limit", "action"],
            )?,
            access_log_dropped: declare
                .counter("penstock_access_log_dropped_total", "Lines that could not wait for the disk.")?,
            panics: declare.counter("penstock_panics_total", "Requests lost to a defect.")?,
            tasks: declare.int_gauge(
                "penstock_tasks",
                "Work under way: connections, requests over HTTP/2, and the sidecar's own.",
            )?,
            xds_resources: declare.int_gauges("penstock_xds_resources", "Resources held.", &["type"])?,
            xds_updates: declare.counters(
                "penstock_xds_updates_total",
                "Responses of the control plane.",
                &["type", "result"],
            )?,
            xds_connected: declare
                .int_gauge("penstock_xds_connected", "1 while the push stream is open.")?,
            xds_last_update: declare.int_gauge(
                "penstock_xds_last_update_timestamp_seconds",
                "When the last update was accepted.",
            )?,
            config_reloads: declare.counters(
                "penstock_config_reload_total",
                "Reloads of documents from files.",
                &["result"],
            )?,
            settings_reloads: declare.counters(
                "penstock_settings_reloads_total",
                "Readings of the ProxyConfig after it had changed.",
                &["result"],
            )?,
            settings_restart_needed: declare.int_gauge(
                "penstock_settings_restart_needed",
                "Fields of the ProxyConfig that differ from what is in force, and need a restart.",
            )?,
            config_valid: declare
                .int_gauge("penstock_config_valid", "1 if the newest configuration was accepted.")?,
            certificate_expires: declare.int_gauge(
                "identity_cert_expiration_timestamp_seconds",
                "When this sidecar's certificate expires.",
            )?,
            certificate_refreshes: declare.counters(
                "identity_cert_refresh_total",
                "Renewals of this sidecar's certificate.",
                &["result"],
            )?,
            roots: declare.int_gauge(
                "penstock_identity_roots",
                "Root certificates that are believed; more than one while roots are rotated.",
            )?,
            config_cache: declare.counters(
                "penstock_config_cache_total",
                "Reading and writing the last good snapshot on disk.",
                &["operation", "result"],
            )?,
            registry: declare.0,
        })
    }

    /// Everything in the text format, version 0.0.4.
    ///
    /// # Errors
    /// When a metric has no samples that can be written, a build defect.
    pub fn text(&self) -> prometheus::Result<Vec<u8>> {
        let mut page = Vec::with_capacity(64 << 10);
        TextEncoder::new().encode(&self.registry.gather(), &mut page)?;
        Ok(page)
    }

    /// Where the gaps between events with content of one answer are counted, in seconds.
    pub fn gaps_of(
        &self,
        direction: &'static str,
        backend: Option<&BackendId>,
        model: Option<&str>,
    ) -> Histogram {
        let [namespace, name] = self.backend_labels(direction, backend);
        let model = self.model_label(model);
        self.inter_token.with_label_values(&[direction, namespace, name, model])
    }

    /// Counts a request that a model server's sidecar did not let in: at that sidecar, and at that of its caller.
    pub fn refused(&self, direction: &'static str, backend: Option<&BackendId>, reason: &str) {
        let [namespace, name] = self.backend_labels(direction, backend);
        self.refusals.with_label_values(&[direction, namespace, name, reason]).inc();
    }

    /// Counts one request.
    pub fn request_ended(&self, entry: &Entry<'_>) {
        let model = self.model_label(entry.model);
        let backend = self.backend_labels(entry.direction, entry.backend);
        let labels = request_labels(entry, backend, model);
        fn with<'a>(labels: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
            [labels, more].concat()
        }
        let status = entry.status.to_string();
        let class = if entry.status == 0 { "none".to_owned() } else { format!("{}xx", entry.status / 100) };
        let grpc_status = match entry.grpc_status {
            None => String::new(),
            Some(code @ 0..=16) => code.to_string(),
            Some(_) => OTHER.to_owned(), // an application may send any number
        };
        let error = entry.error.unwrap_or_default();
        self.requests
            .with_label_values(&with(&labels, &[&class, &status, &grpc_status, entry.classification, error]))
            .inc();
        self.request_duration
            .with_label_values(&with(&labels, &[entry.classification]))
            .observe(entry.duration.as_secs_f64());
        if let Some(span) = entry.time_to_first_byte {
            self.first_byte.with_label_values(&labels).observe(span.as_secs_f64());
        }
        if let Some(span) = entry.time_to_first_token {
            self.first_token.with_label_values(&labels).observe(span.as_secs_f64());
        }
        if let Some(span) = entry.time_per_output_token {
            let estimated = if entry.tokens_estimated { "true" } else { "false" };
            self.output_token.with_label_values(&with(&labels, &[estimated])).observe(span.as_secs_f64());
        }
        for (kind, count) in [
            ("input", entry.input_tokens),
            ("output", entry.output_tokens),
            ("cached", entry.cached_tokens),
            ("reasoning", entry.reasoning_tokens),
        ] {
            if let Some(count) = count {
                self.tokens.with_label_values(&with(&labels, &[kind])).inc_by(count);
            }
        }
        let sizes = [entry.direction, entry.dialect];
        self.request_body.with_label_values(&sizes).observe(as_number(entry.request_bytes));
        self.response_body.with_label_values(&sizes).observe(as_number(entry.response_bytes));
    }

    /// Callers choose model names, so the label is bounded.
    fn model_label<'a>(&self, model: Option<&'a str>) -> &'a str {
        model.map_or("", |model| if self.models.have(model) { model } else { OTHER })
    }

    /// Namespace and name of a Backend. Sidecars of callers choose what they call it, so those labels are bounded.
    fn backend_labels<'a>(&self, direction: &str, backend: Option<&'a BackendId>) -> [&'a str; 2] {
        let Some(id) = backend else { return [""; 2] };
        let is_ours = direction == Direction::Outbound.as_str();
        if is_ours || self.peer_backends.have(id) { [&*id.0.namespace, &*id.0.name] } else { [OTHER; 2] }
    }
}

/// The first few of what others name: what comes later is not kept, so that nobody can fill the memory with names.
#[derive(Debug)]
struct First<T> {
    named: Mutex<BTreeSet<T>>,
    most: usize,
}

impl<T: Ord> First<T> {
    fn of(most: usize) -> Self {
        Self { named: Mutex::default(), most }
    }

    /// Whether this is one of them, perhaps from here on.
    fn have<Q: Ord + ToOwned<Owned = T> + ?Sized>(&self, name: &Q) -> bool
    where
        T: Borrow<Q>,
    {
        let mut named = self.named.lock();
        named.contains(name) || named.len() < self.most && named.insert(name.to_owned())
    }
}

fn request_labels<'a>(
    entry: &Entry<'a>,
    [backend_namespace, backend_name]: [&'a str; 2],
    model: &'a str,
) -> [&'a str; REQUEST_LABELS.len()] {
    let (parent_kind, parent_namespace, parent_name) = entry.parent.map_or(("", "", ""), |parent| {
        let kind = match parent.kind {
            ParentKind::Service => "Service",
            ParentKind::Backend => "Backend",
        };
        (kind, &*parent.name.namespace, &*parent.name.name)
    });
    let (route_kind, route_namespace, route_name, rule) =
        entry.route.map_or(("", "", "", ""), |(id, rule)| ("HTTPRoute", &*id.0.namespace, &*id.0.name, rule));
    let backend_kind = if entry.backend.is_some() { "Backend" } else { "" };
    let streaming = if entry.streaming { "true" } else { "false" };
    [
        entry.direction,
        parent_kind,
        parent_namespace,
        parent_name,
        route_kind,
        route_namespace,
        route_name,
        rule,
        backend_kind,
        backend_namespace,
        backend_name,
        model,
        entry.dialect,
        entry.tls,
        streaming,
    ]
}

#[expect(clippy::cast_precision_loss, reason = "a histogram sum needs no exact byte")]
fn as_number(bytes: u64) -> f64 {
    bytes as f64
}

struct Declare(Registry);

impl Declare {
    fn add<C: prometheus::core::Collector + Clone + 'static>(&self, collector: C) -> prometheus::Result<C> {
        self.0.register(Box::new(collector.clone()))?;
        Ok(collector)
    }

    fn counter(&self, name: &str, help: &str) -> prometheus::Result<IntCounter> {
        self.add(IntCounter::new(name, help)?)
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
        self.add(IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<GaugeVec> {
        self.add(GaugeVec::new(Opts::new(name, help), labels)?)
    }

    fn int_gauge(&self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        self.add(IntGauge::new(name, help)?)
    }

    fn int_gauges(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels)?)
    }

    fn histograms(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: &[f64],
    ) -> prometheus::Result<HistogramVec> {
        self.add(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels)?)
    }

    fn process(&self) -> prometheus::Result<()> {
        self.0.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))
    }
}
