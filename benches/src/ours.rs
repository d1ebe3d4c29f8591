//! Ours, with everything on: a control plane that gives routes, a promise and identities; metrics, the access log at its
//! default, the look into bodies of AI requests.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

use crate::child::{Child, Start, free_address, listening};
use crate::place::Place;
use crate::route::{Hops, Protocol};

/// Above all that is open in any load.
const REQUESTS_MAX: u32 = 100_000;
const MODEL: &str = "bench";
/// Of all documents and identities.
pub const NAMESPACE: &str = "bench";

/// Where requests go in the end.
#[derive(Clone, Copy, Debug)]
pub struct Application {
    /// Of its Backend: requests with the authority `NAME.bench` go there.
    pub name: &'static str,
    /// What it speaks.
    pub protocol: Protocol,
    /// Where it listens.
    pub at: SocketAddr,
}

/// A sidecar that runs.
#[derive(Debug)]
pub struct Sidecar {
    /// The process.
    pub process: Child,
    /// Where its pages are.
    pub admin: SocketAddr,
}

/// What runs.
#[derive(Debug)]
pub struct Ours {
    /// Where requests go.
    pub target: SocketAddr,
    /// The caller's, and before it the server's where there are two.
    pub sidecars: Vec<Sidecar>,
    /// The control plane.
    pub plane: Child,
}

/// Starts a control plane with its documents, then the sidecars. What names no application goes to the first.
///
/// # Errors
/// When a program does not start.
pub async fn start(
    place: &Place,
    hops: Hops,
    applications: &[Application],
    dir: &Path,
) -> anyhow::Result<Ours> {
    let inbound = if hops == Hops::Two { Some(free_address()?) } else { None };
    let mut plane = start_plane(place, &documents(applications, inbound), dir)?;
    let told = plane.first_line().await?;
    let mut sidecars = Vec::new();
    if let Some(inbound) = inbound {
        let served: Vec<Value> = applications
            .iter()
            .map(|application| {
                let protocol = protocol(application.protocol);
                // As peers do, it asks the application nothing but what it passes on.
                json!({"endpoint": application.at, "protocol": protocol, "metrics": {"scrape": false}})
            })
            .collect();
        let listener = json!({"inbound": {"listen": inbound, "applications": served}});
        let (server, _) = start_sidecar((place, place.proxy_core), "server", &told, listener, dir).await?;
        sidecars.push(server);
    }
    let listener = json!({"outbound": {"listen": "127.0.0.1:0"}});
    let (caller, said) = start_sidecar((place, place.proxy_core), "caller", &told, listener, dir).await?;
    sidecars.push(caller);
    Ok(Ours { target: listening(&said, "outbound")?, sidecars, plane })
}

/// Starts a control plane with these documents; its first line says where it is.
///
/// # Errors
/// When it cannot be started.
pub fn start_plane(place: &Place, documents: &str, dir: &Path) -> anyhow::Result<Child> {
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

/// The sidecar beside `name` on a core, and its first line. `plane` is the control plane's first line, `listener` what a ProxyConfig has.
///
/// # Errors
/// When it does not start.
pub async fn start_sidecar(
    (place, core): (&Place, usize),
    name: &str,
    plane: &Value,
    listener: Value,
    dir: &Path,
) -> anyhow::Result<(Sidecar, Value)> {
    // As in a pod, a directory of its own: it is watched.
    let own = dir.join(name);
    std::fs::create_dir(&own)?;
    let config = own.join("proxy.yaml");
    std::fs::write(&config, sidecar_config(name, plane, listener))?;
    let program = place.programs.join("penstock-proxy");
    let start = Start { name, program: &program, core, dir };
    let mut process = Child::start(start, &["--config".to_owned(), config.display().to_string()])?;
    let said = process.first_line().await?;
    Ok((Sidecar { process, admin: listening(&said, "admin")? }, said))
}

fn sidecar_config(name: &str, plane: &Value, mut spec: Value) -> String {
    spec["identity"] = json!({"serviceAccount": name});
    spec["controlPlane"] = json!({
        "address": plane["listening"]["grpc"],
        "trustBundleFile": plane["trust_bundle"],
        "tokenFile": plane["join_token"],
    });
    spec["stateDir"] = json!("state");
    spec["admin"] = json!({"listen": "127.0.0.1:0"});
    let metadata = json!({"name": name, "namespace": NAMESPACE});
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

/// For each application a Backend, how it is used, a route by model and one for the rest, and what was promised.
fn documents(applications: &[Application], sidecar: Option<SocketAddr>) -> String {
    let of = |(number, application)| of_application(application, number == 0, sidecar);
    let documents = applications.iter().enumerate().flat_map(of);
    documents.map(|document| format!("---\n{document:#}\n")).collect()
}

fn of_application(application: &Application, is_default: bool, sidecar: Option<SocketAddr>) -> [Value; 4] {
    let name = application.name;
    let mut endpoint = json!({"address": application.at.ip(), "port": application.at.port()});
    if let Some(sidecar) = sidecar {
        endpoint["sidecar"] = json!(sidecar);
    }
    let backend = json!({"group": "penstock.dev", "kind": "Backend", "name": name});
    let by_model = json!({"headers": [{"name": "x-gateway-model-name", "value": MODEL}]});
    let document = |group: &str, kind: &str, spec: Value| {
        let metadata = json!({"name": name, "namespace": NAMESPACE});
        json!({"apiVersion": group, "kind": kind, "metadata": metadata, "spec": spec})
    };
    let (penstock, gateway) = ("penstock.dev/v1alpha1", "gateway.networking.k8s.io/v1");
    let spoken = protocol(application.protocol);
    [
        document(
            penstock,
            "Backend",
            json!({"default": is_default, "protocol": spoken, "endpoints": [endpoint]}),
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
                "targetRefs": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": name}],
                "objectives": [
                    {"name": "first-token", "indicator": "TTFT", "threshold": "500ms", "target": "95"},
                    {"name": "token-pace", "indicator": "TPOT", "threshold": "25ms", "target": "99"},
                ],
            }),
        ),
    ]
}
