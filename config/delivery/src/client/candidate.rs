//! A response, read and found sound, that nothing was done with yet.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Held;
use crate::proto::envoy::service::discovery::v3::{self as discovery, DeltaDiscoveryResponse};
use crate::wire::{Flaw, Resource, ResourceType};

/// gRPC's NOT_FOUND: in `resource_errors` it means that the resource was removed.
const NOT_FOUND: i32 = 5;

/// What a response would change.
#[derive(Clone, Debug, PartialEq)]
#[must_use = "accept it or reject it: the control plane waits for the answer"]
pub struct Candidate {
    pub(super) stream: u64,
    pub(super) resource_type: ResourceType,
    pub(super) nonce: String,
    pub(super) system_version: String,
    pub(super) made: Vec<Made>,
    pub(super) heartbeats: Vec<(String, Option<Duration>)>,
    pub(super) removed: Vec<String>,
    pub(super) unserved: Vec<Flaw>,
}

/// A new or changed resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Made {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) ttl: Option<Duration>,
    pub(super) resource: Resource,
}

enum Item {
    Made(Made),
    Heartbeat(String, Option<Duration>),
}

impl Candidate {
    /// Type of everything in it.
    pub fn resource_type(&self) -> ResourceType {
        self.resource_type
    }

    /// New and changed resources.
    pub fn made(&self) -> impl Iterator<Item = &Resource> {
        self.made.iter().map(|made| &made.resource)
    }

    /// Names of resources that are to be dropped.
    pub fn removed(&self) -> &[String] {
        &self.removed
    }

    /// Reads a response.
    ///
    /// # Errors
    /// Everything that is wrong with it, one flaw a resource.
    pub(super) fn read(
        stream: u64,
        resource_type: ResourceType,
        response: DeltaDiscoveryResponse,
        held: &BTreeMap<String, Held>,
    ) -> Result<Self, Vec<Flaw>> {
        let flaw = |name: &str, problem: String| Flaw {
            resource_type,
            name: name.to_owned(),
            field: String::new(),
            problem,
        };
        let mut candidate = Self {
            stream,
            resource_type,
            nonce: response.nonce,
            system_version: response.system_version_info,
            made: Vec::new(),
            heartbeats: Vec::new(),
            removed: Vec::new(),
            unserved: Vec::new(),
        };
        let mut names = BTreeSet::new();
        let mut flaws = Vec::new();
        for resource in response.resources {
            if !names.insert(resource.name.clone()) {
                flaws.push(flaw(&resource.name, "appears twice in one response".to_owned()));
                continue;
            }
            match read_item(resource_type, resource, held) {
                Ok(Item::Made(made)) => candidate.made.push(made),
                Ok(Item::Heartbeat(name, ttl)) => candidate.heartbeats.push((name, ttl)),
                Err(flaw) => flaws.push(flaw),
            }
        }
        let mut removed = response.removed_resources;
        removed.extend(response.removed_resource_names.into_iter().map(|name| name.name));
        for error in response.resource_errors {
            let name = error.resource_name.map(|name| name.name).unwrap_or_default();
            let status = error.error_detail.unwrap_or_default();
            if status.code == NOT_FOUND {
                removed.push(name);
            } else {
                candidate.unserved.push(flaw(&name, format!("could not be served: {}", status.message)));
            }
        }
        for name in removed.iter().filter(|name| names.contains(*name)) {
            flaws.push(flaw(name, "is both sent and removed in one response".to_owned()));
        }
        candidate.removed = removed;
        if flaws.is_empty() { Ok(candidate) } else { Err(flaws) }
    }
}

fn read_item(
    resource_type: ResourceType,
    message: discovery::Resource,
    held: &BTreeMap<String, Held>,
) -> Result<Item, Flaw> {
    let discovery::Resource { name, version, resource, ttl, .. } = message;
    let flaw = |field: &str, problem: String| Flaw {
        resource_type,
        name: name.clone(),
        field: field.to_owned(),
        problem,
    };
    let ttl = match ttl.map(Duration::try_from) {
        None => None,
        Some(Ok(ttl)) => Some(ttl),
        Some(Err(e)) => return Err(flaw("ttl", format!("is no time to live: {e}"))),
    };
    let Some(any) = resource else {
        if held.get(&name).is_some_and(|held| *held.version == *version) {
            return Ok(Item::Heartbeat(name, ttl));
        }
        return Err(flaw(
            "resource",
            format!("is missing, and version `{}` is not held", version.escape_debug()),
        ));
    };
    if any.type_url != resource_type.type_url() {
        let type_url = any.type_url.escape_debug();
        return Err(flaw("resource", format!("is a `{type_url}` in a response of {resource_type}")));
    }
    let resource = Resource::decode(resource_type, &name, &any.value)?;
    Ok(Item::Made(Made { name, version, ttl, resource }))
}
