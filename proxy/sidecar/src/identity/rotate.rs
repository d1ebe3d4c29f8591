//! Obtains a certificate and renews it at 60 % of its life, give or take a tenth. Connections that are open keep what they began with;
//! a renewal that fails keeps the old certificate until it expires, and says so.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use penstock_delivery::proto::penstock::ca::v1::SignRequest;
use penstock_model::settings::ProxySettings;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use tokio::time::{sleep, timeout};
use tonic::Request;
use tonic::metadata::MetadataValue;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::Identity;
use super::tls::{Material, provider};
use super::verify::{Peer, Trust};
use crate::clock;
use crate::control::services::penstock::ca::v1::certificate_service_client::CertificateServiceClient;
use crate::control::{Control, report};
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
/// Longest time for one signature.
const SIGN_TIMEOUT: Duration = Duration::from_secs(10);

/// Keeps the identity fresh for as long as it is polled.
pub async fn run(
    settings: ProxySettings,
    control: Arc<Control>,
    identity: Arc<Identity>,
    telemetry: Arc<Telemetry>,
) {
    let mut failures = 0;
    loop {
        match obtain(&settings, &control).await {
            Ok((material, life)) => {
                failures = 0;
                identity.install(material);
                telemetry.metrics.certificate_refreshes.with_label_values(&["success"]).inc();
                let expires_s = i64::try_from(life.not_after.as_secs()).unwrap_or(i64::MAX);
                telemetry.metrics.certificate_expires.set(expires_s);
                tracing::info!(identity = %settings.identity, expires_unix_s = expires_s, "certificate installed");
                sleep(life.until_renewal(clock::unix_time(), seed::share())).await;
            }
            Err(error) => {
                failures += 1;
                telemetry.metrics.certificate_refreshes.with_label_values(&["failure"]).inc();
                let kept = if identity.is_ready() {
                    "the old one is kept until it expires"
                } else {
                    "there is none yet"
                };
                tracing::warn!(error = report(&error), "no new certificate; {kept}");
                sleep(retry_after(failures, seed::share())).await;
            }
        }
    }
}

/// Wait before attempt number `failures` + 1.
fn retry_after(failures: u32, draw: f64) -> Duration {
    let bound = RETRY_FIRST.saturating_mul(1 << failures.saturating_sub(1).min(9)).min(RETRY_MAX);
    bound.mul_f64(0.5 + draw / 2.0)
}

/// When a certificate ends, since 1970.
#[derive(Clone, Copy, Debug)]
struct Life {
    not_after: Duration,
}

impl Life {
    fn of(leaf: &CertificateDer<'_>) -> anyhow::Result<Self> {
        let (_, certificate) = X509Certificate::from_der(leaf).context("the certificate cannot be read")?;
        let since = |time: x509_parser::time::ASN1Time| {
            Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or_default())
        };
        Ok(Self { not_after: since(certificate.validity().not_after) })
    }

    /// Counted from now: authorities date certificates back, and clocks differ.
    fn until_renewal(self, now: Duration, draw: f64) -> Duration {
        let share = RENEW_SHARE + RENEW_JITTER * (2.0 * draw - 1.0);
        self.not_after.saturating_sub(now).mul_f64(share).max(RENEW_WAIT_MIN)
    }
}

async fn obtain(settings: &ProxySettings, control: &Control) -> anyhow::Result<(Material, Life)> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("no key can be made")?;
    let csr = request_for(settings, &key)?;
    let mut request = Request::new(SignRequest { csr, validity: None });
    let bearer = MetadataValue::try_from(format!("Bearer {}", control.token()?))
        .context("the join token holds characters that cannot be sent")?;
    request.metadata_mut().insert("authorization", bearer);
    let channel = control.channel().await?;
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
    let trust = Trust::new(&roots, settings.identity.trust_domain().into())
        .context("the trust bundle that came with the certificate cannot be used")?;
    let life = Life::of(leaf)?;
    for end in [Peer::Client, Peer::Server] {
        let own = trust.verify(leaf, intermediates, end, clock::unix_time());
        let own = own.context("the control plane signed a certificate that would be refused")?;
        if own != settings.identity {
            bail!("the control plane signed a certificate for {own} instead of {}", settings.identity);
        }
    }
    let key = PrivateKeyDer::try_from(key.serialize_der())
        .map_err(|error| anyhow::anyhow!("the new key cannot be used: {error}"))?;
    let key = provider().key_provider.load_private_key(key).context("the new key cannot be used")?;
    Ok((
        Material {
            certificate: Some(Arc::new(CertifiedKey::new(chain, key))),
            not_after: life.not_after,
            trust,
        },
        life,
    ))
}

fn request_for(settings: &ProxySettings, key: &KeyPair) -> anyhow::Result<Vec<u8>> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let uri = settings.identity.as_str().try_into().context("the identity is not ASCII")?;
    params.subject_alt_names = vec![SanType::URI(uri)];
    let csr = params.serialize_request(key).context("no certificate request can be made")?;
    Ok(csr.der().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_comes_at_sixty_percent_give_or_take_a_tenth() {
        let life = Life { not_after: Duration::from_secs(2_000) };
        let now = Duration::from_secs(1_000);
        let at = |draw| life.until_renewal(now, draw).as_secs_f64().round();
        assert_eq!([at(0.0), at(0.5), at(1.0)], [500.0, 600.0, 700.0]);
        assert_eq!(life.until_renewal(Duration::from_secs(3_000), 0.5), RENEW_WAIT_MIN);
    }

    #[test]
    fn waits_double_up_to_two_and_a_half_minutes() {
        let waits: Vec<_> = [1, 2, 3, 9, 40].map(|failures| retry_after(failures, 1.0).as_millis()).into();
        assert_eq!(waits, [500, 1_000, 2_000, 128_000, 150_000]);
    }
}
