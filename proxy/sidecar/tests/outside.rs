//! Endpoints outside the mesh, over real sockets: TLS and whom it believes, names and their addresses, readiness.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there, and says why")]

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA};
use hickory_resolver::proto::rr::{RData, Record, RecordType};
use parking_lot::Mutex;
use penstock_proxy::app::{self, App};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::version::{TLS12, TLS13};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

/// A sidecar that takes its documents from files.
struct Sidecar {
    outbound: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    ended: tokio::task::JoinHandle<()>,
    _dir: TempDir,
}

impl Sidecar {
    /// With one Backend, `app`, whose `spec` is this flow mapping, and with these further settings.
    async fn before(spec: &str, settings: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let document = format!(
            "apiVersion: penstock.dev/v1alpha1\nkind: Backend\nmetadata: {{name: app}}\nspec:\n{}\n",
            spec.lines().map(|line| format!("  {line}\n")).collect::<String>()
        );
        fs::create_dir(dir.path().join("documents")).unwrap();
        fs::write(dir.path().join("documents/app.yaml"), document).unwrap();
        let config = dir.path().join("proxy.yaml");
        let settings = format!(
            "apiVersion: penstock.dev/v1alpha1\nkind: ProxyConfig\nmetadata: {{name: web}}\nspec:\n  documents: ./documents\n  \
             outbound: {{listen: \"127.0.0.1:0\"}}\n  admin: {{listen: \"127.0.0.1:0\"}}\n  accessLog: {{path: \"off\"}}\n  \
             {settings}\n"
        );
        fs::write(&config, settings).unwrap();
        let app = App::build(app::settings(&config).unwrap()).await.unwrap();
        let outbound = app.outbound().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        #[expect(clippy::disallowed_methods, reason = "the test owns this task and joins it")]
        let ended = tokio::spawn(async move {
            app.run(async { drop(stopped.await) }).await.unwrap();
        });
        let sidecar = Self { outbound, stop: Some(stop), ended, _dir: dir };
        // An unknown host is answered by the sidecar itself: 503 until it has documents, 404 after.
        while sidecar.get("x").await.contains("no_backend") {
            tokio::task::yield_now().await;
        }
        sidecar
    }

    /// The whole answer to a GET.
    async fn get(&self, host: &str) -> String {
        let mut stream = TcpStream::connect(self.outbound).await.unwrap();
        let request = format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    /// Asks until the answer is as wished.
    async fn answers(&self, wish: impl Fn(&str) -> bool) -> String {
        loop {
            let answer = self.get("app").await;
            if wish(&answer) {
                return answer;
            }
            tokio::task::yield_now().await;
        }
    }

    async fn stop(mut self) {
        drop(self.stop.take());
        self.ended.await.unwrap();
    }
}

fn spawn(work: impl Future<Output = ()> + Send + 'static) {
    #[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
    drop(tokio::spawn(work));
}

/// Reads one request head; its path.
async fn head(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(stream.read_u8().await.ok()?);
    }
    let text = String::from_utf8(bytes).unwrap();
    text.split(' ').nth(1).map(str::to_owned)
}

async fn answer(stream: &mut (impl AsyncWrite + Unpin), status: u16, body: &str) {
    let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(answer.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
}

// TLS.

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
                while head(&mut stream).await.is_some() {
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
    for (roots, why) in [
        (
            format!("caCertificates: |\n{}", indented(&Authority::new("ours").pem)),
            "issuer is not among the Backend's roots",
        ),
        ("wellKnownCACertificates: System".to_owned(), "was refused: "),
        ("caFile: /nowhere/ca.pem".to_owned(), "the roots are unusable: /nowhere/ca.pem: "),
    ] {
        let spec = format!(
            "endpoints: [{{address: 127.0.0.1, port: {}}}]\ntls:\n  hostname: service.example\n  {roots}",
            server.port()
        );
        let sidecar = Sidecar::before(&spec, "").await;
        let answer = sidecar.get("app").await;
        assert!(answer.starts_with("HTTP/1.1 502 ") && answer.contains(why), "{why}\n{answer}");
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
        sidecar.stop().await;
    }
}

// Names.

/// A server of names that says what it is told to; a name that it does not know does not exist.
#[derive(Clone, Default)]
struct Names(Arc<Mutex<BTreeMap<String, Said>>>);

type Said = Result<Vec<IpAddr>, ResponseCode>;

impl Names {
    async fn serve(&self) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let names = self.clone();
        spawn(async move {
            let mut bytes = [0; 4096];
            while let Ok((length, from)) = socket.recv_from(&mut bytes).await {
                let query = Message::from_vec(&bytes[..length]).unwrap();
                socket.send_to(&names.answer(&query).to_vec().unwrap(), from).await.unwrap();
            }
        });
        address
    }

    fn answer(&self, query: &Message) -> Message {
        let question = query.queries[0].clone();
        let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
        answer.metadata.recursion_available = true;
        answer.add_query(question.clone());
        match self.0.lock().get(&question.name().to_string()) {
            None => answer.metadata.response_code = ResponseCode::NXDomain,
            Some(Err(code)) => answer.metadata.response_code = *code,
            Some(Ok(addresses)) => {
                for address in addresses {
                    let data = match (address, question.query_type()) {
                        (IpAddr::V4(v4), RecordType::A) => RData::A(A(*v4)),
                        (IpAddr::V6(v6), RecordType::AAAA) => RData::AAAA(AAAA(*v6)),
                        _ => continue,
                    };
                    answer.add_answer(Record::from_rdata(question.name().clone(), 0, data));
                }
            }
        }
        answer
    }

    fn set(&self, name: &str, addresses: Result<&[&str], ResponseCode>) {
        let addresses = addresses.map(|all| all.iter().map(|address| address.parse().unwrap()).collect());
        self.0.lock().insert(format!("{name}."), addresses);
    }
}

/// Applications on one port of several addresses, each of which says its address.
async fn applications(addresses: &[&str]) -> u16 {
    'port: loop {
        let mut listeners: Vec<TcpListener> = Vec::new();
        for address in addresses {
            let port = listeners.first().map_or(0, |first| first.local_addr().unwrap().port());
            match TcpListener::bind(SocketAddr::new(address.parse().unwrap(), port)).await {
                Ok(listener) => listeners.push(listener),
                Err(_) => continue 'port,
            }
        }
        let port = listeners[0].local_addr().unwrap().port();
        for listener in listeners {
            spawn(async move {
                while let Ok((mut stream, _)) = listener.accept().await {
                    let here = stream.local_addr().unwrap().ip().to_string();
                    spawn(async move {
                        while head(&mut stream).await.is_some() {
                            answer(&mut stream, 200, &format!("at {here}")).await;
                        }
                    });
                }
            });
        }
        return port;
    }
}

#[tokio::test]
async fn a_name_s_addresses_are_endpoints_for_as_long_as_it_has_them() {
    let names = Names::default();
    let server = names.serve().await;
    let port = applications(&["127.0.0.1", "127.0.0.2", "::1"]).await;
    let sidecar = Sidecar::before(
        &format!("endpoints: [{{dns: app.example, port: {port}}}]"),
        &format!("dns: {{servers: [\"{server}\"], ttlMin: 10ms, ttlMax: 1s, timeout: 1s}}"),
    )
    .await;
    let none = sidecar.answers(|answer| answer.contains("has no address")).await;
    assert!(none.starts_with("HTTP/1.1 503 ") && none.contains("x-penstock-error: no_endpoints"), "{none}");

    names.set("app.example", Ok(&["127.0.0.1"]));
    sidecar.answers(|answer| answer.contains("at 127.0.0.1")).await;
    names.set("app.example", Ok(&["127.0.0.2"]));
    sidecar.answers(|answer| answer.contains("at 127.0.0.2")).await;
    names.set("app.example", Ok(&["127.0.0.2", "::1"]));
    sidecar.answers(|answer| answer.contains("at ::1")).await;
    sidecar.answers(|answer| answer.contains("at 127.0.0.2")).await;
    names.set("app.example", Ok(&["::1"]));
    sidecar.answers(|answer| answer.contains("at ::1")).await;

    // A server that fails takes nothing away.
    names.set("app.example", Err(ResponseCode::ServFail));
    for _ in 0..20 {
        let answer = sidecar.get("app").await;
        assert!(answer.contains("HTTP/1.1 200 "), "{answer}");
    }
    names.0.lock().clear();
    sidecar.answers(|answer| answer.contains("app.example") && answer.contains("has no address")).await;
    sidecar.stop().await;
}

// Readiness.

#[tokio::test]
async fn an_endpoint_gets_nothing_until_it_says_that_it_is_ready() {
    let health = Arc::new(AtomicU16::new(503));
    let said = Arc::clone(&health);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let said = Arc::clone(&said);
            spawn(async move {
                while let Some(path) = head(&mut stream).await {
                    match path.as_str() {
                        "/health" => answer(&mut stream, said.load(Ordering::SeqCst), "").await,
                        // Nobody may get here before it is ready.
                        _ => {
                            answer(&mut stream, 200, &format!("health {}", said.load(Ordering::SeqCst)))
                                .await;
                        }
                    }
                }
            });
        }
    });
    let sidecar = Sidecar::before(
        &format!(
            "endpoints: [{{address: 127.0.0.1, port: {}}}]\nhealthCheck: {{engine: vllm, interval: 100ms, healthyThreshold: 1}}",
            address.port()
        ),
        "",
    )
    .await;
    let why = format!("no endpoint is ready, of 1: {address} answered 503 to GET /health");
    let waiting = sidecar.answers(|answer| !answer.contains("was not asked yet")).await;
    assert!(waiting.starts_with("HTTP/1.1 503 ") && waiting.contains(&why), "{waiting}");

    health.store(200, Ordering::SeqCst);
    let served = sidecar.answers(|answer| answer.starts_with("HTTP/1.1 200 ")).await;
    assert!(served.contains("health 200"), "{served}");

    health.store(500, Ordering::SeqCst);
    let again = sidecar.answers(|answer| answer.starts_with("HTTP/1.1 503 ")).await;
    assert!(again.contains("answered 500 to GET /health"), "{again}");
    sidecar.stop().await;
}

#[tokio::test]
async fn one_that_nobody_answers_for_is_not_ready_and_says_so() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let sidecar = Sidecar::before(
        &format!(
            "endpoints: [{{address: 127.0.0.1, port: {}}}]\nhealthCheck: {{path: /, interval: 100ms}}",
            nobody.port()
        ),
        "",
    )
    .await;
    let answer = sidecar.answers(|answer| !answer.contains("was not asked yet")).await;
    assert!(answer.contains("could not be asked (cannot connect to "), "{answer}");
    sidecar.stop().await;
}
