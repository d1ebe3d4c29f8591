//! Certificates, good ones and every defective one, and TLS configurations that show them.

use std::path::Path;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use time::{Duration, OffsetDateTime};

/// Who signs.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root_pem: String,
}

/// A certificate and its key.
#[derive(Debug)]
pub struct Leaf {
    certificate: CertificateDer<'static>,
    pem: String,
    key: KeyPair,
}

impl Authority {
    /// The authority of a control plane, by the files in its state directory.
    ///
    /// # Panics
    /// When they are not there.
    pub fn of_plane(state_dir: &Path) -> Self {
        let read =
            |name: &str| std::fs::read_to_string(state_dir.join(name)).expect("a file of the authority");
        let key = KeyPair::from_pem(&read("ca-key.pem")).expect("a key");
        let root_pem = read("root.pem");
        Self { issuer: Issuer::from_ca_cert_pem(&root_pem, key).expect("a root certificate"), root_pem }
    }

    /// An authority that nobody trusts.
    ///
    /// # Panics
    /// When no key can be made.
    pub fn unknown() -> Self {
        let mut params = params(&["spiffe://cluster.local"]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().expect("a key");
        let root_pem = params.self_signed(&key).expect("a root certificate").pem();
        Self { issuer: Issuer::new(params, key), root_pem }
    }

    /// Its own certificate.
    pub fn root_pem(&self) -> &str {
        &self.root_pem
    }

    /// A good leaf for this SPIFFE ID.
    pub fn leaf(&self, id: &str) -> Leaf {
        self.sign(&params(&[id]))
    }

    /// A leaf as `change` leaves it.
    pub fn changed(&self, id: &str, change: impl FnOnce(&mut CertificateParams)) -> Leaf {
        let mut params = params(&[id]);
        change(&mut params);
        self.sign(&params)
    }

    /// Signs.
    ///
    /// # Panics
    /// When that cannot be signed.
    pub fn sign(&self, params: &CertificateParams) -> Leaf {
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Leaf { pem: certificate.pem(), certificate: certificate.der().clone(), key }
    }
}

/// A good leaf for these URI names, before it is signed.
pub fn params(uris: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    (params.not_before, params.not_after) = (from_now(-60), from_now(3_600));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names = uris.iter().map(|uri| uri_name(uri)).collect();
    params.use_authority_key_identifier_extension = true;
    params
}

/// A URI as a certificate names it.
///
/// # Panics
/// When it is not ASCII.
pub fn uri_name(uri: &str) -> SanType {
    SanType::URI(uri.try_into().expect("ASCII"))
}

/// A time so many seconds from now.
#[expect(clippy::disallowed_methods, reason = "certificates are made for the clock of this machine")]
pub fn from_now(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::from(std::time::SystemTime::now()) + Duration::seconds(seconds)
}

impl Leaf {
    /// The certificate and its key as files hold them.
    pub fn pem(&self) -> (&str, String) {
        (&self.pem, self.key.serialize_pem())
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.serialize_der()).into()
    }

    /// For a client that shows this certificate and believes whatever it is shown.
    ///
    /// # Panics
    /// When the certificate cannot be shown at all.
    pub fn client(&self) -> ClientConfig {
        let config = credulous().with_client_auth_cert(vec![self.certificate.clone()], self.key());
        h2(config.expect("a certificate that can be shown"))
    }

    /// For a server that shows this certificate and asks for none.
    ///
    /// # Panics
    /// When the certificate cannot be shown at all.
    pub fn server(&self) -> ServerConfig {
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("TLS")
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone()], self.key());
        let mut config = config.expect("a certificate that can be shown");
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }
}

/// For a client that shows no certificate and believes whatever it is shown.
pub fn nameless_client() -> ClientConfig {
    h2(credulous().with_no_client_auth())
}

fn h2(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.enable_sni = false;
    config
}

fn credulous() -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("TLS")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Believes whatever it is shown: the tests are about what the other side believes.
#[derive(Debug)]
struct Credulous;

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
