//! From a certificate request to a leaf.
//!
//! Two things are read from a request: the key, of which its signature proves possession, and the one URI name. Everything
//! else it asks for is ignored; the shape of a leaf is decided here alone (SPIFFE X.509-SVID: empty subject, critical SAN,
//! digital signature, not an authority).

use std::net::IpAddr;
use std::time::Duration;

use penstock_model::spiffe::SpiffeId;
use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PublicKeyData, SanType, SubjectPublicKeyInfo,
};
use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

use super::authority::{Authority, CLOCK_SKEW, serial};
use super::refusal::Refusal;

/// What a certificate request proves: its sender holds the key, and wants this name for it.
#[derive(Debug)]
pub(crate) struct CertificateRequest {
    pub(crate) identity: SpiffeId,
    key: SubjectPublicKeyInfo,
}

/// Times of a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lifetime {
    pub(crate) not_before: OffsetDateTime,
    pub(crate) not_after: OffsetDateTime,
}

/// An issued certificate with what leads to the root; the root itself is not part of it.
#[derive(Clone, Debug)]
pub(crate) struct Leaf {
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) lifetime: Lifetime,
}

impl CertificateRequest {
    /// Ten times what a P-384 request with one name needs.
    const BYTES_MAX: usize = 16 << 10;

    /// Reads and verifies a PKCS #10 request in DER.
    pub(crate) fn read(der: &[u8]) -> Result<Self, Refusal> {
        if der.len() > Self::BYTES_MAX {
            return Err(Refusal::RequestTooLong { bytes: der.len(), bytes_max: Self::BYTES_MAX });
        }
        let malformed = |why: String| Refusal::RequestMalformed { why };
        let (rest, request) =
            X509CertificationRequest::from_der(der).map_err(|error| malformed(error.to_string()))?;
        if !rest.is_empty() {
            return Err(malformed(format!("{} bytes follow it", rest.len())));
        }
        let key = SubjectPublicKeyInfo::from_der(request.certification_request_info.subject_pki.raw)
            .map_err(|_| Refusal::RequestKey)?;
        if ![&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384].contains(&key.algorithm()) {
            return Err(Refusal::RequestKey);
        }
        request.verify_signature().map_err(|_| Refusal::RequestSignature)?;
        let uris: Vec<&str> = request
            .requested_extensions()
            .into_iter()
            .flatten()
            .filter_map(|extension| match extension {
                ParsedExtension::SubjectAlternativeName(names) => Some(&names.general_names),
                _ => None,
            })
            .flatten()
            .filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None })
            .collect();
        let identity = match uris[..] {
            [uri] => uri.parse()?,
            [] => return Err(Refusal::NoUri),
            _ => return Err(Refusal::SeveralUris { count: uris.len() }),
        };
        Ok(Self { identity, key })
    }
}

impl Lifetime {
    /// From a moment ago, for clocks that are behind, until `ttl` from now or the end of the root.
    pub(crate) fn starting(now: OffsetDateTime, ttl: Duration, root_not_after: OffsetDateTime) -> Self {
        // X.509 counts whole seconds; rounded down, so that no leaf lives longer than it may.
        let now = now.replace_nanosecond(0).unwrap_or(now);
        let end = time::Duration::try_from(ttl).ok().and_then(|ttl| now.checked_add(ttl));
        Self {
            not_before: now - CLOCK_SKEW,
            not_after: end.map_or(root_not_after, |end| end.min(root_not_after)),
        }
    }
}

impl Authority {
    /// A leaf for the key of a request.
    pub(crate) fn issue(&self, request: &CertificateRequest, lifetime: Lifetime) -> Result<Leaf, IssueError> {
        self.issue_named(&request.identity, &[], &[], &request.key, lifetime)
    }

    /// A leaf that also carries the names by which ordinary TLS clients know a server.
    pub(super) fn issue_named(
        &self,
        identity: &SpiffeId,
        hosts: &[&str],
        addresses: &[IpAddr],
        key: &impl PublicKeyData,
        lifetime: Lifetime,
    ) -> Result<Leaf, IssueError> {
        let mut wanted = CertificateParams::default();
        wanted.distinguished_name = DistinguishedName::new();
        wanted.subject_alt_names = vec![SanType::URI(identity.as_str().try_into()?)];
        for host in hosts {
            wanted.subject_alt_names.push(SanType::DnsName((*host).try_into()?));
        }
        wanted.subject_alt_names.extend(addresses.iter().copied().map(SanType::IpAddress));
        wanted.is_ca = IsCa::ExplicitNoCa;
        wanted.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        wanted.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        wanted.use_authority_key_identifier_extension = true;
        wanted.not_before = lifetime.not_before;
        wanted.not_after = lifetime.not_after;
        wanted.serial_number = Some(serial()?);
        Ok(Leaf { certificate: self.sign(&wanted, key)?, lifetime })
    }
}

/// A leaf could not be made, through no fault of who asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IssueError {
    #[error("cannot sign a certificate")]
    Crypto(#[from] rcgen::Error),
    #[error(transparent)]
    NoEntropy(#[from] crate::seed::NoEntropy),
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, KeyPair, PKCS_ED25519};
    use time::macros::datetime;
    use x509_parser::prelude::X509Certificate;

    use super::super::verify::uri_names;
    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-21 09:00:00.75 UTC);
    const WEB: &str = "spiffe://cluster.local/ns/chat/sa/web";

    fn p256() -> KeyPair {
        KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
    }

    fn uris(names: &[&str]) -> CertificateParams {
        let mut wanted = CertificateParams::default();
        wanted.subject_alt_names =
            names.iter().map(|name| SanType::URI((*name).try_into().unwrap())).collect();
        wanted
    }

    fn request(wanted: &CertificateParams, key: &KeyPair) -> Vec<u8> {
        wanted.serialize_request(key).unwrap().der().to_vec()
    }

    fn check(der: &[u8], label: &str) {
        let refusal = CertificateRequest::read(der).unwrap_err();
        assert_eq!(refusal.label(), label, "{refusal}");
    }

    #[test]
    fn bad_requests_are_refused_each_with_its_reason() {
        let good = request(&uris(&[WEB]), &p256());
        check(b"", "request_malformed");
        check(b"-----BEGIN CERTIFICATE REQUEST-----", "request_malformed");
        check(&good[..good.len() - 1], "request_malformed");
        check(&[&good[..], b"\0"].concat(), "request_malformed");
        check(&vec![0x30; CertificateRequest::BYTES_MAX + 1], "request_too_long");
        let mut other_name = good;
        let name_at = other_name.windows(3).position(|window| window == b"web").unwrap();
        other_name[name_at] = b'W';
        check(&other_name, "request_signature");
        check(&request(&uris(&[WEB]), &KeyPair::generate_for(&PKCS_ED25519).unwrap()), "request_key");
        check(&request(&uris(&[]), &p256()), "no_uri");
        let mut host_only = uris(&[]);
        host_only.subject_alt_names.push(SanType::DnsName("web.chat".try_into().unwrap()));
        check(&request(&host_only, &p256()), "no_uri");
        check(&request(&uris(&[WEB, WEB]), &p256()), "several_uris");
        check(&request(&uris(&[WEB, "https://example.org/"]), &p256()), "several_uris");
        check(&request(&uris(&["https://cluster.local/ns/chat/sa/web"]), &p256()), "not_spiffe");
        check(&request(&uris(&["spiffe://cluster.local/ns/chat/sa/web/"]), &p256()), "not_spiffe");
    }

    #[test]
    fn no_damage_changes_what_a_request_proves() {
        let good = request(&uris(&[WEB]), &p256());
        let whole = CertificateRequest::read(&good).unwrap();
        assert_eq!(whole.identity.as_str(), WEB);
        for length in 0..good.len() {
            assert!(CertificateRequest::read(&good[..length]).is_err(), "{length}");
        }
        for at in 0..good.len() {
            let mut spoilt = good.clone();
            spoilt[at] ^= 0x41;
            if let Ok(read) = CertificateRequest::read(&spoilt) {
                assert_eq!((read.identity, read.key), (whole.identity.clone(), whole.key.clone()), "{at}");
            }
        }
    }

    #[test]
    fn a_leaf_has_the_name_and_key_of_the_request_and_nothing_else_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open(dir.path(), "cluster.local", NOW).unwrap();
        let key = p256();
        let mut greedy = uris(&[WEB]);
        greedy.subject_alt_names.push(SanType::DnsName("penstock-controller-headless".try_into().unwrap()));
        greedy.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        greedy.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        greedy.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
        let wanted = CertificateRequest::read(&request(&greedy, &key)).unwrap();
        let lifetime = Lifetime::starting(NOW, Duration::from_secs(3_600), authority.root_not_after());
        let leaf = authority.issue(&wanted, lifetime).unwrap();

        let (_, parsed) = X509Certificate::from_der(&leaf.certificate).unwrap();
        assert_eq!(parsed.public_key().raw, key.subject_public_key_info());
        assert_eq!(uri_names(&parsed), [WEB]);
        let names = parsed.subject_alternative_name().unwrap().unwrap();
        assert!(names.critical && parsed.subject().iter().count() == 0);
        assert_eq!(names.value.general_names.len(), 1);
        assert!(!parsed.is_ca());
        let usage = parsed.key_usage().unwrap().unwrap();
        assert!(usage.critical && usage.value.digital_signature());
        assert!(!usage.value.key_cert_sign() && !usage.value.crl_sign());
        let purposes = parsed.extended_key_usage().unwrap().unwrap().value;
        assert!(purposes.server_auth && purposes.client_auth && !purposes.code_signing && !purposes.any);
        assert_eq!(parsed.validity().not_before.to_datetime(), datetime!(2026-11-21 08:59:40 UTC));
        assert_eq!(parsed.validity().not_after.to_datetime(), datetime!(2026-11-21 10:00 UTC));
        assert_eq!(parsed.raw_serial().len(), 16);
        let again = authority.issue(&wanted, lifetime).unwrap();
        assert_ne!(
            parsed.raw_serial(),
            X509Certificate::from_der(&again.certificate).unwrap().1.raw_serial()
        );
    }

    #[test]
    fn no_leaf_outlives_the_root() {
        let end = NOW + time::Duration::hours(1);
        for ttl in [Duration::from_secs(7_200), Duration::MAX] {
            assert_eq!(Lifetime::starting(NOW, ttl, end).not_after, end);
        }
    }
}
