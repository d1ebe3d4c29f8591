//! TLS: who is believed, and what is spoken.

use std::net::SocketAddr;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::sidecar::Sidecar;
use crate::{answer, head, spawn};

const SWITCH: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
                        sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Signs certificates.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate for `service.example`, as `change` leaves it.
    fn leaf(&self, change: fn(&mut CertificateParams)) -> (CertificateDer<'static>, KeyPair) {
        let mut params = CertificateParams::new(vec!["service.example".to_owned()]).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().der().clone(), key)
    }
}

fn uri(params: &mut CertificateParams, uri: &str) {
    params.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
}

/// A server that says in its answer which name it was asked for and which HTTP was spoken.
async fn tls_server(
    (leaf, key): (CertificateDer<'static>, KeyPair),
    versions: &[&'static rustls::SupportedProtocolVersion],
    alpn: &[&[u8]],
) -> SocketAddr {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let sni = stream.get_ref().1.server_name().unwrap_or("nobody").to_owned();
                if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                    let mut connection = h2::server::handshake(stream).await.unwrap();
                    while let Some(Ok((request, mut respond))) = connection.accept().await {
                        let scheme = request.uri().scheme_str().unwrap_or_default().to_owned();
                        let mut body = respond.send_response(http::Response::new(()), false).unwrap();
                        body.send_data(format!("h2 for {sni} by {scheme}").into(), true).unwrap();
                    }
                    return;
                }
                while let Some(path) = head(&mut stream).await {
                    if path == "/ws" {
                        stream.write_all(SWITCH).await.unwrap();
                        stream.write_all(format!("switched for {sni}").as_bytes()).await.unwrap();
                        return;
                    }
                    answer(&mut stream, 200, &format!("http/1.1 for {sni}")).await;
                }
            });
        }
    });
    address
}

fn indented(pem: &str) -> String {
    pem.lines().map(|line| format!("    {line}\n")).collect()
}

/// What a caller gets from a server with this certificate, where the Backend has these lines in its `tls`.
async fn check_trust(change: fn(&mut CertificateParams), tls: &str, expected: &str) {
    let authority = Authority::new("ours");
    let server = tls_server(authority.leaf(change), &[&TLS13], &[b"http/1.1"]).await;
    let spec = format!(
        "endpoints: [{{address: 127.0.0.1, port: {}}}]\ntls:\n  caCertificates: |\n{}{tls}",
        server.port(),
        indented(&authority.pem)
    );
    let sidecar = Sidecar::before(&spec, "").await;
    let answer = sidecar.get("app").await;
    assert!(answer.contains(expected), "{tls}\nexpected: {expected}\n{answer}");
    assert_eq!(answer.starts_with("HTTP/1.1 200 "), expected.starts_with("http/1.1 for "), "{answer}");
    if !answer.starts_with("HTTP/1.1 200 ") {
        assert!(
            answer.starts_with("HTTP/1.1 502 ") && answer.contains("x-penstock-error: connect"),
            "{answer}"
        );
    }
    sidecar.stop().await;
}

#[tokio::test]
async fn an_endpoint_is_believed_by_its_names_and_by_nothing_else() {
    const HOSTNAME: &str = "  hostname: service.example";
    let with = |names: &str| format!("{HOSTNAME}\n  subjectAltNames: [{names}]");
    let good: fn(&mut CertificateParams) = |_| {};
    let with_uri: fn(&mut CertificateParams) = |params| uri(params, "spiffe://partner/ns/a/sa/b");
    let wildcard: fn(&mut CertificateParams) = |params| {
        params.subject_alt_names = vec![SanType::DnsName("*.service.example".try_into().unwrap())];
    };
    let fits = "http/1.1 for service.example";
    let wrong = "its certificate is for none of: ";
    for (change, tls, expected) in [
        (good, HOSTNAME.to_owned(), fits),
        (wildcard, "  hostname: a.service.example".to_owned(), "http/1.1 for a.service.example"),
        (wildcard, HOSTNAME.to_owned(), wrong),
        (good, "  hostname: other.example".to_owned(), "its certificate is for none of: other.example"),
        (wildcard, "  hostname: a.b.service.example".to_owned(), wrong),
        // Names that are listed take the place of `hostname`, which is only asked for.
        (
            good,
            "  hostname: other.example\n  subjectAltNames: [{type: Hostname, hostname: service.example}]"
                .to_owned(),
            "http/1.1 for other.example",
        ),
        (good, with("{type: Hostname, hostname: other.example}"), wrong),
        (
            good,
            with("{type: Hostname, hostname: other.example}, {type: Hostname, hostname: service.example}"),
            fits,
        ),
        (with_uri, with("{type: URI, uri: \"spiffe://partner/ns/a/sa/b\"}"), fits),
        (with_uri, with("{type: URI, uri: \"spiffe://partner/ns/a/sa/bb\"}"), wrong),
        (with_uri, with("{type: URI, uri: \"SPIFFE://partner/ns/a/sa/b\"}"), wrong),
        (good, with("{type: URI, uri: \"spiffe://partner/ns/a/sa/b\"}"), wrong),
    ] {
        check_trust(change, &tls, expected).await;
    }
}

#[tokio::test]
async fn a_certificate_that_is_not_good_now_is_refused_with_the_reason() {
    const HOSTNAME: &str = "  hostname: service.example";
    check_trust(|params| params.not_after = rcgen::date_time_ymd(2020, 1, 1), HOSTNAME, "has expired").await;
    check_trust(|params| params.not_before = rcgen::date_time_ymd(2120, 1, 1), HOSTNAME, "is not valid yet")
        .await;
    let server = tls_server(Authority::new("theirs").leaf(|_| {}), &[&TLS13], &[]).await;
    for (roots, why, reason) in [
        (
            format!("caCertificates: |\n{}", indented(&Authority::new("ours").pem)),
            "issuer is not among the Backend's roots",
            "reason=\"unknown_issuer\"",
        ),
        // What the machine has decides whether it believes somebody else, or nobody.
        ("wellKnownCACertificates: System".to_owned(), "was refused: ", ""),
        (
            "caFile: /nowhere/ca.pem".to_owned(),
            "the roots are unusable: /nowhere/ca.pem: ",
            "reason=\"roots_unusable\"",
        ),
        (
            format!(
                "caCertificates: |\n{}",
                indented("-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----")
            ),
            "the roots are unusable: ",
            "reason=\"roots_unusable\"",
        ),
    ] {
        let spec = format!(
            "endpoints: [{{address: 127.0.0.1, port: {}}}]\ntls:\n  hostname: service.example\n  {roots}",
            server.port()
        );
        let sidecar = Sidecar::before(&spec, "").await;
        let answer = sidecar.get("app").await;
        assert!(answer.starts_with("HTTP/1.1 502 ") && answer.contains(why), "{why}\n{answer}");
        sidecar.counts(&format!("penstock_tls_refusals_total{{direction=\"origination\",{reason}")).await;
        sidecar.stop().await;
    }
}

#[tokio::test]
async fn what_the_endpoint_chooses_is_spoken_and_what_the_protocol_needs_is_demanded() {
    let both: &[&[u8]] = &[b"h2", b"http/1.1"];
    let h1 = "http/1.1 for service.example";
    let h2 = "h2 for service.example by https";
    let refused = "it did not agree to speak HTTP/2";
    for (versions, alpn, protocol, expected) in [
        (&[&TLS13], both, "http", h2),
        (&[&TLS12], both, "http", h2),
        (&[&TLS12], &both[1..], "http", h1),
        (&[&TLS13], &[][..], "http", h1),
        (&[&TLS13], both, "grpc", h2),
        (&[&TLS13], &both[1..], "h2c", refused),
        (&[&TLS13], &[][..], "h2c", refused),
    ] {
        let authority = Authority::new("ours");
        let server = tls_server(authority.leaf(|_| {}), versions, alpn).await;
        let spec = format!(
            "protocol: {protocol}\nendpoints: [{{address: 127.0.0.1, port: {}}}]\ntls:\n  hostname: service.example\n  \
             caCertificates: |\n{}",
            server.port(),
            indented(&authority.pem)
        );
        let sidecar = Sidecar::before(&spec, "").await;
        let (one, other) = tokio::join!(sidecar.get("app"), sidecar.get("app"));
        let third = sidecar.get("app").await;
        for answer in [one, other, third] {
            assert!(answer.contains(expected), "{alpn:?} {protocol}: {answer}");
        }
        if expected == refused {
            sidecar.counts("penstock_tls_refusals_total{direction=\"origination\",reason=\"alpn\"}").await;
        } else {
            sidecar.counts("penstock_tls_connections_total{direction=\"origination\",").await;
            sidecar
                .counts(if versions == &[&TLS12] { "version=\"TLSv1.2\"" } else { "version=\"TLSv1.3\"" })
                .await;
        }
        sidecar.stop().await;
    }
}

#[tokio::test]
async fn websocket_goes_over_http1_also_to_an_endpoint_that_would_rather_speak_http2() {
    let authority = Authority::new("ours");
    let server = tls_server(authority.leaf(|_| {}), &[&TLS13], &[b"h2", b"http/1.1"]).await;
    let spec = format!(
        "endpoints: [{{address: 127.0.0.1, port: {}}}]\ntls:\n  hostname: service.example\n  caCertificates: |\n{}",
        server.port(),
        indented(&authority.pem)
    );
    let sidecar = Sidecar::before(&spec, "").await;
    for _ in 0..2 {
        let ordinary = sidecar.get("app").await;
        assert!(ordinary.contains("h2 for service.example"), "{ordinary}");
        let mut stream = TcpStream::connect(sidecar.outbound).await.unwrap();
        let ask = "GET /ws HTTP/1.1\r\nhost: app\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                   sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        stream.write_all(ask.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 101 ") && answer.ends_with("switched for service.example"),
            "{answer}"
        );
    }
    sidecar.stop().await;
}
