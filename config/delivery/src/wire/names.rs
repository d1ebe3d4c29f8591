//! Names on the wire: `CLUSTER/NAMESPACE/NAME`, for an endpoint `CLUSTER/NAMESPACE/BACKEND/IP:PORT`.
//!
//! Namespaces and names hold no `/` (they are DNS names), so that a name is read back in one way only.

use std::net::SocketAddr;

use penstock_model::names::{BackendId, EndpointId, ObjectName};

/// There is one cluster as yet; the first segment keeps room for more.
const CLUSTER: &str = "penstock";

pub(super) fn of_object(name: &ObjectName) -> String {
    format!("{CLUSTER}/{}/{}", name.namespace, name.name)
}

pub(super) fn of_endpoint(id: &EndpointId) -> String {
    format!("{}/{}", of_object(&id.backend.0), id.address)
}

pub(super) fn to_object(text: &str) -> Option<ObjectName> {
    let mut segments = text.split('/');
    let name = object_segments(&mut segments)?;
    segments.next().is_none().then_some(name)
}

pub(super) fn to_endpoint(text: &str) -> Option<EndpointId> {
    let mut segments = text.split('/');
    let backend = BackendId(object_segments(&mut segments)?);
    let address: SocketAddr = segments.next()?.parse().ok()?;
    segments.next().is_none().then_some(EndpointId { backend, address })
}

fn object_segments<'a>(segments: &mut impl Iterator<Item = &'a str>) -> Option<ObjectName> {
    let (cluster, namespace, name) = (segments.next()?, segments.next()?, segments.next()?);
    (cluster == CLUSTER).then(|| ObjectName::new(namespace, name))
}
