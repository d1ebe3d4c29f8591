//! Is this certificate a workload of our trust domain, now? One answer for both ends of a connection.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use penstock_model::spiffe::SpiffeId;
use rustls::pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use rustls::{CertificateError, OtherError};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Which end of a connection presented the certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// It connected to us.
    Client,
    /// We connected to it.
    Server,
}

/// Why a peer was refused. Each reason has a metric label of its own.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The certificate is no readable X.509.
    #[error("the certificate cannot be read")]
    Malformed,
    /// Its time has passed.
    #[error("the certificate has expired")]
    Expired,
    /// Its time has not come; the clocks may differ.
    #[error("the certificate is not valid yet")]
    NotYetValid,
    /// It is a CA's own certificate.
    #[error("the certificate is a CA's and may not stand for a workload")]
    CaAsLeaf,
    /// It leads to no root that we trust.
    #[error("the certificate's issuer is not in the trust bundle")]
    UnknownIssuer,
    /// It may not be used for this end of TLS, or may sign others.
    #[error("the certificate's key usage does not allow this")]
    KeyUsage,
    /// A SPIFFE leaf has exactly one URI name.
    #[error("the certificate has {0} URI names instead of one")]
    UriNames(usize),
    /// The URI name is not a SPIFFE ID.
    #[error("{0}")]
    NotSpiffe(String),
    /// Another mesh.
    #[error("{peer} is not of the trust domain `{expected}`")]
    TrustDomain {
        /// Who it is.
        peer: SpiffeId,
        /// Our trust domain.
        expected: Arc<str>,
    },
    /// Not who the endpoint should be.
    #[error("the peer is {peer} where {expected} was expected")]
    WrongIdentity {
        /// Who it is.
        peer: SpiffeId,
        /// Who it should be.
        expected: Arc<str>,
    },
    /// The client showed none.
    #[error("the client presented no certificate")]
    NoCertificate,
    /// We have none ourselves yet.
    #[error("this sidecar has no certificate yet")]
    NotReady,
}

impl Refusal {
    /// Value of the metric label `reason`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::CaAsLeaf => "ca_as_leaf",
            Self::UnknownIssuer => "unknown_issuer",
            Self::KeyUsage => "key_usage",
            Self::UriNames(_) => "uri_names",
            Self::NotSpiffe(_) => "not_spiffe",
            Self::TrustDomain { .. } => "trust_domain",
            Self::WrongIdentity { .. } => "wrong_identity",
            Self::NoCertificate => "no_certificate",
            Self::NotReady => "not_ready",
        }
    }

    /// The refusal inside a failed handshake, if it was ours.
    pub fn of(error: &rustls::Error) -> Option<Self> {
        match error {
            rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => {
                inner.downcast_ref::<Self>().cloned()
            }
            rustls::Error::NoCertificatesPresented => Some(Self::NoCertificate),
            _ => None,
        }
    }
}

impl From<Refusal> for rustls::Error {
    fn from(refusal: Refusal) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refusal))))
    }
}

/// The roots that are trusted and the one trust domain whose workloads they vouch for.
#[derive(Clone)]
pub struct Trust {
    /// Never empty.
    pub roots: Arc<[TrustAnchor<'static>]>,
    /// Such as `cluster.local`.
    pub domain: Arc<str>,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Trust({}, {} roots)", self.domain, self.roots.len())
    }
}

impl Trust {
    /// Reads root certificates.
    ///
    /// # Errors
    /// When there is none, or one cannot be read.
    pub fn new(roots: &[CertificateDer<'_>], domain: Arc<str>) -> Result<Self, Refusal> {
        let roots: Vec<_> = roots
            .iter()
            .map(|der| webpki::anchor_from_trusted_cert(der).map(|anchor| anchor.to_owned()))
            .collect::<Result<_, _>>()
            .map_err(|_| Refusal::Malformed)?;
        if roots.is_empty() { Err(Refusal::UnknownIssuer) } else { Ok(Self { roots: roots.into(), domain }) }
    }

    /// The identity in a leaf that a handshake has verified already.
    ///
    /// # Errors
    /// When it has none, which the handshake would have refused.
    pub fn peer_of(leaf: &CertificateDer<'_>) -> Result<SpiffeId, Refusal> {
        spiffe_id(leaf)
    }

    /// The identity in `leaf`, if everything about it is right at `now`.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        peer: Peer,
        now: Duration,
    ) -> Result<SpiffeId, Refusal> {
        let id = spiffe_id(leaf)?;
        let certificate = EndEntityCert::try_from(leaf).map_err(|_| Refusal::Malformed)?;
        let usage = match peer {
            Peer::Client => KeyUsage::client_auth(),
            Peer::Server => KeyUsage::server_auth(),
        };
        let now = UnixTime::since_unix_epoch(now);
        certificate
            .verify_for_usage(ALGORITHMS, &self.roots, intermediates, now, usage, None, None)
            .map_err(|error| refusal_of(&error))?;
        if id.trust_domain() == &*self.domain {
            Ok(id)
        } else {
            Err(Refusal::TrustDomain { peer: id, expected: Arc::clone(&self.domain) })
        }
    }
}

/// Signature algorithms of the certificates that we accept: ECDSA, Ed25519 and RSA of at least 2,048 bits.
static ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[
    webpki::aws_lc_rs::ECDSA_P256_SHA256,
    webpki::aws_lc_rs::ECDSA_P256_SHA384,
    webpki::aws_lc_rs::ECDSA_P384_SHA256,
    webpki::aws_lc_rs::ECDSA_P384_SHA384,
    webpki::aws_lc_rs::ED25519,
    webpki::aws_lc_rs::RSA_PKCS1_2048_8192_SHA256,
    webpki::aws_lc_rs::RSA_PKCS1_2048_8192_SHA384,
];

/// The rules of an X.509-SVID leaf that the chain check does not know.
fn spiffe_id(leaf: &CertificateDer<'_>) -> Result<SpiffeId, Refusal> {
    let (rest, certificate) = X509Certificate::from_der(leaf).map_err(|_| Refusal::Malformed)?;
    if !rest.is_empty() {
        return Err(Refusal::Malformed);
    }
    let constraints = certificate.basic_constraints().map_err(|_| Refusal::Malformed)?;
    if constraints.is_some_and(|found| found.value.ca) {
        return Err(Refusal::CaAsLeaf);
    }
    let usage = certificate.key_usage().map_err(|_| Refusal::Malformed)?;
    if usage.is_none_or(|found| {
        !found.value.digital_signature() || found.value.key_cert_sign() || found.value.crl_sign()
    }) {
        return Err(Refusal::KeyUsage);
    }
    let names = certificate.subject_alternative_name().map_err(|_| Refusal::Malformed)?;
    let uris: Vec<&str> = names
        .iter()
        .flat_map(|found| &found.value.general_names)
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
        .collect();
    match uris[..] {
        [uri] => uri.parse().map_err(|error| Refusal::NotSpiffe(format!("{error}"))),
        _ => Err(Refusal::UriNames(uris.len())),
    }
}

fn refusal_of(error: &webpki::Error) -> Refusal {
    match error {
        webpki::Error::CertExpired { .. } => Refusal::Expired,
        webpki::Error::CertNotValidYet { .. } => Refusal::NotYetValid,
        webpki::Error::CaUsedAsEndEntity => Refusal::CaAsLeaf,
        webpki::Error::RequiredEkuNotFoundContext(_) | webpki::Error::EmptyEkuExtension => Refusal::KeyUsage,
        webpki::Error::BadDer | webpki::Error::BadDerTime => Refusal::Malformed,
        _ => Refusal::UnknownIssuer,
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer,
        KeyPair, KeyUsagePurpose, SanType,
    };
    use time::OffsetDateTime;

    use super::*;

    const NOW: i64 = 1_800_000_000;

    struct Authority {
        root: CertificateDer<'static>,
        issuer: Issuer<'static, KeyPair>,
    }

    impl Authority {
        fn new() -> Self {
            let mut params = params(&[]);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
            params.extended_key_usages.clear();
            let key = KeyPair::generate().unwrap();
            let root = params.self_signed(&key).unwrap().der().clone();
            Self { root, issuer: Issuer::new(params, key) }
        }

        fn sign(&self, params: &CertificateParams) -> CertificateDer<'static> {
            params.signed_by(&KeyPair::generate().unwrap(), &self.issuer).unwrap().der().clone()
        }

        fn trust(&self) -> Trust {
            Trust::new(std::slice::from_ref(&self.root), "mesh.test".into()).unwrap()
        }
    }

    fn at(offset_s: i64) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(NOW + offset_s).unwrap()
    }

    fn params(uris: &[&str]) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.not_before = at(-100);
        params.not_after = at(100);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        params
    }

    fn changed(change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
        let mut params = params(&["spiffe://mesh.test/ns/default/sa/web"]);
        change(&mut params);
        params
    }

    #[test]
    fn a_certificate_with_one_thing_wrong_is_refused_for_that() {
        let authority = Authority::new();
        let cases: Vec<(&str, CertificateParams)> = vec![
            ("", changed(|_| {})),
            ("expired", changed(|p| p.not_after = at(-1))),
            ("not_yet_valid", changed(|p| p.not_before = at(1))),
            ("ca_as_leaf", changed(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained))),
            ("key_usage", changed(|p| p.key_usages = vec![KeyUsagePurpose::KeyEncipherment])),
            ("key_usage", changed(|p| p.key_usages.push(KeyUsagePurpose::KeyCertSign))),
            ("key_usage", changed(|p| p.key_usages.clear())),
            ("key_usage", changed(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning])),
            ("uri_names", params(&[])),
            ("uri_names", params(&["spiffe://mesh.test/a", "spiffe://mesh.test/b"])),
            ("not_spiffe", params(&["https://mesh.test/ns/default/sa/web"])),
            ("not_spiffe", params(&["spiffe://mesh.test/a//b"])),
            ("trust_domain", params(&["spiffe://other.test/ns/default/sa/web"])),
        ];
        for (reason, params) in cases {
            let leaf = authority.sign(&params);
            for peer in [Peer::Client, Peer::Server] {
                let now = Duration::from_secs(NOW.unsigned_abs());
                let verified = authority.trust().verify(&leaf, &[], peer, now);
                let found = verified.as_ref().err().map_or("", Refusal::reason);
                assert_eq!(found, reason, "{peer:?} {verified:?}");
            }
        }
    }

    #[test]
    fn a_certificate_of_another_authority_is_refused() {
        let leaf = Authority::new().sign(&params(&["spiffe://mesh.test/ns/default/sa/web"]));
        let now = Duration::from_secs(NOW.unsigned_abs());
        let verified = Authority::new().trust().verify(&leaf, &[], Peer::Client, now);
        assert_eq!(verified, Err(Refusal::UnknownIssuer));
    }

    #[test]
    fn bytes_that_are_no_certificate_are_refused() {
        let now = Duration::from_secs(NOW.unsigned_abs());
        for bytes in [&b""[..], b"x", &[0x30, 0x82, 0xff, 0xff]] {
            let leaf = CertificateDer::from(bytes.to_vec());
            let verified = Authority::new().trust().verify(&leaf, &[], Peer::Server, now);
            assert_eq!(verified, Err(Refusal::Malformed));
        }
    }
}
