//! One certificate after the other that has one thing wrong with it, shown to a sidecar's own TLS in memory, by a client and by a
//! server: each is refused, with a reason that does not change. A good one is let in by the same means.
//!
//! The peer does not hold the keys of its certificates: it is refused before its signature is looked at. Only the good one signs.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails there, and says why")]

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use penstock_proxy::identity::refusal_of;
use penstock_proxy::identity::tls::{self, Cell, Material, client_config, server_config};
use penstock_proxy::identity::verify::{Refusal, Trust};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints, PKCS_ECDSA_P521_SHA512, SanType,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, ResolvesClientCert};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ClientHello, ResolvesServerCert, ServerConfig};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, SignatureScheme};
use time::OffsetDateTime;
use tokio_rustls::{TlsAcceptor, TlsConnector};

const DOMAIN: &str = "mesh.test";
const WEB: &str = "spiffe://mesh.test/ns/default/sa/web";

/// A CA certificate and what it signs with.
struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

fn ca_with(name: &str, change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = ca(name);
    change(&mut params);
    params
}

fn ca(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    (params.not_before, params.not_after) = (from_now(-3_600), from_now(3_600));
    params
}

impl Authority {
    fn root(params: CertificateParams, key: KeyPair) -> Self {
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    fn new() -> Self {
        Self::root(ca("root"), KeyPair::generate().unwrap())
    }

    fn intermediate(&self, params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    fn sign(&self, params: &CertificateParams) -> (CertificateDer<'static>, KeyPair) {
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().der().clone(), key)
    }
}

#[expect(clippy::disallowed_methods, reason = "certificates are made for the clock of this machine")]
fn from_now(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::from(std::time::SystemTime::now()) + time::Duration::seconds(seconds)
}

fn leaf(names: Vec<SanType>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    (params.not_before, params.not_after) = (from_now(-60), from_now(600));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names = names;
    params
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn changed(change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = leaf(vec![uri(WEB)]);
    change(&mut params);
    params
}

/// What a peer shows, what we believe, and what comes of it; an empty reason lets the peer in.
struct Case {
    what: &'static str,
    chain: Vec<CertificateDer<'static>>,
    key: KeyPair,
    roots: Vec<CertificateDer<'static>>,
    reason: &'static str,
}

struct Table {
    root: Authority,
    cases: Vec<Case>,
}

impl Table {
    fn add(&mut self, what: &'static str, params: &CertificateParams, reason: &'static str) {
        let (leaf, key) = self.root.sign(params);
        self.chain(what, vec![leaf], key, reason);
    }

    fn chain(
        &mut self,
        what: &'static str,
        chain: Vec<CertificateDer<'static>>,
        key: KeyPair,
        reason: &'static str,
    ) {
        let roots = vec![self.root.certificate.clone()];
        self.cases.push(Case { what, chain, key, roots, reason });
    }

    fn below(
        &mut self,
        what: &'static str,
        params: &CertificateParams,
        issuers: &[&Authority],
        reason: &'static str,
    ) {
        let (leaf, key) = issuers[0].sign(params);
        let above = issuers.iter().map(|issuer| issuer.certificate.clone());
        self.chain(what, [leaf].into_iter().chain(above).collect(), key, reason);
    }

    fn id(&mut self, what: &'static str, text: &str, reason: &'static str) {
        self.add(what, &leaf(vec![uri(text)]), reason);
    }
}

fn table() -> Table {
    let mut table = Table { root: Authority::new(), cases: Vec::new() };
    table.add("nothing", &changed(|_| {}), "");
    table.add("a DNS name beside the id", &changed(|l| l.subject_alt_names.push(dns("web"))), "");
    names(&mut table);
    shapes(&mut table);
    times_and_usages(&mut table);
    chains(&mut table);
    algorithms(&mut table);
    table
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

fn names(t: &mut Table) {
    t.add("no name at all", &leaf(vec![]), "uri_names");
    t.add("two ids", &leaf(vec![uri(WEB), uri("spiffe://mesh.test/ns/default/sa/db")]), "uri_names");
    t.add("the id twice", &leaf(vec![uri(WEB), uri(WEB)]), "uri_names");
    t.add("a DNS name alone", &leaf(vec![dns("web.default.svc")]), "uri_names");
    t.add("an IP address alone", &leaf(vec![SanType::IpAddress(Ipv4Addr::LOCALHOST.into())]), "uri_names");
    t.add(
        "an e-mail address alone",
        &leaf(vec![SanType::Rfc822Name("web@mesh.test".try_into().unwrap())]),
        "uri_names",
    );
    let common_name = changed(|l| {
        l.subject_alt_names.clear();
        l.distinguished_name.push(DnType::CommonName, WEB);
    });
    t.add("the id as common name alone", &common_name, "uri_names");
    t.id("another trust domain", "spiffe://other.test/ns/default/sa/web", "trust_domain");
    t.id(
        "a trust domain that only begins alike",
        "spiffe://mesh.test.evil/ns/default/sa/web",
        "trust_domain",
    );
}

fn shapes(t: &mut Table) {
    for (what, text) in [
        ("https", "https://mesh.test/ns/default/sa/web"),
        ("an upper-case scheme", "SPIFFE://mesh.test/ns/default/sa/web"),
        ("an upper-case trust domain", "spiffe://MESH.test/ns/default/sa/web"),
        ("a port", "spiffe://mesh.test:443/ns/default/sa/web"),
        ("a user", "spiffe://root@mesh.test/ns/default/sa/web"),
        ("a query", "spiffe://mesh.test/ns/default/sa/web?x=1"),
        ("a fragment", "spiffe://mesh.test/ns/default/sa/web#x"),
        ("a percent sign", "spiffe://mesh.test/ns/default/sa/w%65b"),
        ("an empty segment", "spiffe://mesh.test/ns//sa/web"),
        ("a dot segment", "spiffe://mesh.test/ns/default/sa/../web"),
        ("a slash at the end", "spiffe://mesh.test/ns/default/sa/web/"),
        ("no trust domain", "spiffe:///ns/default/sa/web"),
        ("a space", "spiffe://mesh.test/ns/default/sa/we b"),
        ("a NUL", "spiffe://mesh.test/ns/default/sa/web\0.evil"),
    ] {
        t.id(what, text, "not_spiffe");
    }
    t.id("2,049 bytes", &format!("{WEB}{}", "a".repeat(2_049 - WEB.len())), "not_spiffe");
    t.id("2,048 bytes", &format!("{WEB}{}", "a".repeat(2_048 - WEB.len())), "");
}

fn times_and_usages(t: &mut Table) {
    t.add("expired", &changed(|l| l.not_after = from_now(-1)), "expired");
    t.add("not yet valid", &changed(|l| l.not_before = from_now(600)), "not_yet_valid");
    t.add("a CA", &changed(|l| l.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)), "ca_as_leaf");
    t.add("no key usage", &changed(|l| l.key_usages.clear()), "key_usage");
    t.add(
        "no digital signature",
        &changed(|l| l.key_usages = vec![KeyUsagePurpose::KeyEncipherment]),
        "key_usage",
    );
    t.add(
        "may sign certificates",
        &changed(|l| l.key_usages.push(KeyUsagePurpose::KeyCertSign)),
        "key_usage",
    );
    t.add("may sign revocations", &changed(|l| l.key_usages.push(KeyUsagePurpose::CrlSign)), "key_usage");
    for (what, purpose) in [
        ("for servers alone", ExtendedKeyUsagePurpose::ServerAuth),
        ("for clients alone", ExtendedKeyUsagePurpose::ClientAuth),
        ("for code alone", ExtendedKeyUsagePurpose::CodeSigning),
    ] {
        t.add(what, &changed(|l| l.extended_key_usages = vec![purpose]), "key_usage");
    }
    t.add("no extended key usage", &changed(|l| l.extended_key_usages.clear()), "");
    let mut extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99_999, 1], vec![5, 0]);
    t.add("an extension", &changed(|l| l.custom_extensions.push(extension.clone())), "");
    extension.set_criticality(true);
    t.add("a critical extension", &changed(|l| l.custom_extensions.push(extension)), "critical_extension");
}

fn chains(t: &mut Table) {
    let good = changed(|_| {});
    let middle = t.root.intermediate(ca("middle"));
    t.below("an intermediate", &good, &[&middle], "");
    let (alone, key) = middle.sign(&good);
    t.chain("an intermediate that is not shown", vec![alone], key, "unknown_issuer");
    let stranger = Authority::new();
    t.below("another root of the same name", &good, &[&stranger], "signature");
    let keyed = changed(|l| l.use_authority_key_identifier_extension = true);
    t.below("another root of the same name and another key", &keyed, &[&stranger], "unknown_issuer");
    let (alone, key) = stranger.sign(&keyed);
    t.chain("another root of the same name, not shown", vec![alone], key, "unknown_issuer");
    t.below("an intermediate that names its key", &keyed, &[&middle], "");
    let other = Authority::root(ca("other"), KeyPair::generate().unwrap());
    t.below("another root", &good, &[&other], "unknown_issuer");
    let key = KeyPair::generate().unwrap();
    let own = good.self_signed(&key).unwrap().der().clone();
    t.chain("signed by itself", vec![own], key, "unknown_issuer");

    let mut workload = changed(|l| l.distinguished_name.push(DnType::CommonName, "workload"));
    workload.is_ca = IsCa::ExplicitNoCa;
    let workload = t.root.intermediate(workload);
    t.below("signed by a workload", &good, &[&workload], "issuer_not_ca");
    let idle =
        t.root.intermediate(ca_with("idle", |p| p.key_usages = vec![KeyUsagePurpose::DigitalSignature]));
    t.below("an intermediate that may not sign", &good, &[&idle], "issuer_not_ca");
    let over = t.root.intermediate(ca_with("over", |p| p.not_after = from_now(-1)));
    t.below("an intermediate that has expired", &good, &[&over], "expired");
    let last = t.root.intermediate(ca_with("last", |p| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0))));
    t.below("the last intermediate that is allowed", &good, &[&last], "");
    let beyond = last.intermediate(ca("beyond"));
    t.below("one intermediate more than allowed", &good, &[&beyond, &last], "path_length");
    let within = |permitted_subtrees: Vec<GeneralSubtree>, excluded_subtrees: Vec<GeneralSubtree>| {
        let constraints = NameConstraints { permitted_subtrees, excluded_subtrees };
        ca_with("narrow", |p| p.name_constraints = Some(constraints))
    };
    let named = changed(|l| l.subject_alt_names.push(dns("web.mesh.test")));
    let narrow = t.root.intermediate(within(vec![GeneralSubtree::DnsName("mesh.test".to_owned())], vec![]));
    t.below("a name that the issuer may vouch for", &named, &[&narrow], "");
    let narrow = t.root.intermediate(within(vec![GeneralSubtree::DnsName("other.test".to_owned())], vec![]));
    t.below("a name that the issuer may not vouch for", &named, &[&narrow], "name_constraints");
    let narrow = t.root.intermediate(within(vec![], vec![GeneralSubtree::DnsName("mesh.test".to_owned())]));
    t.below("a name that the issuer must not vouch for", &named, &[&narrow], "name_constraints");
}

fn algorithms(t: &mut Table) {
    // RSA with 1,024 bits and SHA-1: made with OpenSSL, since nothing here signs with them any more.
    for (what, file) in [
        ("a root with 1,024 bits of RSA", &include_bytes!("certificates/rsa1024.pem")[..]),
        ("a signature over SHA-1", &include_bytes!("certificates/sha1.pem")[..]),
    ] {
        let both: Vec<_> = CertificateDer::pem_slice_iter(file).map(Result::unwrap).collect();
        let [leaf, root] = <[_; 2]>::try_from(both).unwrap();
        let reason = if what.contains("SHA-1") { "algorithm" } else { "signature" };
        t.cases.push(Case {
            what,
            chain: vec![leaf],
            key: KeyPair::generate().unwrap(),
            roots: vec![root],
            reason,
        });
    }
    let root = Authority::root(ca("P-521"), KeyPair::generate_for(&PKCS_ECDSA_P521_SHA512).unwrap());
    let (leaf, key) = root.sign(&changed(|_| {}));
    let roots = vec![root.certificate];
    t.cases.push(Case { what: "a root on P-521", chain: vec![leaf], key, roots, reason: "algorithm" });

    let (leaf, key) = t.root.sign(&changed(|_| {}));
    let mut bytes = leaf.to_vec();
    let at = bytes.windows(3).position(|window| window == b"web").unwrap();
    bytes[at] = b'W';
    t.chain("a name changed after it was signed", vec![bytes.into()], key, "signature");
    let (leaf, key) = t.root.sign(&changed(|_| {}));
    t.chain("half a certificate", vec![leaf[..leaf.len() / 2].to_vec().into()], key, "malformed");
    let (leaf, key) = t.root.sign(&changed(|_| {}));
    t.chain("bytes after the certificate", vec![[&leaf[..], b"x"].concat().into()], key, "malformed");
}

/// A peer of whatever kind: it shows what it is given and believes whatever it is shown.
#[derive(Debug)]
struct Anyone(Arc<CertifiedKey>);

impl ResolvesClientCert for Anyone {
    fn resolve(&self, _issuers: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl ResolvesServerCert for Anyone {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

#[derive(Debug)]
struct Credulous;

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        tls::provider().signature_verification_algorithms.supported_schemes()
    }
}

fn certified(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> Arc<CertifiedKey> {
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let key = tls::provider().key_provider.load_private_key(key).unwrap();
    Arc::new(CertifiedKey::new(chain, key))
}

/// The sidecar under test, which believes these roots.
fn ours(root: &Authority, roots: &[CertificateDer<'static>], not_after: Duration) -> Cell {
    let (leaf, key) = root.sign(&leaf(vec![uri("spiffe://mesh.test/ns/default/sa/ours")]));
    let trust = Trust::new(roots, DOMAIN.into()).unwrap();
    let certificate = Some(certified(vec![leaf], &key));
    Arc::new(ArcSwapOption::from_pointee(Material { certificate, not_after, trust }))
}

/// The reason for which our end refuses the other, or nothing.
async fn refused_by_server(cell: &Cell, peer: Arc<CertifiedKey>) -> String {
    let mut config = ClientConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous))
        .with_client_cert_resolver(Arc::new(Anyone(peer)));
    config.alpn_protocols = vec![b"h2".to_vec()];
    let (near, far) = tokio::io::duplex(64 << 10);
    let connector = TlsConnector::from(Arc::new(config));
    let acceptor = TlsAcceptor::from(Arc::new(server_config(cell).unwrap()));
    let name = ServerName::IpAddress(Ipv4Addr::LOCALHOST.into());
    let (_, accepted) = tokio::join!(connector.connect(name, near), acceptor.accept(far));
    reason(accepted.map(drop))
}

async fn refused_by_client(cell: &Cell, peer: Arc<CertifiedKey>) -> String {
    let mut config = ServerConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Anyone(peer)));
    config.alpn_protocols = vec![b"h2".to_vec()];
    let (near, far) = tokio::io::duplex(64 << 10);
    let connector = TlsConnector::from(Arc::new(client_config(cell).unwrap()));
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let name = ServerName::IpAddress(Ipv4Addr::LOCALHOST.into());
    let (connected, _) = tokio::join!(connector.connect(name, near), acceptor.accept(far));
    reason(connected.map(drop))
}

fn reason(outcome: std::io::Result<()>) -> String {
    match outcome {
        Ok(()) => String::new(),
        Err(error) => refusal_of(&error).map_or_else(|| format!("{error:?}"), |r| r.reason().to_owned()),
    }
}

#[tokio::test]
async fn every_certificate_with_one_thing_wrong_is_refused_for_that_by_clients_and_by_servers() {
    let table = table();
    let (mut wrong, mut refused) = (Vec::new(), 0);
    for case in &table.cases {
        let cell = ours(&table.root, &case.roots, Duration::MAX);
        let peer = certified(case.chain.clone(), &case.key);
        let found = [refused_by_server(&cell, Arc::clone(&peer)).await, refused_by_client(&cell, peer).await];
        if found != [case.reason; 2] {
            wrong.push(format!("{}: {found:?} instead of {}", case.what, case.reason));
        }
        refused += usize::from(!case.reason.is_empty());
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(refused >= 40 && table.cases.len() > refused + 5, "{refused} of {}", table.cases.len());
}

#[tokio::test]
async fn a_sidecar_whose_own_certificate_has_expired_says_so_instead_of_blaming_the_peer() {
    let root = Authority::new();
    let (leaf, key) = root.sign(&changed(|_| {}));
    let cell = ours(&root, std::slice::from_ref(&root.certificate), Duration::from_secs(1));
    let peer = certified(vec![leaf], &key);
    assert_eq!(refused_by_client(&cell, Arc::clone(&peer)).await, "own_expired");
    assert_eq!(refused_by_server(&cell, peer).await, "own_expired");
    assert_eq!(Refusal::OwnExpired.to_string(), "this sidecar's own certificate has expired");
}

/// Both roots are believed while one takes the place of the other; afterwards only the new one is.
#[tokio::test]
async fn roots_change_under_configurations_that_are_in_use() {
    let [old, new] = ["old", "new"].map(|name| Authority::root(ca(name), KeyPair::generate().unwrap()));
    let cell = ours(&old, std::slice::from_ref(&old.certificate), Duration::MAX);
    let peers = [&old, &new].map(|root| {
        let (leaf, key) = root.sign(&changed(|_| {}));
        certified(vec![leaf], &key)
    });
    for (roots, expected) in [
        (vec![old.certificate.clone()], ["", "unknown_issuer"]),
        (vec![old.certificate.clone(), new.certificate.clone()], ["", ""]),
        (vec![new.certificate.clone()], ["unknown_issuer", ""]),
    ] {
        let trust = Trust::new(&roots, DOMAIN.into()).unwrap();
        let held = cell.load_full().unwrap();
        cell.store(Some(Arc::new(Material { trust, ..(*held).clone() })));
        for (peer, expected) in peers.iter().zip(expected) {
            assert_eq!(refused_by_client(&cell, Arc::clone(peer)).await, expected);
            assert_eq!(refused_by_server(&cell, Arc::clone(peer)).await, expected);
        }
    }
}
