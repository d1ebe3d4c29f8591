//! The rules of the incremental protocol, one by one, each at the end that it binds. In the texts that are compared, `+a` is a
//! resource that is sent and `-a` a name that is listed as removed.
#![allow(clippy::panic, clippy::unwrap_used, reason = "this is how a test fails, also in what tests share")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use penstock_delivery::client::{ANSWER_WAIT_MAX, ClientAction, ClientState, Received};
use penstock_delivery::proto::envoy::config::core::v3::Node;
use penstock_delivery::proto::envoy::service::discovery::v3::{
    self as discovery, DeltaDiscoveryRequest, DeltaDiscoveryResponse, ResourceError, ResourceName,
};
use penstock_delivery::proto::google::rpc::Status;
use penstock_delivery::proto::penstock::v1::{RejectedResource, Rejection};
use penstock_delivery::server::{NAMES_MAX, Published, ServerAction, Session};
use penstock_delivery::wire::{Resource, ResourceType};
use penstock_model::names::{BackendId, EndpointId, RouteId};
use penstock_model::snapshot::{
    Attributes, Backend, Endpoint, Match, Outside, Parts, PathMatch, Policy, Protocol, Route, Rule, Slo,
    SloTarget, Snapshot, WeightedBackend,
};
use penstock_model::units::Moment;
use prost::Message;

use ResourceType::{Backend as BACKENDS, Endpoint as ENDPOINTS, Route as ROUTES};

const SHORT: &str = "penstock/ns/";

fn long(name: &str) -> String {
    if name == "*" { name.to_owned() } else { format!("{SHORT}{name}") }
}

fn longs(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| long(name)).collect()
}

/// A backend whose content is `word`.
fn backend(name: &str, word: &str) -> Resource {
    Resource::Backend(Arc::new(Backend {
        id: BackendId::new("ns", name),
        hostnames: vec![word.into()],
        is_default: false,
        protocol: Protocol::Http,
        identity: None,
        outside: Outside::default(),
    }))
}

fn endpoint(backend: &str) -> Resource {
    let id = EndpointId { backend: BackendId::new("ns", backend), address: ([10, 0, 0, 1], 80).into() };
    Resource::Endpoint(Arc::new(Endpoint { id, sidecar: None, attributes: Attributes::default() }))
}

fn policy(backend: &str) -> Resource {
    Resource::Policy(BackendId::new("ns", backend), Arc::new(Policy::default()))
}

fn route(name: &str, backend: &str) -> Resource {
    let all = Match { path: PathMatch::Prefix("".into()), headers: vec![], query: vec![], method: None };
    let rule = Rule {
        name: "0".into(),
        matches: vec![all],
        filters: vec![],
        backends: vec![WeightedBackend {
            backend: BackendId::new("ns", backend),
            weight: 1,
            filters: vec![],
        }],
        timeout_request: None,
        timeout_backend_request: None,
    };
    let id = RouteId::new("ns", name);
    Resource::Route(Arc::new(Route { id, created_s: None, parents: vec![], rules: vec![rule] }))
}

fn slo(name: &str, route: &str) -> Resource {
    let target = SloTarget::Route { route: RouteId::new("ns", route), rule: None };
    let id = penstock_model::names::SloId::new("ns", name);
    Resource::Slo(Arc::new(Slo {
        id,
        target,
        window: Duration::from_secs(60),
        objectives: vec![],
        sheds: false,
    }))
}

fn published(resources: impl IntoIterator<Item = Resource>) -> Arc<Published> {
    let mut parts = Parts::default();
    resources.into_iter().for_each(|r| r.insert_into(&mut parts));
    Arc::new(Published::new(&Snapshot::assemble(parts)))
}

fn version(resource: &Resource) -> String {
    resource.encode().version.to_string()
}

/// A stream at the server's end, and the last nonce that it sent for each type.
struct Server {
    session: Session,
    nonces: BTreeMap<ResourceType, String>,
}

impl Server {
    fn with(resources: impl IntoIterator<Item = Resource>) -> Self {
        Self::bounded(resources, penstock_delivery::server::RESPONSE_BYTES_MAX)
    }

    fn bounded(resources: impl IntoIterator<Item = Resource>, bytes_max: usize) -> Self {
        let mut server =
            Self { session: Session::with_response_bytes_max(7, bytes_max), nonces: BTreeMap::new() };
        assert_eq!(server.publish(resources), [""; 0]);
        server
    }

    fn publish(&mut self, resources: impl IntoIterator<Item = Resource>) -> Vec<String> {
        let actions = self.session.publish(&published(resources));
        self.told(actions)
    }

    fn request(&mut self, request: DeltaDiscoveryRequest) -> Vec<String> {
        let actions = self.session.request(request);
        self.told(actions)
    }

    fn subscribe(&mut self, resource_type: ResourceType, names: &[&str]) -> Vec<String> {
        self.request(subscription(resource_type, names, &[]))
    }

    fn unsubscribe(&mut self, resource_type: ResourceType, names: &[&str]) -> Vec<String> {
        self.request(subscription(resource_type, &[], names))
    }

    /// Subscribes to `names`, holding `held`.
    fn resume(&mut self, resource_type: ResourceType, names: &[&str], held: &[&Resource]) -> Vec<String> {
        let mut request = subscription(resource_type, names, &[]);
        request.initial_resource_versions = held.iter().map(|r| (r.name(), version(r))).collect();
        self.request(request)
    }

    fn ack(&mut self, resource_type: ResourceType) -> Vec<String> {
        let response_nonce = self.nonces[&resource_type].clone();
        self.request(DeltaDiscoveryRequest { response_nonce, ..subscription(resource_type, &[], &[]) })
    }

    fn nack(&mut self, resource_type: ResourceType, message: &str) -> Vec<String> {
        let response_nonce = self.nonces[&resource_type].clone();
        let error_detail = Some(Status { code: 3, message: message.to_owned(), details: vec![] });
        let request =
            DeltaDiscoveryRequest { response_nonce, error_detail, ..subscription(resource_type, &[], &[]) };
        self.request(request)
    }

    fn told(&mut self, actions: Vec<ServerAction>) -> Vec<String> {
        let tell = |action| match action {
            ServerAction::Send(response) => {
                assert!(!response.nonce.is_empty());
                if let Some(t) = ResourceType::from_type_url(&response.type_url) {
                    self.nonces.insert(t, response.nonce.clone());
                }
                contents(&response)
            }
            ServerAction::Acked { resource_type, .. } => format!("{resource_type} acked"),
            ServerAction::Nacked { resource_type, message, .. } => {
                format!("{resource_type} nacked: {message}")
            }
            ServerAction::End(why) => format!("end: {why}"),
        };
        actions.into_iter().map(tell).collect()
    }
}

fn subscription(resource_type: ResourceType, added: &[&str], taken: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: resource_type.type_url().to_owned(),
        resource_names_subscribe: longs(added),
        resource_names_unsubscribe: longs(taken),
        ..DeltaDiscoveryRequest::default()
    }
}

fn contents(response: &DeltaDiscoveryResponse) -> String {
    let short = |name: &str| name.strip_prefix(SHORT).unwrap_or(name).to_owned();
    let label =
        ResourceType::from_type_url(&response.type_url).map_or(response.type_url.as_str(), |t| t.label());
    let made = response.resources.iter().map(|r| format!(" +{}", short(&r.name)));
    let removed = response.removed_resources.iter().map(|name| format!(" -{}", short(name)));
    format!("{label}{}", made.chain(removed).collect::<String>())
}

/// A client that has subscribed.
fn client(held: impl IntoIterator<Item = Resource>) -> ClientState {
    let mut parts = Parts::default();
    held.into_iter().for_each(|r| r.insert_into(&mut parts));
    let mut client = ClientState::new(Node { id: "web.ns".to_owned(), ..Node::default() }, parts);
    client.connected(Moment(0));
    client
}

fn sent(resource: &Resource) -> discovery::Resource {
    let encoded = resource.encode();
    discovery::Resource {
        version: encoded.version.to_string(),
        resource: Some(prost_types::Any {
            type_url: resource.resource_type().type_url().to_owned(),
            value: encoded.bytes.to_vec(),
        }),
        name: encoded.name.to_string(),
        aliases: vec![],
        ttl: None,
    }
}

fn response(nonce: &str, resources: Vec<discovery::Resource>, removed: &[&str]) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: BACKENDS.type_url().to_owned(),
        nonce: nonce.to_owned(),
        resources,
        removed_resources: longs(removed),
        ..DeltaDiscoveryResponse::default()
    }
}

/// Takes a response, accepts it if it is sound, and returns the request that answers it.
fn take(client: &mut ClientState, response: DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
    let actions = match client.response(response, Moment(0)) {
        Received::Candidate(candidate) => client.accept(candidate, Moment(0)),
        Received::Refused(actions) => actions,
        Received::Copy => panic!("a copy"),
    };
    let Some(ClientAction::Send(request)) = actions.into_iter().next() else { panic!("no answer") };
    *request
}

fn held(client: &ClientState) -> Vec<String> {
    client.parts().backends.values().map(|b| format!("{} {}", b.id.0.name, b.hostnames[0])).collect()
}

#[test]
fn rule_1_a_request_with_the_nonce_of_the_response_is_its_ack() {
    let mut server = Server::with([backend("a", "1")]);
    assert_eq!(server.subscribe(BACKENDS, &["*"]), ["backends +a"]);
    assert_eq!(server.session.status().synced, None);
    assert_eq!(server.ack(BACKENDS), ["backends acked"]);
    assert!(server.session.status().synced.is_some());
    assert_eq!(server.ack(BACKENDS), [""; 0], "the second answer to one response means nothing");
}

#[test]
fn rule_1_with_error_detail_it_is_a_nack_and_the_content_is_not_sent_again_until_it_changes() {
    let mut server = Server::with([backend("a", "1")]);
    server.subscribe(BACKENDS, &["*"]);
    assert_eq!(server.nack(BACKENDS, "bad host"), ["backends nacked: bad host"]);
    assert_eq!(server.publish([backend("a", "1")]), [""; 0]);
    let refusals = server.session.status().types[0].refusals.clone();
    assert_eq!(refusals.len(), 1);
    assert_eq!((&*refusals[0].message, &*refusals[0].names[0]), ("bad host", "penstock/ns/a"));
    assert_eq!(server.session.status().synced, None);
    assert_eq!(server.publish([backend("a", "2")]), ["backends +a"]);
    assert_eq!(server.ack(BACKENDS), ["backends acked"]);
    assert_eq!(server.session.status().types[0].refusals, []);
}

#[test]
fn rule_1_a_nack_without_names_puts_the_whole_response_off_until_one_of_it_changes() {
    let mut server = Server::with([backend("a", "1"), backend("b", "1")]);
    server.subscribe(BACKENDS, &["*"]);
    server.nack(BACKENDS, "no");
    assert_eq!(server.publish([backend("a", "1"), backend("b", "1"), backend("c", "1")]), ["backends +c"]);
    server.ack(BACKENDS);
    let mended = [backend("a", "1"), backend("b", "2"), backend("c", "1")];
    assert_eq!(server.publish(mended), ["backends +a +b"]);
}

#[test]
fn rule_1_a_nack_that_names_what_is_at_fault_puts_off_that_alone() {
    let world = || [backend("a", "1"), backend("b", "1"), backend("c", "1")];
    let mut server = Server::with(world());
    server.subscribe(BACKENDS, &["*"]);
    server.ack(BACKENDS);
    // The client has all three, and asks for them again: those that it does not name are still owed.
    assert_eq!(server.subscribe(BACKENDS, &["a", "b", "x"]), ["backends +a +b -x"]);
    let rejected = |name: &str| RejectedResource {
        name: long(name),
        field: "hostnames[0]".to_owned(),
        problem: "is too long".to_owned(),
    };
    let details = prost_types::Any {
        type_url: "type.googleapis.com/penstock.v1.Rejection".to_owned(),
        value: Rejection { resources: vec![rejected("a"), rejected("c")] }.encode_to_vec(),
    };
    let nack = DeltaDiscoveryRequest {
        response_nonce: server.nonces[&BACKENDS].clone(),
        error_detail: Some(Status { code: 3, message: "no".to_owned(), details: vec![details] }),
        ..subscription(BACKENDS, &[], &[])
    };
    assert_eq!(server.request(nack), ["backends nacked: no", "backends +b -x"]);
    server.ack(BACKENDS);
    let refusals = server.session.status().types[0].refusals.clone();
    let told: Vec<_> = refusals.iter().map(|r| (&*r.names[0], &*r.message)).collect();
    assert_eq!(told, [("penstock/ns/a", "hostnames[0] is too long")], "c was not in the response");
    assert_eq!(server.publish([backend("a", "2"), backend("b", "1"), backend("c", "1")]), ["backends +a"]);
}

#[test]
fn rule_1_a_refused_change_that_is_taken_back_is_not_sent() {
    let mut server = Server::with([backend("a", "1")]);
    server.subscribe(BACKENDS, &["*"]);
    server.ack(BACKENDS);
    server.publish([backend("a", "2")]);
    server.nack(BACKENDS, "no");
    assert_eq!(server.publish([backend("a", "1")]), [""; 0]);
    assert!(server.session.status().synced.is_some());
}

#[test]
fn rule_1_a_change_while_the_answer_is_awaited_is_sent_after_it_whatever_the_answer() {
    for answer in [Server::ack as fn(&mut Server, ResourceType) -> Vec<String>, |s, t| s.nack(t, "no")] {
        let mut server = Server::with([backend("a", "1")]);
        server.subscribe(BACKENDS, &["*"]);
        assert_eq!(server.publish([backend("a", "2")]), [""; 0]);
        assert_eq!(server.publish([backend("a", "3"), backend("b", "1")]), [""; 0]);
        assert_eq!(answer(&mut server, BACKENDS)[1..], ["backends +a +b"]);
    }
}

#[test]
fn rule_1_a_stale_nonce_is_no_answer_but_its_subscription_counts() {
    let mut server = Server::with([backend("a", "1"), backend("b", "1")]);
    server.subscribe(BACKENDS, &["a"]);
    let stale = |error_detail| DeltaDiscoveryRequest {
        response_nonce: "6-1".to_owned(),
        error_detail,
        ..subscription(BACKENDS, &["b"], &[])
    };
    let error = Status { code: 3, message: "no".to_owned(), details: vec![] };
    for error in [None, Some(error)] {
        assert_eq!(server.request(stale(error)), [""; 0], "one response at a time");
    }
    assert_eq!(server.ack(BACKENDS), ["backends acked", "backends +b"]);
}

#[test]
fn rule_1_nonces_are_unique_over_types_and_streams() {
    let mut nonces = std::collections::BTreeSet::new();
    for stream in 0..3 {
        let mut session = Session::new(stream);
        session.publish(&published([backend("a", "1"), endpoint("a")]));
        for t in [ENDPOINTS, BACKENDS] {
            for action in session.request(subscription(t, &["*"], &[])) {
                let ServerAction::Send(response) = action else { panic!("{action:?}") };
                assert!(nonces.insert(response.nonce.clone()), "{} twice", response.nonce);
            }
        }
    }
    assert_eq!(nonces.len(), 6);
}

#[test]
fn rule_1_the_client_answers_with_the_nonce_and_asks_without_one() {
    let mut client = client([]);
    for action in client.connected(Moment(0)) {
        let ClientAction::Send(request) = action else { panic!("{action:?}") };
        assert_eq!(request.response_nonce, "");
    }
    let ack = take(&mut client, response("n1", vec![sent(&backend("a", "1"))], &[]));
    assert_eq!((&*ack.response_nonce, &ack.error_detail), ("n1", &None));
    assert_eq!((ack.resource_names_subscribe.len(), ack.initial_resource_versions.len()), (0, 0));
}

#[test]
fn rule_1_the_client_uses_nothing_of_a_response_with_one_bad_resource() {
    let mut client = client([]);
    take(&mut client, response("n1", vec![sent(&backend("a", "1")), sent(&backend("c", "1"))], &[]));
    let mut bad = sent(&backend("b", "1"));
    bad.resource.as_mut().unwrap().value = vec![0xff];
    let nack = take(&mut client, response("n2", vec![sent(&backend("a", "2")), bad], &["c"]));
    let status = nack.error_detail.unwrap();
    assert_eq!((&*nack.response_nonce, status.code), ("n2", 3));
    assert!(
        status.message.starts_with("backends penstock/ns/b: is no valid protobuf message"),
        "{}",
        status.message
    );
    assert_eq!(held(&client), ["a 1", "c 1"]);
    assert_eq!(client.status()[0].flaws[0].name, "penstock/ns/b");
    take(&mut client, response("n3", vec![sent(&backend("b", "2"))], &[]));
    assert_eq!(client.status()[0].flaws, [], "what is mended is not reported any more");
}

#[test]
fn rule_1_a_response_without_nonce_is_refused() {
    let mut client = client([]);
    let nack = take(&mut client, response("", vec![sent(&backend("a", "1"))], &[]));
    assert!(nack.error_detail.is_some());
    assert_eq!(held(&client), [""; 0]);
}

#[test]
fn rule_1_a_copy_of_a_response_is_not_answered_twice_nor_used_over_newer_content() {
    let mut client = client([]);
    let first = response("n1", vec![sent(&backend("a", "1"))], &[]);
    take(&mut client, first.clone());
    take(&mut client, response("n2", vec![sent(&backend("a", "2"))], &[]));
    assert_eq!(client.response(first.clone(), Moment(0)), Received::Copy);
    assert_eq!(held(&client), ["a 2"]);
    // On the next stream it may be another response.
    client.disconnected();
    client.connected(Moment(0));
    take(&mut client, first);
    assert_eq!(held(&client), ["a 1"]);
}

/// A control plane that answers each NACK with the same content again: it sends, and waits for an answer.
fn nacks_within(span: Duration, mut again: impl FnMut(u32) -> DeltaDiscoveryResponse) -> u32 {
    let mut client = client([]);
    let mut now = Moment(0);
    let mut nacks = 0;
    loop {
        let mut actions = match client.response(again(nacks), now) {
            Received::Refused(actions) => actions,
            other => panic!("not refused: {other:?}"),
        };
        while !actions.iter().any(|action| matches!(action, ClientAction::Send(_))) {
            now = client.next_timer().unwrap();
            if now > Moment(0) + span {
                return nacks;
            }
            actions = client.timer(now);
        }
        nacks += 1;
        assert!(nacks < 10_000, "they spin");
    }
}

#[test]
fn rule_1_a_control_plane_that_sends_what_was_refused_again_and_again_is_slowed_down() {
    let bad = |name: &str| discovery::Resource {
        resource: Some(prost_types::Any {
            type_url: BACKENDS.type_url().to_owned(),
            value: b"nonsense".to_vec(),
        }),
        ..sent(&backend(name, "1"))
    };
    let hour = Duration::from_secs(3_600);
    // Three at once; 0.5, 1, 2, 4, 8 and 16 s; then every 30 s.
    let expected = 3 + 6 + (3_600 - 31) / 30;
    assert_eq!(nacks_within(hour, |n| response(&format!("n{n}"), vec![bad("a")], &[])), expected);
    assert_eq!(nacks_within(hour, |_| response("", vec![], &[])), expected, "without a nonce");
    let foreign = |n| DeltaDiscoveryResponse {
        type_url: "type.googleapis.com/somebody.Elses".to_owned(),
        ..response(&format!("n{n}"), vec![], &[])
    };
    assert_eq!(nacks_within(hour, foreign), expected, "of a type that nobody asked for");
}

#[test]
fn rule_1_what_is_accepted_in_between_ends_the_wait_and_every_response_has_its_answer() {
    let mut client = client([]);
    let bad = discovery::Resource { resource: None, ..sent(&backend("a", "1")) };
    let mut answered = Vec::new();
    let mut note = |actions: Vec<ClientAction>| {
        for action in actions {
            if let ClientAction::Send(request) = action {
                answered.push((request.response_nonce, request.error_detail.is_some()));
            }
        }
    };
    for number in 0..6 {
        match client.response(response(&format!("n{number}"), vec![bad.clone()], &[]), Moment(0)) {
            Received::Refused(actions) => note(actions),
            other => panic!("{other:?}"),
        }
    }
    let good = client.response(response("good", vec![sent(&backend("a", "1"))], &[]), Moment(0));
    let Received::Candidate(good) = good else { panic!("{good:?}") };
    note(client.accept(good, Moment(0)));
    let nacks = (0..6).map(|number| (format!("n{number}"), true));
    assert_eq!(answered, nacks.chain([("good".to_owned(), false)]).collect::<Vec<_>>());
    assert!(client.next_timer().is_none_or(|at| at >= Moment(0) + ANSWER_WAIT_MAX), "nothing is held back");
}

#[test]
fn rule_2_an_empty_list_changes_nothing_and_a_name_that_is_subscribed_again_is_sent_again() {
    let mut server = Server::with([backend("a", "1"), backend("b", "1")]);
    assert_eq!(server.subscribe(BACKENDS, &["a"]), ["backends +a"]);
    server.ack(BACKENDS);
    assert_eq!(server.request(subscription(BACKENDS, &[], &[])), [""; 0]);
    assert_eq!(server.publish([backend("a", "2"), backend("b", "2")]), ["backends +a"]);
    server.ack(BACKENDS);
    assert_eq!(server.subscribe(BACKENDS, &["a"]), ["backends +a"], "though the client has it");
    server.ack(BACKENDS);
    assert_eq!(server.subscribe(BACKENDS, &["*"]), ["backends +a +b"]);
    server.nack(BACKENDS, "no");
    assert_eq!(server.subscribe(BACKENDS, &["a"]), ["backends +a +b"], "though it was refused");
}

#[test]
fn rule_2_a_name_that_is_subscribed_again_while_it_is_under_way_is_sent_again() {
    let mut server = Server::with([backend("a", "1")]);
    server.subscribe(BACKENDS, &["a"]);
    assert_eq!(server.subscribe(BACKENDS, &["a"]), [""; 0]);
    assert_eq!(server.ack(BACKENDS), ["backends acked", "backends +a"]);
}

#[test]
fn rule_3_wildcards() {
    let world = || [backend("a", "1"), backend("b", "1")];
    for (what, requests, answer, then) in [
        ("legacy", vec![subscription(BACKENDS, &[], &[])], "backends +a +b", "backends +c"),
        ("explicit", vec![subscription(BACKENDS, &["*"], &[])], "backends +a +b", "backends +c"),
        ("to nothing", vec![subscription(BACKENDS, &["*"], &["*"])], "backends", ""),
        ("a name first", vec![subscription(BACKENDS, &["a"], &[])], "backends +a", ""),
        (
            "a name, then taken back: the empty list is not the legacy wildcard any more",
            vec![
                subscription(BACKENDS, &["a"], &[]),
                subscription(BACKENDS, &[], &["a"]),
                subscription(BACKENDS, &[], &[]),
            ],
            "backends +a",
            "",
        ),
        (
            "legacy, then the wildcard taken back",
            vec![subscription(BACKENDS, &[], &[]), subscription(BACKENDS, &[], &["*"])],
            "backends +a +b",
            "",
        ),
        (
            "wildcard taken back, a name kept",
            vec![subscription(BACKENDS, &["*", "c"], &[]), subscription(BACKENDS, &[], &["*"])],
            "backends +a +b -c",
            "backends +c",
        ),
    ] {
        let mut server = Server::with(world());
        let answers: Vec<_> = requests.into_iter().flat_map(|r| server.request(r)).collect();
        assert_eq!(answers, [answer], "{what}");
        assert_eq!(server.ack(BACKENDS), ["backends acked"], "{what}");
        let told = server.publish(world().into_iter().chain([backend("c", "1")]));
        assert_eq!(told.first().map_or("", String::as_str), then, "{what}");
    }
}

#[test]
fn rule_4_a_name_that_does_not_exist_is_listed_as_removed_and_sent_when_it_appears() {
    let mut server = Server::with([backend("a", "1")]);
    assert_eq!(server.subscribe(BACKENDS, &["a", "x"]), ["backends +a -x"]);
    server.ack(BACKENDS);
    assert_eq!(server.publish([backend("a", "1"), backend("x", "1")]), ["backends +x"]);
    server.ack(BACKENDS);
    assert_eq!(server.publish([backend("a", "1")]), ["backends -x"]);
    server.ack(BACKENDS);
    assert_eq!(server.subscribe(BACKENDS, &["x"]), ["backends -x"]);
}

#[test]
fn rule_4_the_client_reports_a_subscription_without_answer_after_15_s_once() {
    let mut client = client([backend("a", "1")]);
    assert_eq!(client.next_timer(), Some(Moment(0) + ANSWER_WAIT_MAX));
    take(&mut client, response("n1", vec![], &[]));
    assert_eq!(client.timer(Moment(0) + Duration::from_millis(14_999)), []);
    let overdue = ResourceType::ALL[1..].iter().map(|t| ClientAction::Overdue(*t)).collect::<Vec<_>>();
    assert_eq!(client.timer(Moment(0) + ANSWER_WAIT_MAX), overdue);
    assert_eq!(client.timer(Moment(0) + ANSWER_WAIT_MAX), []);
    assert_eq!(client.next_timer(), None);
    assert_eq!(
        client.status().iter().map(|t| t.overdue).collect::<Vec<_>>(),
        [false, true, true, true, true]
    );
    assert_eq!(held(&client), ["a 1"], "what is held stays");
    assert!(!client.is_settled());
}

#[test]
fn rule_5_unsubscribing_needs_no_reply_except_under_a_wildcard() {
    let mut server = Server::with([backend("a", "1")]);
    server.subscribe(BACKENDS, &["a"]);
    server.ack(BACKENDS);
    assert_eq!(server.unsubscribe(BACKENDS, &["a"]), [""; 0]);
    assert_eq!(server.publish([backend("a", "2")]), [""; 0]);

    let mut server = Server::with([backend("a", "1")]);
    server.subscribe(BACKENDS, &["*", "a", "x"]);
    server.ack(BACKENDS);
    assert_eq!(server.unsubscribe(BACKENDS, &["a", "x"]), ["backends +a -x"]);
}

#[test]
fn rule_5_what_was_refused_and_is_not_wanted_any_more_is_forgotten() {
    let mut server = Server::with([backend("a", "1")]);
    server.subscribe(BACKENDS, &["*", "x"]);
    server.nack(BACKENDS, "no");
    assert_eq!(server.session.status().types[0].refusals.len(), 1);
    server.unsubscribe(BACKENDS, &["*", "x"]);
    assert_eq!(server.session.status().types[0].refusals, []);
    assert!(server.session.status().synced.is_some());
}

#[test]
fn rule_5_what_is_unsubscribed_while_it_is_under_way_is_forgotten() {
    let mut server = Server::with([backend("a", "1")]);
    server.subscribe(BACKENDS, &["a"]);
    assert_eq!(server.unsubscribe(BACKENDS, &["a"]), [""; 0]);
    assert_eq!(server.ack(BACKENDS), ["backends acked"]);
    assert_eq!(server.publish([]), [""; 0]);
}

#[test]
fn rule_6_the_same_name_twice_in_one_response_is_refused() {
    let twice = vec![sent(&backend("a", "2")), sent(&backend("a", "2"))];
    for (resources, removed, problem) in [
        (twice, &[][..], "backends penstock/ns/a: appears twice in one response"),
        (
            vec![sent(&backend("a", "2"))],
            &["a"][..],
            "backends penstock/ns/a: is both sent and removed in one response",
        ),
    ] {
        let mut client = client([backend("a", "1")]);
        let nack = take(&mut client, response("n1", resources, removed));
        assert_eq!(nack.error_detail.unwrap().message, problem);
        assert_eq!(held(&client), ["a 1"]);
    }
}

#[test]
fn rule_7_the_client_resumes_with_all_names_and_versions_of_each_type() {
    let mut client = client([backend("a", "1"), route("r", "a")]);
    take(&mut client, response("n1", vec![sent(&backend("b", "1"))], &[]));
    client.disconnected();
    let mut requests = Vec::new();
    for action in client.connected(Moment(0)) {
        let ClientAction::Send(request) = action else { panic!("{action:?}") };
        requests.push(*request);
    }
    let types: Vec<_> = requests.iter().map(|r| ResourceType::from_type_url(&r.type_url).unwrap()).collect();
    assert_eq!(types, ResourceType::ALL);
    assert!(requests.iter().all(|r| r.resource_names_subscribe == ["*"]));
    let nodes: Vec<_> = requests.iter().map(|r| r.node.as_ref().map(|n| &*n.id)).collect();
    assert_eq!(nodes, [Some("web.ns"), None, None, None, None]);
    let versions: Vec<Vec<(String, String)>> =
        requests.into_iter().map(|r| r.initial_resource_versions.into_iter().collect()).collect();
    let of = |r: &Resource| (r.name(), version(r));
    let backends = vec![of(&backend("a", "1")), of(&backend("b", "1"))];
    assert_eq!(versions, [backends, vec![], vec![], vec![of(&route("r", "a"))], vec![]]);
}

#[test]
fn rule_7_the_server_sends_differences_and_what_has_vanished() {
    let (a, b, c) = (backend("a", "1"), backend("b", "1"), backend("c", "1"));
    for names in [&["*"][..], &[], &["a", "b", "c"]] {
        let mut server = Server::with([a.clone(), backend("b", "2")]);
        assert_eq!(server.resume(BACKENDS, names, &[&a, &b, &c]), ["backends +b"], "{names:?}");
        assert_eq!(server.ack(BACKENDS), ["backends acked", "backends -c"], "{names:?}");
        assert_eq!(server.ack(BACKENDS), ["backends acked"], "{names:?}");
        assert!(server.session.status().synced.is_some());
    }
}

#[test]
fn rule_7_a_client_that_has_everything_is_told_so() {
    let a = backend("a", "1");
    for names in [&["*"][..], &[], &["a"]] {
        let mut server = Server::with([a.clone()]);
        assert_eq!(server.resume(BACKENDS, names, &[&a]), ["backends"], "{names:?}");
    }
    let mut server = Server::with([]);
    assert_eq!(server.subscribe(BACKENDS, &["*"]), ["backends"], "so that nobody waits for nothing");
}

#[test]
fn rule_7_the_server_takes_requests_before_it_has_anything_to_publish() {
    let a = backend("a", "1");
    let mut session = Session::new(1);
    let mut request = subscription(BACKENDS, &["*"], &[]);
    request.initial_resource_versions = [(a.name(), version(&a))].into();
    assert_eq!(session.request(request), []);
    let mut server = Server { session, nonces: BTreeMap::new() };
    assert_eq!(server.publish([a, backend("b", "1")]), ["backends +b"]);
}

#[test]
fn rule_8_a_resource_with_a_ttl_is_dropped_unless_a_heartbeat_prolongs_it() {
    let ttl = |s| Some(prost_types::Duration { seconds: s, nanos: 0 });
    let (a, b) = (backend("a", "1"), backend("b", "1"));
    let mut client = client([]);
    let resources = [&a, &b].map(|r| discovery::Resource { ttl: ttl(10), ..sent(r) });
    take(&mut client, response("n1", resources.into(), &[]));
    let heartbeat = discovery::Resource { ttl: ttl(12), resource: None, ..sent(&a) };
    let ack = take(&mut client, response("n2", vec![heartbeat], &[]));
    assert_eq!(ack.error_detail, None);
    assert_eq!(client.next_timer(), Some(Moment(0) + Duration::from_secs(10)));

    let actions = client.timer(Moment(0) + Duration::from_secs(10));
    assert_eq!(actions, [ClientAction::Publish(client.parts().clone())]);
    assert_eq!(held(&client), ["a 1"]);
    assert_eq!(client.held(BACKENDS).len(), 1, "what was dropped is not resumed");
    client.timer(Moment(0) + Duration::from_secs(12));
    assert_eq!(held(&client), [""; 0]);
}

#[test]
fn rule_8_a_heartbeat_for_what_is_not_held_is_refused() {
    let mut client = client([backend("a", "1")]);
    for (name, content, nonce) in [("a", "2", "n1"), ("b", "1", "n2")] {
        let heartbeat = discovery::Resource { resource: None, ..sent(&backend(name, content)) };
        let nack = take(&mut client, response(nonce, vec![heartbeat], &[]));
        let message = nack.error_detail.unwrap().message;
        assert!(message.contains("resource is missing"), "{message}");
    }
}

#[test]
fn rule_9_what_refers_is_made_after_what_it_refers_to_and_removed_before() {
    let mut server =
        Server::with([backend("a", "1"), endpoint("a"), policy("a"), route("r", "a"), slo("s", "r")]);
    assert_eq!(server.subscribe(BACKENDS, &["*"]), ["backends +a"]);
    for t in &ResourceType::ALL[1..] {
        assert_eq!(server.subscribe(*t, &["*"]), [""; 0], "{t} wait for the backends' ACK");
    }
    let mut told = Vec::new();
    for t in ResourceType::ALL {
        told.extend(server.ack(t).into_iter().filter(|text| !text.contains("acked")));
    }
    assert_eq!(told, ["endpoints +a/10.0.0.1:80", "policies +a", "routes +r", "slos +s"]);

    let b = [backend("b", "1"), endpoint("b"), policy("b"), route("r", "b"), slo("t", "r")];
    let mut told = server.publish(b);
    while let Some(t) =
        told.last().and_then(|text| ResourceType::ALL.iter().find(|t| text.starts_with(t.label())))
    {
        let more = server.ack(*t);
        if more.len() == 1 {
            break;
        }
        told.extend(more.into_iter().skip(1));
    }
    assert_eq!(
        told,
        [
            "backends +b",
            "endpoints +b/10.0.0.1:80",
            "policies +b",
            "routes +r",
            "slos +t",
            "slos -s",
            "policies -a",
            "endpoints -a/10.0.0.1:80",
            "backends -a",
        ]
    );
}

#[test]
fn rule_9_a_refused_backend_does_not_hold_up_the_routes() {
    let mut server = Server::with([backend("a", "1"), route("r", "a")]);
    server.subscribe(BACKENDS, &["*"]);
    assert_eq!(server.subscribe(ROUTES, &["*"]), [""; 0]);
    assert_eq!(server.nack(BACKENDS, "no"), ["backends nacked: no", "routes +r"]);
}

#[test]
fn rule_9_a_backend_that_comes_back_while_its_removal_is_under_way_is_there_before_its_route() {
    let mut server = Server::with([backend("a", "1")]);
    server.subscribe(BACKENDS, &["*"]);
    server.subscribe(ROUTES, &["*"]);
    assert_eq!(server.ack(BACKENDS), ["backends acked", "routes"]);
    server.ack(ROUTES);
    assert_eq!(server.publish([]), ["backends -a"]);
    assert_eq!(server.publish([backend("a", "1"), route("r", "a")]), [""; 0]);
    assert_eq!(server.ack(BACKENDS), ["backends acked", "backends +a"]);
    assert_eq!(server.ack(BACKENDS), ["backends acked", "routes +r"]);
}

#[test]
fn rule_9_the_client_accepts_references_that_do_not_resolve() {
    let mut client = client([]);
    let routes = DeltaDiscoveryResponse {
        type_url: ROUTES.type_url().to_owned(),
        ..response("n1", vec![sent(&route("r", "nowhere"))], &[])
    };
    assert_eq!(take(&mut client, routes).error_detail, None);
    assert_eq!(client.parts().routes.len(), 1);
}

#[test]
fn a_large_response_is_split_between_resources() {
    let all = ["a", "b", "c", "d", "e"].map(|name| backend(name, &"x".repeat(100)));
    let mut server = Server::bounded(all, 600);
    assert_eq!(server.subscribe(BACKENDS, &["*"]), ["backends +a +b"]);
    assert_eq!(server.subscribe(ROUTES, &["*"]), [""; 0], "the backends are not complete");
    assert_eq!(server.ack(BACKENDS), ["backends acked", "backends +c +d"]);
    assert_eq!(server.ack(BACKENDS), ["backends acked", "backends +e"]);
    assert_eq!(server.ack(BACKENDS), ["backends acked", "routes"]);
    let mut server = Server::bounded([backend("a", &"x".repeat(100))], 1);
    assert_eq!(server.subscribe(BACKENDS, &["*"]), ["backends +a"], "one resource is never split");
}

#[test]
fn a_response_is_never_larger_than_its_bound() {
    let many = (0..10_000).map(|i| backend(&format!("b{i}"), &"x".repeat(i % 900)));
    let mut session = Session::new(1);
    session.publish(&published(many));
    let mut actions = session.request(subscription(BACKENDS, &["*"], &[]));
    let mut names = 0;
    while let Some(ServerAction::Send(response)) = actions.pop() {
        let bytes = response.encoded_len();
        assert!(bytes <= penstock_delivery::server::RESPONSE_BYTES_MAX, "{bytes}");
        names += response.resources.len();
        let response_nonce = response.nonce;
        actions =
            session.request(DeltaDiscoveryRequest { response_nonce, ..subscription(BACKENDS, &[], &[]) });
    }
    assert_eq!(names, 10_000);
}

#[test]
fn a_type_that_the_server_does_not_know_has_no_resources() {
    let mut server = Server::with([]);
    let type_url = "type.googleapis.com/penstock.v1.Later".to_owned();
    let resource_names_subscribe = vec!["*".to_owned(), "x".to_owned()];
    let request =
        DeltaDiscoveryRequest { type_url, resource_names_subscribe, ..DeltaDiscoveryRequest::default() };
    assert_eq!(server.request(request.clone()), ["type.googleapis.com/penstock.v1.Later -x"]);
    let ack = DeltaDiscoveryRequest { response_nonce: "7-1".to_owned(), ..request };
    assert_eq!(server.request(ack), [""; 0]);
}

#[test]
fn a_type_that_the_client_did_not_ask_for_is_refused() {
    let mut client = client([]);
    for type_url in ["", "type.googleapis.com/envoy.config.cluster.v3.Cluster", "penstock.v1.Backend"] {
        let odd = DeltaDiscoveryResponse { type_url: type_url.to_owned(), ..response("n1", vec![], &[]) };
        let nack = take(&mut client, odd);
        assert_eq!((&*nack.type_url, &*nack.response_nonce), (type_url, "n1"));
        assert!(nack.error_detail.is_some());
    }
    let mut other = sent(&backend("a", "1"));
    other.resource.as_mut().unwrap().type_url = ROUTES.type_url().to_owned();
    let nack = take(&mut client, response("n2", vec![other], &[]));
    assert!(nack.error_detail.unwrap().message.contains("penstock.v1.Route` in a response of backends"));
}

#[test]
fn the_newer_ways_to_say_removed_are_understood() {
    let mut client = client([backend("a", "1"), backend("b", "1"), backend("c", "1")]);
    let name = |name: &str| ResourceName { name: long(name) };
    let error = |n: &str, code| ResourceError {
        resource_name: Some(name(n)),
        error_detail: Some(Status { code, message: "why".to_owned(), details: vec![] }),
    };
    let ack = take(
        &mut client,
        DeltaDiscoveryResponse {
            removed_resource_names: vec![name("a")],
            resource_errors: vec![error("b", 5), error("c", 14)],
            ..response("n1", vec![], &["never-heard-of"])
        },
    );
    assert_eq!(ack.error_detail, None);
    assert_eq!(held(&client), ["c 1"]);
    let flaws: Vec<_> = client.status()[0].flaws.iter().map(ToString::to_string).collect();
    assert_eq!(flaws, ["backends penstock/ns/c: could not be served: why"]);
}

#[test]
fn a_candidate_of_a_stream_that_has_ended_changes_nothing() {
    let mut client = client([]);
    for (accepts, is_told_of_the_end) in [(true, true), (true, false), (false, true)] {
        let Received::Candidate(candidate) =
            client.response(response("n1", vec![sent(&backend("a", "1"))], &[]), Moment(0))
        else {
            panic!("refused")
        };
        if is_told_of_the_end {
            client.disconnected();
        }
        client.connected(Moment(0));
        let actions = if accepts {
            client.accept(candidate, Moment(0))
        } else {
            client.reject(candidate, vec![], Moment(0))
        };
        assert_eq!(actions, []);
        assert_eq!(held(&client), [""; 0]);
    }
}

#[test]
fn a_client_is_settled_once_every_type_was_answered_even_by_nothing() {
    let mut client = ClientState::new(Node::default(), Parts::default());
    client.connected(Moment(0));
    for (i, t) in ResourceType::ALL.into_iter().enumerate() {
        assert!(!client.is_settled());
        let empty =
            DeltaDiscoveryResponse { type_url: t.type_url().to_owned(), ..response("n", vec![], &[]) };
        let Received::Candidate(candidate) = client.response(empty, Moment(0)) else { panic!("refused") };
        let publishes = client.accept(candidate, Moment(0)).len() - 1;
        assert_eq!(publishes, usize::from(i == 4), "the first whole snapshot is published, empty as it is");
    }
    client.disconnected();
    assert!(client.is_settled(), "what is held is still whole");
}

#[test]
fn one_refused_response_does_not_keep_a_client_from_being_settled() {
    let mut client = ClientState::new(Node::default(), Parts::default());
    client.connected(Moment(0));
    for t in &ResourceType::ALL[1..] {
        let empty =
            DeltaDiscoveryResponse { type_url: t.type_url().to_owned(), ..response("n", vec![], &[]) };
        take(&mut client, empty);
    }
    let bad = discovery::Resource { resource: None, ..sent(&backend("a", "1")) };
    let Received::Refused(actions) = client.response(response("n", vec![bad], &[]), Moment(0)) else {
        panic!("accepted")
    };
    assert_eq!(actions[1..], [ClientAction::Publish(Parts::default())]);
    assert!(client.is_settled());
}

#[test]
fn a_client_cannot_make_the_server_remember_names_without_end() {
    let names: Vec<_> = (0..=NAMES_MAX).map(|i| i.to_string()).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let mut server = Server::with([]);
    let told = server.subscribe(BACKENDS, &names);
    assert_eq!(told, ["end: 100001 names of backends are more than 100000, the most for one stream"]);
    assert_eq!(server.subscribe(BACKENDS, &names[1..]).len(), 1);
    assert!(server.subscribe(BACKENDS, &["one-more"])[0].starts_with("end: "));
}

#[test]
fn a_nack_is_bounded_and_names_what_is_at_fault() {
    let bad = |i: usize| discovery::Resource {
        name: format!("{}{i}", "x".repeat(10_000)),
        ..sent(&backend("a", "1"))
    };
    let mut client = client([]);
    let nack = take(&mut client, response("n1", (0..1_000).map(bad).collect(), &[]));
    let status = nack.error_detail.unwrap();
    assert!(status.message.ends_with("; and 997 more"), "{}", status.message);
    assert!(status.message.len() < 2_000, "{}", status.message.len());
    assert_eq!(status.details[0].value.len(), 0, "no name is that long; all of it is refused as a whole");
}
