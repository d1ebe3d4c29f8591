//! The harness: a control plane with directories of its own, and clients for its three sides.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use hyper_util::rt::TokioIo;
use penstock_control_plane::{Flags, Listening, start};
use penstock_delivery::proto::envoy::config::core::v3::Node;
use penstock_delivery::proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse,
};
use penstock_delivery::proto::google::rpc;
use penstock_delivery::proto::penstock::ca::v1::{SignRequest, SignResponse};
use rcgen::{CertificateParams, KeyPair, SanType};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;

pub(crate) const WEB: &str = "spiffe://cluster.local/ns/chat/sa/web";
pub(crate) const BACKENDS: &str = "type.googleapis.com/penstock.v1.Backend";
pub(crate) const ENDPOINTS: &str = "type.googleapis.com/penstock.v1.Endpoint";

/// Nothing here takes seconds; a test that hangs fails after this.
pub(crate) async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), work).await.expect("nothing came of it in time")
}

/// A document with one endpoint.
pub(crate) fn backend(name: &str, address: &str) -> String {
    format!(
        "apiVersion: penstock.dev/v1alpha1\nkind: Backend\nmetadata: {{ name: {name} }}\nspec:\n  endpoints:\n    - address: {address}\n      port: 8000\n"
    )
}

/// A control plane, its documents and its state.
pub(crate) struct Plane {
    dir: TempDir,
    more: Vec<String>,
    running: Option<Running>,
}

struct Running {
    listening: Listening,
    stop: oneshot::Sender<()>,
    done: JoinHandle<anyhow::Result<()>>,
}

impl Plane {
    /// Starts with these documents, by file name.
    pub(crate) async fn start(documents: &[(&str, &str)]) -> Self {
        Self::start_with(documents, &[]).await
    }

    /// The same with more flags.
    pub(crate) async fn start_with(documents: &[(&str, &str)], more: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("config")).unwrap();
        let more = more.iter().map(|flag| (*flag).to_owned()).collect();
        let mut plane = Self { dir, more, running: None };
        for (name, text) in documents {
            plane.write(name, text);
        }
        plane.run().await;
        plane
    }

    #[expect(clippy::disallowed_methods, reason = "a test is not part of the program's tasks")]
    pub(crate) async fn run(&mut self) {
        let (config, state) = (self.path("config"), self.path("state"));
        let flags = Flags::parse_from(
            ["plane", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--config"]
                .map(Into::into)
                .into_iter()
                .chain([config.into_os_string(), "--state-dir".into(), state.into_os_string()])
                .chain(self.more.iter().map(Into::into)),
        );
        let app = within(start(&flags)).await.unwrap();
        let listening = app.listening().clone();
        let (stop, stopped) = oneshot::channel();
        let done = tokio::spawn(app.run(async {
            // The sender is dropped when the test ends.
            let _stopped = stopped.await;
        }));
        self.running = Some(Running { listening, stop, done });
    }

    /// Stops, and says how that went.
    pub(crate) async fn stop(&mut self) -> anyhow::Result<()> {
        let running = self.running.take().unwrap();
        running.stop.send(()).unwrap();
        within(running.done).await.unwrap()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Replaces a document as editors do: another file takes its name.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.path("config").join(name);
        let fresh = path.with_extension("fresh");
        std::fs::write(&fresh, text).unwrap();
        std::fs::rename(fresh, path).unwrap();
    }

    pub(crate) fn remove(&self, name: &str) {
        std::fs::remove_file(self.path("config").join(name)).unwrap();
    }

    pub(crate) fn listening(&self) -> &Listening {
        &self.running.as_ref().unwrap().listening
    }

    pub(crate) fn token(&self) -> String {
        std::fs::read_to_string(&self.listening().join_token).unwrap()
    }

    pub(crate) fn root(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(&self.listening().trust_bundle).unwrap()
    }

    /// A TLS connection alone.
    pub(crate) async fn handshake(
        &self,
        name: &str,
        client: Option<&Identity>,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        handshake(self.listening().listening.grpc.port(), self.root(), name, client).await
    }

    /// A gRPC connection, with a client certificate or without.
    pub(crate) async fn channel(&self, client: Option<&Identity>) -> Channel {
        let (port, root, client) = (self.listening().listening.grpc.port(), self.root(), client.cloned());
        let connector = tower::service_fn(move |_| {
            let (root, client) = (root.clone(), client.clone());
            async move { handshake(port, root, "localhost", client.as_ref()).await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://localhost");
        within(endpoint.connect_with_connector(connector)).await.unwrap()
    }

    /// `Sign` with the given `authorization`.
    pub(crate) async fn sign(
        &self,
        client: Option<&Identity>,
        authorization: Option<&str>,
        request: SignRequest,
    ) -> Result<SignResponse, Status> {
        let mut request = Request::new(request);
        authorize(&mut request, authorization);
        let mut grpc = Grpc::new(self.channel(client).await);
        within(grpc.ready()).await.map_err(|error| Status::unavailable(error.to_string()))?;
        let path = PathAndQuery::from_static("/penstock.ca.v1.CertificateService/Sign");
        let codec = ProstCodec::<SignRequest, SignResponse>::default();
        within(grpc.unary(request, path, codec)).await.map(tonic::Response::into_inner)
    }

    /// A leaf for `uri` with the join token.
    pub(crate) async fn join(&self, uri: &str) -> Identity {
        let (key, csr) = csr(&[uri]);
        let request = SignRequest { csr, validity: None };
        let bearer = format!("Bearer {}", self.token());
        let signed = self.sign(None, Some(&bearer), request).await.unwrap();
        Identity::new(&key, &signed.certificate_chain)
    }

    /// A push stream of the node `node`.
    pub(crate) async fn subscribe(
        &self,
        node: &str,
        client: Option<&Identity>,
        authorization: Option<&str>,
    ) -> Result<Stream, Status> {
        self.stream("DeltaAggregatedResources", node, client, authorization).await
    }

    /// A stream by one of the service's methods.
    pub(crate) async fn stream(
        &self,
        method: &str,
        node: &str,
        client: Option<&Identity>,
        authorization: Option<&str>,
    ) -> Result<Stream, Status> {
        let (requests, outgoing) = mpsc::channel(16);
        let mut request = Request::new(ReceiverStream::new(outgoing));
        authorize(&mut request, authorization);
        let mut grpc = Grpc::new(self.channel(client).await);
        within(grpc.ready()).await.map_err(|error| Status::unavailable(error.to_string()))?;
        let path = format!("/envoy.service.discovery.v3.AggregatedDiscoveryService/{method}");
        let path = PathAndQuery::try_from(path).unwrap();
        let codec = ProstCodec::<DeltaDiscoveryRequest, DeltaDiscoveryResponse>::default();
        let responses = within(grpc.streaming(request, path, codec)).await?.into_inner();
        Ok(Stream { node: node.to_owned(), requests, responses })
    }

    /// A push stream with the join token that wants all backends and endpoints.
    pub(crate) async fn follower(&self, node: &str) -> Stream {
        let bearer = format!("Bearer {}", self.token());
        let stream = self.subscribe(node, None, Some(&bearer)).await.unwrap();
        stream.want_all(BACKENDS).await;
        stream.want_all(ENDPOINTS).await;
        stream
    }

    /// Status and body of a request to the operators' side.
    pub(crate) async fn http(
        &self,
        method: &str,
        path: &str,
        kind: &str,
        body: &str,
    ) -> (u16, String, String) {
        let address = self.listening().listening.admin;
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut answer = String::new();
        within(async {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            stream.read_to_string(&mut answer).await.unwrap();
        })
        .await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), head.to_ascii_lowercase(), body.to_owned())
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        let (status, _, body) = self.http("GET", path, "text/plain", "").await;
        (status, body)
    }

    pub(crate) async fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.get(path).await.1).unwrap()
    }

    /// Waits until the status is as wanted.
    pub(crate) async fn status_when(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        within(async {
            loop {
                let status = self.json("/api/v1/status").await;
                if wanted(&status) {
                    return status;
                }
            }
        })
        .await
    }

    /// Value of a metric with its labels as they are written.
    pub(crate) async fn metric(&self, name: &str) -> Option<f64> {
        let (_, text) = self.get("/metrics").await;
        let line = text.lines().find(|line| line.rsplit_once(' ').is_some_and(|(found, _)| found == name))?;
        line.rsplit_once(' ').unwrap().1.parse().ok()
    }

    pub(crate) async fn metric_when(&self, name: &str, value: f64) {
        within(async { while self.metric(name).await != Some(value) {} }).await;
    }

    pub(crate) fn replace_join_token(&self, text: &str) {
        let path = &self.listening().join_token;
        let beside = path.with_extension("beside");
        std::fs::write(&beside, text).unwrap();
        std::fs::rename(beside, path).unwrap();
    }
}

/// A key with its certificate.
#[derive(Clone)]
pub(crate) struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: Arc<PrivateKeyDer<'static>>,
}

impl Identity {
    pub(crate) fn new(key: &KeyPair, chain: &[Vec<u8>]) -> Self {
        Self {
            chain: chain.iter().map(|der| der.clone().into()).collect(),
            key: Arc::new(PrivateKeyDer::Pkcs8(key.serialize_der().into())),
        }
    }

    pub(crate) fn leaf(&self) -> &CertificateDer<'static> {
        &self.chain[0]
    }
}

/// One push stream, seen by a sidecar.
pub(crate) struct Stream {
    node: String,
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl Stream {
    pub(crate) async fn send(&self, request: DeltaDiscoveryRequest) {
        let node = Some(Node { id: self.node.clone(), ..Node::default() });
        within(self.requests.send(DeltaDiscoveryRequest { node, ..request })).await.unwrap();
    }

    pub(crate) async fn want_all(&self, type_url: &str) {
        self.resume(type_url, &[]).await;
    }

    /// Wants all, and says what it has.
    pub(crate) async fn resume(&self, type_url: &str, held: &[(String, String)]) {
        self.send(DeltaDiscoveryRequest {
            type_url: type_url.to_owned(),
            resource_names_subscribe: vec!["*".to_owned()],
            initial_resource_versions: held.iter().cloned().collect(),
            ..DeltaDiscoveryRequest::default()
        })
        .await;
    }

    pub(crate) async fn next(&mut self) -> Result<DeltaDiscoveryResponse, Status> {
        let response = within(self.responses.message()).await?;
        response.ok_or_else(|| Status::ok("the stream has ended"))
    }

    pub(crate) async fn ack(&self, response: &DeltaDiscoveryResponse) {
        self.answer(response, None).await;
    }

    pub(crate) async fn nack(&self, response: &DeltaDiscoveryResponse, why: &str) {
        let error = rpc::Status { code: 3, message: why.to_owned(), ..rpc::Status::default() };
        self.answer(response, Some(error)).await;
    }

    async fn answer(&self, response: &DeltaDiscoveryResponse, error_detail: Option<rpc::Status>) {
        self.send(DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail,
            ..DeltaDiscoveryRequest::default()
        })
        .await;
    }

    /// Accepts the next response and says what it made and removed, without the common beginning of names.
    pub(crate) async fn accept(&mut self) -> (Vec<String>, Vec<String>) {
        let response = self.next().await.unwrap();
        self.ack(&response).await;
        let short = |name: &String| name.strip_prefix("penstock/default/").unwrap().to_owned();
        let made = response.resources.iter().map(|resource| short(&resource.name)).collect();
        (made, response.removed_resources.iter().map(short).collect())
    }

    /// Accepts until `count` resources were made or removed.
    pub(crate) async fn accept_all(&mut self, count: usize) -> Vec<String> {
        let mut seen = Vec::new();
        while seen.len() < count {
            let (made, removed) = self.accept().await;
            seen.extend(made);
            seen.extend(removed.into_iter().map(|name| format!("-{name}")));
        }
        seen
    }
}

/// A key and a request for these URI names.
pub(crate) fn csr(uris: &[&str]) -> (KeyPair, Vec<u8>) {
    let key = KeyPair::generate().unwrap();
    let mut wanted = CertificateParams::default();
    wanted.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
    let csr = wanted.serialize_request(&key).unwrap().der().to_vec();
    (key, csr)
}

/// Points Kubernetes' link at another directory, as the kubelet does.
pub(crate) fn point_data_at(config: &Path, directory: &str) {
    let fresh = config.join("..data_tmp");
    std::os::unix::fs::symlink(directory, &fresh).unwrap();
    std::fs::rename(fresh, config.join("..data")).unwrap();
}

fn authorize<T>(request: &mut Request<T>, authorization: Option<&str>) {
    if let Some(authorization) = authorization {
        let value = MetadataValue::try_from(authorization).unwrap();
        request.metadata_mut().insert("authorization", value);
    }
}

async fn handshake(
    port: u16,
    root: CertificateDer<'static>,
    name: &str,
    client: Option<&Identity>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(root).unwrap();
    let tls = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots);
    let mut tls = match client {
        None => tls.with_no_client_auth(),
        Some(Identity { chain, key }) => tls.with_client_auth_cert(chain.clone(), key.clone_key()).unwrap(),
    };
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let tcp = TcpStream::connect(("127.0.0.1", port)).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(Arc::new(tls)).connect(name, tcp).await
}
