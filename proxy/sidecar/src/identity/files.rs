//! Certificate, key and roots from files that somebody else renews, such as cert-manager or the SPIFFE helper. They are read again when
//! they change. What does not fit together is refused with the reason, and what was in use stays so.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use penstock_model::settings::CertificateFiles;
use penstock_model::spiffe::SpiffeId;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::Identity;
use super::rotate::not_after;
use super::tls::{Material, provider};
use super::verify::{Peer, Trust};
use crate::clock;
use crate::control::report;
use crate::telemetry::Telemetry;
use crate::watch::Changes;

/// The three files as they were read.
type Texts = [Vec<u8>; 3];

/// Keeps the identity as the files have it, for as long as it is polled.
pub async fn run(
    files: CertificateFiles,
    expected: SpiffeId,
    identity: Arc<Identity>,
    telemetry: Arc<Telemetry>,
) {
    let mut changes = Changes::of(&[&files.chain, &files.key, &files.trust_bundle]);
    let mut used = None;
    let mut told = None;
    loop {
        match look(&files, &expected, used.as_ref()) {
            // Also when somebody has put back what is in use.
            Ok(None) => {
                if told.take().is_some() {
                    identity.settled();
                }
            }
            Ok(Some((texts, material))) => {
                let (expires, roots) = (material.not_after, material.trust.roots.len());
                identity.install(material, identity.ask());
                telemetry.certificate_installed(&expected, expires, roots);
                (used, told) = (Some(texts), None);
            }
            Err(error) => {
                let why = report(&error);
                if told.as_ref() != Some(&why) {
                    let kept = if identity.is_ready() {
                        "the one of before is kept"
                    } else {
                        "there is none to use"
                    };
                    telemetry.metrics.certificate_refreshes.with_label_values(&["failure"]).inc();
                    tracing::warn!(error = why, "the certificate files are refused; {kept}");
                    identity.failed(why.clone());
                    told = Some(why);
                }
            }
        }
        changes.next().await;
    }
}

/// What the files hold, if that is not in use already.
fn look(
    files: &CertificateFiles,
    expected: &SpiffeId,
    used: Option<&Texts>,
) -> anyhow::Result<Option<(Texts, Material)>> {
    let read = |path: &Path| {
        std::fs::read(path).with_context(|| format!("the file {} cannot be read", path.display()))
    };
    let texts = [read(&files.chain)?, read(&files.key)?, read(&files.trust_bundle)?];
    if used == Some(&texts) {
        return Ok(None);
    }
    let material = material(files, &texts, expected)?;
    Ok(Some((texts, material)))
}

fn material(
    files: &CertificateFiles,
    [chain, key, bundle]: &Texts,
    expected: &SpiffeId,
) -> anyhow::Result<Material> {
    let chain = certificates(chain, &files.chain)?;
    let roots = certificates(bundle, &files.trust_bundle)?;
    let unusable = || format!("the key {} is not a private key in PEM", files.key.display());
    let key = PrivateKeyDer::from_pem_slice(key).with_context(unusable)?;
    let Some((leaf, intermediates)) = chain.split_first() else { bail!("the chain is empty") };
    let trust = Trust::new(&roots, expected.trust_domain().into())
        .with_context(|| format!("the trust bundle {} cannot be used", files.trust_bundle.display()))?;
    let refused = || format!("the certificate {} would be refused by peers", files.chain.display());
    for end in [Peer::Client, Peer::Server] {
        let own = trust.verify(leaf, intermediates, end, clock::unix_time()).with_context(refused)?;
        if own != *expected {
            bail!("the certificate {} is for {own} instead of {expected}", files.chain.display());
        }
    }
    let not_after = not_after(leaf)?;
    let certified = CertifiedKey::from_der(chain, key, &provider()).with_context(|| {
        format!(
            "the key {} does not belong to the certificate {}",
            files.key.display(),
            files.chain.display()
        )
    })?;
    Ok(Material { certificate: Some(Arc::new(certified)), not_after, trust })
}

fn certificates(pem: &[u8], path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let all = all.with_context(|| format!("the file {} is not PEM", path.display()))?;
    if all.is_empty() {
        bail!("the file {} holds no certificate", path.display());
    }
    Ok(all)
}
