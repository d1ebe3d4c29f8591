//! The settings of the process: flags, each with an environment variable.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use penstock_model::spiffe::SpiffeId;
use penstock_model::units::Span;
use tracing_subscriber::EnvFilter;

/// The Penstock control plane: compiles documents, pushes snapshots to sidecars, issues identities.
#[derive(Clone, Debug, Parser)]
#[command(name = "penstock-control-plane", version)]
pub struct Flags {
    /// File or directory with documents; a directory is read recursively (*.yaml, *.yml) and watched
    #[arg(long, value_name = "PATH", env = "PENSTOCK_CONFIG")]
    pub config: PathBuf,

    /// Directory for the authority's key and root, the join token and the last good documents
    #[arg(long, value_name = "DIR", env = "PENSTOCK_STATE_DIR")]
    pub state_dir: PathBuf,

    /// Address for sidecars: push and certificates, gRPC over TLS; port 0 lets the system choose
    #[arg(long, value_name = "IP:PORT", env = "PENSTOCK_LISTEN", default_value_t = loopback(8746))]
    pub listen: SocketAddr,

    /// Address for operators: status, metrics and probes, plain HTTP; port 0 lets the system choose
    #[arg(long, value_name = "IP:PORT", env = "PENSTOCK_ADMIN", default_value_t = loopback(8084))]
    pub admin: SocketAddr,

    /// Trust domain of the mesh
    #[arg(
        long,
        value_name = "NAME",
        env = "PENSTOCK_TRUST_DOMAIN",
        default_value = "cluster.local",
        value_parser = trust_domain
    )]
    pub trust_domain: String,

    /// Longest life of a certificate, from 2s to 2160h
    #[arg(
        long,
        value_name = "DURATION",
        env = "PENSTOCK_LEAF_TTL",
        default_value = "24h",
        value_parser = leaf_ttl
    )]
    pub leaf_ttl: Duration,

    /// File with the join token; made where it does not exist [default: join-token in the state directory]
    #[arg(long, value_name = "FILE", env = "PENSTOCK_JOIN_TOKEN_FILE")]
    pub join_token_file: Option<PathBuf>,

    /// Form of the log on stderr
    #[arg(long, value_name = "FORM", env = "PENSTOCK_LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,

    /// Which events are logged, such as `info` or `penstock_control_plane=debug`
    #[arg(long, value_name = "FILTER", env = "PENSTOCK_LOG_LEVEL", default_value = "info", value_parser = log_filter)]
    pub log_level: String,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Flags {
    /// The file with the join token.
    pub(crate) fn join_token_path(&self) -> PathBuf {
        self.join_token_file.clone().unwrap_or_else(|| self.state_dir.join("join-token"))
    }
}

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

fn trust_domain(text: &str) -> Result<String, String> {
    match format!("spiffe://{text}").parse::<SpiffeId>() {
        Ok(id) if id.trust_domain() == text => Ok(text.to_owned()),
        Ok(_) => Err("a trust domain has no path".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn log_filter(text: &str) -> Result<String, String> {
    EnvFilter::try_new(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// X.509 counts whole seconds, so a shorter leaf might end before it is used; 90 days is the longest that people replace by
/// machine rather than by hand.
fn leaf_ttl(text: &str) -> Result<Duration, String> {
    let range = Duration::from_secs(2)..=Duration::from_secs(90 * 24 * 3_600);
    let ttl = text.parse::<Span>().map_err(|error| error.to_string())?.duration();
    if range.contains(&ttl) { Ok(ttl) } else { Err("it must be from 2s to 2160h".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(more: &[&str]) -> Result<Flags, clap::Error> {
        let needed = ["penstock-control-plane", "--config", "routes", "--state-dir", "state"];
        Flags::try_parse_from(needed.iter().chain(more))
    }

    #[test]
    fn defaults_are_those_of_the_manual() {
        let flags = parse(&[]).unwrap();
        assert_eq!(flags.listen, loopback(8746));
        assert_eq!(flags.admin, loopback(8084));
        assert_eq!(flags.trust_domain, "cluster.local");
        assert_eq!(flags.leaf_ttl, Duration::from_secs(86_400));
        assert_eq!(flags.join_token_path(), PathBuf::from("state/join-token"));
    }

    #[test]
    fn values_outside_their_range_are_refused() {
        for (flag, value) in [
            ("--leaf-ttl", "1s"),
            ("--leaf-ttl", "2161h"),
            ("--leaf-ttl", "1d"),
            ("--trust-domain", "Cluster"),
            ("--trust-domain", "a/b"),
            ("--trust-domain", ""),
            ("--listen", "localhost:1"),
            ("--log-format", "xml"),
            ("--log-level", "info,=x=y"),
        ] {
            assert!(parse(&[flag, value]).is_err(), "{flag} {value}");
        }
        assert_eq!(parse(&["--leaf-ttl", "2s"]).unwrap().leaf_ttl, Duration::from_secs(2));
    }
}
