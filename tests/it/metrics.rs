//! What operators build dashboards and alerts on: names, types, labels and help are pinned in `golden/metrics.txt`.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use penstock_tests::certs::nameless_client;
use penstock_tests::client::{self, Version, tls_stream, whole};
use penstock_tests::documents::{self, Endpoint, backend, model_rule, policy, reference, route};
use penstock_tests::engine::chat;
use penstock_tests::exposition::{Exposition, Family};
use penstock_tests::golden;
use penstock_tests::mesh::{Mesh, Served};
use penstock_tests::sidecar::Sidecar;
use penstock_tests::wait::eventually;
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpSocket, UdpSocket};

/// A mesh in which everything that is counted has happened.
struct Eventful {
    served: Served,
    web: Sidecar,
    own: Sidecar,
    mesh: Mesh,
    _silent: TcpSocket,
    _mute: UdpSocket,
}

async fn eventful() -> Eventful {
    let mesh = Mesh::start().await;
    let served = mesh.serve("chat", "--speed 50").await;
    let web = mesh.caller("web").await;
    // A port that is taken and not listened to: whoever connects is refused.
    let silent = TcpSocket::new_v4().unwrap();
    silent.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let nobody = Endpoint { address: ([127, 0, 0, 1], 9).into(), sidecar: silent.local_addr().ok() };
    let slo =
        documents::slo("chat", &json!([{"name": "served", "indicator": "Availability", "target": "99"}]));
    let published = [
        backend("chat", &[served.endpoint()]).with("default", true),
        route("chat", &json!([model_rule("penstock-small", "chat"), {"backendRefs": [reference("flaky")]}])),
        policy("chat").with("requestBody", json!({"holdMax": "1Ki"})),
        backend("flaky", &[nobody, served.endpoint()]),
        policy("flaky").with("loadBalancer", json!({"policy": "RoundRobin"})),
        slo,
    ];
    mesh.publish(&published, &[&served.sidecar, &web]).await;
    let documents = mesh.dir().join("routes.yaml");
    let plaintext = Endpoint { address: served.engine.address, sidecar: None };
    let own_documents = [
        backend("chat", &[plaintext]).with("default", true),
        backend("checked", &[plaintext]).with("healthCheck", json!({"engine": "vllm", "interval": "10m"})),
        backend("named", &[]).with("endpoints", json!([{"dns": "nobody.example", "port": 80}])),
    ];
    std::fs::write(&documents, documents::file(&own_documents)).unwrap();
    let mute = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let dns = json!({"servers": [mute.local_addr().unwrap()], "timeout": "100ms"});
    let spec = json!({"documents": documents, "outbound": {"listen": "127.0.0.1:0"}, "dns": dns});
    let own = Sidecar::start(mesh.dir(), "own", spec).await;
    own.ready().await;
    let all = Eventful { served, web, own, mesh, _silent: silent, _mute: mute };
    all.happen().await;
    all
}

impl Eventful {
    async fn happen(&self) {
        let outbound = self.web.outbound();
        let usage = json!({"include_usage": true});
        for more in
            [json!({"max_tokens": 5}), json!({"max_tokens": 5, "stream": true, "stream_options": usage})]
        {
            assert_eq!(client::post(outbound, "/v1/chat/completions", &chat("hi", more)).await.status, 200);
        }
        let text = json!({"model": "penstock-small", "input": "hi"});
        assert_eq!(client::post(outbound, "/v1/embeddings", &text).await.status, 200);
        // The model comes too late for the policy, and the first endpoint that is tried is not there.
        for _ in 0..2 {
            let body = format!(
                r#"{{"messages":[{{"role":"user","content":"{}"}}],"model":"penstock-small"}}"#,
                "water ".repeat(50_000)
            );
            let mut connection = self.web.connect(Version::Http1).await;
            let request = connection.request("POST", "/v1/chat/completions");
            let request = request.header("content-type", "application/json").body(whole(body)).unwrap();
            assert_eq!(connection.ask(request).await.status, 200);
        }
        // While the server is busy nobody is served within a millisecond.
        let long =
            chat(&"water ".repeat(100), json!({"max_tokens": 5_000, "ignore_eos": true, "stream": true}));
        let mut busy = self.web.connect(Version::Http2).await;
        let mut stream = busy.send(busy.post("/v1/chat/completions", &long)).await.into_body();
        client::read_until(&mut stream, "\"content\":").await;
        let mut hasty = self.web.connect(Version::Http2).await;
        let mut request = hasty.post("/v1/chat/completions", &chat("hi", json!({"max_tokens": 1})));
        request.headers_mut().insert("x-llm-d-slo-ttft-ms", http::HeaderValue::from_static("0"));
        let told = hasty.ask(request).await;
        assert_eq!((told.status, told.header("x-penstock-error")), (429, Some("overloaded")), "{told:?}");
        drop((stream, busy));
        // Neither side likes the other's idea of TLS.
        let mut nameless = tls_stream(self.served.sidecar.inbound(), nameless_client()).await.unwrap();
        drop(nameless.read(&mut [0]).await);
        drop(tls_stream(outbound, nameless_client()).await);
        // Two hosts are one too many.
        let mut raw = client::Raw::open(outbound).await;
        raw.send("GET / HTTP/1.1\r\nhost: chat\r\nhost: other\r\n\r\n").await;
        raw.read_to_end().await;
        for sidecar in [&self.web, &self.served.sidecar] {
            sidecar.idle().await;
        }
        let refused = [("direction", "outbound"), ("reason", "hosts")];
        self.web.metric_is("penstock_requests_refused_total", &refused, 1.0).await;
        self.web.metric_is("penstock_connections_refused_total", &[], 1.0).await;
        self.own.metric_is("penstock_health_checks_total", &[("result", "ready")], 1.0).await;
        eventually("the engine's metrics are read", async || {
            let page = self.served.sidecar.page("/clusters").await;
            let engine = page["applications"][0]["metrics"]["engine"].clone();
            if engine == "vllm" { Ok(()) } else { Err(page.to_string()) }
        })
        .await;
        self.own.metric_is("penstock_dns_stale", &[("name", "nobody.example")], 1.0).await;
    }

    async fn pages(&self) -> Vec<(&'static str, Exposition)> {
        let mut proxy = self.web.metrics().await;
        for sidecar in [&self.served.sidecar, &self.own] {
            for (name, family) in sidecar.metrics().await.families {
                proxy.families.entry(name).or_default().absorb(family);
            }
        }
        vec![("penstock-proxy", proxy), ("penstock-control-plane", self.mesh.plane.metrics().await)]
    }
}

fn listed(families: &BTreeMap<String, Family>) -> String {
    let line = |(name, family): (&String, &Family)| {
        let labels: Vec<_> = family.labels().into_iter().collect();
        format!("{name} {} {{{}}} {}\n", family.kind, labels.join(", "), family.help)
    };
    families.iter().map(line).collect()
}

#[tokio::test]
async fn every_page_is_well_formed_and_its_names_types_labels_and_help_are_those_that_are_pinned() {
    let all = eventful().await;
    let mut text = String::new();
    for (program, page) in all.pages().await {
        text += &format!("# {program}\n{}\n", listed(&page.families));
    }
    golden::check("metrics.txt", &text);
    promtool_agrees(&all).await;
}

#[tokio::test]
async fn how_long_requests_wait_before_they_go_elsewhere_is_seen_and_how_much_memory_servers_have() {
    let mesh = Mesh::start().await;
    let [a, b] = [mesh.serve("a", "--speed 50").await, mesh.serve("b", "--speed 50").await];
    let web = mesh.caller("web").await;
    let documents = [
        backend("chat", &[a.endpoint(), b.endpoint()]).with("default", true),
        backend("alone", &[a.endpoint()]),
    ];
    mesh.publish(&documents, &[&a.sidecar, &b.sidecar, &web]).await;
    for _ in 0..10 {
        let asked = chat("hi", json!({"max_tokens": 1}));
        assert_eq!(client::post(web.outbound(), "/v1/chat/completions", &asked).await.status, 200);
    }
    let page = web.metrics().await;
    let margin = |name| page.sum("penstock_patience_margin_ratio", &[("backend_name", name)]);
    assert_eq!(margin("alone"), 1.0, "nobody was sent there");
    // Nobody was refused: a little shorter for each.
    assert!((0.8..0.85).contains(&margin("chat")), "{}", margin("chat"));
    eventually("both tell how much memory they have", async || {
        let page = web.metrics().await;
        let total = [("backend_name", "chat"), ("signal", "kv_tokens")];
        let known = page.samples("penstock_endpoint_capacity", &total).count();
        if known == 2 { Ok(()) } else { Err(known.to_string()) }
    })
    .await;
}

#[tokio::test]
async fn what_was_counted_is_what_happened() {
    let all = eventful().await;
    let (web, chat) = (all.web.metrics().await, all.served.sidecar.metrics().await);
    for (metrics, direction) in [(&web, "outbound"), (&chat, "inbound")] {
        let of = |name: &str, labels: &[(&str, &str)]| {
            let labels: Vec<_> =
                [("direction", direction)].into_iter().chain(labels.iter().copied()).collect();
            metrics.sum(name, &labels)
        };
        assert_eq!(of("penstock_requests_total", &[("classification", "success")]), 5.0);
        assert_eq!(of("penstock_requests_total", &[("classification", "shed")]), 1.0);
        assert_eq!(of("penstock_requests_total", &[("classification", "cancelled")]), 1.0);
        assert_eq!(of("penstock_requests_total", &[]), 7.0);
        assert_eq!(of("penstock_refusals_total", &[("reason", "late"), ("backend_name", "chat")]), 1.0);
        assert_eq!(of("penstock_request_duration_seconds_count", &[]), 7.0);
        assert_eq!(of("penstock_time_to_first_token_seconds_count", &[]), 2.0, "two streams");
        assert_eq!(of("penstock_requests_total", &[("dialect", "openai_chat")]), 6.0);
        assert!(of("penstock_tokens_total", &[("type", "output")]) >= 10.0);
        assert_eq!(of("penstock_inflight_requests", &[]), 0.0);
        assert_eq!(of("penstock_tls_connections_total", &[]), 1.0, "one connection for all");
    }
    assert_eq!(web.sum("penstock_slo_events_total", &[("result", "good")]), 3.0);
    assert_eq!(web.sum("penstock_body_overflows_total", &[("action", "route")]), 2.0);
    let retries = web.sum("penstock_retries_total", &[("reason", "connect"), ("outcome", "success")]);
    assert!(
        (1.0..=2.0).contains(&retries),
        "{retries}: one for each request whose turn it was to meet nobody"
    );
    let of_texts = chat.sum("penstock_call_speed_error", &[("unit", "tokens")]);
    assert_eq!(of_texts, 1.0, "one call tells nothing for certain");
    let clusters = all.served.sidecar.page("/clusters").await;
    assert_eq!(clusters["applications"][0]["callSpeedErrors"], json!({"tokens": 1.0}), "{clusters:#}");
    let clusters = all.web.page("/clusters").await;
    let endpoint = &clusters["backends"][0]["endpoints"][0];
    let expected = json!({"tokens": {"unitsAhead": 0.0, "speed": null}});
    assert_eq!(endpoint["load"]["calls"], expected, "{clusters:#}");
    assert_eq!(chat.sum("penstock_tls_refusals_total", &[("reason", "no_certificate")]), 1.0);
    let own = all.own.metrics().await;
    let checked = [("backend_name", "checked"), ("state", "ready")];
    assert_eq!(own.sum("penstock_endpoint_state", &checked), 1.0);
    assert!(
        own.sum("penstock_dns_lookups_total", &[("name", "nobody.example"), ("result", "failed")]) >= 1.0
    );
    assert_eq!(own.sum("penstock_dns_lookups_total", &[("result", "found")]), 0.0);
    assert_eq!(web.sum("penstock_panics_total", &[]) + chat.sum("penstock_panics_total", &[]), 0.0);
}

/// Prometheus' own opinion, where it is installed. The harness's reader has found nothing wrong before.
async fn promtool_agrees(all: &Eventful) {
    let found =
        Command::new("promtool").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !found.is_ok_and(|status| status.success()) {
        return;
    }
    for address in [all.web.admin(), all.served.sidecar.admin(), all.own.admin(), all.mesh.plane.admin()] {
        let page = client::get(address, "/metrics").await.text;
        let mut promtool = Command::new("promtool");
        promtool
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = promtool.spawn().unwrap();
        child.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
    }
}
