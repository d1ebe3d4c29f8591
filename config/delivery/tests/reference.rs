//! Both ends against a reference model that is too simple to be wrong: one map from name to version at each end.
//!
//! The stream can end after any message; publishing, refusals and subscriptions with stale nonces happen in between. gRPC neither
//! loses, copies nor reorders messages, but what relays it might: a second set of properties runs over a link that does all
//! three. A message that is lost leaves an answer missing; the control plane then ends the stream, and the sidecar opens another.
//! What must hold after every step is asserted in [`World`], what must hold in the end in [`World::settle`].
#![allow(clippy::panic, clippy::unwrap_used, reason = "this is how a test fails, also in what tests share")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use penstock_delivery::client::{Candidate, ClientAction, ClientState, Received};
use penstock_delivery::proto::envoy::config::core::v3::Node;
use penstock_delivery::proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse,
};
use penstock_delivery::proto::google::rpc::Status;
use penstock_delivery::server::{Published, RESPONSE_BYTES_MAX, ServerAction, Session};
use penstock_delivery::wire::{Flaw, Resource, ResourceType};
use penstock_model::names::{BackendId, EndpointId, RouteId, SloId};
use penstock_model::snapshot::{
    Attributes, Backend, Endpoint, Match, Outside, Parts, PathMatch, Policy, Protocol, Route, Rule, Slo,
    SloTarget, Snapshot, WeightedBackend,
};
use penstock_model::units::Moment;
use proptest::prelude::*;

/// A resource that carries this is refused by the client.
const POISON: &str = "poison";

/// What one end believes: name to version, by type.
type Map = BTreeMap<(ResourceType, String), String>;

/// The reference: what was published, and what the messages that the client has used add up to.
#[derive(Default)]
struct Reference {
    published: Map,
    client: Map,
}

impl Reference {
    fn publish(&mut self, published: &Published) {
        self.published = ResourceType::ALL
            .into_iter()
            .flat_map(|t| {
                published.resources(t).map(move |(n, e)| ((t, n.to_string()), e.version.to_string()))
            })
            .collect();
    }

    fn use_response(&mut self, response: &DeltaDiscoveryResponse) {
        let t = ResourceType::from_type_url(&response.type_url).unwrap();
        for resource in &response.resources {
            self.client.insert((t, resource.name.clone()), resource.version.clone());
        }
        for name in &response.removed_resources {
            self.client.remove(&(t, name.clone()));
        }
    }
}

/// How the client's owner words a refusal.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Blame {
    /// With the names of the resources at fault.
    Named,
    /// As a foreign client would: only that the response is refused.
    Whole,
}

#[derive(Clone, Debug)]
enum Step {
    Publish(Parts),
    ToClient,
    ToServer,
    Cut,
    /// Until the client's timer is due.
    Wait,
    /// The link loses, copies or swaps messages in one direction.
    Fault(Fault, Direction),
    /// A subscription change with a nonce that answers nothing.
    Stale {
        resource_type: ResourceType,
        name: String,
        adds: bool,
    },
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    Lose,
    /// The next message will arrive once more, at some later time.
    Copy,
    /// The copy arrives.
    Late,
    Swap,
}

#[derive(Clone, Copy, Debug)]
enum Direction {
    ToClient,
    ToServer,
}

/// Messages under way in one direction.
struct Link<M> {
    queue: VecDeque<M>,
    copies: VecDeque<M>,
}

impl<M: Clone> Link<M> {
    fn new() -> Self {
        Self { queue: VecDeque::new(), copies: VecDeque::new() }
    }

    fn clear(&mut self) {
        *self = Self::new();
    }

    fn disturb(&mut self, fault: Fault) {
        let Self { queue, copies } = self;
        match fault {
            Fault::Lose => drop(queue.pop_front()),
            Fault::Copy => copies.extend(queue.front().cloned()),
            Fault::Late => queue.extend(copies.pop_front()),
            Fault::Swap if queue.len() > 1 => queue.swap(0, 1),
            Fault::Swap => {}
        }
    }
}

struct World {
    reference: Reference,
    session: Session,
    client: ClientState,
    to_client: Link<DeltaDiscoveryResponse>,
    to_server: Link<DeltaDiscoveryRequest>,
    published: Option<Arc<Published>>,
    /// Responses of this stream without answer: nonce by type.
    outstanding: BTreeMap<ResourceType, String>,
    answered: BTreeSet<String>,
    was_poisoned: bool,
    /// Messages of this stream were copied or swapped.
    was_disturbed: bool,
    /// Messages of this stream were lost.
    was_lossy: bool,
    streams: u64,
    response_bytes_max: usize,
    blame: Blame,
    now: Moment,
}

impl World {
    fn new(response_bytes_max: usize, blame: Blame) -> Self {
        let mut world = Self {
            reference: Reference::default(),
            session: Session::new(0),
            client: ClientState::new(Node::default(), Parts::default()),
            to_client: Link::new(),
            to_server: Link::new(),
            published: None,
            outstanding: BTreeMap::new(),
            answered: BTreeSet::new(),
            was_poisoned: false,
            was_disturbed: false,
            was_lossy: false,
            streams: 0,
            response_bytes_max,
            blame,
            now: Moment(0),
        };
        world.cut();
        world
    }

    fn step(&mut self, step: Step) {
        self.now = self.now + Duration::from_millis(1);
        match step {
            Step::Publish(parts) => self.publish(parts),
            Step::ToClient => self.deliver_to_client(),
            Step::ToServer => self.deliver_to_server(),
            Step::Cut => self.cut(),
            Step::Wait => drop(self.wait()),
            Step::Fault(fault, direction) => {
                self.was_disturbed = true;
                self.was_lossy |= matches!(fault, Fault::Lose);
                // What a type begins with says what the client holds; nothing may overtake that, or the server never hears of it.
                let begins =
                    self.to_server.queue.front().is_some_and(|first| first.response_nonce.is_empty());
                match direction {
                    Direction::ToClient => self.to_client.disturb(fault),
                    Direction::ToServer if matches!(fault, Fault::Swap) && begins => {}
                    Direction::ToServer => self.to_server.disturb(fault),
                }
            }
            Step::Stale { resource_type, name, adds } => {
                let names = vec![name];
                let (added, taken) = if adds { (names, Vec::new()) } else { (Vec::new(), names) };
                self.to_server.queue.push_back(DeltaDiscoveryRequest {
                    type_url: resource_type.type_url().to_owned(),
                    resource_names_subscribe: added,
                    resource_names_unsubscribe: taken,
                    response_nonce: "of another stream".to_owned(),
                    ..DeltaDiscoveryRequest::default()
                });
            }
        }
    }

    fn publish(&mut self, parts: Parts) {
        self.was_poisoned |= Resource::all(&parts).any(|r| is_poison(&r));
        let published = Arc::new(Published::new(&Snapshot::assemble(parts)));
        self.reference.publish(&published);
        let actions = self.session.publish(&published);
        self.published = Some(published);
        self.on_server_actions(actions);
    }

    /// The stream ends: what is under way is lost, and the server starts from nothing.
    fn cut(&mut self) {
        self.to_client.clear();
        self.to_server.clear();
        self.outstanding.clear();
        self.was_lossy = false;
        self.client.disconnected();
        self.streams += 1;
        self.session = Session::with_response_bytes_max(self.streams, self.response_bytes_max);
        if let Some(published) = self.published.clone() {
            let actions = self.session.publish(&published);
            assert_eq!(actions, [], "nothing is sent before it is asked for");
        }
        let actions = self.client.connected(self.now);
        self.on_client_actions(actions);
    }

    fn deliver_to_server(&mut self) {
        let Some(request) = self.to_server.queue.pop_front() else { return };
        let actions = self.session.request(request);
        self.on_server_actions(actions);
    }

    fn on_server_actions(&mut self, actions: Vec<ServerAction>) {
        for action in actions {
            match action {
                ServerAction::Send(response) => self.on_sent(response),
                ServerAction::Acked { resource_type, nonce }
                | ServerAction::Nacked { resource_type, nonce, .. } => {
                    assert_eq!(self.outstanding.remove(&resource_type).as_ref(), Some(&nonce));
                    assert!(self.answered.insert(nonce), "answered twice");
                }
                ServerAction::End(why) => panic!("{why}"),
            }
        }
    }

    fn on_sent(&mut self, response: DeltaDiscoveryResponse) {
        let t = ResourceType::from_type_url(&response.type_url).unwrap();
        if !response.resources.is_empty() {
            let before = self.outstanding.keys().find(|other| **other <= t);
            assert_eq!(before, None, "{t} are made while an earlier type awaits its answer");
        }
        let names: BTreeSet<_> = response.resources.iter().map(|r| &r.name).collect();
        assert_eq!(names.len(), response.resources.len(), "a name twice in one response");
        let previous = self.outstanding.insert(t, response.nonce.clone());
        assert_eq!(previous, None, "two responses of {t} in flight");
        self.to_client.queue.push_back(response);
    }

    fn deliver_to_client(&mut self) {
        let Some(response) = self.to_client.queue.pop_front() else { return };
        let candidate = match self.client.response(response.clone(), self.now) {
            Received::Candidate(candidate) => candidate,
            Received::Copy => return assert!(self.was_disturbed, "a copy where there is none"),
            Received::Refused(_) => panic!("refused: {response:?}"),
        };
        let poison: Vec<_> = candidate.made().filter(|r| is_poison(r)).cloned().collect();
        if poison.is_empty() {
            self.reference.use_response(&response);
            let actions = self.client.accept(candidate, self.now);
            self.on_client_actions(actions);
        } else {
            self.refuse(candidate, &poison);
        }
        self.check_client();
    }

    fn refuse(&mut self, candidate: Candidate, poison: &[Resource]) {
        let flaw = |r: &Resource| Flaw {
            resource_type: r.resource_type(),
            name: r.name(),
            field: "rules".to_owned(),
            problem: POISON.to_owned(),
        };
        let flaws = poison.iter().map(flaw).collect();
        let actions = self.client.reject(candidate, flaws, self.now);
        self.on_client_actions(actions);
    }

    fn on_client_actions(&mut self, actions: Vec<ClientAction>) {
        for action in actions {
            match action {
                ClientAction::Send(mut request) => {
                    if let (Blame::Whole, Some(status)) = (self.blame, &mut request.error_detail) {
                        *status = Status { code: 3, message: POISON.to_owned(), details: Vec::new() };
                    }
                    self.to_server.queue.push_back(*request);
                }
                ClientAction::Publish(parts) => assert_eq!(&parts, self.client.parts()),
                // The time may pass while answers are under way.
                ClientAction::Overdue(_) => {}
            }
        }
    }

    /// The client holds exactly what the messages say, and, where nothing was refused, never a reference that points nowhere.
    fn check_client(&self) {
        let held = |t: ResourceType| {
            self.client.held(t).iter().map(move |(n, held)| ((t, n.clone()), held.version.to_string()))
        };
        let by_name: Map = ResourceType::ALL.into_iter().flat_map(held).collect();
        assert_eq!(by_name, self.reference.client);
        let content = |r: Resource| {
            let encoded = r.encode();
            ((r.resource_type(), encoded.name.to_string()), encoded.version.to_string())
        };
        let by_content: Map = Resource::all(self.client.parts()).map(content).collect();
        assert_eq!(by_content, self.reference.client);
        if !self.was_poisoned && !self.was_disturbed {
            assert_eq!(dangling(self.client.parts()), None);
        }
    }

    /// Lets the time pass until the client has something to do; says whether it ever has.
    fn wait(&mut self) -> bool {
        let Some(due) = self.client.next_timer() else { return false };
        self.now = self.now.max(due);
        let actions = self.client.timer(self.now);
        self.on_client_actions(actions);
        true
    }

    /// Delivers everything until nobody has anything to say. That this ends is the proof that a NACK makes no loop.
    fn pump(&mut self) {
        for _ in 0..2_000 {
            if self.to_client.queue.is_empty() && self.to_server.queue.is_empty() && !self.wait() {
                return;
            }
            self.step(Step::ToServer);
            self.step(Step::ToClient);
        }
        panic!("both ends still talk");
    }

    /// Everything under way arrives; then something sound is published.
    fn settle(&mut self, last: Parts) {
        self.pump();
        if self.was_lossy {
            self.cut();
            self.pump();
        }
        if self.blame == Blame::Named && self.published.is_some() {
            self.check_only_poison_differs();
        }
        self.publish(last);
        self.pump();
        assert_eq!(self.reference.client, self.reference.published);
        assert_eq!(self.outstanding, BTreeMap::new());
        assert!(self.client.is_settled());
        let status = self.session.status();
        assert_eq!(status.synced.as_ref(), self.published.as_ref().map(|p| p.version()), "{status:?}");
    }

    /// Nothing sound is held up by what is refused.
    fn check_only_poison_differs(&self) {
        let published = self.published.as_ref().unwrap();
        let mut poison = BTreeSet::new();
        for t in ResourceType::ALL {
            for (name, entry) in published.resources(t) {
                if is_poison(&Resource::decode(t, name, &entry.bytes).unwrap()) {
                    poison.insert((t, name.to_string()));
                }
            }
        }
        let sound = |map: &Map| -> Map {
            map.iter()
                .filter(|(key, _)| !poison.contains(*key))
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect()
        };
        assert_eq!(sound(&self.reference.client), sound(&self.reference.published));
        let refused = self.session.status().types.iter().map(|t| t.refusals.len()).sum::<usize>();
        assert_eq!(refused, poison.len());
    }
}

fn is_poison(resource: &Resource) -> bool {
    match resource {
        Resource::Backend(backend) => backend.hostnames.iter().any(|h| &**h == POISON),
        Resource::Route(route) => route.rules.iter().any(|r| &*r.name == POISON),
        _ => false,
    }
}

fn dangling(parts: &Parts) -> Option<String> {
    let backend = |id: &BackendId| (!parts.backends.contains_key(id)).then(|| id.to_string());
    let of_endpoints = parts.endpoints.keys().find_map(|e| backend(&e.backend));
    let of_policies = parts.policies.keys().find_map(backend);
    let weighted = parts.routes.values().flat_map(|r| &r.rules).flat_map(|r| &r.backends);
    let of_routes = weighted.into_iter().find_map(|w| backend(&w.backend));
    let of_slos = parts.slos.values().find_map(|slo| match &slo.target {
        SloTarget::Route { route, .. } => (!parts.routes.contains_key(route)).then(|| route.to_string()),
        SloTarget::Backend(id) => backend(id),
    });
    of_endpoints.or(of_policies).or(of_routes).or(of_slos)
}

const BACKENDS: [&str; 3] = ["a", "b", "c"];

/// Documents of a small mesh in which every reference resolves. Of each byte of `choices`, some bits say whether the object is
/// there, others which of a few contents it has.
fn parts(choices: [u8; 12], may_poison: bool) -> Parts {
    let mut parts = Parts::default();
    let word = |choice: u8| {
        if may_poison && choice & 0b111 == 7 { POISON.to_owned() } else { format!("v{}", choice & 3) }
    };
    for (i, name) in BACKENDS.into_iter().enumerate().filter(|(i, _)| choices[*i] & 0b1000_0000 != 0) {
        let id = BackendId::new("ns", name);
        let backend = Backend {
            id: id.clone(),
            hostnames: vec![word(choices[i]).into()],
            is_default: false,
            protocol: Protocol::Http,
            identity: None,
            outside: Outside::default(),
        };
        Resource::Backend(Arc::new(backend)).insert_into(&mut parts);
        for port in (0..3_u16).filter(|p| choices[3 + i] >> p & 1 != 0) {
            let address = ([10, 0, 0, 1], 8_000 + port).into();
            let sidecar = (choices[3 + i] & 0b1000 != 0).then(|| ([10, 0, 0, 1], 4743).into());
            let endpoint = Endpoint {
                id: EndpointId { backend: id.clone(), address },
                sidecar,
                attributes: Attributes::default(),
            };
            Resource::Endpoint(Arc::new(endpoint)).insert_into(&mut parts);
        }
        if choices[6 + i] & 1 != 0 {
            let policy = Policy { requests_per_endpoint_max: choices[6 + i].into(), ..Policy::default() };
            Resource::Policy(id, Arc::new(policy)).insert_into(&mut parts);
        }
    }
    let ids: Vec<_> = parts.backends.keys().cloned().collect();
    for (i, choice) in
        choices[9..].iter().enumerate().filter(|(_, c)| *c & 0b1000_0000 != 0 && !ids.is_empty())
    {
        let id = RouteId::new("ns", format!("route-{i}"));
        let backend = ids[usize::from(choice >> 3 & 3) % ids.len()].clone();
        let all = Match { path: PathMatch::Prefix("".into()), headers: vec![], query: vec![], method: None };
        let rule = Rule {
            name: word(*choice).into(),
            matches: vec![all],
            filters: vec![],
            backends: vec![WeightedBackend { backend: backend.clone(), weight: 1, filters: vec![] }],
            timeout_request: None,
            timeout_backend_request: None,
        };
        let route = Route { id: id.clone(), created_s: None, parents: vec![], rules: vec![rule] };
        Resource::Route(Arc::new(route)).insert_into(&mut parts);
        let target = if choice & 0b10_0000 == 0 {
            SloTarget::Route { route: id, rule: None }
        } else {
            SloTarget::Backend(backend)
        };
        if choice & 0b100_0000 != 0 {
            let window = Duration::from_secs(60);
            let slo = Slo {
                id: SloId::new("ns", format!("slo-{i}")),
                target,
                window,
                objectives: vec![],
                sheds: false,
            };
            Resource::Slo(Arc::new(slo)).insert_into(&mut parts);
        }
    }
    parts
}

/// What a link may do. Without loss no new stream comes to the rescue.
const SOUND: &[Fault] = &[];
const COPIES: &[Fault] = &[Fault::Copy, Fault::Late, Fault::Swap];
const LOSSY: &[Fault] = &[Fault::Copy, Fault::Late, Fault::Swap, Fault::Lose];

fn steps(may_poison: bool, faults: &'static [Fault]) -> impl Strategy<Value = Vec<Step>> {
    let name = prop_oneof![
        Just("penstock/ns/a".to_owned()),
        Just("penstock/ns/route-0".to_owned()),
        Just("penstock/ns/b/10.0.0.1:8001".to_owned()),
        Just("penstock/ns/never".to_owned()),
        Just("*".to_owned()),
    ];
    let step = prop_oneof![
        2 => any::<[u8; 12]>().prop_map(move |c| Step::Publish(parts(c, may_poison))),
        12 => Just(Step::ToClient),
        12 => Just(Step::ToServer),
        1 => Just(Step::Cut),
        1 => (prop::sample::select(&ResourceType::ALL[..]), name, any::<bool>()).prop_map(
            // The client wants everything; to take `*` away behind its back would not be its own doing.
            |(resource_type, name, adds)| Step::Stale { resource_type, adds: adds || name == "*", name },
        ),
    ];
    let directions = prop::sample::select(&[Direction::ToClient, Direction::ToServer][..]);
    let fault = (any::<prop::sample::Index>(), directions).prop_map(move |(index, direction)| {
        if faults.is_empty() { Step::Wait } else { Step::Fault(*index.get(faults), direction) }
    });
    prop::collection::vec(prop_oneof![3 => step, 1 => fault], 0..160)
}

fn run(steps: Vec<Step>, last: [u8; 12], response_bytes_max: usize, blame: Blame) {
    let mut world = World::new(response_bytes_max, blame);
    steps.into_iter().for_each(|step| world.step(step));
    world.settle(parts(last, false));
}

/// One resource a response, a few, or all.
fn bounds() -> impl Strategy<Value = usize> {
    prop::sample::select(&[1, 600, RESPONSE_BYTES_MAX][..])
}

fn blames() -> impl Strategy<Value = Blame> {
    prop::sample::select(&[Blame::Named, Blame::Whole][..])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn both_ends_agree_in_the_end_and_no_reference_dangles(
        steps in steps(false, SOUND), last: [u8; 12], bytes_max in bounds(),
    ) {
        run(steps, last, bytes_max, Blame::Named);
    }

    #[test]
    fn what_is_refused_by_name_holds_up_nothing_else(
        steps in steps(true, SOUND), last: [u8; 12], bytes_max in bounds(),
    ) {
        run(steps, last, bytes_max, Blame::Named);
    }

    #[test]
    fn what_is_refused_as_a_whole_arrives_once_it_is_mended(
        steps in steps(true, SOUND), last: [u8; 12], bytes_max in bounds(),
    ) {
        run(steps, last, bytes_max, Blame::Whole);
    }

    #[test]
    fn no_removal_is_lost_over_a_link_that_copies_and_swaps(
        steps in steps(false, COPIES), last: [u8; 12], bytes_max in bounds(),
    ) {
        run(steps, last, bytes_max, Blame::Named);
    }

    #[test]
    fn no_removal_is_lost_over_a_link_that_loses_too(
        steps in steps(false, LOSSY), last: [u8; 12], bytes_max in bounds(),
    ) {
        run(steps, last, bytes_max, Blame::Named);
    }

    #[test]
    fn refusals_make_no_loop_over_a_link_that_loses_copies_and_swaps(
        steps in steps(true, LOSSY), last: [u8; 12], bytes_max in bounds(), blame in blames(),
    ) {
        run(steps, last, bytes_max, blame);
    }
}
