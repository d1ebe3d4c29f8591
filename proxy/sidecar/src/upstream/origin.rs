//! TLS to endpoints outside the mesh: who must be there, by the rules of the Gateway API's BackendTLSPolicy.
//!
//! `hostname` is sent as SNI. The certificate must lead to one of the roots and be for `hostname`; where `names` are given it must
//! have one of those instead. We present no certificate. TLS 1.3 is spoken, and 1.2 with whoever knows no better.
//!
//! Roots of the system are those that `rustls-native-certs` finds: what an operator has put into the image counts, and a root that
//! is withdrawn goes with the next image; a list that is compiled in would know neither. They are read once for each Backend. Roots
//! in a file are looked at again, at a dial, after 5 s; if it cannot be read any more, the last good ones stay.

use std::sync::Arc;
use std::time::Duration;

use penstock_model::snapshot::{PeerName, Roots, Tls};
use penstock_model::units::Moment;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::version::{TLS12, TLS13};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore,
    SignatureScheme,
};
use tokio::sync::Mutex;
use webpki::EndEntityCert;

use crate::clock;
use crate::identity::tls::provider;

/// Roots in a file are not looked at again sooner.
const FILE_FRESH: Duration = Duration::from_secs(5);

/// Why an endpoint outside the mesh is not trusted. Each reason has a metric label of its own.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Distrust {
    /// The roots are unusable, so nobody can be trusted.
    #[error("the roots are unusable: {0}")]
    Roots(String),
    /// Its time has passed.
    #[error("its certificate has expired")]
    Expired,
    /// Its time has not come; the clocks may differ.
    #[error("its certificate is not valid yet")]
    NotYetValid,
    /// It leads to no root of the Backend.
    #[error("its certificate's issuer is not among the Backend's roots")]
    UnknownIssuer,
    /// It names a root of the Backend as its issuer, and another key has signed it.
    #[error(
        "its certificate names one of the Backend's roots and is not signed by it; a root of the same name may have replaced it"
    )]
    Signature,
    /// It is for somebody else.
    #[error("its certificate is for none of: {0}")]
    WrongName(String),
    /// It may not be used for a server, or cannot be read, or is signed badly.
    #[error("its certificate is unusable: {0}")]
    Certificate(String),
    /// It does not speak the HTTP that the Backend's protocol needs.
    #[error("it did not agree to speak HTTP/2 (ALPN `h2`), which the Backend's protocol needs")]
    NoHttp2,
    /// It refused us: it may want a certificate of ours, or not serve the name.
    #[error("it broke the handshake off: {0}")]
    Alert(String),
}

impl Distrust {
    /// Value of the metric label `reason`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Roots(_) => "roots_unusable",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::UnknownIssuer => "unknown_issuer",
            Self::Signature => "signature",
            Self::WrongName(_) => "wrong_name",
            Self::Certificate(_) => "malformed",
            Self::NoHttp2 => "alpn",
            Self::Alert(_) => "alert",
        }
    }

    /// What a failed handshake says of the endpoint; nothing where it says something of the network.
    pub fn of(error: &std::io::Error) -> Option<Self> {
        match error.get_ref()?.downcast_ref::<rustls::Error>()? {
            rustls::Error::InvalidCertificate(certificate) => Some(Self::of_certificate(certificate)),
            rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol) => Some(Self::NoHttp2),
            rustls::Error::AlertReceived(alert) => Some(Self::Alert(format!("{alert:?}"))),
            _ => None,
        }
    }

    fn of_certificate(error: &CertificateError) -> Self {
        match error {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotYetValid,
            CertificateError::UnknownIssuer => Self::UnknownIssuer,
            CertificateError::BadSignature => Self::Signature,
            CertificateError::Other(OtherError(inner)) => {
                inner.downcast_ref::<Self>().cloned().unwrap_or_else(|| Self::Certificate(inner.to_string()))
            }
            other => Self::Certificate(other.to_string()),
        }
    }
}

impl From<Distrust> for rustls::Error {
    fn from(distrust: Distrust) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(distrust))))
    }
}

/// TLS of one Backend, for as long as its `tls` stays the same.
#[derive(Debug)]
pub struct Origin {
    tls: Arc<Tls>,
    loaded: Mutex<Option<Loaded>>,
}

#[derive(Debug)]
struct Loaded {
    config: Arc<ClientConfig>,
    /// What the roots were made of, where that can change.
    file: Vec<u8>,
    at: Moment,
}

impl Origin {
    /// Nothing is read yet.
    pub fn new(tls: Arc<Tls>) -> Arc<Self> {
        Arc::new(Self { tls, loaded: Mutex::default() })
    }

    /// As decided.
    pub fn tls(&self) -> &Arc<Tls> {
        &self.tls
    }

    /// The name that is asked for.
    ///
    /// # Errors
    /// When it is no DNS name, which the compiler has refused.
    pub fn server_name(&self) -> Result<ServerName<'static>, Distrust> {
        server_name(&self.tls.hostname)
    }

    /// The configuration of the next handshake.
    ///
    /// # Errors
    /// When the roots are unusable and never were usable.
    pub async fn config(&self) -> Result<Arc<ClientConfig>, Distrust> {
        let mut loaded = self.loaded.lock().await;
        if let Some(loaded) = &*loaded
            && !(matches!(self.tls.roots, Roots::File(_)) && clock::now().since(loaded.at) >= FILE_FRESH)
        {
            return Ok(Arc::clone(&loaded.config));
        }
        match (self.load(loaded.as_ref()).await, &mut *loaded) {
            (Ok(new), _) => {
                let config = Arc::clone(&new.config);
                *loaded = Some(new);
                Ok(config)
            }
            (Err(error), Some(old)) => {
                tracing::warn!(hostname = &*self.tls.hostname, %error, "the last good roots stay in use");
                old.at = clock::now();
                Ok(Arc::clone(&old.config))
            }
            (Err(error), None) => Err(error),
        }
    }

    async fn load(&self, before: Option<&Loaded>) -> Result<Loaded, Distrust> {
        let at = clock::now();
        let unusable = |error: &dyn std::fmt::Display| Distrust::Roots(error.to_string());
        let (roots, file) = match &self.tls.roots {
            Roots::System => {
                let loading = tokio::task::spawn_blocking(system_roots);
                (loading.await.map_err(|error| unusable(&error))??, Vec::new())
            }
            Roots::Pem(pem) => (pem_roots(pem.as_bytes())?, Vec::new()),
            Roots::File(path) => {
                let read = tokio::fs::read(&**path).await;
                let file = read.map_err(|error| Distrust::Roots(format!("{path}: {error}")))?;
                if let Some(before) = before.filter(|before| before.file == file) {
                    return Ok(Loaded { config: Arc::clone(&before.config), file, at });
                }
                (pem_roots(&file)?, file)
            }
        };
        let verifier = Verifier::new(&self.tls, roots)?;
        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(|error| unusable(&error))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        Ok(Loaded { config: Arc::new(config), file, at })
    }
}

fn server_name(name: &str) -> Result<ServerName<'static>, Distrust> {
    ServerName::try_from(name.to_owned()).map_err(|error| Distrust::Roots(format!("`{name}`: {error}")))
}

fn system_roots() -> Result<RootCertStore, Distrust> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // A system's store may hold what no verifier can use; one bad entry must not cost the others.
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    if usable == 0 {
        let errors: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
        return Err(Distrust::Roots(format!("the system has none ({})", errors.join("; "))));
    }
    Ok(roots)
}

fn pem_roots(pem: &[u8]) -> Result<RootCertStore, Distrust> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| Distrust::Roots(error.to_string()))?;
        roots.add(certificate).map_err(|error| Distrust::Roots(error.to_string()))?;
    }
    if roots.is_empty() { Err(Distrust::Roots("there is no certificate".to_owned())) } else { Ok(roots) }
}

/// Checks a chain against the roots, and the leaf against the names.
#[derive(Debug)]
struct Verifier {
    roots: RootCertStore,
    hostnames: Vec<ServerName<'static>>,
    uris: Vec<Arc<str>>,
    /// For the message when none fits.
    wanted: String,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    fn new(tls: &Tls, roots: RootCertStore) -> Result<Self, Distrust> {
        let (mut hostnames, mut uris, mut wanted) = (Vec::new(), Vec::new(), Vec::new());
        for name in &tls.names {
            match name {
                PeerName::Hostname(name) => {
                    hostnames.push(server_name(name)?);
                    wanted.push(&**name);
                }
                PeerName::Uri(uri) => {
                    uris.push(Arc::clone(uri));
                    wanted.push(&**uri);
                }
            }
        }
        if tls.names.is_empty() {
            hostnames.push(server_name(&tls.hostname)?);
            wanted.push(&*tls.hostname);
        }
        let wanted = wanted.join(", ");
        let algorithms = provider().signature_verification_algorithms;
        Ok(Self { roots, hostnames, uris, wanted, algorithms })
    }

    fn has_name(&self, leaf: &CertificateDer<'_>, parsed: &ParsedCertificate<'_>) -> bool {
        let is_for = |name: &ServerName<'_>| verify_server_name(parsed, name).is_ok();
        if self.hostnames.iter().any(is_for) {
            return true;
        }
        let Ok(leaf) = EndEntityCert::try_from(leaf) else { return false };
        leaf.valid_uri_names().any(|uri| self.uris.iter().any(|wanted| **wanted == *uri))
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let parsed = ParsedCertificate::try_from(leaf)?;
        let now = UnixTime::since_unix_epoch(clock::unix_time());
        let algorithms = self.algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms)?;
        if self.has_name(leaf, &parsed) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(Distrust::WrongName(self.wanted.clone()).into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};
    use tokio::time::sleep;

    use super::*;

    fn root() -> String {
        let key = KeyPair::generate().unwrap();
        CertificateParams::default().self_signed(&key).unwrap().pem()
    }

    #[tokio::test(start_paused = true)]
    async fn roots_in_a_file_are_read_again_and_what_cannot_be_used_changes_nothing() {
        clock::simulate(Duration::ZERO);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("roots.pem");
        let roots = Roots::File(path.to_str().unwrap().into());
        let origin = Origin::new(Arc::new(Tls { hostname: "a.example".into(), roots, names: Vec::new() }));
        let missing = origin.config().await.map(drop).unwrap_err();
        assert!(matches!(&missing, Distrust::Roots(why) if why.contains("roots.pem")), "{missing}");
        let mut before = None;
        for (written, waited, expected) in [
            (Some(root()), Duration::ZERO, "read"),
            (Some(root()), FILE_FRESH / 2, "kept"),
            (None, FILE_FRESH, "read"),
            (None, FILE_FRESH, "kept"),
            (Some(String::new()), FILE_FRESH, "kept"),
            (
                Some("-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n".to_owned()),
                FILE_FRESH,
                "kept",
            ),
            (Some(root()), FILE_FRESH, "read"),
        ] {
            if let Some(written) = &written {
                std::fs::write(&path, written).unwrap();
            }
            sleep(waited).await;
            let config = origin.config().await.unwrap();
            let is_kept =
                before.replace(Arc::clone(&config)).is_some_and(|before| Arc::ptr_eq(&before, &config));
            assert_eq!(if is_kept { "kept" } else { "read" }, expected, "{written:?} after {waited:?}");
        }
    }
}
