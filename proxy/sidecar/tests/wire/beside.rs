//! A sidecar in this process, in front of an application that answers by hand.

use std::fs;
use std::net::SocketAddr;

use penstock_proxy::app::{self, App};
use penstock_proxy::lifecycle::Drained;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

/// A sidecar that takes its documents from files.
pub(crate) struct Sidecar {
    pub(crate) outbound: SocketAddr,
    admin: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    ended: tokio::task::JoinHandle<Drained>,
    _dir: TempDir,
}

impl Sidecar {
    /// In front of an application that speaks HTTP/1.1.
    pub(crate) async fn before(application: SocketAddr) -> Self {
        Self::start(application, "http", "").await
    }

    /// The same, with a route that must know the model first.
    pub(crate) async fn that_looks_for_models(application: SocketAddr) -> Self {
        let route = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: by-model}\nspec:\n  \
                     parentRefs: [{group: penstock.dev, kind: Backend, name: app}]\n  rules:\n    - matches: [{headers: [{name: \
                     x-gateway-model-name, value: m}]}]\n      backendRefs: [{group: penstock.dev, kind: Backend, name: app}]\n";
        Self::start_with(application, "http", route, "").await
    }

    /// In front of an application that speaks HTTP/2.
    pub(crate) async fn before_http2(application: SocketAddr) -> Self {
        Self::start(application, "h2c", "").await
    }

    /// With its settings extended by lines of YAML.
    pub(crate) async fn start(application: SocketAddr, protocol: &str, more: &str) -> Self {
        Self::start_with(application, protocol, "", more).await
    }

    async fn start_with(application: SocketAddr, protocol: &str, route: &str, more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let documents = format!(
            "apiVersion: penstock.dev/v1alpha1\nkind: Backend\nmetadata: {{name: app}}\nspec:\n  default: true\n  \
             protocol: {protocol}\n  endpoints: [{{address: 127.0.0.1, port: {}}}]\n{route}",
            application.port()
        );
        fs::create_dir(dir.path().join("documents")).unwrap();
        fs::write(dir.path().join("documents/app.yaml"), documents).unwrap();
        let config = dir.path().join("proxy.yaml");
        let settings = format!(
            "apiVersion: penstock.dev/v1alpha1\nkind: ProxyConfig\nmetadata: {{name: web}}\nspec:\n  documents: \
                        ./documents\n  outbound: {{listen: \"127.0.0.1:0\"}}\n  admin: {{listen: \"127.0.0.1:0\"}}\n  accessLog: \
                        {{path: \"off\"}}\n{more}"
        );
        fs::write(&config, settings).unwrap();
        let app = App::build(app::settings(&config).unwrap()).await.unwrap();
        let (outbound, admin) = (app.outbound().unwrap(), app.admin().unwrap());
        let (stop, stopped) = oneshot::channel::<()>();
        #[expect(clippy::disallowed_methods, reason = "the test owns this task and joins it")]
        let ended = tokio::spawn(async move { app.run(async { drop(stopped.await) }).await.unwrap() });
        let sidecar = Self { outbound, admin, stop: Some(stop), ended, _dir: dir };
        // An unknown host is answered by the sidecar itself: 503 until it has documents, 404 after.
        while sidecar
            .ask_once("GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            .await
            .contains("no_backend")
        {
            tokio::task::yield_now().await;
        }
        sidecar
    }

    pub(crate) async fn ask_once(&self, request: &str) -> String {
        ask_once(self.outbound, request).await
    }

    /// Waits until an admin page has this, and gives the page.
    pub(crate) async fn shows(&self, page: &str, text: &str) -> String {
        let request = format!("GET {page} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
        loop {
            let answer = ask_once(self.admin, &request).await;
            if answer.contains(text) {
                return answer;
            }
            tokio::task::yield_now().await;
        }
    }

    pub(crate) async fn stop(mut self) -> Drained {
        self.begin_stop();
        self.ended.await.unwrap()
    }

    /// The stop signal.
    pub(crate) fn begin_stop(&mut self) {
        drop(self.stop.take());
    }
}

async fn ask_once(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// Answers every connection by `answer`.
pub(crate) async fn application<F, W>(answer: F) -> SocketAddr
where
    F: Fn(TcpStream) -> W + Send + Sync + 'static,
    W: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            spawn(answer(stream));
        }
    });
    address
}

/// Reads one head.
pub(crate) async fn head(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => bytes.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(bytes).unwrap()
}

pub(crate) async fn read_exactly(stream: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).await.unwrap();
    bytes
}

/// Reads until `end` has come, and nothing after it.
pub(crate) async fn read_until(stream: &mut TcpStream, end: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(end) {
        bytes.push(stream.read_u8().await.unwrap());
    }
    bytes
}

/// Starts a task that ends with the test's runtime.
#[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
pub(crate) fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    drop(tokio::spawn(task));
}
