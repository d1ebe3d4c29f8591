//! A certificate, its key and the roots in files, as cert-manager and Kubernetes put them there and replace them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails there, and says why")]

use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use penstock_model::settings::{AccessLog, CertificateFiles};
use penstock_proxy::identity::{Identity, files};
use penstock_proxy::telemetry::Telemetry;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use serde_json::Value;
use tempfile::TempDir;
use time::OffsetDateTime;

const WEB: &str = "spiffe://mesh.test/ns/default/sa/web";

#[expect(clippy::disallowed_methods, reason = "certificates are made for the clock of this machine")]
fn from_now(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::from(std::time::SystemTime::now()) + time::Duration::seconds(seconds)
}

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// Chain and key for this id, good for so many seconds.
    fn leaf(&self, id: &str, seconds: i64) -> (String, String) {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        (params.not_before, params.not_after) = (from_now(-60), from_now(seconds));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

/// A volume as Kubernetes makes it: files are links into `..data`, which is a link that is swapped as one.
struct Volume {
    dir: TempDir,
    versions: u32,
}

impl Volume {
    fn with(chain: &str, key: &str, bundle: &str) -> Self {
        let mut volume = Self { dir: tempfile::tempdir().unwrap(), versions: 0 };
        for file in ["tls.crt", "tls.key", "ca.crt"] {
            symlink(Path::new("..data").join(file), volume.dir.path().join(file)).unwrap();
        }
        volume.swap(chain, key, bundle);
        volume
    }

    fn swap(&mut self, chain: &str, key: &str, bundle: &str) {
        self.versions += 1;
        let version = format!("..{}", self.versions);
        let dir = self.dir.path().join(&version);
        std::fs::create_dir(&dir).unwrap();
        for (file, text) in [("tls.crt", chain), ("tls.key", key), ("ca.crt", bundle)] {
            std::fs::write(dir.join(file), text).unwrap();
        }
        let fresh = self.dir.path().join("..fresh");
        symlink(version, &fresh).unwrap();
        std::fs::rename(fresh, self.dir.path().join("..data")).unwrap();
    }

    fn files(&self) -> CertificateFiles {
        let path = |file: &str| self.dir.path().join(file);
        CertificateFiles { chain: path("tls.crt"), key: path("tls.key"), trust_bundle: path("ca.crt") }
    }
}

/// Follows the files of a volume while `test` goes on.
async fn followed(volume: Volume, test: impl AsyncFnOnce(Volume, &Watched)) {
    let watched = Watched { identity: Identity::new(), telemetry: Telemetry::new(&AccessLog::Off).unwrap() };
    let (identity, telemetry) = (Arc::clone(&watched.identity), Arc::clone(&watched.telemetry));
    let follow = files::run(volume.files(), WEB.parse().unwrap(), identity, telemetry);
    tokio::select! {
        () = follow => panic!("it does not end"),
        () = test(volume, &watched) => {}
    }
}

struct Watched {
    identity: Arc<Identity>,
    telemetry: Arc<Telemetry>,
}

impl Watched {
    async fn until(&self, what: &str, wish: impl Fn(&Value) -> bool) -> Value {
        let wished = async {
            loop {
                let status = self.identity.status();
                if wish(&status) {
                    return status;
                }
                tokio::task::yield_now().await;
            }
        };
        let outcome = tokio::time::timeout(Duration::from_secs(60), wished).await;
        outcome.unwrap_or_else(|_| panic!("{what}: {:#}", self.identity.status()))
    }

    fn refreshes(&self, result: &str) -> u64 {
        self.telemetry.metrics.certificate_refreshes.with_label_values(&[result]).get()
    }
}

#[tokio::test]
async fn a_swap_of_the_files_is_taken_up_and_both_roots_are_believed_while_there_are_two() {
    let (old, new) = (Authority::new(), Authority::new());
    let (chain, key) = old.leaf(WEB, 1_000);
    let volume = Volume::with(&chain, &key, &old.pem);
    followed(volume, async |mut volume, watched| {
        let first = watched.until("the first certificate", |status| status["ready"] == true).await;
        assert_eq!(first["roots"].as_array().unwrap().len(), 1);
        let both = format!("{}{}", old.pem, new.pem);
        let (chain, key) = new.leaf(WEB, 2_000);
        volume.swap(&chain, &key, &both);
        let second =
            watched.until("the second", |s| s["notAfterUnixSeconds"] != first["notAfterUnixSeconds"]).await;
        assert_eq!(second["roots"].as_array().unwrap().len(), 2);
        volume.swap(&chain, &key, &new.pem);
        watched.until("the old root is gone", |s| s["roots"].as_array().unwrap().len() == 1).await;
        assert_eq!((watched.refreshes("success"), watched.refreshes("failure")), (3, 0));
    })
    .await;
}

#[tokio::test]
async fn files_that_do_not_fit_together_are_refused_with_the_reason_and_what_was_in_use_stays() {
    let (own, other) = (Authority::new(), Authority::new());
    let (chain, key) = own.leaf(WEB, 1_000);
    let (_, other_key) = own.leaf(WEB, 1_000);
    let (expired, expired_key) = own.leaf(WEB, -1);
    let (db, db_key) = own.leaf("spiffe://mesh.test/ns/default/sa/db", 1_000);
    let (abroad, abroad_key) = own.leaf("spiffe://other.test/ns/default/sa/web", 1_000);
    let volume = Volume::with(&chain, &key, &own.pem);
    followed(volume, async |mut volume, watched| {
        let good = watched.until("a good certificate", |status| status["ready"] == true).await;
        let cases: [(&str, &str, &str, &str); 9] = [
            (&chain, &other_key, &own.pem, "does not belong to the certificate"),
            (&chain, &key, &other.pem, "issuer is not in the trust bundle"),
            (&expired, &expired_key, &own.pem, "the certificate has expired"),
            (&db, &db_key, &own.pem, "is for spiffe://mesh.test/ns/default/sa/db instead of"),
            (&abroad, &abroad_key, &own.pem, "is not of the trust domain"),
            ("", &key, &own.pem, "tls.crt holds no certificate"),
            (&chain, "nonsense", &own.pem, "is not a private key in PEM"),
            (&chain, &key, "nonsense", "ca.crt holds no certificate"),
            (&own.pem, &key, &own.pem, "would be refused by peers"),
        ];
        for (number, (chain, key, bundle, expected)) in (1..).zip(cases) {
            volume.swap(chain, key, bundle);
            let told =
                |status: &Value| status["lastError"].as_str().is_some_and(|why| why.contains(expected));
            let status = watched.until(expected, told).await;
            for kept in ["ready", "notAfterUnixSeconds", "roots"] {
                assert_eq!(status[kept], good[kept], "{expected}");
            }
            assert_eq!(watched.refreshes("failure"), number, "{expected}");
        }
        std::fs::remove_file(volume.dir.path().join("tls.key")).unwrap();
        watched
            .until("a file is missing", |s| {
                s["lastError"].as_str().is_some_and(|e| e.contains("cannot be read"))
            })
            .await;
        symlink("..data/tls.key", volume.dir.path().join("tls.key")).unwrap();
        volume.swap(&chain, &key, &own.pem);
        watched.until("all is well", |status| status["lastError"] == Value::Null).await;
        assert!(watched.identity.is_ready());
    })
    .await;
}
