//! One certificate authority of a trust domain: a P-256 key and the root certificate that it signed for itself.
//!
//! Both live in the state directory and are read again at every start. The key is written first: a crash between the two
//! leaves a key without a root, for which an equal root is made, since certificates are verified by the authority's name
//! and key. A root without its key is refused: nothing could be issued that the mesh trusts.
//!
//! The file of roots may hold more certificates than the one of the key: [`Roots`](super::roots::Roots) has them trusted too.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::error::Unspecified;
use penstock_delivery::proto::penstock::ca::v1::PrefixKey;
use penstock_model::spiffe::SpiffeId;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::prefix_keys::{self, Source};
use super::verify::uri_names;
use crate::disk::{self, Secrecy};
use crate::seed;

pub(super) const KEY_FILE: &str = "ca-key.pem";
pub(super) const ROOT_FILE: &str = "root.pem";
/// What Istio's and Linkerd's own roots live for.
const ROOT_LIFE: time::Duration = time::Duration::days(3_650);
/// How far apart clocks in a mesh may be.
pub(super) const CLOCK_SKEW: time::Duration = time::Duration::seconds(20);

/// Signs for one trust domain.
pub(crate) struct Authority {
    trust_domain: Arc<str>,
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
    root_not_after: OffsetDateTime,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("trust_domain", &self.trust_domain).finish_non_exhaustive()
    }
}

impl Authority {
    /// Reads key and root from `dir`, or makes them when `dir` has neither.
    pub(crate) fn open(dir: &Path, trust_domain: &str, now: OffsetDateTime) -> Result<Self, AuthorityError> {
        let (key_path, root_path) = (dir.join(KEY_FILE), dir.join(ROOT_FILE));
        let key = read_key(&key_path)?;
        let root_pem = read_if_there(&root_path)?;
        let (key, root_pem) = match (key, root_pem) {
            (Some(key), Some(root_pem)) => (key, root_pem),
            (None, Some(_)) => return Err(AuthorityError::KeyMissing { key: key_path, root: root_path }),
            (key, None) => {
                let key = match key {
                    Some(key) => key,
                    None => write_new_key(&key_path)?,
                };
                let root_pem = self_signed_root(&key, trust_domain, now)?;
                write(&root_path, root_pem.as_bytes(), Secrecy::Public)?;
                (key, root_pem)
            }
        };
        Self::assemble(trust_domain, key, &root_pem, &root_path, now)
    }

    /// A key and the one root of it among those in a text.
    pub(super) fn assemble(
        trust_domain: &str,
        key: KeyPair,
        root_pem: &str,
        root_path: &Path,
        now: OffsetDateTime,
    ) -> Result<Self, AuthorityError> {
        let unreadable = |why: String| AuthorityError::RootUnreadable { path: root_path.to_owned(), why };
        let roots = certificates(root_pem.as_bytes()).map_err(unreadable)?;
        let root = of_key(roots, &key).map_err(unreadable)?;
        let root = root.ok_or_else(|| AuthorityError::KeyMismatch { root: root_path.to_owned() })?;
        let (_, parsed) = X509Certificate::from_der(&root).map_err(|e| unreadable(e.to_string()))?;
        if !parsed.is_ca() {
            return Err(unreadable("it is not the certificate of an authority".to_owned()));
        }
        let names = uri_names(&parsed);
        if names != [format!("spiffe://{trust_domain}")] {
            return Err(AuthorityError::OtherTrustDomain {
                path: root_path.to_owned(),
                found: names.join(", "),
                wanted: trust_domain.to_owned(),
            });
        }
        let root_not_after = parsed.validity().not_after.to_datetime();
        if root_not_after <= now {
            return Err(AuthorityError::RootExpired { path: root_path.to_owned(), at: root_not_after });
        }
        let issuer = Issuer::from_ca_cert_der(&root, key).map_err(AuthorityError::Crypto)?;
        Ok(Self { trust_domain: trust_domain.into(), issuer, root, root_not_after })
    }

    /// File that holds the root, for sidecars to trust.
    pub(crate) fn trust_bundle_path(dir: &Path) -> PathBuf {
        dir.join(ROOT_FILE)
    }

    /// The root in DER.
    pub(crate) fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }

    /// Nothing is issued past this.
    pub(crate) fn root_not_after(&self) -> OffsetDateTime {
        self.root_not_after
    }

    /// Keys of prefix digests follow from our own private key.
    pub(super) fn prefix_keys(&self, now: OffsetDateTime) -> Result<Vec<PrefixKey>, Unspecified> {
        let private_key = self.issuer.key().serialize_der();
        let source = Source { private_key: &private_key, trust_domain: &self.trust_domain };
        prefix_keys::keys(source, now)
    }

    pub(super) fn sign(
        &self,
        wanted: &CertificateParams,
        key: &impl PublicKeyData,
    ) -> Result<CertificateDer<'static>, rcgen::Error> {
        wanted.signed_by(key, &self.issuer).map(Into::into)
    }
}

/// Every certificate of a PEM text, one at least.
pub(super) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match all.map_err(|error| error.to_string())? {
        all if all.is_empty() => Err("it holds no certificate".to_owned()),
        all => Ok(all),
    }
}

fn of_key(
    roots: Vec<CertificateDer<'static>>,
    key: &KeyPair,
) -> Result<Option<CertificateDer<'static>>, String> {
    for root in roots {
        let (_, parsed) = X509Certificate::from_der(&root).map_err(|error| error.to_string())?;
        if parsed.public_key().raw == key.subject_public_key_info() {
            return Ok(Some(root));
        }
    }
    Ok(None)
}

pub(super) fn read_key(path: &Path) -> Result<Option<KeyPair>, AuthorityError> {
    let Some(pem) = read_if_there(path)? else { return Ok(None) };
    let mode = std::fs::metadata(path)
        .map_err(|source| AuthorityError::Io { path: path.to_owned(), source })?
        .permissions()
        .mode()
        & 0o777;
    if mode & 0o177 != 0 {
        return Err(AuthorityError::KeyOpen { path: path.to_owned(), mode });
    }
    let unreadable = || AuthorityError::KeyUnreadable { path: path.to_owned() };
    let key = KeyPair::from_pem(&pem).map_err(|_| unreadable())?;
    if key.is_compatible(&PKCS_ECDSA_P256_SHA256) { Ok(Some(key)) } else { Err(unreadable()) }
}

pub(super) fn write_new_key(path: &Path) -> Result<KeyPair, AuthorityError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(AuthorityError::Crypto)?;
    write(path, key.serialize_pem().as_bytes(), Secrecy::Private)?;
    Ok(key)
}

pub(super) fn self_signed_root(
    key: &KeyPair,
    trust_domain: &str,
    now: OffsetDateTime,
) -> Result<String, AuthorityError> {
    let identity: SpiffeId = format!("spiffe://{trust_domain}")
        .parse()
        .map_err(|_| AuthorityError::TrustDomain { trust_domain: trust_domain.to_owned() })?;
    let mut wanted = CertificateParams::default();
    wanted.distinguished_name = DistinguishedName::new();
    wanted.distinguished_name.push(DnType::CommonName, "Penstock root");
    wanted.subject_alt_names =
        vec![SanType::URI(identity.as_str().try_into().map_err(AuthorityError::Crypto)?)];
    wanted.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    wanted.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    wanted.not_before = now - CLOCK_SKEW;
    wanted.not_after = now + ROOT_LIFE;
    wanted.serial_number = Some(serial()?);
    wanted.self_signed(key).map(|root| root.pem()).map_err(AuthorityError::Crypto)
}

/// 128 random bits, of which the first is 0 and the second 1: positive and of constant length in DER.
pub(super) fn serial() -> Result<SerialNumber, seed::NoEntropy> {
    let mut drawn = seed::bytes::<16>()?;
    drawn[0] = (drawn[0] & 0x7f) | 0x40;
    Ok(SerialNumber::from_slice(&drawn))
}

pub(super) fn read_if_there(path: &Path) -> Result<Option<String>, AuthorityError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(AuthorityError::Io { path: path.to_owned(), source }),
    }
}

pub(super) fn write(path: &Path, content: &[u8], secrecy: Secrecy) -> Result<(), AuthorityError> {
    disk::replace(path, content, secrecy)
        .map_err(|source| AuthorityError::Io { path: path.to_owned(), source })
}

/// Why the authority cannot start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthorityError {
    /// A file cannot be read or written.
    #[error("{}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Others than the owner may read the key.
    #[error("the key {} has mode {mode:04o}, so others may use it; run: chmod 600 {}", path.display(), path.display())]
    KeyOpen {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The key is damaged or of another kind.
    #[error("{} is not an ECDSA P-256 key in PKCS #8 PEM; restore it from a backup", path.display())]
    KeyUnreadable {
        /// The file.
        path: PathBuf,
    },
    /// There is a root, but not its key.
    #[error(
        "{} is there but its key {} is not; restore the key, or remove the root to start a new authority, which every \
         sidecar must then be told to trust",
        root.display(), key.display()
    )]
    KeyMissing {
        /// Where the key should be.
        key: PathBuf,
        /// The root.
        root: PathBuf,
    },
    /// The root was made with another key.
    #[error("{} does not belong to the key beside it; restore both from the same backup", root.display())]
    KeyMismatch {
        /// The root.
        root: PathBuf,
    },
    /// The root is damaged.
    #[error("{} is not a usable root certificate: {why}", path.display())]
    RootUnreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The root is past its end.
    #[error("the root {} expired at {at}; remove it and its key to start a new authority", path.display())]
    RootExpired {
        /// The file.
        path: PathBuf,
        /// Its end.
        at: OffsetDateTime,
    },
    /// The root names another trust domain.
    #[error(
        "the root {} is for `{found}`, not for the trust domain `{wanted}`; use another state directory or the trust \
         domain it was made for",
        path.display()
    )]
    OtherTrustDomain {
        /// The file.
        path: PathBuf,
        /// URI names in the root.
        found: String,
        /// The trust domain asked for.
        wanted: String,
    },
    /// A certificate is asked to be trusted that verifies nothing.
    #[error("{} cannot be trusted: {why}", path.display())]
    Untrustable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The trust domain does not fit the SPIFFE grammar.
    #[error(
        "`{trust_domain}` is not a trust domain: it may hold a-z, 0-9, `.`, `-` and `_`, such as `cluster.local`"
    )]
    TrustDomain {
        /// What was given.
        trust_domain: String,
    },
    /// A key or certificate cannot be made.
    #[error("cannot make a key or certificate")]
    Crypto(#[source] rcgen::Error),
    /// There is no randomness for a serial number.
    #[error(transparent)]
    NoEntropy(#[from] seed::NoEntropy),
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-21 09:00 UTC);
    const TRUST_DOMAIN: &str = "cluster.local";

    fn check(spoil: impl FnOnce(&Path), trust_domain: &str, now: OffsetDateTime, expected: &str) {
        let dir = tempfile::tempdir().unwrap();
        Authority::open(dir.path(), TRUST_DOMAIN, NOW).unwrap();
        spoil(dir.path());
        let error = Authority::open(dir.path(), trust_domain, now).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }

    #[test]
    fn key_and_root_survive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let first = Authority::open(dir.path(), TRUST_DOMAIN, NOW).unwrap();
        let second = Authority::open(dir.path(), TRUST_DOMAIN, NOW + time::Duration::days(30)).unwrap();
        assert_eq!(first.root(), second.root());
        assert_eq!(first.prefix_keys(NOW), second.prefix_keys(NOW), "prefix digests go on");
        let mode = std::fs::metadata(dir.path().join(KEY_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn the_root_is_a_spiffe_authority_for_ten_years() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open(dir.path(), TRUST_DOMAIN, NOW).unwrap();
        let (_, root) = X509Certificate::from_der(authority.root()).unwrap();
        let limits = root.basic_constraints().unwrap().unwrap();
        assert!(limits.critical && limits.value.ca);
        assert_eq!(limits.value.path_len_constraint, Some(0));
        let usage = root.key_usage().unwrap().unwrap();
        assert!(usage.critical && usage.value.key_cert_sign() && !usage.value.digital_signature());
        assert_eq!(uri_names(&root), ["spiffe://cluster.local"]);
        assert_eq!(authority.root_not_after(), NOW + ROOT_LIFE);
    }

    #[test]
    fn a_key_whose_root_was_never_written_gets_one() {
        let dir = tempfile::tempdir().unwrap();
        let first = Authority::open(dir.path(), TRUST_DOMAIN, NOW).unwrap();
        std::fs::remove_file(dir.path().join(ROOT_FILE)).unwrap();
        let second = Authority::open(dir.path(), TRUST_DOMAIN, NOW).unwrap();
        let key_of = |authority: &Authority| {
            X509Certificate::from_der(authority.root()).unwrap().1.public_key().raw.to_vec()
        };
        assert_eq!(key_of(&first), key_of(&second));
    }

    #[test]
    fn what_cannot_be_trusted_is_refused_with_its_remedy() {
        let open_key = |dir: &Path| {
            std::fs::set_permissions(dir.join(KEY_FILE), std::fs::Permissions::from_mode(0o640)).unwrap();
        };
        check(open_key, TRUST_DOMAIN, NOW, "chmod 600");
        let lose_key = |dir: &Path| std::fs::remove_file(dir.join(KEY_FILE)).unwrap();
        check(lose_key, TRUST_DOMAIN, NOW, "restore the key");
        let other_key = |dir: &Path| {
            std::fs::remove_file(dir.join(KEY_FILE)).unwrap();
            write_new_key(&dir.join(KEY_FILE)).unwrap();
        };
        check(other_key, TRUST_DOMAIN, NOW, "does not belong to the key");
        let damage = |file: &'static str| {
            move |dir: &Path| disk::replace(&dir.join(file), b"damaged", Secrecy::Private).unwrap()
        };
        check(damage(KEY_FILE), TRUST_DOMAIN, NOW, "is not an ECDSA P-256 key");
        check(damage(ROOT_FILE), TRUST_DOMAIN, NOW, "is not a usable root certificate");
        check(|_| (), "other.example", NOW, "not for the trust domain `other.example`");
        check(|_| (), TRUST_DOMAIN, NOW + ROOT_LIFE, "expired");
    }

    #[test]
    fn a_trust_domain_outside_the_grammar_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let error = Authority::open(dir.path(), "Cluster Local", NOW).unwrap_err();
        assert!(error.to_string().contains("is not a trust domain"), "{error}");
    }
}
