//! Who this sidecar is, and whom it believes.
//!
//! ```text
//!   control plane: Sign ─────► rotate ──► certificate and roots ─╮
//!   control plane: TrustBundle ► bundle ► roots alone ───────────┼─► cell ──► every later handshake   (and keys of prefix digests)
//!   files ─────────────────────► files ──► certificate and roots ╯
//! ```
//!
//! Keys live in memory alone (or in the operator's files): a restart asks for a new certificate, as Linkerd's and Istio's proxies do.

pub mod bundle;
pub mod files;
pub mod rotate;
pub mod tls;
pub mod verify;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use penstock_model::settings::ProxySettings;
use penstock_policy::prefix::Keys;
use serde_json::{Value, json};
use tokio::sync::Notify;

use self::tls::{Cell, Material};
use self::verify::{Refusal, Trust};
use crate::clock;
use crate::control::Control;
use crate::network::Network;
use crate::sync::Sync;
use crate::telemetry::Telemetry;

/// The identity of the process, swapped by rotation.
#[derive(Debug, Default)]
pub struct Identity {
    cell: Cell,
    state: Mutex<State>,
    reachable: Notify,
    renewal: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// The roots that the control plane told last, beside certificates.
    bundle: Option<Bundle>,
    /// How often it has told.
    bundles: u64,
    /// Under which keys prefix digests are sent and read; none without a control plane that says.
    prefix_keys: Option<Keys>,
    /// Why there is no newer certificate or bundle.
    problem: Option<String>,
}

#[derive(Clone, Debug)]
struct Bundle {
    version: String,
    trust: Trust,
}

/// Keeps the identity by the settings: from files, or from the control plane; there the roots come beside the certificates on the push
/// stream, where there is one. Ends when nobody gives a certificate.
pub(crate) async fn follow(
    settings: Arc<ProxySettings>,
    network: Arc<dyn Network>,
    identity: Arc<Identity>,
    telemetry: Arc<Telemetry>,
) {
    let ours = settings.identity.clone();
    if let Some(files) = settings.certificates.clone() {
        return files::run(files, ours, identity, telemetry).await;
    }
    let Some(control) = Control::new(&settings, &identity, network) else { return };
    let roots = async {
        if settings.documents.is_none() {
            std::future::pending::<()>().await;
        }
        let (identity, telemetry) = (Arc::clone(&identity), Arc::clone(&telemetry));
        let follower = bundle::Follower { node: Sync::node_id(&settings), identity, telemetry };
        follower.alone(Arc::clone(&control)).await;
    };
    tokio::join!(
        roots,
        rotate::run(ours, Arc::clone(&control), Arc::clone(&identity), Arc::clone(&telemetry))
    );
}

/// The moment at which a certificate was asked for.
#[derive(Clone, Copy, Debug)]
pub struct Asked(u64);

impl Identity {
    /// No certificate yet.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { cell: Arc::new(ArcSwapOption::empty()), ..Self::default() })
    }

    /// The cell that TLS configurations read.
    pub fn cell(&self) -> &Cell {
        &self.cell
    }

    /// Whether there is a certificate that has not expired.
    pub fn is_ready(&self) -> bool {
        self.cell.load().as_ref().is_some_and(|material| !material.is_over(clock::unix_time()))
    }

    /// How long the certificate still lives; nothing when there is none, or it has expired.
    pub fn time_left(&self) -> Option<Duration> {
        let not_after = self.cell.load().as_ref()?.not_after;
        not_after.checked_sub(clock::unix_time()).filter(|left| !left.is_zero())
    }

    /// What is missing, for people; nothing when it is ready.
    pub fn missing(&self) -> Option<String> {
        let what = match self.cell.load().as_ref() {
            None => "no certificate has been issued yet",
            Some(material) if material.is_over(clock::unix_time()) => "the certificate has expired",
            Some(_) => return None,
        };
        Some(match &self.state.lock().problem {
            None => what.to_owned(),
            Some(why) => format!("{what}: {why}"),
        })
    }

    /// Call before a certificate is asked for.
    pub fn ask(&self) -> Asked {
        Asked(self.state.lock().bundles)
    }

    /// Uses `material` for every handshake from now on. Roots that were told since it was asked for are newer than its own.
    pub fn install(&self, mut material: Material, asked: Asked) {
        let mut state = self.state.lock();
        if let Some(bundle) = state.bundle.as_ref().filter(|_| state.bundles != asked.0) {
            material.trust = bundle.trust.clone();
        }
        state.problem = None;
        self.cell.store(Some(Arc::new(material)));
    }

    /// Believes these roots from now on. Connections that are open go on.
    pub fn believe(&self, version: String, trust: Trust) {
        let mut state = self.state.lock();
        state.bundles += 1;
        if let Some(material) = self.cell.load_full() {
            self.cell.store(Some(Arc::new(Material { trust: trust.clone(), ..(*material).clone() })));
        }
        state.bundle = Some(Bundle { version, trust });
    }

    /// Sends and reads prefix digests under these keys from now on; with none not at all.
    pub fn compare_prefixes_under(&self, keys: Option<Keys>) {
        self.state.lock().prefix_keys = keys;
    }

    /// Under which keys prefix digests are sent and read.
    pub fn prefix_keys(&self) -> Option<Keys> {
        self.state.lock().prefix_keys
    }

    /// Notes why there is no newer certificate.
    pub fn failed(&self, why: String) {
        self.state.lock().problem = Some(why);
    }

    /// What was wrong is mended, and what is in use was right.
    pub fn settled(&self) {
        self.state.lock().problem = None;
    }

    /// The control plane has answered: a renewal that waits to try again need not.
    pub fn reached(&self) {
        self.reachable.notify_waiters();
    }

    /// How it stands, as JSON. No key is shown.
    pub fn status(&self) -> Value {
        let material = self.cell.load();
        let material = material.as_ref();
        let state = self.state.lock();
        json!({
            "apiVersion": "penstock.dev/v1alpha1",
            "kind": "Identity",
            "ready": material.is_some_and(|material| !material.is_over(clock::unix_time())),
            "notAfterUnixSeconds": material.map(|material| material.not_after.as_secs()),
            "bundle": state.bundle.as_ref().map(|bundle| &bundle.version),
            "roots": material.map(|material| material.trust.fingerprints()),
            "prefixKeys": state.prefix_keys.iter().flat_map(Keys::ids).collect::<Vec<_>>(),
            "lastError": state.problem,
        })
    }
}

/// Our own refusal inside a failed TLS handshake.
pub fn refusal_of(error: &io::Error) -> Option<Refusal> {
    error.get_ref()?.downcast_ref::<rustls::Error>().and_then(Refusal::of)
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
    use rustls::pki_types::CertificateDer;

    use super::*;

    fn root() -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    fn trust(roots: &[CertificateDer<'static>]) -> Trust {
        Trust::new(roots, "mesh.test".into()).unwrap()
    }

    fn material(trust: Trust) -> Material {
        Material { certificate: None, not_after: Duration::MAX, trust }
    }

    fn roots(identity: &Identity) -> usize {
        identity.cell().load().as_ref().unwrap().trust.roots.len()
    }

    #[test]
    fn roots_that_were_told_while_a_certificate_was_signed_are_not_lost() {
        let identity = Identity::new();
        let (old, new) = (root(), root());
        let asked = identity.ask();
        identity.believe("2".to_owned(), trust(&[old.clone(), new]));
        identity.install(material(trust(std::slice::from_ref(&old))), asked);
        assert_eq!(roots(&identity), 2, "the certificate came with the roots of before");
        // What comes with a certificate that is asked for now is newer.
        let asked = identity.ask();
        identity.install(material(trust(&[old])), asked);
        assert_eq!(roots(&identity), 1);
    }

    #[test]
    fn new_roots_keep_the_certificate_and_its_end() {
        let identity = Identity::new();
        let not_after = Duration::from_secs(u64::from(u32::MAX));
        let asked = identity.ask();
        identity.install(Material { not_after, ..material(trust(&[root()])) }, asked);
        identity.believe("2".to_owned(), trust(&[root(), root()]));
        assert_eq!(roots(&identity), 2);
        assert_eq!(identity.cell().load().as_ref().unwrap().not_after, not_after);
        assert_eq!(identity.status()["bundle"], "2");
        assert_eq!(identity.status()["roots"].as_array().unwrap().len(), 2);
    }
}
