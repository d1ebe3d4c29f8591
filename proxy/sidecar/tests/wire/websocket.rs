//! WebSocket: the switch, what is refused, both ways, both ends.

use bytes::Bytes;
use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::beside::{Sidecar, application, head, read_until, spawn};

const ASK: &str = "GET /ws HTTP/1.1\r\nhost: app\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\n\
                   sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const SWITCH: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
                        sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// An application that switches and sends everything back, in capitals; it ends its way when the caller has.
async fn loud() -> std::net::SocketAddr {
    application(|mut stream| async move {
        let asked = head(&mut stream).await.to_ascii_lowercase();
        if !asked.starts_with("get /ws") {
            return;
        }
        assert!(asked.contains("upgrade: websocket") && asked.contains("connection: upgrade"), "{asked}");
        assert!(asked.contains("sec-websocket-key: ") && !asked.contains("content-length"), "{asked}");
        stream.write_all(SWITCH).await.unwrap();
        let mut bytes = vec![0; 8192];
        while let Ok(count @ 1..) = stream.read(&mut bytes).await {
            stream.write_all(&bytes[..count].to_ascii_uppercase()).await.unwrap();
        }
        stream.write_all(b"bye").await.unwrap();
    })
    .await
}

#[tokio::test]
async fn a_connection_is_switched_and_carries_bytes_both_ways() {
    let sidecar = Sidecar::before(loud().await).await;
    let mut stream = TcpStream::connect(sidecar.outbound).await.unwrap();
    stream.write_all(ASK.as_bytes()).await.unwrap();
    let switched = head(&mut stream).await.to_ascii_lowercase();
    assert!(switched.starts_with("http/1.1 101 "), "{switched}");
    for field in
        ["upgrade: websocket", "connection: upgrade", "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="]
    {
        assert!(switched.contains(field), "{field} in {switched}");
    }
    assert!(!switched.contains("transfer-encoding") && !switched.contains("x-penstock"), "{switched}");
    for text in ["one", "two"] {
        stream.write_all(text.as_bytes()).await.unwrap();
        read_until(&mut stream, text.to_uppercase().as_bytes()).await;
    }
    // The caller has ended its way: the application hears of it and has the last word.
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"bye");
    sidecar.stop().await;
}

#[tokio::test]
async fn bytes_before_the_101_are_refused() {
    let (asked, was_asked) = tokio::sync::oneshot::channel();
    let asked = std::sync::Mutex::new(Some(asked));
    let app = application(move |mut stream| {
        let asked = asked.lock().unwrap().take();
        async move {
            if !head(&mut stream).await.starts_with("GET /ws") {
                return;
            }
            asked.unwrap().send(()).unwrap();
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).await.unwrap();
            assert!(bytes.is_empty(), "a byte before the 101");
        }
    })
    .await;
    let sidecar = Sidecar::before(app).await;
    // Together with the request: the application is never asked.
    let refused = sidecar.ask_once(&format!("{ASK}early")).await;
    assert!(refused.starts_with("HTTP/1.1 400 ") && refused.contains("`upgrade`"), "{refused}");
    // While the application makes up its mind.
    let mut stream = TcpStream::connect(sidecar.outbound).await.unwrap();
    stream.write_all(ASK.as_bytes()).await.unwrap();
    was_asked.await.unwrap();
    stream.write_all(b"early").await.unwrap();
    let mut refused = String::new();
    stream.read_to_string(&mut refused).await.unwrap();
    assert!(refused.starts_with("HTTP/1.1 400 ") && refused.contains("`upgrade`"), "{refused}");
    sidecar.stop().await;
}

#[tokio::test]
async fn a_switch_asked_for_behind_another_request_carries_bytes_too() {
    let app = application(|mut stream| async move {
        loop {
            let asked = head(&mut stream).await;
            if asked.starts_with("GET /ws") {
                break;
            }
            if asked.is_empty() {
                return;
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        }
        stream.write_all(SWITCH).await.unwrap();
        read_until(&mut stream, b"\0bytes").await;
        stream.write_all(b"seen").await.unwrap();
    })
    .await;
    let sidecar = Sidecar::before(app).await;
    let mut stream = TcpStream::connect(sidecar.outbound).await.unwrap();
    stream.write_all(format!("GET / HTTP/1.1\r\nhost: app\r\n\r\n{ASK}").as_bytes()).await.unwrap();
    assert!(head(&mut stream).await.starts_with("HTTP/1.1 200 "));
    read_until(&mut stream, b"ok").await;
    assert!(head(&mut stream).await.starts_with("HTTP/1.1 101 "));
    stream.write_all(b"\0bytes").await.unwrap();
    // The application ends first, and the connection with it.
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"seen");
    sidecar.stop().await;
}

#[tokio::test]
async fn nothing_is_sent_on_before_the_application_has_switched() {
    let app = application(|mut stream| async move {
        if !head(&mut stream).await.starts_with("GET /ws") {
            return;
        }
        let early = tokio::time::timeout(std::time::Duration::from_millis(50), stream.read_u8()).await;
        assert!(early.is_err(), "a byte before the 101");
        stream.write_all(SWITCH).await.unwrap();
        read_until(&mut stream, b"early").await;
        stream.write_all(b"seen").await.unwrap();
    })
    .await;
    let sidecar = Sidecar::before(app).await;
    let stream = TcpStream::connect(sidecar.outbound).await.unwrap();
    let (client, mut connection) = h2::client::handshake(stream).await.unwrap();
    let mut pings = connection.ping_pong().unwrap();
    spawn(async move { drop(connection.await) });
    pings.ping(h2::Ping::opaque()).await.unwrap();
    let mut client = client.ready().await.unwrap();
    let mut request = Request::builder().method("CONNECT").uri("http://app/ws").body(()).unwrap();
    request.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
    // In HTTP/2 that is allowed: the tunnel is a stream of its own.
    let (answer, mut sending) = client.send_request(request, false).unwrap();
    sending.send_data(Bytes::from_static(b"early"), false).unwrap();
    let answer = answer.await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.into_body().data().await.unwrap().unwrap(), "seen");
    drop(client);
    sidecar.stop().await;
}

#[tokio::test]
async fn an_answer_that_is_no_switch_is_an_ordinary_answer() {
    let app = application(|mut stream| async move {
        while head(&mut stream).await.starts_with("GET /ws") {
            stream.write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno").await.unwrap();
        }
    })
    .await;
    let sidecar = Sidecar::before(app).await;
    let mut stream = TcpStream::connect(sidecar.outbound).await.unwrap();
    for _ in 0..2 {
        stream.write_all(ASK.as_bytes()).await.unwrap();
        let refused = head(&mut stream).await;
        assert!(refused.starts_with("HTTP/1.1 403 "), "{refused}");
        read_until(&mut stream, b"no").await;
    }
    drop(stream);
    sidecar.stop().await;
}

#[tokio::test]
async fn an_upgrade_to_something_else_is_an_ordinary_request() {
    let app = application(|mut stream| async move {
        loop {
            let asked = head(&mut stream).await.to_ascii_lowercase();
            if !asked.starts_with("get /") {
                return;
            }
            assert!(!asked.contains("upgrade") && !asked.contains("http2-settings"), "{asked}");
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        }
    })
    .await;
    let sidecar = Sidecar::before(app).await;
    let mut stream = TcpStream::connect(sidecar.outbound).await.unwrap();
    for protocol in ["h2c", "TLS/1.2", "foo"] {
        let request = format!(
            "GET / HTTP/1.1\r\nhost: app\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: {protocol}\r\nhttp2-settings: \
             AAMAAABkAAQAAP__\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        assert!(head(&mut stream).await.starts_with("HTTP/1.1 200 "), "{protocol}");
        read_until(&mut stream, b"ok").await;
    }
    drop(stream);
    sidecar.stop().await;
}

#[tokio::test]
async fn an_http2_caller_is_given_a_tunnel() {
    let sidecar = Sidecar::before(loud().await).await;
    let stream = TcpStream::connect(sidecar.outbound).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    let mut connection = connection;
    let mut pings = connection.ping_pong().unwrap();
    spawn(async move { drop(connection.await) });
    pings.ping(h2::Ping::opaque()).await.unwrap();
    let mut client = client.ready().await.unwrap();
    assert!(client.is_extended_connect_protocol_enabled());
    let connect = |protocol: &'static str| {
        let mut request = Request::builder().method("CONNECT").uri("http://app/ws").body(()).unwrap();
        request.headers_mut().insert("sec-websocket-version", "13".parse().unwrap());
        request.extensions_mut().insert(h2::ext::Protocol::from_static(protocol));
        request
    };
    let (answer, mut sending) = client.send_request(connect("websocket"), false).unwrap();
    let answer = answer.await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(!answer.headers().contains_key("sec-websocket-accept"), "{answer:?}");
    let mut receiving = answer.into_body();
    sending.send_data(Bytes::from_static(b"loud"), false).unwrap();
    assert_eq!(receiving.data().await.unwrap().unwrap(), "LOUD");
    sending.send_data(Bytes::new(), true).unwrap();
    assert_eq!(receiving.data().await.unwrap().unwrap(), "bye");
    while let Some(rest) = receiving.data().await {
        assert!(rest.as_ref().is_ok_and(Bytes::is_empty), "{rest:?}");
    }

    let (answer, _sending) = client.send_request(connect("chat"), false).unwrap();
    assert_eq!(answer.await.unwrap().status(), 501);
    drop(client);
    sidecar.stop().await;
}
