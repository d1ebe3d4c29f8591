//! nginx: one server, one upstream, one process. It speaks HTTP/2 to an upstream by `grpc_pass` alone, with one stream on
//! each connection, and checks certificates by their root and a DNS name.

use std::path::Path;

use crate::certs::NAME;
use crate::chain::{Leg, Side};
use penstock_benches::route::Protocol;

/// Where nginx would like to write.
const TEMPORARY: [&str; 5] = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];

pub(crate) fn arguments(config: &Path, dir: &Path) -> Vec<String> {
    let path = |path: &Path| path.display().to_string();
    ["-e", "stderr", "-p", &path(dir), "-c", &path(config)].map(str::to_owned).into()
}

pub(crate) fn config(leg: &Leg<'_>, dir: &Path, name: &str) -> String {
    let (listen, next, pid) = (leg.listen, leg.next, dir.join(format!("{name}.pid")));
    let temporary: String = TEMPORARY
        .iter()
        .map(|kind| format!("    {kind}_temp_path {};\n", dir.join(format!("{name}.{kind}")).display()))
        .collect();
    let front = match leg.from {
        Side::Plain(Protocol::Http1) => format!("listen {listen};"),
        Side::Plain(Protocol::Http2) => format!("listen {listen} http2;"),
        Side::Mutual(own, _) => format!(
            "listen {listen} ssl http2;
        ssl_protocols TLSv1.3;
        ssl_certificate {};
        ssl_certificate_key {};
        ssl_client_certificate {};
        ssl_verify_client on;",
            own.certificate.display(),
            own.key.display(),
            own.root.display()
        ),
    };
    let pass = match leg.to {
        Side::Plain(Protocol::Http1) => "proxy_pass http://next;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_set_header Host $http_host;
            proxy_buffering off;
            proxy_read_timeout 1h;"
            .to_owned(),
        Side::Plain(Protocol::Http2) => {
            "grpc_pass grpc://next;\n            grpc_read_timeout 1h;".to_owned()
        }
        Side::Mutual(own, _) => format!(
            "grpc_pass grpcs://next;
            grpc_read_timeout 1h;
            grpc_ssl_protocols TLSv1.3;
            grpc_ssl_certificate {};
            grpc_ssl_certificate_key {};
            grpc_ssl_trusted_certificate {};
            grpc_ssl_verify on;
            grpc_ssl_name {NAME};",
            own.certificate.display(),
            own.key.display(),
            own.root.display()
        ),
    };
    format!(
        "daemon off;
master_process off;
worker_processes 1;
pid {};
error_log stderr error;
events {{ worker_connections 19000; }}
http {{
    access_log off;
{temporary}    keepalive_requests 1000000000;
    upstream next {{
        server {next};
        keepalive 1024;
        keepalive_requests 1000000000;
    }}
    server {{
        {front}
        location / {{
            {pass}
        }}
    }}
}}
",
        pid.display()
    )
}
