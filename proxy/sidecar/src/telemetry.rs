//! What operators see: metrics, exact latencies, the access log. Each fact is told once, here, by the event that it is.

pub mod access_log;
pub mod latency;
pub mod metrics;
pub mod why;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use penstock_model::settings::AccessLog;
use penstock_model::spiffe::SpiffeId;

use self::access_log::{AccessLogWriter, Entry};
use self::latency::Latencies;
use self::metrics::Metrics;
use self::why::Why;
use crate::http::hygiene::Ambiguity;
use crate::identity::verify::Refusal;
use crate::upstream::origin::Distrust;

/// Everything that is told to operators.
#[derive(Debug)]
pub struct Telemetry {
    /// Counters, gauges and histograms.
    pub metrics: Metrics,
    /// Exact latencies by backend.
    pub latencies: Latencies,
    /// What was decided for the requests of late.
    pub why: Why,
    access_log: RwLock<AccessLogWriter>,
}

impl Telemetry {
    /// Telemetry of one process.
    ///
    /// # Errors
    /// When the access log cannot be opened, or a metric is declared twice (a build defect).
    pub fn new(access_log: &AccessLog) -> anyhow::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            metrics: Metrics::new()?,
            latencies: Latencies::default(),
            why: Why::default(),
            access_log: RwLock::new(AccessLogWriter::open(access_log)?),
        }))
    }

    /// A connection with TLS was made: with mutual TLS by direction, or with an endpoint outside the mesh as `origination`.
    pub fn tls_opened(&self, direction: &'static str, session: &rustls::CommonState) {
        let version = match session.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
            Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
            _ => "other",
        };
        let group = session.negotiated_key_exchange_group();
        let key_exchange = group.map_or_else(|| "none".to_owned(), |group| format!("{:?}", group.name()));
        self.metrics.tls_connections.with_label_values(&[direction, version, &key_exchange]).inc();
    }

    /// A peer was refused, or refused us.
    pub fn tls_refused(&self, direction: &'static str, refusal: &Refusal) {
        self.metrics.tls_refusals.with_label_values(&[direction, refusal.reason()]).inc();
    }

    /// A certificate is in use from now on.
    pub fn certificate_installed(&self, identity: &SpiffeId, expires: Duration, roots: usize) {
        let expires_s = i64::try_from(expires.as_secs()).unwrap_or(i64::MAX);
        self.metrics.certificate_refreshes.with_label_values(&["success"]).inc();
        self.metrics.certificate_expires.set(expires_s);
        self.metrics.roots.set(i64::try_from(roots).unwrap_or(i64::MAX));
        tracing::info!(%identity, expires_unix_s = expires_s, roots, "certificate installed");
    }

    /// An endpoint outside the mesh was refused, or refused us.
    pub fn origin_refused(&self, distrust: &Distrust) {
        self.metrics.tls_refusals.with_label_values(&["origination", distrust.reason()]).inc();
    }

    /// A request can be read in two ways and is not let in.
    pub(crate) fn request_refused(&self, direction: &'static str, why: Ambiguity) {
        self.metrics.requests_refused.with_label_values(&[direction, why.reason()]).inc();
    }

    /// A request has ended.
    pub fn request_ended(&self, entry: &Entry<'_>) {
        self.metrics.request_ended(entry);
        self.latencies.record(entry);
        if !self.access_log.read().write(entry) {
            self.metrics.access_log_dropped.inc();
        }
    }

    /// Returns when every request that ended is in the access log.
    pub fn close(&self) {
        self.access_log.read().close();
    }

    /// Writes the access log there from now on; gives the writer of before, which is told no more and has to be closed.
    pub(crate) fn log_to(&self, writer: AccessLogWriter) -> AccessLogWriter {
        std::mem::replace(&mut *self.access_log.write(), writer)
    }
}

#[cfg(test)]
mod tests {
    use penstock_model::names::BackendId;

    use super::*;

    const REQUEST: Entry<'static> = Entry {
        direction: "outbound",
        request_id: "r",
        trace_id: None,
        source: None,
        peer: None,
        tls: "false",
        method: "GET",
        authority: "chat",
        path: "/",
        protocol: "HTTP/2",
        parent: None,
        route: None,
        backend: None,
        endpoint: None,
        attempts: 1,
        dialect: "http",
        model: None,
        streaming: false,
        status: 200,
        grpc_status: None,
        classification: "success",
        error: None,
        reason: None,
        request_bytes: 0,
        response_bytes: 0,
        duration: Duration::ZERO,
        time_to_first_byte: None,
        time_to_first_token: None,
        time_per_output_token: None,
        tokens_estimated: false,
        input_tokens: None,
        output_tokens: None,
        cached_tokens: None,
        reasoning_tokens: None,
    };

    /// Series of a page that tell of a Backend in this direction.
    fn series_of(page: &str, direction: &str) -> usize {
        let direction = format!("direction=\"{direction}\"");
        let lines = page.lines().filter(|line| line.contains("backend_name=\"") && line.contains(&direction));
        // A histogram is one series for each bucket.
        lines.filter(|line| !line.contains("_bucket{")).count()
    }

    #[test]
    fn names_that_peers_give_a_backend_leave_a_bounded_number_of_series() {
        let telemetry = Telemetry::new(&AccessLog::Off).unwrap();
        let page = || String::from_utf8(telemetry.metrics.text().unwrap()).unwrap();
        let ask = |direction: &'static str, number: usize| {
            let backend = BackendId::new(format!("team-{number}"), "chat");
            telemetry.request_ended(&Entry { direction, backend: Some(&backend), ..REQUEST });
            telemetry.metrics.gaps_of(direction, Some(&backend), None).observe(0.1);
            telemetry.metrics.refused(direction, Some(&backend), "late");
        };
        (0..200).for_each(|number| ask("inbound", number));
        let before = series_of(&page(), "inbound");
        (0..1_000).for_each(|number| ask("inbound", number));
        let text = page();
        let of_others = before / 200;
        assert_eq!(series_of(&text, "inbound"), before + of_others);
        let others =
            "backend_name=\"other\",backend_namespace=\"other\",direction=\"inbound\",reason=\"late\"";
        assert!(text.contains(&format!("penstock_refusals_total{{{others}}} 800\n")), "{others}");
        assert!(text.contains("backend_namespace=\"team-199\"") && !text.contains("team-200"));
        // Our own are as many as are configured, whatever peers say.
        (0..300).for_each(|number| ask("outbound", number));
        assert_eq!(series_of(&page(), "outbound"), 300 * of_others);
    }

    #[test]
    fn no_line_is_lost_while_the_access_log_moves() {
        const EACH: usize = 300;
        let dir = tempfile::tempdir().unwrap();
        let file = |number: usize| AccessLog::File(dir.path().join(format!("{number}.log")));
        let telemetry = Telemetry::new(&file(0)).unwrap();
        std::thread::scope(|threads| {
            for _ in 0..4 {
                threads.spawn(|| {
                    for _ in 0..EACH {
                        telemetry.request_ended(&REQUEST);
                        std::thread::yield_now();
                    }
                });
            }
            for number in 1..6 {
                telemetry.log_to(AccessLogWriter::open(&file(number)).unwrap()).close();
            }
        });
        telemetry.close();
        let lines = |entry: std::io::Result<std::fs::DirEntry>| {
            std::fs::read_to_string(entry.unwrap().path()).unwrap().lines().count()
        };
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().map(lines).sum::<usize>(), 4 * EACH);
        assert_eq!(telemetry.metrics.access_log_dropped.get(), 0);
    }
}
