//! Envoy: one listener, one cluster. What is not said is as it comes.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

use crate::certs::Files;
use crate::chain::{Leg, Side};
use penstock_benches::route::Protocol;

/// Above all that is open in any scenario; the default is 1,024.
const REQUESTS_MAX: u32 = 100_000;

pub(crate) fn arguments(config: &Path) -> Vec<String> {
    let config = config.display().to_string();
    ["--concurrency", "1", "--disable-hot-restart", "--log-level", "error", "-c", &config]
        .map(str::to_owned)
        .into()
}

pub(crate) fn config(leg: &Leg<'_>) -> String {
    let mut filters = json!({"filters": [manager()]});
    if let Side::Mutual(own, peer) = leg.from {
        filters["transport_socket"] = tls("DownstreamTlsContext", own, peer);
    }
    let listener = json!({"name": "front", "address": address(leg.listen), "filter_chains": [filters]});
    format!("{:#}", json!({"static_resources": {"listeners": [listener], "clusters": [cluster(leg)]}}))
}

fn manager() -> Value {
    let route = json!({"match": {"prefix": "/"}, "route": {"cluster": "next", "timeout": "0s"}});
    json!({
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "front",
            "codec_type": "AUTO",
            "stream_idle_timeout": "0s",
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
            "http_filters": [{
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
            }],
        },
    })
}

fn cluster(leg: &Leg<'_>) -> Value {
    let version = match leg.to {
        Side::Plain(Protocol::Http1) => "http_protocol_options",
        Side::Plain(Protocol::Http2) | Side::Mutual(..) => "http2_protocol_options",
    };
    let mut cluster = json!({
        "name": "next",
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {
            "cluster_name": "next",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(leg.next)}}]}],
        },
        "circuit_breakers": {"thresholds": [{
            "max_connections": REQUESTS_MAX, "max_pending_requests": REQUESTS_MAX, "max_requests": REQUESTS_MAX,
        }]},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {version: {}},
            },
        },
    });
    if let Side::Mutual(own, peer) = leg.to {
        cluster["transport_socket"] = tls("UpstreamTlsContext", own, peer);
    }
    cluster
}

fn tls(context: &str, own: &Files, peer: &str) -> Value {
    let mut typed = json!({
        "@type": format!("type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{context}"),
        "common_tls_context": {
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
            "alpn_protocols": ["h2"],
            "tls_certificates": [{
                "certificate_chain": {"filename": own.certificate}, "private_key": {"filename": own.key},
            }],
            "validation_context": {
                "trusted_ca": {"filename": own.root},
                "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": peer}}],
            },
        },
    });
    if context.starts_with("Downstream") {
        typed["require_client_certificate"] = json!(true);
    }
    json!({"name": "envoy.transport_sockets.tls", "typed_config": typed})
}

fn address(at: SocketAddr) -> Value {
    json!({"socket_address": {"address": at.ip(), "port_value": at.port()}})
}
