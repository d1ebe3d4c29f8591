//! A caller with a hyper client, and the engine that it calls.

use std::time::Duration;

use clap::Parser;
use futures::StreamExt as _;
use http_body_util::{BodyExt as _, BodyStream, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, StatusCode};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::TokioExecutor;
use penstock_engine::server::{Options, Server};
use serde_json::{Value, json};

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    options: Options,
}

/// An engine, and connections to it.
pub(crate) struct Caller {
    server: Server,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Caller {
    /// Starts an engine with these words on its command line.
    pub(crate) async fn of(line: &str) -> Self {
        let words = std::iter::once("penstock-engine").chain(line.split_whitespace());
        let options = Line::try_parse_from(words).expect("a command line").options;
        let server = Server::start(options).await.expect("the engine starts");
        Self { server, client: Client::builder(TokioExecutor::new()).build_http() }
    }

    /// The same engine over HTTP/2 without TLS.
    pub(crate) fn over_http2(self) -> Self {
        Self { client: Client::builder(TokioExecutor::new()).http2_only(true).build_http(), ..self }
    }

    pub(crate) async fn send(&self, path: &str, body: impl Into<Bytes>) -> Response<Incoming> {
        self.try_send(path, body).await.expect("an answer")
    }

    /// As `send`, for when the connection may break before there is an answer.
    pub(crate) async fn try_send(
        &self,
        path: &str,
        body: impl Into<Bytes>,
    ) -> Result<Response<Incoming>, Error> {
        let uri = format!("http://{}{path}", self.server.address());
        let body = body.into();
        let method = if body.is_empty() { "GET" } else { "POST" };
        let request = Request::builder().method(method).uri(uri).header("x-request-id", "req-7");
        let request = request.body(Full::new(body)).expect("a request");
        soon(self.client.request(request)).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> (StatusCode, Value) {
        read(self.send(path, body.to_string()).await).await
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        read(self.send(path, "").await).await.1
    }

    /// A chat whose prompt is `words`; `more` fields are added to the request.
    pub(crate) async fn chat(&self, words: &str, more: Value) -> Response<Incoming> {
        self.send("/v1/chat/completions", chat_body(words, more).to_string()).await
    }

    pub(crate) async fn whole_chat(&self, words: &str, more: Value) -> Value {
        let (status, answer) = read(self.chat(words, more).await).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer
    }

    /// Asks for the stats until they are as wished; asking is what lets time pass.
    pub(crate) async fn stats_when(&self, wish: impl Fn(&Value) -> bool) -> Value {
        soon(async {
            loop {
                let stats = self.get("/admin/stats").await;
                if wish(&stats) {
                    return stats;
                }
            }
        })
        .await
    }
}

pub(crate) fn chat_body(words: &str, more: Value) -> Value {
    let mut body = json!({"model": "penstock-small", "messages": [{"role": "user", "content": words}]});
    if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
        body.extend(more);
    }
    body
}

/// Fails the test instead of waiting for ever.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future).await.expect("it happens within 30 s")
}

pub(crate) async fn read(response: Response<Incoming>) -> (StatusCode, Value) {
    let status = response.status();
    let body = soon(response.into_body().collect()).await.expect("a body").to_bytes();
    let value = serde_json::from_slice(&body).unwrap_or_else(|_| json!(String::from_utf8_lossy(&body)));
    (status, value)
}

/// The events of a stream, without `data: `; the last one says `torn` if the stream broke off.
pub(crate) async fn events(response: Response<Incoming>) -> Vec<String> {
    let mut text = String::new();
    let mut body = BodyStream::new(response.into_body());
    let torn = soon(async {
        while let Some(frame) = body.next().await {
            match frame {
                Ok(frame) => text += std::str::from_utf8(frame.data_ref().expect("data")).expect("UTF-8"),
                Err(_) => return true,
            }
        }
        false
    })
    .await;
    let mut events: Vec<String> =
        text.split_terminator("\n\n").map(|event| event.trim_start_matches("data: ").to_owned()).collect();
    if torn {
        events.push("torn".to_owned());
    }
    events
}

/// Reads a stream up to the first event that has a token in it, and keeps it open.
pub(crate) async fn first_token(response: Response<Incoming>) -> BodyStream<Incoming> {
    let mut body = BodyStream::new(response.into_body());
    soon(async {
        while let Some(Ok(frame)) = body.next().await {
            let said = frame.data_ref().is_some_and(|data| !data.windows(6).any(|six| six == b"\"role\""));
            if said {
                return body;
            }
        }
        panic!("the stream ended before its first token");
    })
    .await
}

pub(crate) fn parsed(event: &str) -> Value {
    serde_json::from_str(event).unwrap_or_else(|error| panic!("{error}: {event}"))
}
