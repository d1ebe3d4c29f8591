//! A snapshot, encoded once for all sidecars.

use std::collections::BTreeMap;
use std::sync::Arc;

use penstock_model::names::Version;
use penstock_model::snapshot::Snapshot;

use crate::wire::{Encoded, Resource, ResourceType};

/// Resources of one type by name.
pub(super) type Table = BTreeMap<Arc<str>, Entry>;

/// Version and bytes of one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// As it is sent.
    pub version: Arc<str>,
    /// The protobuf message.
    pub bytes: Arc<[u8]>,
}

/// What every sidecar should hold: made once for a snapshot, shared by all sessions.
#[derive(Clone, Debug)]
pub struct Published {
    version: Version,
    tables: [Table; ResourceType::ALL.len()],
}

impl Published {
    /// Encodes a snapshot.
    pub fn new(snapshot: &Snapshot) -> Self {
        let mut tables: [Table; ResourceType::ALL.len()] = Default::default();
        for resource in Resource::all(snapshot.parts()) {
            let Encoded { name, version, bytes } = resource.encode();
            tables[resource.resource_type().index()].insert(name, Entry { version, bytes });
        }
        Self { version: snapshot.version().clone(), tables }
    }

    /// Version of the snapshot.
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// Resources of one type in the order of their names.
    pub fn resources(&self, resource_type: ResourceType) -> impl Iterator<Item = (&Arc<str>, &Entry)> {
        self.table(resource_type).iter()
    }

    pub(super) fn table(&self, resource_type: ResourceType) -> &Table {
        &self.tables[resource_type.index()]
    }
}

/// Names whose version is not the same in both. One walk along both, since every session does this for every snapshot.
pub(super) fn changed<'a>(before: &'a Table, after: &'a Table) -> Vec<&'a Arc<str>> {
    let mut names = Vec::new();
    let mut old = before.iter().peekable();
    for (name, entry) in after {
        while let Some((gone, _)) = old.next_if(|(other, _)| *other < name) {
            names.push(gone);
        }
        let same = old.next_if(|(other, _)| *other == name);
        if same.is_none_or(|(_, other)| other.version != entry.version) {
            names.push(name);
        }
    }
    names.extend(old.map(|(gone, _)| gone));
    names
}
