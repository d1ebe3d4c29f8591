//! A sidecar in process, in front of an application that answers by hand, over real sockets.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there, and says why")]

use std::fs;
use std::net::SocketAddr;

use penstock_proxy::app::{self, App};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

/// A sidecar that takes its documents from files.
struct Sidecar {
    outbound: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    ended: tokio::task::JoinHandle<()>,
    _dir: TempDir,
}

impl Sidecar {
    async fn before(application: SocketAddr) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let documents = format!(
            "apiVersion: penstock.dev/v1alpha1\nkind: Backend\nmetadata: {{name: app}}\nspec:\n  default: true\n  \
             endpoints: [{{address: 127.0.0.1, port: {}}}]\n",
            application.port()
        );
        fs::create_dir(dir.path().join("documents")).unwrap();
        fs::write(dir.path().join("documents/app.yaml"), documents).unwrap();
        let config = dir.path().join("proxy.yaml");
        let settings = "apiVersion: penstock.dev/v1alpha1\nkind: ProxyConfig\nmetadata: {name: web}\nspec:\n  documents: \
                        ./documents\n  outbound: {listen: \"127.0.0.1:0\"}\n  admin: {listen: \"127.0.0.1:0\"}\n  accessLog: \
                        {path: \"off\"}\n";
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
        while sidecar
            .ask_once("GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            .await
            .contains("no_backend")
        {
            tokio::task::yield_now().await;
        }
        sidecar
    }

    async fn ask_once(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.outbound).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn stop(mut self) {
        drop(self.stop.take());
        self.ended.await.unwrap();
    }
}

/// Answers every connection by `answer`.
async fn application<F, W>(answer: F) -> SocketAddr
where
    F: Fn(TcpStream) -> W + Send + Sync + 'static,
    W: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    #[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
    drop(tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            drop(tokio::spawn(answer(stream)));
        }
    }));
    address
}

/// Reads one head.
async fn head(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => bytes.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(bytes).unwrap()
}

async fn read_exactly(stream: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).await.unwrap();
    bytes
}

#[tokio::test]
async fn one_connection_serves_one_request_after_another() {
    let application = application(|mut stream| async move {
        while head(&mut stream).await.starts_with("GET /") {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        }
    })
    .await;
    let sidecar = Sidecar::before(application).await;
    let mut stream = TcpStream::connect(sidecar.outbound).await.unwrap();
    for path in ["/a", "/b", "/c"] {
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: app\r\n\r\n").as_bytes()).await.unwrap();
        assert!(head(&mut stream).await.starts_with("HTTP/1.1 200 "), "{path}");
        assert_eq!(read_exactly(&mut stream, 2).await, b"ok", "{path}");
    }
    // A refusal that costs nothing does not cost the connection either.
    stream.write_all(b"GET / HTTP/1.1\r\nhost: nobody\r\n\r\n").await.unwrap();
    let refused = head(&mut stream).await;
    assert!(
        refused.starts_with("HTTP/1.1 404 ") && refused.contains("x-penstock-error: no_route"),
        "{refused}"
    );
    drop(stream);
    sidecar.stop().await;
}

#[tokio::test]
async fn an_early_answer_arrives_whole_while_the_upload_is_running() {
    let application = application(|mut stream| async move {
        if head(&mut stream).await.starts_with("POST /") {
            let body = "x".repeat(100_000);
            let answer =
                format!("HTTP/1.1 413 Payload Too Large\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).await.unwrap();
            // Neither read on nor closed: the sidecar must not wait for either.
            std::future::pending::<()>().await;
        }
    })
    .await;
    let sidecar = Sidecar::before(application).await;
    let mut stream = TcpStream::connect(sidecar.outbound).await.unwrap();
    stream.write_all(b"POST /up HTTP/1.1\r\nhost: app\r\ncontent-length: 100000000\r\n\r\n").await.unwrap();
    stream.write_all(&vec![b'z'; 1_000_000]).await.unwrap();
    let answer = head(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert_eq!(read_exactly(&mut stream, 100_000).await, vec![b'x'; 100_000]);
    drop(stream);
    sidecar.stop().await;
}

#[tokio::test]
async fn an_error_after_our_own_100_continue_is_still_told() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let sidecar = Sidecar::before(nobody).await;
    let mut stream = TcpStream::connect(sidecar.outbound).await.unwrap();
    let request = "POST /up HTTP/1.1\r\nhost: app\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    assert!(head(&mut stream).await.starts_with("HTTP/1.1 100 "));
    stream.write_all(b"hi").await.unwrap();
    let answer = head(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 502 ") && answer.contains("x-penstock-error: connect"), "{answer}");
    assert!(answer.to_ascii_lowercase().contains("connection: close"), "{answer}");
    sidecar.stop().await;
}

#[tokio::test]
async fn request_trailers_are_refused_and_cost_one_request() {
    let application = application(|mut stream| async move {
        while head(&mut stream).await.starts_with("GET /") {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        }
    })
    .await;
    let sidecar = Sidecar::before(application).await;
    let stream = TcpStream::connect(sidecar.outbound).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    #[expect(clippy::disallowed_methods, reason = "ends with the connection")]
    let driver = tokio::spawn(connection);
    let mut client = client.ready().await.unwrap();
    let post = http::Request::post("http://app/up").body(()).unwrap();
    let (answer, mut body) = client.send_request(post, false).unwrap();
    body.send_data("some".into(), false).unwrap();
    let mut trailers = http::HeaderMap::new();
    trailers.insert("x-checksum", "1".parse().unwrap());
    body.send_trailers(trailers).unwrap();
    assert_eq!(answer.await.unwrap().status(), 400);
    let get = http::Request::get("http://app/").body(()).unwrap();
    let (answer, _) = client.send_request(get, true).unwrap();
    assert_eq!(answer.await.unwrap().status(), 200, "the connection and the sidecar go on");
    drop((client, body));
    sidecar.stop().await;
    driver.abort();
}
