//! Bodies of every length, up and down, for every pair of protocols.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;

use crate::beside::{Sidecar, application};

/// Sends the body back; the status and the length of a body that is only announced come from the path.
async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let cookies = request.headers().get_all("cookie").iter().map(|value| value.to_str().unwrap().to_owned());
    let cookies = cookies.collect::<Vec<_>>().join("|");
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let mut response = Response::new(Full::new(body));
    response.headers_mut().insert("x-cookies", cookies.parse().unwrap());
    match path.as_str() {
        "/204" => *response.status_mut() = http::StatusCode::NO_CONTENT,
        "/304" => *response.status_mut() = http::StatusCode::NOT_MODIFIED,
        _ => {}
    }
    Ok(response)
}

async fn echo() -> SocketAddr {
    application(|stream| async move {
        let server = auto::Builder::new(TokioExecutor::new());
        drop(server.serve_connection(TokioIo::new(stream), service_fn(answer)).await);
    })
    .await
}

fn client(version: Version) -> Client<HttpConnector, Full<Bytes>> {
    Client::builder(TokioExecutor::new()).http2_only(version == Version::HTTP_2).build_http()
}

/// Bytes without a pattern that a misplaced chunk could hide in.
fn body(bytes: usize) -> Bytes {
    let mut state = 0x9e37_79b9_u32;
    let next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[1]
    };
    std::iter::repeat_with(next).take(bytes).collect::<Vec<u8>>().into()
}

async fn pairs() -> Vec<(Version, Sidecar)> {
    let mut pairs = Vec::new();
    for version in [Version::HTTP_11, Version::HTTP_2] {
        pairs.push((version, Sidecar::before(echo().await).await));
        pairs.push((version, Sidecar::before_http2(echo().await).await));
    }
    pairs
}

#[tokio::test]
async fn every_byte_comes_back() {
    let bodies: Vec<Bytes> =
        [0, 1, 100, 16_383, 16_384, 65_535, 65_537, 262_145, 5 << 20].map(body).into_iter().collect();
    for (version, sidecar) in pairs().await {
        let client = client(version);
        for sent in &bodies {
            let request = Request::post(format!("http://{}/echo", sidecar.outbound)).version(version);
            let answer = client.request(request.body(Full::new(sent.clone())).unwrap()).await.unwrap();
            assert_eq!(answer.status(), 200, "{version:?} {}", sent.len());
            let received = answer.into_body().collect().await.unwrap().to_bytes();
            assert!(received == *sent, "{version:?}: {} bytes sent, {} received", sent.len(), received.len());
        }
        drop(client);
        sidecar.stop().await;
    }
}

#[tokio::test]
async fn answers_without_a_body_have_none_and_cost_no_connection() {
    for (version, sidecar) in pairs().await {
        let client = client(version);
        for (method, path, status) in [
            ("HEAD", "/", 200),
            ("GET", "/204", 204),
            ("GET", "/304", 304),
            ("GET", "/", 200),
            ("HEAD", "/", 200),
        ] {
            let request = Request::builder().method(method).version(version);
            let request = request.uri(format!("http://{}{path}", sidecar.outbound));
            let answer = client.request(request.body(Full::default()).unwrap()).await.unwrap();
            assert_eq!(answer.status(), status, "{version:?} {method} {path}");
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            assert!(body.is_empty(), "{version:?} {method} {path}: {body:?}");
        }
        drop(client);
        sidecar.stop().await;
    }
}

#[tokio::test]
async fn a_cookie_in_parts_is_one_field_for_http1() {
    let (http1, http2) = (Sidecar::before(echo().await).await, Sidecar::before_http2(echo().await).await);
    for (sidecar, expected) in [(http1, "a=1; b=2; c=3"), (http2, "a=1|b=2|c=3")] {
        let request = Request::get(format!("http://{}/", sidecar.outbound)).version(Version::HTTP_2);
        let request = request.header("cookie", "a=1").header("cookie", "b=2").header("cookie", "c=3");
        let client = client(Version::HTTP_2);
        let answer = client.request(request.body(Full::default()).unwrap()).await.unwrap();
        assert_eq!(answer.headers()["x-cookies"], expected);
        drop((answer, client));
        sidecar.stop().await;
    }
}
