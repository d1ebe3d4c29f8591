//! Ends of different versions. What an earlier version has sent or written must be read for ever: its bytes are committed in
//! `golden/`, made once, and never made again. What a later one may send is played by messages with more fields than ours.
#![allow(clippy::panic, clippy::unwrap_used, reason = "this is how a test fails, also in what tests share")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use penstock_delivery::cache::{self, CacheError};
use penstock_delivery::client::{ClientAction, ClientState, Received};
use penstock_delivery::proto::envoy::config::core::v3::Node;
use penstock_delivery::proto::envoy::service::discovery::v3::{
    self as discovery, DeltaDiscoveryRequest, DeltaDiscoveryResponse,
};
use penstock_delivery::proto::penstock::v1;
use penstock_delivery::server::{Published, ServerAction, Session};
use penstock_delivery::wire::{Resource, ResourceType};
use penstock_model::Source;
use penstock_model::snapshot::{Parts, Snapshot};
use penstock_model::units::Moment;
use prost::Message;

/// Documents that use every field that has been sent so far.
const DOCUMENTS: &str = include_str!("golden/documents.yaml");

fn parts() -> Parts {
    let source = Source { file: "documents.yaml".to_owned(), text: DOCUMENTS.to_owned() };
    match penstock_model::compile(&[source]) {
        Ok(compiled) => compiled.snapshot.parts().clone(),
        Err(findings) => panic!("{}", findings.iter().map(ToString::to_string).collect::<String>()),
    }
}

fn golden(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file)
}

fn hex(bytes: &[u8]) -> String {
    let digits: Vec<String> =
        bytes.chunks(48).map(|line| line.iter().map(|b| format!("{b:02x}")).collect()).collect();
    digits.join("\n") + "\n"
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

/// The bytes of version 1 as they were committed; `made` writes them where they have never been.
fn committed(file: &str, made: impl FnOnce() -> Vec<u8>) -> Vec<u8> {
    let path = golden(file);
    if !path.exists() && std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, hex(&made())).unwrap();
    }
    unhex(&std::fs::read_to_string(&path).unwrap())
}

/// Everything of one type as one response of a stream, as a control plane of version 1 has sent it.
fn response_of(t: ResourceType) -> DeltaDiscoveryResponse {
    let mut session = Session::new(1);
    session.publish(&Arc::new(Published::new(&Snapshot::assemble(parts()))));
    let actions = session.request(DeltaDiscoveryRequest {
        type_url: t.type_url().to_owned(),
        resource_names_subscribe: vec!["*".to_owned()],
        ..DeltaDiscoveryRequest::default()
    });
    match actions.into_iter().next() {
        Some(ServerAction::Send(response)) => response,
        other => panic!("{other:?}"),
    }
}

fn client() -> ClientState {
    let mut client = ClientState::new(Node::default(), Parts::default());
    client.connected(Moment(0));
    client
}

#[test]
fn what_version_1_has_sent_is_read_for_ever() {
    let mut client = client();
    for t in ResourceType::ALL {
        let bytes = committed(&format!("v1-{t}.hex"), || response_of(t).encode_to_vec());
        let response = DeltaDiscoveryResponse::decode(&bytes[..]).unwrap();
        assert!(!response.resources.is_empty(), "{t}");
        match client.response(response, Moment(0)) {
            Received::Candidate(candidate) => drop(client.accept(candidate, Moment(0))),
            other => panic!("{t}: {other:?}"),
        }
    }
    assert_eq!(client.parts(), &parts());
}

#[test]
fn what_version_1_has_kept_on_disk_is_read_for_ever() {
    let bytes = committed("v1-snapshot.bin.hex", || cache::encode(&parts()));
    assert_eq!(cache::decode(&bytes).as_ref(), Ok(&parts()));
}

/// A backend of a later version: what it has more can be ignored, in the message and in those inside of it.
#[derive(Clone, PartialEq, Message)]
struct LaterBackend {
    #[prost(message, optional, tag = "1")]
    name: Option<LaterName>,
    #[prost(int32, tag = "4")]
    protocol: i32,
    #[prost(message, repeated, tag = "500")]
    tiers: Vec<LaterName>,
    #[prost(double, tag = "501")]
    gravity: f64,
}

#[derive(Clone, PartialEq, Message)]
struct LaterName {
    #[prost(string, tag = "1")]
    namespace: String,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "77")]
    region: String,
}

fn later(name: &str, protocol: i32) -> LaterBackend {
    let name = LaterName { namespace: "ns".to_owned(), name: name.to_owned(), region: "north".to_owned() };
    LaterBackend { tiers: vec![name.clone()], name: Some(name), protocol, gravity: 9.81 }
}

fn sent(name: &str, message: &impl Message) -> discovery::Resource {
    discovery::Resource {
        version: "2".to_owned(),
        resource: Some(prost_types::Any {
            type_url: ResourceType::Backend.type_url().to_owned(),
            value: message.encode_to_vec(),
        }),
        name: format!("penstock/ns/{name}"),
        aliases: vec![],
        ttl: None,
    }
}

fn response(nonce: &str, resources: Vec<discovery::Resource>) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: ResourceType::Backend.type_url().to_owned(),
        nonce: nonce.to_owned(),
        resources,
        ..DeltaDiscoveryResponse::default()
    }
}

#[test]
fn fields_of_a_later_sender_are_passed_over_wherever_they_are() {
    let mut client = client();
    let mut bytes = response("n1", vec![sent("a", &later("a", 1))]).encode_to_vec();
    // A field of the envelope that only a later version knows.
    prost::encoding::string::encode(900, &"later".to_owned(), &mut bytes);
    let response = DeltaDiscoveryResponse::decode(&bytes[..]).unwrap();
    match client.response(response, Moment(0)) {
        Received::Candidate(candidate) => drop(client.accept(candidate, Moment(0))),
        other => panic!("{other:?}"),
    }
    let names: Vec<_> = client.parts().backends.keys().map(ToString::to_string).collect();
    assert_eq!(names, ["ns/a"]);
    // It resumes with the sender's own version, so what it cannot read in full is not sent again for that.
    client.disconnected();
    let Some(ClientAction::Send(request)) = client.connected(Moment(0)).into_iter().next() else { panic!() };
    assert_eq!(request.initial_resource_versions["penstock/ns/a"], "2");
}

#[test]
fn a_choice_that_only_a_later_version_knows_is_refused_for_that_resource_alone() {
    // Both ends are real: the control plane sends the others again without the one that was refused.
    let mut parts = Parts::default();
    for name in ["a", "b"] {
        let sound = later(name, 1).encode_to_vec();
        let resource = Resource::decode(ResourceType::Backend, &format!("penstock/ns/{name}"), &sound);
        resource.unwrap().insert_into(&mut parts);
    }
    let mut session = Session::new(1);
    session.publish(&Arc::new(Published::new(&Snapshot::assemble(parts))));
    let mut client = client();
    let subscription = match client.connected(Moment(0)).into_iter().next() {
        Some(ClientAction::Send(request)) => *request,
        other => panic!("{other:?}"),
    };
    let mut to_client: Vec<_> = session.request(subscription);
    let mut refused = Vec::new();
    for _ in 0..10 {
        let Some(action) = to_client.pop() else { break };
        match action {
            ServerAction::Send(mut response) => {
                // On the way `b` turns into what a later version would have sent.
                for resource in response.resources.iter_mut().filter(|r| r.name == "penstock/ns/b") {
                    let value = later("b", 99).encode_to_vec();
                    resource.resource = Some(prost_types::Any {
                        type_url: ResourceType::Backend.type_url().to_owned(),
                        value,
                    });
                }
                let actions = match client.response(response, Moment(0)) {
                    Received::Candidate(candidate) => client.accept(candidate, Moment(0)),
                    Received::Refused(actions) => actions,
                    Received::Copy => panic!("a copy"),
                };
                for action in actions {
                    if let ClientAction::Send(request) = action {
                        to_client.extend(session.request(*request));
                    }
                }
            }
            ServerAction::Nacked { message, refusals, .. } => refused.push((message, refusals.len())),
            ServerAction::Acked { .. } => {}
            ServerAction::End(why) => panic!("{why}"),
        }
    }
    assert_eq!(to_client, []);
    let why = "backends penstock/ns/b: protocol has the value 99, which is not known";
    assert_eq!(refused, [(why.to_owned(), 1)]);
    assert_eq!(client.parts().backends.len(), 1);
    assert_eq!(client.status()[0].flaws.len(), 1, "operators see it");
}

#[test]
fn a_type_that_an_earlier_control_plane_does_not_know_is_answered_and_keeps_nobody_waiting() {
    let mut session = Session::new(1);
    session.publish(&Arc::new(Published::new(&Snapshot::default())));
    let actions = session.request(DeltaDiscoveryRequest {
        type_url: "type.googleapis.com/penstock.v1.Later".to_owned(),
        resource_names_subscribe: vec!["*".to_owned()],
        ..DeltaDiscoveryRequest::default()
    });
    match &actions[..] {
        [ServerAction::Send(response)] => {
            assert_eq!((response.resources.len(), response.removed_resources.len()), (0, 0));
        }
        other => panic!("{other:?}"),
    }
}

/// A file around a payload, with a checksum that fits.
fn sealed(schema: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = b"PENSTOCK".to_vec();
    bytes.extend_from_slice(&schema.to_le_bytes());
    bytes.extend_from_slice(&(payload.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&xxhash_rust::xxh3::xxh3_128(payload).to_le_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

#[test]
fn a_file_of_a_later_version_is_read_without_what_it_has_more_or_refused_by_its_schema() {
    let payload = &cache::encode(&parts())[36..];
    let mut more = payload.to_vec();
    prost::encoding::message::encode(60, &later("a", 1), &mut more);
    assert_eq!(cache::decode(&sealed(1, &more)).as_ref(), Ok(&parts()));
    assert_eq!(cache::decode(&sealed(2, &more)), Err(CacheError::Newer { found: 2 }));
    assert_eq!(cache::decode(&sealed(0, &more)), Err(CacheError::Older { found: 0 }));
}

/// Every file that one byte, or one length, makes of a sound one.
#[test]
fn no_damaged_file_is_read() {
    let sound = committed("v1-snapshot.bin.hex", || cache::encode(&parts()));
    let mut reasons = std::collections::BTreeMap::<&str, usize>::new();
    let mut refuse = |bytes: &[u8], what: &str| {
        let reason = match cache::decode(bytes) {
            Err(CacheError::Foreign) => "foreign",
            Err(CacheError::Newer { .. }) => "newer",
            Err(CacheError::Older { .. }) => "older",
            Err(CacheError::Truncated { .. }) => "truncated",
            Err(CacheError::Overlong { .. }) => "overlong",
            Err(CacheError::Corrupt) => "corrupt",
            other => panic!("{what}: {other:?}"),
        };
        *reasons.entry(reason).or_default() += 1;
    };
    for at in 0..sound.len() {
        for change in [0x01, 0x80, 0xff] {
            let mut bytes = sound.clone();
            bytes[at] ^= change;
            refuse(&bytes, &format!("byte {at} changed by {change:#x}"));
        }
        refuse(&sound[..at], &format!("cut to {at} bytes"));
    }
    for more in 1..64 {
        refuse(&[&sound[..], &vec![0; more]].concat(), &format!("{more} bytes more"));
    }
    for reason in ["foreign", "newer", "older", "truncated", "overlong", "corrupt"] {
        assert!(reasons.contains_key(reason), "{reason} never came up: {reasons:?}");
    }
    assert!(cache::decode(&sound).is_ok());
}

/// Behind a checksum that fits there may be anything: it is read, or refused with the place, and nothing panics.
#[test]
fn no_sealed_nonsense_makes_a_panic() {
    let payload = cache::encode(&parts())[36..].to_vec();
    let (mut read, mut refused) = (0, 0);
    for at in 0..payload.len() {
        let mut bytes = payload.clone();
        bytes[at] ^= 0x41;
        for payload in [&bytes[..], &payload[..at]] {
            match cache::decode(&sealed(1, payload)) {
                Ok(_) => read += 1,
                Err(CacheError::Refused(_) | CacheError::Undecodable(_)) => refused += 1,
                Err(other) => panic!("{at}: {other}"),
            }
        }
    }
    assert!(read > 0 && refused > 0, "{read} read, {refused} refused");
}

#[test]
fn durations_and_shares_at_their_ends_survive() {
    let message = v1::Policy {
        backend: Some(v1::ObjectName { namespace: "ns".to_owned(), name: "a".to_owned() }),
        connect_timeout: Some(prost_types::Duration { seconds: 315_576_000_000, nanos: 999_999_999 }),
        load_balancer: v1::LoadBalancer::P2c.into(),
        body_overflow: v1::BodyOverflow::Route.into(),
        body_held_bytes_max: u64::MAX,
        streams_per_connection_max: u32::MAX,
        ..v1::Policy::default()
    };
    let bytes = message.encode_to_vec();
    let Ok(Resource::Policy(_, policy)) = Resource::decode(ResourceType::Policy, "penstock/ns/a", &bytes)
    else {
        panic!("refused")
    };
    assert_eq!(policy.connect_timeout, Duration::new(315_576_000_000, 999_999_999));
}
