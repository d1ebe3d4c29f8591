//! Readiness: who has not said that it is ready gets nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use tokio::net::TcpListener;

use crate::sidecar::Sidecar;
use crate::{answer, head, spawn};

/// A model server that answers `question` with what it is told to say, and everything else as if it were ready.
async fn engine(question: &'static str, said: Arc<AtomicU16>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let said = Arc::clone(&said);
            spawn(async move {
                while let Some(path) = head(&mut stream).await {
                    let now = said.load(Ordering::SeqCst);
                    let status = if path == question { now } else { 200 };
                    answer(&mut stream, status, &format!("served at {now}")).await;
                }
            });
        }
    });
    address
}

/// What an engine is asked, and that it gets nothing while it says `loading`, nor when it says so once more.
async fn check(asked: &str, question: &'static str, loading: u16) {
    let said = Arc::new(AtomicU16::new(loading));
    let address = engine(question, Arc::clone(&said)).await;
    let sidecar = Sidecar::before(
        &format!(
            "endpoints: [{{address: 127.0.0.1, port: {}}}]\nhealthCheck: {{{asked}, interval: 100ms, healthyThreshold: 1}}",
            address.port()
        ),
        "",
    )
    .await;
    let why = format!("no endpoint is ready, of 1: {address} answered {loading} to GET {question}");
    let waiting = sidecar.answers(|answer| !answer.contains("was not asked yet")).await;
    assert!(waiting.starts_with("HTTP/1.1 503 ") && waiting.contains(&why), "{asked}: {waiting}");

    said.store(200, Ordering::SeqCst);
    let served = sidecar.answers(|answer| answer.starts_with("HTTP/1.1 200 ")).await;
    assert!(served.contains("served at 200"), "{asked}: {served}");

    said.store(loading, Ordering::SeqCst);
    let again = sidecar.answers(|answer| answer.starts_with("HTTP/1.1 503 ")).await;
    assert!(again.contains(&why), "{asked}: {again}");
    sidecar.stop().await;
}

#[tokio::test]
async fn every_engine_is_asked_in_its_own_way_and_gets_nothing_until_it_says_that_it_is_ready() {
    for (asked, question, loading) in [
        ("engine: vllm", "/health", 503),
        ("engine: sglang", "/health", 503),
        ("engine: trtllm", "/health", 503),
        ("engine: llamacpp", "/health", 503),
        ("engine: tgi", "/health", 503),
        ("engine: triton", "/v2/health/ready", 400),
        ("engine: triton, model: llama-8b", "/v2/models/llama-8b/ready", 400),
        ("engine: kserve", "/v2/health/ready", 503),
        ("engine: kserve, model: llama-8b", "/v2/models/llama-8b/ready", 404),
        ("engine: ollama", "/api/version", 502),
        ("path: \"/live?deep=1\"", "/live?deep=1", 500),
        // A page somewhere else is no answer.
        ("path: /moved", "/moved", 302),
    ] {
        check(asked, question, loading).await;
    }
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
