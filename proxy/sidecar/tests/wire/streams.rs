//! HTTP/2 on both sides: trailers, interim answers, both ways at once.

use std::future::poll_fn;
use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::beside::{Sidecar, application, head, spawn};

const MEGABYTE: usize = 1 << 20;

/// An application that speaks HTTP/2 and does `answer` with every request.
async fn http2_application<F, W>(answer: F) -> SocketAddr
where
    F: Fn(Request<RecvStream>, SendResponse<Bytes>) -> W + Copy + Send + Sync + 'static,
    W: Future<Output = ()> + Send + 'static,
{
    application(move |stream| async move {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((request, respond))) = connection.accept().await {
            spawn(answer(request, respond));
        }
    })
    .await
}

async fn connect(sidecar: &Sidecar) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(sidecar.outbound).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    spawn(async move { drop(connection.await) });
    client.ready().await.unwrap()
}

fn post(path: &str) -> Request<()> {
    Request::post(format!("http://app{path}")).body(()).unwrap()
}

fn trailers(name: &'static str, value: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_static(value))])
}

async fn send(stream: &mut SendStream<Bytes>, mut bytes: usize, ends: bool) {
    while bytes > 0 {
        stream.reserve_capacity(bytes);
        let Some(Ok(room)) = poll_fn(|cx| stream.poll_capacity(cx)).await else { return };
        let part = room.min(bytes);
        bytes -= part;
        stream.send_data(vec![b'x'; part].into(), ends && bytes == 0).unwrap();
    }
}

async fn receive(stream: &mut RecvStream) -> usize {
    let mut bytes = 0;
    while let Some(chunk) = stream.data().await {
        let chunk = chunk.unwrap();
        bytes += chunk.len();
        stream.flow_control().release_capacity(chunk.len()).unwrap();
    }
    bytes
}

#[tokio::test]
async fn trailers_go_both_ways() {
    let app = http2_application(|request, mut respond| async move {
        let mut body = request.into_body();
        let bytes = receive(&mut body).await;
        let came = body.trailers().await.unwrap();
        let checksum = came.as_ref().and_then(|fields| fields.get("x-checksum")).cloned();
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        stream.send_data(bytes.to_string().into(), false).unwrap();
        let mut fields = trailers("grpc-status", "0");
        fields.insert("x-checksum", checksum.unwrap_or(HeaderValue::from_static("none")));
        fields.insert(
            "x-ours",
            if came.is_some_and(|came| came.contains_key("x-penstock-wire")) { "leaked" } else { "no" }
                .parse()
                .unwrap(),
        );
        stream.send_trailers(fields).unwrap();
    })
    .await;
    let sidecar = Sidecar::before_http2(app).await;
    let mut client = connect(&sidecar).await;
    for bytes in [0, 4, 3 * MEGABYTE] {
        let (answer, mut stream) = client.send_request(post("/up"), false).unwrap();
        send(&mut stream, bytes, false).await;
        let mut fields = trailers("x-checksum", "7");
        fields.insert("x-penstock-wire", HeaderValue::from_static("9"));
        stream.send_trailers(fields).unwrap();
        let mut body = answer.await.unwrap().into_body();
        let text = body.data().await.unwrap().unwrap();
        assert_eq!(text, bytes.to_string());
        assert!(body.data().await.is_none());
        let fields = body.trailers().await.unwrap().unwrap();
        let field = |name: &str| fields.get(name).unwrap().to_str().unwrap().to_owned();
        assert_eq!(
            (field("grpc-status"), field("x-checksum"), field("x-ours")),
            ("0".into(), "7".into(), "no".into())
        );
    }
    drop(client);
    sidecar.stop().await;
}

#[tokio::test]
async fn request_trailers_end_at_an_application_that_has_no_place_for_them() {
    let app = application(|mut stream| async move {
        while head(&mut stream).await.starts_with("POST /") {
            // The last chunk and nothing between it and the end.
            crate::beside::read_until(&mut stream, b"0\r\n\r\n").await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        }
    })
    .await;
    let sidecar = Sidecar::before(app).await;
    let mut client = connect(&sidecar).await;
    for _ in 0..2 {
        let (answer, mut stream) = client.send_request(post("/up"), false).unwrap();
        stream.send_data("some".into(), false).unwrap();
        stream.send_trailers(trailers("x-checksum", "7")).unwrap();
        assert_eq!(answer.await.unwrap().status(), 200);
    }
    drop(client);
    sidecar.stop().await;
}

/// Each side writes everything before it reads anything: each is served at its own pace.
#[tokio::test]
async fn both_windows_full_at_once_stop_nobody() {
    let app = http2_application(|request, mut respond| async move {
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        let mut body = request.into_body();
        let reading = async { receive(&mut body).await };
        let writing = async { send(&mut stream, 8 * MEGABYTE, true).await };
        tokio::join!(reading, writing);
    })
    .await;
    let sidecar = Sidecar::before_http2(app).await;
    let mut client = connect(&sidecar).await;
    let (answer, mut stream) = client.send_request(post("/duplex"), false).unwrap();
    send(&mut stream, 8 * MEGABYTE, true).await;
    assert_eq!(receive(&mut answer.await.unwrap().into_body()).await, 8 * MEGABYTE);
    drop(client);
    sidecar.stop().await;
}

#[tokio::test]
async fn an_application_that_writes_before_it_reads_is_served() {
    let app = http2_application(|request, mut respond| async move {
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        send(&mut stream, 8 * MEGABYTE, false).await;
        let bytes = receive(&mut request.into_body()).await;
        stream.send_data(bytes.to_string().into(), true).unwrap();
    })
    .await;
    let sidecar = Sidecar::before_http2(app).await;
    let mut client = connect(&sidecar).await;
    let (answer, mut stream) = client.send_request(post("/duplex"), false).unwrap();
    let ((), received) = tokio::join!(send(&mut stream, 8 * MEGABYTE, true), async {
        receive(&mut answer.await.unwrap().into_body()).await
    });
    assert_eq!(received, 8 * MEGABYTE + (8 * MEGABYTE).to_string().len());
    drop(client);
    sidecar.stop().await;
}

/// All share one connection to the application; the stalled ones have callers of their own.
#[tokio::test]
async fn readers_that_stall_do_not_stop_the_others() {
    let app = http2_application(|request, mut respond| async move {
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        let megabytes = if request.uri().path() == "/much" { 2 } else { 1 };
        send(&mut stream, megabytes * MEGABYTE, true).await;
    })
    .await;
    let sidecar = Sidecar::before_http2(app).await;
    let mut stalled = Vec::new();
    for _ in 0..24 {
        let mut client = connect(&sidecar).await;
        let (answer, _) = client.send_request(post("/much"), true).unwrap();
        stalled.push((answer.await.unwrap(), client));
    }
    let mut client = connect(&sidecar).await;
    for _ in 0..20 {
        let (answer, _) = client.send_request(post("/little"), true).unwrap();
        assert_eq!(receive(&mut answer.await.unwrap().into_body()).await, MEGABYTE);
    }
    drop((stalled, client));
    sidecar.stop().await;
}

/// More than what the HTTP/2 library takes for errors of the peer in the life of a connection, unless it is told otherwise.
const GIVEN_UP: u32 = 1_500;
/// So many streams later none is remembered.
const FORGOTTEN_AFTER: u32 = 200;

/// Frame by frame, an application that answers every request with a head, and whose answers to requests that were given up long ago
/// still arrive. The first answer ends when all the others have been given up.
async fn late_application(mut stream: TcpStream) {
    let frame = |kind: u8, flags: u8, id: u32, payload: &[u8]| {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &id.to_be_bytes(), payload].concat()
    };
    stream.read_exact(&mut [0; 24]).await.unwrap();
    stream.write_all(&frame(4, 0, 0, b"")).await.unwrap();
    let (mut head, mut newest) = ([0; 9], 0);
    while stream.read_exact(&mut head).await.is_ok() {
        let [a, b, c, kind, flags, w, x, y, z] = head;
        let id = u32::from_be_bytes([w, x, y, z]);
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        stream.read_exact(&mut payload).await.unwrap();
        let answer = match (kind, flags & 1) {
            (1, _) => frame(1, 4, id, b"\x88"),
            (3, _) if id > newest => {
                newest = id;
                match id.checked_sub(2 * FORGOTTEN_AFTER) {
                    _ if id == 2 * GIVEN_UP + 1 => frame(0, 1, 1, b"whole"),
                    Some(forgotten) if forgotten > 1 => frame(0, 0, forgotten, b"late"),
                    _ => continue,
                }
            }
            (4, 0) => frame(4, 1, 0, b""),
            (6, 0) => frame(6, 1, 0, &payload),
            _ => continue,
        };
        stream.write_all(&answer).await.unwrap();
    }
}

#[tokio::test]
async fn answers_that_arrive_after_they_were_given_up_do_not_end_the_others_of_their_connection() {
    let app = application(late_application).await;
    let sidecar = Sidecar::before_http2(app).await;
    let mut client = connect(&sidecar).await;
    let (kept, _) = client.send_request(post("/kept"), true).unwrap();
    let mut kept = kept.await.unwrap().into_body();
    for _ in 0..GIVEN_UP {
        let (given_up, _) = client.send_request(post("/given-up"), true).unwrap();
        assert_eq!(given_up.await.unwrap().status(), StatusCode::OK);
    }
    assert_eq!(kept.data().await.unwrap().unwrap(), "whole");
    sidecar.stop().await;
}

#[tokio::test]
async fn an_early_answer_ends_the_upload_of_an_http2_caller() {
    let app = http2_application(|_request, mut respond| async move {
        let refused = Response::builder().status(413).body(()).unwrap();
        let mut stream = respond.send_response(refused, false).unwrap();
        send(&mut stream, 300_000, true).await;
        std::future::pending::<()>().await;
    })
    .await;
    let sidecar = Sidecar::before_http2(app).await;
    let mut client = connect(&sidecar).await;
    let (answer, mut stream) = client.send_request(post("/up"), false).unwrap();
    send(&mut stream, 100_000, false).await;
    let answer = answer.await.unwrap();
    assert_eq!(answer.status(), 413);
    assert_eq!(receive(&mut answer.into_body()).await, 300_000);
    // Told to stop, and that nothing is wrong.
    let reset = poll_fn(|cx| stream.poll_reset(cx)).await.unwrap();
    assert_eq!(reset, h2::Reason::NO_ERROR);
    drop((client, stream));
    sidecar.stop().await;
}

#[tokio::test]
async fn interim_answers_reach_callers_of_both_protocols() {
    let http1 = application(|mut stream| async move {
        while head(&mut stream).await.starts_with("POST /") {
            let answers = "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </style.css>\r\n\r\nHTTP/1.1 200 \
                           OK\r\ncontent-length: 2\r\n\r\nok";
            stream.write_all(answers.as_bytes()).await.unwrap();
        }
    })
    .await;
    let http2 = http2_application(|_request, mut respond| async move {
        let processing = Response::builder().status(102).body(()).unwrap();
        respond.send_informational(processing).unwrap();
        let hints = Response::builder().status(103).header("link", "</style.css>").body(()).unwrap();
        respond.send_informational(hints).unwrap();
        let answer = Response::builder().header("content-length", 2).body(()).unwrap();
        let mut stream = respond.send_response(answer, false).unwrap();
        stream.send_data("ok".into(), true).unwrap();
    })
    .await;
    for sidecar in [Sidecar::before(http1).await, Sidecar::before_http2(http2).await] {
        let mut stream = TcpStream::connect(sidecar.outbound).await.unwrap();
        for _ in 0..2 {
            let request = "POST / HTTP/1.1\r\nhost: app\r\ncontent-length: 0\r\n\r\n";
            stream.write_all(request.as_bytes()).await.unwrap();
            let first = head(&mut stream).await;
            assert!(first.starts_with("HTTP/1.1 102 "), "{first}");
            let hints = head(&mut stream).await.to_ascii_lowercase();
            assert!(hints.starts_with("http/1.1 103 ") && hints.contains("link: </style.css>"), "{hints}");
            let last = head(&mut stream).await.to_ascii_lowercase();
            assert!(last.starts_with("http/1.1 200 ") && last.contains("connection: keep-alive"), "{last}");
            crate::beside::read_until(&mut stream, b"ok").await;
        }
        let mut client = connect(&sidecar).await;
        let (mut answer, _) = client.send_request(post("/"), true).unwrap();
        for status in [StatusCode::PROCESSING, StatusCode::EARLY_HINTS] {
            let interim = poll_fn(|cx| answer.poll_informational(cx)).await.unwrap().unwrap();
            assert_eq!(interim.status(), status);
        }
        assert_eq!(answer.await.unwrap().status(), 200);
        drop((client, stream));
        sidecar.stop().await;
    }
}

#[tokio::test]
async fn what_an_http1_application_sends_in_one_packet_arrives_whole() {
    let app = application(|mut stream| async move {
        while head(&mut stream).await.starts_with("POST /") {
            let answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ndate: Fri, 02 Jan 2026 03:04:05 GMT\r\n\r\n\
                           2\r\nok\r\n0\r\nx-checksum: 7\r\n\r\n";
            stream.write_all(answer).await.unwrap();
        }
    })
    .await;
    let sidecar = Sidecar::before(app).await;
    let mut client = connect(&sidecar).await;
    let (answer, _) = client.send_request(post("/"), true).unwrap();
    let answer = answer.await.unwrap();
    // The application's own, and no other beside it.
    let dates: Vec<_> = answer.headers().get_all("date").iter().collect();
    assert_eq!(dates, ["Fri, 02 Jan 2026 03:04:05 GMT"]);
    let mut body = answer.into_body();
    assert_eq!(body.data().await.unwrap().unwrap(), "ok");
    assert!(body.data().await.is_none());
    assert_eq!(body.trailers().await.unwrap().unwrap().get("x-checksum").unwrap(), "7");
    drop(client);
    sidecar.stop().await;
}
