//! From one snapshot to the next: the only place where endpoint states begin and end.
//!
//! An endpoint that is written the same in both keeps its state, with the requests that are in flight there. One that has changed
//! its sidecar is another endpoint.

use std::sync::Arc;

use penstock_model::snapshot::Snapshot;
use penstock_policy::route::RouteTable;

use super::{BackendState, EndpointState, Fleet};

impl Fleet {
    /// The fleet of `snapshot`, with the history of this one.
    pub fn advance(&self, snapshot: Arc<Snapshot>) -> Self {
        let routes = RouteTable::new(&snapshot);
        let backends = snapshot
            .parts()
            .backends
            .values()
            .map(|backend| {
                let before = self.backends.get(&backend.id);
                let endpoints = snapshot.endpoints_of(&backend.id).iter().map(|endpoint| {
                    let kept = before
                        .and_then(|state| state.endpoints.iter().find(|kept| kept.endpoint == *endpoint));
                    kept.map_or_else(|| EndpointState::new(Arc::clone(endpoint)), Arc::clone)
                });
                let state = BackendState {
                    backend: Arc::clone(backend),
                    policy: Arc::clone(snapshot.policy_of(&backend.id)),
                    endpoints: endpoints.collect(),
                    history: before.map(|state| Arc::clone(&state.history)).unwrap_or_default(),
                };
                (backend.id.clone(), Arc::new(state))
            })
            .collect();
        Self { snapshot, routes, backends }
    }
}

#[cfg(test)]
mod tests {
    use penstock_model::names::{BackendId, EndpointId};
    use penstock_model::snapshot::{Backend, Endpoint, Outside, Parts, Protocol};

    use super::*;

    fn snapshot(endpoints: &[(&str, &str)]) -> Arc<Snapshot> {
        let id = BackendId::new("default", "chat");
        let mut parts = Parts::default();
        let backend = Backend {
            id: id.clone(),
            hostnames: Vec::new(),
            is_default: true,
            protocol: Protocol::Http,
            identity: None,
            outside: Outside::default(),
        };
        parts.backends.insert(id.clone(), Arc::new(backend));
        for (address, sidecar) in endpoints {
            let endpoint = Endpoint {
                id: EndpointId { backend: id.clone(), address: address.parse().unwrap() },
                sidecar: Some(sidecar.parse().unwrap()),
            };
            parts.endpoints.insert(endpoint.id.clone(), Arc::new(endpoint));
        }
        Arc::new(Snapshot::assemble(parts))
    }

    #[test]
    fn an_unchanged_endpoint_keeps_its_requests_and_a_changed_one_does_not() {
        let id = BackendId::new("default", "chat");
        let (a, b) = (("10.0.0.1:80", "10.0.0.1:4743"), ("10.0.0.2:80", "10.0.0.2:4743"));
        let first = Fleet::default().advance(snapshot(&[a, b]));
        let backend = first.backend(&id).unwrap();
        let tickets: Vec<_> = (0..8).map(|_| backend.pick(&backend.endpoints[1..]).unwrap()).collect();

        let second = first.advance(snapshot(&[a, ("10.0.0.2:80", "10.0.0.2:9999")]));
        let next = second.backend(&id).unwrap();
        assert!(Arc::ptr_eq(&backend.endpoints[0], &next.endpoints[0]));
        assert!(!Arc::ptr_eq(&backend.endpoints[1], &next.endpoints[1]));
        assert_eq!(next.endpoints[0].in_flight(), 8);
        drop(tickets);
        assert_eq!(next.endpoints[0].in_flight(), 0);
    }
}
