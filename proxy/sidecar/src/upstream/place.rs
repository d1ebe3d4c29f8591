//! Where a connection goes and what it carries: the key under which connections are kept.

use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;

use penstock_model::settings::{Application, MetricsPage};
use penstock_model::snapshot::{Endpoint, Protocol};

use super::origin::Origin;
use crate::fleet::BackendState;

/// How requests are carried to a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Carrier {
    /// HTTP/2 over mutual TLS to a sidecar.
    Mesh,
    /// HTTP/2 in plaintext to an application.
    H2c,
    /// HTTP/1.1 in plaintext to an application.
    Http1,
    /// HTTP over TLS to an endpoint outside the mesh, in the version that it chooses.
    Tls(Offer),
}

/// Versions of HTTP that are offered in a TLS handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Offer {
    /// HTTP/2 and nothing else.
    Http2,
    /// HTTP/1.1 and nothing else.
    Http1,
    /// HTTP/2 and HTTP/1.1.
    Both,
}

impl Carrier {
    /// In plaintext.
    fn plaintext(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Http => Self::Http1,
            Protocol::H2c => Self::H2c,
        }
    }

    /// Over TLS.
    fn tls(protocol: Protocol) -> Self {
        Self::Tls(match protocol {
            Protocol::Http => Offer::Both,
            Protocol::H2c => Offer::Http2,
        })
    }

    /// The scheme of its requests.
    pub fn scheme(self) -> &'static str {
        match self {
            Self::Mesh | Self::Tls(_) => "https",
            Self::H2c | Self::Http1 => "http",
        }
    }
}

/// Which connections are interchangeable.
#[derive(Clone, Debug)]
pub struct Place {
    /// Where the connection goes.
    pub address: SocketAddr,
    /// What it carries.
    pub carrier: Carrier,
    /// Who must be there, for `Mesh`; any identity of the trust domain where absent.
    pub identity: Option<Arc<str>>,
    /// Who must be there, for `Tls`. Told by its place in memory: a Backend has one for as long as its `tls` stays the same.
    pub origin: Option<Arc<Origin>>,
}

impl Place {
    /// An application in plaintext.
    pub fn plaintext(address: SocketAddr, protocol: Protocol) -> Self {
        Self { address, carrier: Carrier::plaintext(protocol), identity: None, origin: None }
    }

    /// The application beside this sidecar.
    pub fn of_application(application: &Application) -> Self {
        Self::plaintext(application.connect, application.protocol)
    }

    /// Where the application says how loaded it is.
    pub fn of_metrics(page: &MetricsPage) -> Self {
        Self::plaintext(page.address, page.protocol)
    }

    /// An endpoint: by way of its sidecar, over TLS, or in plaintext.
    pub fn of_endpoint(backend: &BackendState, endpoint: &Endpoint) -> Self {
        match endpoint.sidecar {
            Some(address) => Self {
                address,
                carrier: Carrier::Mesh,
                identity: backend.backend.identity.clone(),
                origin: None,
            },
            None => Self::outside(backend, endpoint.id.address, backend.backend.protocol),
        }
    }

    /// An address that no sidecar stands in front of.
    pub fn outside(backend: &BackendState, address: SocketAddr, protocol: Protocol) -> Self {
        match backend.origin() {
            Some(origin) => Self {
                address,
                carrier: Carrier::tls(protocol),
                identity: None,
                origin: Some(Arc::clone(origin)),
            },
            None => Self::plaintext(address, protocol),
        }
    }

    /// The same for a connection that is to switch to WebSocket: hardly anybody does so from HTTP/2.
    #[must_use]
    pub fn to_switch(self) -> Self {
        let carrier = match self.carrier {
            Carrier::Tls(Offer::Both) => Carrier::Tls(Offer::Http1),
            other => other,
        };
        Self { carrier, ..self }
    }

    fn origin_key(&self) -> Option<*const Origin> {
        self.origin.as_ref().map(Arc::as_ptr)
    }
}

impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        self.address == other.address
            && self.carrier == other.carrier
            && self.identity == other.identity
            && self.origin_key() == other.origin_key()
    }
}

impl Eq for Place {}

impl Hash for Place {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.address.hash(state);
        self.carrier.hash(state);
        self.identity.hash(state);
        self.origin_key().hash(state);
    }
}
