//! Metrics pages of model servers, as an inbound sidecar meets them on real sockets.

use std::net::SocketAddr;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};

use crate::beside::{Sidecar, application, head};

const VLLM: &str = "# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{engine=\"0\"} 3\n\
                    vllm:kv_cache_usage_perc{engine=\"0\"} 0.5\n\
                    vllm:cache_config_info{engine=\"0\",block_size=\"16\",num_gpu_blocks=\"100\"} 1\n";

/// A sidecar in front of an application, which callers know by another address.
async fn before(connect: SocketAddr) -> Sidecar {
    let settings = format!(
        "  controlPlane: {{address: \"127.0.0.1:1\", trustBundleFile: none.pem, tokenFile: none}}\n  inbound: {{listen: \
         \"127.0.0.1:0\", applications: [{{endpoint: \"10.0.0.7:8000\", connect: \"{connect}\"}}]}}\n"
    );
    Sidecar::start(connect, "http", &settings).await
}

async fn answer(stream: &mut TcpStream, status: u16, body: &str) {
    let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    // It may not want all of it.
    drop(stream.write_all(answer.as_bytes()).await);
}

/// A server that answers every request with this.
async fn server(status: u16, body: String) -> SocketAddr {
    application(move |mut stream| {
        let body = body.clone();
        async move {
            while !head(&mut stream).await.is_empty() {
                answer(&mut stream, status, &body).await;
            }
        }
    })
    .await
}

#[tokio::test]
async fn what_an_engine_says_of_itself_is_shown() {
    let sidecar = before(server(200, VLLM.to_owned()).await).await;
    let page = sidecar.shows("/clusters", "\"engine\": \"vllm\"").await;
    for line in [
        "\"endpoint\": \"10.0.0.7:8000\"",
        "\"running\": 3",
        "\"kvTokensUsed\": 800",
        "\"kvTokensTotal\": 1600",
    ] {
        assert!(page.contains(line), "{line}: {page}");
    }
    for line in [
        "penstock_scrapes_total{endpoint=\"10.0.0.7:8000\",result=\"success\"} 1",
        "penstock_load_signal_age_seconds{endpoint=\"10.0.0.7:8000\",source=\"scrape\"} ",
    ] {
        sidecar.shows("/metrics", line).await;
    }
    sidecar.stop().await;
}

/// That this is shown of an application, and counted so.
async fn check(application: SocketAddr, why: &str, result: &str) {
    let sidecar = before(application).await;
    sidecar.shows("/clusters", why).await;
    let line = format!("penstock_scrapes_total{{endpoint=\"10.0.0.7:8000\",result=\"{result}\"}}");
    let page = sidecar.shows("/metrics", &line).await;
    assert!(!page.contains("penstock_load_signal_age_seconds{"), "{page}");
    sidecar.stop().await;
}

#[tokio::test]
async fn what_is_no_metrics_page_is_told_by_its_reason() {
    check(server(404, "not here".to_owned()).await, "\"lastError\": \"answered 404: ", "not_found").await;
    check(server(200, "<html>".to_owned()).await, "the page begins with `<html>`", "unknown_engine").await;
    check(server(200, VLLM.repeat(8_000)).await, "more than 1048576 bytes", "too_large").await;
    let whole = format!("{VLLM}vllm:num_requests_waiting -1\n");
    check(server(200, whole).await, "line 5: -1 cannot be", "impossible").await;
}

#[tokio::test]
async fn a_server_that_is_slow_or_breaks_off_or_is_gone_is_told_by_its_reason() {
    let slow = application(|mut stream| async move {
        head(&mut stream).await;
        drop(stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nvllm:").await);
        std::future::pending::<()>().await;
    });
    check(slow.await, "no whole answer within 1s", "timeout").await;
    let broken = application(|mut stream| async move {
        head(&mut stream).await;
        drop(stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nvllm:").await);
    });
    check(broken.await, "\"lastError\": \"cannot be asked: ", "unreachable").await;
    let gone = TcpSocket::new_v4().unwrap();
    gone.bind(([127, 0, 0, 1], 0).into()).unwrap();
    check(gone.local_addr().unwrap(), "cannot be asked: cannot connect to ", "unreachable").await;
}
