//! Readiness: who has not said that it is ready gets nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use tokio::net::TcpListener;

use crate::sidecar::Sidecar;
use crate::{answer, head, spawn};

#[tokio::test]
async fn an_endpoint_gets_nothing_until_it_says_that_it_is_ready() {
    let health = Arc::new(AtomicU16::new(503));
    let said = Arc::clone(&health);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let said = Arc::clone(&said);
            spawn(async move {
                while let Some(path) = head(&mut stream).await {
                    match path.as_str() {
                        "/health" => answer(&mut stream, said.load(Ordering::SeqCst), "").await,
                        // Nobody may get here before it is ready.
                        _ => {
                            answer(&mut stream, 200, &format!("health {}", said.load(Ordering::SeqCst)))
                                .await;
                        }
                    }
                }
            });
        }
    });
    let sidecar = Sidecar::before(
        &format!(
            "endpoints: [{{address: 127.0.0.1, port: {}}}]\nhealthCheck: {{engine: vllm, interval: 100ms, healthyThreshold: 1}}",
            address.port()
        ),
        "",
    )
    .await;
    let why = format!("no endpoint is ready, of 1: {address} answered 503 to GET /health");
    let waiting = sidecar.answers(|answer| !answer.contains("was not asked yet")).await;
    assert!(waiting.starts_with("HTTP/1.1 503 ") && waiting.contains(&why), "{waiting}");

    health.store(200, Ordering::SeqCst);
    let served = sidecar.answers(|answer| answer.starts_with("HTTP/1.1 200 ")).await;
    assert!(served.contains("health 200"), "{served}");

    health.store(500, Ordering::SeqCst);
    let again = sidecar.answers(|answer| answer.starts_with("HTTP/1.1 503 ")).await;
    assert!(again.contains("answered 500 to GET /health"), "{again}");
    sidecar.stop().await;
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
