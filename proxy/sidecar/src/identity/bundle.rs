//! Follows the roots that the control plane wants believed, and tells it what is believed, so that it knows when a new root may issue. The
//! keys of prefix digests come with them.

use std::sync::Arc;
use std::time::Duration;

use penstock_delivery::backoff;
use penstock_delivery::proto::penstock::ca::v1::{TrustBundleRequest, TrustBundleResponse};
use penstock_policy::prefix::{Keys, PrefixKey};
use rustls::pki_types::CertificateDer;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use super::Identity;
use super::verify::{Peer, Refusal, Trust};
use crate::clock;
use crate::control::services::penstock::ca::v1::certificate_service_client::CertificateServiceClient;
use crate::control::{Control, Proof, report};
use crate::seed;
use crate::telemetry::Telemetry;

/// A stream that lived so long was no failure.
const LIVED: Duration = Duration::from_secs(30);

/// What following the roots touches.
#[derive(Clone, Debug)]
pub struct Follower {
    /// Who this is, as on the push stream.
    pub node: String,
    /// Where the roots go.
    pub identity: Arc<Identity>,
    /// What is told of them.
    pub telemetry: Arc<Telemetry>,
}

impl Follower {
    /// Follows over a channel that somebody else keeps open; ends only by being dropped.
    pub async fn beside(&self, channel: Channel, control: &Control) {
        let mut failures = 0;
        loop {
            let began = clock::now();
            let ended = self.follow(channel.clone(), control).await;
            if ended.code() == Code::Unimplemented {
                tracing::info!(
                    "the control plane is of an earlier release: roots come with certificates alone"
                );
                std::future::pending::<()>().await;
            }
            failures = if clock::now().since(began) > LIVED { 1 } else { failures + 1 };
            tracing::debug!(error = ended.message(), "the roots are not followed for a moment");
            sleep(backoff::wait(failures, seed::share())).await;
        }
    }

    /// Follows over channels of its own, for a sidecar without a push stream.
    pub async fn alone(self, control: Arc<Control>) {
        let mut failures = 0;
        loop {
            let began = clock::now();
            match control.channel(Proof::Certificate).await {
                Ok(channel) => {
                    self.identity.reached();
                    let ended = self.follow(channel, &control).await;
                    tracing::debug!(error = ended.message(), "the roots are not followed for a moment");
                }
                Err(error) => {
                    tracing::debug!(error = report(&error), "the roots are not followed for a moment");
                }
            }
            failures = if clock::now().since(began) > LIVED { 1 } else { failures + 1 };
            sleep(backoff::wait(failures, seed::share())).await;
        }
    }

    /// Says why it ended.
    async fn follow(&self, channel: Channel, control: &Control) -> Status {
        let (send, requests) = mpsc::channel(1);
        let mut request = Request::new(ReceiverStream::new(requests));
        match control.bearer() {
            Ok(bearer) => drop(request.metadata_mut().insert("authorization", bearer)),
            Err(error) => return Status::unauthenticated(report(&error)),
        }
        let tell = async |version: String| {
            let used = TrustBundleRequest { node: self.node.clone(), version };
            send.send(used).await.map_err(|_| Status::unavailable("the stream is closed"))
        };
        if let Err(closed) = tell(String::new()).await {
            return closed;
        }
        let mut bundles = match CertificateServiceClient::new(channel).trust_bundle(request).await {
            Ok(response) => response.into_inner(),
            Err(status) => return status,
        };
        loop {
            let bundle = match bundles.message().await {
                Ok(Some(bundle)) => bundle,
                Ok(None) => return Status::unavailable("the stream has ended"),
                Err(status) => return status,
            };
            match self.adopt(&bundle, control.trust_domain()) {
                Ok(()) => {
                    if let Err(closed) = tell(bundle.version).await {
                        return closed;
                    }
                }
                Err(refusal) => {
                    let error = format!("the trust bundle {} cannot be used: {refusal}", bundle.version);
                    tracing::warn!(error, "the roots of before are kept");
                    self.identity.failed(error);
                }
            }
        }
    }

    fn adopt(&self, bundle: &TrustBundleResponse, domain: &Arc<str>) -> Result<(), Refusal> {
        let roots: Vec<_> = bundle.roots.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
        let trust = Trust::new(&roots, Arc::clone(domain))?;
        let count = trust.roots.len();
        let is_ours_believed = self.vouches_for_us(&trust);
        let keys = prefix_keys(bundle);
        self.identity.believe(bundle.version.clone(), trust);
        self.identity.compare_prefixes_under(keys);
        self.telemetry.metrics.roots.set(i64::try_from(count).unwrap_or(i64::MAX));
        tracing::info!(version = bundle.version, roots = count, "trust bundle in use");
        if !is_ours_believed {
            tracing::warn!("nobody believes this sidecar's certificate any more: a new one is asked for");
            self.identity.renewal.notify_one();
        }
        Ok(())
    }

    /// Whether peers that believe these roots believe us.
    fn vouches_for_us(&self, trust: &Trust) -> bool {
        let material = self.identity.cell().load_full();
        let Some(certificate) = material.as_ref().and_then(|material| material.certificate.as_ref()) else {
            return true;
        };
        let Some((leaf, intermediates)) = certificate.cert.split_first() else { return true };
        !matches!(
            trust.verify(leaf, intermediates, Peer::Client, clock::unix_time()),
            Err(Refusal::UnknownIssuer)
        )
    }
}

/// None where the control plane sends none; what is no key is told of and passed over, since digests are a help and roots are needed.
fn prefix_keys(bundle: &TrustBundleResponse) -> Option<Keys> {
    let mut keys = bundle.prefix_keys.iter().map(|key| {
        let secret = key.secret.as_slice().try_into().ok()?;
        Some(PrefixKey::new(key.id, secret))
    });
    let (sending, also) = (keys.next()?, keys.next());
    let (Some(sending), None | Some(Some(_))) = (sending, also) else {
        tracing::warn!("a key of prefix digests has not 16 bytes: no digests are sent or read");
        return None;
    };
    Some(Keys { sending, also: also.flatten() })
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use penstock_delivery::proto::penstock::ca::v1::PrefixKey as ProtoKey;
    use penstock_model::settings::AccessLog;
    use rcgen::{
        BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
        SanType,
    };
    use rustls::pki_types::PrivateKeyDer;
    use rustls::sign::CertifiedKey;

    use super::*;
    use crate::identity::tls::{Material, provider};

    fn params(usages: &[KeyUsagePurpose]) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.key_usages = usages.to_vec();
        params.use_authority_key_identifier_extension = true;
        params
    }

    /// A root, and a leaf of it. All roots here have one name, as all of a control plane have.
    fn root() -> (CertificateDer<'static>, Material) {
        let mut params = params(&[KeyUsagePurpose::KeyCertSign]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap().der().clone();
        let issuer = Issuer::new(params, key);
        let mut params = self::params(&[KeyUsagePurpose::DigitalSignature]);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names =
            vec![SanType::URI("spiffe://mesh.test/ns/default/sa/web".try_into().unwrap())];
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &issuer).unwrap().der().clone();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let key = provider().key_provider.load_private_key(key).unwrap();
        let certificate = Some(Arc::new(CertifiedKey::new(vec![leaf], key)));
        let trust = Trust::new(std::slice::from_ref(&root), "mesh.test".into()).unwrap();
        (root, Material { certificate, not_after: Duration::MAX, trust })
    }

    #[test]
    fn a_leaf_that_nobody_believes_any_more_is_asked_for_anew_and_no_other() {
        let (old, material) = root();
        let (new, _) = root();
        let identity = Identity::new();
        identity.install(material, identity.ask());
        let telemetry = Telemetry::new(&AccessLog::Off).unwrap();
        let follower = Follower { node: "web".to_owned(), identity: Arc::clone(&identity), telemetry };
        for (version, roots, is_asked) in
            [("1", vec![&old], false), ("2", vec![&old, &new], false), ("3", vec![&new], true)]
        {
            let roots = roots.into_iter().map(|root| root.to_vec()).collect();
            let bundle = TrustBundleResponse { version: version.to_owned(), roots, prefix_keys: vec![] };
            follower.adopt(&bundle, &"mesh.test".into()).unwrap();
            assert_eq!(identity.renewal.notified().now_or_never().is_some(), is_asked, "{version}");
        }
    }

    #[test]
    fn a_bundle_that_cannot_be_used_changes_nothing() {
        let (old, material) = root();
        let identity = Identity::new();
        identity.install(material, identity.ask());
        let before = identity.status();
        let telemetry = Telemetry::new(&AccessLog::Off).unwrap();
        let follower = Follower { node: "web".to_owned(), identity: Arc::clone(&identity), telemetry };
        for roots in [vec![], vec![b"nonsense".to_vec()], vec![old.to_vec(), old[..40].to_vec()]] {
            let bundle = TrustBundleResponse { version: "2".to_owned(), roots, prefix_keys: vec![] };
            follower.adopt(&bundle, &"mesh.test".into()).unwrap_err();
            assert_eq!(identity.status(), before);
        }
    }

    #[test]
    fn keys_of_prefix_digests_come_with_the_roots() {
        let (root, material) = root();
        let identity = Identity::new();
        identity.install(material, identity.ask());
        let telemetry = Telemetry::new(&AccessLog::Off).unwrap();
        let follower = Follower { node: "web".to_owned(), identity: Arc::clone(&identity), telemetry };
        for (keys, expected) in [
            (vec![(3, 16), (4, 16)], Some((3, Some(4)))),
            (vec![(4, 16)], Some((4, None))),
            (vec![(4, 16), (5, 15)], None),
            (vec![(6, 16), (7, 16), (8, 1)], Some((6, Some(7)))),
            (vec![], None),
        ] {
            let key = |(id, bytes)| ProtoKey { id, secret: vec![9; bytes] };
            let prefix_keys: Vec<_> = keys.into_iter().map(key).collect();
            let roots = vec![root.to_vec()];
            let bundle = TrustBundleResponse { version: "1".to_owned(), roots, prefix_keys };
            follower.adopt(&bundle, &"mesh.test".into()).unwrap();
            let held = identity.prefix_keys().map(|keys| (keys.sending.id(), keys.also.map(|key| key.id())));
            assert_eq!(held, expected);
            let ids = expected
                .map(|(sending, also)| [Some(sending), also].into_iter().flatten().collect::<Vec<_>>());
            assert_eq!(identity.status()["prefixKeys"], serde_json::json!(ids.unwrap_or_default()));
        }
    }
}
