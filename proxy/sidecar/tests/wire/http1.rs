//! Keep-alive, early answers and interim answers of HTTP/1.1.

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use crate::beside::{Sidecar, application, head, read_exactly};

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
    let sidecar = Sidecar::that_looks_for_models(nobody).await;
    let mut stream = TcpStream::connect(sidecar.outbound).await.unwrap();
    // Asked for by us, because the model is looked for in the body.
    let request = "POST /v1/completions HTTP/1.1\r\nhost: app\r\nexpect: 100-continue\r\ncontent-type: application/json\r\n\
                   content-length: 13\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let interim = head(&mut stream).await;
    assert!(interim.starts_with("HTTP/1.1 100 "), "{interim}");
    stream.write_all(b"{\"model\":\"m\"}").await.unwrap();
    let answer = head(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 502 ") && answer.contains("x-penstock-error: connect"), "{answer}");
    // The body was read to its end: nothing is in the way of another request.
    assert!(answer.to_ascii_lowercase().contains("connection: keep-alive"), "{answer}");
    sidecar.stop().await;
}

/// An answer of unknown length, with everything after the head in one packet.
const CHUNKED: &[u8] =
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ndate: Fri, 02 Jan 2026 03:04:05 GMT\r\n\r\n\
                         2\r\nok\r\n0\r\nx-checksum: 7\r\n\r\n";

async fn chunked() -> std::net::SocketAddr {
    application(|mut stream| async move {
        while head(&mut stream).await.starts_with("GET /") {
            stream.write_all(CHUNKED).await.unwrap();
        }
    })
    .await
}

#[tokio::test]
async fn a_caller_of_http10_gets_no_chunks() {
    let sidecar = Sidecar::before(chunked().await).await;
    let answer = sidecar.ask_once("GET / HTTP/1.0\r\nhost: app\r\nconnection: keep-alive\r\n\r\n").await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let head = head.to_ascii_lowercase();
    assert!(!head.contains("transfer-encoding") && head.contains("connection: close"), "{head}");
    assert_eq!(body, "ok");
    sidecar.stop().await;
}

#[tokio::test]
async fn an_error_costs_no_connection_when_the_request_was_read() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let sidecar = Sidecar::before(nobody).await;
    let mut stream = TcpStream::connect(sidecar.outbound).await.unwrap();
    for _ in 0..2 {
        stream.write_all(b"POST / HTTP/1.1\r\nhost: app\r\ncontent-length: 4\r\n\r\nbody").await.unwrap();
        let answer = head(&mut stream).await;
        assert!(answer.contains("x-penstock-error: connect"), "{answer}");
        let length = answer.split("\r\n").find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
        read_exactly(&mut stream, length.parse().unwrap()).await;
    }
    sidecar.stop().await;
}
