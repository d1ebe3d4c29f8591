//! Whom everybody believes changes, and whom nobody renews is told: without a stream that is dropped, and without a restart.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use http_body_util::BodyExt;
use penstock_tests::certs::{Authority, Leaf};
use penstock_tests::client::{self, Connection, Version};
use penstock_tests::documents::{self, Endpoint, backend, policy};
use penstock_tests::engine::{Engine, chat};
use penstock_tests::load::Load;
use penstock_tests::mesh::Mesh;
use penstock_tests::sidecar::Sidecar;
use penstock_tests::wait::eventually;
use serde_json::{Value, json};

async fn trust_when(mesh: &Mesh, step: &str) -> Value {
    let status = mesh.plane.status_when(step, |status| status["trust"]["step"] == *step).await;
    status["trust"].clone()
}

/// Ids of the two keys of prefix digests that all sidecars hold, once these are others than `before`.
async fn prefix_keys(sidecars: &[&Sidecar], before: &Value) -> Value {
    eventually("all sidecars hold the same two keys", async || {
        let held = futures::future::join_all(sidecars.iter().map(|sidecar| sidecar.page("/identity"))).await;
        let first = held[0]["prefixKeys"].clone();
        let all = held.iter().all(|page| page["prefixKeys"] == first);
        let both = first.as_array().is_some_and(|keys| keys.len() == 2 && keys[0] != keys[1]);
        if all && both && first != *before { Ok(first) } else { Err(format!("{held:#?}")) }
    })
    .await
}

/// Requests of which some need a connection of their own, and so both ends to believe each other now.
async fn handshakes(engine: &Engine, web: &Sidecar, at_once: usize) {
    let opened = async || web.metrics().await.sum("penstock_tls_connections_total", &[]);
    let before = opened().await;
    // More at once than there are connections so far.
    let asked = (0..at_once).map(|_| {
        let body = chat("hi", json!({"max_tokens": 60, "ignore_eos": true}));
        async move { client::post(web.outbound(), "/v1/chat/completions", &body).await }
    });
    for answer in futures::future::join_all(asked).await {
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    assert!(opened().await > before, "no handshake was needed");
    assert!(engine.stats().await["running"].as_u64().unwrap() >= 1);
}

#[tokio::test]
async fn a_stream_outlives_a_root_that_takes_the_place_of_another() {
    let mesh = Mesh::start_with(&["--leaf-ttl", "3s"]).await;
    let served = mesh.serve("chat", "--noise 0").await;
    let web = mesh.caller("web").await;
    let sidecars = [&web, &served.sidecar];
    let documents = [
        backend("chat", &[served.endpoint()]).with("default", true),
        // Each further request at the same time is a connection of its own, and a handshake.
        policy("chat").with("connectionPool", json!({"http": {"maxConcurrentStreams": 1}})),
    ];
    mesh.publish(&documents, &sidecars).await;
    let before = trust_when(&mesh, "steady").await;
    let keys = prefix_keys(&sidecars, &Value::Null).await;

    let mut connection = web.connect(Version::Http2).await;
    let body = chat("hi", json!({"stream": true, "max_tokens": 4_000, "ignore_eos": true}));
    let mut stream = connection.send(connection.post("/v1/chat/completions", &body)).await.into_body();
    let begun = client::read_until(&mut stream, "\"content\":").await;
    let load = Load::start(web.outbound());

    std::fs::write(mesh.plane.state_dir().join("rotate-root"), "").unwrap();
    let both = trust_when(&mesh, "replaced").await;
    let roots = both["roots"].as_array().unwrap();
    assert_eq!((roots.len(), &roots[1]["sha256"]), (2, &before["roots"][0]["sha256"]), "{both:#}");
    for sidecar in sidecars {
        let page = sidecar.page("/identity").await;
        assert_eq!(page["roots"].as_array().unwrap().len(), 2, "it issues before {page:#} believes");
    }
    prefix_keys(&sidecars, &keys).await;
    handshakes(&served.engine, &web, 12).await;

    let after = trust_when(&mesh, "steady").await;
    assert_eq!(after["roots"].as_array().unwrap().len(), 1);
    assert_eq!(after["roots"][0], roots[0]);
    for sidecar in sidecars {
        eventually("the old root is believed no more", async || {
            let page = sidecar.page("/identity").await;
            let alone = page["roots"] == json!([roots[0]["sha256"]]) && page["bundle"] == after["bundle"];
            if alone { Ok(()) } else { Err(format!("{page:#}")) }
        })
        .await;
        sidecar.metric_is("penstock_identity_roots", &[], 1.0).await;
    }
    handshakes(&served.engine, &web, 24).await;
    load.more(20).await;
    let faults = load.end().await;
    assert!(faults.is_empty(), "{faults:#?}");
    for sidecar in sidecars {
        let metrics = sidecar.metrics().await;
        assert_eq!(metrics.sum("penstock_tls_refusals_total", &[]), 0.0, "{}", sidecar.name);
        assert_eq!(metrics.sum("identity_cert_refresh_total", &[("result", "failure")]), 0.0);
        assert_eq!(metrics.sum("penstock_xds_connected", &[]), 1.0);
    }
    // A sidecar that starts now, with the file as it is now, is one of them.
    let late = mesh.caller("late").await;
    late.ready().await;
    assert_eq!(
        client::post(late.outbound(), "/v1/chat/completions", &chat("hi", json!({"max_tokens": 2})))
            .await
            .status,
        200
    );

    let rest = stream.collect().await.expect("a stream that ends whole").to_bytes();
    let whole = begun + std::str::from_utf8(&rest).unwrap();
    assert!(whole.ends_with("data: [DONE]\n\n"), "{}", &whole[whole.len() - 200..]);
    assert_eq!(whole.matches("\"delta\":{\"content\":").count(), 4_000);
}

#[tokio::test]
async fn a_certificate_that_nobody_renews_is_kept_to_its_end_told_of_and_renewed_when_somebody_does() {
    let mut mesh = Mesh::start_with(&["--leaf-ttl", "4s"]).await;
    let [met, unmet] = [mesh.serve("met", "--speed 50").await, mesh.serve("unmet", "--speed 50").await];
    let web = mesh.caller("web").await;
    let documents =
        [backend("met", &[met.endpoint()]).with("default", true), backend("unmet", &[unmet.endpoint()])];
    let sidecars = [&met.sidecar, &unmet.sidecar, &web];
    mesh.publish(&documents, &sidecars).await;
    let small = chat("hi", json!({"max_tokens": 2}));
    assert_eq!(client::post(web.outbound(), "/v1/chat/completions", &small).await.status, 200);
    let ask_unmet = async || {
        let mut connection = Connection::open(Version::Http1, web.outbound()).await;
        let request = connection.request_to("unmet", "POST", "/v1/chat/completions");
        let request =
            request.header("content-type", "application/json").body(client::whole(small.to_string()));
        connection.ask(request.unwrap()).await
    };

    mesh.plane.kill();
    eventually("a renewal has failed", async || {
        let page = web.page("/identity").await;
        let told = page["lastError"].as_str().unwrap_or_default();
        if told.contains("control plane") { Ok(()) } else { Err(format!("{page:#}")) }
    })
    .await;
    for sidecar in sidecars {
        eventually("its certificate has expired", async || {
            let page = client::get(sidecar.admin(), "/ready").await;
            let told = page.status == 503 && page.text.starts_with("the certificate has expired: ");
            if told { Ok(()) } else { Err(page.text) }
        })
        .await;
    }
    // What is open goes on; what must prove itself now cannot, and says why.
    assert_eq!(client::post(web.outbound(), "/v1/chat/completions", &small).await.status, 200);
    let answer = ask_unmet().await;
    assert_eq!((answer.status, answer.header("x-penstock-error")), (502, Some("connect")), "{answer:?}");
    let refusals = [("direction", "outbound"), ("reason", "own_expired")];
    assert!(web.metrics().await.sum("penstock_tls_refusals_total", &refusals) >= 1.0);
    for words in
        ["the old one is kept until it expires", "the old one has expired", "own certificate has expired"]
    {
        eventually(words, async || {
            let log = web.program.log();
            if log.contains(words) { Ok(()) } else { Err(log) }
        })
        .await;
    }

    mesh.plane.restart().await;
    for sidecar in sidecars {
        sidecar.ready().await;
    }
    let answer = ask_unmet().await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(web.page("/identity").await["lastError"], Value::Null);
}

/// Files of one workload as Kubernetes mounts them: links into `..data`, a link that is swapped as one.
struct Volume {
    dir: PathBuf,
    versions: u32,
}

impl Volume {
    fn new(dir: &Path, name: &str) -> Self {
        let dir = dir.join(format!("{name}.certs"));
        std::fs::create_dir(&dir).unwrap();
        for file in ["tls.crt", "tls.key", "ca.crt"] {
            symlink(Path::new("..data").join(file), dir.join(file)).unwrap();
        }
        Self { dir, versions: 0 }
    }

    fn put(&mut self, leaf: &Leaf, roots: &[&Authority]) {
        let (chain, key) = leaf.pem();
        let bundle: String = roots.iter().map(|root| root.root_pem()).collect();
        self.versions += 1;
        let version = format!("..{}", self.versions);
        std::fs::create_dir(self.dir.join(&version)).unwrap();
        for (file, text) in [("tls.crt", chain), ("tls.key", &key), ("ca.crt", &bundle)] {
            std::fs::write(self.dir.join(&version).join(file), text).unwrap();
        }
        symlink(version, self.dir.join("..fresh")).unwrap();
        std::fs::rename(self.dir.join("..fresh"), self.dir.join("..data")).unwrap();
    }
}

/// The identity of a workload whose files are in such a volume.
fn files(dir: &Path, name: &str) -> Value {
    let file = |file| dir.join(format!("{name}.certs")).join(file);
    json!({"serviceAccount": name, "certificates": {
        "chainFile": file("tls.crt"), "keyFile": file("tls.key"), "trustBundleFile": file("ca.crt"),
    }})
}

async fn identity_when(sidecar: &Sidecar, what: &str, wish: impl Fn(&Value) -> bool) {
    eventually(&format!("{}: {what}", sidecar.name), async || {
        let page = sidecar.page("/identity").await;
        if wish(&page) { Ok(()) } else { Err(format!("{page:#}")) }
    })
    .await;
}

#[tokio::test]
async fn certificates_and_roots_in_files_change_under_a_stream_and_no_control_plane_is_needed() {
    let dir = tempfile::tempdir().unwrap();
    let [old, new] = [Authority::unknown(), Authority::unknown()];
    let leaf = |authority: &Authority, name: &str| {
        authority.leaf(&format!("spiffe://cluster.local/ns/default/sa/{name}"))
    };
    let names = ["chat", "web"];
    let mut volumes = names.map(|name| Volume::new(dir.path(), name));
    let mut put = |signer: &Authority, roots: &[&Authority]| {
        for (volume, name) in volumes.iter_mut().zip(names) {
            volume.put(&leaf(signer, name), roots);
        }
    };
    put(&old, &[&old]);

    let engine = Engine::start(dir.path(), "engine", "--noise 0").await;
    let start = async |name: &str, mut spec: Value| {
        spec["identity"] = files(dir.path(), name);
        spec["documents"] = json!("documents.yaml");
        Sidecar::start(dir.path(), name, spec).await
    };
    let inbound = json!({"listen": "127.0.0.1:0", "applications": [{"endpoint": engine.address}]});
    std::fs::write(dir.path().join("documents.yaml"), "# nothing yet\n").unwrap();
    let served = start("chat", json!({"inbound": inbound})).await;
    let endpoint = Endpoint { address: engine.address, sidecar: Some(served.inbound()) };
    let each_alone = policy("chat").with("connectionPool", json!({"http": {"maxConcurrentStreams": 1}}));
    let text = documents::file(&[backend("chat", &[endpoint]).with("default", true), each_alone]);
    std::fs::write(dir.path().join("documents.yaml"), text).unwrap();
    let web = start("web", json!({"outbound": {"listen": "127.0.0.1:0"}})).await;
    let sidecars = [&served, &web];
    for sidecar in sidecars {
        sidecar.ready().await;
    }

    let mut connection = web.connect(Version::Http2).await;
    let body = chat("hi", json!({"stream": true, "max_tokens": 1_000, "ignore_eos": true}));
    let mut stream = connection.send(connection.post("/v1/chat/completions", &body)).await.into_body();
    let begun = client::read_until(&mut stream, "\"content\":").await;
    for (step, (signer, roots)) in
        [(&old, vec![&old, &new]), (&new, vec![&old, &new]), (&new, vec![&new])].into_iter().enumerate()
    {
        put(signer, &roots);
        for sidecar in sidecars {
            // Installed at the start, and once for each step.
            sidecar
                .metric_is("identity_cert_refresh_total", &[("result", "success")], 2.0 + step as f64)
                .await;
            sidecar.metric_is("penstock_identity_roots", &[], roots.len() as f64).await;
        }
        handshakes(&engine, &web, 8 * (step + 1)).await;
    }

    // Of a root that nobody believes: told, and not used.
    put(&old, &[&new]);
    for sidecar in sidecars {
        identity_when(sidecar, "refused", |page| {
            page["lastError"].as_str().is_some_and(|why| why.contains("issuer is not in the trust bundle"))
        })
        .await;
        assert!(sidecar.is_ready().await);
        assert!(sidecar.program.log().contains("the one of before is kept"), "{}", sidecar.program.log());
    }
    handshakes(&engine, &web, 32).await;
    for sidecar in sidecars {
        assert_eq!(sidecar.metrics().await.sum("penstock_tls_refusals_total", &[]), 0.0, "{}", sidecar.name);
    }

    let rest = stream.collect().await.expect("a stream that ends whole").to_bytes();
    let whole = begun + std::str::from_utf8(&rest).unwrap();
    assert!(whole.ends_with("data: [DONE]\n\n"), "{}", &whole[whole.len() - 200..]);
    assert_eq!(whole.matches("\"delta\":{\"content\":").count(), 1_000);
}
