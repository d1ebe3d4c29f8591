//! An authority and two certificates, for the peers: ours get theirs from the control plane.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

/// Who the proxy beside the caller is.
pub(crate) const CALLER: &str = "spiffe://cluster.local/ns/bench/sa/caller";
/// Who the proxy beside the server is.
pub(crate) const SERVER: &str = "spiffe://cluster.local/ns/bench/sa/server";
/// A DNS name that both have as well: nginx compares nothing else.
pub(crate) const NAME: &str = "peer.bench";

/// The files of one side.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    pub(crate) root: PathBuf,
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    /// Certificate and key in one.
    pub(crate) both: PathBuf,
}

/// The files of both sides.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    pub(crate) caller: Files,
    pub(crate) server: Files,
}

impl Pair {
    /// Makes them in `dir`.
    pub(crate) fn make(dir: &Path) -> anyhow::Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(DnType::CommonName, "root");
        let key = KeyPair::generate()?;
        let root = dir.join("root.pem");
        std::fs::write(&root, params.self_signed(&key)?.pem())?;
        let authority = Issuer::new(params, key);
        let leaf = |name: &str, id: &str| leaf(dir, &root, &authority, name, id);
        Ok(Self { caller: leaf("caller", CALLER)?, server: leaf("server", SERVER)? })
    }
}

fn leaf(
    dir: &Path,
    root: &Path,
    authority: &Issuer<'_, KeyPair>,
    name: &str,
    id: &str,
) -> anyhow::Result<Files> {
    let mut params = CertificateParams::default();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // A leaf of its issuer's name would pass for a root that signed itself.
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names = vec![SanType::URI(id.try_into()?), SanType::DnsName(NAME.try_into()?)];
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, authority)?.pem();
    let path = |extension: &str| dir.join(format!("{name}.{extension}"));
    let files =
        Files { root: root.to_owned(), certificate: path("crt"), key: path("key"), both: path("pem") };
    std::fs::write(&files.certificate, &certificate)?;
    std::fs::write(&files.key, key.serialize_pem())?;
    std::fs::write(&files.both, format!("{certificate}{}", key.serialize_pem()))?;
    Ok(files)
}
