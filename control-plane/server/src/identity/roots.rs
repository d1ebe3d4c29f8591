//! The roots that the mesh believes, and how one takes the place of another without a moment in which somebody is not believed.
//!
//! ```text
//!              rotate-root, or             every sidecar             every leaf of the
//!              a next key and root         believes both             old root has ended
//!   ┌► steady ────────────────► introduced ──────────────► replaced ─────────────────────► steady …
//!      root.pem: old            root.pem: old, new         root.pem: new, old              root.pem: new
//!      issues:   old            issues:   old              issues:   new                   issues:   new
//! ```
//!
//! Each step is a change of files in the state directory, from which a start finds the step again: `next-ca-key.pem` is there while
//! a root is introduced, `previous-ca-key.pem` while one is on its way out. The control plane's own certificate stays with the old
//! root to the end of the overlap, so that a sidecar that was away can come back with what it knew, and learn of the new root.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use tokio::sync::watch;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::authority::{
    Authority, AuthorityError, KEY_FILE, ROOT_FILE, certificates, read_if_there, read_key, self_signed_root,
    write, write_new_key,
};
use crate::disk::Secrecy;

/// An operator makes this file to ask for a new root.
pub(crate) const REQUEST_FILE: &str = "rotate-root";
/// An operator who has a root of his own puts it here, and its key beside it.
const NEXT_ROOT_FILE: &str = "next-root.pem";
const NEXT_KEY_FILE: &str = "next-ca-key.pem";
const PREVIOUS_KEY_FILE: &str = "previous-ca-key.pem";
/// Until when the present step lasts at most.
const STEP_FILE: &str = "root-rotation.json";

/// How far a rotation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Step {
    /// One root issues; none is on its way.
    Steady,
    /// A new root is believed but issues nothing yet.
    Introduced,
    /// The new root issues; the old one is still believed.
    Replaced,
}

/// The roots that are believed, as sidecars are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bundle {
    /// Changes with the roots; 16 hexadecimal digits.
    pub(crate) version: String,
    /// DER; the one that issues is the first.
    pub(crate) roots: Vec<CertificateDer<'static>>,
}

impl Bundle {
    fn new(roots: Vec<CertificateDer<'static>>) -> Self {
        let digest = roots.iter().fold(Sha256::new(), |digest, root| digest.chain_update(root));
        let version = digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        Self { version, roots }
    }

    pub(crate) fn store(&self) -> Result<Arc<RootCertStore>, rustls::Error> {
        let mut store = RootCertStore::empty();
        self.roots.iter().try_for_each(|root| store.add(root.clone()))?;
        Ok(Arc::new(store))
    }
}

/// Everything that follows from the files at one moment.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) step: Step,
    /// Signs sidecars' leaves.
    pub(crate) issuing: Arc<Authority>,
    /// Signs the control plane's own leaf.
    pub(crate) serving: Arc<Authority>,
    pub(crate) bundle: Arc<Bundle>,
    /// When the present step ends at the latest, or, for [`Step::Replaced`], at the earliest.
    pub(crate) until: Option<OffsetDateTime>,
}

/// The roots of a trust domain, on disk and in use.
#[derive(Debug)]
pub(crate) struct Roots {
    dir: PathBuf,
    trust_domain: Arc<str>,
    /// Longest life of a leaf.
    leaf_ttl: Duration,
    held: RwLock<Arc<Held>>,
    changed: watch::Sender<Arc<Bundle>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct StepFile {
    until_unix_s: i64,
}

impl Roots {
    /// Reads what the state directory holds, and finishes what a crash has interrupted.
    pub(crate) fn open(
        dir: &Path,
        trust_domain: &str,
        leaf_ttl: Duration,
        now: OffsetDateTime,
    ) -> Result<Self, AuthorityError> {
        let held = Self::read(dir, trust_domain, leaf_ttl, now)?;
        let changed = watch::Sender::new(Arc::clone(&held.bundle));
        let held = RwLock::new(Arc::new(held));
        Ok(Self { dir: dir.to_owned(), trust_domain: trust_domain.into(), leaf_ttl, held, changed })
    }

    pub(crate) fn held(&self) -> Arc<Held> {
        Arc::clone(&self.held.read())
    }

    pub(crate) fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// Tells of every change of the bundle or of who issues.
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<Bundle>> {
        self.changed.subscribe()
    }

    /// Whether [`advance`](Self::advance) has anything to look at. Cheap.
    pub(crate) fn is_stirring(&self) -> bool {
        self.held().step != Step::Steady || self.is_asked()
    }

    fn is_asked(&self) -> bool {
        [REQUEST_FILE, NEXT_ROOT_FILE].iter().any(|file| self.dir.join(file).exists())
    }

    /// Goes one step further, if it is time; says where to. `lagging` are the sidecars that do not believe the present bundle.
    pub(crate) fn advance(
        &self,
        now: OffsetDateTime,
        lagging: usize,
    ) -> Result<Option<Step>, AuthorityError> {
        let held = self.held();
        let is_over = held.until.is_none_or(|until| until <= now);
        match held.step {
            Step::Steady if self.is_asked() => self.introduce(now)?,
            // Whoever was not heard of has renewed by then, and was told the roots with its leaf.
            Step::Introduced if lagging == 0 || is_over => self.replace(now)?,
            Step::Replaced if is_over => self.drop_old()?,
            _ => return Ok(None),
        }
        let fresh = Self::read(&self.dir, &self.trust_domain, self.leaf_ttl, now)?;
        let (step, bundle) = (fresh.step, Arc::clone(&fresh.bundle));
        *self.held.write() = Arc::new(fresh);
        self.changed.send_replace(bundle);
        Ok(Some(step))
    }

    fn introduce(&self, now: OffsetDateTime) -> Result<(), AuthorityError> {
        let [key_path, root_path] = [NEXT_KEY_FILE, NEXT_ROOT_FILE].map(|file| self.dir.join(file));
        let given = read_if_there(&root_path)?;
        let key = match read_key(&key_path)? {
            Some(key) => key,
            None if given.is_some() => {
                return Err(AuthorityError::KeyMissing { key: key_path, root: root_path });
            }
            None => write_new_key(&key_path)?,
        };
        let pem = match given {
            Some(pem) => pem,
            None => self_signed_root(&key, &self.trust_domain, now)?,
        };
        let next = Authority::assemble(&self.trust_domain, key, &pem, &root_path, now)?;
        let mut roots = self.held().bundle.roots.clone();
        roots.retain(|root| root != next.root());
        roots.push(next.root().clone());
        trustable(&roots, &root_path)?;
        self.keep_until(now)?;
        self.write_roots(&roots)?;
        remove(&root_path)?;
        remove(&self.dir.join(REQUEST_FILE))
    }

    fn replace(&self, now: OffsetDateTime) -> Result<(), AuthorityError> {
        let [key, next, previous] =
            [KEY_FILE, NEXT_KEY_FILE, PREVIOUS_KEY_FILE].map(|file| self.dir.join(file));
        let old = read_if_there(&key)?.unwrap_or_default();
        self.keep_until(now)?;
        write(&previous, old.as_bytes(), Secrecy::Private)?;
        std::fs::rename(&next, &key).map_err(|source| AuthorityError::Io { path: next, source })
    }

    fn drop_old(&self) -> Result<(), AuthorityError> {
        let held = self.held();
        let mut roots = held.bundle.roots.clone();
        roots.retain(|root| root != held.serving.root());
        self.write_roots(&roots)?;
        remove(&self.dir.join(PREVIOUS_KEY_FILE))?;
        remove(&self.dir.join(STEP_FILE))
    }

    /// Leaves that were issued until now have ended by then.
    fn keep_until(&self, now: OffsetDateTime) -> Result<(), AuthorityError> {
        let until = now + self.leaf_ttl;
        let step = StepFile { until_unix_s: until.unix_timestamp() };
        let text = serde_json::to_vec(&step).unwrap_or_default();
        write(&self.dir.join(STEP_FILE), &text, Secrecy::Public)
    }

    fn write_roots(&self, roots: &[CertificateDer<'static>]) -> Result<(), AuthorityError> {
        write_roots(&self.dir, roots)
    }

    fn read(
        dir: &Path,
        trust_domain: &str,
        leaf_ttl: Duration,
        now: OffsetDateTime,
    ) -> Result<Held, AuthorityError> {
        let issuing = Arc::new(Authority::open(dir, trust_domain, now)?);
        let root_path = dir.join(ROOT_FILE);
        let pem = read_if_there(&root_path)?.unwrap_or_default();
        let unreadable = |why| AuthorityError::RootUnreadable { path: root_path.clone(), why };
        let mut roots = certificates(pem.as_bytes()).map_err(unreadable)?;
        roots.retain(|root| root != issuing.root() && not_after(root).is_none_or(|end| end > now));
        roots.insert(0, issuing.root().clone());
        trustable(&roots, &root_path)?;

        let of_key = |file: &str| -> Result<Option<Arc<Authority>>, AuthorityError> {
            let Some(key) = read_key(&dir.join(file))? else { return Ok(None) };
            // A key whose root is not among those believed is left from a step that was not finished.
            Ok(Authority::assemble(trust_domain, key, &pem, &root_path, now).ok().map(Arc::new))
        };
        let next = of_key(NEXT_KEY_FILE)?;
        let previous = of_key(PREVIOUS_KEY_FILE)?.filter(|old| old.root() != issuing.root());
        let (step, serving) = match (next, previous) {
            (Some(_), _) => (Step::Introduced, Arc::clone(&issuing)),
            (None, Some(old)) => (Step::Replaced, old),
            (None, None) => (Step::Steady, Arc::clone(&issuing)),
        };
        if step != Step::Introduced {
            // The issuing root stands first, where earlier versions look for it.
            write_roots(dir, &roots)?;
        }
        let until = (step != Step::Steady).then(|| step_end(dir).unwrap_or(now + leaf_ttl));
        Ok(Held { step, issuing, serving, bundle: Arc::new(Bundle::new(roots)), until })
    }
}

fn step_end(dir: &Path) -> Option<OffsetDateTime> {
    let text = std::fs::read(dir.join(STEP_FILE)).ok()?;
    let step: StepFile = serde_json::from_slice(&text).ok()?;
    OffsetDateTime::from_unix_timestamp(step.until_unix_s).ok()
}

fn write_roots(dir: &Path, roots: &[CertificateDer<'static>]) -> Result<(), AuthorityError> {
    let path = dir.join(ROOT_FILE);
    let text: String =
        roots.iter().map(|root| pem::encode(&pem::Pem::new("CERTIFICATE", root.to_vec()))).collect();
    if read_if_there(&path)?.as_deref() == Some(&text) {
        return Ok(());
    }
    write(&path, text.as_bytes(), Secrecy::Public)
}

fn trustable(roots: &[CertificateDer<'static>], path: &Path) -> Result<(), AuthorityError> {
    let bundle = Bundle::new(roots.to_vec());
    bundle
        .store()
        .map(drop)
        .map_err(|error| AuthorityError::Untrustable { path: path.to_owned(), why: error.to_string() })
}

/// When a certificate ends.
pub(super) fn not_after(root: &CertificateDer<'_>) -> Option<OffsetDateTime> {
    X509Certificate::from_der(root).ok().map(|(_, parsed)| parsed.validity().not_after.to_datetime())
}

fn remove(path: &Path) -> Result<(), AuthorityError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(AuthorityError::Io { path: path.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-21 09:00 UTC);
    const DAY: Duration = Duration::from_secs(86_400);
    const DOMAIN: &str = "cluster.local";

    fn open(dir: &Path, now: OffsetDateTime) -> Roots {
        Roots::open(dir, DOMAIN, DAY, now).unwrap()
    }

    /// Step, number of roots, and which of `roots` issues and which vouches for the control plane.
    fn state(roots: &Roots, known: &[CertificateDer<'static>]) -> (Step, usize, usize, usize) {
        let held = roots.held();
        let place = |root: &CertificateDer<'_>| known.iter().position(|other| other == root).unwrap_or(99);
        (held.step, held.bundle.roots.len(), place(held.issuing.root()), place(held.serving.root()))
    }

    fn files(dir: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = entries.collect();
        names.sort();
        names
    }

    #[test]
    fn a_root_takes_the_place_of_another_and_a_start_finds_every_step_again() {
        let dir = tempfile::tempdir().unwrap();
        let roots = open(dir.path(), NOW);
        let old = roots.held().issuing.root().clone();
        assert_eq!(roots.advance(NOW, 0).unwrap(), None, "nobody has asked");
        assert!(!roots.is_stirring());

        std::fs::write(dir.path().join(REQUEST_FILE), "").unwrap();
        assert!(roots.is_stirring());
        assert_eq!(roots.advance(NOW, 3).unwrap(), Some(Step::Introduced));
        let new = roots.held().bundle.roots[1].clone();
        let known = [old, new];
        let introduced = (Step::Introduced, 2, 0, 0);
        assert_eq!((state(&roots, &known), state(&open(dir.path(), NOW), &known)), (introduced, introduced));
        let last = NOW + DAY - Duration::from_secs(1);
        assert_eq!(roots.advance(last, 1).unwrap(), None, "one sidecar does not believe it yet");

        assert_eq!(roots.advance(NOW + DAY, 0).unwrap(), Some(Step::Replaced));
        let replaced = (Step::Replaced, 2, 1, 0);
        assert_eq!(
            (state(&roots, &known), state(&open(dir.path(), NOW + DAY), &known)),
            (replaced, replaced)
        );
        assert_eq!(roots.held().bundle.roots[0], known[1], "earlier versions read the first");
        let early = NOW + 2 * DAY - Duration::from_secs(1);
        assert_eq!(roots.advance(early, 0).unwrap(), None, "a leaf of the old root may still live");

        let end = NOW + 2 * DAY;
        assert_eq!(roots.advance(end, 5).unwrap(), Some(Step::Steady));
        let steady = (Step::Steady, 1, 1, 1);
        assert_eq!((state(&roots, &known), state(&open(dir.path(), end), &known)), (steady, steady));
        assert_eq!(files(dir.path()), [KEY_FILE, ROOT_FILE]);
    }

    #[test]
    fn sidecars_that_say_nothing_hold_a_rotation_up_for_the_life_of_a_leaf_alone() {
        let dir = tempfile::tempdir().unwrap();
        let roots = open(dir.path(), NOW);
        std::fs::write(dir.path().join(REQUEST_FILE), "").unwrap();
        roots.advance(NOW, 1).unwrap();
        let until = roots.held().until.unwrap();
        assert_eq!(until, NOW + DAY);
        assert_eq!(roots.advance(until - Duration::from_secs(1), 1).unwrap(), None);
        assert_eq!(roots.advance(until, 1).unwrap(), Some(Step::Replaced));
    }

    /// A root of another authority, as an operator would bring it, in PEM.
    fn brought(uri: &str) -> (String, String) {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let mut wanted = CertificateParams::default();
        wanted.subject_alt_names = vec![rcgen::SanType::URI(uri.try_into().unwrap())];
        wanted.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        (wanted.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn an_operator_may_bring_a_root_of_his_own_and_is_told_what_is_wrong_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let roots = open(dir.path(), NOW);
        let (root, key) = brought("spiffe://cluster.local");
        let put = |root: &str, key: Option<&str>| {
            write(&dir.path().join(NEXT_ROOT_FILE), root.as_bytes(), Secrecy::Public).unwrap();
            if let Some(key) = key {
                write(&dir.path().join(NEXT_KEY_FILE), key.as_bytes(), Secrecy::Private).unwrap();
            }
        };
        for (next_root, next_key, expected) in [
            (&root[..], None, "restore the key"),
            ("nonsense", Some(&key[..]), "is not a usable root certificate"),
            (&root, Some("nonsense"), "is not an ECDSA P-256 key"),
            (&brought("spiffe://other.example").0, Some(&key), "does not belong to the key"),
        ] {
            put(next_root, next_key);
            let error = roots.advance(NOW, 0).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
            assert_eq!(roots.held().step, Step::Steady);
            assert_eq!(roots.held().bundle.roots.len(), 1);
        }
        put(&root, Some(&key));
        assert_eq!(roots.advance(NOW, 0).unwrap(), Some(Step::Introduced));
        assert_eq!(roots.held().bundle.roots[1..], certificates(root.as_bytes()).unwrap());
        assert_eq!(roots.advance(NOW, 0).unwrap(), Some(Step::Replaced));
        assert_eq!(roots.advance(NOW + 2 * DAY, 0).unwrap(), Some(Step::Steady));
        assert_eq!(files(dir.path()), [KEY_FILE, ROOT_FILE]);
    }

    /// Every prefix of the changes that a step makes to files leaves a state that a start can go on from.
    #[test]
    fn a_crash_between_two_files_is_made_good_by_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let roots = open(dir.path(), NOW);
        let old = roots.held().issuing.root().clone();
        let path = |file: &str| dir.path().join(file);
        // The next key is there, its root not yet.
        write_new_key(&path(NEXT_KEY_FILE)).unwrap();
        assert_eq!(state(&open(dir.path(), NOW), std::slice::from_ref(&old)), (Step::Steady, 1, 0, 0));
        std::fs::write(path(REQUEST_FILE), "").unwrap();
        let roots = open(dir.path(), NOW);
        assert_eq!(roots.advance(NOW, 0).unwrap(), Some(Step::Introduced));
        let known = [old, roots.held().bundle.roots[1].clone()];
        // The old key is kept, the next one not yet in its place.
        std::fs::copy(path(KEY_FILE), path(PREVIOUS_KEY_FILE)).unwrap();
        let roots = open(dir.path(), NOW);
        assert_eq!(state(&roots, &known), (Step::Introduced, 2, 0, 0));
        assert_eq!(roots.advance(NOW, 0).unwrap(), Some(Step::Replaced));
        // The old root is out, its key still there.
        write_roots(dir.path(), &known[1..]).unwrap();
        assert_eq!(state(&open(dir.path(), NOW), &known), (Step::Steady, 1, 1, 1));
    }

    #[test]
    fn further_roots_in_the_file_are_believed_too() {
        let dir = tempfile::tempdir().unwrap();
        let own = open(dir.path(), NOW).held().issuing.root().clone();
        let (other, _) = brought("spiffe://cluster.local");
        let other = certificates(other.as_bytes()).unwrap().remove(0);
        write_roots(dir.path(), &[other.clone(), own.clone()]).unwrap();
        let roots = open(dir.path(), NOW);
        assert_eq!(roots.held().step, Step::Steady);
        assert_eq!(roots.held().bundle.roots, [own, other]);
    }
}
