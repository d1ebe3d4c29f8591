//! The calls of the certificate service: who asks, for what, and the leaf, the roots, or the reason why not.

use std::sync::Arc;
use std::time::Duration;

use penstock_delivery::proto::penstock::ca::v1::{
    SignRequest, SignResponse, TrustBundleRequest, TrustBundleResponse,
};
use penstock_model::spiffe::SpiffeId;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::bundle::Follower;
use super::{Believers, CertificateRequest, JoinToken, Leaf, Lifetime, Refusal, Roots, own_identity};
use crate::clock::{Clock, time_of_day};
use crate::grpc::penstock::ca::v1::certificate_service_server::CertificateService;
use crate::listen::Peer;
use crate::tasks::Tasks;
use crate::telemetry::{Call, Metrics};

/// Who makes a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// It has a certificate of the trust domain.
    Workload(SpiffeId),
    /// It has the join token.
    Joiner,
}

impl Caller {
    /// The certificate counts where there is one: whoever has an identity acts under it, whatever else it holds.
    pub(crate) fn of<T>(request: &Request<T>, token: &JoinToken) -> Result<Self, Refusal> {
        if let Some(identity) = request.extensions().get::<Peer>().and_then(|peer| peer.identity.clone()) {
            return Ok(Self::Workload(identity));
        }
        let shown = request.metadata().get("authorization").ok_or(Refusal::NoCredentials)?;
        let shown = shown.to_str().map_err(|_| Refusal::WrongToken)?;
        let (scheme, shown) = shown.split_once(' ').ok_or(Refusal::WrongToken)?;
        if scheme.eq_ignore_ascii_case("bearer") && token.is(shown.trim()) {
            Ok(Self::Joiner)
        } else {
            Err(Refusal::WrongToken)
        }
    }
}

/// Who is at the other end, for the log; every connection of ours says so.
pub(crate) fn peer_of<T>(request: &Request<T>) -> Peer {
    let nobody = || Peer { address: ([0, 0, 0, 0], 0).into(), identity: None };
    request.extensions().get::<Peer>().cloned().unwrap_or_else(nobody)
}

/// Issues leaves.
#[derive(Clone, Debug)]
pub(crate) struct Signer {
    pub(crate) roots: Arc<Roots>,
    pub(crate) believers: Arc<Believers>,
    pub(crate) token: JoinToken,
    /// Longest life of a leaf.
    pub(crate) leaf_ttl: Duration,
    pub(crate) clock: Clock,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) tasks: Tasks,
}

impl Signer {
    /// X.509 counts whole seconds.
    const TTL_MIN: Duration = Duration::from_secs(1);

    fn decide(&self, request: &Request<SignRequest>) -> Result<(CertificateRequest, Duration), Refusal> {
        let caller = Caller::of(request, &self.token)?;
        let wanted = CertificateRequest::read(&request.get_ref().csr)?;
        may_be(&wanted.identity, &caller, self.roots.trust_domain())?;
        let ttl = match request.get_ref().validity {
            None => self.leaf_ttl,
            Some(asked) => Duration::try_from(asked)
                .ok()
                .filter(|asked| *asked >= Self::TTL_MIN)
                .ok_or(Refusal::Validity)?
                .min(self.leaf_ttl),
        };
        Ok((wanted, ttl))
    }
}

fn may_be(asked: &SpiffeId, caller: &Caller, trust_domain: &str) -> Result<(), Refusal> {
    if asked.trust_domain() != trust_domain {
        let trust_domain = trust_domain.to_owned();
        return Err(Refusal::OtherTrustDomain { asked: asked.to_string(), trust_domain });
    }
    if asked.service_account().is_none() {
        return Err(Refusal::NotAWorkload { asked: asked.to_string() });
    }
    if own_identity(trust_domain).is_ok_and(|own| own == *asked) {
        return Err(Refusal::ReservedIdentity { asked: asked.to_string() });
    }
    match caller {
        Caller::Workload(held) if held != asked => {
            Err(Refusal::OtherIdentity { held: held.to_string(), asked: asked.to_string() })
        }
        Caller::Workload(_) | Caller::Joiner => Ok(()),
    }
}

#[async_trait]
impl CertificateService for Signer {
    async fn sign(&self, request: Request<SignRequest>) -> Result<Response<SignResponse>, Status> {
        let peer = peer_of(&request);
        let (wanted, ttl) = self.decide(&request).map_err(|refusal| {
            self.metrics.call_refused(Call::Sign, &refusal, &peer);
            refusal.status()
        })?;
        let held = self.roots.held();
        let lifetime = Lifetime::starting(time_of_day(), ttl, held.issuing.root_not_after());
        let Leaf { certificate, lifetime } = held.issuing.issue(&wanted, lifetime).map_err(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "cannot issue a certificate");
            Status::internal("the authority cannot sign now; its log says why")
        })?;
        self.metrics.issued(&wanted.identity, lifetime.not_after, &peer);
        Ok(Response::new(SignResponse {
            certificate_chain: vec![certificate.to_vec()],
            trust_bundle: held.bundle.roots.iter().map(|root| root.to_vec()).collect(),
        }))
    }

    type TrustBundleStream = ReceiverStream<Result<TrustBundleResponse, Status>>;

    async fn trust_bundle(
        &self,
        request: Request<Streaming<TrustBundleRequest>>,
    ) -> Result<Response<Self::TrustBundleStream>, Status> {
        let peer = peer_of(&request);
        Caller::of(&request, &self.token).map_err(|refusal| {
            self.metrics.call_refused(Call::TrustBundle, &refusal, &peer);
            refusal.status()
        })?;
        let follower = Follower::new(&self.believers, &self.roots, peer)?;
        let (responses, outgoing) = mpsc::channel(1);
        let (tasks, clock) = (self.tasks.clone(), self.clock);
        self.tasks.spawn("trust bundle", async move {
            follower.run(request.into_inner(), responses, &tasks, clock).await;
        });
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }
}
