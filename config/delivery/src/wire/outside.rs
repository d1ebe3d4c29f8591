//! What a Backend says of endpoints outside the mesh.

use std::sync::Arc;

use penstock_model::snapshot::{HealthCheck, HealthScope, Host, PeerName, Roots, Tls};

use super::backends::{read_attributes, write_attributes};
use super::reading::{Misfit, each, known, needed, nested, port, read_duration, unset, write_duration};
use super::text;
use crate::proto::penstock::v1;

pub(super) fn write_host(host: &Host) -> v1::Host {
    v1::Host {
        name: host.name.to_string(),
        port: host.port.into(),
        attributes: write_attributes(&host.attributes),
    }
}

pub(super) fn read_host(message: v1::Host) -> Result<Host, Misfit> {
    text::dns_name("name", &message.name)?;
    Ok(Host {
        port: needed("port", port("port", Some(message.port))?)?,
        attributes: read_attributes(message.attributes)?,
        name: message.name.into(),
    })
}

pub(super) fn write_tls(tls: &Tls) -> v1::Tls {
    let roots = match &tls.roots {
        Roots::System => v1::tls::Roots::System(true),
        Roots::Pem(pem) => v1::tls::Roots::Pem(pem.to_string()),
        Roots::File(file) => v1::tls::Roots::File(file.to_string()),
    };
    let name = |name: &PeerName| match name {
        PeerName::Hostname(name) => v1::peer_name::Name::Hostname(name.to_string()),
        PeerName::Uri(uri) => v1::peer_name::Name::Uri(uri.to_string()),
    };
    v1::Tls {
        hostname: tls.hostname.to_string(),
        roots: Some(roots),
        names: tls.names.iter().map(|one| v1::PeerName { name: Some(name(one)) }).collect(),
    }
}

pub(super) fn read_tls(message: v1::Tls) -> Result<Tls, Misfit> {
    text::dns_name("hostname", &message.hostname)?;
    let roots = match needed("roots", message.roots)? {
        v1::tls::Roots::System(true) => Roots::System,
        v1::tls::Roots::System(false) => return Err(unset("system")),
        v1::tls::Roots::Pem(pem) => {
            text::check("pem", &pem, !pem.is_empty(), "PEM")?;
            Roots::Pem(pem.into())
        }
        v1::tls::Roots::File(file) => {
            let fits = file.starts_with('/') && !file.contains('\0');
            text::check("file", &file, fits, "the absolute path of a file")?;
            Roots::File(file.into())
        }
    };
    let names = each("names", message.names, read_name_of_peer)?;
    Ok(Tls { hostname: message.hostname.into(), roots, names })
}

fn read_name_of_peer(message: v1::PeerName) -> Result<PeerName, Misfit> {
    match needed("name", message.name)? {
        v1::peer_name::Name::Hostname(name) => {
            text::dns_name("hostname", &name)?;
            Ok(PeerName::Hostname(name.into()))
        }
        v1::peer_name::Name::Uri(uri) => {
            let fits = uri.contains(':') && uri.bytes().all(|b| b.is_ascii_graphic());
            text::check("uri", &uri, fits, "a URI")?;
            Ok(PeerName::Uri(uri.into()))
        }
    }
}

pub(super) fn write_health_check(check: &HealthCheck) -> v1::HealthCheck {
    let scope = match check.scope {
        HealthScope::OutsideMesh => v1::HealthScope::OutsideMesh,
        HealthScope::All => v1::HealthScope::All,
    };
    v1::HealthCheck {
        path: check.path.to_string(),
        port: check.port.map(u32::from),
        interval: Some(write_duration(check.interval)),
        timeout: Some(write_duration(check.timeout)),
        healthy_threshold: check.healthy_threshold,
        unhealthy_threshold: check.unhealthy_threshold,
        scope: scope.into(),
    }
}

pub(super) fn read_health_check(message: v1::HealthCheck) -> Result<HealthCheck, Misfit> {
    text::path("path", &message.path)?;
    Ok(HealthCheck {
        path: Arc::from(message.path),
        port: port("port", message.port)?,
        interval: nested("interval", message.interval, read_duration)?,
        timeout: nested("timeout", message.timeout, read_duration)?,
        healthy_threshold: at_least_one("healthy_threshold", message.healthy_threshold)?,
        unhealthy_threshold: at_least_one("unhealthy_threshold", message.unhealthy_threshold)?,
        scope: match known("scope", message.scope)? {
            v1::HealthScope::OutsideMesh => HealthScope::OutsideMesh,
            v1::HealthScope::All => HealthScope::All,
            v1::HealthScope::Unspecified => return Err(unset("scope")),
        },
    })
}

fn at_least_one(field: &str, count: u32) -> Result<u32, Misfit> {
    if count == 0 { Err(Misfit::new(field, "is 0, and 1 is the least")) } else { Ok(count) }
}
