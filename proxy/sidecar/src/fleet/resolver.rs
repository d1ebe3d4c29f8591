//! The DNS, as hickory-resolver speaks it: UDP, and TCP where an answer is too long; no cache, since what is asked is asked when it is
//! due.
//!
//! Search domains are gone through here. The library's own search gives the last domain's answer, so that a name whose server has
//! failed would not exist as soon as the next domain says that *it* has no such name; here a failure on the way is a failure.
//!
//! Left out of an answer are addresses that are no machine's, and those that this machine has no route to: where there is no IPv6,
//! half of the endpoints of a name that has both would cost a request its first attempt.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
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
use hickory_resolver::proto::rr::Name;
use hickory_resolver::system_conf::read_system_conf;
use penstock_model::settings::Dns;
use tokio::time::timeout;

use super::names::{Addresses, Family, Resolve};

/// How long "there is nothing" holds where the answer does not say.
const NOTHING_TTL: Duration = Duration::from_secs(5);
/// Each server is asked so often.
const ATTEMPTS: usize = 2;
/// Any port would do.
const DISCARD_PORT: u16 = 9;
/// Whatever the resolver does, a look-up is over after so many times its timeout.
const PATIENCE: u32 = 8;

/// Asks the servers of the settings, or those of the system.
#[derive(Clone, Debug)]
struct Resolver {
    v4: Asker,
    v6: Asker,
    timeout: Duration,
    search: Arc<Search>,
}

/// Which names are asked for in place of one that is written without its last dot; as in `resolv.conf`.
#[derive(Debug)]
struct Search {
    domains: Vec<Name>,
    /// A name with fewer dots is asked for with the domains first.
    dots: usize,
}

impl Search {
    fn names(&self, written: &str) -> Result<Vec<Name>, String> {
        let mut name = Name::from_utf8(written).map_err(|error| error.to_string())?;
        let below = self.domains.iter().filter_map(|domain| name.clone().append_domain(domain).ok());
        let mut names: Vec<Name> = below.collect();
        let is_long = usize::from(name.num_labels()) > self.dots;
        name.set_fqdn(true);
        names.insert(if is_long { 0 } else { names.len() }, name);
        Ok(names)
    }
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
    let resolver = chosen(settings).and_then(|(config, options)| asking(&config, options, settings.timeout));
    resolver.unwrap_or_else(|error| Arc::new(Nobody(format!("{error:#}"))))
}

/// Asks the servers of `config`, with its search domains, each for so long.
///
/// # Errors
/// When the library wants no part of them.
pub fn asking(
    config: &ResolverConfig,
    mut options: ResolverOpts,
    timeout: Duration,
) -> anyhow::Result<Arc<dyn Resolve>> {
    let search = Arc::new(Search { domains: config.search().to_vec(), dots: options.ndots });
    options.timeout = timeout;
    options.attempts = ATTEMPTS;
    options.cache_size = 0;
    let asker = |strategy| -> anyhow::Result<Asker> {
        let provider = TokioRuntimeProvider::default();
        let mut builder = TokioResolver::builder_with_config(config.clone(), provider);
        *builder.options_mut() = options.clone();
        builder.options_mut().ip_strategy = strategy;
        Ok(Asker(builder.build()?))
    };
    let (v4, v6) = (asker(LookupIpStrategy::Ipv4Only)?, asker(LookupIpStrategy::Ipv6Only)?);
    Ok(Arc::new(Resolver { v4, v6, timeout, search }))
}

/// Those of the settings, or of the system with its `hosts` file.
fn chosen(settings: &Dns) -> anyhow::Result<(ResolverConfig, ResolverOpts)> {
    if settings.servers.is_empty() {
        let system = read_system_conf();
        return system.context("/etc/resolv.conf cannot be used; name servers in `dns.servers`");
    }
    let servers = settings.servers.iter().map(|server| {
        let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
        for connection in &mut connections {
            connection.port = server.port();
        }
        NameServerConfig::new(server.ip(), true, connections)
    });
    let mut options = ResolverOpts::default();
    options.use_hosts_file = ResolveHosts::Never;
    Ok((ResolverConfig::from_parts(None, Vec::new(), servers.collect()), options))
}

/// There is nobody to ask, for this reason.
#[derive(Clone, Debug)]
struct Nobody(String);

impl Resolve for Nobody {
    fn look_up(&self, _name: Arc<str>, _family: Family) -> BoxFuture<'static, Result<Addresses, String>> {
        Box::pin(std::future::ready(Err(self.0.clone())))
    }
}

impl Resolve for Resolver {
    fn look_up(&self, name: Arc<str>, family: Family) -> BoxFuture<'static, Result<Addresses, String>> {
        let asker = match family {
            Family::V4 => self.v4.clone(),
            Family::V6 => self.v6.clone(),
        };
        let patience = self.timeout * PATIENCE;
        let search = Arc::clone(&self.search);
        Box::pin(async move {
            let names = search.names(&name)?;
            let found = timeout(patience, asker.first_of(names)).await;
            found.unwrap_or_else(|_| Err(format!("no answer within {patience:?}")))
        })
    }
}

impl Asker {
    /// The first of these names that has addresses. That there are none is only known if nobody failed to say so.
    async fn first_of(&self, names: Vec<Name>) -> Result<Addresses, String> {
        let mut failed = None;
        let mut nothing_ttl = Duration::MAX;
        for name in names {
            match self.ask(name).await {
                Ok((addresses, ttl)) if addresses.is_empty() => nothing_ttl = nothing_ttl.min(ttl),
                Ok(found) => return Ok(found),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok((BTreeSet::new(), nothing_ttl)), Err)
    }

    async fn ask(&self, name: Name) -> Result<Addresses, String> {
        match self.0.lookup_ip(name).await {
            Ok(found) => {
                let addresses =
                    found.iter().filter(|address| is_one_machine(*address) && has_route(*address));
                let ttls = found.as_lookup().answers().iter().map(|record| record.ttl);
                Ok((addresses.collect(), Duration::from_secs(ttls.min().unwrap_or_default().into())))
            }
            Err(error) => nothing(&error).ok_or_else(|| error.to_string()),
        }
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

/// Whether this machine has a way there at all. Connecting a datagram socket asks the kernel and sends nothing.
fn has_route(address: IpAddr) -> bool {
    let here: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    UdpSocket::bind((here, 0)).and_then(|socket| socket.connect((address, DISCARD_PORT))).is_ok()
}
