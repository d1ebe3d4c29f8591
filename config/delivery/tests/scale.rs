//! A fleet of 10,000 endpoints: what travels, and what a change of one of them costs. `-- --nocapture` shows bytes and times.
#![allow(clippy::panic, clippy::unwrap_used, reason = "this is how a test fails, also in what tests share")]

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use penstock_delivery::cache;
use penstock_delivery::client::{ClientAction, ClientState, Received};
use penstock_delivery::proto::envoy::config::core::v3::Node;
use penstock_delivery::proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse,
};
use penstock_delivery::server::{Published, RESPONSE_BYTES_MAX, ServerAction, Session};
use penstock_delivery::wire::{Resource, ResourceType};
use penstock_model::names::{BackendId, EndpointId};
use penstock_model::snapshot::{Attributes, Backend, Endpoint, Outside, Parts, Protocol, Snapshot};
use penstock_model::units::Moment;
use prost::Message;

const ENDPOINTS: u16 = 10_000;

fn fleet(moved: Option<u16>) -> Parts {
    let mut parts = Parts::default();
    for number in 0..ENDPOINTS {
        let id = BackendId::new("default", format!("model-{}", number / 50));
        let backend = Backend {
            id: id.clone(),
            hostnames: vec![],
            is_default: false,
            protocol: Protocol::Http,
            identity: None,
            outside: Outside::default(),
        };
        Resource::Backend(Arc::new(backend)).insert_into(&mut parts);
        let [high, low] = number.to_be_bytes();
        let port = if moved == Some(number) { 4744 } else { 4743 };
        let sidecar = Some(SocketAddr::from(([10, 1, high, low], port)));
        let address = SocketAddr::from(([10, 1, high, low], 8000));
        let endpoint =
            Endpoint { id: EndpointId { backend: id, address }, sidecar, attributes: Attributes::default() };
        Resource::Endpoint(Arc::new(endpoint)).insert_into(&mut parts);
    }
    parts
}

/// Two ends, and what has gone from one to the other as bytes.
struct Stream {
    session: Session,
    client: ClientState,
    responses: Vec<(usize, usize)>,
    request_bytes: usize,
}

impl Stream {
    fn open(parts: Parts, held: Parts) -> Self {
        let mut session = Session::new(1);
        session.publish(&Arc::new(Published::new(&Snapshot::assemble(parts))));
        let client = ClientState::new(Node::default(), held);
        Self { session, client, responses: Vec::new(), request_bytes: 0 }
    }

    fn connect(&mut self) {
        let actions = self.client.connected(Moment(0));
        self.run(requests(actions), Vec::new());
    }

    fn publish(&mut self, parts: Parts) {
        let actions = self.session.publish(&Arc::new(Published::new(&Snapshot::assemble(parts))));
        self.run(VecDeque::new(), actions);
    }

    fn run(&mut self, mut to_server: VecDeque<DeltaDiscoveryRequest>, mut actions: Vec<ServerAction>) {
        loop {
            for action in std::mem::take(&mut actions) {
                let ServerAction::Send(response) = action else { continue };
                let bytes = response.encode_to_vec();
                self.responses.push((bytes.len(), response.resources.len()));
                let response = DeltaDiscoveryResponse::decode(&bytes[..]).unwrap();
                let Received::Candidate(candidate) = self.client.response(response, Moment(0)) else {
                    panic!("refused")
                };
                to_server.extend(requests(self.client.accept(candidate, Moment(0))));
            }
            let Some(request) = to_server.pop_front() else { return };
            let bytes = request.encode_to_vec();
            self.request_bytes += bytes.len();
            actions = self.session.request(DeltaDiscoveryRequest::decode(&bytes[..]).unwrap());
        }
    }

    fn told(&mut self) -> (usize, usize, usize) {
        let responses = std::mem::take(&mut self.responses);
        let sum = |of: fn(&(usize, usize)) -> usize| responses.iter().map(of).sum();
        (responses.len(), sum(|r| r.0), sum(|r| r.1))
    }
}

fn requests(actions: Vec<ClientAction>) -> VecDeque<DeltaDiscoveryRequest> {
    let request = |action| match action {
        ClientAction::Send(request) => Some(*request),
        _ => None,
    };
    actions.into_iter().filter_map(request).collect()
}

#[test]
fn ten_thousand_endpoints_travel_once_and_then_only_what_changes() {
    let parts = fleet(None);
    let mut stream = Stream::open(parts.clone(), Parts::default());
    stream.connect();
    let (responses, bytes, resources) = stream.told();
    println!("first: {resources} resources in {responses} responses, {bytes} bytes");
    assert_eq!(resources, usize::from(ENDPOINTS) + 200);
    assert_eq!(stream.client.parts(), &parts);
    assert!(bytes < 400 * resources, "{bytes} bytes");
    assert!(responses < 5 + bytes / (RESPONSE_BYTES_MAX / 2), "{responses} responses");
    assert!(stream.session.status().synced.is_some());

    stream.publish(fleet(Some(7_777)));
    let (responses, bytes, resources) = stream.told();
    println!("one change: {resources} resources in {responses} responses, {bytes} bytes");
    assert_eq!((responses, resources), (1, 1));
    assert!(bytes < 400, "{bytes} bytes");

    stream.publish(parts);
    assert_eq!(stream.told().2, 1, "and back");
}

#[test]
fn a_sidecar_that_comes_back_with_ten_thousand_endpoints_is_sent_none_of_them() {
    let parts = fleet(None);
    let kept = cache::encode(&parts);
    println!("on disk: {} bytes", kept.len());
    let mut stream = Stream::open(fleet(Some(1)), cache::decode(&kept).unwrap());
    stream.connect();
    let (responses, bytes, resources) = stream.told();
    let asked = stream.request_bytes;
    println!(
        "resume: {resources} resources in {responses} responses, {bytes} bytes; asked with {asked} bytes"
    );
    assert_eq!(resources, 1);
    assert_eq!(responses, ResourceType::ALL.len(), "each type is answered once");
    assert!(bytes < 1_000, "{bytes} bytes");
    assert_eq!(stream.client.parts(), &fleet(Some(1)));
}
