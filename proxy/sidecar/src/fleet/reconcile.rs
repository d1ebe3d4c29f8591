//! From one snapshot, or one answer of the DNS, to the next: the only place where endpoint states begin and end.
//!
//! An endpoint that is the same in both keeps its state, with the requests that are in flight there. One that has changed its sidecar, or
//! whose sidecar must have another identity, is another endpoint: what the former one says must steer nothing any more. Whether it is
//! written or is an address of a name makes no difference. A new endpoint that is probed waits for its first success; one that has served
//! without probes is believed until the first of them say otherwise.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use penstock_model::names::EndpointId;
use penstock_model::snapshot::{Backend, Endpoint, Snapshot};
use penstock_policy::pick::subset;
use penstock_policy::route::RouteTable;

use super::names::Names;
use super::{BackendState, EndpointState, Fleet};
use crate::upstream::origin::Origin;

impl Fleet {
    /// The fleet of `snapshot`, with what is known of names, and with the history of this one.
    pub fn advance(&self, snapshot: Arc<Snapshot>, names: &Names) -> Self {
        let routes = if Arc::ptr_eq(&snapshot, &self.snapshot) {
            Arc::clone(&self.routes)
        } else {
            Arc::new(RouteTable::new(&snapshot))
        };
        let backends = snapshot
            .parts()
            .backends
            .values()
            .map(|backend| {
                let state = self.next(backend, &snapshot, names);
                (backend.id.clone(), Arc::new(state))
            })
            .collect();
        Self { snapshot, routes, backends }
    }

    fn next(&self, backend: &Arc<Backend>, snapshot: &Snapshot, names: &Names) -> BackendState {
        let before = self.backends.get(&backend.id);
        let hosts = backend.outside.hosts.iter();
        let mut state = BackendState {
            backend: Arc::clone(backend),
            policy: Arc::clone(snapshot.policy_of(&backend.id)),
            endpoints: Vec::new(),
            members: Vec::new(),
            hosts: hosts.map(|host| (host.clone(), names.get(&host.name).cloned())).collect(),
            origin: origin(backend, before),
            history: before.map(|state| Arc::clone(&state.history)).unwrap_or_default(),
        };
        let places = places(&state, snapshot.endpoints_of(&backend.id));
        state.endpoints =
            places.into_values().map(|endpoint| next_endpoint(endpoint, &state, before)).collect();
        let addresses: Vec<_> = state.endpoints.iter().map(|state| state.endpoint.id.address).collect();
        state.members = subset::members(state.history.key, &addresses);
        state
    }
}

/// Endpoints that are written, and addresses of names; the former win.
fn places(state: &BackendState, written: &[Arc<Endpoint>]) -> BTreeMap<SocketAddr, Arc<Endpoint>> {
    let mut places: BTreeMap<_, _> =
        written.iter().map(|endpoint| (endpoint.id.address, Arc::clone(endpoint))).collect();
    for (host, known) in &state.hosts {
        for ip in known.iter().flat_map(|known| known.resolution.addresses()) {
            let address = SocketAddr::new(ip, host.port);
            let id = EndpointId { backend: state.backend.id.clone(), address };
            let endpoint = Endpoint { id, sidecar: None, attributes: host.attributes.clone() };
            places.entry(address).or_insert_with(|| Arc::new(endpoint));
        }
    }
    places
}

fn next_endpoint(
    endpoint: Arc<Endpoint>,
    state: &BackendState,
    before: Option<&Arc<BackendState>>,
) -> Arc<EndpointState> {
    let kept = before.and_then(|before| {
        let found = before.endpoints.binary_search_by(|kept| kept.endpoint.id.cmp(&endpoint.id));
        let kept = before.endpoints.get(found.ok()?).filter(|kept| kept.endpoint == endpoint)?;
        let is_same_peer = endpoint.sidecar.is_none() || before.backend.identity == state.backend.identity;
        is_same_peer.then_some((before, kept))
    });
    let Some((before, kept)) = kept else { return EndpointState::new(endpoint) };
    if state.health_check_of(&endpoint).is_some() && before.health_check_of(&endpoint).is_none() {
        kept.probed.trust();
    }
    Arc::clone(kept)
}

/// TLS keeps its sessions and what it has read for as long as it is written the same.
fn origin(backend: &Backend, before: Option<&Arc<BackendState>>) -> Option<Arc<Origin>> {
    let tls = backend.outside.tls.as_ref()?;
    let kept = before.and_then(|before| before.origin.as_ref()).filter(|origin| origin.tls() == tls);
    Some(kept.map_or_else(|| Origin::new(Arc::clone(tls)), Arc::clone))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use penstock_model::names::BackendId;
    use penstock_model::snapshot::{
        Attributes, HealthCheck, HealthScope, Host, LoadBalancer, Outside, Parts, Policy, Protocol, Roots,
        Tls, Zones,
    };
    use penstock_policy::health::{Belief, Seen};
    use penstock_policy::ledger::Shape;
    use penstock_policy::pick::cost::{Report, Told};
    use penstock_policy::pick::{Considered, NoPick};
    use penstock_policy::resolution::{Bounds, Outcome};
    use penstock_policy::speed::Size;

    use super::super::Needs;
    use super::super::names::Known;
    use super::*;
    use crate::load::wire::Demand;

    fn snapshot(endpoints: &[(&str, &str)], outside: Outside) -> Arc<Snapshot> {
        let id = BackendId::new("default", "chat");
        let mut parts = Parts::default();
        let backend = Backend {
            id: id.clone(),
            hostnames: Vec::new(),
            is_default: true,
            protocol: Protocol::Http,
            identity: None,
            outside,
        };
        parts.backends.insert(id.clone(), Arc::new(backend));
        for (address, sidecar) in endpoints {
            let endpoint = Endpoint {
                id: EndpointId { backend: id.clone(), address: address.parse().unwrap() },
                sidecar: sidecar.parse().ok(),
                attributes: Attributes::default(),
            };
            parts.endpoints.insert(endpoint.id.clone(), Arc::new(endpoint));
        }
        Arc::new(Snapshot::assemble(parts))
    }

    fn backend(fleet: &Fleet) -> &Arc<BackendState> {
        fleet.backends().next().unwrap()
    }

    fn probed(scope: HealthScope) -> Outside {
        let check = HealthCheck { scope, ..HealthCheck::of("/health") };
        Outside { health_check: Some(Arc::new(check)), ..Outside::default() }
    }

    #[test]
    fn an_unchanged_endpoint_keeps_its_requests_and_a_changed_one_does_not() {
        let (a, b) = (("10.0.0.1:80", "10.0.0.1:4743"), ("10.0.0.2:80", "10.0.0.2:4743"));
        let first = Fleet::default().advance(snapshot(&[a, b], Outside::default()), &Names::new());
        let before = backend(&first);
        let tickets: Vec<_> =
            (0..8).map(|_| before.pick(&before.endpoints[1..], &Needs::default(), drop).unwrap()).collect();

        let changed = snapshot(&[a, ("10.0.0.2:80", "10.0.0.2:9999")], Outside::default());
        let second = first.advance(changed, &Names::new());
        let next = backend(&second);
        assert!(Arc::ptr_eq(&before.endpoints[0], &next.endpoints[0]));
        assert!(!Arc::ptr_eq(&before.endpoints[1], &next.endpoints[1]));
        assert_eq!(next.endpoints[0].in_flight(), 8);
        drop(tickets);
        assert_eq!(next.endpoints[0].in_flight(), 0);
    }

    #[test]
    fn a_sidecar_that_must_have_another_identity_is_another_endpoint() {
        let required = |identity: &str| {
            let endpoints = [("10.0.0.1:80", "10.0.0.1:4743"), ("10.0.0.2:80", "")];
            let mut parts = snapshot(&endpoints, Outside::default()).parts().clone();
            for backend in parts.backends.values_mut() {
                Arc::make_mut(backend).identity = Some(identity.into());
            }
            Arc::new(Snapshot::assemble(parts))
        };
        let first = Fleet::default().advance(required("spiffe://cluster.local/a"), &Names::new());
        let same = first.advance(required("spiffe://cluster.local/a"), &Names::new());
        let other = same.advance(required("spiffe://cluster.local/b"), &Names::new());
        let kept = |before: &Fleet, after: &Fleet| {
            let pairs = backend(before).endpoints.iter().zip(&backend(after).endpoints);
            pairs.map(|(before, after)| Arc::ptr_eq(before, after)).collect::<Vec<_>>()
        };
        assert_eq!(kept(&first, &same), [true, true]);
        assert_eq!(kept(&same, &other), [false, true], "nobody asks an endpoint without a sidecar who it is");
    }

    #[test]
    fn a_request_that_has_ended_weighs_on_its_endpoint_no_longer_even_before_a_report() {
        let endpoint = ("10.0.0.1:80", "10.0.0.1:4743");
        let fleet = Fleet::default().advance(snapshot(&[endpoint], Outside::default()), &Names::new());
        let demand = Demand { size: Size { tokens: 5_000, cached_tokens: 0 }, shape: Shape::Whole };
        let needs = Needs { demand: Some(demand), ..Needs::default() };
        let mut placements = Vec::new();
        let mut pick = || {
            let tell =
                |told: Considered| placements.extend(told.rows[0].estimate.map(|known| known.placements));
            backend(&fleet).pick(&[], &needs, tell).unwrap()
        };
        let first = pick();
        let second = pick();
        drop(first);
        drop(pick());
        drop(second);
        drop(pick());
        assert_eq!(placements, [0, 1, 1, 0]);
    }

    #[test]
    fn addresses_of_names_stand_among_those_that_are_written_each_once() {
        let mut known = Known::default();
        let addresses = ["10.0.0.1", "10.0.0.3", "fd00::3"].map(|text| text.parse().unwrap()).into();
        let found = Outcome::Found { addresses, ttl: Duration::from_secs(1) };
        let bounds = Bounds { ttl_min: Duration::ZERO, ttl_max: Duration::MAX };
        known.resolution.learn(found, Outcome::Failed, bounds, 0.5);
        let names = Names::from([("chat.example".into(), Arc::new(known))]);
        let hosts = vec![
            Host { name: "chat.example".into(), port: 80, attributes: Attributes::default() },
            Host { name: "chat.example".into(), port: 81, attributes: Attributes::default() },
            Host { name: "unknown.example".into(), port: 80, attributes: Attributes::default() },
        ];
        let outside = Outside { hosts, ..Outside::default() };
        let written = [("10.0.0.2:80", ""), ("10.0.0.3:80", "")];
        let first = Fleet::default().advance(snapshot(&written, outside), &names);
        let all: Vec<String> =
            backend(&first).endpoints.iter().map(|state| state.endpoint.id.address.to_string()).collect();
        let v4 = ["10.0.0.1:80", "10.0.0.1:81", "10.0.0.2:80", "10.0.0.3:80", "10.0.0.3:81"];
        assert_eq!(all, [&v4[..], &["[fd00::3]:80", "[fd00::3]:81"]].concat());

        let again = first.advance(Arc::clone(&first.snapshot), &Names::new());
        assert_eq!(backend(&again).endpoints.len(), 2);
        assert!(Arc::ptr_eq(&again.routes, &first.routes), "the same snapshot has the same rules");
        let kept = &backend(&first).endpoints[2..4];
        assert!(backend(&again).endpoints.iter().zip(kept).all(|(new, old)| Arc::ptr_eq(new, old)));
    }

    #[test]
    fn a_new_endpoint_gets_nothing_until_it_has_said_that_it_is_ready() {
        let check = HealthCheck::of("/health");
        let endpoints = [("10.0.0.1:80", ""), ("10.0.0.2:80", "")];
        let outside = probed(HealthScope::OutsideMesh);
        let fleet = Fleet::default().advance(snapshot(&endpoints, outside), &Names::new());
        let backend = backend(&fleet);
        assert_eq!(backend.pick(&[], &Needs::default(), drop).unwrap_err(), NoPick::NoEndpoints);
        let [a, b] = &backend.endpoints[..] else { panic!("two endpoints") };
        assert_eq!(a.probed.observe(Seen::Refusal, "answered 503", &check), None);
        assert_eq!(
            backend.absence(),
            "no endpoint is ready, of 2: 10.0.0.1:80 answered 503; 10.0.0.2:80 was not asked yet"
        );
        assert_eq!(b.probed.observe(Seen::Ready, "answered 200", &check), Some(Belief::Ready));
        for _ in 0..20 {
            assert!(Arc::ptr_eq(backend.pick(&[], &Needs::default(), drop).unwrap().endpoint(), b));
        }
        assert_eq!(b.probed.observe(Seen::Refusal, "answered 503", &check), Some(Belief::Unready));
        assert_eq!(backend.pick(&[], &Needs::default(), drop).unwrap_err(), NoPick::NoEndpoints);
    }

    #[test]
    fn why_nobody_is_there_is_told_of_each() {
        let endpoints = [("10.0.0.1:80", "10.0.0.1:4743"), ("10.0.0.2:80", "10.0.0.2:4743")];
        let mut parts = snapshot(&endpoints, Outside::default()).parts().clone();
        let (_, last) = parts.endpoints.iter_mut().next_back().unwrap();
        Arc::make_mut(last).attributes.weight = 0;
        let fleet = Fleet::default().advance(Arc::new(Snapshot::assemble(parts)), &Names::new());
        let backend = backend(&fleet);
        let (report, calls) = (Report::default(), [None; 3]);
        let told = Told { instance: 1, sequence: 1, draining: true, report, speed: None, calls };
        backend.endpoints[0].told(told);
        assert_eq!(backend.pick(&[], &Needs::default(), drop).unwrap_err(), NoPick::NoEndpoints);
        assert_eq!(
            backend.absence(),
            "no endpoint is ready, of 2: 10.0.0.1:80 takes nothing new, since its sidecar shuts down; \
             10.0.0.2:80 has the weight 0"
        );
    }

    #[test]
    fn only_who_is_ready_is_asked_what_a_request_would_cost_there() {
        let endpoints =
            [("10.0.0.1:80", "10.0.0.1:4743"), ("10.0.0.2:80", "10.0.0.2:4743"), ("10.0.0.3:80", "")];
        let fleet = Fleet::default().advance(snapshot(&endpoints, probed(HealthScope::All)), &Names::new());
        let backend = backend(&fleet);
        let priced =
            || backend.priced().map(|state| state.endpoint.id.address.to_string()).collect::<Vec<_>>();
        assert_eq!(priced(), Vec::<String>::new());
        for state in &backend.endpoints[1..] {
            state.probed.observe(Seen::Ready, "answered 200", &HealthCheck::of("/health"));
        }
        assert_eq!(priced(), ["10.0.0.2:80"]);
    }

    /// Where eight requests with these needs go, if anywhere: ports in order.
    fn goes(attributes: &[Attributes], policy: Policy, needs: &Needs) -> Result<BTreeSet<u16>, NoPick> {
        let addresses: Vec<_> = (1..=attributes.len()).map(|port| format!("10.0.0.1:{port}")).collect();
        let places: Vec<_> = addresses.iter().map(|address| (&**address, "")).collect();
        let mut parts = snapshot(&places, Outside::default()).parts().clone();
        for (endpoint, attributes) in parts.endpoints.values_mut().zip(attributes) {
            Arc::make_mut(endpoint).attributes = attributes.clone();
        }
        parts.policies.insert(BackendId::new("default", "chat"), Arc::new(policy));
        let fleet = Fleet::default().advance(Arc::new(Snapshot::assemble(parts)), &Names::new());
        let picks = (0..8).map(|_| backend(&fleet).pick(&[], needs, drop));
        let tickets: Vec<_> = picks.collect::<Result<_, _>>()?;
        Ok(tickets.iter().map(|ticket| ticket.endpoint().endpoint.id.address.port()).collect())
    }

    #[test]
    fn what_takes_nothing_new_or_does_not_serve_the_model_gets_nothing() {
        let model = |names: &[&str]| Attributes {
            models: names.iter().map(|name| (*name).into()).collect(),
            ..Attributes::default()
        };
        let attributes = [
            Attributes { weight: 0, ..Attributes::default() },
            model(&["a", "b"]),
            Attributes { lora: vec!["c".into()], ..model(&["a"]) },
            model(&[]),
        ];
        let check = |name: Option<&str>, expected: &[u16]| {
            let needs = Needs { model: name.map(Box::from), ..Needs::default() };
            for load_balancer in [LoadBalancer::RoundRobin, LoadBalancer::LeastCost] {
                let policy = Policy { load_balancer, ..Policy::default() };
                let gone = goes(&attributes, policy, &needs).unwrap();
                assert_eq!(gone, expected.iter().copied().collect(), "{name:?} {load_balancer:?}");
            }
        };
        check(None, &[2, 3, 4]);
        check(Some("a"), &[2, 3, 4]);
        check(Some("b"), &[2, 4]);
        check(Some("c"), &[3, 4]);
        let needs = Needs { model: Some("d".into()), ..Needs::default() };
        assert_eq!(goes(&attributes[1..3], Policy::default(), &needs), Err(NoPick::NoModel));
    }

    #[test]
    fn endpoints_of_the_own_zone_come_first_and_all_others_where_there_is_none() {
        let zone = |name: &str| Attributes { zone: Some(name.into()), ..Attributes::default() };
        let attributes = [zone("a"), zone("b"), Attributes::default()];
        let policy =
            Policy { load_balancer: LoadBalancer::Random, zones: Zones::OwnFirst, ..Policy::default() };
        let check = |attributes: &[Attributes], own: &str, expected: &[u16]| {
            let needs = Needs { zone: Some(own.into()), ..Needs::default() };
            let gone = goes(attributes, policy.clone(), &needs).unwrap();
            assert!(gone.iter().all(|port| expected.contains(port)), "{own}: {gone:?}");
        };
        check(&attributes, "a", &[1, 3]);
        check(&attributes, "b", &[2, 3]);
        check(&attributes[..2], "c", &[1, 2]);
    }

    #[test]
    fn a_session_goes_where_it_belongs() {
        let policy = Policy { load_balancer: LoadBalancer::ConsistentHash, ..Policy::default() };
        let attributes = vec![Attributes::default(); 100];
        let homes: BTreeSet<_> = (0..40)
            .map(|n| {
                let needs = Needs { session: Some(format!("session-{n}").into()), ..Needs::default() };
                let gone = goes(&attributes, policy.clone(), &needs).unwrap();
                // Eight that have not ended are more than its share, so there is a second.
                assert_eq!(gone.len(), 2, "{gone:?}");
                gone
            })
            .collect();
        assert!(homes.len() > 30, "{homes:?}");
    }

    #[test]
    fn a_check_that_is_added_or_taken_away_interrupts_nobody() {
        let endpoints = [("10.0.0.1:80", "")];
        let plain = Fleet::default().advance(snapshot(&endpoints, Outside::default()), &Names::new());
        let added = plain.advance(snapshot(&endpoints, probed(HealthScope::OutsideMesh)), &Names::new());
        assert!(backend(&added).pick(&[], &Needs::default(), drop).is_ok(), "it has served until now");
        let state = &backend(&added).endpoints[0];
        state.probed.observe(Seen::Refusal, "answered 503", &HealthCheck::of("/health"));
        assert!(backend(&added).pick(&[], &Needs::default(), drop).is_err());
        let removed = added.advance(snapshot(&endpoints, Outside::default()), &Names::new());
        assert!(backend(&removed).pick(&[], &Needs::default(), drop).is_ok());
    }

    #[test]
    fn endpoints_with_a_sidecar_are_asked_only_where_all_are() {
        let endpoints = [("10.0.0.1:80", "10.0.0.1:4743")];
        for (scope, is_asked) in [(HealthScope::OutsideMesh, false), (HealthScope::All, true)] {
            let fleet = Fleet::default().advance(snapshot(&endpoints, probed(scope)), &Names::new());
            let backend = backend(&fleet);
            assert_eq!(
                backend.health_check_of(&backend.endpoints[0].endpoint).is_some(),
                is_asked,
                "{scope:?}"
            );
            assert_eq!(backend.pick(&[], &Needs::default(), drop).is_err(), is_asked, "{scope:?}");
        }
    }

    #[test]
    fn tls_keeps_its_sessions_for_as_long_as_it_is_written_the_same() {
        let outside = |hostname: &str| {
            let tls = Tls { hostname: hostname.into(), roots: Roots::System, names: Vec::new() };
            Outside { tls: Some(Arc::new(tls)), ..Outside::default() }
        };
        let first = Fleet::default().advance(snapshot(&[], outside("a.example")), &Names::new());
        let same = first.advance(snapshot(&[("10.0.0.1:80", "")], outside("a.example")), &Names::new());
        let other = same.advance(snapshot(&[], outside("b.example")), &Names::new());
        let origin = |fleet: &Fleet| Arc::clone(backend(fleet).origin().unwrap());
        assert!(Arc::ptr_eq(&origin(&first), &origin(&same)));
        assert!(!Arc::ptr_eq(&origin(&same), &origin(&other)));
    }
}
