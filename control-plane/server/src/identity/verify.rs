//! Client certificates: a chain to our root, and the shape that SPIFFE demands of a workload's certificate.
//!
//! The shape is looked at first, so that a certificate of another mesh is refused as that and not as one of an unknown issuer.
//! A client without a certificate passes here; what it may do without one is decided per call.

use std::sync::Arc;

use parking_lot::RwLock;
use penstock_model::spiffe::SpiffeId;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::refusal::Refusal;
use super::roots::{Bundle, Roots};
use crate::telemetry::Metrics;

/// Verifies what a client presents in the handshake.
#[derive(Debug)]
pub(crate) struct PeerVerifier {
    trust_domain: Arc<str>,
    roots: Arc<Roots>,
    provider: Arc<CryptoProvider>,
    /// For the bundle of this version.
    chain: RwLock<(String, Arc<dyn ClientCertVerifier>)>,
    metrics: Arc<Metrics>,
}

impl PeerVerifier {
    pub(crate) fn new(
        trust_domain: &str,
        roots: Arc<Roots>,
        provider: Arc<CryptoProvider>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, rustls::Error> {
        let bundle = Arc::clone(&roots.held().bundle);
        let chain = chain_of(&bundle, &provider)?;
        let chain = RwLock::new((bundle.version.clone(), chain));
        Ok(Self { trust_domain: trust_domain.into(), roots, provider, chain, metrics })
    }

    /// The check against the roots of the moment.
    fn chain(&self) -> Result<Arc<dyn ClientCertVerifier>, rustls::Error> {
        let held = self.roots.held();
        let known = self.chain.read().clone();
        if known.0 == held.bundle.version {
            return Ok(known.1);
        }
        let chain = chain_of(&held.bundle, &self.provider)?;
        *self.chain.write() = (held.bundle.version.clone(), Arc::clone(&chain));
        Ok(chain)
    }

    fn refuse(&self, refusal: Refusal) -> rustls::Error {
        self.metrics.handshake_refused(&refusal);
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refusal))))
    }
}

fn chain_of(
    bundle: &Bundle,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, rustls::Error> {
    let verifier = WebPkiClientVerifier::builder_with_provider(bundle.store()?, Arc::clone(provider))
        .allow_unauthenticated()
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    Ok(verifier)
}

/// The identity in a workload's certificate; says nothing about who issued it.
pub(crate) fn identity_of(certificate: &CertificateDer<'_>, trust_domain: &str) -> Result<SpiffeId, Refusal> {
    let malformed = |why: String| Refusal::CertificateMalformed { why };
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|e| malformed(e.to_string()))?;
    let usage = parsed.key_usage().map_err(|e| malformed(e.to_string()))?;
    if parsed.is_ca() || usage.is_some_and(|usage| usage.value.key_cert_sign() || usage.value.crl_sign()) {
        return Err(Refusal::CertificateOfAuthority);
    }
    let uris = uri_names(&parsed);
    let identity: SpiffeId = match uris[..] {
        [uri] => uri.parse()?,
        [] => return Err(Refusal::NoUri),
        _ => return Err(Refusal::SeveralUris { count: uris.len() }),
    };
    if identity.trust_domain() != trust_domain {
        let trust_domain = trust_domain.to_owned();
        return Err(Refusal::OtherTrustDomain { asked: identity.to_string(), trust_domain });
    }
    if identity.service_account().is_none() {
        return Err(Refusal::NotAWorkload { asked: identity.to_string() });
    }
    Ok(identity)
}

/// All URI names of a certificate in their order.
pub(super) fn uri_names<'a>(certificate: &X509Certificate<'a>) -> Vec<&'a str> {
    certificate
        .iter_extensions()
        .filter_map(|extension| match extension.parsed_extension() {
            x509_parser::extensions::ParsedExtension::SubjectAlternativeName(names) => {
                Some(names.general_names.iter())
            }
            _ => None,
        })
        .flatten()
        .filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None })
        .collect()
}

fn chain_refusal(error: &rustls::Error) -> Refusal {
    match error {
        rustls::Error::InvalidCertificate(error) => match error {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                Refusal::CertificateExpired
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                Refusal::CertificateNotYetValid
            }
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                Refusal::CertificateUnknownIssuer
            }
            other => Refusal::CertificateOther { why: other.to_string() },
        },
        other => Refusal::CertificateOther { why: other.to_string() },
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // None: roots come and go, and a client has one certificate to show.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        identity_of(end_entity, &self.trust_domain).map_err(|refusal| self.refuse(refusal))?;
        self.chain()?
            .verify_client_cert(end_entity, intermediates, now)
            .map_err(|error| self.refuse(chain_refusal(&error)))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain()?.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain()?.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, DistinguishedName, IsCa, KeyPair, KeyUsagePurpose, SanType,
    };
    use time::OffsetDateTime;
    use time::macros::datetime;

    use super::super::{Authority, crypto};
    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-21 09:00 UTC);
    const WEB: &str = "spiffe://cluster.local/ns/chat/sa/web";

    fn leaf(names: &[&str]) -> CertificateParams {
        let mut wanted = CertificateParams::default();
        wanted.distinguished_name = DistinguishedName::new();
        wanted.subject_alt_names =
            names.iter().map(|name| SanType::URI((*name).try_into().unwrap())).collect();
        wanted.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        wanted.not_before = NOW - time::Duration::hours(1);
        wanted.not_after = NOW + time::Duration::hours(1);
        wanted
    }

    /// The label with which a certificate is refused that `issuer` has signed, or `accepted`.
    fn verdict(wanted: &CertificateParams, issuer: &Authority, trusted: &Arc<Roots>) -> String {
        let metrics = Metrics::new().unwrap();
        let verifier =
            PeerVerifier::new("cluster.local", Arc::clone(trusted), Arc::new(crypto()), Arc::clone(&metrics))
                .unwrap();
        let certificate = issuer.sign(wanted, &KeyPair::generate().unwrap()).unwrap();
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(
            NOW.unix_timestamp().try_into().unwrap(),
        ));
        let Err(error) = verifier.verify_client_cert(&certificate, &[], now) else {
            return "accepted".to_owned();
        };
        let rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(refusal))) = error else {
            panic!("{error}");
        };
        let label = refusal.downcast_ref::<Refusal>().unwrap().label();
        let counted = String::from_utf8(metrics.exposition().unwrap()).unwrap();
        let line = format!("penstock_identity_refusals_total{{reason=\"{label}\",stage=\"handshake\"}} 1");
        assert!(counted.contains(&line), "{counted}");
        label.to_owned()
    }

    #[test]
    fn each_bad_certificate_has_its_own_reason_in_error_and_metric() {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let life = std::time::Duration::from_secs(3_600);
        let [trusted, other] =
            dirs.each_ref().map(|dir| Arc::new(Roots::open(dir.path(), "cluster.local", life, NOW).unwrap()));
        let [ours, theirs] = [&trusted, &other].map(|roots| Arc::clone(&roots.held().issuing));
        let with = |change: fn(&mut CertificateParams)| {
            let mut wanted = leaf(&[WEB]);
            change(&mut wanted);
            wanted
        };
        for (wanted, issuer, expected) in [
            (leaf(&[WEB]), &ours, "accepted"),
            (leaf(&[WEB]), &theirs, "certificate_unknown_issuer"),
            (leaf(&["spiffe://other.example/ns/chat/sa/web"]), &ours, "other_trust_domain"),
            (leaf(&[WEB, "spiffe://cluster.local/ns/chat/sa/db"]), &ours, "several_uris"),
            (leaf(&[]), &ours, "no_uri"),
            (leaf(&["https://cluster.local/ns/chat/sa/web"]), &ours, "not_spiffe"),
            (leaf(&["spiffe://cluster.local"]), &ours, "not_a_workload"),
            (with(|w| w.not_after = NOW - time::Duration::seconds(1)), &ours, "certificate_expired"),
            (with(|w| w.not_before = NOW + time::Duration::seconds(1)), &ours, "certificate_not_yet_valid"),
            (
                with(|w| w.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
                &ours,
                "certificate_of_authority",
            ),
            (with(|w| w.key_usages.push(KeyUsagePurpose::KeyCertSign)), &ours, "certificate_of_authority"),
            (
                with(|w| w.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth]),
                &ours,
                "certificate_other",
            ),
        ] {
            assert_eq!(verdict(&wanted, issuer, &trusted), expected, "{:?}", wanted.subject_alt_names);
        }
    }
}
