//! Other proxies, as `make peers` gets them, in front of an application of the test: what we pass on is read by them.
//!
//! They listen on sockets in the file system, so that no port has to be guessed.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::{fmt, fs};

use std::net::SocketAddr;

use tokio::net::UnixStream;

use crate::programs::tail;
use crate::skip::skip;
use crate::wait::eventually;

/// Which proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// nginx.
    Nginx,
    /// HAProxy.
    HaProxy,
    /// Envoy.
    Envoy,
}

impl Kind {
    /// All, for tables.
    pub const ALL: [Self; 3] = [Self::Nginx, Self::HaProxy, Self::Envoy];

    /// The program's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::HaProxy => "haproxy",
            Self::Envoy => "envoy",
        }
    }

    /// The program in the folder of `PENSTOCK_PEERS`, or where `make peers` puts it; else the test is skipped.
    pub fn program(self) -> Option<PathBuf> {
        let made = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/peers/bin");
        let program = std::env::var_os("PENSTOCK_PEERS").map_or(made, PathBuf::from).join(self.name());
        if program.exists() {
            return Some(program);
        }
        skip(&format!("{} (make peers)", self.name()));
        None
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A running peer. Dropping it kills it.
#[derive(Debug)]
pub struct Peer {
    /// Which one.
    pub kind: Kind,
    socket: PathBuf,
    log: PathBuf,
    child: Child,
}

impl Peer {
    /// Starts one that passes HTTP/1.1 on to `application`, with its files in `dir`.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start(kind: Kind, dir: &Path, application: SocketAddr) -> Option<Self> {
        let program = kind.program()?;
        let dir = dir.join(kind.name());
        fs::create_dir(&dir).expect("a folder of its own");
        let (socket, log) = (dir.join("socket"), dir.join("log"));
        let (name, text) = match kind {
            Kind::Nginx => ("nginx.conf", nginx(&dir, &socket, application)),
            Kind::HaProxy => ("haproxy.cfg", haproxy(&socket, application)),
            Kind::Envoy => ("envoy.json", envoy(&socket, application)),
        };
        let config = dir.join(name);
        fs::write(&config, text).expect("its configuration");
        let mut command = Command::new(program);
        match kind {
            Kind::Nginx => command.arg("-p").arg(&dir).arg("-e").arg(&log).arg("-c").arg(&config),
            Kind::HaProxy => command.arg("-f").arg(&config),
            Kind::Envoy => command
                .args(["--disable-hot-restart", "--concurrency", "1", "--log-level", "error", "-c"])
                .arg(&config),
        };
        let output = fs::File::create(&log).expect("a log");
        let errors = output.try_clone().expect("a log");
        let child = command.current_dir(&dir).stdin(Stdio::null()).stdout(output).stderr(errors).spawn();
        let child = child.unwrap_or_else(|error| panic!("{kind} cannot be started: {error}"));
        let mut peer = Self { kind, socket, log, child };
        eventually(&format!("{kind} listens"), async || {
            let ended = peer.child.try_wait().expect("the state of a program");
            assert!(ended.is_none(), "{kind} has ended with {ended:?}: {}", peer.log());
            UnixStream::connect(&peer.socket).await.map_err(|error| error.to_string())
        })
        .await;
        Some(peer)
    }

    /// A connection to it.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.socket).await.unwrap_or_else(|error| panic!("{}: {error}", self.kind))
    }

    fn log(&self) -> String {
        tail(&fs::read_to_string(&self.log).unwrap_or_default())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            eprintln!("--- {} wrote:\n{}", self.kind, self.log());
        }
    }
}

fn nginx(dir: &Path, socket: &Path, application: SocketAddr) -> String {
    let (dir, socket) = (dir.display(), socket.display());
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("  {name}_temp_path {dir}/{name};\n"))
        .concat();
    format!(
        "daemon off;\nmaster_process off;\npid {dir}/pid;\nevents {{}}\nhttp {{\n  access_log off;\n{temporary}  \
         client_header_timeout 2s;\n  client_body_timeout 2s;\n  large_client_header_buffers 4 64k;\n  server {{\n    listen \
         unix:{socket};\n    location / {{\n      proxy_pass http://{application};\n      proxy_http_version 1.1;\n      \
         proxy_set_header Host $http_host;\n      proxy_set_header Connection \"\";\n    }}\n  }}\n}}\n"
    )
}

fn haproxy(socket: &Path, application: SocketAddr) -> String {
    format!(
        "global\n  tune.bufsize 131072\ndefaults\n  mode http\n  timeout client 2s\n  timeout server 2s\n  timeout connect 2s\n  \
         timeout http-request 2s\nfrontend in\n  bind unix@{}\n  default_backend out\nbackend out\n  server app {application}\n",
        socket.display()
    )
}

fn envoy(socket: &Path, application: SocketAddr) -> String {
    let address = |address: SocketAddr| serde_json::json!({"socket_address": {"address": address.ip(), "port_value": address.port()}});
    let manager = serde_json::json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in", "codec_type": "HTTP1", "stream_idle_timeout": "2s", "request_headers_timeout": "2s",
        "http_protocol_options": {"accept_http_10": true},
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"],
            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "app"}}]}]},
        "http_filters": [{"name": "router", "typed_config":
            {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
    });
    let config = serde_json::json!({"static_resources": {
        "listeners": [{"name": "in", "address": {"pipe": {"path": socket}},
            "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}]}],
        "clusters": [{"name": "app", "connect_timeout": "2s", "load_assignment": {"cluster_name": "app",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(application)}}]}]}}],
    }});
    format!("{config:#}")
}
