//! What passes through a mesh passes at the pace of its ends: nothing is kept back, and nothing piles up.

use bytes::Bytes;
use futures::{StreamExt, stream};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use penstock_tests::client::{Connection, Version, empty, read_until};
use penstock_tests::documents::{Endpoint, backend};
use penstock_tests::mesh::Mesh;
use penstock_tests::sidecar::Sidecar;
use penstock_tests::wait::{unix_ms, within};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// An application without a library between it and the wire, behind two sidecars.
struct Wire {
    listener: TcpListener,
    echo: Sidecar,
    web: Sidecar,
    _mesh: Mesh,
}

impl Wire {
    async fn start() -> Self {
        let mesh = Mesh::start().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let echo = mesh.inbound("echo", address).await;
        let web = mesh.caller("web").await;
        let endpoint = Endpoint { address, sidecar: Some(echo.inbound()) };
        mesh.publish(&[backend("echo", &[endpoint]).with("default", true)], &[&echo, &web]).await;
        Self { listener, echo, web, _mesh: mesh }
    }

    /// The next connection, when the head of its request has been read; with what came after it.
    async fn accept(&self) -> (TcpStream, Vec<u8>) {
        let (mut stream, _) = within("a connection", self.listener.accept()).await.unwrap();
        let mut bytes = Vec::new();
        loop {
            within("a head", stream.read_buf(&mut bytes)).await.unwrap();
            if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                return (stream, bytes.split_off(end + 4));
            }
        }
    }

    /// Most memory that either sidecar ever had, in MiB.
    fn peak_mib(&self) -> u64 {
        [&self.echo, &self.web].map(|sidecar| peak_mib(sidecar.program.id())).into_iter().max().unwrap()
    }
}

fn peak_mib(id: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak of memory");
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1_024
}

#[tokio::test]
async fn each_event_arrives_before_the_next_is_sent() {
    let wire = Wire::start().await;
    for version in Version::BOTH {
        let mut connection = wire.web.connect(version).await;
        let request = connection.request("GET", "/events").body(empty()).unwrap();
        let (response, (mut application, _)) = tokio::join!(connection.send(request), async {
            let (mut application, rest) = wire.accept().await;
            let head =
                "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
            application.write_all(head.as_bytes()).await.unwrap();
            (application, rest)
        });
        let mut body = response.into_body();
        let mut slowest = 0;
        for number in 0..200 {
            let event = format!("data: {number}\n\n");
            let sent = unix_ms();
            application.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes()).await.unwrap();
            assert_eq!(read_until(&mut body, "\n\n").await, event, "{version}");
            slowest = slowest.max(unix_ms() - sent);
        }
        println!("{version}: the slowest of 200 events took {slowest} ms");
        application.write_all(b"0\r\n\r\n").await.unwrap();
        let rest = within("the end", body.collect()).await.unwrap().to_bytes();
        assert!(rest.is_empty(), "{version}: {rest:?}");
    }
}

const LONG_MIB: u64 = 256;
/// What may wait on the way: windows of HTTP/2, buffers of sockets, and what an allocator keeps.
const WAITING_MIB: u64 = 64;

fn mebibytes(number: u64) -> impl futures::Stream<Item = Bytes> {
    let chunk = Bytes::from(vec![b'x'; 64 << 10]);
    stream::iter((0..number * 16).map(move |_| chunk.clone()))
}

#[tokio::test]
async fn a_long_upload_waits_for_a_slow_application() {
    let wire = Wire::start().await;
    let before = wire.peak_mib();
    for version in Version::BOTH {
        let mut connection = wire.web.connect(version).await;
        let body = StreamBody::new(mebibytes(LONG_MIB).map(|chunk| Ok(Frame::data(chunk)))).boxed_unsync();
        let request =
            connection.request("POST", "/").header("content-length", LONG_MIB << 20).body(body).unwrap();
        let (response, read) = tokio::join!(connection.send(request), async {
            let (mut application, rest) = wire.accept().await;
            let mut read = rest.len() as u64;
            let mut buffer = vec![0; 256 << 10];
            while read < LONG_MIB << 20 {
                // Slower than the caller: it reads a little and lets all others go first.
                read += within("a piece", application.read(&mut buffer)).await.unwrap() as u64;
                tokio::task::yield_now().await;
            }
            application
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                .await
                .unwrap();
            read
        });
        assert_eq!((response.status().as_u16(), read), (200, LONG_MIB << 20), "{version}");
    }
    let grown = wire.peak_mib() - before;
    println!("uploads of {LONG_MIB} MiB: {grown} MiB more at the most");
    assert!(grown < WAITING_MIB, "{grown} MiB piled up in a sidecar");
}

#[tokio::test]
async fn a_long_answer_waits_for_a_slow_caller() {
    let wire = Wire::start().await;
    let before = wire.peak_mib();
    for version in Version::BOTH {
        let mut connection = Connection::open(version, wire.web.outbound()).await;
        let request = connection.request("GET", "/").body(empty()).unwrap();
        let answer = async {
            let (mut application, _) = wire.accept().await;
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", LONG_MIB << 20);
            application.write_all(head.as_bytes()).await.unwrap();
            let mut chunks = std::pin::pin!(mebibytes(LONG_MIB));
            while let Some(chunk) = chunks.next().await {
                within("room for more", application.write_all(&chunk)).await.unwrap();
            }
            application
        };
        let read = async {
            let mut body = connection.send(request).await.into_body();
            let mut read = 0;
            while let Some(frame) = within("a piece", body.frame()).await {
                read += frame.unwrap().data_ref().map_or(0, Bytes::len) as u64;
                tokio::task::yield_now().await;
            }
            read
        };
        let (_application, read) = tokio::join!(answer, read);
        assert_eq!(read, LONG_MIB << 20, "{version}");
    }
    let grown = wire.peak_mib() - before;
    println!("answers of {LONG_MIB} MiB: {grown} MiB more at the most");
    assert!(grown < WAITING_MIB, "{grown} MiB piled up in a sidecar");
}

#[tokio::test]
async fn an_answer_may_begin_before_its_request_has_ended() {
    let wire = Wire::start().await;
    for version in Version::BOTH {
        let mut connection = wire.web.connect(version).await;
        let (send, chunks) = tokio::sync::mpsc::channel::<Bytes>(1);
        let chunks = stream::unfold(chunks, |mut chunks| async { Some((chunks.recv().await?, chunks)) });
        let body = StreamBody::new(chunks.map(|chunk| Ok(Frame::data(chunk)))).boxed_unsync();
        let request = connection.request("POST", "/").body(body).unwrap();
        send.send("first".into()).await.unwrap();
        let (response, mut application) = tokio::join!(connection.send(request), async {
            let (mut application, _) = wire.accept().await;
            let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nearly\r\n";
            application.write_all(head.as_bytes()).await.unwrap();
            application
        });
        let mut body = response.into_body();
        assert_eq!(read_until(&mut body, "early").await, "early", "{version}");
        // The request goes on, and what it says still arrives.
        send.send("second".into()).await.unwrap();
        drop(send);
        let mut rest = Vec::new();
        while !rest.ends_with(b"0\r\n\r\n") {
            assert!(within("the rest", application.read_buf(&mut rest)).await.unwrap() > 0, "{version}");
        }
        assert!(String::from_utf8_lossy(&rest).contains("second"), "{version}");
        application.write_all(b"4\r\nlate\r\n0\r\n\r\n").await.unwrap();
        assert_eq!(read_until(&mut body, "late").await, "late", "{version}");
        let rest = within("the end", body.collect()).await.unwrap().to_bytes();
        assert!(rest.is_empty(), "{version}: {rest:?}");
    }
    let log = wire.web.access_log().await;
    assert!(log.iter().all(|line| line["classification"] == json!("success")), "{log:#?}");
}
