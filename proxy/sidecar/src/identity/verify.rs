//! Is this certificate a workload of our trust domain, now? One answer for both ends of a connection.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use penstock_model::spiffe::SpiffeId;
use rustls::pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use rustls::{CertificateError, OtherError};
use sha2::{Digest, Sha256};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::extensions::{GeneralName, ParsedExtension};
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
    /// An issuer on the way to the root may not sign certificates.
    #[error("an intermediate certificate may not sign others")]
    IssuerNotCa,
    /// More issuers on the way to the root than one of them allows.
    #[error("the chain is longer than one of its issuers allows")]
    PathLength,
    /// An issuer may not vouch for this name.
    #[error("the name is outside of what one of the issuers may vouch for")]
    NameConstraints,
    /// A signature does not fit its certificate.
    #[error(
        "a signature in the chain is wrong: something was changed, or another authority of the same name signed"
    )]
    Signature,
    /// A signature or key that can be forged, or that nobody here speaks.
    #[error("the chain has a signature by an algorithm that is not accepted")]
    Algorithm,
    /// An extension that must be understood, and is not.
    #[error("the chain has a critical extension that is not understood")]
    CriticalExtension,
    /// It may not be used for both ends of TLS, or may sign others.
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
    /// Ours is over, and could not be renewed.
    #[error("this sidecar's own certificate has expired")]
    OwnExpired,
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
            Self::IssuerNotCa => "issuer_not_ca",
            Self::PathLength => "path_length",
            Self::NameConstraints => "name_constraints",
            Self::Signature => "signature",
            Self::Algorithm => "algorithm",
            Self::CriticalExtension => "critical_extension",
            Self::KeyUsage => "key_usage",
            Self::UriNames(_) => "uri_names",
            Self::NotSpiffe(_) => "not_spiffe",
            Self::TrustDomain { .. } => "trust_domain",
            Self::WrongIdentity { .. } => "wrong_identity",
            Self::NoCertificate => "no_certificate",
            Self::NotReady => "not_ready",
            Self::OwnExpired => "own_expired",
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
    fingerprints: Arc<[String]>,
    /// Names of the roots' keys, as the certificates that they sign have them. Roots of one authority share a subject.
    keys: Arc<[Vec<u8>]>,
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
        let fingerprint = |der: &CertificateDer<'_>| {
            Sha256::digest(der).iter().map(|byte| format!("{byte:02x}")).collect::<String>()
        };
        let fingerprints: Arc<[_]> = roots.iter().map(fingerprint).collect();
        let keys = roots.iter().filter_map(|root| key_ids(root).own).collect();
        let roots: Arc<[_]> = roots
            .iter()
            .map(|der| webpki::anchor_from_trusted_cert(der).map(|anchor| anchor.to_owned()))
            .collect::<Result<_, _>>()
            .map_err(|_| Refusal::Malformed)?;
        if roots.is_empty() {
            return Err(Refusal::UnknownIssuer);
        }
        Ok(Self { roots, fingerprints, keys, domain })
    }

    /// SHA-256 of each root, in hexadecimal digits, as `openssl x509 -fingerprint` has it without the colons.
    pub fn fingerprints(&self) -> &[String] {
        &self.fingerprints
    }

    /// These roots and those of `other`.
    #[must_use]
    pub fn and(self, other: &Self) -> Self {
        let roots = self.roots.iter().chain(&*other.roots).cloned().collect();
        let fingerprints = self.fingerprints.iter().chain(&*other.fingerprints).cloned().collect();
        let keys = self.keys.iter().chain(&*other.keys).cloned().collect();
        Self { roots, fingerprints, keys, domain: self.domain }
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
        let certificate = EndEntityCert::try_from(leaf).map_err(|error| refusal_of(&error))?;
        let usage = match peer {
            Peer::Client => KeyUsage::client_auth(),
            Peer::Server => KeyUsage::server_auth(),
        };
        let now = UnixTime::since_unix_epoch(now);
        // The chain check takes any CA for an issuer, also one whose key usage does not let it sign certificates.
        let issuers: Vec<_> = intermediates.iter().filter(|issuer| may_sign(issuer)).cloned().collect();
        certificate.verify_for_usage(ALGORITHMS, &self.roots, &issuers, now, usage, None, None).map_err(
            |error| match refusal_of(&error) {
                Refusal::UnknownIssuer if issuers.len() < intermediates.len() => Refusal::IssuerNotCa,
                Refusal::Signature if self.leads_elsewhere(leaf, intermediates) => Refusal::UnknownIssuer,
                refusal => refusal,
            },
        )?;
        if id.trust_domain() == &*self.domain {
            Ok(id)
        } else {
            Err(Refusal::TrustDomain { peer: id, expected: Arc::clone(&self.domain) })
        }
    }

    /// Whether the chain, by the names that its certificates give to keys, ends at a root that is not trusted. The signature is then not
    /// wrong: an authority of the same subject made it, such as this one before its key was replaced.
    fn leads_elsewhere(&self, leaf: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> bool {
        let issuers: Vec<_> = intermediates.iter().map(key_ids).collect();
        let mut signer = key_ids(leaf).signer;
        for _ in 0..=issuers.len() {
            let Some(key) = signer else { return false };
            if self.keys.contains(&key) {
                return false;
            }
            let Some(issuer) = issuers.iter().find(|issuer| issuer.own.as_ref() == Some(&key)) else {
                return true;
            };
            signer = issuer.signer.clone();
        }
        true
    }
}

/// What a certificate calls its key and the key that signed it, where it does.
#[derive(Default)]
struct KeyIds {
    own: Option<Vec<u8>>,
    signer: Option<Vec<u8>>,
}

fn key_ids(certificate: &CertificateDer<'_>) -> KeyIds {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return KeyIds::default() };
    let mut ids = KeyIds::default();
    for found in certificate.extensions() {
        match found.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => ids.own = Some(id.0.to_vec()),
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                ids.signer = id.key_identifier.as_ref().map(|id| id.0.to_vec());
            }
            _ => {}
        }
    }
    if certificate.subject() == certificate.issuer() {
        // A root need not name the key that signed it.
        ids.signer = ids.signer.or_else(|| ids.own.clone());
    }
    ids
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
    let purposes = certificate.extended_key_usage().map_err(|_| Refusal::Malformed)?;
    if purposes.is_some_and(|found| !found.value.client_auth || !found.value.server_auth) {
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

/// Whether the key usage, if there is one, lets a certificate sign others. What cannot be read signs nothing.
fn may_sign(issuer: &CertificateDer<'_>) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(issuer) else { return false };
    certificate.key_usage().is_ok_and(|usage| usage.is_none_or(|usage| usage.value.key_cert_sign()))
}

fn refusal_of(error: &webpki::Error) -> Refusal {
    match error {
        webpki::Error::CertExpired { .. } => Refusal::Expired,
        webpki::Error::CertNotValidYet { .. } => Refusal::NotYetValid,
        webpki::Error::CaUsedAsEndEntity => Refusal::CaAsLeaf,
        webpki::Error::RequiredEkuNotFoundContext(_) | webpki::Error::EmptyEkuExtension => Refusal::KeyUsage,
        webpki::Error::EndEntityUsedAsCa => Refusal::IssuerNotCa,
        webpki::Error::PathLenConstraintViolated | webpki::Error::MaximumPathDepthExceeded => {
            Refusal::PathLength
        }
        webpki::Error::NameConstraintViolation
        | webpki::Error::MalformedNameConstraint
        | webpki::Error::UnsupportedNameType
        | webpki::Error::MaximumNameConstraintComparisonsExceeded => Refusal::NameConstraints,
        webpki::Error::UnsupportedCriticalExtension => Refusal::CriticalExtension,
        webpki::Error::InvalidSignatureForPublicKey | webpki::Error::SignatureAlgorithmMismatch => {
            Refusal::Signature
        }
        webpki::Error::UnsupportedSignatureAlgorithmContext(_)
        | webpki::Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => Refusal::Algorithm,
        webpki::Error::BadDer
        | webpki::Error::BadDerTime
        | webpki::Error::ExtensionValueInvalid
        | webpki::Error::MalformedExtensions
        | webpki::Error::InvalidCertValidity
        | webpki::Error::InvalidSerialNumber
        | webpki::Error::UnsupportedCertVersion
        | webpki::Error::TrailingData(_) => Refusal::Malformed,
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
        params.use_authority_key_identifier_extension = true;
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
