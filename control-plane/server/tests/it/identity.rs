//! Who gets which identity, and who gets none.

use penstock_delivery::proto::penstock::ca::v1::SignRequest;
use rustls::NamedGroup;
use rustls::pki_types::CertificateDer;
use tonic::Code;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::plane::{BACKENDS, Plane, WEB, backend, csr, within};

fn request(uris: &[&str]) -> SignRequest {
    SignRequest { csr: csr(uris).1, validity: None }
}

fn life_s(leaf: &CertificateDer<'_>) -> i64 {
    let (_, leaf) = X509Certificate::from_der(leaf).unwrap();
    // 20 s of it lie before the moment of issue, for clocks that are behind.
    leaf.validity().not_after.timestamp() - leaf.validity().not_before.timestamp() - 20
}

#[tokio::test]
async fn a_sidecar_joins_with_the_token_and_renews_with_its_leaf() {
    let plane = Plane::start(&[("a.yaml", &backend("chat", "10.0.0.1"))]).await;
    let web = plane.join(WEB).await;
    assert_eq!(life_s(web.leaf()), 24 * 3_600);
    let renewed = plane.sign(Some(&web), None, request(&[WEB])).await.unwrap();
    assert_eq!(renewed.trust_bundle, [plane.root().to_vec()]);
    assert_eq!(plane.metric("identity_cert_issued_total").await, Some(2.0));
}

#[tokio::test]
async fn a_leaf_renews_its_own_identity_alone_even_beside_the_token() {
    let plane = Plane::start(&[("a.yaml", &backend("chat", "10.0.0.1"))]).await;
    let web = plane.join(WEB).await;
    let bearer = format!("Bearer {}", plane.token());
    for authorization in [None, Some(bearer.as_str())] {
        let other = request(&["spiffe://cluster.local/ns/chat/sa/db"]);
        let refused = plane.sign(Some(&web), authorization, other).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    }
    let name = "penstock_identity_refusals_total{reason=\"other_identity\",stage=\"sign\"}";
    assert_eq!(plane.metric(name).await, Some(2.0));
}

#[tokio::test]
async fn each_refusal_has_its_code_and_its_reason() {
    let plane = Plane::start(&[("a.yaml", &backend("chat", "10.0.0.1"))]).await;
    let bearer = format!("Bearer {}", plane.token());
    let good = Some(bearer.as_str());
    let validity = |seconds, nanos| SignRequest {
        validity: Some(prost_types::Duration { seconds, nanos }),
        ..request(&[WEB])
    };
    let lower = format!("bearer {}", plane.token());
    assert!(plane.sign(None, Some(&lower), request(&[WEB])).await.is_ok());
    for (authorization, asked, code, reason) in [
        (None, request(&[WEB]), Code::Unauthenticated, "no_credentials"),
        (Some("Bearer wrong"), request(&[WEB]), Code::Unauthenticated, "wrong_token"),
        (Some("Bearer "), request(&[WEB]), Code::Unauthenticated, "wrong_token"),
        (Some("Basic abc"), request(&[WEB]), Code::Unauthenticated, "wrong_token"),
        (good, SignRequest::default(), Code::InvalidArgument, "request_malformed"),
        (good, request(&[]), Code::InvalidArgument, "no_uri"),
        (good, request(&[WEB, WEB]), Code::InvalidArgument, "several_uris"),
        (good, request(&["https://example.org/"]), Code::InvalidArgument, "not_spiffe"),
        (good, request(&["spiffe://cluster.local/web"]), Code::InvalidArgument, "not_a_workload"),
        (good, request(&["spiffe://other/ns/chat/sa/web"]), Code::PermissionDenied, "other_trust_domain"),
        (
            good,
            request(&["spiffe://cluster.local/ns/penstock/sa/penstock-control-plane"]),
            Code::PermissionDenied,
            "reserved_identity",
        ),
        (good, validity(0, 0), Code::InvalidArgument, "validity"),
        (good, validity(-5, 0), Code::InvalidArgument, "validity"),
        (good, validity(0, 999_999_999), Code::InvalidArgument, "validity"),
    ] {
        let name = format!("penstock_identity_refusals_total{{reason=\"{reason}\",stage=\"sign\"}}");
        let before = plane.metric(&name).await.unwrap_or(0.0);
        let refused = plane.sign(None, authorization, asked).await.unwrap_err();
        assert_eq!(refused.code(), code, "{reason}: {refused}");
        assert_eq!(plane.metric(&name).await, Some(before + 1.0), "{reason}");
    }
}

#[tokio::test]
async fn a_leaf_lives_as_long_as_asked_but_no_longer_than_allowed() {
    let plane = Plane::start_with(&[("a.yaml", &backend("chat", "10.0.0.1"))], &["--leaf-ttl", "1h"]).await;
    let bearer = format!("Bearer {}", plane.token());
    for (asked_s, given_s) in [(60, 60), (3_600, 3_600), (7_200, 3_600), (i64::MAX, 3_600)] {
        let validity = Some(prost_types::Duration { seconds: asked_s, nanos: 0 });
        let asked = SignRequest { validity, ..request(&[WEB]) };
        let signed = plane.sign(None, Some(&bearer), asked).await.unwrap();
        assert_eq!(life_s(&signed.certificate_chain[0].clone().into()), given_s, "{asked_s}");
    }
}

#[tokio::test]
async fn a_client_certificate_of_another_mesh_fails_the_handshake() {
    let documents = [("a.yaml", backend("chat", "10.0.0.1"))];
    let documents = [(documents[0].0, documents[0].1.as_str())];
    let ours = Plane::start(&documents).await;
    let theirs = Plane::start(&documents).await;
    let stranger = theirs.join(WEB).await;
    let bearer = format!("Bearer {}", ours.token());
    let refused = ours.sign(Some(&stranger), Some(&bearer), request(&[WEB])).await;
    assert!(refused.is_err());
    let name = "penstock_identity_refusals_total{reason=\"certificate_unknown_issuer\",stage=\"handshake\"}";
    assert!(ours.metric(name).await.unwrap() >= 1.0);
}

#[tokio::test]
async fn another_join_token_is_taken_up_without_a_restart() {
    let plane = Plane::start(&[("a.yaml", &backend("chat", "10.0.0.1"))]).await;
    let web = plane.join(WEB).await;
    let before = plane.token();
    plane.replace_join_token("another-token-of-an-operator");
    let replaced = "penstock_identity_join_token_reloads_total{result=\"success\"}";
    plane.metric_when(replaced, 1.0).await;
    let refused = plane.sign(None, Some(&format!("Bearer {before}")), request(&[WEB])).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    plane.sign(None, Some("Bearer another-token-of-an-operator"), request(&[WEB])).await.unwrap();
    plane.sign(Some(&web), None, request(&[WEB])).await.unwrap();

    plane.replace_join_token("short");
    plane.metric_when("penstock_identity_join_token_reloads_total{result=\"failure\"}", 1.0).await;
    plane.sign(None, Some("Bearer another-token-of-an-operator"), request(&[WEB])).await.unwrap();
}

#[tokio::test]
async fn the_push_stream_wants_a_certificate_or_the_token() {
    let plane = Plane::start(&[("a.yaml", &backend("chat", "10.0.0.1"))]).await;
    for authorization in [None, Some("Bearer wrong")] {
        let Err(refused) = plane.subscribe("web", None, authorization).await else {
            panic!("{authorization:?} was let in");
        };
        assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    }
    let web = plane.join(WEB).await;
    let mut stream = plane.subscribe("web", Some(&web), None).await.unwrap();
    stream.want_all(BACKENDS).await;
    assert_eq!(stream.accept().await.0, ["chat"]);
    let status = plane.status_when(|status| status["sidecars"][0]["in_sync"] == true).await;
    assert_eq!(status["sidecars"][0]["identity"], WEB);
}

#[tokio::test]
async fn ordinary_tls_clients_can_verify_the_server_and_get_post_quantum_key_exchange() {
    let plane = Plane::start(&[("a.yaml", &backend("chat", "10.0.0.1"))]).await;
    for name in ["localhost", "127.0.0.1", "penstock-controller-headless"] {
        let stream = within(plane.handshake(name, None)).await.unwrap();
        let (_, session) = stream.get_ref();
        assert_eq!(session.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
        assert_eq!(session.alpn_protocol(), Some(&b"h2"[..]));
        let group = session.negotiated_key_exchange_group().unwrap().name();
        assert_eq!(group, NamedGroup::X25519MLKEM768, "{name}");
    }
    assert!(within(plane.handshake("example.org", None)).await.is_err());
}

#[tokio::test]
async fn the_servers_own_certificate_is_replaced_before_its_end_and_streams_live_on() {
    let plane = Plane::start_with(&[("a.yaml", &backend("chat", "10.0.0.1"))], &["--leaf-ttl", "4s"]).await;
    let mut stream = plane.follower("web").await;
    stream.accept_all(2).await;
    let serial = async || {
        let stream = within(plane.handshake("localhost", None)).await.unwrap();
        let leaf = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
        X509Certificate::from_der(&leaf).unwrap().1.raw_serial().to_vec()
    };
    // Every handshake verifies the certificate, so one that came to its end would end the test.
    let mut seen = vec![serial().await];
    within(async {
        while seen.len() < 2 {
            let now = serial().await;
            if !seen.contains(&now) {
                seen.push(now);
            }
        }
    })
    .await;
    plane.write("b.yaml", &backend("embed", "10.0.0.2"));
    assert_eq!(stream.accept_all(2).await, ["embed", "embed/10.0.0.2:8000"]);
}

#[tokio::test]
async fn a_restart_keeps_root_and_token() {
    let mut plane = Plane::start(&[("a.yaml", &backend("chat", "10.0.0.1"))]).await;
    let (root, token, web) = (plane.root(), plane.token(), plane.join(WEB).await);
    plane.stop().await.unwrap();
    plane.run().await;
    assert_eq!((plane.root(), plane.token()), (root, token));
    assert!(plane.sign(Some(&web), None, request(&[WEB])).await.is_ok());
}
