//! Who listens to load reports: each on a connection of its own, as the sidecars of as many callers would.

use std::cell::Cell;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::Request;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose, SanType};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use penstock_benches::unary::WINDOW_BYTES;

use crate::stand::Served;

/// Who they are. The mesh knows nobody of this name otherwise.
const IDENTITY: &str = "spiffe://cluster.local/ns/bench/sa/subscriber";
/// So many shake hands at a time.
const AT_ONCE: usize = 16;

/// With what they show who they are.
#[derive(Clone)]
pub(crate) struct Credentials(Arc<ClientConfig>);

impl Credentials {
    /// A certificate signed by the control plane's authority, whose key is in this directory.
    ///
    /// # Errors
    /// When the directory has no key, or not one that can sign.
    pub(crate) fn signed_by(authority: &Path) -> anyhow::Result<Self> {
        let read = |name: &str| {
            let path = authority.join(name);
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let issuer = Issuer::from_ca_cert_pem(&read("root.pem")?, KeyPair::from_pem(&read("ca-key.pem")?)?)?;
        let mut params = CertificateParams::default();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.distinguished_name.push(DnType::CommonName, "subscriber");
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = vec![SanType::URI(IDENTITY.try_into()?)];
        let key = KeyPair::generate()?;
        let certificate: CertificateDer<'static> = params.signed_by(&key, &issuer)?.der().clone();
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes())?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut tls = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
            .with_client_auth_cert(vec![certificate], key)?;
        tls.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self(Arc::new(tls)))
    }
}

/// Who is there was started here.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 alone".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// What all of them together have heard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) reports: u64,
    pub(crate) bytes: u64,
}

impl Heard {
    /// What came after `before`.
    pub(crate) fn since(self, before: Self) -> Self {
        Self { reports: self.reports - before.reports, bytes: self.bytes - before.bytes }
    }
}

/// They listen until they are dropped.
pub(crate) struct Subscribers {
    tally: Rc<Tally>,
    streams: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Tally {
    heard: Cell<Heard>,
    open: Cell<u32>,
}

impl Subscribers {
    /// So many, each told once at least.
    ///
    /// # Errors
    /// When one is not let in.
    pub(crate) async fn open(credentials: &Credentials, served: Served, count: u32) -> anyhow::Result<Self> {
        let mut all = Self { tally: Rc::default(), streams: JoinSet::new() };
        let mut opening = JoinSet::new();
        let mut left = count;
        loop {
            while left > 0 && opening.len() < AT_ONCE {
                left -= 1;
                opening.spawn_local(Stream::open(credentials.clone(), served));
            }
            let Some(opened) = opening.join_next().await else { return Ok(all) };
            let (stream, tally) = (opened??, Rc::clone(&all.tally));
            tally.open.set(tally.open.get() + 1);
            all.streams.spawn_local(stream.listen(tally));
        }
    }

    /// What they have heard so far.
    pub(crate) fn heard(&self) -> Heard {
        self.tally.heard.get()
    }

    /// How many of them are still told.
    pub(crate) fn open_streams(&self) -> u32 {
        self.tally.open.get()
    }

    /// All of them go.
    pub(crate) async fn close(mut self) {
        self.streams.shutdown().await;
    }
}

/// One that is told.
struct Stream {
    body: h2::RecvStream,
    /// Ends with it.
    connection: JoinSet<()>,
    parts: Parts,
}

impl Stream {
    async fn open(credentials: Credentials, served: Served) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(served.inbound).await.context("cannot connect to the sidecar")?;
        stream.set_nodelay(true)?;
        let name = ServerName::from(served.inbound.ip());
        let stream = TlsConnector::from(credentials.0).connect(name, stream).await?;
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(WINDOW_BYTES).initial_connection_window_size(WINDOW_BYTES);
        let (sender, connection) = builder.handshake::<_, Bytes>(stream).await?;
        let mut task = JoinSet::new();
        task.spawn_local(async move {
            // Its one stream tells what went wrong.
            drop(connection.await);
        });
        let (answer, _) = sender.ready().await?.send_request(subscription(served.endpoint)?, true)?;
        let answer = answer.await?;
        ensure!(answer.status() == 200, "a subscriber is answered with {}", answer.status());
        let mut one = Self { body: answer.into_body(), connection: task, parts: Parts::default() };
        ensure!(one.next().await?.is_some(), "a stream of reports ended before the first");
        Ok(one)
    }

    async fn next(&mut self) -> anyhow::Result<Option<Heard>> {
        let Some(data) = self.body.data().await else { return Ok(None) };
        let data = data?;
        self.body.flow_control().release_capacity(data.len())?;
        Ok(Some(Heard { reports: self.parts.read(&data)?, bytes: data.len() as u64 }))
    }

    async fn listen(mut self, tally: Rc<Tally>) {
        while let Ok(Some(more)) = self.next().await {
            let Heard { reports, bytes } = tally.heard.get();
            tally.heard.set(Heard { reports: reports + more.reports, bytes: bytes + more.bytes });
        }
        self.connection.abort_all();
        tally.open.set(tally.open.get() - 1);
    }
}

fn subscription(endpoint: SocketAddr) -> anyhow::Result<Request<()>> {
    let request = Request::get(format!("https://{endpoint}/.penstock/load"));
    Ok(request.header("x-penstock-wire", "1").header("x-penstock-subscribe", endpoint.to_string()).body(())?)
}

/// Counts the parts of a stream: each has its length before it, as a varint.
#[derive(Clone, Copy, Debug, Default)]
struct Parts {
    /// Bytes of the part under way that have not come.
    left: u64,
    /// The length under way, and how many bits of it have come.
    length: (u64, u32),
}

impl Parts {
    /// How many end within these bytes.
    fn read(&mut self, bytes: &[u8]) -> anyhow::Result<u64> {
        let (mut ended, mut rest) = (0, bytes);
        while let Some((first, behind)) = rest.split_first() {
            if self.left > 0 {
                let here = self.left.min(rest.len() as u64);
                self.left -= here;
                ended += u64::from(self.left == 0);
                rest = &rest[here as usize..];
                continue;
            }
            let (length, bits) = self.length;
            ensure!(bits < 28, "a report longer than any");
            let length = length | u64::from(first & 0x7f) << bits;
            let goes_on = first & 0x80 != 0;
            (self.left, self.length) = if goes_on { (0, (length, bits + 7)) } else { (length, (0, 0)) };
            rest = behind;
        }
        Ok(ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_counted_wherever_the_stream_is_cut() {
        let mut bytes = vec![3, 1, 2, 3, 0xc8, 0x01];
        bytes.extend([7; 200]);
        bytes.extend([2, 9]);
        for cut in 0..=bytes.len() {
            let mut parts = Parts::default();
            let ended: u64 =
                [&bytes[..cut], &bytes[cut..]].iter().map(|part| parts.read(part).unwrap()).sum();
            assert_eq!((ended, parts.left), (2, 1), "{cut}");
        }
        assert!(Parts::default().read(&[0xff; 9]).is_err());
    }
}
