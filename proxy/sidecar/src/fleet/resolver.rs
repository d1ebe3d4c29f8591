//! The DNS, as hickory-resolver speaks it: UDP, and TCP where an answer is too long; no cache, since what is asked is asked when it is
//! due.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures::future::BoxFuture;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::system_conf::read_system_conf;
use penstock_model::settings::Dns;
use tokio::time::timeout;

use super::names::{Addresses, Family, Resolve};

/// How long "there is nothing" holds where the answer does not say.
const NOTHING_TTL: Duration = Duration::from_secs(5);
/// Each server is asked so often.
const ATTEMPTS: usize = 2;
/// Whatever the resolver does, a look-up is over after so many times its timeout.
const PATIENCE: u32 = 8;

/// Asks the servers of the settings, or those of the system.
#[derive(Clone, Debug)]
struct Resolver {
    v4: Asker,
    v6: Asker,
    timeout: Duration,
}

/// Asks for one family of addresses.
#[derive(Clone)]
struct Asker(TokioResolver);

impl std::fmt::Debug for Asker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Asker")
    }
}

/// By the settings. Where they are unusable, every look-up says so: only Backends with names are concerned.
pub fn of(settings: &Dns) -> Arc<dyn Resolve> {
    match Resolver::new(settings) {
        Ok(resolver) => Arc::new(resolver),
        Err(error) => Arc::new(Nobody(format!("{error:#}"))),
    }
}

/// There is nobody to ask, for this reason.
#[derive(Clone, Debug)]
struct Nobody(String);

impl Resolve for Nobody {
    fn look_up(&self, _name: Arc<str>, _family: Family) -> BoxFuture<'static, Result<Addresses, String>> {
        Box::pin(std::future::ready(Err(self.0.clone())))
    }
}

impl Resolver {
    fn new(settings: &Dns) -> anyhow::Result<Self> {
        let (config, mut options) = if settings.servers.is_empty() {
            read_system_conf().context("/etc/resolv.conf cannot be used; name servers in `dns.servers`")?
        } else {
            let servers = settings.servers.iter().map(|server| {
                let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
                for connection in &mut connections {
                    connection.port = server.port();
                }
                NameServerConfig::new(server.ip(), true, connections)
            });
            let mut options = ResolverOpts::default();
            options.use_hosts_file = ResolveHosts::Never;
            (ResolverConfig::from_parts(None, Vec::new(), servers.collect()), options)
        };
        options.timeout = settings.timeout;
        options.attempts = ATTEMPTS;
        options.cache_size = 0;
        let asker = |strategy| -> anyhow::Result<Asker> {
            let provider = TokioRuntimeProvider::default();
            let mut builder = TokioResolver::builder_with_config(config.clone(), provider);
            *builder.options_mut() = options.clone();
            builder.options_mut().ip_strategy = strategy;
            Ok(Asker(builder.build()?))
        };
        Ok(Self {
            v4: asker(LookupIpStrategy::Ipv4Only)?,
            v6: asker(LookupIpStrategy::Ipv6Only)?,
            timeout: settings.timeout,
        })
    }
}

impl Resolve for Resolver {
    fn look_up(&self, name: Arc<str>, family: Family) -> BoxFuture<'static, Result<Addresses, String>> {
        let Asker(resolver) = match family {
            Family::V4 => self.v4.clone(),
            Family::V6 => self.v6.clone(),
        };
        let patience = self.timeout * PATIENCE;
        Box::pin(async move {
            let looked_up = timeout(patience, resolver.lookup_ip(&*name)).await;
            match looked_up.map_err(|_| format!("no answer within {patience:?}"))? {
                Ok(found) => {
                    let addresses = found.iter().filter(|address| is_one_machine(*address)).collect();
                    let ttls = found.as_lookup().answers().iter().map(|record| record.ttl);
                    Ok((addresses, Duration::from_secs(ttls.min().unwrap_or_default().into())))
                }
                Err(error) => nothing(&error).ok_or_else(|| error.to_string()),
            }
        })
    }
}

/// How long "there is nothing" holds, if that is what was answered.
fn nothing(error: &NetError) -> Option<Addresses> {
    let NetError::Dns(DnsError::NoRecordsFound(answer)) = error else { return None };
    if !matches!(answer.response_code, ResponseCode::NoError | ResponseCode::NXDomain) {
        return None;
    }
    let ttl = answer.negative_ttl.map_or(NOTHING_TTL, |seconds| Duration::from_secs(seconds.into()));
    Some((BTreeSet::new(), ttl))
}

/// Neither a wildcard, which would be this machine, nor a group.
fn is_one_machine(address: IpAddr) -> bool {
    let is_broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !(address.is_unspecified() || address.is_multicast() || is_broadcast)
}
