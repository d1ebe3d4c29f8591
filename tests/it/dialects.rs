//! Every dialect's official client reads the answers of its engines, and the errors that a sidecar makes, as its own.

use penstock_tests::application::Application;
use penstock_tests::client::{Version, whole};
use penstock_tests::documents::{Document, Endpoint, backend, model_rule, policy, reference, route};
use penstock_tests::engine::chat;
use penstock_tests::mesh::Mesh;
use penstock_tests::python::Python;
use penstock_tests::recorded::{Player, Recorded, SILENT};
use penstock_tests::sidecar::Sidecar;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// A caller, and models that name what becomes of a request to them: see `clients/checks.py`.
struct Faults {
    web: Sidecar,
    inbound: Sidecar,
    _player: Player,
    /// Has the only place of `full`.
    _occupant: JoinSet<()>,
}

impl Faults {
    async fn start(mesh: &Mesh) -> Self {
        Self::start_with(mesh, &[], &[]).await
    }

    /// The same with more documents and rules.
    async fn start_with(mesh: &Mesh, more: &[Document], more_rules: &[Value]) -> Self {
        let player = Player::start().await;
        let inbound = mesh.inbound("player", player.address).await;
        let web = mesh.caller("web").await;
        let played = Endpoint { address: player.address, sidecar: Some(inbound.inbound()) };
        let recorded = json!({
            "matches": [{"headers": [
                {"name": "x-gateway-model-name", "type": "RegularExpression", "value": "[0-9]{2}-.*"},
            ]}],
            "backendRefs": [reference("player")],
        });
        let mut rules = vec![
            recorded,
            model_rule("full", "full"),
            model_rule("gone", "gone"),
            no_share(model_rule("weightless", "player")),
            in_time("300ms", model_rule(SILENT, "player")),
            // An answer given before, asked for again by its id.
            json!({
                "matches": [{"path": {"type": "PathPrefix", "value": "/v1/responses/30-responses-text~between"}}],
                "backendRefs": [reference("player")],
            }),
        ];
        rules.extend_from_slice(more_rules);
        let mut documents = vec![
            backend("player", &[played]).with("default", true),
            // What is asked here is how faults are told. An occupant that is never answered makes costs high, and others would be refused.
            policy("player").with("loadBalancer", json!({"policy": "P2C"})),
            backend("full", &[played]),
            policy("full").with("connectionPool", json!({"http": {"http2MaxRequests": 1}})),
            backend("gone", &[Endpoint { address: nobody().await, sidecar: None }]),
            route("player", &Value::from(rules)),
        ];
        documents.extend_from_slice(more);
        mesh.publish(&documents, &[&inbound, &web]).await;
        let occupant = occupy(&web, &inbound).await;
        Self { web, inbound, _player: player, _occupant: occupant }
    }

    /// Both sidecars must have read in each recorded answer what stands in the corpus.
    async fn check_logs(&self, recorded: &[Recorded]) {
        for sidecar in [&self.web, &self.inbound] {
            let log = sidecar.access_log().await;
            for recorded in recorded {
                let line = log.iter().find(|line| line["model"] == *recorded.name);
                let line = line.unwrap_or_else(|| panic!("{} is not told", recorded.name));
                assert_eq!(line["dialect"], *recorded.dialect, "{line:#}");
                let names = ["input", "output", "cached", "reasoning"];
                let counts = names.map(|name| line[format!("{name}_tokens")].as_u64());
                assert_eq!(counts, names.map(|name| recorded.count(name)), "{line:#}");
                let class = if recorded.ending() == "Error" { "failure" } else { "success" };
                assert_eq!(line["classification"], class, "{line:#}");
                let has_content = !recorded.summary.contains("content events 0,");
                assert_eq!(line["ttft_ms"].is_number(), has_content, "{line:#}");
            }
        }
    }
}

fn in_time(request: &str, mut rule: Value) -> Value {
    rule["timeouts"] = json!({"request": request});
    rule
}

fn no_share(mut rule: Value) -> Value {
    rule["backendRefs"][0]["weight"] = json!(0);
    rule
}

/// An address where nobody listens.
async fn nobody() -> std::net::SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// A request that is never answered; it has come to its end of the mesh.
async fn occupy(web: &Sidecar, inbound: &Sidecar) -> JoinSet<()> {
    let mut connection = web.connect(Version::Http2).await;
    let request = connection.post("/v1/chat/completions", &chat(SILENT, json!({"model": "full"})));
    let mut occupant = JoinSet::new();
    occupant.spawn(async move { drop(connection.try_send(request).await) });
    inbound.metric_is("penstock_inflight_requests", &[("direction", "inbound")], 1.0).await;
    occupant
}

/// What a client of these dialects can be given, save answers that no client of theirs could read.
fn recorded(family: &str) -> Vec<Recorded> {
    // Broken on purpose, of a shape that these clients do not know, or of another path's.
    let not_for_clients = [
        "11-llamacpp-error-field",
        "16-cut-mid-event",
        "17-not-ours",
        "34-responses-error-event",
        "54-ollama-cut",
        "55-ollama-crlf",
        "58-llamacpp-as-ollama",
        "80-many-in-one",
    ];
    let mut all = Recorded::all();
    all.retain(|recorded| {
        recorded.dialect.starts_with(family)
            && (recorded.content_type.contains("event-stream") || recorded.content_type.contains("ndjson"))
            && !not_for_clients.contains(&recorded.name.as_str())
    });
    all
}

/// A script asks for everything; the logs must say of it what the corpus does.
async fn read_by(module: &str, family: &str) {
    let Some(python) = Python::with(&[module]) else { return };
    let mesh = Mesh::start().await;
    let faults = Faults::start(&mesh).await;
    let recorded = recorded(family);
    let mut arguments = vec![faults.web.outbound().to_string()];
    arguments.extend(recorded.iter().map(|one| format!("{}/{}/{}", one.dialect, one.name, one.ending())));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    python.run(&format!("dialect_{module}.py"), &arguments).await;
    faults.check_logs(&recorded).await;
}

const JSON: &str = "application/json";
const FORM: &str = "multipart/form-data; boundary=b-1";

#[tokio::test]
async fn a_request_of_every_dialect_goes_where_its_model_says() {
    let mesh = Mesh::start().await;
    let (bert, rest) = (Application::start(&[], "bert").await, Application::start(&[], "rest").await);
    let web = mesh.caller("web").await;
    let plain = |application: &Application| Endpoint { address: application.address, sidecar: None };
    let others = json!({"backendRefs": [reference("rest")]});
    let documents = [
        backend("rest", &[plain(&rest)]).with("default", true),
        backend("bert", &[plain(&bert)]),
        route("rest", &json!([model_rule("bert", "bert"), others])),
    ];
    mesh.publish(&documents, &[&web]).await;
    let form = |fields: &[(&str, &str)]| {
        let part = |(name, value): &(&str, &str)| {
            format!("--b-1\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
        };
        fields.iter().map(part).collect::<String>() + "--b-1--\r\n"
    };
    let named = r#"{"input":"a","stream":false,"model":"bert"}"#.to_owned();
    let mut cases: Vec<(&str, &str, &str, String, &str)> = [
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/responses",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/completion",
        "/infill",
        "/api/chat",
        "/api/generate",
        "/api/embed",
        "/inference/v1/generate",
        "/v1/rerank",
        "/score",
        "/classify",
        "/pooling",
        "/tokenize",
    ]
    .map(|path| ("POST", path, JSON, named.clone(), "bert"))
    .to_vec();
    let tensor = || r#"{"inputs":[{"name":"model","data":["other"]}],"model":"other"}"#.to_owned();
    cases.extend([
        ("POST", "/v2/models/bert/infer", JSON, tensor(), "bert"),
        ("POST", "/v2/models/bert/versions/1/infer", "application/octet-stream", tensor(), "bert"),
        ("POST", "/v2/models/other/infer", JSON, named.clone(), "rest"),
        ("POST", "/v2/models/bert/generate_stream", JSON, tensor(), "bert"),
        ("GET", "/v2/models/bert/ready", JSON, String::new(), "bert"),
        ("GET", "/v2/models/other", JSON, String::new(), "rest"),
        ("GET", "/v1/models", JSON, String::new(), "rest"),
        ("POST", "/v1/audio/transcriptions", FORM, form(&[("file", "RIFF"), ("model", "bert")]), "bert"),
        ("POST", "/v1/audio/translations", FORM, form(&[("file", "RIFF"), ("model", "other")]), "rest"),
        ("POST", "/api/show", JSON, named.clone(), "rest"),
    ]);
    for version in Version::BOTH {
        for (method, path, content_type, body, expected) in &cases {
            let mut connection = web.connect(version).await;
            let request = connection.request(method, path).header("content-type", *content_type);
            let answer = connection.ask(request.body(whole(body.clone())).unwrap()).await;
            assert_eq!((answer.status, answer.text.as_str()), (200, *expected), "{version} {path}");
        }
        // What is compressed cannot be read; it is passed on as it is.
        for encoding in ["content-encoding", "x-body-compressed"] {
            let mut connection = web.connect(version).await;
            let request = connection.request("POST", "/v1/chat/completions").header(encoding, "zstd");
            let request = request.header("content-type", JSON).body(whole(&b"\x28\xb5\x2f\xfd"[..])).unwrap();
            let answer = connection.ask(request).await;
            assert_eq!((answer.status, answer.text.as_str()), (200, "rest"), "{version} {encoding}");
        }
    }
}

#[tokio::test]
async fn the_official_client_of_openai_reads_every_answer_and_every_error() {
    read_by("openai", "openai_").await;
}

#[tokio::test]
async fn the_official_client_of_anthropic_reads_every_answer_and_every_error() {
    read_by("anthropic", "anthropic_").await;
}

#[tokio::test]
async fn the_official_client_of_ollama_reads_every_answer_and_every_error() {
    read_by("ollama", "ollama_").await;
}

#[tokio::test]
async fn the_official_clients_of_triton_read_every_answer_and_every_error() {
    let Some(python) = Python::with(&["tritonclient.http", "tritonclient.grpc", "gevent"]) else { return };
    let mesh = Mesh::start().await;
    let server = python.start(mesh.dir(), "dialect_triton.py", &["serve"]).await;
    let address = server.listening("grpc");
    let applications = json!([{"endpoint": address, "protocol": "grpc"}]);
    let inbound = mesh.inbound_with("triton", applications, json!({})).await;
    let triton =
        backend("triton", &[Endpoint { address, sidecar: Some(inbound.inbound()) }]).with("protocol", "grpc");
    let rules = [
        model_rule("bert", "triton"),
        model_rule("fails", "triton"),
        model_rule("dies", "triton"),
        in_time("1s", model_rule("late", "triton")),
    ];
    let faults = Faults::start_with(&mesh, &[triton], &rules).await;
    inbound.ready().await;
    python.run("dialect_triton.py", &["ask", &faults.web.outbound().to_string()]).await;
    let log = faults.web.access_log().await;
    let of = |dialect: &str, model: &str| {
        let found = log.iter().rfind(|line| line["dialect"] == dialect && line["model"] == model);
        found.unwrap_or_else(|| panic!("no {dialect} of {model}: {log:#?}")).clone()
    };
    for (dialect, model, status) in [
        ("oip_grpc", "bert", 0),
        ("oip_grpc_model", "bert", 0),
        ("oip_grpc", "gone", 14),
        ("oip_grpc_model", "full", 8),
        ("oip_grpc_stream", "fails", 0),
        ("oip_grpc_stream", "late", 4),
        ("oip_grpc_stream", "dies", 14),
    ] {
        let line = of(dialect, model);
        assert_eq!(line["grpc_status"], status, "{line:#}");
    }
    assert_eq!(of("oip_grpc_stream", "fails")["classification"], "failure");
    assert!(of("oip_grpc_stream", "late")["ttft_ms"].is_number());
    assert_eq!(of("oip_model", "gone")["status"], 502);
}
