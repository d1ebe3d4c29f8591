//! The channel to the control plane: gRPC over TLS 1.3, the server checked against the trust bundle and its SPIFFE ID.

#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    unreachable_pub,
    unused_qualifications,
    reason = "generated"
)]
pub(crate) mod services {
    include!(concat!(env!("OUT_DIR"), "/services.rs"));
}

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use arc_swap::ArcSwapOption;
use hyper_util::rt::TokioIo;
use penstock_model::settings::{ControlPlane, ProxySettings};
use penstock_model::spiffe::SpiffeId;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::TlsConnector;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use crate::identity::Identity;
use crate::identity::tls::{self, Cell, Material};
use crate::identity::verify::{Refusal, Trust};
use crate::network::Network;
use crate::upstream::dial::Wire;

/// Longest time for TCP and TLS to the control plane.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The control plane is asked for a sign of life so often, and given up so long after.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// How a channel is to be let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// By our certificate, where there is a good one; else by the join token, which every call carries.
    Certificate,
    /// By the join token alone: a control plane that does not know who issued our certificate refuses whoever shows it.
    Token,
}

/// How to reach the control plane.
pub struct Control {
    settings: ControlPlane,
    trust_domain: Arc<str>,
    identity: Arc<Identity>,
    network: Arc<dyn Network>,
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Control({})", self.settings.address)
    }
}

impl Control {
    /// By the settings; none where they name no control plane.
    pub fn new(
        settings: &ProxySettings,
        identity: &Arc<Identity>,
        network: Arc<dyn Network>,
    ) -> Option<Arc<Self>> {
        let control = settings.control_plane.clone()?;
        Some(Arc::new(Self {
            settings: control,
            trust_domain: settings.identity.trust_domain().into(),
            identity: Arc::clone(identity),
            network,
        }))
    }

    /// The join token, read anew so that it can be replaced.
    ///
    /// # Errors
    /// When the file cannot be read or is empty.
    pub fn token(&self) -> anyhow::Result<String> {
        let path = &self.settings.token;
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("the join token {} cannot be read", path.display()))?;
        match text.trim() {
            "" => bail!("the join token {} is empty", path.display()),
            token => Ok(token.to_owned()),
        }
    }

    /// The join token as a call carries it.
    ///
    /// # Errors
    /// As for [`token`](Self::token), or when it cannot be sent.
    pub fn bearer(&self) -> anyhow::Result<AsciiMetadataValue> {
        AsciiMetadataValue::try_from(format!("Bearer {}", self.token()?))
            .context("the join token holds characters that cannot be sent")
    }

    /// The trust domain of this sidecar and its control plane.
    pub fn trust_domain(&self) -> &Arc<str> {
        &self.trust_domain
    }

    /// A channel.
    ///
    /// # Errors
    /// When the trust bundle cannot be read or the control plane cannot be reached or is refused.
    pub async fn channel(&self, proof: Proof) -> anyhow::Result<Channel> {
        let trust = self.trust()?;
        // One that has expired would be refused, and with it the request for a new one.
        let own = self
            .identity
            .cell()
            .load_full()
            .filter(|_| self.identity.is_ready() && proof == Proof::Certificate);
        let cell: Cell = Arc::new(ArcSwapOption::empty());
        let certificate = own.and_then(|material| material.certificate.clone());
        cell.store(Some(Arc::new(Material { certificate, not_after: Duration::MAX, trust })));
        let tls = TlsConnector::from(Arc::new(tls::client_config(&cell)?));
        let expected = SpiffeId::workload(&self.trust_domain, "penstock", "penstock-control-plane")?;
        let (address, network) = (self.settings.address.clone(), Arc::clone(&self.network));
        let connect = service_fn(move |_: Uri| {
            let (tls, address, expected) = (tls.clone(), address.clone(), expected.clone());
            let dialled = network.dial_name(&address);
            async move { secure(tls, dialled.await?, &address, &expected).await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_shared(format!("http://{}", self.settings.address))
            .with_context(|| format!("`{}` is not HOST:PORT", self.settings.address))?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        let channel = endpoint.connect_with_connector(connect).await;
        channel.with_context(|| format!("the control plane at {} cannot be reached", self.settings.address))
    }

    /// The roots in the trust bundle file, and those that were told since it was written: the file may be from before a rotation.
    fn trust(&self) -> anyhow::Result<Trust> {
        let path = &self.settings.trust_bundle;
        let told = self.identity.cell().load_full();
        let written = roots_in(path).and_then(|roots| {
            Trust::new(&roots, Arc::clone(&self.trust_domain))
                .with_context(|| format!("the trust bundle {} holds no usable root", path.display()))
        });
        match (written, told) {
            (Ok(written), Some(told)) => Ok(written.and(&told.trust)),
            (Err(error), Some(told)) => {
                tracing::warn!(error = report(&error), "the roots that are in use are believed alone");
                Ok(told.trust.clone())
            }
            (written, None) => written,
        }
    }
}

fn roots_in(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| anyhow::anyhow!("the trust bundle {} cannot be read: {error}", path.display()))
}

async fn secure(
    tls: TlsConnector,
    stream: Box<dyn Wire>,
    address: &str,
    expected: &SpiffeId,
) -> std::io::Result<tokio_rustls::client::TlsStream<Box<dyn Wire>>> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let name =
        ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).map_err(std::io::Error::other)?;
    let stream = tls.connect(name, stream).await?;
    let leaf = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let peer = leaf.ok_or(Refusal::NoCertificate).and_then(Trust::peer_of).map_err(std::io::Error::other)?;
    if peer == *expected {
        Ok(stream)
    } else {
        let expected = expected.as_str().into();
        Err(std::io::Error::other(Refusal::WrongIdentity { peer, expected }))
    }
}

/// The message of an error with everything behind it, on one line.
pub(crate) fn report(error: &anyhow::Error) -> String {
    format!("{error:#}")
}
