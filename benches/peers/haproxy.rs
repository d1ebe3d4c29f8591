//! HAProxy: one frontend, one backend, one thread. It checks certificates by their root alone.

use std::path::Path;

use crate::chain::{Leg, Side};
use penstock_benches::route::Protocol;

pub(crate) fn arguments(config: &Path) -> Vec<String> {
    ["-db", "-q", "-f", &config.display().to_string()].map(str::to_owned).into()
}

pub(crate) fn config(leg: &Leg<'_>) -> String {
    let (listen, next) = (leg.listen, leg.next);
    let bind = match leg.from {
        Side::Plain(Protocol::Http1) => String::new(),
        Side::Plain(Protocol::Http2) => "proto h2".to_owned(),
        Side::Mutual(own, _) => format!(
            "ssl crt {} ca-file {} verify required alpn h2 ssl-min-ver TLSv1.3",
            own.both.display(),
            own.root.display()
        ),
    };
    let server = match leg.to {
        Side::Plain(Protocol::Http1) => String::new(),
        Side::Plain(Protocol::Http2) => "proto h2".to_owned(),
        Side::Mutual(own, _) => format!(
            "ssl crt {} ca-file {} verify required alpn h2 ssl-min-ver TLSv1.3",
            own.both.display(),
            own.root.display()
        ),
    };
    format!(
        "global
    nbthread 1
    maxconn 9500
defaults
    mode http
    timeout connect 5s
    timeout client 1h
    timeout server 1h
frontend front
    bind {listen} {bind}
    default_backend next
backend next
    http-reuse always
    server next {next} {server}
"
    )
}
