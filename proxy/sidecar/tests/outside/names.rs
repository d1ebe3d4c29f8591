//! Names: what a server of names says is where requests go.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, CNAME, SOA};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use parking_lot::Mutex;
use penstock_model::settings::Dns;
use penstock_proxy::fleet::names::{Family, Resolve};
use penstock_proxy::fleet::resolver;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

use crate::sidecar::Sidecar;
use crate::{answer, head, spawn};

/// How long the server's "there is no such thing" holds.
const NOTHING_TTL_S: u32 = 7;

/// A server of names that says what it is told to; a name that it does not know does not exist.
#[derive(Clone, Default)]
struct Names(Arc<Mutex<BTreeMap<String, Said>>>);

/// What is said of a name.
#[derive(Clone)]
enum Said {
    Addresses {
        ttl_s: u32,
        addresses: Vec<IpAddr>,
    },
    /// What is said of the other name, told by way of it.
    Alias {
        ttl_s: u32,
        to: &'static str,
    },
    /// The same as `Addresses`, over TCP; over UDP that it is too long.
    Long {
        addresses: Vec<IpAddr>,
    },
    Code(ResponseCode),
    Silence,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Over {
    Udp,
    Tcp,
}

/// Addresses that hold for no time at all.
fn addresses(texts: &[&str]) -> Said {
    Said::Addresses { ttl_s: 0, addresses: parsed(texts) }
}

fn parsed(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

impl Names {
    async fn serve(&self) -> SocketAddr {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            // The port may be taken for TCP.
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().unwrap();
        let names = self.clone();
        spawn(async move {
            let mut bytes = [0; 4096];
            while let Ok((length, from)) = udp.recv_from(&mut bytes).await {
                if let Some(answer) = names.answer(&bytes[..length], Over::Udp) {
                    udp.send_to(&answer, from).await.unwrap();
                }
            }
        });
        let names = self.clone();
        spawn(async move {
            while let Ok((mut stream, _)) = tcp.accept().await {
                let names = names.clone();
                spawn(async move {
                    while let Ok(length) = stream.read_u16().await {
                        let mut bytes = vec![0; usize::from(length)];
                        stream.read_exact(&mut bytes).await.unwrap();
                        let Some(answer) = names.answer(&bytes, Over::Tcp) else { continue };
                        stream.write_u16(u16::try_from(answer.len()).unwrap()).await.unwrap();
                        stream.write_all(&answer).await.unwrap();
                    }
                });
            }
        });
        address
    }

    fn set(&self, name: &str, said: Said) {
        self.0.lock().insert(format!("{name}."), said);
    }

    fn answer(&self, query: &[u8], over: Over) -> Option<Vec<u8>> {
        let query = Message::from_vec(query).unwrap();
        let question = query.queries[0].clone();
        let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
        answer.metadata.recursion_available = true;
        answer.add_query(question.clone());
        let mut name = question.name().clone();
        let mut said = self.said(&name);
        if let Some(Said::Alias { ttl_s, to }) = said {
            let to = Name::from_ascii(to).unwrap();
            answer.add_answer(Record::from_rdata(name, ttl_s, RData::CNAME(CNAME(to.clone()))));
            said = self.said(&to);
            name = to;
        }
        match said {
            Some(Said::Silence) => return None,
            Some(Said::Code(code)) => answer.metadata.response_code = code,
            Some(Said::Long { .. }) if over == Over::Udp => answer.metadata.truncation = true,
            Some(Said::Long { addresses }) => add(&mut answer, &name, question.query_type(), 30, &addresses),
            Some(Said::Addresses { ttl_s, addresses }) => {
                add(&mut answer, &name, question.query_type(), ttl_s, &addresses);
            }
            Some(Said::Alias { .. }) | None => answer.metadata.response_code = ResponseCode::NXDomain,
        }
        if answer.answers.is_empty() && !answer.metadata.truncation {
            let root = Name::root();
            let soa = SOA::new(root.clone(), root.clone(), 1, 60, 60, 60, NOTHING_TTL_S);
            answer.add_authority(Record::from_rdata(root, NOTHING_TTL_S, RData::SOA(soa)));
        }
        Some(answer.to_vec().unwrap())
    }

    fn said(&self, name: &Name) -> Option<Said> {
        self.0.lock().get(&name.to_string()).cloned()
    }
}

fn add(answer: &mut Message, name: &Name, asked: RecordType, ttl_s: u32, addresses: &[IpAddr]) {
    for address in addresses {
        let data = match (address, asked) {
            (IpAddr::V4(v4), RecordType::A) => RData::A(A(*v4)),
            (IpAddr::V6(v6), RecordType::AAAA) => RData::AAAA(AAAA(*v6)),
            _ => continue,
        };
        answer.add_answer(Record::from_rdata(name.clone(), ttl_s, data));
    }
}

/// What is found: addresses in order and the time to live in seconds.
async fn looked_up(
    resolver: &Arc<dyn Resolve>,
    name: &str,
    family: Family,
) -> Result<(Vec<IpAddr>, u64), String> {
    let (addresses, ttl) = resolver.look_up(name.into(), family).await?;
    Ok((addresses.into_iter().collect(), ttl.as_secs()))
}

#[tokio::test]
async fn an_answer_s_addresses_and_its_time_to_live_are_taken_as_they_are_said() {
    let names = Names::default();
    let many: Vec<String> = (1..=60).map(|last| format!("127.0.1.{last}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let nothing_ttl_s = u64::from(NOTHING_TTL_S);
    let both = || Said::Addresses { ttl_s: 30, addresses: parsed(&["127.0.0.2", "127.0.0.1", "::1"]) };
    let strange = ["0.0.0.0", "224.0.0.1", "255.255.255.255", "127.0.0.3", "::", "ff02::1", "fe80::1", "::1"];
    names.set("target.example", both());
    let server = names.serve().await;
    let settings = Dns { servers: vec![server], timeout: Duration::from_millis(500), ..Dns::default() };
    let resolver = resolver::of(&settings);
    for (case, said, v4, v6) in [
        ("both", Some(both()), Ok((&["127.0.0.1", "127.0.0.2"][..], 30)), Ok((&["::1"][..], 30))),
        (
            "alias",
            Some(Said::Alias { ttl_s: 3, to: "target.example." }),
            Ok((&["127.0.0.1", "127.0.0.2"], 3)),
            Ok((&["::1"], 3)),
        ),
        ("one", Some(addresses(&["127.0.0.1"])), Ok((&["127.0.0.1"], 0)), Ok((&[], nothing_ttl_s))),
        ("none", Some(addresses(&[])), Ok((&[], nothing_ttl_s)), Ok((&[], nothing_ttl_s))),
        ("unknown", None, Ok((&[], nothing_ttl_s)), Ok((&[], nothing_ttl_s))),
        (
            "long",
            Some(Said::Long { addresses: parsed(&many) }),
            Ok((&many[..], 30)),
            Ok((&[], nothing_ttl_s)),
        ),
        // Nobody can be reached at these, from here.
        ("strange", Some(addresses(&strange)), Ok((&["127.0.0.3"], 0)), Ok((&["::1"], 0))),
        ("failing", Some(Said::Code(ResponseCode::ServFail)), Err(()), Err(())),
        ("refusing", Some(Said::Code(ResponseCode::Refused)), Err(()), Err(())),
        ("silent", Some(Said::Silence), Err(()), Err(())),
    ] {
        let name = format!("{case}.example");
        if let Some(said) = said {
            names.set(&name, said);
        }
        for (family, expected) in [(Family::V4, v4), (Family::V6, v6)] {
            let found = looked_up(&resolver, &name, family).await;
            let expected = expected.map(|(addresses, ttl_s)| (parsed(addresses), ttl_s));
            assert_eq!(found.clone().ok(), expected.ok(), "{case} {family:?}: {found:?}");
        }
    }
}

#[tokio::test]
async fn a_failure_on_the_way_through_search_domains_is_no_answer() {
    let names = Names::default();
    let server = names.serve().await;
    let mut name_server = NameServerConfig::udp_and_tcp(server.ip());
    for connection in &mut name_server.connections {
        connection.port = server.port();
    }
    let search = ["ns.example.", "example."].map(|domain| Name::from_ascii(domain).unwrap());
    let config = ResolverConfig::from_parts(None, search.into(), vec![name_server]);
    let mut options = ResolverOpts::default();
    options.use_hosts_file = ResolveHosts::Never;
    let resolver = resolver::asking(&config, options, Duration::from_secs(5)).unwrap();
    let fails = || Said::Code(ResponseCode::ServFail);
    let (here, there) = (addresses(&["127.0.0.1"]), addresses(&["127.0.0.2"]));
    // A name with a dot is asked for as it is first, one without with the domains first.
    for (said, name, expected) in [
        (&[("app.ns.example", &here), ("app.example", &there)][..], "app", Ok(&["127.0.0.1"][..])),
        (&[("app.example", &there)], "app", Ok(&["127.0.0.2"])),
        (&[("app.ns.example", &fails()), ("app.example", &there)], "app", Ok(&["127.0.0.2"])),
        (&[("app.ns.example", &fails())], "app", Err(())),
        (&[("api.partner", &here), ("api.partner.example", &there)], "api.partner", Ok(&["127.0.0.1"])),
        (&[("api.partner", &fails())], "api.partner", Err(())),
        (&[], "api.partner", Ok(&[])),
    ] {
        names.0.lock().clear();
        for (name, said) in said {
            names.set(name, (*said).clone());
        }
        let found = looked_up(&resolver, name, Family::V4).await;
        let expected = expected.map(parsed);
        assert_eq!(found.clone().ok().map(|(addresses, _)| addresses), expected.ok(), "{name}: {found:?}");
    }
}

/// Applications on one port of several addresses, each of which says its address.
async fn applications(addresses: &[&str]) -> u16 {
    'port: loop {
        let mut listeners: Vec<TcpListener> = Vec::new();
        for address in addresses {
            let port = listeners.first().map_or(0, |first| first.local_addr().unwrap().port());
            match TcpListener::bind(SocketAddr::new(address.parse().unwrap(), port)).await {
                Ok(listener) => listeners.push(listener),
                Err(_) => continue 'port,
            }
        }
        let port = listeners[0].local_addr().unwrap().port();
        for listener in listeners {
            spawn(async move {
                while let Ok((mut stream, _)) = listener.accept().await {
                    let here = stream.local_addr().unwrap().ip().to_string();
                    spawn(async move {
                        while head(&mut stream).await.is_some() {
                            answer(&mut stream, 200, &format!("at {here}")).await;
                        }
                    });
                }
            });
        }
        return port;
    }
}

#[tokio::test]
async fn a_name_s_addresses_are_endpoints_for_as_long_as_it_has_them() {
    let names = Names::default();
    let server = names.serve().await;
    let port = applications(&["127.0.0.1", "127.0.0.2", "::1"]).await;
    let sidecar = Sidecar::before(
        &format!("endpoints: [{{dns: app.example, port: {port}}}]"),
        &format!("dns: {{servers: [\"{server}\"], ttlMin: 10ms, ttlMax: 1s, timeout: 1s}}"),
    )
    .await;
    let none = sidecar.answers(|answer| answer.contains("has no address")).await;
    assert!(none.starts_with("HTTP/1.1 503 ") && none.contains("x-penstock-error: no_endpoints"), "{none}");

    names.set("app.example", addresses(&["127.0.0.1"]));
    sidecar.answers(|answer| answer.contains("at 127.0.0.1")).await;
    names.set("app.example", addresses(&["127.0.0.2"]));
    sidecar.answers(|answer| answer.contains("at 127.0.0.2")).await;
    names.set("app.example", addresses(&["127.0.0.2", "::1"]));
    sidecar.answers(|answer| answer.contains("at ::1")).await;
    sidecar.answers(|answer| answer.contains("at 127.0.0.2")).await;
    names.set("app.example", addresses(&["127.0.0.1"]));
    sidecar.answers(|answer| answer.contains("at 127.0.0.1")).await;

    // A server that fails takes nothing away.
    names.set("app.example", Said::Code(ResponseCode::ServFail));
    sidecar.counts("penstock_dns_stale{name=\"app.example\"} 1").await;
    let answer = sidecar.get("app").await;
    assert!(answer.contains("at 127.0.0.1"), "{answer}");
    names.set("app.example", addresses(&["::1"]));
    sidecar.counts("penstock_dns_stale{name=\"app.example\"} 0").await;
    sidecar.answers(|answer| answer.contains("at ::1")).await;
    names.0.lock().clear();
    sidecar.answers(|answer| answer.contains("app.example") && answer.contains("has no address")).await;
    sidecar.stop().await;
}

#[tokio::test]
async fn a_sidecar_is_not_ready_before_its_names_were_looked_up_once_and_then_it_stays_so() {
    let names = Names::default();
    let server = names.serve().await;
    let port = applications(&["127.0.0.1"]).await;
    names.set("app.example", Said::Silence);
    let settings = format!("dns: {{servers: [\"{server}\"], ttlMin: 10ms, ttlMax: 1s, timeout: 1s}}");
    let sidecar =
        Sidecar::before(&format!("endpoints: [{{dns: app.example, port: {port}}}]"), &settings).await;
    sidecar.shows("/ready", &format!("app.example:{port} is being looked up")).await;
    names.set("app.example", addresses(&["127.0.0.1"]));
    sidecar.shows("/ready", "HTTP/1.1 200 ").await;
    let answer = sidecar.get("app").await;
    assert!(answer.contains("at 127.0.0.1"), "{answer}");

    names.set("new.example", Said::Silence);
    sidecar.rewrite(&format!(
        "endpoints: [{{dns: app.example, port: {port}}}, {{dns: new.example, port: {port}}}]"
    ));
    sidecar.shows("/clusters", "new.example").await;
    let ready = sidecar.page("/ready").await;
    assert!(ready.starts_with("HTTP/1.1 200 "), "{ready}");
    sidecar.stop().await;
}
