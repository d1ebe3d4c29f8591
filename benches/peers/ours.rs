//! Ours, with everything on: a control plane that gives routes, a promise and identities; metrics, the access log at its
//! default, the look into bodies of AI requests.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

use crate::chain::{Chain, Place, Route};
use crate::child::{Child, Start, free_address, listening};
use crate::scenario::{Hops, Protocol};

/// Above all that is open in any scenario.
const REQUESTS_MAX: u32 = 100_000;
const MODEL: &str = "bench";

/// Starts a control plane with its documents, then the sidecars.
pub(crate) async fn start(place: &Place, route: Route, dir: &Path) -> anyhow::Result<Chain> {
    let inbound = if route.hops == Hops::Two { Some(free_address()?) } else { None };
    let mut plane = start_plane(place, &documents(route, inbound), dir)?;
    let said = plane.first_line().await?;
    let mut proxies = Vec::new();
    if let Some(inbound) = inbound {
        let listener = json!({"inbound": {"listen": inbound, "applications": [
            {"endpoint": route.backend, "protocol": protocol(route.protocol)},
        ]}});
        let (server, _) = start_sidecar(place, "server", &said, listener, dir).await?;
        proxies.push(server);
    }
    let listener = json!({"outbound": {"listen": "127.0.0.1:0"}});
    let (caller, said) = start_sidecar(place, "caller", &said, listener, dir).await?;
    proxies.push(caller);
    Ok(Chain { target: listening(&said, "outbound")?, proxies, companions: vec![plane] })
}

fn start_plane(place: &Place, documents: &str, dir: &Path) -> anyhow::Result<Child> {
    let config = dir.join("documents");
    std::fs::create_dir(&config)?;
    std::fs::write(config.join("mesh.yaml"), documents)?;
    let path = |path: &Path| path.display().to_string();
    let arguments = ["--config", &path(&config), "--state-dir", &path(&dir.join("plane.state"))];
    let listeners = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let arguments: Vec<String> = arguments.iter().chain(&listeners).map(|word| (*word).to_owned()).collect();
    let program = place.programs.join("penstock-control-plane");
    let start = Start { name: "control-plane", program: &program, core: place.load_core, dir };
    Child::start(start, &arguments)
}

/// The sidecar beside `name`, and its first line.
async fn start_sidecar(
    place: &Place,
    name: &str,
    plane: &Value,
    listener: Value,
    dir: &Path,
) -> anyhow::Result<(Child, Value)> {
    let config = dir.join(format!("{name}.yaml"));
    std::fs::write(&config, sidecar_config(name, plane, listener))?;
    let program = place.programs.join("penstock-proxy");
    let start = Start { name, program: &program, core: place.proxy_core, dir };
    let mut child = Child::start(start, &["--config".to_owned(), config.display().to_string()])?;
    let said = child.first_line().await?;
    Ok((child, said))
}

fn sidecar_config(name: &str, plane: &Value, mut spec: Value) -> String {
    spec["identity"] = json!({"serviceAccount": name});
    spec["controlPlane"] = json!({
        "address": plane["listening"]["grpc"],
        "trustBundleFile": plane["trust_bundle"],
        "tokenFile": plane["join_token"],
    });
    spec["stateDir"] = json!(format!("{name}.state"));
    spec["admin"] = json!({"listen": "127.0.0.1:0"});
    let metadata = json!({"name": name, "namespace": "bench"});
    let document = json!({
        "apiVersion": "penstock.dev/v1alpha1", "kind": "ProxyConfig", "metadata": metadata, "spec": spec,
    });
    format!("{document:#}\n")
}

fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Http1 => "http",
        Protocol::Http2 => "h2c",
    }
}

/// One Backend, how it is used, a route by model and one for the rest, and what was promised.
fn documents(route: Route, sidecar: Option<SocketAddr>) -> String {
    let mut endpoint = json!({"address": route.backend.ip(), "port": route.backend.port()});
    if let Some(sidecar) = sidecar {
        endpoint["sidecar"] = json!(sidecar);
    }
    let backend = json!({"group": "penstock.dev", "kind": "Backend", "name": "bench"});
    let by_model = json!({"headers": [{"name": "x-gateway-model-name", "value": MODEL}]});
    let document = |group: &str, kind: &str, spec: Value| {
        let metadata = json!({"name": "bench", "namespace": "bench"});
        json!({"apiVersion": group, "kind": kind, "metadata": metadata, "spec": spec})
    };
    let (penstock, gateway) = ("penstock.dev/v1alpha1", "gateway.networking.k8s.io/v1");
    let documents = [
        document(
            penstock,
            "Backend",
            json!({"default": true, "protocol": protocol(route.protocol), "endpoints": [endpoint]}),
        ),
        document(
            penstock,
            "BackendPolicy",
            json!({"targetRefs": [backend], "connectionPool": {"http": {"http2MaxRequests": REQUESTS_MAX}}}),
        ),
        document(
            gateway,
            "HTTPRoute",
            json!({"parentRefs": [backend], "rules": [
                {"name": "model", "matches": [by_model], "backendRefs": [backend]},
                {"name": "rest", "backendRefs": [backend]},
            ]}),
        ),
        document(
            penstock,
            "LatencySLO",
            json!({
                "targetRefs": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "bench"}],
                "objectives": [
                    {"name": "first-token", "indicator": "TTFT", "threshold": "500ms", "target": "95"},
                    {"name": "token-pace", "indicator": "TPOT", "threshold": "25ms", "target": "99"},
                ],
            }),
        ),
    ];
    documents.iter().map(|document| format!("---\n{document:#}\n")).collect()
}
