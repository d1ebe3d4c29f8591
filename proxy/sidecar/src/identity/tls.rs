//! TLS 1.3 with our own certificate and our own check of the peer's, on both ends, over one cell that rotation swaps.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme, version::TLS13,
};

use super::verify::{Peer, Refusal, Trust};
use crate::clock;

/// What a sidecar proves itself with, and whom it believes. Swapped as one.
#[derive(Clone, Debug)]
pub struct Material {
    /// Leaf first. A client may have none, toward the control plane that is to give it one.
    pub certificate: Option<Arc<CertifiedKey>>,
    /// When the certificate expires, since 1970.
    pub not_after: Duration,
    /// Whom it believes.
    pub trust: Trust,
}

impl Material {
    /// Whether the certificate has expired at `now`, since 1970.
    pub fn is_over(&self, now: Duration) -> bool {
        self.not_after <= now
    }
}

/// The cell from which every handshake takes the current material; connections that are open keep what they began with.
pub type Cell = Arc<ArcSwapOption<Material>>;

/// HTTP/2 between sidecars.
pub const ALPN_H2: &[u8] = b"h2";
/// HTTP/1.1, with endpoints outside the mesh.
pub const ALPN_HTTP1: &[u8] = b"http/1.1";

/// For the inbound listener.
///
/// # Errors
/// When the crypto provider lacks TLS 1.3, which would be a build defect.
pub fn server_config(cell: &Cell) -> Result<ServerConfig, rustls::Error> {
    let presenter = Arc::new(Presenter(Arc::clone(cell)));
    let verifier = Arc::new(Verifier::new(cell));
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(presenter);
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    // A ticket would let a client whose certificate has since expired back in.
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// For connections to other sidecars.
///
/// # Errors
/// As for [`server_config`].
pub fn client_config(cell: &Cell) -> Result<ClientConfig, rustls::Error> {
    let presenter = Arc::new(Presenter(Arc::clone(cell)));
    let verifier = Arc::new(Verifier::new(cell));
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(presenter);
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    config.enable_sni = false;
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// AWS-LC, named everywhere instead of a process default. Its first key exchange is X25519MLKEM768.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

#[derive(Debug)]
struct Presenter(Cell);

impl ResolvesServerCert for Presenter {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load().as_ref().and_then(|material| material.certificate.clone())
    }
}

impl ResolvesClientCert for Presenter {
    fn resolve(&self, _issuers: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.load().as_ref().and_then(|material| material.certificate.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[derive(Debug)]
struct Verifier {
    cell: Cell,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    fn new(cell: &Cell) -> Self {
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        Self { cell: Arc::clone(cell), algorithms }
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        peer: Peer,
    ) -> Result<(), rustls::Error> {
        let material = self.cell.load();
        let material = material.as_ref().ok_or(Refusal::NotReady)?;
        let now = clock::unix_time();
        if material.is_over(now) {
            return Err(Refusal::OwnExpired.into());
        }
        material.trust.verify(leaf, intermediates, peer, now)?;
        Ok(())
    }

    fn verify_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }
}

/// TLS 1.2 is not offered, so this is never asked.
fn refuse_tls12() -> Result<HandshakeSignatureValid, rustls::Error> {
    Err(rustls::Error::General("TLS 1.2 is not spoken in the mesh".to_owned()))
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
        self.verify(leaf, intermediates, Peer::Server).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        refuse_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verify_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verify(leaf, intermediates, Peer::Client).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        refuse_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verify_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
