//! Obtains a certificate and renews it at 60 % of its life, give or take a tenth. Connections that are open keep what they began with;
//! a renewal that fails keeps the old certificate until it expires, and says so. It is tried again after a wait that doubles, at the end
//! of the old certificate, and as soon as the control plane is heard of; one that has expired is renewed with the join token.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use penstock_delivery::proto::penstock::ca::v1::SignRequest;
use penstock_model::spiffe::SpiffeId;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use tokio::time::{sleep, timeout};
use tonic::Request;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::Identity;
use super::tls::{Material, provider};
use super::verify::{Peer, Trust};
use crate::clock;
use crate::control::services::penstock::ca::v1::certificate_service_client::CertificateServiceClient;
use crate::control::{Control, Proof, report};
use crate::seed;
use crate::telemetry::Telemetry;

/// Share of a certificate's life after which it is renewed, and the jitter around it: Linkerd's 70 % with more room for failures.
const RENEW_SHARE: f64 = 0.6;
const RENEW_JITTER: f64 = 0.1;
/// Even a certificate that is over already is not asked for more often.
const RENEW_WAIT_MIN: Duration = Duration::from_millis(500);
/// Waits between attempts: Linkerd's and Istio's range.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(150);
/// The runtime's clock stands still while a machine is suspended; the certificate's end does not. So the time of day is looked at
/// this often.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);
/// Longest time for one signature.
const SIGN_TIMEOUT: Duration = Duration::from_secs(10);

/// Keeps the identity fresh for as long as it is polled.
pub async fn run(ours: SpiffeId, control: Arc<Control>, identity: Arc<Identity>, telemetry: Arc<Telemetry>) {
    let mut failures = 0;
    loop {
        let asked = identity.ask();
        // Every other time without the certificate: the control plane may have another root than the one that issued it.
        let proof = if failures % 2 == 0 { Proof::Certificate } else { Proof::Token };
        match obtain(&ours, &control, proof).await {
            Ok(material) => {
                failures = 0;
                let (expires, roots) = (material.not_after, material.trust.roots.len());
                identity.install(material, asked);
                telemetry.certificate_installed(&ours, expires, roots);
                wait_for_renewal(expires, &identity).await;
            }
            Err(error) => {
                failures += 1;
                telemetry.metrics.certificate_refreshes.with_label_values(&["failure"]).inc();
                let kept = match (identity.cell().load().is_some(), identity.is_ready()) {
                    (true, true) => "the old one is kept until it expires",
                    (true, false) => "the old one has expired: new connections to sidecars fail",
                    (false, _) => "there is none yet",
                };
                let left = identity.time_left().unwrap_or(Duration::MAX);
                let again_in = retry_after(failures, seed::share()).min(left);
                tracing::warn!(error = report(&error), ?again_in, "no new certificate; {kept}");
                identity.failed(report(&error));
                tokio::select! {
                    biased;
                    () = identity.reachable.notified() => {}
                    () = sleep(again_in) => {}
                }
            }
        }
    }
}

/// Until the certificate's time to be renewed has come, or something else asks for it.
async fn wait_for_renewal(not_after: Duration, identity: &Identity) {
    let due = clock::unix_time() + until_renewal(not_after, clock::unix_time(), seed::share());
    while let Some(left) = due.checked_sub(clock::unix_time()).filter(|left| !left.is_zero()) {
        tokio::select! {
            biased;
            () = identity.renewal.notified() => return,
            () = sleep(left.min(LOOK_INTERVAL)) => {}
        }
    }
}

/// Wait before attempt number `failures` + 1.
fn retry_after(failures: u32, draw: f64) -> Duration {
    let bound = RETRY_FIRST.saturating_mul(1 << failures.saturating_sub(1).min(9)).min(RETRY_MAX);
    bound.mul_f64(0.5 + draw / 2.0)
}

/// Counted from now: authorities date certificates back, and clocks differ.
fn until_renewal(not_after: Duration, now: Duration, draw: f64) -> Duration {
    let share = RENEW_SHARE + RENEW_JITTER * (2.0 * draw - 1.0);
    not_after.saturating_sub(now).mul_f64(share).max(RENEW_WAIT_MIN)
}

/// When a certificate ends, since 1970.
pub(super) fn not_after(leaf: &CertificateDer<'_>) -> anyhow::Result<Duration> {
    let (_, certificate) = X509Certificate::from_der(leaf).context("the certificate cannot be read")?;
    let end = certificate.validity().not_after.timestamp();
    Ok(Duration::from_secs(u64::try_from(end).unwrap_or_default()))
}

async fn obtain(ours: &SpiffeId, control: &Control, proof: Proof) -> anyhow::Result<Material> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("no key can be made")?;
    let csr = request_for(ours, &key)?;
    let mut request = Request::new(SignRequest { csr, validity: None });
    request.metadata_mut().insert("authorization", control.bearer()?);
    let channel = control.channel(proof).await?;
    let mut authority = CertificateServiceClient::new(channel);
    let signed = timeout(SIGN_TIMEOUT, authority.sign(request)).await;
    let signed = signed.context("the control plane did not sign in time")?;
    let signed = signed.map_err(|status| {
        anyhow::anyhow!("the control plane refused to sign ({:?}): {}", status.code(), status.message())
    })?;
    let signed = signed.into_inner();
    let chain: Vec<CertificateDer<'static>> =
        signed.certificate_chain.into_iter().map(CertificateDer::from).collect();
    let roots: Vec<CertificateDer<'static>> =
        signed.trust_bundle.into_iter().map(CertificateDer::from).collect();
    let Some((leaf, intermediates)) = chain.split_first() else { bail!("the control plane signed nothing") };
    let trust = Trust::new(&roots, ours.trust_domain().into())
        .context("the trust bundle that came with the certificate cannot be used")?;
    let not_after = not_after(leaf)?;
    for end in [Peer::Client, Peer::Server] {
        let own = trust.verify(leaf, intermediates, end, clock::unix_time());
        let own = own.context("the control plane signed a certificate that would be refused")?;
        if own != *ours {
            bail!("the control plane signed a certificate for {own} instead of {ours}");
        }
    }
    let key = PrivateKeyDer::try_from(key.serialize_der())
        .map_err(|error| anyhow::anyhow!("the new key cannot be used: {error}"))?;
    let key = provider().key_provider.load_private_key(key).context("the new key cannot be used")?;
    Ok(Material { certificate: Some(Arc::new(CertifiedKey::new(chain, key))), not_after, trust })
}

fn request_for(ours: &SpiffeId, key: &KeyPair) -> anyhow::Result<Vec<u8>> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let uri = ours.as_str().try_into().context("the identity is not ASCII")?;
    params.subject_alt_names = vec![SanType::URI(uri)];
    let csr = params.serialize_request(key).context("no certificate request can be made")?;
    Ok(csr.der().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_comes_at_sixty_percent_give_or_take_a_tenth() {
        let [now, end] = [1_000, 2_000].map(Duration::from_secs);
        let at = |draw| until_renewal(end, now, draw).as_secs_f64().round();
        assert_eq!([at(0.0), at(0.5), at(1.0)], [500.0, 600.0, 700.0]);
        assert_eq!(until_renewal(end, Duration::from_secs(3_000), 0.5), RENEW_WAIT_MIN);
    }

    #[test]
    fn waits_double_up_to_two_and_a_half_minutes() {
        let waits: Vec<_> = [1, 2, 3, 9, 40].map(|failures| retry_after(failures, 1.0).as_millis()).into();
        assert_eq!(waits, [500, 1_000, 2_000, 128_000, 150_000]);
    }
}
