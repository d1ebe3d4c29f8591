//! ProxyConfig to settings.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::document::Document;
use crate::document::backend::BackendProtocol;
use crate::document::proxy_config::{
    AccessLogSpec, ApplicationSpec, DnsSpec, InboundSpec, LimitsSpec, ProxyConfigSpec,
};
use crate::finding::Code;
use crate::settings::{
    AccessLog, Application, CertificateFiles, ControlPlane, DRAIN_DEADLINE_DEFAULT, Dns, Inbound, Limits,
    MetricsPage, Outbound, ProxySettings,
};
use crate::snapshot::Protocol;
use crate::source::FieldPath;
use crate::spiffe::SpiffeId;
use crate::units::{ByteSize, Span};

use super::{Review, backends};

/// The settings; nothing where the identity is unusable, which is noted.
pub(super) fn lower(
    document: &Document,
    spec: &ProxyConfigSpec,
    base_dir: &Path,
    review: &mut Review<'_>,
) -> Option<ProxySettings> {
    let path = FieldPath::spec();
    sources(spec, &path, review);
    listeners(spec, &path, review);
    let relative = |text: &String| resolve(text, base_dir);
    let identity = SpiffeId::workload(
        &spec.identity.trust_domain.0,
        &document.name.namespace,
        &spec.identity.service_account.0,
    );
    let identity = identity
        .map_err(|error| review.note(Code::BadFormat, &path.field("identity"), error.to_string()))
        .ok()?;
    Some(ProxySettings {
        workload: document.name.clone(),
        identity,
        certificates: spec.identity.certificates.as_ref().map(|files| CertificateFiles {
            chain: relative(&files.chain_file),
            key: relative(&files.key_file),
            trust_bundle: relative(&files.trust_bundle_file),
        }),
        control_plane: spec.control_plane.as_ref().map(|plane| ControlPlane {
            address: plane.address.0.clone(),
            trust_bundle: relative(&plane.trust_bundle_file),
            token: relative(&plane.token_file),
        }),
        documents: spec.documents.as_ref().map(relative),
        state_dir: spec.state_dir.as_ref().map(relative),
        outbound: spec.outbound.as_ref().map(|outbound| Outbound { listen: outbound.listen.0 }),
        inbound: spec.inbound.as_ref().map(|inbound| lower_inbound(inbound, &path.field("inbound"), review)),
        admin: spec.admin.listen.0,
        limits: limits(&spec.limits),
        drain_deadline: spec.drain.deadline.as_ref().map_or(DRAIN_DEADLINE_DEFAULT, Span::duration),
        access_log: access_log(&spec.access_log, base_dir),
        dns: dns(&spec.dns, &path.field("dns"), review),
        zone: spec.zone.as_ref().map(|zone| zone.0.as_str().into()),
        log_level: spec.log_level.clone(),
    })
}

/// The path seen from `base_dir`, without the `.` of `./state`.
fn resolve(text: &str, base_dir: &Path) -> PathBuf {
    base_dir.join(text).components().collect()
}

fn sources(spec: &ProxyConfigSpec, path: &FieldPath, review: &mut Review<'_>) {
    if spec.control_plane.is_none() && spec.documents.is_none() {
        review.note(Code::NoSource, path, "neither `controlPlane` nor `documents`");
    }
    if spec.inbound.is_some() && spec.control_plane.is_none() && spec.identity.certificates.is_none() {
        let message = "an inbound listener needs a certificate, and there is neither `controlPlane` nor \
                       `identity.certificates` to get one from";
        review.note(Code::InboundWithoutIdentity, &path.field("inbound"), message);
    }
}

fn listeners(spec: &ProxyConfigSpec, path: &FieldPath, review: &mut Review<'_>) {
    if spec.outbound.is_none() && spec.inbound.is_none() {
        review.note(Code::NoListener, path, "neither `outbound` nor `inbound`");
    }
    let outbound = spec.outbound.as_ref().map(|outbound| ("outbound", outbound.listen.0));
    let inbound = spec.inbound.as_ref().map(|inbound| ("inbound", inbound.listen.0));
    let admin = Some(("admin", spec.admin.listen.0));
    let mut open: Vec<(&str, SocketAddr)> = Vec::new();
    for (name, listen) in [outbound, inbound, admin].into_iter().flatten() {
        let at = path.field(name).field("listen");
        if let Some((other, _)) = open.iter().find(|(_, other)| overlap(*other, listen)) {
            let other = path.field((*other).to_owned()).field("listen");
            let message = format!("{listen} is taken by another listener");
            review.note_two(Code::ListenerTwice, &at, message, &other, "the other is here");
        }
        open.push((name, listen));
    }
    if let Some((name, listen)) = outbound
        && !listen.ip().is_loopback()
    {
        let message = format!("{listen} can be reached from other machines");
        review.note(Code::OutboundExposed, &path.field(name).field("listen"), message);
    }
}

/// Whether two listeners want one port. Port 0 is a new one each time.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let same_ip = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() == b.port() && a.port() != 0 && same_ip
}

fn lower_inbound(written: &InboundSpec, path: &FieldPath, review: &mut Review<'_>) -> Inbound {
    let listen = written.listen.0;
    let mut seen: BTreeMap<SocketAddr, FieldPath> = BTreeMap::new();
    let mut applications = Vec::new();
    for (index, written) in written.applications.iter().enumerate() {
        let at = path.field("applications").item(index);
        let endpoint = written.endpoint.0;
        let endpoint_at = at.field("endpoint");
        let (connect, connect_at) = match &written.connect {
            Some(connect) => (connect.0, at.field("connect")),
            None => (endpoint, endpoint_at.clone()),
        };
        if is_own(connect, listen) {
            review.note(
                Code::ApplicationLoop,
                &connect_at,
                format!("{connect} is the inbound listener itself"),
            );
        }
        if let Some(first) = seen.get(&endpoint) {
            let message = format!("a second application for the endpoint {endpoint}");
            review.note_two(Code::ApplicationTwice, &endpoint_at, message, first, "the first is here");
            continue;
        }
        seen.insert(endpoint, endpoint_at);
        let protocol = backends::protocol(written.protocol);
        let metrics = metrics(written, connect);
        if let Some(page) =
            metrics.as_ref().filter(|page| page.address != connect && is_own(page.address, listen))
        {
            let message = format!("{} is the inbound listener itself", page.address);
            let help = "write in `port` where the model server has its metrics";
            review.note_with_help(Code::ApplicationLoop, &at.field("metrics").field("port"), message, help);
        }
        applications.push(Application { endpoint, connect, protocol, metrics });
    }
    Inbound { listen, applications }
}

/// Whether an application's address is the listener's. An unspecified one listens on every address, loopback included; which others are
/// this machine's is not known here.
fn is_own(address: SocketAddr, listen: SocketAddr) -> bool {
    address == listen
        || listen.ip().is_unspecified() && address.ip().is_loopback() && address.port() == listen.port()
}

fn metrics(written: &ApplicationSpec, connect: SocketAddr) -> Option<MetricsPage> {
    let page = &written.metrics;
    let (address, protocol) = match page.port {
        Some(port) => (SocketAddr::new(connect.ip(), port), Protocol::Http),
        None => (connect, backends::protocol(written.protocol)),
    };
    let has_page = page.port.is_some() || written.protocol != BackendProtocol::Grpc;
    let path = page.path.as_ref().map(|path| path.0.clone());
    page.scrape.unwrap_or(has_page).then_some(MetricsPage { address, protocol, path })
}

fn limits(written: &LimitsSpec) -> Limits {
    let defaults = Limits::default();
    let header_bytes = written.header_bytes_max.as_ref().and_then(|size| u32::try_from(size.bytes()).ok());
    Limits {
        connections_max: written
            .connections_max
            .and_then(|most| usize::try_from(most).ok())
            .unwrap_or(defaults.connections_max),
        streams_per_connection_max: written
            .streams_per_connection_max
            .unwrap_or(defaults.streams_per_connection_max),
        header_bytes_max: header_bytes.unwrap_or(defaults.header_bytes_max),
        header_read_timeout: written
            .header_read_timeout
            .as_ref()
            .map_or(defaults.header_read_timeout, Span::duration),
        body_held_bytes_total_max: written
            .body_held_total_max
            .as_ref()
            .map_or(defaults.body_held_bytes_total_max, ByteSize::bytes),
    }
}

fn dns(written: &DnsSpec, path: &FieldPath, review: &mut Review<'_>) -> Dns {
    let defaults = Dns::default();
    let span = |written: &Option<Span>, default| written.as_ref().map_or(default, Span::duration);
    // A bound that is not written gives way to the one that is.
    let ttl_min = span(&written.ttl_min, defaults.ttl_min);
    let ttl_max = span(&written.ttl_max, defaults.ttl_max.max(ttl_min));
    if ttl_min > ttl_max && written.ttl_min.is_some() {
        let message = "`ttlMin` is longer than `ttlMax`";
        review.note_two(
            Code::DnsBounds,
            &path.field("ttlMin"),
            message,
            &path.field("ttlMax"),
            "the upper bound",
        );
    }
    Dns {
        servers: written.servers.iter().map(|server| server.0).collect(),
        ttl_min: ttl_min.min(ttl_max),
        ttl_max,
        timeout: span(&written.timeout, defaults.timeout),
    }
}

fn access_log(written: &AccessLogSpec, base_dir: &Path) -> AccessLog {
    match written.path.as_deref() {
        None | Some("/dev/stdout") => AccessLog::Stdout,
        Some("off") => AccessLog::Off,
        Some(file) => AccessLog::File(resolve(file, base_dir)),
    }
}
