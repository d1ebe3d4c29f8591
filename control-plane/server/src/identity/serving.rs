//! The control plane's own certificate, and the TLS that it serves with.
//!
//! The certificate is replaced well before its end. Each handshake takes the one of the moment; connections that are open
//! keep theirs. Sessions are not resumed: a resumed session would carry a client's certificate past its end unverified.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use penstock_model::spiffe::SpiffeId;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, version};
use time::OffsetDateTime;

use super::issue::{IssueError, Lifetime};
use super::verify::PeerVerifier;
use super::{Roots, own_identity};
use crate::clock::{Clock, TimeOfDay, time_of_day};
use crate::seed;
use crate::tasks::Tasks;
use crate::telemetry::Metrics;

/// Names by which sidecars and ordinary gRPC clients reach the control plane.
const HOSTS: &[&str] = &[
    "localhost",
    "penstock-controller-headless",
    "penstock-controller-headless.penstock",
    "penstock-controller-headless.penstock.svc",
];

/// What the server's certificate says about it.
#[derive(Clone, Debug)]
pub(crate) struct ServingNames {
    identity: SpiffeId,
    addresses: Vec<IpAddr>,
}

impl ServingNames {
    /// The loopback addresses, and `listen` where it is one address and not all.
    pub(crate) fn new(
        trust_domain: &str,
        listen: IpAddr,
    ) -> Result<Self, penstock_model::spiffe::SpiffeError> {
        let mut addresses = vec![IpAddr::from([127, 0, 0, 1]), std::net::Ipv6Addr::LOCALHOST.into()];
        if !listen.is_unspecified() && !addresses.contains(&listen) {
            addresses.push(listen);
        }
        Ok(Self { identity: own_identity(trust_domain)?, addresses })
    }
}

/// The certificate of the moment.
#[derive(Debug)]
pub(crate) struct ServingCertificate {
    current: RwLock<Arc<CertifiedKey>>,
}

/// Replaces the certificate for as long as the process lives.
#[derive(Debug)]
pub(crate) struct Rotation {
    roots: Arc<Roots>,
    names: ServingNames,
    ttl: Duration,
    metrics: Arc<Metrics>,
}

/// Share of a certificate's life after which it is replaced, as sidecars do.
const RENEW_AT: f64 = 0.6;
/// The runtime's clock stands still while a machine is suspended; the certificate's end does not. So the time of day is looked
/// at this often.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);
/// Pause after a renewal that failed: doubled each time, from the first to the second.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(150));

impl Rotation {
    pub(crate) fn new(roots: Arc<Roots>, names: ServingNames, ttl: Duration, metrics: Arc<Metrics>) -> Self {
        Self { roots, names, ttl, metrics }
    }

    /// Issues the first certificate, and replaces it until the stop signal.
    pub(crate) fn start(self, clock: Clock, tasks: &Tasks) -> Result<Arc<ServingCertificate>, ServingError> {
        let (first, end) = self.certify()?;
        let serving = Arc::new(ServingCertificate { current: RwLock::new(Arc::new(first)) });
        let (replaced, stop) = (Arc::clone(&serving), tasks.clone());
        tasks.spawn("rotate", async move {
            tokio::select! {
                biased;
                () = self.rotate(&replaced, end, clock) => {}
                () = stop.stopped() => {}
            }
        });
        Ok(serving)
    }

    async fn rotate(&self, serving: &ServingCertificate, mut end: OffsetDateTime, clock: Clock) {
        let mut roots = self.roots.watch();
        loop {
            let now = time_of_day();
            let due = now + renew_after(end - now, seed::share());
            while let Ok(left) = Duration::try_from(due - time_of_day()) {
                tokio::select! {
                    biased;
                    // The root that vouches for us may be on its way out. The sender lives as long as `self`.
                    Ok(()) = roots.changed() => break,
                    () = clock.sleep(left.min(LOOK_INTERVAL)) => {}
                }
            }
            let mut retry = RETRY.0;
            let fresh = loop {
                match self.certify() {
                    Ok(fresh) => break fresh,
                    Err(error) => self.metrics.own_certificate_not_renewed(&error, retry),
                }
                clock.sleep(retry).await;
                retry = (retry * 2).min(RETRY.1);
            };
            end = fresh.1;
            *serving.current.write() = Arc::new(fresh.0);
        }
    }

    /// A new key with its certificate, and the end of that.
    fn certify(&self) -> Result<(CertifiedKey, OffsetDateTime), ServingError> {
        let held = self.roots.held();
        let lifetime = Lifetime::starting(time_of_day(), self.ttl, held.serving.root_not_after());
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let ServingNames { identity, addresses } = &self.names;
        let leaf = held.serving.issue_named(identity, HOSTS, addresses, &key, lifetime)?;
        let der = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let certified = CertifiedKey::from_der(vec![leaf.certificate], der, &crypto())?;
        self.metrics.own_certificate_renewed(lifetime.not_after, held.issuing.root_not_after());
        Ok((certified, lifetime.not_after))
    }
}

/// When a certificate that is good for `left` is replaced; `jitter` is a share from 0 to 1. Not at once even when its end has
/// come, as it does with the root's: the next one would end as soon.
fn renew_after(left: time::Duration, jitter: f64) -> Duration {
    let left = Duration::try_from(left).unwrap_or_default();
    left.mul_f64(RENEW_AT * (0.9 + 0.2 * jitter)).max(RETRY.0)
}

impl ResolvesServerCert for ServingCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.read()))
    }
}

/// The one cryptographic provider: post-quantum hybrid key exchange first.
pub(crate) fn crypto() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![
        aws_lc_rs::kx_group::X25519MLKEM768,
        aws_lc_rs::kx_group::X25519,
        aws_lc_rs::kx_group::SECP256R1,
        aws_lc_rs::kx_group::SECP384R1,
    ];
    provider
}

/// TLS 1.3 for HTTP/2, client certificates verified when presented.
pub(crate) fn server_tls(
    verifier: PeerVerifier,
    certificate: Arc<ServingCertificate>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let mut tls = ServerConfig::builder_with_details(Arc::new(crypto()), Arc::new(TimeOfDay))
        .with_protocol_versions(&[&version::TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(certificate);
    tls.alpn_protocols = vec![b"h2".to_vec()];
    tls.session_storage = Arc::new(NoServerSessionStorage {});
    tls.send_tls13_tickets = 0;
    Ok(Arc::new(tls))
}

/// The control plane's own certificate cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServingError {
    #[error(transparent)]
    Issue(#[from] IssueError),
    #[error("cannot make a key")]
    Key(#[from] rcgen::Error),
    #[error("cannot serve with the new certificate")]
    Tls(#[from] rustls::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_replaced_at_sixty_percent_give_or_take_a_tenth() {
        for (left_s, jitter, expected_ms) in [
            (100.0, 0.0, 54_000),
            (100.0, 0.5, 60_000),
            (100.0, 1.0, 66_000),
            (1.0, 0.5, 600),
            (0.0, 0.5, 500),
            (-5.0, 0.5, 500),
        ] {
            let after = renew_after(time::Duration::seconds_f64(left_s), jitter);
            assert_eq!(after.as_millis(), expected_ms, "{left_s} {jitter}");
        }
    }
}
